"""Any program runs from its graph as it did, and its graph has one form."""

import hypothesis
import torch
from hypothesis import strategies as st

from mmsb_torch.errors import MMSBError
from mmsb_torch.instrumentation.capture.export import capture
from mmsb_torch.instrumentation.capture.ir import IR


def graph(function, *args, way="export"):
    return capture(function, *args, ways=[way]).ir


UNARY = [torch.sin, torch.relu, torch.neg, torch.t, lambda a: a.sum(0), lambda a: a[1:], torch.abs]
BINARY = [
    torch.add,
    torch.mul,
    torch.minimum,
    torch.matmul,
    torch.sub,
    lambda a, b: torch.cat([a, b]),
]
WRITES = [
    lambda a: a.clone().mul_(2),
    lambda a: a.clone().t_(),
    lambda a: torch.zeros_like(a).copy_(a),
]


READS = [
    lambda a: a * 2 if a.sum() > 0 else a - 1,
    lambda a: a[: int(a.abs().sum()) % 3],
    lambda a: a[a > 0],
    lambda a: torch.zeros(a.nonzero().shape[0] % 3 + 1),
    lambda a: a + (a > 0).flatten().tolist().count(True),
    lambda a: a / a.numel() if torch.equal(a, a.abs()) else a.flip(0),
]


@st.composite
def programs(draw, functions=UNARY + BINARY + WRITES):
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(functions),
                st.integers(0, 20),
                st.integers(0, 20),
            ),
            min_size=1,
            max_size=8,
        )
    )
    results = draw(st.lists(st.integers(0, 20), min_size=1, max_size=3))

    def program(*inputs):
        values = list(inputs)
        for function, one, other in steps:
            given = [values[one % len(values)], values[other % len(values)]]
            try:
                values.append(function(*given[: 2 if function in BINARY else 1]))
            except (RuntimeError, IndexError):  # shapes that do not fit
                continue
        return [values[-1 - index % len(values)] for index in results]

    return program


@hypothesis.given(programs(), st.sampled_from(["tape", "make_fx"]), st.integers(0, 99))
def test_any_program_runs_as_it_was_and_has_one_form(shuffled, equal, program, way, seed):
    args = (torch.randn(3, 3), torch.randn(3, 3))
    ir = graph(program, *args, way=way)
    raw = ir.to_bytes()
    read = IR.from_bytes(raw)
    assert read.to_bytes() == raw
    assert equal(read(*args), program(*args))
    if not ir.writes:
        assert IR.of(shuffled(ir.module, seed)).to_bytes() == raw


@hypothesis.given(programs(READS + UNARY + BINARY + WRITES))
def test_any_program_computes_with_other_values_or_says_so(equal, program):
    args = (torch.randn(3, 3), torch.randn(3, 3))
    ir = graph(program, *args, way="tape")
    for scale in (1.0, -1.0, 0.0):
        others = (torch.randn(3, 3), torch.randn(3, 3) * scale)
        try:
            found = ir(*others)
        except (MMSBError, RuntimeError, IndexError):
            continue  # a guard, or shapes that do not fit now
        assert equal(found, program(*others))
