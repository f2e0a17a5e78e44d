"""Values that code refers to: the same bytes for the same value, a change for any other."""

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import logging
import pathlib
import random
import re
import threading
import types
import typing
import uuid
import weakref

import numpy as np
import pytest
import torch

from mmsb_torch.instrumentation.code import Definition


def ignore():
    return None


def defined(value):
    return Definition.of(ignore, {"value": value})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Options:
    size: int
    names: list = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class Mapping(dict):
    def __iter__(self):
        raise AssertionError("no code of the user's may run")

    __len__ = __eq__ = __hash__ = __getitem__ = keys = values = items = __iter__


class Sequence(list):
    def __iter__(self):
        raise AssertionError("no code of the user's may run")

    __len__ = __eq__ = __hash__ = __getitem__ = __iter__


class Mute:
    def __getattribute__(self, name):
        raise AssertionError("no code of the user's may run")

    __eq__ = __hash__ = __bool__ = __len__ = __repr__ = __getattr__ = __getattribute__


Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the kind to test


class Typed(typing.NamedTuple):
    x: int


def closure(value):
    return (lambda: value).__closure__[0]


def mute(value):
    found = Mute()
    object.__setattr__(found, "value", value)
    return found


def generator(seed, kind):
    if kind is torch.Generator:
        return torch.Generator().manual_seed(seed)
    return kind(np.random.PCG64(seed)) if kind is np.random.Generator else kind(seed)


# Each maker gives equal values each time; no two makers do.
VALUES = {
    "None": lambda: None,
    "True": lambda: True,
    "1": lambda: 1,
    "1.0": lambda: 1.0,
    "1j": lambda: 1j,
    "'1'": lambda: "1",
    "b'1'": lambda: b"1",
    "0": lambda: 0,
    "-0.0": lambda: -0.0,
    "0.0": lambda: 0.0,
    "nan": lambda: float("nan"),
    "big": lambda: 10**50,
    "-big": lambda: -(10**50),
    "surrogate": lambda: "\ud800",
    "...": lambda: ...,
    "()": lambda: (),
    "(1,)": lambda: (1,),
    "(1.0,)": lambda: (1.0,),
    "[1]": lambda: [1],
    "[True]": lambda: [True],
    "[[1]]": lambda: [[1]],
    "[[1], [2]]": lambda: [[1], [2]],
    "[[1, 2]]": lambda: [[1, 2]],
    "([1],)": lambda: ([1],),
    "{}": dict,
    "{'a': 1, 'b': 2}": lambda: {"a": 1, "b": 2},
    "{'b': 2, 'a': 1}": lambda: {"b": 2, "a": 1},
    "{1: 1}": lambda: {1: 1},
    "{1.0: 1}": lambda: {1.0: 1},
    "{(1,): []}": lambda: {(1,): []},
    "OrderedDict": lambda: collections.OrderedDict(a=1, b=2),
    "OrderedDict, moved": lambda: _moved(),
    "defaultdict": lambda: collections.defaultdict(list, a=1),
    "defaultdict of int": lambda: collections.defaultdict(int, a=1),
    "Counter": lambda: collections.Counter("aab"),
    "deque": lambda: collections.deque([1, 2]),
    "deque of 2": lambda: collections.deque([1, 2], 2),
    "set": lambda: set("abcdefgh"),
    "frozenset": lambda: frozenset("abcdefgh"),
    "set of tuples": lambda: {(c, 1) for c in "abcdefgh"},
    "set of objects": lambda: {int, float, Colour.RED, len},
    "range": lambda: range(3),
    "slice": lambda: slice(1, None),
    "Path": lambda: pathlib.Path("a/b"),
    "PurePath": lambda: pathlib.PurePosixPath("a/b"),
    "Decimal": lambda: decimal.Decimal("1.0"),
    "Decimal, longer": lambda: decimal.Decimal("1.00"),
    "Fraction": lambda: fractions.Fraction(1, 3),
    "UUID": lambda: uuid.UUID(int=5),
    "date": lambda: dt.date(2020, 1, 2),
    "datetime": lambda: dt.datetime(2020, 1, 2),  # noqa: DTZ001
    "datetime, utc": lambda: dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    "timedelta": lambda: dt.timedelta(1),
    "pattern": lambda: re.compile("a+"),
    "pattern, flags": lambda: re.compile("a+", re.IGNORECASE),
    "enum": lambda: Colour.RED,
    "enum 2": lambda: Colour.BLUE,
    "flag": lambda: Bits.A,
    "flags": lambda: Bits.A | Bits.B,
    "re flag": lambda: re.IGNORECASE,
    "dataclass": lambda: Options(1),
    "dataclass 2": lambda: Options(1, ["a"]),
    "namedtuple": lambda: Point(1, 2),
    "namedtuple 2": lambda: Point(1, 2.0),
    "NamedTuple": lambda: Typed(1),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "SimpleNamespace 2": lambda: types.SimpleNamespace(a=[1]),
    "slots": lambda: Slotted(1),
    "slots 2": lambda: Slotted(2),
    "dict subclass": lambda: Mapping(a=1),
    "list subclass": lambda: Sequence([1]),
    "str subclass": lambda: type("S", (str,), {})("a"),
    "hostile object": lambda: mute(1),
    "hostile object 2": lambda: mute(2),
    "mapping proxy": lambda: types.MappingProxyType({"a": 1}),
    "class": lambda: Options,
    "library class": lambda: collections.OrderedDict,
    "list[int]": lambda: list[int],
    "Optional": lambda: typing.Optional[int],  # noqa: UP045 - the kind to test
    "union": lambda: int | str,
    "Callable": lambda: typing.Callable[[int], str],
    "bytearray": lambda: bytearray(b"ab"),
    "array": lambda: array.array("i", [1, 2]),
    "array of q": lambda: array.array("q", [1, 2]),
    "logger": lambda: logging.getLogger("a"),
    "lock": threading.Lock,
    "dtype": lambda: torch.float32,
    "device": lambda: torch.device("cpu"),
    "Size": lambda: torch.Size([1, 2]),
    "layout": lambda: torch.strided,
    "memory format": lambda: torch.channels_last,
    "numpy dtype": lambda: np.dtype("f4"),
    "numpy record": lambda: np.dtype([("a", "f4")]),
    "numpy float": lambda: np.float32(1),
    "numpy double": lambda: np.float64(1),
    "numpy long double": lambda: np.longdouble(1),
    "numpy bool": lambda: np.bool_(True),
    "numpy time": lambda: np.datetime64("2020-01-01"),
    "ndarray": lambda: np.arange(6.0),
    "ndarray 2": lambda: np.arange(6.0).reshape(2, 3),
    "ndarray 3": lambda: np.arange(6.0).reshape(3, 2).T,
    "ndarray f4": lambda: np.arange(6, dtype="f4"),
    "ndarray records": lambda: np.zeros(2, [("a", "f4")]),
    "ndarray objects": lambda: np.array([[1], "a", None], dtype=object),
    "ndarray empty": lambda: np.zeros((0, 3)),
    "tensor": lambda: torch.arange(6.0),
    "tensor shaped": lambda: torch.arange(6.0).view(2, 3),
    "tensor transposed": lambda: torch.arange(6.0).view(3, 2).T,
    "tensor bf16": lambda: torch.arange(6.0).bfloat16(),
    "tensor scalar": lambda: torch.tensor(0.0),
    "tensor empty": lambda: torch.zeros(0, 3),
    "tensor bool": lambda: torch.tensor([True, False]),
    "tensor complex": lambda: torch.tensor([1 + 2j]),
    "tensor conj": lambda: torch.tensor([1 - 2j]).conj(),
    "tensor meta": lambda: torch.empty(3, device="meta"),
    "tensor grad": lambda: torch.arange(6.0).requires_grad_(),
    "parameter": lambda: torch.nn.Parameter(torch.arange(6.0)),
    "torch rng": lambda: generator(1, torch.Generator),
    "torch rng 2": lambda: generator(2, torch.Generator),
    "numpy rng": lambda: generator(1, np.random.Generator),
    "numpy rng 2": lambda: generator(1, np.random.RandomState),
    "python rng": lambda: generator(1, random.Random),
    "weak class": lambda: weakref.ref(Options),
    "cell": lambda: closure(1),
    "bound builtin": lambda: [1].append,
    "finfo": lambda: torch.float32.to_complex,
}


def _moved():
    found = collections.OrderedDict(a=1, b=2)
    found.move_to_end("a")
    return found


def test_equal_values_have_equal_digests_and_no_others():
    first = {name: defined(make()) for name, make in VALUES.items()}
    second = {name: defined(make()) for name, make in VALUES.items()}
    assert {n: d.opaque for n, d in first.items() if d.opaque} == {}
    assert [n for n in VALUES if first[n].digest != second[n].digest] == []
    assert [n for n in VALUES if first[n].changed() is not None] == []
    by_digest = collections.defaultdict(list)
    for name, definition in first.items():
        by_digest[definition.digest].append(name)
    assert [names for names in by_digest.values() if len(names) > 1] == []


def _set(key, value):
    def write(target):
        target[key] = value

    return write


EDITS = {
    "list": (lambda: [1, 2], lambda v: v.append(3)),
    "list, equal but another type": (lambda: [1, 2], _set(0, True)),
    "list, popped": (lambda: [1, 2], lambda v: v.pop()),
    "list, emptied": (lambda: [1], lambda v: v.clear()),
    "list, filled": (list, lambda v: v.append(1)),
    "list, minus zero": (lambda: [0.0], _set(0, -0.0)),
    "list, reordered": (lambda: [1, 2], lambda v: v.reverse()),
    "nested": (lambda: ([{"a": [1]}],), lambda v: v[0][0]["a"].append(2)),
    "dict": (lambda: {"a": 1}, _set("a", 2)),
    "dict, new": (dict, _set("a", 2)),
    "dict, key's type": (lambda: {1: 0}, lambda v: (v.clear(), v.update({True: 0}))),
    "dict, order": (lambda: {"a": 1, "b": 2}, lambda v: v.update(a=v.pop("a"))),
    "OrderedDict, order": (
        lambda: collections.OrderedDict(a=1, b=2),
        lambda v: v.move_to_end("a"),
    ),
    "defaultdict": (
        lambda: collections.defaultdict(int),
        lambda v: setattr(v, "default_factory", float),
    ),
    "set": (lambda: {1, 2}, lambda v: v.add(3)),
    "set, equal but another type": (lambda: {1}, lambda v: (v.remove(1), v.add(True))),
    "set of tuples": (lambda: {(1, 2)}, lambda v: v.add((1, 3))),
    "deque": (lambda: collections.deque([1]), lambda v: v.append(1)),
    "dict subclass": (lambda: Mapping(a=1), lambda v: dict.__setitem__(v, "a", 2)),
    "list subclass": (lambda: Sequence([1]), lambda v: list.append(v, 2)),
    "subclass attribute": (lambda: Sequence([1]), lambda v: setattr(v, "note", 2)),
    "dataclass": (lambda: Options(1), lambda v: setattr(v, "size", 2)),
    "dataclass, deep": (lambda: Options(1), lambda v: v.names.append("a")),
    "slot": (lambda: Slotted(1), lambda v: setattr(v, "a", 2)),
    "slot, filled": (lambda: Slotted(1), lambda v: setattr(v, "b", 2)),
    "slot, emptied": (lambda: Slotted(1), lambda v: delattr(v, "a")),
    "object's dict": (lambda: Options(1), lambda v: setattr(v, "__dict__", {"size": 2})),
    "object's class": (lambda: Options(1), lambda v: setattr(v, "__class__", Mute)),
    "hostile object": (lambda: mute([1]), lambda v: object.__getattribute__(v, "value").append(1)),
    "SimpleNamespace": (lambda: types.SimpleNamespace(a=1), lambda v: setattr(v, "a", 1.0)),
    "bytearray": (lambda: bytearray(b"ab"), _set(0, 7)),
    "array": (lambda: array.array("i", [1]), _set(0, 7)),
    "ndarray": (lambda: np.zeros(3), _set(1, 5)),
    "ndarray, view": (lambda: np.zeros((4, 4)), lambda v: v[1:, 1:].fill(1)),
    "ndarray, shape": (lambda: np.zeros(4), lambda v: setattr(v, "shape", (2, 2))),
    "ndarray, object": (lambda: np.array([1, "a"], dtype=object), _set(0, 2)),
    "ndarray, deep": (lambda: np.array([[1], None], dtype=object), lambda v: v[0].append(1)),
    "tensor": (lambda: torch.zeros(3), _set(1, 5)),
    "tensor, one bit": (lambda: torch.zeros(3), _set(1, -0.0)),
    "tensor, data": (lambda: torch.zeros(3), lambda v: v.data.add_(1)),
    "tensor, replaced data": (lambda: torch.zeros(3), lambda v: setattr(v, "data", torch.ones(3))),
    "tensor, numpy": (lambda: torch.zeros(3), lambda v: v.numpy().fill(1)),
    "tensor, shape": (lambda: torch.zeros(4), lambda v: v.resize_(2, 2)),
    "tensor, flag": (lambda: torch.zeros(4), lambda v: v.requires_grad_()),
    "tensor, attribute": (lambda: torch.zeros(4), lambda v: setattr(v, "note", 1)),
    "tensor, not contiguous": (lambda: torch.zeros(4, 4).T[1:], _set((1, 1), 5)),
    "tensor, bf16": (lambda: torch.zeros(4, dtype=torch.bfloat16), _set(1, 5)),
    "torch rng": (
        lambda: generator(1, torch.Generator),
        lambda v: torch.rand(1, generator=v),
    ),
    "numpy rng": (lambda: generator(1, np.random.Generator), lambda v: v.random()),
    "numpy rng, old": (lambda: generator(1, np.random.RandomState), lambda v: v.rand()),
    "python rng": (lambda: generator(1, random.Random), lambda v: v.random()),
}


@pytest.mark.parametrize(("make", "edit"), EDITS.values(), ids=EDITS)
def test_writing_in_place_is_noticed(make, edit):
    value = make()
    definition = defined(value)
    assert definition.portable
    assert definition.changed() is None
    edit(value)
    reason = definition.changed()
    assert reason is not None
    assert "value" in reason
    renewed = definition.refresh()
    assert renewed.digest != definition.digest
    assert renewed.changed() is None
