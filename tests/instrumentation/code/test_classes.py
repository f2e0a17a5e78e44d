"""Classes and their instances, as helpers of user code."""

import pytest

from mmsb_torch.instrumentation.code import Definition

SOURCE = """
    import abc, dataclasses, enum, functools, typing
    K = 1
    class Base(abc.ABC):
        gain = 2
        @abc.abstractmethod
        def g(self): ...
        @property
        def twice(self): return self.gain * 2
        @functools.cached_property
        def thrice(self): return self.gain * 3
    class Child(Base):
        table = {"a": [1]}
        def g(self): return super().g() or K
        @staticmethod
        def s(x): return x
        @classmethod
        def c(cls): return cls.table
    @dataclasses.dataclass(frozen=True)
    class Data:
        size: int = 1
        names: typing.Optional[list[str]] = None
    class Slots:
        __slots__ = ("a",)
        def get(self): return self.a
    class Kind(enum.IntEnum):
        A = 1
        B = 2
        def double(self): return self * K
    class Pair(typing.NamedTuple):
        a: int
        b: float = 0.0
    class Meta(type):
        def __call__(cls, *args): return super().__call__()
    class Made(metaclass=Meta): pass
    class Shown(typing.Protocol):
        def show(self) -> str: ...
    def f(x): return Child, Data, Slots, Kind.A, Pair, Made, Shown
"""

EDITS = {
    "K = 2": "global 'K'",
    "Child.g = lambda self: 1": "method 'Child.g'",
    "Child.s = staticmethod(lambda x: -x)": "method 'Child.s'",
    "Child.c = classmethod(lambda cls: 1)": "method 'Child.c'",
    "Child.new = 1": "class attribute 'Child.new'",
    "Child.table['a'].append(2)": "class attribute 'Child.table'",
    "Base.gain = 2.0": "class attribute 'Base.gain'",
    "Base.twice = property(lambda self: 1)": "class attribute 'Base.twice'",
    "del Child.s": "method 'Child.s'",
    "Child.__bases__ = (Slots2,)": "class",
    "Data.__eq__ = lambda a, b: True": "method 'Data.__eq__'",
    "Slots.get = lambda self: 0": "method 'Slots.get'",
    "Kind.double = lambda self: 0": "method 'Kind.double'",
    "Meta.__call__ = lambda cls: 0": "method 'Meta.__call__'",
    "Pair.__repr__ = lambda self: ''": "method 'Pair.__repr__'",
    "class Kind(enum.IntEnum):\n    A = 1\n    B = 3\n    def double(self): return self * K": "member 'Kind.B'",
    "class Kind(enum.IntEnum):\n    B = 2\n    A = 1\n    def double(self): return self * K": "Kind",
    "class Pair(typing.NamedTuple):\n    b: float\n    a: int = 0": "Pair",
}


@pytest.mark.parametrize(("edit", "reason"), EDITS.items(), ids=EDITS)
def test_an_edit_of_a_class(cell, rerun, edit, reason):
    space, again = cell(SOURCE), cell(SOURCE)
    rerun(space, "class Slots2(Base): __slots__ = ()")
    definition = Definition.of(space["f"])
    assert definition.portable, definition.opaque
    assert definition.digest == Definition.of(again["f"]).digest
    assert definition.changed() is None
    rerun(space, edit)
    assert reason in definition.changed()
    renewed = definition.refresh()
    assert renewed.digest != definition.digest
    assert renewed.changed() is None


def test_running_the_classes_again_is_no_change(cell, rerun):
    space = cell(SOURCE)
    definition = Definition.of(space["f"])
    rerun(space, SOURCE.replace("def g(self): return", "# about g\n        def g(self): return"))
    assert definition.changed() is None


def test_using_classes_is_no_change(cell, rerun):
    space = cell(SOURCE)
    definition = Definition.of(space["f"])
    rerun(
        space,
        "c = Child(); c.twice; c.g() if False else 0; isinstance(c, Base)\n"
        "Data(2) == Data(3); Kind(1) | 2; Pair(1)._replace(b=2); issubclass(int, Base)",
    )
    assert definition.changed() is None


def test_an_instance_follows_its_class_and_its_state(cell, rerun):
    space = cell("""
    class Scaler:
        def __init__(self, k): self.k, self.log = k, []
        def __call__(self, x): return x * self.k
    scaler = Scaler(2)
    def f(x): return scaler(x)
    """)
    definition = Definition.of(space["f"])
    assert definition.cheap
    rerun(space, "scaler = Scaler(2)")
    assert definition.changed() is None
    rerun(space, "scaler.log.append(1)")
    assert definition.changed() == "global 'scaler.log' changed"
    rerun(space, "scaler.log.clear(); Scaler.__call__ = lambda self, x: x")
    assert definition.changed() == "method 'Scaler.__call__' changed"


def test_autograd_functions(cell):
    source = """
    import torch
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x): return x * 2
        @staticmethod
        def backward(ctx, g): return g * 2
    def f(x): return Double.apply(x)
    """
    one, two = (Definition.of(cell(source)["f"]) for _ in range(2))
    other = Definition.of(cell(source.replace("x * 2", "x * 3"))["f"])
    assert one.portable
    assert one.digest == two.digest != other.digest
