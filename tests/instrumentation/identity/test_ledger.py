"""The ledger says what bytes a tensor has, and reads them only when somebody may have written."""

import threading

import pytest
import torch
import xxhash

import mmsb_torch as mmsb
from mmsb_torch.instrumentation.identity import barrier
from mmsb_torch.instrumentation.identity.ledger import LEAST_BYTES, Ledger

SIZE = LEAST_BYTES // 4 * 3


def plain(tensor):
    return xxhash.xxh3_128_digest(tensor.detach().contiguous().numpy().tobytes())


@pytest.fixture
def ledger():
    return Ledger()


def watched(ledger, tensor):
    with ledger.watching():
        return ledger.digest(tensor)


def test_the_barrier_works_here():
    assert barrier.capability() is None
    assert mmsb.capabilities()["write barrier"] == "copy-on-write flag"


def test_bytes_are_read_once(ledger):
    tensor = torch.randn(SIZE)
    found = watched(ledger, tensor)
    for _ in range(3):
        assert watched(ledger, tensor) == ledger.digest(tensor) == found
    assert ledger.read == tensor.nbytes
    part = tensor[10:]
    assert ledger.digest(part) != found
    assert ledger.digest(part) == ledger.digest(tensor[10:])
    tensor[3] = 1
    assert ledger.digest(tensor) == plain(tensor)
    assert not barrier.is_armed(tensor)  # only who asked for a watch sets the flag again


def test_the_first_write_moves_nothing(ledger):
    tensor = torch.randn(SIZE)
    address, before = tensor.data_ptr(), tensor.clone()
    watched(ledger, tensor)
    assert barrier.is_armed(tensor)
    tensor.add_(1)
    assert tensor.data_ptr() == address
    assert torch.equal(tensor, before + 1)


def test_memory_that_others_may_write_is_not_watched(ledger):
    for make in (
        lambda: torch.from_numpy(torch.randn(SIZE).numpy()),
        lambda: torch.randn(SIZE).share_memory_(),
        lambda: torch.frombuffer(bytearray(4 * SIZE), dtype=torch.float32),
    ):
        tensor = make()
        assert watched(ledger, tensor) == plain(tensor)
        assert not barrier.is_armed(tensor)
    tensor = torch.randn(SIZE)
    array = tensor.numpy()
    assert watched(ledger, tensor) == plain(tensor)
    assert not barrier.is_armed(tensor)
    array[0] = 9
    assert ledger.digest(tensor) == plain(tensor)


def test_other_threads_read_every_byte(ledger):
    tensor, found = torch.randn(SIZE), []
    thread = threading.Thread(target=lambda: found.append(watched(ledger, tensor)))
    thread.start()
    thread.join()
    assert found == [plain(tensor)]
    watched(ledger, tensor)
    armed = barrier.is_armed(tensor)
    stop = threading.Event()
    beside = threading.Thread(target=stop.wait)
    beside.start()
    before = ledger.read
    watched(ledger, tensor)
    assert ledger.read == before + tensor.nbytes
    stop.set()
    beside.join()
    assert armed


def test_memory_that_is_given_away_is_forgotten(ledger):
    for number in range(3000):
        tensor = torch.full((SIZE,), float(number))
        assert watched(ledger, tensor) == watched(ledger, tensor.clone())
        del tensor
    assert len(ledger._records) < 2100


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(64, 300).T,
        lambda: torch.randn(SIZE)[::2],
        lambda: torch.randn(1).expand(SIZE),
        lambda: torch.randn(SIZE).bfloat16(),
        lambda: torch.empty(0),
        lambda: torch.tensor(3.0),
        lambda: torch.ones(1, SIZE).as_strided((SIZE, 1), (1, 0)),
        lambda: torch.randn(SIZE, requires_grad=True),
    ],
)
def test_the_digest_is_of_the_elements(ledger, make):
    tensor = make()
    words = tensor.detach().contiguous().view(-1).view(torch.uint8)
    wanted = xxhash.xxh3_128_digest(words.numpy().tobytes()) if tensor.numel() else b""
    assert watched(ledger, tensor) == wanted
    assert watched(ledger, tensor) == wanted
