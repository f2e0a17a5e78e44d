"""What somebody could write on purpose, every checksum right, takes no memory and does no harm."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from mmsb_torch.device import pack_mask, same_bits
from mmsb_torch.errors import CorruptStoreError, MMSBError, SerializationError
from mmsb_torch.runtime.store.contents import read, write
from mmsb_torch.runtime.store.envelope import HEADER_BYTES, MAX_NBYTES, Kind, wrap
from mmsb_torch.types import Delta, Form, Region


def parts_of(raw):
    length = int.from_bytes(raw[HEADER_BYTES : HEADER_BYTES + 8], "little")
    start = HEADER_BYTES + 8
    return Kind(raw[10]), json.loads(raw[start : start + length]), raw[start + length :]


def forged(kind, header, data, codec="none"):
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return wrap(kind, [len(text).to_bytes(8, "little") + text, data], codec)


def with_ops(raw, change):
    """The bytes with "mmsb.ops" changed by `change(ops)`."""
    kind, header, data = parts_of(raw)
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    change(ops)
    header["__metadata__"]["mmsb.ops"] = json.dumps(ops)
    return forged(kind, header, data)


ODD = [None, True, -1, 0, 2, 3, 1 << 63, 1 << 70, "", "x", "bool", "uint8", "qint8", "complex128",
       "none", "all", "rows", "elements", "bits", "mask", [], [0], [-1], [1 << 62, 1 << 62],
       [0, 1 << 62, 1 << 62], [1] * 5000, {}, {"a": 1}, 1.5, [[]], [2, 3], [3, 7], [21]]  # fmt: skip


def leaves(node, path=()):
    if path:
        yield path
    if isinstance(node, dict | list):
        for key in node if isinstance(node, dict) else range(len(node)):
            yield from leaves(node[key], (*path, key))


def test_nothing_that_is_written_on_purpose_does_harm(holder, kit):
    """Each field of the ops replaced by each odd value: a typed error, or something well-formed."""
    kind, header, data = parts_of(kit.raw_of(holder))
    ops = json.loads(header["__metadata__"]["mmsb.ops"])
    refused = 0
    for path in list(leaves(ops)):
        for value in ODD:
            changed = copy.deepcopy(ops)
            place = changed
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
            header["__metadata__"]["mmsb.ops"] = json.dumps(changed)
            try:
                found = read(forged(kind, header, data), None, 1 << 24)
            except MMSBError as error:
                refused += bool(str(error))
            else:
                write(found, "none")
    assert refused > 300


def without_values(ops, shape):
    ops["created"][0]["shape"] = ops["deltas"][0]["shape"] = shape
    ops["deltas"][0]["form"] = "none"


@pytest.mark.parametrize("shape", [[1 << 40], [1 << 20, 1 << 20], [1 << 60, 4]])
def test_a_sparse_page_takes_no_more_than_was_allowed(shape, kit):
    raw = with_ops(kit.raw_of("page"), lambda ops: without_values(ops, shape))
    with pytest.raises(SerializationError, match=r"expected at most 4294967296.*pass max_nbytes="):
        read(raw, None, MAX_NBYTES)


def test_the_limit_is_the_readers():
    value = torch.zeros(1000)
    raw = write(value, "zstd", sparse=True)
    with pytest.raises(SerializationError, match="pass max_nbytes=4000"):
        read(raw, None, 3999)
    assert same_bits(read(raw, None, 4000), value)
    raw = write(value, "zstd")
    with pytest.raises(SerializationError, match="compressed"):
        read(raw, None, 4000)  # the header of the file counts too
    assert same_bits(read(raw, None, 5000), value)
    assert same_bits(read(write(value, "none"), None, 0), value)  # what is there is no bomb


def test_a_shape_of_many_sizes_is_refused_at_once(kit):
    raw = with_ops(kit.raw_of("page"), lambda ops: without_values(ops, [(1 << 62) - 1] * 600_000))
    code = (
        "import sys\n"
        "from mmsb_torch.runtime.store.contents import read\n"
        "from mmsb_torch.errors import CorruptStoreError\n"
        "try:\n"
        "    read(sys.stdin.buffer.read(), None, 1 << 32)\n"
        "except CorruptStoreError as error:\n"
        "    print('shape' in str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=raw, capture_output=True, timeout=60, check=True
    )
    assert done.stdout.strip() == b"True"


def bombs(kit):
    """Small bytes that would take a lot if they were believed."""
    yield with_ops(kit.raw_of("page"), lambda ops: without_values(ops, [1 << 40]))
    yield with_ops(kit.raw_of("packed page"), lambda ops: ops["created"][0].update(shape=[1 << 40]))
    yield kit.resealed(write(torch.zeros(1000), "zstd"), nbytes=3 << 30)
    yield forged(
        Kind.TENSOR, {"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}, b""
    )
    yield wrap(Kind.EVENT, [b"\0" * (160 << 20)], "zstd")


BOMBED = """
import resource, sys
from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.contents import read

sizes = [int(n) for n in sys.argv[1:]]
raws = [sys.stdin.buffer.read(n) for n in sizes]
import zstandard
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
for raw in raws:
    try:
        read(raw, None, 128 << 20)
    except MMSBError as error:
        print(type(error).__name__)
"""


def test_bombs_are_refused_before_they_take_memory(kit):
    raws = list(bombs(kit))
    done = subprocess.run(
        [sys.executable, "-c", BOMBED, *(str(len(raw)) for raw in raws)],
        input=b"".join(raws), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.split()) == len(raws)


PACKED = """
import resource, sys
from mmsb_torch.errors import MMSBError
from mmsb_torch.runtime.store.contents import read

raw = sys.stdin.buffer.read()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * len(raw) // 2 + (64 << 20),) * 2)
print(read(raw, None, 1 << 30).region.count)
"""


def test_packed_bits_are_counted_in_little_memory():
    """As a mask of bytes these bits would take eight times their size."""
    shape = (1 << 30,)
    bits = torch.zeros(1 << 27, dtype=torch.uint8)
    bits[-1] = 128
    delta = Delta(1, 1, 0, Region(Form.BITS, shape, bits, 1), torch.ones(1), 1, "user")
    done = subprocess.run(
        [sys.executable, "-c", PACKED],
        input=write(delta, "none"), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == b"1", done.stderr.decode()


def test_bits_beyond_a_delta_are_refused(kit):
    kind, header, data = parts_of(kit.raw_of("delta"))
    bits = kit.DELTA.region.mask().view(-1).tolist()
    assert data.endswith(bytes(pack_mask(torch.tensor(bits)).tolist()))
    with pytest.raises(CorruptStoreError, match="bits beyond"):
        read(forged(kind, header, data[:-1] + bytes([data[-1] | 128])), None, MAX_NBYTES)


def test_bits_beyond_a_packed_page_are_refused(kit):
    kind, header, data = parts_of(kit.raw_of("packed page"))
    assert read(forged(kind, header, data), None, MAX_NBYTES).value.shape == (3, 7)
    with pytest.raises(CorruptStoreError, match="bits beyond"):
        read(forged(kind, header, data[:2] + b"\xff"), None, MAX_NBYTES)
