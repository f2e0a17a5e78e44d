"""Random programs, run again and again with changes between: a scope gives what plain torch gives.

`MMSB_PROGRAMS` sets how many; see docs/recording.md for what the operations stand for.
"""

import os
import random

import numpy as np
import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.device import same_bits

PROGRAMS = int(os.environ.get("MMSB_PROGRAMS") or {"1": 400, "soak": 20_000}.get(
    os.environ.get("MMSB_GATE", ""), 60))  # fmt: skip
RUNS = 6
SHAPE = (4, 6)

pytestmark = pytest.mark.usefixtures("everything_counts")


library = torch.library.Library("mmsb_tests_scope", "DEF")
library.define("liar(Tensor x) -> Tensor")  # says that it only reads


def _liar(x):
    x.detach().numpy()[...] += 1
    return x * 2


library.impl("liar", _liar, "CPU")


def square(x):
    return x[:, :4].contiguous() @ x[:4].mT.contiguous()[:4]


PURE = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "matmul": lambda a, b: a @ b.mT @ b,
    "softmax": lambda a, b: torch.softmax(a + b, -1),
    "cumsum": lambda a, b: a.cumsum(0) - b,
    "sort": lambda a, b: a.sort(1)[0] + b,
    "max": lambda a, b: a.max(1, keepdim=True)[0] * b,
    "where": lambda a, b: torch.where(a > b, a, b),
    "layer_norm": lambda a, b: nn.functional.layer_norm(a, (6,)) + b,
    "linear": lambda a, b: nn.functional.linear(a, b)[:, :1] + a,
    "cat": lambda a, b: torch.cat([a, b])[::2],
    "half": lambda a, b: (a.bfloat16() + b.bfloat16()).float(),
    "complex": lambda a, b: torch.view_as_real(torch.complex(a, b).conj() * 2)[..., 1],
    "index": lambda a, b: a[torch.tensor([0, 2, 1, 3])] + b,
    "take": lambda a, b: a.flatten()[torch.arange(23, -1, -1)].view(4, 6) - b,
    "nan": lambda a, b: (a / (b * 0)).nan_to_num(1.0),
    "chunk": lambda a, b: a.chunk(2)[0].repeat(2, 1) + b,
    "foreach": lambda a, b: torch._foreach_mul([a, b], 2)[1],
    "expand": lambda a, b: a[:1].expand(4, 6).clone() + b,
}
VIEWS = {
    "t": lambda a: a.mT.reshape(4, 6),
    "slice": lambda a: a[1:3].repeat(2, 1),
    "view": lambda a: a.view(6, 4).view(4, 6) if a.is_contiguous() else a.contiguous(),
    "same": lambda a: a[:],
    "detach": lambda a: a.detach(),
    "half": lambda a: a[:2],
}
WRITES = {
    "add_": lambda a, b: a.add_(b),
    "setitem": lambda a, b: a.__setitem__((slice(None), 1), b[:, 0]),
    "data": lambda a, b: a.data.mul_(1.5),
    "out": lambda a, b: torch.mul(a, 2, out=a) if a.is_contiguous() else a.mul_(2),
    "numpy": lambda a, b: a.numpy().__setitem__(0, 3.0),
    "view write": lambda a, b: a[2:].fill_(b.sum()),
    "foreach_": lambda a, b: torch._foreach_add_([a], [b]),
    "copy_": lambda a, b: a.copy_(b),
    "index_put": lambda a, b: a.index_put_((torch.tensor([1]),), b[0]),
    "storage": lambda a, b: (
        a.untyped_storage().copy_(a.contiguous().clone().untyped_storage())
        if a.untyped_storage().nbytes() == 96
        else None
    ),
    "liar": lambda a, b: torch.ops.mmsb_tests_scope.liar(a),
    "pointer": lambda a, b: (
        np.frombuffer(
            (__import__("ctypes").c_char * 4).from_address(a.data_ptr()), dtype=np.float32
        ).__setitem__(0, 9.0)
        if a.numel()
        else None
    ),
}
OTHER = {
    "random": lambda a, b: a + torch.rand_like(a),
    "dropout": lambda a, b: nn.functional.dropout(a, 0.5),
    "no dropout": lambda a, b: nn.functional.dropout(a, 0.5, training=False) * b,
    "item": lambda a, b: a * 2 if a.sum().item() > 0 else a - b,
    "nonzero": lambda a, b: a + float(len((a > b).nonzero())),
    "list": lambda a, b: a + sum(b.flatten().tolist()[:3]),
    "grad": lambda a, b: gradient(a, b),
    "second": lambda a, b: second(a, b),
    "batch norm": lambda a, b: batch_norm(a, b),
    "inference": lambda a, b: inferred(a, b),
    "autocast": lambda a, b: autocast(a, b),
    "generator": lambda a, b: a + torch.randn(4, 6, generator=torch.Generator().manual_seed(3)),
}


def gradient(a, b):
    with torch.enable_grad():
        x = a.detach().clone().requires_grad_()
        y = (x @ b.detach().mT).tanh().pow(2).sum() + (x * x).sum()
        return torch.autograd.grad(y, x)[0]


def second(a, b):
    with torch.enable_grad():
        x = a.detach().requires_grad_()
        (first,) = torch.autograd.grad((x**3 * b.detach()).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]


def batch_norm(a, b):
    mean, var = torch.zeros(6), torch.ones(6)
    out = nn.functional.batch_norm(a, mean, var, training=True)
    return out + mean + var + b


def inferred(a, b):
    with torch.inference_mode():
        total = (a + b) * 2
    return total.clone()


def autocast(a, b):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (a @ b.mT).float()[:, :1] + a


class Program:
    """Steps over a few tensors, drawn once and run many times."""

    def __init__(self, seed):
        draw = random.Random(seed)
        self.steps = []
        for _ in range(draw.randrange(4, 14)):
            kind = draw.choices(["pure", "view", "write", "other"], [6, 2, 2, 2])[0]
            table = {"pure": PURE, "view": VIEWS, "write": WRITES, "other": OTHER}[kind]
            self.steps.append((kind, draw.choice(list(table)), draw.random(), draw.random()))

    def run(self, leaves):
        values = list(leaves)
        for kind, name, one, other in self.steps:
            a, b = values[int(one * len(values))], values[int(other * len(values))]
            a, b = (
                item if item.shape == SHAPE else item.expand(2, 6).repeat(2, 1) for item in (a, b)
            )
            try:
                self._step(kind, name, values, a, b)
            except RuntimeError as error:  # what plain torch refuses, too
                values.append(torch.tensor(float(len(str(error)))))
        return values

    @staticmethod
    def _step(kind, name, values, a, b):
        if kind == "pure":
            values.append(PURE[name](a, b))
        elif kind == "view":
            values.append(VIEWS[name](a))
        elif kind == "write":
            WRITES[name](a, b)
        else:
            values.append(OTHER[name](a, b))


def perturb(draw, leaves, held):
    """The same change of both sets of leaves, or of what earlier runs returned."""
    choice, number = draw.randrange(7), draw.randrange(len(leaves[0]))
    value = draw.uniform(-2, 2)
    for one, other in zip(leaves, held, strict=True):
        if choice == 0:
            one[number].add_(value)
        elif choice == 1:
            one[number].numpy()[1] = value
        elif choice == 2:
            one[number].data[0, 0] = value
        elif choice == 3 and other:
            other[-1].add_(1)  # what was handed out is the user's
        elif choice == 4:
            one[number] = torch.full(SHAPE, value)
        elif choice == 5 and other:
            other[0].zero_()


def check(seed):
    program, draw = Program(seed), random.Random(-seed)
    torch.manual_seed(seed)
    first = [torch.randn(SHAPE) for _ in range(3)]
    leaves = [first, [tensor.clone() for tensor in first]]
    arrays = [leaves[0][0].numpy(), leaves[1][0].numpy()] if draw.random() < 0.3 else None
    held = [[], []]
    with mmsb.open() as mem:
        for turn in range(RUNS):
            found = []
            for which, tensors in enumerate(leaves):
                torch.manual_seed(seed + 100 * turn)
                with torch.no_grad():
                    if which:
                        values = program.run(tensors)
                    else:
                        with mem.incremental():
                            values = program.run(tensors)
                found.append((values, tensors, torch.get_rng_state()))
                held[which] += [value for value in values if draw_none(value)]
            (a, x, state), (b, y, wanted) = found
            where = (seed, turn, program.steps)
            assert torch.equal(state, wanted), where
            for one, other in zip([*a, *x], [*b, *y], strict=True):
                assert one.stride() == other.stride(), where
                assert same_bits(one.contiguous(), other.contiguous()), where
            if arrays is not None and draw.random() < 0.5:
                for array in arrays:
                    array[2] = turn
            perturb(draw, leaves, held)


def draw_none(value):
    return value.shape == SHAPE and not value.is_inference()


@pytest.mark.parametrize("part", range(6))
def test_programs(part):
    for seed in range(part, PROGRAMS, 6):
        check(seed)
