"""Bytes made smaller and given back: the rule that chooses, and what hostile bytes cannot do."""

import contextlib
import sys

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from mmsb_torch.device import pack_mask
from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.codecs import (
    BLOCK,
    PLAIN,
    Codec,
    choose,
    compressed,
    pack,
    unpack,
)

WIDTHS = (1, 2, 4, 8)


def octets(tensor):
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


NORMAL = octets(torch.randn(1 << 17, generator=noise()))
RANDOM = octets(torch.randint(0, 256, (1 << 18,), dtype=torch.uint8, generator=noise()))


def joined(parts):
    return memoryview(b"".join(parts))


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from(["auto", "none", "zstd"]))
@example([], "zstd")
@example([b""], "auto")
@example([b"a" * 5000, b"", b"b" * 5000], "auto")
def test_what_was_packed_is_given_back(parts, wanted):
    codec, stored = pack(parts, wanted)
    whole = b"".join(parts)
    assert unpack(joined(stored), codec, len(whole), "here") == whole
    assert (codec == PLAIN) or wanted != "none"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("nbytes", [0, 1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 13])
def test_every_width_and_every_rest_comes_back(width, nbytes):
    body = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8).data
    stored = joined(compressed(body, width))
    assert unpack(stored, Codec(1, width), nbytes, "here") == body


def test_equal_bytes_give_equal_bytes():
    assert pack([NORMAL], "auto") == pack([NORMAL], "auto")


def test_plain_parts_are_not_copied():
    codec, stored = pack([b"ab", NORMAL], "none")
    assert codec == PLAIN
    assert stored[1] is NORMAL
    assert unpack(NORMAL, PLAIN, len(NORMAL), "here") is NORMAL


WEIGHTS = (torch.randn(1 << 20, generator=noise()) * 0.02).bfloat16()
MOVED = WEIGHTS + (torch.randn(1 << 20, generator=noise(1)) * 1e-5).bfloat16()
STEP = memoryview(
    bytes(octets(MOVED[MOVED != WEIGHTS])) + bytes(octets(pack_mask(MOVED != WEIGHTS)))
)
RULE = {
    "float32": (NORMAL, Codec(1, 4)),
    "bfloat16": (octets(WEIGHTS), Codec(1, 2)),
    "values and mask of a small step": (STEP, Codec(1, 2)),
    "ids": (octets(torch.randint(0, 30_000, (1 << 15,), generator=noise())), Codec(1, 8)),
    "mostly zero": (octets(torch.eye(300)), Codec(1, 1)),
    "random": (RANDOM, PLAIN),
    "nothing": (memoryview(b""), PLAIN),
}


@pytest.mark.parametrize("name", RULE)
def test_the_rule(name):
    body, codec = RULE[name]
    assert choose(body) == codec
    assert pack([body], "auto")[0] == codec


def test_sorting_has_to_be_worth_its_time():
    mixed = memoryview(bytes(NORMAL[: 1 << 18]) + bytes(RANDOM) * 2)
    assert 0.95 < sizes_of(mixed)[4] / sizes_of(mixed)[1] < 1
    assert choose(mixed, always=True) == Codec(1, 1)


def sizes_of(body):
    return {width: sum(map(len, compressed(body, width))) for width in WIDTHS}


def test_the_rule_reads_from_all_over_a_large_body():
    body = np.random.default_rng(0).integers(0, 256, 1 << 23, dtype=np.uint8)
    body[: 1 << 18] = 0
    assert choose(body.data) == PLAIN
    body[1 << 18 :] = 0
    body[: 1 << 18] = np.frombuffer(RANDOM, np.uint8)
    assert choose(body.data) == Codec(1, 1)


def test_always_means_always():
    codec, stored = pack([RANDOM], "zstd")
    assert codec.number == 1
    assert unpack(joined(stored), codec, len(RANDOM), "here") == RANDOM


def test_sorting_makes_floats_smaller():
    sizes = sizes_of(NORMAL)
    assert sizes[4] < 0.93 * sizes[1] < 0.93 * len(NORMAL)


@pytest.mark.parametrize("wanted", ["", "gzip", None, 1, "ZSTD", True])
def test_an_unknown_codec_is_refused(wanted):
    with pytest.raises(SerializationError, match=r"codec=.*'auto', 'none' or 'zstd'"):
        pack([b"a"], wanted)


def test_without_zstandard(monkeypatch):
    codec, stored = pack([NORMAL], "zstd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert pack([NORMAL], "auto") == (PLAIN, [NORMAL])
    with pytest.raises(UnsupportedError, match=r"zstandard.*mmsb-torch\[zstd\]"):
        pack([NORMAL], "zstd")
    with pytest.raises(UnsupportedError, match=r"^here: .*zstandard.*mmsb-torch\[zstd\]"):
        unpack(joined(stored), codec, len(NORMAL), "here")


FRAME = joined(compressed(memoryview(b"mmsb" * 100), 1))


def test_a_cut_frame_is_damage():
    for stop in range(len(FRAME)):
        with pytest.raises(CorruptStoreError, match=r"^here"):
            unpack(FRAME[:stop], Codec(1, 1), 400, "here")


def test_a_changed_frame_never_breaks_anything():
    for position in range(len(FRAME)):
        for bit in range(8):
            changed = bytearray(FRAME)
            changed[position] ^= 1 << bit
            with contextlib.suppress(CorruptStoreError):
                assert len(unpack(memoryview(changed), Codec(1, 1), 400, "here")) == 400


@pytest.mark.parametrize(
    ("stored", "nbytes"),
    {
        "says less": (FRAME, 401),
        "says more": (FRAME, 399),
        "goes on": (bytes(FRAME) + b"\0", 400),
        "twice": (bytes(FRAME) * 2, 800),
        "does not say": (zstandard.ZstdCompressor(write_content_size=False).compress(b"ab"), 2),
        "skips": ((0x184D2A50).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"abcd", 4),
        "no frame": (b"abcdefgh", 400),
        "nothing": (b"", 0),
    }.values(),
    ids=["less", "more", "goes on", "twice", "does not say", "skips", "no frame", "nothing"],
)
def test_only_one_frame_of_the_stated_size_is_read(stored, nbytes):
    with pytest.raises(CorruptStoreError, match=r"^here"):
        unpack(memoryview(stored), Codec(1, 1), nbytes, "here")


def test_plain_bytes_have_the_stated_size():
    with pytest.raises(CorruptStoreError, match="expected a body of 4 bytes, found 3"):
        unpack(memoryview(b"abc"), PLAIN, 4, "here")


@pytest.mark.parametrize("codec", [(2, 1), (0, 2), (1, 0), (1, 3), (1, 16), (255, 255)])
def test_an_unknown_way_of_storing_is_refused(codec):
    with pytest.raises(UnsupportedError, match=r"^here: codec"):
        unpack(FRAME, Codec(*codec), 400, "here")


def test_a_frame_cannot_ask_for_memory_that_nobody_expected():
    bomb = bytes.fromhex("28b52ffd e0") + (1 << 60).to_bytes(8, "little") + b"\1\0\0"
    assert zstandard.get_frame_parameters(bomb).content_size == 1 << 60
    with pytest.raises(
        CorruptStoreError, match="expected 400 bytes, the zstd frame has 1152921504"
    ):
        unpack(memoryview(bomb), Codec(1, 1), 400, "here")
