"""R8: hostile bytes for every parser: typed errors, little memory, little time, no crash.

Input n of a run is made from the seed and n alone: `MMSB_FUZZ=7:1234` runs input 1234 of seed 7.
"""

import contextlib
import json
import mmap
import os
import random
import re
import resource
import shutil
import signal
import struct
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import xxhash
import zstandard

import mmsb_torch as mmsb
from mmsb_torch.device import zeros
from mmsb_torch.runtime.store import Store, codecs, payload, sealed
from mmsb_torch.runtime.store.bodies import segment_of
from mmsb_torch.runtime.store.envelope import Kind as Content
from mmsb_torch.runtime.store.follow import Follower
from mmsb_torch.runtime.store.frame import FileHeader, Kind, RecordHeader, chain_of, padding
from mmsb_torch.runtime.store.logfile import LogFile
from mmsb_torch.runtime.store.tensorfile import decode_tensors, encode_tensors, read_tensors
from mmsb_torch.testing import opened
from mmsb_torch.testing.mutations import HUGE, any_bytes, any_json
from mmsb_torch.types import Event, apply

SLACK = 64 << 20
BOMB = 8 << 20


# what is well-formed but for one part, and has good checksums


def tensor_file(header, data):
    """A safetensors file of a header's text; its length is right."""
    return len(header).to_bytes(8, "little") + header + data


def split(raw):
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:end]), raw[end:]


def any_tensor_file(raw, numbers, others):
    """A safetensors file: other bytes, another header, or (if it has any) other ops."""
    if numbers.random() < 0.3:
        return any_bytes(raw, numbers, others)
    header, data = split(raw)
    metadata = header.get("__metadata__", {})
    if payload.OPS_KEY in metadata and numbers.random() < 0.7:
        ops = any_json(json.loads(metadata[payload.OPS_KEY]), numbers)
        metadata[payload.OPS_KEY] = ops.decode(errors="replace")
        text = json.dumps(header).encode()
    else:
        text = any_json(header, numbers)
    return tensor_file(text, data)


def any_sealed(fields, numbers):
    """A sealed JSON file whose digest is right."""
    body = any_json(fields, numbers)[1:] + b"\n"
    digest = xxhash.xxh3_128_hexdigest(body).encode()
    return b'{"digest": "xxh3-128:' + digest + b'",\n' + body


def log_of(uuid, records, first=1):
    """A log file of (kind, tx, flags, items, body), framed as it should be."""
    parts, chain = [FileHeader(1, 0, uuid, first, 0, 1).pack()], 0
    for kind, tx, flags, items, body in records:
        digest = xxhash.xxh3_128_digest(body)
        header = RecordHeader(len(body), tx, kind, flags, items, chain, digest).pack()
        parts += [header, body, bytes(padding(len(body)))]
        chain = chain_of(header)
    return b"".join(parts)


def any_log(uuid, records, numbers, bodies):
    """A log with good checksums and one odd record; or with odd fields in a header."""
    records = [list(record) for record in records]
    at = numbers.randrange(len(records))
    act = numbers.randrange(8)
    if act < 4:
        records[at][4] = any_tensor_file(numbers.choice(bodies), numbers, bodies)
    elif act == 4:
        field = numbers.randrange(4)
        limit = (256, 2**64, 256, 2**32)[field]
        records[at][field] = numbers.choice((*HUGE, 2, 3, 4, 5, 6)) % limit
    elif act == 5:
        records[at : at + 1] = [records[at]] * numbers.choice((0, 2, 3))
    elif act == 6:
        records[at][2:] = 1, records[at][3], any_segment(records[at], numbers)
    else:
        numbers.shuffle(records)
    raw = log_of(uuid, records)
    if numbers.random() < 0.1:
        return any_bytes(raw, numbers, bodies)
    if numbers.random() < 0.1:  # a header that lies, with the right checksum
        return _lying(raw, numbers)
    return raw


def any_segment(record, numbers):
    name = f"{record[1]:020d}-r00000.safetensors"
    ops = split(record[4])[0]["__metadata__"][payload.OPS_KEY] if record[4][8:9] == b"{" else "{}"
    about = {"name": name, "nbytes": 10, "xxh3_128": "0" * 32}
    return any_json({"segment": about, "ops": ops}, numbers)


def _lying(raw, numbers):
    at = numbers.choice([n for n in range(64, len(raw), 64) if raw[n : n + 4] == b"MREC"])
    header = RecordHeader.unpack(raw[at : at + 64])
    header = header._replace(length=numbers.choice(HUGE) % 2**64)
    return raw[:at] + header.pack() + raw[at + 64 :]


# parsers


class Parsers:
    """Each makes an input from numbers, and reads it; `read` raises MMSBErrors only."""

    def __init__(self, folder, kit):
        self.folder = folder
        small, whole = folder / "small.mmsb", folder / "whole.mmsb"
        kit.made_small(small)
        kit.made_whole(whole)
        self.small = Tree(small)
        self.whole = Tree(whole)
        [log] = kit.logs(small)
        file = LogFile(log, self.small.uuid)
        self.records = [
            (r.header.kind, r.header.tx, r.header.flags, r.header.items, file.body(r))
            for r in file.records(None)
        ]
        file.close()
        self.bodies = [record[4] for record in self.records if record[0] == Kind.COMMIT]
        tensors = {
            "a": torch.arange(6.0).view(2, 3),
            "z": torch.ones(2, dtype=torch.complex128),
            "u": torch.zeros(3, dtype=torch.uint8).view(torch.uint3),
            "e": torch.zeros(0, 4),
        }
        metadata = {"who": "ä", "mmsb.more": "[]"}
        self.files = [*self.bodies, b"".join(map(bytes, encode_tensors(tensors, metadata)))]
        self.bombs = zeros_frames()
        self.envelopes = [*self._envelopes(small, tensors)]
        self.one_event = Event(mmsb.EventType.DELTA_COMMITTED, 5, {"page": "a", "tx": 3}).to_bytes()

    def _envelopes(self, path, tensors):
        with mmsb.open(path, mode="r") as memory:
            things = [memory["a"], memory.at(3)["a"], *memory._router.log[5].deltas]
            things += [memory._router.log[9], tensors["z"], torch.zeros(30, 40)]
            for codec in ("none", "zstd"):
                yield from (mmsb.serialize_to_bytes(thing, codec) for thing in things)
            yield mmsb.compress_page(memory["a"], "zstd")
            yield mmsb.compress_page(torch.eye(40, dtype=torch.bool))

    def tensor_file(self, numbers):
        raw = any_tensor_file(numbers.choice(self.files), numbers, self.files)
        if numbers.random() < 0.2:
            (self.folder / "x.safetensors").write_bytes(raw)
            return raw, lambda: read_tensors(self.folder / "x.safetensors")
        return raw, lambda: decode_tensors(memoryview(raw), "here")

    def transaction(self, numbers):
        raw = any_tensor_file(numbers.choice(self.bodies), numbers, self.files)

        def read():
            payload.touched_by(payload.outline(memoryview(raw), "here"))
            applied(payload.decode(memoryview(raw), "here"))

        return raw, read

    def segment(self, numbers):
        record = numbers.choice([r for r in self.records if r[0] == Kind.COMMIT])
        raw = any_segment(record, numbers)
        return raw, lambda: segment_of(raw, record[1], "here")

    def sealed(self, numbers):
        fields = json.loads((self.small.path / "MMSB.json").read_text())
        raw = any_sealed(fields, numbers)
        if numbers.random() < 0.3:
            raw = any_bytes(raw, numbers, self.files)
        return raw, lambda: sealed.unseal(raw, "here")

    def event(self, numbers):
        raw = any_bytes(self.one_event, numbers, self.files)
        if numbers.random() < 0.6:
            text = any_json({"page": "a", "tx": 3, "more": [1, {"x": None}]}, numbers)
            raw = self.one_event[:9] + struct.pack("<I", len(text)) + text
        return raw, lambda: Event.from_bytes(raw)

    def envelope(self, numbers):
        raw = numbers.choice(self.envelopes)
        if numbers.random() < 0.2:
            raw = any_bytes(raw, numbers, self.envelopes)
        else:
            raw = self._forged(raw, numbers)
        return raw, lambda: applied(mmsb.deserialize_from_bytes(raw, max_nbytes=BOMB))

    def _forged(self, raw, numbers):
        """An envelope whose checksum is right, around a body or a header that is not."""
        fields = list(struct.unpack("<8sHBBB3sQQ16x", raw[:48]))
        body = raw[64:]
        if fields[3]:
            body = zstandard.ZstdDecompressor().decompress(body) if fields[4] == 1 else body
        if (
            numbers.random() < 0.7
            and fields[2] != Content.EVENT
            and not (fields[3] and fields[4] > 1)
        ):
            body = any_tensor_file(body, numbers, self.files)
        fields[3:5], fields[6:8] = (0, 1), (len(body), len(body))
        act = numbers.randrange(6)
        if act == 0:
            body, fields[3] = packed(body, numbers, self.bombs), 1
            fields[4] = numbers.choice((1, 2, 4, 8, 3))
            fields[6] = len(body)
        elif act == 1:
            fields[numbers.choice((1, 2, 3, 4))] = numbers.randrange(256)
        elif act == 2:
            fields[numbers.choice((6, 7))] = numbers.choice(HUGE) % 2**64
        head = struct.pack("<8sHBBB3sQQ16x", *fields)
        return head + xxhash.xxh3_128_digest(head + body) + body

    def codec(self, numbers):
        raw = packed(numbers.choice(self.bodies), numbers, self.bombs)
        if numbers.random() < 0.5:
            raw = any_bytes(raw, numbers, self.files)
        codec = codecs.Codec(numbers.choice((0, 1, 1, 1, 2)), numbers.choice((1, 2, 4, 8, 3)))
        said = numbers.choice((0, 1, len(raw), len(self.bodies[0]), BOMB))
        return raw, lambda: codecs.unpack(memoryview(raw), codec, said, "here")

    def log(self, numbers):
        raw = any_log(self.small.uuid, self.records, numbers, self.bodies)
        self.small.put("log/00000000000000000001.tlog", raw)
        return raw, lambda: self.small.read(numbers)

    def manifest(self, numbers):
        """A checkpoint with right digests everywhere, and a manifest, index or shard that is odd."""
        folder = max(name.rpartition("/")[0] for name in self.whole.contents if name[0] == "c")
        names = [name for name in self.whole.contents if name.startswith(folder)]
        name = f"{folder}/MMSB_CHECKPOINT.json"
        fields = json.loads(self.whole.contents[name])
        act = numbers.randrange(3)
        if act == 0:
            raw = any_sealed(fields, numbers)
        else:
            chosen = numbers.choice([other for other in names if other != name])
            old = self.whole.contents[chosen]
            if chosen.endswith(".json"):
                new = any_json(json.loads(old), numbers)
            else:
                new = any_tensor_file(old, numbers, self.files)
            self.whole.put(chosen, new)
            for record in fields["files"]:
                if record["name"] == Path(chosen).name:
                    record |= {"nbytes": len(new), "xxh3_128": xxhash.xxh3_128_hexdigest(new)}
            fields.pop("digest")
            raw = sealed.seal(fields)
        self.whole.put(name, raw)
        return raw, lambda: self.whole.read(numbers)

    def each(self):
        return (
            *(self.tensor_file, self.transaction, self.segment, self.sealed, self.event),
            *(self.envelope, self.envelope, self.codec, self.log, self.log, self.manifest),
        )


def zeros_frames():
    """Frames of 8 and of 128 MiB of zeros."""
    return [zstandard.ZstdCompressor().compress(bytes(size)) for size in (BOMB, 16 * BOMB)]


def packed(body, numbers, bombs):
    """A zstd frame: of this body, without its size, twice; or a bomb."""
    act = numbers.randrange(8)
    if act < 2:
        return numbers.choice(bombs)
    if act == 2:
        return zstandard.ZstdCompressor(write_content_size=False).compress(body)
    return zstandard.ZstdCompressor().compress(body) * (2 if act == 3 else 1)


def applied(found):
    """What was accepted is applied where that takes little: it was checked, so it must go well."""
    for delta in getattr(found, "deltas", ()):
        shape = delta.region.shape
        if np.prod(shape, dtype=object) < 1 << 16:
            apply(zeros(shape, delta.values.dtype, torch.device("cpu")), delta)


class Tree:
    """A store whose files are exchanged, read, and put back."""

    def __init__(self, path):
        self.path = path
        files = [file for file in path.rglob("*") if file.is_file()]
        self.contents = {str(file.relative_to(path)): file.read_bytes() for file in files}
        self.uuid = Store.open(path).identity.uuid
        self._changed = []

    def put(self, name, raw):
        (self.path / name).unlink()  # checkpoints share files
        (self.path / name).write_bytes(raw)
        self._changed.append(name)

    def read(self, numbers):
        try:
            found = opened(self.path)
            if numbers.random() < 0.3:
                Store.open(self.path).verify()
            if numbers.random() < 0.2:
                for item in Follower(self.path, self.uuid, 2).poll():
                    assert item.body is not None
            if isinstance(found, mmsb.MMSBError):
                raise found
        finally:
            while self._changed:
                name = self._changed.pop()
                self.put(name, self.contents[name])
                self._changed.pop()


# the run


def one(parsers, seed, number):
    """Input `number`: whether it was accepted, and the seconds it took; errors that are not ours."""
    numbers = random.Random(f"{seed}:{number}")
    raw, read = numbers.choice(parsers.each())(numbers)
    begun = time.thread_time()
    try:
        with little_memory(len(raw)):
            read()
        accepted = True
    except mmsb.InternalError:  # it says that we are wrong, not the bytes
        raise
    except mmsb.MMSBError:
        accepted = False
    seconds = time.thread_time() - begun
    assert seconds < 1, f"{seconds:.2f} s for {len(raw)} bytes"
    return accepted


@contextlib.contextmanager
def little_memory(nbytes):
    """Let this process take no more than what it has, twice an input's size, and 64 MiB."""
    now = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + 2 * nbytes + SLACK, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def run(folder, kit, seed, first, count, progress):
    parsers = Parsers(folder, kit)
    for number in range(20):  # what is loaded late
        one(parsers, "warm", number)
    accepted = 0
    for number in range(first, first + count):
        progress[:8] = struct.pack("<Q", number)
        signal.alarm(20)  # it ends the process
        try:
            accepted += one(parsers, seed, number)
        except BaseException:
            traceback.print_exc()
            return 1
        progress[8:16] = struct.pack("<Q", accepted)
    return 0


def test_hostile_bytes_are_refused(tmp_path, gate, kit):
    seed, first = 8, 0
    count = gate.trials("R8", test=1500, gate=20_000, soak=2_000_000)
    if asked := os.environ.get("MMSB_FUZZ"):
        seed, first = asked.split(":")
        first, count = int(first), 1
    progress = mmap.mmap(-1, 16)
    pid = kit.forked(lambda: run(tmp_path, kit, seed, first, count, progress))
    code = kit.exit_code(pid)
    number, accepted = struct.unpack("<QQ", progress[:16])
    again = f"exit code {code}: MMSB_FUZZ={seed}:{number} pytest {__file__}"
    assert code == 0, again
    gate.report("R8", count, accepted=accepted, refused=count - accepted, silent=0)
    assert asked or 0.02 * count < accepted < 0.9 * count
    shutil.rmtree(tmp_path)
