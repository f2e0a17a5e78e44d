"""Appends that cannot be: pages without rows, and rows that do not fit."""

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

BAD = mmsb.InvalidDeltaError


def append(*args, **options):
    return lambda memory: memory.append(*args, **options)


APPENDS = {
    "a derived page": (
        append("d", torch.ones(1, 3)),
        mmsb.DerivedPageError,
        ("'d' is derived", "inputs"),
    ),
    "a page that is not there": (append("no", torch.ones(1, 3)), mmsb.PageNotFoundError, ("'no'",)),
    "a 0-dim page": (append("zero", torch.ones(1)), BAD, ("'zero'", "0-dim", "no rows")),
    "another width": (append("a", torch.ones(1, 4)), BAD, ("float32[n, 3]", "float32[1, 4]")),
    "more dimensions": (append("a", torch.ones(1, 3, 1)), BAD, ("float32[n, 3]", "[1, 3, 1]")),
    "one row without its dimension": (append("a", torch.ones(3)), BAD, ("float32[3]", "row[None]")),
    "another dtype": (
        append("a", torch.ones(1, 3, dtype=torch.float64)),
        BAD,
        ("float32[n, 3]", "float64[1, 3]", "Cast"),
    ),
    "a 0-dim tensor": (append("a", torch.tensor(1.0)), BAD, ("float32[n, 3]", "float32[]")),
    "a number": (append("a", 1.0), BAD, ("float32[n, 3]", "a float")),
    "a list": (append("a", [[1.0, 2.0, 3.0]]), BAD, ("float32[n, 3]", "a list")),
    "nothing": (append("a", None), BAD, ("float32[n, 3]", "NoneType")),
    "a numpy array of another dtype": (append("a", np.ones((1, 3))), BAD, ("float64[1, 3]",)),
    "another device": (append("a", torch.ones(1, 3, device="meta")), BAD, ("meta", "cpu")),
    "a sparse tensor": (append("a", torch.ones(1, 3).to_sparse()), BAD, ("layout",)),
    "no rows of another width": (append("a", torch.ones(0, 4)), BAD, ("float32[0, 4]",)),
    "an epoch of the past": (
        append("a", torch.ones(1, 3), epoch=0),
        mmsb.EpochConflictError,
        ("epoch 1", "expected 0"),
    ),
    "an epoch that is none": (append("a", torch.ones(1, 3), epoch="1"), BAD, ("epoch=", "'1'")),
    "rows beyond the end": (lambda m: m.update("a", 1.0, rows=[5]), BAD, ("5", "-5 to 4")),
}


@pytest.mark.parametrize(
    ("call", "kind", "words"), APPENDS.values(), ids=[name.replace(" ", "_") for name in APPENDS]
)
def test_appends_that_do_not_fit(refused, call, kind, words):
    refused(call, kind, words)


@pytest.mark.parametrize("name", [name for name in APPENDS if "epoch" not in name])
def test_nothing_of_a_transaction_is_applied(refused, name):
    call, kind, words = APPENDS[name]

    def commit(memory):
        with memory.commit() as tx:
            tx.update("a", 5.0, rows=[0])
            tx.append("a", torch.ones(2, 3))
            tx.append("long", torch.ones(7))
            if name == "rows beyond the end":
                tx.update("a", 1.0, rows=[7])
            call(_Appender(memory, tx))

    words = words if name != "rows beyond the end" else ("7", "-7 to 6")
    refused(commit, kind, words)


class _Appender:
    """A memory whose `append` is that of a transaction."""

    def __init__(self, memory, tx):
        self._memory, self.append, self.update = memory, tx.append, tx.update


def test_a_recipe_cannot_append(room):
    def recipe(a):
        room.append("b", torch.ones(1, dtype=torch.int64))
        return a

    found = room.derive(recipe, "a", name="bad")
    with pytest.raises(mmsb.RecipeError, match="only read"):
        _ = found.tensor
    assert room["b"].shape == (4,)


def test_a_closed_memory_and_a_reader_cannot_append(tmp_path):
    memory = mmsb.open(tmp_path / "x.mmsb")
    memory.page("a", torch.ones(1, 3))
    memory.close()
    with pytest.raises(mmsb.ClosedError):
        memory.append("a", torch.ones(1, 3))
    with mmsb.open(tmp_path / "x.mmsb", mode="r") as reader:
        with pytest.raises(mmsb.ReadOnlyError):
            reader.append("a", torch.ones(1, 3))
        assert reader["a"].shape == (1, 3)
