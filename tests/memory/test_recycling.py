"""Memory of values of before is used again, and never while anybody can see it."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.runtime.state import table
from mmsb_torch.testing import FailingDisk, abandon, open_on

SHAPE = (40, 30)  # above what is compared with the present value


def noise(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


steps = st.one_of(
    st.tuples(st.sampled_from(["whole", "later", "later"]), st.integers(0, 99)),
    st.tuples(st.sampled_from(["row", "hold", "let go", "past", "sync"]), st.integers(0, 39)),
)


@given(st.lists(steps, min_size=4, max_size=25))
def test_nobody_sees_memory_that_is_used_again(changes):
    """Aliases keep their bits, and the log holds what was committed, whatever is recycled."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "RECYCLED_BYTES", 1)
        memory = open_on(FailingDisk(), Path(folder) / "run.mmsb")
        memory.page("a", noise(0))
        wanted, held, now = {memory.tx: noise(0)}, [], noise(0)
        for what, number in changes:
            if what in {"whole", "later"}:
                now = noise(number)
                with memory.commit(wait=what == "whole") as tx:
                    tx.update("a", now)
            elif what == "row":
                now = now.clone()
                now[number] = 5
                memory.update("a", 5.0, rows=[number])
            elif what == "hold":
                alias = memory["a"].tensor
                held.append((alias, alias.clone()))
            elif what == "let go":
                held = held[1:]
            elif what == "past":
                tx = sorted(wanted)[number % len(wanted)]
                value = memory.at(tx)["a"]
                held.append((value, wanted[tx]))
            else:
                memory.sync()
            wanted[memory.tx] = now.clone()
            assert torch.equal(memory["a"].tensor, now)
            assert all(torch.equal(alias, value) for alias, value in held)
        memory.sync()
        abandon(memory)
        with mmsb.open(Path(folder) / "run.mmsb", mode="r") as memory:
            for tx, value in wanted.items():
                assert torch.equal(memory.at(tx)["a"], value)


def test_a_page_that_is_written_whole_uses_two_buffers_in_turn(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb", durability="none") as memory:
        memory.page("a", torch.zeros(512, 1024))
        entry, places = memory._router.table.find("a"), []
        for step in range(1, 9):
            memory.update("a", torch.full((512, 1024), float(step)))
            places.append(entry.tensor.data_ptr())
        assert len(set(places[2:])) == 2
        assert len(entry.retired) == 1
        memory.update("a", 7.0, rows=[3])  # it is not written whole any more
        assert not entry.retired


def test_a_page_that_was_written_whole_once_keeps_no_other_memory(tmp_path):
    with mmsb.open(tmp_path / "run.mmsb") as memory:
        memory.page("a", torch.zeros(512, 1024))
        memory.update("a", torch.ones(512, 1024))
        assert not memory._router.table.find("a").retired
    with mmsb.open() as memory:  # in RAM the history keeps every value as it is
        memory.page("a", torch.zeros(512, 1024))
        for step in range(1, 5):
            memory.update("a", torch.full((512, 1024), float(step)))
        assert not memory._router.table.find("a").retired
        assert memory.at(2)["a"][0, 0] == 1
