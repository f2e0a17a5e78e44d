"""Plain data goes through JSON and comes back with its types and bits; the rest is refused."""

import json
import math
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mmsb_torch as mmsb
from mmsb_torch.training.tree import decode, encode

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.sampled_from([torch.float16, torch.int8, torch.device("cpu")]),
    st.floats().map(np.float64),
    st.integers(0, 255).map(np.uint8),
    st.lists(st.floats(width=32), max_size=3).map(lambda v: torch.tensor(v, dtype=torch.float32)),
    st.lists(st.integers(0, 9), max_size=3).map(lambda v: np.array(v, np.int16)),
    st.integers(0, 9).map(lambda v: np.array(v, np.float64)),
)
KEYS = st.one_of(st.text(max_size=3), st.integers(), st.just("$"), st.tuples(st.integers()))
TREES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict),
        st.sets(st.integers(), max_size=3),
        st.frozensets(st.text(max_size=2), max_size=3),
        st.lists(st.integers(0, 3), max_size=3).map(Counter),
    ),
    max_leaves=8,
)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a, math.copysign(1, a)) == (
            b,
            math.copysign(1, b),
        )
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    return a == b


@given(TREES)
def test_what_goes_in_comes_out(value):
    tensors = {}

    def keep(key, tensor, **_):
        assert key not in tensors
        tensors[key] = tensor.clone()

    try:
        tree = encode(value, "x", keep)
    except AssertionError:  # two keys that print alike, of which one is no string
        return
    text = json.dumps(tree, allow_nan=False)
    assert same(decode(json.loads(text), tensors.__getitem__), value)


class Mine(dict):
    pass


@pytest.mark.parametrize(
    "value",
    [len, object(), Mine(), lambda: 0, np.array(["a"]), np.array([{}]), {1: {"a": iter(())}}],
)
def test_what_is_no_data_is_refused(value):
    with pytest.raises(mmsb.UnsupportedError, match=r"'x.*expected plain data"):
        encode([value], "x", lambda *_, **__: None)


def test_data_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(mmsb.UnsupportedError, match="in itself"):
        encode(value, "x", lambda *_, **__: None)


def test_a_kind_of_a_newer_version_is_told():
    with pytest.raises(mmsb.UnsupportedError, match="newer version"):
        decode({"$": "spline", "is": []}, lambda _: None)
