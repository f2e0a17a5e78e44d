"""Updates that cannot be: values, rows, indices and masks."""

import warnings

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

NAN = float("nan")


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


def make(*args, **options):
    return lambda memory: memory.page(*args, **options)
