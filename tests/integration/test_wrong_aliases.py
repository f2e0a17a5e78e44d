"""Wrong answers that caches give silently when memory is shared: none of them is given here."""

import contextlib
import functools
import logging

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

LOG = logging.getLogger("recipes of test_wrong_aliases")  # a digest knows a logger by its name
HELD = torch.full((3, 2), 7.0)


@pytest.fixture
def kept():
    """Whatever recipes report with `keep(tensor)`: held where no digest looks."""
    tensors = []

    def note(record):
        tensors.extend(record.args)
        return False

    LOG.setLevel(logging.INFO)
    LOG.addFilter(note)
    yield tensors
    LOG.removeFilter(note)


def keep(tensor):
    LOG.info("%s", tensor)
    return tensor


@pytest.fixture
def mem():
    with mmsb.open() as memory:
        memory.page("x", torch.arange(6.0).view(3, 2) + 1)
        yield memory


def scramble(tensor):
    """Write to memory in the ways that no counter sees, one after the other."""
    tensor = tensor.detach()
    tensor.numpy()[...] = -99
    tensor.data.mul_(3)


class Remembers(nn.Module):
    """As many modules do, it holds on to what it returned last."""

    def __init__(self):
        super().__init__()
        self.last = None
        self.register_buffer("table", torch.ones(3, 2))
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        self.last = x * 2
        return self.last


@functools.lru_cache
def cached(size):
    return torch.full((3, size), 2.0)


remembering, buffered, weighted = Remembers(), Remembers(), Remembers()
ARRAY = np.full((3, 2), 4.0, dtype=np.float32)
BYTES = bytearray(ARRAY.tobytes())
SHARED = torch.full((3, 2), 4.0).share_memory_()
VIEWED = torch.zeros(9, 2)
INFERENCE = torch.inference_mode()(lambda: torch.full((3, 2), 4.0))()

RESULTS = {
    "result kept": (lambda x: keep(x * 2), lambda kept: scramble(kept[-1])),
    "view of a result kept": (lambda x: keep((x * 2).t()).t(), lambda kept: scramble(kept[-1])),
    "result kept as a view": (lambda x: keep(x * 2)[:], lambda kept: scramble(kept[-1])),
    "numpy of a result": (
        lambda x: [y := x * 2, keep(y.numpy())][0],
        lambda kept: kept[-1].fill(-99),
    ),
    "storage of a result": (
        lambda x: [y := x * 2, keep(y.untyped_storage())][0],
        lambda kept: kept[-1].fill_(1),
    ),
    "remembered by a module": (remembering, lambda _: scramble(remembering.last)),
    "a buffer": (lambda x: buffered.table, lambda _: scramble(buffered.table)),
    "a parameter": (lambda x: weighted.weight, lambda _: scramble(weighted.weight)),
    "a global": (lambda x: HELD, lambda _: scramble(HELD)),
    "a view of a global": (lambda x: VIEWED[3:6], lambda _: scramble(VIEWED)),
    "a global expanded": (lambda x: VIEWED[:1].expand(3, 2), lambda _: scramble(VIEWED)),
    "out of a cache": (lambda x: cached(2), lambda _: scramble(cached(2))),
    "an array": (lambda x: torch.from_numpy(ARRAY), lambda _: ARRAY.fill(-99)),
    "a buffer of bytes": (
        lambda x: torch.frombuffer(BYTES, dtype=torch.float32).view(3, 2),
        lambda _: BYTES.__setitem__(slice(4), b"wild"),
    ),
    "shared memory": (lambda x: SHARED, lambda _: scramble(SHARED)),
    "dlpack": (lambda x: torch.from_dlpack(HELD), lambda _: scramble(HELD)),
    "the same storage": (
        lambda x: torch.empty(0).set_(HELD.untyped_storage(), 0, (3, 2)),
        lambda _: scramble(HELD),
    ),
    "an inference tensor": (lambda x: INFERENCE, lambda _: scramble(INFERENCE)),
    "with gradient": (
        lambda x: keep(torch.enable_grad()(lambda: x.clone().requires_grad_() * 1)()),
        lambda kept: scramble(kept[-1]),
    ),
    "a lazy clone": (lambda x: torch._lazy_clone(HELD), lambda _: scramble(HELD)),
}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
@pytest.mark.parametrize(("recipe", "corrupt"), RESULTS.values(), ids=RESULTS.keys())
def test_a_returned_value_is_nobody_elses_memory(mem, kept, recipe, corrupt):
    page = mem.derive(recipe, "x", name="p")
    below = mem.derive(lambda p: p + 1, name="below")
    held, held_below = page.tensor, below.tensor
    moment = mem.at(mem.tx)
    then = moment["p"]
    wanted = held.clone()
    assert torch.equal(held_below, wanted + 1)
    corrupt(kept)
    assert same_bits(held, wanted)
    assert torch.equal(held_below, wanted + 1)
    assert same_bits(then, wanted)
    assert same_bits(moment["p"], wanted)
    assert torch.equal(below.tensor, page.tensor + 1)
    mem.update("x", 100.0)
    mem.propagate()
    assert same_bits(held, wanted)


INPUTS = {
    "itself": lambda x: x,
    "a view": lambda x: x[1:],
    "transposed": lambda x: x.t(),
    "expanded": lambda x: x[:1].expand(4, 2),
    "detached": lambda x: x.detach(),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "reinterpreted": lambda x: x.view(torch.int32),
}


@pytest.mark.parametrize("recipe", INPUTS.values(), ids=INPUTS.keys())
def test_results_that_are_views_of_inputs(mem, recipe):
    page = mem.derive(recipe, "x", name="p")
    further = mem.derive(lambda p: p, "p", name="further")
    first = further.tensor, page.tensor, mem["x"].tensor
    before = [value.clone() for value in first]
    mem.update("x", torch.zeros(1, 2), rows=[1])
    mem.update("x", 5.0, mask=torch.ones(3, 2, dtype=torch.bool))
    assert torch.equal(further.tensor, recipe(mem["x"].clone()))
    page.tensor.zero_()
    with pytest.raises(mmsb.PageMutatedError):
        _ = page.tensor
    assert torch.equal(mem["x"].tensor, torch.full((3, 2), 5.0))
    assert torch.equal(further.tensor, recipe(mem["x"].clone()))
    assert torch.equal(page.tensor, recipe(mem["x"].clone()))
    assert all(
        same_bits(a, b) for a, b in zip(first[:1] + first[2:], before[:1] + before[2:], strict=True)
    )


def test_in_place_corruption_of_a_returned_value(mem):
    page = mem.derive(lambda x: x * 2, "x", name="p")
    below = mem.derive(lambda p: p + 1, name="below")
    wanted = below.clone()
    for spoil in (
        lambda t: t.add_(1),
        lambda t: t.view(-1)[2:].zero_(),
        lambda t: t.t().copy_(torch.ones(2, 3)),
        lambda t: t.unsqueeze(0).mul_(2),
        lambda t: t.detach().fill_(3),
    ):
        spoil(page.tensor)
        with pytest.raises(mmsb.PageMutatedError, match="'p'"):
            _ = page.tensor
        assert torch.equal(below.tensor, wanted)
        assert torch.equal(page.tensor, wanted - 1)
        spoil(page.clone())
        spoil(page.read())
        spoil(page.read(rows=[0, 1, 2]))
        assert torch.equal(page.tensor, wanted - 1)


def test_a_recipe_never_sees_a_corrupted_input(mem):
    """Whoever wrote through `page.tensor`, what is computed from it is not computed from that."""
    page = mem.derive(lambda x: x * 2, "x", name="p")
    mem["x"].tensor.zero_()
    with pytest.raises(mmsb.PageMutatedError, match="'x'"):
        _ = page.tensor
    assert torch.equal(page.tensor, (torch.arange(6.0).view(3, 2) + 1) * 2)
    mem["x"].tensor.zero_()
    mem.derive(lambda p: p + 1, name="below")
    page.tensor.zero_()
    for _ in range(3):  # one page is found out at a time
        with contextlib.suppress(mmsb.PageMutatedError):
            mem.propagate()
    assert mem.propagate() == []
    assert torch.equal(mem["below"].tensor, (torch.arange(6.0).view(3, 2) + 1) * 2 + 1)


def test_writes_through_views_inside_a_recipe(mem):
    """A replay that lost a write through a view gave [24, 24, 24, 24]."""

    def recipe(x):
        value = torch.full((4,), 8.0) + 0 * x.sum()
        view = value[:2]
        view.mul_(3)
        value.mul_(3)
        return value

    page = mem.derive(recipe, "x", name="p")
    for step in range(3):
        mem.update("x", float(step))
        assert page.tensor.tolist() == [72, 72, 24, 24]
