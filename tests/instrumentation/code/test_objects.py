"""Objects that code refers to: shared, in circles, opaque, and compared without harm."""

import ctypes
import dataclasses
import threading

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsb_torch.instrumentation.code import Definition
from mmsb_torch.instrumentation.code.encoding import atom


def ignore():
    return None


def defined(value):
    return Definition.of(ignore, {"value": value})


@dataclasses.dataclass
class Options:
    size: int
    names: list = dataclasses.field(default_factory=list)


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


def test_containers_are_cheap_to_check_and_tensors_are_not():
    assert defined({"a": [1, {2}]}).cheap
    assert not defined(torch.zeros(1)).cheap
    assert not defined([np.zeros(1)]).cheap


def test_equal_contents_in_new_objects_are_no_change():
    value = {"a": [1000, 2.5], "b": {"c": ()}}
    definition = defined(value)
    value["a"] = [int("1000"), float("2.5")]
    value["b"] = {"c": ()}
    assert definition.changed() is None
    value["a"][0] = 1001
    assert definition.changed() == "constant 'value' changed"


def test_sharing_and_cycles():
    shared = [1]
    assert defined([shared, shared]).digest != defined([[1], [1]]).digest
    loop, other = [1], [1]
    loop.append(loop)
    other.append(other)
    assert defined(loop).digest == defined(other).digest
    other.append(loop)
    assert defined(loop).digest != defined(other).digest
    held = Options(1)
    held.names.append({held.size, "a"})
    around = Slotted(None)
    around.a = {"self": around, "set": frozenset([around, 1])}
    again = Slotted(None)
    again.a = {"self": again, "set": frozenset([again, 1])}
    assert defined(around).digest == defined(again).digest
    assert defined(around).changed() is None


def test_sets_of_objects_end():
    nodes = [Options(number) for number in range(12)]
    for node in nodes:
        node.names = set(map(id, nodes)) and {other.size for other in nodes}
    assert defined(nodes).portable

    class Node:
        def __init__(self):
            self.neighbours = set()

    graph = [Node() for _ in range(12)]
    for node in graph:
        node.neighbours.update(graph)
    definition = defined(graph)
    assert not definition.portable
    assert definition.changed() is None
    graph[3].neighbours.clear()
    assert definition.changed() is not None


def test_deep_and_wide_values_end():
    deep = flat = ()
    for _ in range(1200):
        deep = (deep,)
    nested = []
    for _ in range(1200):
        nested = [nested]
    for _ in range(60):
        flat = (flat, flat)
    definitions = [defined(deep), defined(nested), defined(flat), defined((flat, [1]))]
    assert all(d.portable and d.changed() is None for d in definitions)
    assert len({d.digest for d in definitions}) == 4


def test_what_cannot_be_compared_says_so():
    def generate():
        yield 1

    sparse = torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
    opaque = [
        generate(), iter([1]), memoryview(b"a"), sparse, np.ma.array([1, 2]), threading.local(),
        ValueError("a"), Definition.of(ignore), ctypes.CDLL(None).abs, iter([1]).__next__,
    ]  # fmt: skip
    definitions = [defined(value) for value in opaque]
    assert [d.portable for d in definitions] == [False] * len(opaque)
    assert definitions[0].opaque == ("constant 'value' (builtins.generator)",)
    assert all(d.changed() is None for d in definitions)


def test_opaque_objects_are_told_apart_by_identity():
    class Resource(threading.local):  # compiled state, weak references allowed
        pass

    one, two = Resource(), Resource()
    assert defined(one).digest == defined(one).digest
    assert defined(one).digest != defined(two).digest
    holder = [iter(())]  # no weak references
    definition = defined(holder)
    assert definition.refresh().digest == definition.digest
    holder[0] = iter(())
    assert definition.changed() == "constant 'value' changed"


def test_an_address_used_again_is_another_object():
    digests = set()
    for _ in range(50):
        digests.add(defined(threading.local()).digest)
        digests.add(defined(iter(())).digest)
    assert len(digests) == 100


def test_objects_that_raise_when_read_are_opaque():
    vmapped = []
    torch.func.vmap(lambda x: (vmapped.append(x), x)[1])(torch.ones(2))
    definition = defined(vmapped[0])
    assert not definition.portable
    assert "when read" in definition.opaque[0]


def test_a_tensor_that_loses_its_memory_has_changed():
    tensor = torch.ones(100)
    definition = defined(tensor)
    tensor.untyped_storage().resize_(0)
    assert definition.changed() == "constant 'value' changed"


def test_reading_leaves_copy_on_write_tensors_alone():
    lazy_clone, is_armed = torch._lazy_clone, torch._C._is_cow_tensor
    tensor = torch.arange(700_000.0)
    plain = defined(torch.arange(700_000.0)).digest
    clone = lazy_clone(tensor)
    definition = defined(tensor)
    assert is_armed(tensor)
    assert definition.changed() is None
    assert definition.digest == plain
    assert is_armed(tensor)
    tensor[600_000] = 1
    assert definition.changed() == "constant 'value' changed"
    assert clone[600_000] == 600_000


atoms = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


def spelled(value):
    """An exact spelling of a plain value: equal only for the same type and bits."""
    if isinstance(value, tuple):
        return tuple, tuple(map(spelled, value))
    return type(value), np.float64(value).tobytes() if isinstance(value, float) else value


@given(atoms, atoms)
def test_atoms_are_equal_exactly_when_the_values_are(one, two):
    assert (atom(one) == atom(two)) == (spelled(one) == spelled(two))


plain = st.recursive(
    st.integers(0, 2) | st.booleans() | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=8,
)


@given(st.lists(plain, max_size=3), st.data())
def test_changed_agrees_with_the_digest_after_any_edit(value, data):
    definition = defined(value)
    for _ in range(3):
        index = data.draw(st.integers(0, len(value)))
        if index == len(value):
            value.append(data.draw(plain))
        else:
            value[index] = data.draw(plain)
        assert (definition.changed() is None) == (defined(value).digest == definition.digest)
