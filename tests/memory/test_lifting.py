"""A recorded block as derived pages: an update runs what depends on it; the rest is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import mmsb_torch as mmsb

A = torch.arange(12.0).view(4, 3) / 7
B = torch.arange(12.0).view(4, 3).flip(0) / 5


def lifted(mem, block, *, inputs, constants=()):
    """Records `block(**inputs)` and lifts its results, by name."""
    tensors = {name: value.clone() for name, value in inputs.items()}
    with mem.record() as rec:
        outputs = block(**tensors)
    return rec.lift(tensors, outputs, constants=constants)


def block(a, b):
    left = (a * 2).exp()
    right = b.t().matmul(b)
    both = left @ right
    return {"both": both, "left": left.sum(1)}


def test_only_the_cone_of_a_change_is_computed(mem):
    pages = lifted(mem, block, inputs={"a": A, "b": B})
    assert torch.equal(pages["both"].tensor, block(A, B)["both"])
    assert torch.equal(pages["left"].tensor, block(A, B)["left"])
    before = {page.name: page.epoch for page in mem.pages()}
    a = A.clone()
    a[1] = 5
    mem.update("a", a[1:2], rows=[1])
    assert torch.equal(pages["both"].tensor, block(a, B)["both"])
    assert torch.equal(pages["left"].tensor, block(a, B)["left"])
    moved = {page.name for page in mem.pages() if page.epoch != before[page.name]}
    assert moved >= {"a", "both", "left"}
    assert any("mm" in page.name and page.name not in moved for page in mem.pages())


def test_modules_follow_their_weights(mem):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU())
    x = mem.page("x", A)
    with torch.no_grad(), mem.record() as rec:
        y = model(x.tensor)
    page = rec.lift(outputs={"y": y})["y"]
    assert torch.equal(page.tensor, y)
    runs = mem.stats()["recomputed"]
    _ = page.tensor
    assert mem.stats()["recomputed"] == runs
    mem.update("x", B)
    with torch.no_grad():
        assert torch.equal(page.tensor, model(B))
        model[0].weight.mul_(2)
        assert torch.equal(page.tensor, model(B))


def test_writes_inside_of_the_block_are_replayed_in_order(mem):
    def inside(a, b):
        out = torch.zeros(4, 3)
        row = out[1]
        out[:, 1:] = a[:, :2]
        row.add_(b[0])
        out.clamp_(max=1.0)
        total = torch.empty(3)
        torch.sum(out, 0, out=total)
        return {"out": out, "total": total}

    pages = lifted(mem, inside, inputs={"a": A, "b": B})
    assert torch.equal(pages["out"].tensor, inside(A, B)["out"])
    mem.update("b", A)
    assert torch.equal(pages["out"].tensor, inside(A, A)["out"])
    assert torch.equal(pages["total"].tensor, inside(A, A)["total"])
    assert torch.equal(mem["b"].tensor, A)


def test_gradients_are_lifted_like_anything_else(mem):
    def inside(a, b):
        a.requires_grad_()
        (grad,) = torch.autograd.grad((a.sin() * b).sum(), a)
        return {"grad": grad}

    pages = lifted(mem, inside, inputs={"a": A, "b": B})
    mem.update("a", B)
    assert torch.equal(pages["grad"].tensor, inside(B.clone(), B)["grad"])


def test_a_value_that_python_read_is_a_guard(mem):
    def inside(a):
        if a.sum().item() > 0:
            return {"y": a * 2}
        return {"y": a - 1}

    page = lifted(mem, inside, inputs={"a": A})["y"]
    assert torch.equal(page.tensor, A * 2)
    mem.update("a", A.flip(0))  # an equal sum, bit for bit or not: right, or refused
    try:
        assert torch.equal(page.tensor, A.flip(0) * 2)
    except mmsb.RecipeError:
        assert A.flip(0).sum().item() != A.sum().item()
    mem.update("a", -A)
    with pytest.raises(mmsb.RecipeError, match=r"told .* when it was recorded"):
        _ = page.tensor
    mem.update("a", A)
    assert torch.equal(page.tensor, A * 2)


def test_shapes_that_depend_on_values_are_guards(mem):
    def inside(a):
        rows = (a[:, 0] > 0).nonzero().squeeze(1)
        return {"picked": a[rows]}

    page = lifted(mem, inside, inputs={"a": A})["picked"]
    assert torch.equal(page.tensor, A[1:])
    mem.update("a", A + 1)
    with pytest.raises(mmsb.RecipeError, match="gave shapes"):
        _ = page.tensor


def test_results_with_several_tensors(mem):
    def inside(a, b):
        values, indices = a.topk(2)
        picked = b.gather(1, indices)
        first, second = torch.split(picked, 1, 1)
        return {"values": values, "first": first, "product": first * second}

    pages = lifted(mem, inside, inputs={"a": A, "b": B})
    for name, value in inside(A, B).items():
        assert torch.equal(pages[name].tensor, value)
    mem.update("a", -A)
    for name, value in inside(-A, B).items():
        assert torch.equal(pages[name].tensor, value)


def test_two_names_for_one_tensor_and_a_name_for_an_input(mem):
    def inside(a):
        y = a + 1
        return {"y": y, "again": y, "same": a}

    pages = lifted(mem, inside, inputs={"a": A})
    mem.update("a", B)
    assert torch.equal(pages["y"].tensor, B + 1)
    assert torch.equal(pages["again"].tensor, B + 1)
    assert torch.equal(pages["same"].tensor, B)


def test_lifting_the_same_block_again_keeps_the_values(mem):
    first = lifted(mem, block, inputs={"a": A, "b": B})
    _ = first["both"].tensor
    runs = mem.stats()["recomputed"]
    second = lifted(mem, block, inputs={"a": A, "b": B})
    assert second["both"] == first["both"]
    _ = second["both"].tensor
    assert mem.stats()["recomputed"] == runs


def test_a_lifted_block_outlives_the_process(path):
    with mmsb.open(path) as mem:
        value = lifted(mem, block, inputs={"a": A, "b": B})["both"].clone()
    with mmsb.open(path) as mem:
        page = lifted(mem, block, inputs={"a": A, "b": B})["both"]
        assert torch.equal(page.tensor, value)
        assert mem.stats()["recomputed"] == 0


W = torch.full((3, 2), 0.5)
NORM = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        (lambda a: a * torch.rand(3), "random"),
        (lambda a: torch.nn.functional.dropout(a, 0.5), "random"),
        (lambda a: a.add_(1), "from outside"),
        (lambda a: torch.from_numpy(a.numpy() * 2) + a, "came from outside"),
        (lambda a: a @ W, r"float32\[3, 2\].*constants="),
        (lambda a: torch.cond(a.sum() > 0, lambda x: x + 1, lambda x: x - 1, (a,)), "Python"),
        (lambda a: NORM(a), "from outside"),
        (lambda a: a.to_sparse().to_dense(), "plain dense"),
        (lambda a: torch.ones(2), "depends on no input"),
    ],
    ids=[
        "rand",
        "dropout",
        "write",
        "numpy",
        "unknown",
        "cond",
        "batch norm",
        "sparse",
        "no input",
    ],
)
def test_what_cannot_be_replayed_is_refused_and_nothing_is_made(mem, inside, why):
    with pytest.raises(mmsb.RecordingError, match=why):
        lifted(mem, lambda a: {"y": inside(a)}, inputs={"a": A})
    assert "y" not in mem


def test_constants_are_held_when_named(mem):
    page = lifted(mem, lambda a: {"y": a @ W}, inputs={"a": A}, constants=[W])["y"]
    assert torch.equal(page.tensor, A @ W)


def test_writes_by_numpy_are_caught_by_the_replay(mem):
    a = A.clone()
    with mem.record() as rec:
        y = a * 2
        y.numpy()[:] = 0
        z = y + 1
    with pytest.raises(mmsb.RecordingError, match="other bits"):
        rec.lift({"a": a}, {"z": z})
    assert "z" not in mem


def test_a_page_that_changed_meanwhile_is_refused(mem):
    page = mem.page("x", A)
    with mem.record() as rec:
        y = page.tensor * 2
    mem.update("x", B)
    with pytest.raises(mmsb.RecordingError, match="changed since"):
        rec.lift(outputs={"y": y})


def test_misuse_is_refused(mem):
    a = A.clone()
    with mem.record(max_calls=1) as rec:
        y = a * 2
        with pytest.raises(mmsb.RecordingError, match="not over"):
            rec.lift({"a": a}, {"y": y})
        z = y + 1
    with pytest.raises(mmsb.RecordingError, match="not kept"):
        rec.lift({"a": a}, {"z": z})
    with mem.record() as rec:
        y = a * 2
    with pytest.raises(mmsb.RecordingError, match="outputs="):
        rec.lift({"a": a})
    with pytest.raises(mmsb.RecordingError, match="no tensor that the block"):
        rec.lift({"a": a}, {"y": torch.ones(1)})
    mem.close()
    with pytest.raises(mmsb.ClosedError):
        rec.lift({"a": a}, {"y": y})


OPS = {
    "add": lambda x, y: x + y,
    "mul": lambda x, y: x * y,
    "tanh": lambda x, y: torch.tanh(x),
    "softmax": lambda x, y: torch.softmax(x - y, -1),
    "transpose": lambda x, y: x.t().contiguous().view(4, 3) + y,
    "flip": lambda x, y: x.flip(0),
    "slice": lambda x, y: torch.cat([x[:2], y[2:]]),
    "linear": lambda x, y: x @ y.t() @ x,
    "sort": lambda x, y: x.sort(0).values,
    "write": lambda x, y: x.clone().index_copy_(0, torch.tensor([1]), y[:1]),
    "view write": lambda x, y: _written(x, y),
}


def _written(x, y):
    z = x.clone()
    z[:, 1].mul_(y[:, 0])
    return z


@given(
    program=st.lists(
        st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=8,
    ),
    edits=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99)), max_size=4),
)
def test_lifted_equals_run_again_after_any_edits(program, edits):
    def run(a, b, c):
        values = [a, b, c]
        for op, i, j in program:
            values.append(OPS[op](values[i % len(values)], values[j % len(values)]))
        return {f"out{n}": value for n, value in enumerate(values[3:][-2:])}

    now = {"a": A.clone(), "b": B.clone(), "c": A.sin()}
    with mmsb.open() as mem:
        pages = lifted(mem, run, inputs=now)
        for name, seed in [("a", None), *edits]:
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
                now[name] = torch.randn(4, 3, generator=generator)
                if name in mem:
                    mem.update(name, now[name])
            for key, value in run(**now).items():
                assert torch.equal(pages[key].tensor, value)
