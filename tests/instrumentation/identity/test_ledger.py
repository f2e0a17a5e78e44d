"""The ledger says what bytes a tensor has, and reads them only when somebody may have written."""

import threading

import pytest
import torch
import xxhash

import mmsb_torch as mmsb
from mmsb_torch.instrumentation.identity import Panel, barrier
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


CHANGES = {
    "written": lambda t: t.add_(1),
    "written past torch": lambda t: t.numpy().fill(3),
    "written through .data": lambda t: t.data.mul_(2),
    "of another memory": lambda t: t.set_(torch.ones(SIZE)),
    "of another memory with equal bytes": lambda t: setattr(t, "data", t.clone()),
    "of another shape": lambda t: setattr(t, "data", t.data.view(3, -1)),
    "of other strides": lambda t: t.as_strided_((SIZE // 2,), (2,)),
    "at another place": lambda t: t.as_strided_((SIZE // 2,), (1,), SIZE // 2),
    "of another dtype": lambda t: setattr(t, "data", t.data.view(torch.int32)),
    "asking for gradients": lambda t: t.requires_grad_(),
    "negated": lambda t: torch._C._set_neg(t, True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_evidence_falls_with_every_change(ledger, change):
    tensor, other = torch.randn(SIZE), torch.randn(SIZE)
    watched(ledger, tensor), watched(ledger, other)
    evidence = [ledger.evidence(other), ledger.evidence(tensor), None]
    panel = Panel(evidence)
    assert ledger.doubtful(evidence) == panel.others == [2]
    assert ledger.stands(panel)
    CHANGES[change](tensor)
    assert ledger.doubtful(evidence) == [1, 2]
    assert not ledger.stands(panel)
    watched(ledger, tensor)  # watched again: what was found then is no evidence of now
    assert 1 in ledger.doubtful(evidence)
    assert not ledger.stands(panel)


def test_evidence_is_for_who_is_alone(ledger):
    tensor = torch.randn(SIZE)
    assert ledger.evidence(tensor) is None  # nobody read it yet
    watched(ledger, tensor)
    evidence = [ledger.evidence(tensor)]
    panel = Panel(evidence)
    assert ledger.stands(panel)
    stop = threading.Event()
    beside = threading.Thread(target=stop.wait)
    beside.start()
    assert ledger.doubtful(evidence) == [0]
    assert not ledger.stands(panel)
    assert ledger.evidence(tensor) is None
    stop.set()
    beside.join()
    assert not ledger.stands(panel)
    assert ledger.doubtful(evidence) == [0]  # the flags were cleared when the thread began
    watched(ledger, tensor)
    assert ledger.doubtful([ledger.evidence(tensor)]) == []


def test_tokens_are_those_of_the_bytes_and_the_way_they_are_looked_at(ledger):
    with ledger.watching():
        tensor = torch.randn(64, 300, dtype=torch.complex64)
        ledger.watch(tensor)  # while nobody else has the memory
        views = [
            tensor,
            tensor.conj(),
            tensor.mT,
            tensor[1:],
            tensor.real,
            tensor.conj().imag,
            tensor.imag,
            tensor.view(torch.float32),
            tensor.view(-1),
        ]
        for ask in (ledger.token, ledger.token, ledger.known):  # read, held, held
            tokens = [ask(view) for view in views]
            assert None not in tokens
            assert len({id(token) for token in tokens}) == len(views)
        again = tensor.clone()
        assert ledger.token(again) is tokens[0]
        assert ledger.known(again) is tokens[0]
        again.numpy()[3] = 0
        assert ledger.known(again) is None
        assert ledger.token(again) is not tokens[0]
