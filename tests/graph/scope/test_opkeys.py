"""Keys of operations: other calls have other keys, however alike their arguments look."""

import math

import torch

from mmsb_torch.graph.scope import opkeys
from mmsb_torch.instrumentation.capture.schema import op_class

ADD = op_class(torch.ops.aten.add.Tensor)
CONTEXT = object()


def key(*args, kind=ADD, context=CONTEXT, **kwargs):
    return opkeys.op_key(kind, args, kwargs, context, alone=True)


def test_other_calls_have_other_keys():
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    calls = [
        key(), key(a), key(b), key(a, b), key(b, a), key(a.mT), key(a[1:]), key(a.view(-1)),
        key([a]), key((a,)), key([a, b]), key([a], [b]), key([a, b], []), key([], [a, b]),
        key([[a], b]), key([a, None]), key(a, None), key(None, a), key(None),
        key(1), key(1.0), key(True), key("1"), key(0), key(False), key(0.0), key(-0.0),
        key(math.nan), key(math.inf), key(1, 2), key([1, 2]), key((1, 2)), key([1], 2), key(1j),
        key("int", 1), key(torch.float32), key(torch.int32), key(torch.strided),
        key(torch.device("cpu")), key(slice(1)), key("alpha", 1), key(alpha=1), key(beta=1),
        key(alpha=1.0), key(a, alpha=1), key(alpha=a), key([]), key(()),
        key(a, kind=op_class(torch.ops.aten.mul.Tensor)), key(a, context=object()),
    ]  # fmt: skip
    assert len(set(calls)) == len(calls)


def test_equal_calls_have_equal_keys():
    a = torch.randn(64, 64)
    for args in ([a], [a.clone()], [a, [1, 2.0], None], [math.nan], [a.mT[3:]], [[a, a]]):
        assert key(*args) == key(*args)
        assert hash(key(*args)) == hash(key(*args))
    assert key(a) == key(a.clone())
    assert key(a[:3]) == key(a[:3].clone())


def test_a_write_makes_another_key():
    a = torch.randn(64, 64)
    before, part = key(a), key(a[3:])
    a.numpy()[3, 3] = 7
    assert key(a) != before
    assert key(a[3:]) != part
    first = key(a)
    a.data = a.data.mT  # the same memory, looked at in another way
    assert key(a) != first
