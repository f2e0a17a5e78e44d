import json
import math
import struct
import time

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mmsb_torch.errors import CorruptStoreError, MMSBError, UnsupportedError
from mmsb_torch.runtime.store import read_tensors, write_tensors

GOOD = '"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}'


def entry(**changes):
    return json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2], **changes}})


def write_raw(path, header, data=b"ab", length=None):
    raw = header if isinstance(header, bytes) else header.encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def test_white_space_and_order_of_keys_are_free(tmp_path):
    header = ' {"b" : {"data_offsets":[ 1 , 2 ],\n"shape" : [ ] , "dtype": "BOOL"} ,\t"a":'.lstrip()
    header += '{"shape":[1,1],"data_offsets":[0,1],"dtype":"U8"}, "__metadata__" : {"k" : "v"} }  '
    tensors, metadata = read_tensors(write_raw(tmp_path / "f", header, b"\x07\x01"))
    assert tensors["a"].tolist() == [[7]]
    assert tensors["b"].item() is True
    assert list(tensors) == ["b", "a"]
    assert metadata == {"k": "v"}


def test_escapes(tmp_path):
    header = '{"\\u00e9\\n\\"\\ud83d\\ude00":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    assert list(read_tensors(write_raw(tmp_path / "f", header))[0]) == ['é\n"😀']


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "null",
        "{" + GOOD,
        "{" + GOOD + ",}",
        "{" + GOOD + "}x",
        "{" + GOOD + "}\n",
        " {" + GOOD + "}}",
        "{" + GOOD + "," + GOOD + "}",
        '{"a":{}}',
        '{"a":{"dtype":"U8"}}',
        '{"a":{"dtype":"U8","dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"more":1}}',
        '{"__metadata__":{"a":1},' + GOOD + "}",
        '{"__metadata__":{"a":"1","a":"1"},' + GOOD + "}",
        '{"__metadata__":{},"__metadata__":{},' + GOOD + "}",
        '{"a\\x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        '{"\\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        '{"\\u00zz":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        '{"\x01":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        b'{"\xff":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
        entry(shape=[3]),
        entry(shape=[-2]),
        entry(shape=[2.0]),
        entry(shape=[True, 2]),
        entry(shape=["2"]),
        entry(shape=2),
        entry(shape=[2, 0]),
        entry(shape=[10**18] * 5),
        entry(shape=[1 << 32, 1 << 32]),
        entry(shape=[10**30]),
        entry(data_offsets=[0, 1]),
        entry(data_offsets=[0, 3], shape=[3]),
        entry(data_offsets=[1, 2], shape=[1]),
        entry(data_offsets=[2, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=[0, 2, 2]),
        entry(data_offsets=[-1, 2], shape=[3]),
        entry(data_offsets=[0, 18446744073709551617]),
        entry(dtype="u8"),
        entry(dtype=8),
        entry(dtype="F16"),
        "{" + GOOD + "," + GOOD.replace('"a"', '"b"') + "}",
        '{"__metadata__":{"mmsb.dtypes":"[]"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"b\\":\\"bits8\\"}"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":1}"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":\\"bits16\\"}"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":\\"complex32\\"}"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":\\"bits8\\",\\"a\\":\\"bits8\\"}"},' + GOOD + "}",
    ],
)
def test_bad_headers(tmp_path, header):
    with pytest.raises(CorruptStoreError, match=r"'.*f'"):
        read_tensors(write_raw(tmp_path / "f", header))


def test_an_empty_tensor_of_an_impossible_shape(tmp_path):
    header = entry(shape=[0, 9999999999999999999], data_offsets=[0, 0])
    with pytest.raises(CorruptStoreError, match="impossible shape"):
        read_tensors(write_raw(tmp_path / "f", header, b""))


@pytest.mark.parametrize("data", [b"", b"\0" * 7])
def test_shorter_than_a_length(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(CorruptStoreError, match="at least 8 bytes"):
        read_tensors(tmp_path / "f")


def test_more_tensors_than_a_file_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr("mmsb_torch.runtime.store.header.MAX_TENSORS", 1)
    header = "{" + GOOD + "," + GOOD.replace('"a"', '"b"') + "}"
    with pytest.raises(CorruptStoreError, match="more than 1 tensors"):
        read_tensors(write_raw(tmp_path / "f", header))


@pytest.mark.parametrize(
    "header",
    [
        entry(dtype="F4", shape=[4]),
        entry(dtype="F128"),
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":\\"int9\\"}"},' + GOOD + "}",
        '{"__metadata__":{"mmsb.dtypes":"{\\"a\\":\\"float32\\"}"},' + GOOD + "}",
    ],
)
def test_dtypes_that_torch_cannot_hold(tmp_path, header):
    with pytest.raises(UnsupportedError):
        read_tensors(write_raw(tmp_path / "f", header))


def test_a_foreign_float8_e8m0_is_read(tmp_path):
    tensors, _ = read_tensors(write_raw(tmp_path / "f", entry(dtype="F8_E8M0")))
    assert tensors["a"].dtype == torch.float8_e8m0fnu


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 10**9, (32 << 20) + 1, 57])
def test_the_length_of_the_header_is_not_trusted(tmp_path, length):
    path = write_raw(tmp_path / "f", "{" + GOOD + "}", length=length)
    with pytest.raises(CorruptStoreError):
        read_tensors(path)


def test_a_header_of_permitted_length_but_beyond_the_limit(tmp_path):
    path = write_raw(tmp_path / "f", b"{}" + b" " * (32 << 20), b"")
    with pytest.raises(CorruptStoreError, match="at most 33554432"):
        read_tensors(path)


@pytest.mark.parametrize(
    "header",
    [
        "[" * 1_000_000,
        '{"a":' * 300_000,
        entry(shape=[9] * 300_000),
        entry(shape=[1] * 300_000),
        '{"' + "\\" * 1_000_001 + '":1}',
        '{"__metadata__":{' + ",".join(f'"{n}":"{n}"' for n in range(50_000)),
        "{" + ",".join(f'"{n}":{{}}' for n in range(50_000)) + "}",
        '{"__metadata__":{"mmsb.dtypes":"' + "[" * 1_000_000 + '"},' + GOOD + "}",
    ],
    ids=range(8),
)
def test_hostile_headers_are_refused_fast(tmp_path, header):
    path = write_raw(tmp_path / "f", header)
    begin = time.process_time()
    with pytest.raises(CorruptStoreError):
        read_tensors(path)
    assert time.process_time() - begin < 10


@given(
    where=st.floats(0, 1, exclude_max=True),
    old=st.integers(0, 3),
    new=st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b"1", b"\\"]),
)
@example(0.5, 1, b"")
def test_what_is_accepted_after_damage_is_accepted_by_safetensors_alike(
    tmp_path_factory, kit, where, old, new
):
    tensors = {"a": torch.arange(6.0).view(2, 3), "bé": torch.zeros(0), "c": torch.tensor(True)}
    folder = tmp_path_factory.mktemp("fuzz")
    write_tensors(folder / "a", tensors, {"k": "v"}, kit.FastFiles())
    raw = bytearray((folder / "a").read_bytes())
    at = math.floor(where * len(raw))
    raw[at : at + old] = new
    (folder / "b").write_bytes(raw)
    try:
        found, _ = read_tensors(folder / "b")
    except MMSBError:
        return
    theirs = load_file(folder / "b")
    kit.assert_same({name: theirs[name] for name in found}, found)
