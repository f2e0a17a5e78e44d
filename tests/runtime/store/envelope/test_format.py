"""Version 1 of the format stays what it is; what is damaged, foreign or newer is refused."""

import base64
import json
import zlib

import pytest
import safetensors.torch
import torch

from mmsb_torch.device import pack_mask, same_bits
from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.contents import read, write
from mmsb_torch.runtime.store.envelope import HEADER_BYTES, MAX_NBYTES, Kind

GOLDEN = {
    "page": (
        "eNptUr1Ow0AMDjxJdXOE2oQi1KVSByYqhgoJKYmiS+JAxOVHuUsEVAGeghHECzAyV+IB2HkQBiZ8TqJCW2e4z599"
        "X2yf5/PFbHZ6Ntsz9GcYF/sGWX9u2ufP9+I5+pq/vt+dT9/un467vCXz/RQUj7jivs8mS5amMjjIC8kmbOmyGkqZ"
        "5JnLJiPTZeoGwVCDJAU/k+iN0RM8AIE4q4RAVyoo1l6vjgzqRVAmNUToxFxIwHjBw+s10SATlsAVUQ7eSDSwkc54"
        "CghdBmkwcN1qOIxil2EgUrdFG4lFzpVtESuvOLGOZdqezoI6Cdu0sKgo5X9pVZYoCpN2MKYU3bkzMnUv3p/aut6b"
        "VlgoLrtqyemGVPBL6GoPuNTwaGt0Mq/KviqSpr/GeZkSx4XY3czOlmsuKpDbM2q8hjUmcR8v+o3pOj7wiW0xsxXv"
        "tRltQh7HEhTugDM0rUOvaQYbZhirKa7PI54P3Yqt9B7+AlwwxL0="
    ),
    "derived page": (
        "eNptUbFOhEAQ5e5LzNbkcmcMJlcZCisvFjYmByEDDIruAmEXoiH7F36LvfEL/AJrewsbE4cBcnfmhoL33u68mdnZ"
        "bG58/+ranzn95zjzucMx/f+HXHy9n3/+PhSv3x8vt+Hbz2zQOxFFCg2kYCCKxLoTSul4UVZarEUXiBZrnZdFINYr"
        "NxDmicCyB7nCqNDEPGISYpSEi0ZKotpgtWOTOynkl2Kdt5gSMXWDdFxB8sg8A6nRkpLUCIalLSXkPTgjuQCFBMm+"
        "UYEgITXP1aDEmSzBrDyW9T2wvA37O9jmyXApqRo+3+9nr9w4jR2ypAE9NsBkHLuCOxzbiUHj9CoHj6HLpp5KsjVX"
        "zcpasQZSHmnz+CgtyAb1bmgbWmHdHveL4iTakn+58oQ7GLKf4GWWWabR0Bq3S/c0tPbkMC7+AAJBr9w="
    ),
    "sparse page": (
        "eNqFUsFOg0AQRT/Aiz9g9kwaME3T9IiJidHGg8dCyBQGJe4CYResaYhHr/6BB/9Dj/6Ax/6ANz/BYVksMTUOB2be"
        "vnkzszvz+ZXnXVx6e1b7WdbTvqWt//+254f3F3h9/PBODsT55vBzZXhrFoYCFcSgIAzZbM2EkMtRXkg2Y2uf1VjK"
        "NM98NnNtn6kVOU7rpALDTJqIwxI5+VnFOYVSYbGNenVCSC/GMq0xpiABLpHOC4hut0BDSFQiKA0tKCONTfEMBJLr"
        "swTvfEZArO4Lg/Ac1GSsUXkDGl0cO7brBC0P6zTqiFFRadKwqUFJM1LTZXEF0jShAzNtAddoWlqCxJ03IvOq7Etq"
        "aV01yUuhMeQoMFPyr4Z3DlYDr1D2NzDqQzpJsxhXPwdb8SZoWGMP2O37anF63NPJmNldcartBjbTO5AniURFzIVj"
        "TwOT3UsO88/+y5/a7iRomqOd1m3f1xsz+/kNeMLYGw=="
    ),
    "packed page": (
        "eNplUbFOw0AMTYGFkS8Abg6oVQeqSgx0Q6JiQExNFDmJA6GXXJS7RKDqfoARMfIDzOxMfA4fwIjjJKItzpD3Xuxn"
        "O57Pb2azq+vZwGkex9ndcTj693Z8XTyff78+HB5/vou3j/2Dn0Grr0QQZGggBgNBIKYrkWU6PFWFFlOx8kSNpU5V"
        "7onpyPWEeSQwbECaYZDrjkkIURLOKymJaoPFH+vdSSG/GMu0xphIAlIjfS8gWrJgygotCVGJYFhZUEEad71zyJAg"
        "GYJeeoKU2DwVrRQqJVnS98DSYuye+U0K1mnU5kRFxSnr86y167axbZU0oLsBmHSLFnCH3Tgh6AaejP79Da2qsu/J"
        "3tw2UWXGGsjtUf2NXao0NxPOqEFWqNd2tr4V1mXSXIpr6Ey3E+G2dq2b4GOqJNFo6IyLoTv2rT3aiMuXvV+AnK0q"
    ),
    "delta": (
        "eNqVUc1Kw0AQ3hZfwItnWTyG0pDS1h6D1KotHkQ8JCFsmokGNj9kN7UlBPoMPoYv4Ft4t0/i0dlNS1s9OZf9vm9m"
        "vg9mZ7MH257e2y3SJi1CyGmb6Nq9v+viarX5OrtO08n758fm9em71egV9f0EJAuZZL5PRxVNEhF0slzQEa1cuoBC"
        "xFnq0pFpuFQuEXQViBPwU7FlnAXAEacl50iFhHzPdu6oVDXyeQFMQojU8ZCGwCVTRk61JYgvsZGzZ0BoIQyYUHBw"
        "FDxUSVlZzFXLpaWAwqWoRVmRaCWIpdCKeGG5GnIsY6Aj5SpvliKeMWn29dSC8RKEllX0udXZKdiM0xCWh73GvPZq"
        "WhvH8+qGOgEPODb71GjyMR7Dqb5zFkUCJE46XcPseXsH5Xq4/zg8WLf+rps9wxx4dX3+78Kvt8l4PSG367v19Obt"
        "5AfDZag+"
    ),
    "transaction": (
        "eNp9k91q2zAUx+2mL7G7IGiv1GA7SuhyUwhjMNayi7Kr2Bg5lleD/IElZSnBdFd7jb1AH2KwPUTfYbBn6JEcE6sp"
        "1YWl8+H/+R193NzcLpfXX5auM3Jcx3EeR44Z/fxyqM/uh5/v/v89/3f69BTdnW33eTsUxwWTNKWSxjFa7FBRiGRS"
        "1QIt0C5EG9aIvCpDtPBxiORWLwK9ygsWl0KbUzA5TRgHI0RhqDyPva/NnM1DBFEhWQ1B/V9fC0xQ5w3M3sRvIbJu"
        "GJUsBccKIrleaOWSFswIsyIZG9E0M6KpvK+7SMYrKqdBV+qOGu8qwNNIZ7FNvu7S1rUyKTaCKnN5AE9mJkX3u/Jx"
        "qTiPBmxdw7O2E+aSij2tMfReeBCp6Te2h0+o0MsL394xokEr1fRgRt0UzqqmMD7K+ev9vNr1hnLFxPE2tXgI5x/g"
        "yAFuZrPNbDYlWGOTNdV3YaMRHNhoKi/l5UswXXlMJr0HgnmZsu0w1km3UQvgppE/v/SNNMJwHT9OA4S7sv2GIHNv"
        "qywTTAp9ZnNMPDgyu9pQ5OulpREcaxAPEzLQ0FRDhU9zMpQ4FvCwP4/advzWcPfv8vBcf1/B5wfMD71D57gno9Nn"
        "zvsh7Q=="
    ),
    "event": (
        "eNrz9Q12cvLxd2JkYGFgZGBgsGGAABiNDoReZorzTJ5XYyJ/wWniLbOHTAJQCX0grlbKSUxKzVGyUsgrzcnRUVAq"
        "SExPBfKUUnOTFGJKDQxS0pSAoiUVQDFDo1oAkNQXzQ=="
    ),
    "tensor": (
        "eNp1UktOwzAQTZG4B/I6oKYgVHWD1AUrKhZskJoquMkEIuzYip2oqDJwBMQBWHCSSmx7DNaAOAETx1E/gDcz8+b3"
        "xjOj0cVweHY+7Hi7XsfzvKsdz75Wbr/37+Xly/1r8PaweJp9fjz3XdycRBEHTROqaRSRwZxwrqYHQioyIPOQVFCo"
        "TOQhGQR+SPQMlW6tZByiXDmL0Skw1POSMTSVBrmy2uqIYL0EiqyCBI2UMgXolzS+XQEGkbgAqi00xowscV1yygFV"
        "bA65EkVIEEv0nWzAWHDJYBb0+tahbqh1jHuTOgyqLHZxsrQB67TWmrqhTJPFNFWOhjUcE0mvwalTqmp1P/j1KUqU"
        "RdvT1rZtU1Fwi1HG/iL63zwVZSWojfHNxBC/WZdNcxtr3Vs1DDG+89VbthmYcHp8hEUsiZqDjyyIvQWRpgo01hx3"
        "/cPexJi9jddcz9eJO6+Fk4+t/AHWUchU"
    ),
}
ZSTD = (
    "TU1TQkJMT0IBAAUBAgAAANQCAAAAAAAAsBkAAAAAAAAAAAAAAAAAAAAAAAAAAAAAnH++VDIPrb9OmCstuKrG+yi1"
    "L/1gsBisDwB2HncjENiaDgzDMAyD2xYkTW7fvfMyIvcmN9q2YFEaabHtg6RJHRJTAFgAfgCtY4yzj7/6/XOIfkny"
    "7q9SfPyd6vfX7eMH1f3+ezlHdz6/qPH9fK6fU5+jQxb9+xvdQP2p8H7GPt5X88/H+/t3rv7Y4buvbxrYurnRDTRb"
    "nU4HFwsUJEBwwEABAgMEBACgcyuWZI+8OvuCGHtJ8m7GeuzF3UxEWw+qe/TSWZ39fk6H7739e8/E1O+zvveMWb9/"
    "CvWTrk3g/t19PfekZ5y9vY9T9EvStZkx62NiwoD54qULly1aillaLMQrVobCrdkqa1AFplSm/KRE8WX0nMNQzCfl"
    "yzlpwmSJkiRIjhgpQmSIkCBAfviI68Fjh44cOG7YqEFjhowYMO4LOBe9Fix4K3akircUI4oTJkqQGCEiBAj/4Oah"
    "A4cNGjJguGChAoUJEiJAeOCgAYPbtGXDds1aNWrTpEWD9sxZM2bLlCVDdsxYMWLDhAUD9stXL167dOXCdctWLVqz"
    "ZMWC9cpVK1arVKVCdcpUKVKjRIUC9clTJ06bNGXCdMlSJUqTJEWC9MhRI0aLFCVCdMhQIUKDBAUC9MdPHz579OTB"
    "c8dOHTpz5MSB88ZNGzZr1KRBc8ZMGTJjAgYAALUaWP48nIHLgl8HTIOxCr9rKGV8BgDTyRwKEiA4YKAAgQECAgDQ"
    "uZHkKOdb+8yNrlLcd+7r9svq7MViUQtxit+BQR9/5/M9s8EUUdYnHafoy7ne2cfifdWF53v+ZR9JUs4z1kD1SUe9"
    "vU8F+/jLvm4fU9XTuZT0Kz7eD+rs7dXBOaBfE2OcTdfpdAECHQA0QAkfUMcHFOMDSviAOj6gGB9QwgfU8QHF+IAS"
    "PqAuH0dhbYLwCE8ErMLhQ4VtZ9gsWWG5wAkzUxQOsKQwrxyhAV2EiaGEDYwTCpEmvANJOEDlIqNIQCcBAAA="
)


def test_version_1_stays_what_it_is(name, kit):
    golden = zlib.decompress(base64.b64decode(GOLDEN[name]))
    assert kit.raw_of(name) == golden
    kit.assert_same_content(read(golden, kit.SAMPLES[name][2], MAX_NBYTES), kit.SAMPLES[name][0])


def test_what_was_compressed_in_version_1_is_read():
    golden = base64.b64decode(ZSTD)
    assert golden[11:13] == b"\1\2"
    found = read(golden, Kind.TENSOR, MAX_NBYTES)
    assert torch.equal(found, torch.arange(3000, dtype=torch.int16))


def test_the_body_is_a_safetensors_file(holder, kit):
    raw = kit.raw_of(holder)
    found = safetensors.torch.load(raw[HEADER_BYTES:])
    if holder == "page":
        assert same_bits(found["emb ß"], kit.VALUE)
    if holder == "delta":
        assert found["page 3.values"].tolist() == [0, 3, 6, 9, 12, 15, 18]
        assert torch.equal(found["page 3.bits"], pack_mask(kit.MASK))
    if holder == "tensor":
        assert torch.equal(torch.view_as_complex(found["tensor"]), kit.SAMPLES[holder][0])
    length = int.from_bytes(raw[HEADER_BYTES : HEADER_BYTES + 8], "little")
    header = json.loads(raw[HEADER_BYTES + 8 : HEADER_BYTES + 8 + length])
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    assert len(ops["deltas"]) == (2 if holder == "transaction" else 1)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_cut_anywhere_it_is_refused(name, codec, kit):
    content, sparse, _ = kit.SAMPLES[name]
    raw = write(content, codec, sparse=sparse)
    for stop in range(len(raw)):
        with pytest.raises(SerializationError):
            read(raw[:stop], None, MAX_NBYTES)
    for more in (b"\0", b" ", raw):
        with pytest.raises(CorruptStoreError, match="cut or run on"):
            read(raw + more, None, MAX_NBYTES)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_any_flipped_bit_is_noticed(name, codec, kit):
    content, sparse, _ = kit.SAMPLES[name]
    raw = bytearray(write(content, codec, sparse=sparse))
    for position in range(len(raw)):
        for bit in range(8):
            raw[position] ^= 1 << bit
            with pytest.raises((SerializationError, UnsupportedError)):
                read(raw, None, MAX_NBYTES)
            raw[position] ^= 1 << bit
    read(raw, None, MAX_NBYTES)


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"version": 2}, UnsupportedError, "format version 2, this mmsb_torch knows 1.*newer"),
        ({"version": 0}, UnsupportedError, "version 0"),
        ({"kind": 0}, UnsupportedError, "kind 0"),
        ({"kind": 99}, UnsupportedError, "kind 99"),
        ({"codec": 7}, UnsupportedError, "codec 7"),
        ({"width": 4}, UnsupportedError, "width 4"),
        ({"zero": 1}, UnsupportedError, "features"),
        ({"zeros": 1}, UnsupportedError, "features"),
        ({"size": 1 << 63}, CorruptStoreError, "cut or run on"),
        ({"nbytes": 1 << 63}, CorruptStoreError, "expected a body of"),
        ({"codec": 1}, CorruptStoreError, "no whole zstd frame"),
        (
            {"codec": 1, "nbytes": 1 << 63},
            SerializationError,
            "pass max_nbytes=9223372036854775808",
        ),
        ({"kind": 4}, CorruptStoreError, "no event"),
        ({"kind": 2}, CorruptStoreError, "delta with 1 pages created"),
    ],
    ids=str,
)
def test_a_header_is_believed_only_as_far_as_it_is_known(fields, error, said, kit):
    raw = kit.raw_of("page")
    assert kit.resealed(raw) == raw
    with pytest.raises(error, match=said) as caught:
        read(kit.resealed(raw, **fields), None, MAX_NBYTES)
    assert str(caught.value).startswith("these bytes")


@pytest.mark.parametrize(
    "raw", [b"", b"PK\3\4" + bytes(100), b"MMSBTLOG" + bytes(100), "text", None]
)
def test_foreign_bytes_are_told_apart(raw):
    with pytest.raises(SerializationError):
        read(raw, None, MAX_NBYTES)


def test_bytes_with_gaps_are_refused(kit):
    with pytest.raises(SerializationError, match="memoryview"):
        read(memoryview(kit.raw_of("page"))[::2], None, MAX_NBYTES)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("expected", Kind)
def test_another_kind_is_refused(name, expected, kit):
    kind = kit.SAMPLES[name][2]
    if kind is expected:
        kit.assert_same_content(read(kit.raw_of(name), expected, MAX_NBYTES), kit.SAMPLES[name][0])
        return
    with pytest.raises(SerializationError, match=f"expected an? {expected.name.lower()}"):
        read(kit.raw_of(name), expected, MAX_NBYTES)
