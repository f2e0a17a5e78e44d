"""What cannot be done is refused: the right class, words that help, and everything as it was."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

NAN = float("nan")


def doubled(a):
    return a * 2


@pytest.fixture
def room(mem):
    """A memory with a page of each kind, a label, a step and a computed derived page."""
    mem.page("a", torch.arange(15.0).view(5, 3), metadata={"unit": "m"})
    mem.page("b", torch.arange(4))
    mem.page("flag", torch.tensor([True, False, True]))
    mem.page("zero", torch.tensor(1.5))
    mem.page("empty", torch.empty(0, 2))
    mem.page("u8", torch.zeros(3, dtype=torch.uint8))
    mem.page("long", torch.zeros(100))
    mem.derive(doubled, "a", name="d")
    with mem.commit("first", step=1) as tx:
        tx.update("a", 7.0, rows=[4])
    _ = mem["d"].tensor
    return mem


@pytest.fixture
def refused(room, picture_of):
    """Checks that a call is refused, helpfully, and that nothing came of it."""

    def check(call, kind, words):
        before = picture_of(room)
        with pytest.raises(kind) as caught:
            call(room)
        error, message = caught.value, str(caught.value)
        assert isinstance(error, mmsb.MMSBError)
        assert 20 < len(message) < 800, message
        assert "frame #" not in message
        for word in words:
            assert word in message, f"{word!r} is not in: {message}"
        assert picture_of(room) == before
        assert room.update("b", 9) == room.tx == before[2] + 1
        assert room["b"].tensor.tolist() == [9, 9, 9, 9]

    return check


def table(cases):
    """Parametrise over {id: (call, class, words)}."""
    return pytest.mark.parametrize(
        ("call", "kind", "words"), cases.values(), ids=[name.replace(" ", "_") for name in cases]
    )


def update(*args, **options):
    return lambda memory: memory.update(*args, **options)


def delta(call, *words):
    return call, mmsb.InvalidDeltaError, words


def strange(dtype, count=2):
    """A tensor of one of torch's bare bit shells."""
    return torch.zeros(count, dtype=torch.uint8).view(dtype)


class Sub(torch.Tensor):
    """A tensor of a class of somebody's own."""


def sub(*shape):
    return torch.zeros(*shape).as_subclass(Sub)


def quietly(make):
    """A tensor of a layout that torch warns about once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantised(*shape):
    return quietly(lambda: torch.quantize_per_tensor(torch.zeros(*shape), 1.0, 0, torch.quint8))


def nested():
    return quietly(lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))


def csr(*shape):
    return quietly(lambda: torch.ones(*shape).to_sparse_csr())


# values of an update

VALUES = {
    "wrong shape": delta(update("a", torch.ones(4, 3)), "'a'", "float32[5, 3]", "float32[4, 3]"),
    "transposed": delta(update("a", torch.ones(3, 5)), "'a'", "float32[5, 3]", "float32[3, 5]"),
    "broadcastable": delta(update("a", torch.ones(1, 3)), "float32[5, 3]", "float32[1, 3]"),
    "one element": delta(update("a", torch.ones(1)), "float32[5, 3]", "float32[1]"),
    "0-dim page": delta(update("zero", torch.ones(1)), "'zero'", "float32[]", "float32[1]"),
    "empty page": delta(update("empty", torch.ones(2)), "'empty'", "float32[0, 2]", "float32[2]"),
    "float64": delta(
        update("a", torch.ones(5, 3, dtype=torch.float64)), "'a'", "float32", "float64", "Cast with"
    ),
    "float16": delta(update("a", torch.ones(5, 3).half()), "float32", "float16", "Cast with"),
    "int into float": delta(
        update("a", torch.ones(5, 3, dtype=torch.int32)), "float32", "int32", "Cast with"
    ),
    "float into int": delta(update("b", torch.ones(4)), "'b'", "int64", "float32", "Cast with"),
    "bool into uint8": delta(update("u8", torch.ones(3).bool()), "uint8", "bool", "Cast with"),
    "uint8 into bool": delta(
        update("flag", torch.ones(3, dtype=torch.uint8)), "bool", "uint8", "Cast with"
    ),
    "complex": delta(update("a", torch.ones(5, 3) * 1j), "float32", "complex64"),
    "0-dim float64": delta(
        update("a", torch.tensor(1.0, dtype=torch.float64)), "float32", "float64"
    ),
    "meta": delta(update("a", torch.ones(5, 3, device="meta")), "'a'", "meta", "cpu"),
    "meta 0-dim": delta(update("a", torch.ones((), device="meta")), "'a'", "meta", "cpu"),
    "sparse": delta(update("a", torch.ones(5, 3).to_sparse()), "'a'", "sparse"),
    "csr": delta(lambda m: m.update("a", csr(5, 3)), "'a'", "sparse_csr"),
    "quantised": delta(lambda m: m.update("a", quantised(5, 3)), "'a'", "quantised"),
    "nested": delta(lambda m: m.update("a", nested()), "'a'", "nested"),
    "subclass": delta(lambda m: m.update("a", sub(5, 3)), "'a'", "subclass", "Sub"),
    "None": delta(update("a", None), "'a'", "NoneType", "torch.Tensor"),
    "list": delta(update("a", [1.0, 2.0]), "'a'", "list", "torch.Tensor"),
    "string": delta(update("a", "ones"), "'a'", "str", "torch.Tensor"),
    "function": delta(update("a", torch.ones), "'a'", "torch.Tensor"),
    "page": delta(lambda m: m.update("a", m["a"]), "'a'", "Page", "torch.Tensor"),
    "numpy scalar": delta(update("a", np.float32(3)), "'a'", "float32", "torch.Tensor"),
    "numpy float64": delta(update("a", np.ones((5, 3))), "'a'", "float32", "float64"),
    "numpy shape": delta(update("a", np.ones((5,), np.float32)), "'a'", "[5, 3]", "[5]"),
    "numpy object": delta(update("a", np.array([None] * 3)), "'a'", "object"),
    "numpy strings": delta(update("a", np.array(["x"])), "'a'", "<U1"),
    "numpy record": delta(update("a", np.zeros(5, dtype=[("x", "f4")])), "'a'", "numpy"),
    "numpy other byte order": delta(
        update("a", np.ones((5, 3), dtype=">f4")), "'a'", ">f4", "byte order"
    ),
    "too few rows": delta(
        update("a", torch.ones(1, 3), rows=[0, 1]), "'a'", "rows", "[2, 3]", "[1, 3]"
    ),
    "too many rows": delta(
        update("a", torch.ones(3, 3), rows=[0, 1]), "'a'", "rows", "[2, 3]", "[3, 3]"
    ),
    "rows too narrow": delta(
        update("a", torch.ones(2, 2), rows=[0, 1]), "'a'", "rows", "[2, 3]", "[2, 2]"
    ),
    "row without its dimension": delta(
        update("a", torch.ones(3), rows=[0]), "'a'", "rows", "[1, 3]", "[3]"
    ),
    "values for no rows": delta(update("a", torch.ones(1, 3), rows=[]), "'a'", "[0, 3]", "[1, 3]"),
    "too few elements": delta(
        update("a", torch.ones(1), indices=[0, 1]), "'a'", "elements", "[2]", "[1]"
    ),
    "elements as a column": delta(
        update("a", torch.ones(2, 1), indices=[0, 1]), "'a'", "elements", "[2]", "[2, 1]"
    ),
    "compact values for a mask": delta(
        update("a", torch.ones(3), mask=torch.eye(5, 3).bool()), "'a'", "mask", "[5, 3]", "[3]"
    ),
    "wide values for a sparse mask": delta(
        update("a", torch.ones(5, 4), mask=torch.eye(5, 3).bool()), "'a'", "[5, 3]", "[5, 4]"
    ),
    "float64 for a sparse mask": delta(
        update("a", torch.ones(5, 3).double(), mask=torch.eye(5, 3).bool()), "float32", "float64"
    ),
    "meta for a sparse mask": delta(
        update("a", torch.ones(5, 3, device="meta"), mask=torch.eye(5, 3).bool()), "'a'", "meta"
    ),
    "subclass for a sparse mask": delta(
        lambda m: m.update("a", sub(5, 3), mask=torch.eye(5, 3).bool()), "'a'", "subclass"
    ),
    "wrong dtype for an empty mask": delta(
        update("a", torch.ones(5, 3).double(), mask=torch.zeros(5, 3).bool()), "float64"
    ),
    "float into int page": delta(update("b", 1.5), "'b'", "int64", "1.5"),
    "bool into int page": delta(update("b", True), "'b'", "int64", "True"),
    "complex into float page": delta(update("a", 1j), "'a'", "float32", "1j"),
    "nan into int page": delta(update("b", NAN), "'b'", "int64", "nan"),
    "int into bool page": delta(update("flag", 1), "'flag'", "bool", "1"),
    "too big": delta(update("b", 2**70), "'b'", "int64", str(2**70)),
    "negative into uint8": delta(update("u8", -1), "'u8'", "uint8", "-1"),
    "too big for uint8": delta(update("u8", 256), "'u8'", "uint8", "256"),
}


@table(VALUES)
def test_values_that_do_not_fit(refused, call, kind, words):
    refused(call, kind, words)


# rows and indices of an update

ROW = torch.ones(1, 3)
TWO = torch.ones(2, 3)


def rows(given, count=2, *, page="a"):
    return update(page, torch.ones(count, 3), rows=given)


def elements(given, count=2):
    return update("a", torch.ones(count), indices=given)


def far(size, position, value):
    """Enough distinct positions for the fast path, one of them out of place."""
    found = torch.arange(size)
    found[position] = value
    return found


SELECTIONS = {
    "out of range": delta(rows([0, 5]), "'a'", "rows", "5", "-5 to 4"),
    "negative out of range": delta(rows([0, -6]), "'a'", "rows", "-6", "-5 to 4"),
    "one out of range": delta(rows(5, 1), "'a'", "rows", "5", "-5 to 4"),
    "one negative out of range": delta(rows([-6], 1), "'a'", "rows", "-6", "-5 to 4"),
    "range out of range": delta(rows(range(4, 6)), "'a'", "rows", "5", "-5 to 4"),
    "huge range": delta(rows(range(2**62)), "'a'", "rows"),
    "huger range": delta(rows(range(2**70)), "'a'", "rows"),
    "many, out of range": delta(
        update("long", torch.ones(80), rows=far(80, 3, 100)), "'long'", "100", "-100 to 99"
    ),
    "many, negative out of range": delta(
        update("long", torch.ones(80), rows=far(80, 3, -101)), "'long'", "-101", "-100 to 99"
    ),
    "twice": delta(rows([1, 1]), "'a'", "rows", "1 twice"),
    "twice through a negative": delta(rows([1, -4]), "'a'", "rows", "1 twice", "negative"),
    "twice as a tensor": delta(rows(torch.tensor([4, -1])), "'a'", "rows", "4 twice"),
    "twice, far apart": delta(rows([3, 0, 1, 3], 4), "'a'", "rows", "3 twice"),
    "many, twice": delta(
        update("long", torch.ones(80), rows=far(80, 3, 9)), "'long'", "rows", "9 twice"
    ),
    "many, twice through a negative": delta(
        update("long", torch.ones(80), rows=far(80, 3, -100)), "'long'", "rows", "0 twice"
    ),
    "float": delta(rows([0.0, 1.0]), "'a'", "rows", "integers", "float"),
    "one float": delta(rows(1.0, 1), "'a'", "rows", "integers", "float"),
    "nan in a list": delta(rows([0, NAN]), "'a'", "rows", "integers", "nan"),
    "float tensor": delta(rows(torch.tensor([0.0, 1.0])), "'a'", "rows", "integers", "float32"),
    "nan tensor": delta(rows(torch.tensor([0.0, NAN])), "'a'", "rows", "integers", "float32"),
    "complex": delta(rows(torch.tensor([0j, 1])), "'a'", "rows", "integers", "complex"),
    "bool": delta(rows(True, 1), "'a'", "rows", "integers", "mask="),
    "bools": delta(rows([True, False, True, True, False]), "'a'", "rows", "bool", "mask="),
    "a bool among integers": delta(rows([0, True]), "'a'", "rows", "integers"),
    "bool tensor": delta(rows(torch.ones(5).bool(), 5), "'a'", "rows", "bool", "mask="),
    "None in a list": delta(rows([None, 1]), "'a'", "rows", "integers", "None"),
    "nested": delta(rows([[0, 1]]), "'a'", "rows", "[1, 2]"),
    "ragged": delta(rows([[0], [1, 2]]), "'a'", "rows", "integers"),
    "0-dim tensor": delta(rows(torch.tensor(1), 1), "'a'", "rows", "[]"),
    "2-dim tensor": delta(rows(torch.tensor([[0], [1]])), "'a'", "rows", "[2, 1]"),
    "string": delta(rows("01"), "'a'", "rows", "integers", "'01'"),
    "strings": delta(rows(["0", "1"]), "'a'", "rows", "integers", "'0'"),
    "bytes": delta(rows(b"01"), "'a'", "rows", "integers"),
    "set": delta(rows({0, 1}), "'a'", "rows", "integers", "{0, 1}"),
    "dict": delta(rows({0: 1}), "'a'", "rows", "integers"),
    "generator": delta(lambda m: m.update("a", TWO, rows=iter([0, 1])), "'a'", "rows", "integers"),
    "2**70": delta(rows(2**70, 1), "'a'", "rows", str(2**70), "-5 to 4"),
    "2**70 in a list": delta(rows([0, 2**70]), "'a'", "rows", str(2**70)),
    "2**63": delta(rows([0, 2**63]), "'a'", "rows", str(2**63)),
    "-2**63": delta(rows([0, -(2**63)]), "'a'", "rows", str(-(2**63)), "-5 to 4"),
    "uint64 beyond int64": delta(
        rows(torch.tensor([0, -1]).view(torch.uint64)), "'a'", "rows", str(2**64 - 1)
    ),
    "many uint64 beyond int64": delta(
        update("long", torch.ones(80), rows=far(80, 3, -1).view(torch.uint64)), "'long'", "rows"
    ),
    "numpy uint64 beyond int64": delta(
        rows(np.array([0, 2**64 - 1], dtype=np.uint64)), "'a'", "rows"
    ),
    "meta": delta(rows(torch.tensor([0, 1], device="meta")), "'a'", "rows", "meta"),
    "sparse": delta(rows(torch.tensor([0, 1]).to_sparse()), "'a'", "rows", "sparse"),
    "quantised": delta(lambda m: rows(quantised(2))(m), "'a'", "rows", "quantised"),
    "bits": delta(lambda m: rows(strange(torch.bits8))(m), "'a'", "rows", "bits8"),
    "nested tensor": delta(lambda m: rows(nested())(m), "'a'", "rows"),
    "slice of floats": delta(rows(slice(0, 2.0)), "'a'", "rows", "slice"),
    "slice of strings": delta(rows(slice("a", "b")), "'a'", "rows", "slice"),
    "slice without a step": delta(rows(slice(0, 2, 0)), "'a'", "rows", "slice"),
    "0-dim page": delta(update("zero", torch.ones(1), rows=[0]), "'zero'", "0-dim", "rows"),
    "empty page": delta(update("empty", torch.ones(1, 2), rows=[0]), "'empty'", "rows", "empty"),
    "element out of range": delta(elements([0, 15]), "'a'", "indices", "15", "-15 to 14"),
    "element twice": delta(elements([3, -12]), "'a'", "indices", "3 twice"),
    "element float": delta(elements([0.5, 1.0]), "'a'", "indices", "integers", "float"),
    "element bool": delta(elements([True, False]), "'a'", "indices", "bool", "mask="),
    "element bool among integers": delta(elements([0, True]), "'a'", "indices", "integers"),
    "element string": delta(elements("ab"), "'a'", "indices", "integers"),
    "element 2**70": delta(elements([0, 2**70]), "'a'", "indices", str(2**70)),
    "coordinates of another rank": delta(
        elements([[0, 1, 2], [1, 1, 1]]), "'a'", "indices", "[n, 2]", "[2, 3]"
    ),
    "coordinate out of range": delta(elements([[0, 0], [0, 3]]), "'a'", "[0, 3]", "float32[5, 3]"),
    "coordinate below range": delta(elements([[0, 0], [-6, 0]]), "'a'", "[-6, 0]"),
    "coordinate twice": delta(elements([[0, 0], [-5, -3]]), "'a'", "indices", "0 twice"),
    "coordinates of 3 dims": delta(elements([[[0, 0]]]), "'a'", "indices", "[1, 1, 2]"),
    "uint64 coordinates beyond int64": delta(
        elements(torch.tensor([[0, 0], [0, -1]]).view(torch.uint64)), "'a'", "indices"
    ),
    "rows and mask": delta(
        update("a", TWO, rows=[0, 1], mask=torch.ones(5, 3).bool()),
        "'a'",
        "rows and mask",
        "one of",
    ),
    "rows and indices": delta(
        update("a", TWO, rows=[0, 1], indices=[3]), "'a'", "rows and indices", "one of"
    ),
    "all three": delta(
        update("a", TWO, rows=[0], indices=[3], mask=[1]), "'a'", "rows and indices and mask"
    ),
}


@table(SELECTIONS)
def test_selections_that_do_not_fit(refused, call, kind, words):
    refused(call, kind, words)


def test_a_float_as_a_row_means_no_row_even_if_it_is_whole(room):
    with pytest.raises(mmsb.InvalidDeltaError, match="integers"):
        room["a"].read([1.0])


READS = {
    "out of range": ([7], ["'a'", "rows", "7", "-5 to 4"]),
    "twice": ([2, -3], ["'a'", "rows", "2 twice"]),
    "float": (0.5, ["'a'", "rows", "integers"]),
    "bool": (True, ["'a'", "rows", "integers"]),
    "string": ("1", ["'a'", "rows", "integers"]),
    "2**70": ([2**70], ["'a'", "rows", str(2**70)]),
}


@pytest.mark.parametrize(("given", "words"), READS.values(), ids=READS.keys())
def test_reading_rows_that_are_not_there(refused, given, words):
    refused(lambda m: m["a"].read(given), mmsb.InvalidDeltaError, words)


@pytest.mark.parametrize("given", [[7], [2, -3], 0.5])
def test_a_refused_read_does_not_speak_of_updates(room, given):
    with pytest.raises(mmsb.InvalidDeltaError) as caught:
        room["a"].read(given)
    assert "update" not in str(caught.value)


# masks of an update


def mask(given):
    return update("a", torch.ones(5, 3), mask=given)


MASKS = {
    "wrong shape": delta(mask(torch.ones(3, 5).bool()), "'a'", "mask", "bool[5, 3]", "bool[3, 5]"),
    "broadcastable": delta(mask(torch.ones(5, 1).bool()), "'a'", "bool[5, 3]", "bool[5, 1]"),
    "rows": delta(mask(torch.ones(5).bool()), "'a'", "bool[5, 3]", "bool[5]", "rows="),
    "0-dim": delta(mask(torch.tensor(True)), "'a'", "bool[5, 3]", "bool[]"),
    "uint8": delta(mask(torch.ones(5, 3).byte()), "'a'", "bool[5, 3]", "uint8[5, 3]"),
    "float": delta(mask(torch.ones(5, 3)), "'a'", "bool[5, 3]", "float32[5, 3]"),
    "meta": delta(mask(torch.ones(5, 3, device="meta").bool()), "'a'", "mask", "meta"),
    "sparse": delta(mask(torch.ones(5, 3).bool().to_sparse()), "'a'", "mask", "sparse"),
    "nested": delta(lambda m: mask(nested())(m), "'a'", "mask", "nested"),
    "list": delta(mask([[True] * 3] * 5), "'a'", "mask", "list"),
    "numpy": delta(mask(np.ones((5, 3), bool)), "'a'", "mask", "ndarray"),
    "True": delta(mask(True), "'a'", "mask", "bool[5, 3]"),
    "string": delta(mask("all"), "'a'", "mask", "str"),
}


@table(MASKS)
def test_masks_that_do_not_fit(refused, call, kind, words):
    refused(call, kind, words)


# which page, which transaction


def foreign_page(memory):
    with mmsb.open() as other:
        return memory.update(other.page("a", torch.zeros(5, 3)), torch.ones(5, 3))


def foreign_input(memory):
    with mmsb.open() as other:
        return memory.derive(doubled, other.page("a", torch.zeros(5, 3)), name="x")


def foreign_keyword(memory):
    with mmsb.open() as other:
        return memory.derive(doubled, a=other.page("a", torch.zeros(5, 3)), name="x")


def not_found(call, *words):
    return call, mmsb.PageNotFoundError, words


PAGES = {
    "unknown": not_found(update("nobody", torch.ones(1)), "'nobody'"),
    "near": not_found(update("flags", torch.ones(1)), "'flags'", "Did you mean 'flag'"),
    "by number": not_found(update(1, torch.ones(5, 3)), "1"),
    "None": not_found(update(None, torch.ones(1)), "None"),
    "a tensor": not_found(update(torch.ones(1), torch.ones(1)), "Page or a page's name"),
    "a foreign page": not_found(foreign_page, "'a'", "another memory"),
    "a foreign input": not_found(foreign_input, "'a'", "another memory"),
    "a foreign keyword": not_found(foreign_keyword, "'a'", "another memory"),
    "look up": not_found(lambda m: m["nobody"], "'nobody'"),
    "look up a number": not_found(lambda m: m[99], "99"),
    "look up None": not_found(lambda m: m[None], "None"),
    "look up True": not_found(lambda m: m[True], "True"),
    "look up a float": not_found(lambda m: m[1.0], "1.0"),
    "look up a list": not_found(lambda m: m[["a"]], "['a']"),
    "look up a page": not_found(lambda m: m[m["a"]], "'a'"),
    "page": not_found(lambda m: m.page("nobody"), "'nobody'", "mem.page(name, tensor)"),
    "page with a dtype": not_found(lambda m: m.page("nobody", dtype=torch.int8), "'nobody'"),
    "why": not_found(lambda m: m.why("nobody"), "'nobody'"),
    "why a number": not_found(lambda m: m.why(3), "3"),
    "at": not_found(lambda m: m.at(1)["nobody"], "'nobody'"),
    "at, later page": not_found(lambda m: m.at(1)["b"], "'b'", "transaction 1"),
    "at, epoch of nobody": not_found(lambda m: m.at(1).epoch("nobody"), "'nobody'"),
    "at, epoch of a later page": not_found(lambda m: m.at(1).epoch("b"), "'b'", "transaction 1"),
    "many": not_found(lambda m: m.update_many([("b", None, 1), ("nobody", None, 1)]), "'nobody'"),
}


@table(PAGES)
def test_pages_that_are_not_there(refused, call, kind, words):
    refused(call, kind, words)


def test_what_is_no_name_is_in_no_memory(room):
    for thing in (5, None, 1.0, True, room["a"]):
        assert thing not in room


MANY = {
    "None": delta(lambda m: m.update_many(None), "update_many"),
    "a number": delta(lambda m: m.update_many(5), "update_many"),
    "pairs": delta(lambda m: m.update_many([("a", torch.ones(5, 3))]), "update_many", "rows"),
    "a name": delta(lambda m: m.update_many(["abc"]), "update_many", "'abc'"),
    "one bad of two": delta(
        lambda m: m.update_many([("b", None, 1), ("a", [9], ROW)]), "'a'", "9", "-5 to 4"
    ),
}


@table(MANY)
def test_update_many_that_does_not_fit(refused, call, kind, words):
    refused(call, kind, words)


def test_an_iterable_that_raises_half_way_changes_nothing(room, picture_of):
    before = picture_of(room)

    def updates():
        yield "b", None, 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        room.update_many(updates())
    assert picture_of(room) == before


BAD_LABELS = [5, "", b"x", ["x"], 1.5, True, ("a",)]


@pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
def test_labels_that_are_none(refused, label):
    refused(lambda m: m.commit(label), mmsb.HistoryError, ["label", repr(label)])


@pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
def test_update_many_takes_no_such_labels_either(refused, label):
    refused(
        lambda m: m.update_many([("b", None, 1)], label=label),
        mmsb.HistoryError,
        ["label", repr(label)],
    )


@pytest.mark.parametrize("step", [-1, 1.0, True, "1", [1], NAN, torch.tensor(1)], ids=repr)
def test_steps_that_are_none(refused, step):
    refused(lambda m: m.commit("x", step=step), mmsb.HistoryError, ["step", repr(step)])


@pytest.mark.parametrize("epoch", ["0", 0.0, NAN, [0], False], ids=repr)
def test_epochs_that_are_none(refused, epoch):
    refused(
        lambda m: m.update("b", 1, epoch=epoch),
        mmsb.InvalidDeltaError,
        ["'b'", "epoch", repr(epoch)],
    )


def test_an_epoch_that_never_was_is_a_conflict(refused):
    refused(update("b", 1, epoch=-1), mmsb.EpochConflictError, ["'b'", "epoch 0", "-1"])
    refused(update("b", 1, epoch=2**70), mmsb.EpochConflictError, ["'b'", "epoch 1"])


# new pages


def invalid(call, *words):
    return call, mmsb.InvalidPageError, words


def make(*args, **options):
    return lambda memory: memory.page(*args, **options)


def looped():
    found = {}
    found["self"] = found
    return found


ONE = torch.ones(1)

NEW = {
    "empty name": invalid(make("", ONE), "name", "0 characters"),
    "reserved name": invalid(make("__metadata__", ONE), "name", "__metadata__"),
    "surrogate": invalid(make("a\ud800", ONE), "name", "\\ud800"),
    "newline": invalid(make("a\nb", ONE), "name", "\\n"),
    "nul": invalid(make("a\0", ONE), "name", "\\x00"),
    "delete": invalid(make("a\x7f", ONE), "name", "\\x7f"),
    "c1 control": invalid(make("a\x85", ONE), "name", "\\x85"),
    "too long": invalid(make("x" * 1025, ONE), "name", "1025", "1024"),
    "number": invalid(make(5, ONE), "name", "int"),
    "None": invalid(make(None, ONE), "name", "NoneType"),
    "bytes": invalid(make(b"x", ONE), "name", "bytes"),
    "no value, bad name": invalid(make(""), "name"),
    "list for a name": invalid(make(["x"], ONE), "name", "list"),
    "sparse": invalid(make("x", ONE.to_sparse()), "'x'", "sparse"),
    "quantised": invalid(lambda m: m.page("x", quantised(2)), "'x'", "quantised"),
    "nested": invalid(lambda m: m.page("x", nested()), "'x'", "nested"),
    "meta": invalid(make("x", torch.ones(1, device="meta")), "'x'", "meta"),
    "subclass": invalid(lambda m: m.page("x", sub(2)), "'x'", "subclass"),
    "list": invalid(make("x", [1.0]), "'x'", "list"),
    "number as a value": invalid(make("x", 5.0), "'x'", "float"),
    "numpy": invalid(make("x", np.ones(1)), "'x'", "ndarray"),
    "a page": invalid(lambda m: m.page("x", m["a"]), "'x'", "Page"),
    "both": invalid(make("x", ONE, shape=(1,)), "'x'", "both", "shape="),
    "dtype that is not the value's": invalid(make("x", ONE, dtype=torch.int8), "float32", "int8"),
    "dtype as a string": invalid(
        make("x", shape=(1,), dtype="float32"), "'x'", "dtype", "'float32'"
    ),
    "dtype as a type": invalid(make("x", shape=(1,), dtype=float), "'x'", "dtype"),
    "quantised dtype": invalid(make("x", shape=(1,), dtype=torch.qint8), "'x'", "qint8"),
    "negative size": invalid(make("x", shape=(2, -1)), "'x'", "shape", "(2, -1)"),
    "float size": invalid(make("x", shape=(2.0,)), "'x'", "shape", "2.0"),
    "nan size": invalid(make("x", shape=(NAN,)), "'x'", "shape", "nan"),
    "bool size": invalid(make("x", shape=(True,)), "'x'", "shape", "True"),
    "string size": invalid(make("x", shape="23"), "'x'", "shape", "'23'"),
    "number for a shape": invalid(make("x", shape=5), "'x'", "shape", "5"),
    "huge size": invalid(make("x", shape=(2**62,)), "'x'", str(2**62)),
    "huger size": invalid(make("x", shape=(2**70,)), "'x'", str(2**70)),
    "huge product": invalid(make("x", shape=(2**31, 2**31, 4)), "'x'", str(2**31)),
    "huge size of nothing": invalid(make("x", shape=(0, 2**70)), "'x'", str(2**70)),
    "metadata set": invalid(make("x", ONE, metadata={"k": {1}}), "'x'", "metadata", "set"),
    "metadata nan": invalid(make("x", ONE, metadata={"k": NAN}), "'x'", "metadata"),
    "metadata inf": invalid(make("x", ONE, metadata={"k": [math.inf]}), "'x'", "metadata"),
    "metadata cycle": invalid(lambda m: m.page("x", ONE, metadata=looped()), "'x'", "metadata"),
    "metadata keys": invalid(make("x", ONE, metadata={1: 2}), "'x'", "metadata", "strings"),
    "metadata inner keys": invalid(
        make("x", ONE, metadata={"k": {1: 2}}), "'x'", "metadata", "strings"
    ),
    "metadata keys that collide": invalid(
        make("x", ONE, metadata={"k": [{1: 2, "1": 3}]}), "'x'", "metadata", "strings"
    ),
    "metadata tensor": invalid(make("x", ONE, metadata={"k": ONE}), "'x'", "metadata", "Tensor"),
    "metadata bytes": invalid(make("x", ONE, metadata={"k": b"x"}), "'x'", "metadata", "bytes"),
    "metadata list": invalid(make("x", ONE, metadata=[("k", 1)]), "'x'", "metadata"),
    "metadata string": invalid(make("x", ONE, metadata="k"), "'x'", "metadata"),
    "page id string": invalid(make("x", ONE, page_id="7"), "'x'", "page_id", "'7'"),
    "page id float": invalid(make("x", ONE, page_id=70.0), "'x'", "page_id", "70.0"),
    "page id bool": invalid(make("x", ONE, page_id=True), "'x'", "page_id", "True"),
    "page id negative": invalid(make("x", ONE, page_id=-5), "'x'", "page_id", "-5"),
    "page id zero": invalid(make("x", ONE, page_id=0), "'x'", "page_id", "0"),
    "page id huge": invalid(make("x", ONE, page_id=2**70), "'x'", "page_id", str(2**70)),
    "page id in use": (make("x", ONE, page_id=2), mmsb.PageExistsError, ["2", "'b'"]),
    "page id of a derived page": (make("x", ONE, page_id=8), mmsb.PageExistsError, ["8", "'d'"]),
    "device meta": (make("x", ONE, device="meta"), mmsb.UnsupportedLocationError, ["meta"]),
    "device nonsense": (make("x", ONE, device="tape"), mmsb.UnsupportedLocationError, ["'tape'"]),
    "device unified": (
        make("x", ONE, device=mmsb.PageLocation.UNIFIED),
        mmsb.UnsupportedLocationError,
        ["unified", "device='cpu'"],
    ),
    "device number": (make("x", ONE, device=1.5), mmsb.UnsupportedLocationError, ["1.5"]),
    "unknown kind": (make("x", kind="nobody's"), mmsb.InvalidRecipeError, ['"nobody\'s"']),
    "kind of a root": (make("a", kind="nobody's"), mmsb.InvalidRecipeError, ["nobody's"]),
    "kind number": (make("x", kind=5), mmsb.InvalidRecipeError, ["kind", "5"]),
    "kind list": (make("x", kind=["k"]), mmsb.InvalidRecipeError, ["kind", "['k']"]),
}


@table(NEW)
def test_pages_that_cannot_be_made(refused, call, kind, words):
    refused(call, kind, words)


def test_a_page_of_a_kind_takes_no_value(refused):
    mmsb.register_recomputation("kind and value", lambda memory, page: memory["a"].tensor)
    refused(make("x", ONE, kind="kind and value"), mmsb.InvalidPageError, ["'x'", "kind"])
    refused(make("x", shape=(1,), kind="kind and value"), mmsb.InvalidPageError, ["'x'", "kind"])


def test_the_page_of_a_root_is_of_no_kind(refused):
    mmsb.register_recomputation("kind of a root", lambda memory, page: memory["b"].tensor)
    refused(make("a", kind="kind of a root"), mmsb.PageExistsError, ["'a'", "no derived page"])


def test_no_id_is_lost_to_refused_pages(room):
    for call, kind, _ in NEW.values():
        with pytest.raises(kind):
            call(room)
    assert room.page("x", ONE).id == 9


# recipes that cannot be declared


def recipe(call, *words):
    return call, mmsb.InvalidRecipeError, words


def derive(*args, **options):
    return lambda memory: memory.derive(*args, **options)


def two(a, b):
    return a


def only_positional(a, /):
    return a


RECIPES = {
    "number": recipe(derive(5, "a", name="x"), "callable", "5"),
    "string": recipe(derive("doubled", "a", name="x"), "callable", "'doubled'"),
    "page": recipe(lambda m: m.derive(m["a"], name="x"), "callable"),
    "None with pages": recipe(derive(None, "a"), "callable"),
    "lambda without a name": recipe(derive(lambda a: a, "a"), "name="),
    "partial without a name": recipe(derive(functools.partial(two, b=1), "a"), "name="),
    "too many": recipe(derive(doubled, "a", "b", name="x"), "doubled", "too many"),
    "too few": recipe(derive(two, "a", name="x"), "two", "'b'"),
    "unknown keyword": recipe(derive(doubled, "a", name="x", factor=2), "doubled", "factor"),
    "given twice": recipe(lambda m: m.derive(doubled, "a", a=m["a"], name="x"), "doubled", "'a'"),
    "positional-only by name": recipe(derive(only_positional, name="x"), "'a'", "positional-only"),
    "no signature": recipe(derive(min, name="x"), "min"),
    "unknown page": not_found(derive(doubled, "nobody", name="x"), "'nobody'"),
    "unknown parameter": not_found(derive(lambda a, nobody: a, name="x"), "'nobody'"),
    "a tensor": not_found(derive(doubled, torch.ones(2), name="x"), "Page or a page's name"),
    "a number as a page": not_found(derive(doubled, 1, name="x"), "1"),
    "name of a root": (derive(doubled, "a", name="b"), mmsb.PageExistsError, ["'b'", "name="]),
    "own input": (derive(doubled, "a", name="a"), mmsb.PageExistsError, ["'a'"]),
    "empty name": invalid(derive(doubled, "a", name=""), "name", "0 characters"),
    "name of another type": invalid(derive(doubled, "a", name=5), "name", "int"),
    "newline": invalid(derive(doubled, "a", name="a\nb"), "name", "\\n"),
    "reserved": invalid(derive(doubled, "a", name="__metadata__"), "name", "__metadata__"),
    "metadata": invalid(derive(doubled, "a", name="x", metadata={1: 2}), "'x'", "metadata"),
    "itself": (derive(doubled, "d", name="d"), mmsb.CycleDetectedError, ["'d'"]),
}


@table(RECIPES)
def test_recipes_that_cannot_be_declared(refused, call, kind, words):
    refused(call, kind, words)


def test_a_cycle_is_refused_with_its_path(room, picture_of):
    room.derive(doubled, "d", name="e")
    room.derive(doubled, "e", name="f")
    room.propagate()
    before = picture_of(room)
    with pytest.raises(mmsb.CycleDetectedError) as caught:
        room.derive(doubled, "f", name="d")
    assert isinstance(caught.value, ValueError)
    assert all(f"'{name}'" in str(caught.value) for name in "def")
    assert picture_of(room) == before
    assert torch.equal(room["f"].tensor, room["a"].tensor * 8)


@pytest.mark.parametrize("kind", ["", None, 5, ["k"]], ids=repr)
def test_kinds_that_are_none(kind):
    with pytest.raises(mmsb.InvalidRecipeError, match="kind"):
        mmsb.register_recomputation(kind, lambda memory, page: None)


@pytest.mark.parametrize("function", [None, 5, "f"], ids=repr)
def test_a_kind_needs_a_function(function):
    with pytest.raises(mmsb.InvalidRecipeError, match=r"fn\(memory, page\)"):
        mmsb.register_recomputation("kind without function", function)


# recipes that fail


def returning(make_value):
    def failing(a):
        return make_value(a)

    return failing


def raising(a):
    raise ZeroDivisionError("by nothing")


def asserting(a):
    raise AssertionError


def stopping(a):
    raise StopIteration


def writing(a):
    a.add_(1)
    return a * 1


def writing_elsewhere(a):
    a.view(-1)[0] = 99
    return torch.zeros(1)


def yielding(a):
    yield a


def deep(a):
    return deep(a)


RUNS = {
    "None": (returning(lambda a: None), ["NoneType", "torch.Tensor"]),
    "number": (returning(lambda a: 5.0), ["float", "torch.Tensor"]),
    "tuple": (returning(lambda a: (a, a)), ["tuple", "torch.Tensor"]),
    "list": (returning(lambda a: [a]), ["list", "torch.Tensor"]),
    "dict": (returning(lambda a: {"a": a}), ["dict", "torch.Tensor"]),
    "numpy": (returning(lambda a: a.numpy()), ["ndarray", "torch.Tensor"]),
    "named tuple": (returning(lambda a: a.max(0)), ["max", "torch.Tensor"]),
    "sparse": (returning(lambda a: a.to_sparse()), ["sparse"]),
    "meta": (returning(lambda a: a.to("meta")), ["meta"]),
    "subclass": (returning(lambda a: a.as_subclass(Sub)), ["subclass", "Sub"]),
    "quantised": (returning(lambda a: quantised(2)), ["quantised"]),
    "raises": (raising, ["raising", "ZeroDivisionError", "by nothing"]),
    "asserts": (asserting, ["asserting", "AssertionError"]),
    "stops": (stopping, ["StopIteration"]),
    "wrong shapes": (returning(lambda a: a @ a), ["RuntimeError"]),
    "writes into its input": (writing, ["'a'", "clone()"]),
    "writes into a view of it": (writing_elsewhere, ["'a'", "clone()"]),
    "generator": (yielding, ["generator"]),
    "recursion": (deep, ["RecursionError"]),
}


@pytest.mark.parametrize(("function", "words"), RUNS.values(), ids=RUNS.keys())
def test_a_recipe_that_fails_leaves_its_page_stale_and_the_rest_alone(
    room, function, words, picture_of
):
    before = picture_of(room)
    page = room.derive(function, "a", name="x")
    below = room.derive(doubled, "x", name="below")
    for target in (page, page, below):
        with pytest.raises(mmsb.RecipeError) as caught:
            _ = target.tensor
        assert isinstance(caught.value, RuntimeError)
        assert len(str(caught.value)) < 800
        for word in ["'x'", *words]:
            assert word in str(caught.value), str(caught.value)
    assert room.why(page).status == "failed"
    assert "failed" in repr(page)
    assert room.stats()["failed"] >= 2
    room.derive(doubled, "a", name="x")
    assert torch.equal(below.tensor, room["a"].tensor * 4)
    after = picture_of(room)
    assert {name: after[0][name] for name in before[0]} == before[0]
    assert after[2] == before[2]


def test_the_cause_of_a_failure_is_kept(room):
    page = room.derive(raising, "a")
    with pytest.raises(mmsb.RecipeError) as caught:
        _ = page.tensor
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.page_id == page.id


def test_a_failed_page_keeps_nobody_from_the_others(room):
    room.derive(raising, "a", name="bad")
    good = room.derive(doubled, "b", name="good")
    with pytest.raises(mmsb.RecipeError, match="'bad'"):
        room.propagate()
    assert room.why(good).status == "fresh"
    assert good.tensor.tolist() == [0, 2, 4, 6]


def test_a_failure_passes_with_its_cause(room):
    page = room.derive(lambda b: 12 // b, "b", name="ratio")
    page_of_one = room.derive(lambda ratio: ratio + 1, "ratio", name="more")
    room.update("b", torch.tensor([1, 2, 3, 4]))
    assert page.tensor.tolist() == [12, 6, 4, 3]
    room.update("b", 0)
    with pytest.raises(mmsb.RecipeError, match="ZeroDivisionError"):
        _ = page_of_one.tensor
    assert page.epoch == 1
    room.update("b", torch.tensor([1, 2, 3, 4]))
    assert page_of_one.tensor.tolist() == [13, 7, 5, 4]


def test_an_interrupt_in_a_recipe_passes_and_the_next_read_computes(room):
    interrupt = [True]

    def touchy(a):
        if interrupt:
            interrupt.clear()
            raise KeyboardInterrupt
        return a + 1

    page = room.derive(touchy, "a")
    with pytest.raises(KeyboardInterrupt):
        _ = page.tensor
    assert torch.equal(page.tensor, room["a"].tensor + 1)


def test_a_recipe_that_reads_itself_is_a_cycle(room, bounded):
    page = room.derive(lambda a: room["x"].tensor, "a", name="x")

    def read():
        with pytest.raises((mmsb.CycleDetectedError, mmsb.RecipeError), match="'x'"):
            _ = page.tensor

    bounded(read)
    room.derive(doubled, "a", name="x")
    assert torch.equal(page.tensor, room["a"].tensor * 2)


def test_a_recipe_that_reads_an_unknown_page_fails(room):
    page = room.derive(lambda a: room["nobody"].tensor, "a", name="x")
    with pytest.raises(mmsb.RecipeError, match="'nobody'"):
        _ = page.tensor


def test_a_kind_that_writes_into_what_it_reads_fails(room):
    def recompute(memory, page):
        value = memory["a"].tensor
        value.add_(1)
        return value * 1

    mmsb.register_recomputation("kind that writes", recompute)
    before = room["a"].clone()
    page = room.page("k", kind="kind that writes")
    with pytest.raises(mmsb.RecipeError, match=r"'k'.*'a'"):
        _ = page.tensor
    assert torch.equal(room["a"].tensor, before)


# moments


def moment(call, *words):
    return call, mmsb.HistoryError, words


MOMENTS = {
    "zero": moment(lambda m: m.at(0), "0", "1 to 8"),
    "later": moment(lambda m: m.at(99), "99", "1 to 8"),
    "negative": moment(lambda m: m.at(-1), "-1", "1 to 8"),
    "huge": moment(lambda m: m.at(2**70), str(2**70), "1 to 8"),
    "label": moment(lambda m: m.at("last"), "'last'", "'first'"),
    "empty label": moment(lambda m: m.at(""), "''"),
    "bool": moment(lambda m: m.at(True), "True"),
    "float": moment(lambda m: m.at(1.0), "1.0"),
    "nan": moment(lambda m: m.at(NAN), "nan"),
    "None": moment(lambda m: m.at(None), "number", "label", "step="),
    "nothing": moment(lambda m: m.at(), "number", "label", "step="),
    "list": moment(lambda m: m.at([1]), "[1]"),
    "tensor": moment(lambda m: m.at(torch.tensor(1)), "tensor(1)"),
    "moment": moment(lambda m: m.at(m.at(1)), "Moment"),
    "both": moment(lambda m: m.at(1, step=1), "one moment"),
    "step": moment(lambda m: m.at(step=7), "step 7", "1"),
    "step bool": moment(lambda m: m.at(step=True), "step", "True"),
    "step float": moment(lambda m: m.at(step=1.0), "step", "1.0"),
    "step nan": moment(lambda m: m.at(step=NAN), "step", "nan"),
    "step string": moment(lambda m: m.at(step="1"), "step", "'1'"),
    "step list": moment(lambda m: m.at(step=[1]), "step", "[1]"),
    "step negative": moment(lambda m: m.at(step=-1), "step", "-1"),
    "diff from": moment(lambda m: m.diff(0, 3), "0", "1 to 8"),
    "diff to": moment(lambda m: m.diff(1, 99), "99", "1 to 8"),
    "diff bool": moment(lambda m: m.diff(True, 3), "True"),
    "diff float": moment(lambda m: m.diff(1, 3.0), "3.0"),
    "diff None": moment(lambda m: m.diff(1, None), "number", "label"),
    "diff label": moment(lambda m: m.diff("first", "last"), "'last'", "'first'"),
    "restore zero": moment(lambda m: m.restore(0), "0", "1 to 8"),
    "restore later": moment(lambda m: m.restore(99), "99", "1 to 8"),
    "restore negative": moment(lambda m: m.restore(-1), "-1", "1 to 8"),
    "restore label": moment(lambda m: m.restore("last"), "'last'", "'first'"),
    "restore bool": moment(lambda m: m.restore(True), "True"),
    "restore float": moment(lambda m: m.restore(1.0), "1.0"),
    "restore None": moment(lambda m: m.restore(None), "number", "label", "step="),
    "restore step": moment(lambda m: m.restore(step=7), "step 7", "1"),
    "restore step bool": moment(lambda m: m.restore(step=True), "step", "True"),
}


@table(MOMENTS)
def test_moments_that_are_not_there(refused, call, kind, words):
    refused(call, kind, words)


def test_a_memory_without_a_past_says_so(mem):
    with pytest.raises(mmsb.HistoryError) as caught:
        mem.at(1)
    assert "1 to 0" not in str(caught.value)
    assert "no transaction" in str(caught.value)
    with pytest.raises(mmsb.HistoryError, match="none"):
        mem.at("label")


# subscribers


def test_what_cannot_be_called_cannot_subscribe(room):
    for subscriber in (None, 5, "f"):
        with pytest.raises(TypeError):
            room.subscribe(subscriber)
    for types in (mmsb.EventType.STALE, [99], ["STALE"], 5):
        with pytest.raises((TypeError, ValueError)):
            room.subscribe(print, types)


# stores


@pytest.mark.parametrize("mode", ["", "rw", "a", "tail", "W", None, 5, ["r"]], ids=repr)
def test_modes_that_there_are_not(path, mode):
    with pytest.raises(mmsb.UnsupportedError, match=r"mode=.*'w'.*'r'"):
        mmsb.open(path, mode=mode)
    assert not path.exists()


@pytest.mark.parametrize("device", ["meta", "tape", 1.5, "unified", mmsb.PageLocation.UNIFIED])
def test_devices_that_there_are_not(path, device):
    with pytest.raises(mmsb.UnsupportedLocationError, match=r"expected|unknown|unified"):
        mmsb.open(path, device=device)
    assert not path.exists()


def test_a_reader_needs_a_path(tmp_path):
    with pytest.raises(mmsb.StoreError, match=r"mode='r'.*path"):
        mmsb.open(mode="r")
    with pytest.raises(mmsb.StoreError, match=r"missing\.mmsb"):
        mmsb.open(tmp_path / "missing.mmsb", mode="r")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_file_is_no_store(tmp_path, mode):
    file = tmp_path / "run.mmsb"
    file.write_text("mine")
    with pytest.raises(mmsb.StoreError, match=r"run\.mmsb"):
        mmsb.open(file, mode=mode)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_foreign_folder_is_no_store(tmp_path, mode):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "me.jpg").write_text("smile")
    with pytest.raises(mmsb.StoreError, match="photos"):
        mmsb.open(folder, mode=mode)
    assert [item.name for item in folder.iterdir()] == ["me.jpg"]


def test_a_store_in_a_folder_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(mmsb.StoreError, match="missing"):
        mmsb.open(tmp_path / "missing" / "run.mmsb")
    assert not list(tmp_path.iterdir())


def test_a_store_whose_identity_is_damaged_is_refused(path):
    mmsb.open(path).close()
    (path / "MMSB.json").write_text("{}")
    for mode in "wr":
        with pytest.raises(mmsb.CorruptStoreError, match=r"MMSB\.json"):
            mmsb.open(path, mode=mode)


def test_a_refused_open_leaves_no_lock(path):
    mmsb.open(path).close()
    with pytest.raises(mmsb.UnsupportedLocationError):
        mmsb.open(path, device="meta")
    mmsb.open(path).close()


@pytest.fixture
def reader(path):
    """A store with a page `a` and a derived page `d` (stale), opened for reading."""
    with mmsb.open(path) as memory:
        memory.page("a", torch.arange(3.0))
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.update("a", 1.0)
    with mmsb.open(path, mode="r") as memory:
        yield memory


def commit_to(memory):
    with memory.commit() as tx:
        tx.update("a", 1.0)


READ_ONLY = {
    "update": update("a", torch.ones(3)),
    "update_many": lambda m: m.update_many([("a", None, 1.0)]),
    "commit": commit_to,
    "empty commit": lambda m: m.commit("x").__enter__(),
    "page": make("new", ONE),
    "zero page": make("new", shape=(2,)),
    "restore": lambda m: m.restore(m.tx),
    "checkpoint": lambda m: m.checkpoint(),
}


@pytest.mark.parametrize("call", READ_ONLY.values(), ids=READ_ONLY.keys())
def test_a_reader_writes_nothing(reader, call, picture_of):
    reader.derive(doubled, "a", name="d")
    before = picture_of(reader)
    with pytest.raises(mmsb.ReadOnlyError, match="mode='r'") as caught:
        call(reader)
    assert isinstance(caught.value, PermissionError)
    assert picture_of(reader) == before


def test_a_memory_in_ram_has_no_checkpoints(refused):
    refused(lambda m: m.checkpoint(), mmsb.StoreError, ["RAM", "mmsb.open(", "mmsb_stop"])


@pytest.mark.parametrize("keep", [0, -1, 1.5, "all", True, NAN], ids=repr)
def test_a_number_of_checkpoints_that_cannot_be_kept(path, keep):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(2))
        memory.update("a", 1.0, rows=[1])
        with pytest.raises(mmsb.MMSBError, match="keep"):
            memory.checkpoint(keep=keep)
        assert not list((path / "checkpoints").iterdir())
        assert memory["a"].mask.tolist() == [False, True]


def test_a_progress_that_raises_leaves_no_checkpoint(path):
    def progress(done, total):
        raise ZeroDivisionError

    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(2))
        memory.update("a", 1.0, rows=[1])
        with pytest.raises(ZeroDivisionError):
            memory.checkpoint(progress=progress)
        assert not list((path / "checkpoints").iterdir())
        assert memory["a"].mask.tolist() == [False, True]
        assert memory.checkpoint().tx == 2
