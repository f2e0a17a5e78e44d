"""R13, R12: a store of format version 1, written once, opens for ever; and numpy reads it."""

import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

import mmsb_torch as mmsb

GOLDEN = Path(__file__).parent.parent / "golden" / "v1.mmsb"
GROWN = GOLDEN.with_name("v1-growth.mmsb")
W = np.arange(12.0, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def store(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "v1.mmsb"))


def wanted(tx):
    w = W.copy()
    if tx >= 4:
        w[2] = 9
    if tx >= 5:
        w[0, 0] = w[3, 2] = -1
    if tx >= 6:
        w[1] = w[0, 1] = 5
    return w


@pytest.mark.parametrize("mode", ["r", "w", "follow"])
def test_version_1_opens(store, mode, gate):
    with mmsb.open(store, mode=mode) as memory:
        assert memory.tx == 7
        assert memory.tail is None
        assert sorted(memory) == ["bits", "late", "minus", "w", "z"]
        assert memory["w"].metadata == {"who": "golden", "n": [1, None]}
        assert memory["w"].epoch == 3
        assert memory["bits"].tensor.view(torch.int32).tolist() == [0x7FC00001, -(2**31), 0]
        assert memory["z"].tensor.tolist() == [3j, 4j]
        assert memory["late"].tensor.shape == (0, 2)
        assert memory["late"].tensor.dtype is torch.bfloat16
        for tx in range(7, 0, -1):
            assert np.array_equal(memory.at(tx)["w"].numpy(), wanted(tx)), tx
        moment = memory.at("named")
        assert (moment.tx, moment.step) == (5, 7)
        assert memory.at(3)["z"].tolist() == [1 + 2j, -1j]
        minus = memory.derive(torch.neg, "w", name="minus")
        assert np.array_equal(minus.tensor.numpy(), -wanted(7))
    gate.report("R13", 7, silent=0)


def test_it_verifies(store):
    with mmsb.open(store, mode="r") as memory:
        assert memory._store.verify() == []


def test_a_newer_version_is_refused(store):
    [log] = [file for file in (store / "log").iterdir() if file.name.startswith("0" * 19 + "6")]
    raw = bytearray(log.read_bytes())
    struct.pack_into("<H", raw, 8, 2)
    struct.pack_into("<I", raw, 60, zlib.crc32(raw[:60]))
    log.write_bytes(raw)
    with pytest.raises(mmsb.UnsupportedError, match="version 2"):
        mmsb.open(store)


# forty lines of numpy, from docs/format.md alone

DTYPES = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "BF16": "<u2"}


def read_safetensors(raw):
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        data = raw[8 + length + start : 8 + length + stop]
        tensors[name] = np.frombuffer(data, DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def read_log(path):
    raw, at, before = path.read_bytes(), 64, None
    magic, version, _, _, _, _, chain, _, crc = struct.unpack("<8sHHI16sQQQ4xI", raw[:64])
    assert (magic, version, crc) == (b"MMSBTLOG", 1, zlib.crc32(raw[:60]))
    while at < len(raw):
        head = raw[at : at + 64]
        magic, crc, length, _, kind, flags, _, _, before, digest = struct.unpack(
            "<4sIQQBBHIQ16s8x", head
        )
        body = raw[at + 64 : at + 64 + length]
        assert (magic, crc, before) == (b"MREC", zlib.crc32(head[8:]), chain)
        assert xxhash.xxh3_128_digest(body) == digest
        chain, at = xxhash.xxh3_64_intdigest(head), at + 64 + length + -length % 64
        if kind == 1 and flags == 1:
            segment = json.loads(body)["segment"]
            body = (path.parent.parent / "deltas" / segment["name"]).read_bytes()
            assert (len(body), xxhash.xxh3_128_hexdigest(body)) == (
                segment["nbytes"],
                segment["xxh3_128"],
            )
        if kind == 1:
            yield read_safetensors(body)


def apply(pages, tensors, delta):
    if delta["form"] == "all":
        pages[delta["page"]] = tensors[delta["values"]].copy()
        return
    if "rows_before" in delta:
        old = pages[delta["page"]]
        assert len(old) == delta["rows_before"]
        pages[delta["page"]] = new = np.full(delta["shape"], -99, old.dtype)
        new[: len(old)] = old[: len(new)]
    if delta["form"] == "none":
        return
    flat, index = pages[delta["page"]].reshape(-1), tensors[delta["index"]]
    if delta["form"] == "rows":
        pages[delta["page"]][index] = tensors[delta["values"]]
    elif delta["form"] == "elements":
        flat[index] = tensors[delta["values"]]
    else:
        bits = np.unpackbits(index, count=flat.size, bitorder="little").view(bool)
        flat[bits] = tensors[delta["values"]]


def read_states(store):
    """What every transaction says, and the pages by name after it."""
    pages, names = {}, {}
    for log in sorted((store / "log").glob("*.tlog")):
        for tensors, metadata in read_log(log):
            ops = json.loads(metadata["mmsb.ops"])
            names |= {page["id"]: page["name"] for page in ops["created"]}
            for delta in ops["deltas"]:
                apply(pages, tensors, delta)
            yield ops, {names[page]: value for page, value in pages.items()}


def test_numpy_reads_every_state(store, gate):
    for number, (ops, found) in enumerate(read_states(store), 1):
        assert ops["tx"] == number
        assert np.array_equal(found["w"], wanted(number)), number
    assert number == 7
    assert found["z"].tolist() == [[0, 3], [0, 4]]
    gate.report("R12", number, silent=0)


def wanted_rows(tx):
    """The page "g" of the store in which pages grow."""
    first = np.arange(6.0, dtype=np.float32).reshape(2, 3)

    def then(count, value):
        return np.full((count, 3), value, np.float32)

    both = np.concatenate([first, then(2, 7), then(1, 9)])
    both[0, 0], both[1] = -1, 9
    return {
        3: np.concatenate([first, then(2, 7)]),
        4: both,
        6: np.concatenate([first, then(100, 5)]),
        7: both,
        8: np.concatenate([then(5, 2), then(1, 3)]),
    }.get(tx, first)


@pytest.mark.parametrize("mode", ["r", "w", "follow"])
def test_pages_that_grew_come_back(tmp_path, mode, gate):
    store = shutil.copytree(GROWN, tmp_path / "growth.mmsb")
    with mmsb.open(store, mode=mode) as memory:
        assert (memory.tx, memory.tail, memory["g"].epoch, memory["e"].epoch) == (8, None, 6, 1)
        for tx in range(8, 0, -1):
            assert np.array_equal(memory.at(tx)["g"].numpy(), wanted_rows(tx)), tx
        assert memory.at(3)["e"].shape == (0,)
        assert memory["e"].tensor.tolist() == [0, 1, 2]
        assert memory._store.verify() == []
        if mode == "w":
            assert memory.page("g", shape=(2, 3)) == memory["g"]
            memory.append("g", torch.ones(1, 3))
            assert memory["g"].shape == (7, 3)
    gate.report("R13", 8, silent=0)


def test_numpy_reads_pages_that_grow(gate):
    for number, (ops, found) in enumerate(read_states(GROWN), 1):
        assert ops["version"] == (1 if number < 3 else 2)
        assert np.array_equal(found["g"], wanted_rows(number)), number
    assert number == 8
    gate.report("R12", number, silent=0)


def test_plain_safetensors_reads_the_checkpoint(store):
    from safetensors.numpy import load_file

    [folder] = (store / "checkpoints").iterdir()
    found = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    assert np.array_equal(found["w"], wanted(5))
    assert np.array_equal(found["minus"], -wanted(5))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found) == {"w", "bits", "z", "minus"}
