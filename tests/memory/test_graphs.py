"""IR pages: graphs that are durable, have a history, and compute pages without the user's code."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import mmsb_torch as mmsb
from mmsb_torch.errors import (
    CaptureError,
    CycleDetectedError,
    InvalidPageError,
    InvalidRecipeError,
    RecipeError,
    ReplayError,
    SerializationError,
)

X = torch.arange(8.0).view(4, 2)


def scaled(factor):
    return lambda x: x * factor


def count_runs(page):
    return page.memory.stats()["recomputed"]


@pytest.fixture
def memory():
    with mmsb.open() as opened:
        opened.page("x", X)
        opened.ir("net", scaled(2.0), opened["x"])
        yield opened


def test_a_page_holds_a_graph(memory):
    page = memory["net"]
    assert page.ir(X).equal(X * 2)
    assert [node.op for node in page.ir.nodes] == ["aten.mul.Tensor"]
    assert page.dtype == torch.uint8
    assert memory.ir("net") is page
    assert not page.derived


def test_a_page_over_it_runs_the_graph(memory):
    page = memory.derive(memory["net"], "x", name="y")
    assert page.tensor.equal(X * 2)
    memory.update("x", torch.ones(1, 2), rows=[1])
    assert "stale" in repr(page)
    assert page.tensor.equal(memory["x"].tensor * 2)
    assert page.tensor.equal(memory["x"].tensor * 2)
    assert count_runs(page) == 2
    assert "'x' edited" in str(memory.why(page))


def test_a_page_is_stale_when_its_graph_changes(memory):
    page = memory.derive(memory["net"], "x", name="y")
    assert page.tensor.equal(X * 2)
    memory.ir("net", scaled(3.0), X)
    assert "stale" in repr(page)
    assert page.tensor.equal(X * 3)
    assert "'net' edited" in str(memory.why(page))


def test_an_equal_graph_is_no_change(memory):
    page = memory.derive(memory["net"], "x", name="y")
    _ = page.tensor
    before = memory["net"].epoch, memory.tx
    memory.ir("net", lambda value: torch.mul(value, other=2.0), X)
    assert (memory["net"].epoch, memory.tx) == before
    assert "fresh" in repr(page)


def test_weights_are_in_the_page(memory):
    model = nn.Sequential(nn.Linear(2, 8), nn.GELU(), nn.Linear(8, 3))
    memory.ir("model", model, memory["x"])
    page = memory.derive(memory["model"], "x", name="y")
    with torch.no_grad():
        wanted = model(X)
        model[0].weight.zero_()
        assert page.tensor.equal(wanted)
        memory.ir("model", model, X)
        assert page.tensor.equal(model(X))


def test_graphs_have_a_history(memory):
    page = memory.derive(memory["net"], "x", name="y")
    first = memory.tx
    memory.ir("net", scaled(5.0), X)
    assert page.tensor.equal(X * 5)
    assert memory.at(first)["y"].equal(X * 2)
    assert len(memory["net"].history()) == 2
    memory.restore(first)
    assert page.tensor.equal(X * 2)


def test_several_results_make_several_pages(memory):
    memory.ir("two", lambda x, y: (x + y, [x - y]), X, X)
    memory.page("other", torch.ones(4, 2))
    total = memory.derive(memory["two"], "x", "other", name="total", output=0)
    assert total.tensor.equal(X + 1)
    with pytest.raises(RecipeError, match="expected one dense"):
        _ = memory.derive(memory["two"], "x", "other", name="both").tensor
    with pytest.raises(RecipeError, match="no result 7"):
        _ = memory.derive(memory["two"], "x", "other", name="more", output=7).tensor


def test_declaring_again_keeps_or_replaces(memory):
    memory.ir("two", lambda x: (x + 1, x - 1), X)
    page = memory.derive(memory["two"], "x", name="y", output=0)
    assert page.tensor.equal(X + 1)
    assert memory.derive(memory["two"], "x", name="y", output=0) is page
    assert "fresh" in repr(page)
    memory.derive(memory["two"], "x", name="y", output=1)
    assert page.tensor.equal(X - 1)
    memory.derive(lambda x: x * 0, "x", name="y")
    assert page.tensor.equal(X * 0)
    memory.derive(memory["two"], "x", name="y", output=1)
    assert page.tensor.equal(X - 1)


def test_pages_of_graphs_are_inputs_of_others(memory):
    memory.derive(memory["net"], "x", name="y")
    last = memory.derive(memory["net"], "y", name="z")
    assert last.tensor.equal(X * 4)
    with pytest.raises(CycleDetectedError):
        memory.derive(memory["net"], "z", name="y")


# what is refused


def test_the_graph_is_for_the_shapes_it_was_captured_with(memory):
    memory.page("wide", torch.ones(4, 3))
    page = memory.derive(memory["net"], "wide", name="y")
    with pytest.raises(RecipeError) as caught:
        _ = page.tensor
    assert isinstance(caught.value.__cause__, ReplayError)


def test_branches_on_values_are_guarded(memory):
    memory.ir("branch", lambda x: x + 1 if x.sum() > 0 else x - 1, X)
    page = memory.derive(memory["branch"], "x", name="y")
    assert page.tensor.equal(X + 1)
    memory.update("x", -X)
    with pytest.raises(RecipeError, match="go another way"):
        _ = page.tensor
    memory.update("x", X * 2)
    assert page.tensor.equal(X * 2 + 1)


def test_functions_that_are_no_graph_leave_the_memory_as_it_was(memory):
    before = memory.tx, list(memory)
    with pytest.raises(CaptureError):
        memory.ir("bad", lambda x: x.add_(1), X.clone())
    assert (memory.tx, list(memory)) == before


def test_other_pages_hold_no_graph(memory):
    with pytest.raises(InvalidPageError, match="holds no graph"):
        memory.ir("x", scaled(2.0), X)
    with pytest.raises(InvalidPageError, match="holds no graph"):
        _ = memory["x"].ir
    with pytest.raises(InvalidRecipeError, match="holds no graph"):
        memory.derive(memory["x"], "x", name="y")
    with pytest.raises(mmsb.PageNotFoundError):
        memory.ir("nothing")


@pytest.mark.parametrize(
    ("args", "options"),
    [((), {}), (("x", "x"), {}), (("x",), {"output": "0"}), (("x",), {"scale": 2})],
)
def test_other_arguments_are_refused(memory, args, options):
    with pytest.raises(InvalidRecipeError, match="takes"):
        memory.derive(memory["net"], *args, name="y", **options)
    with pytest.raises(InvalidRecipeError, match="name="):
        memory.derive(memory["net"], "x")


def test_a_graph_that_does_not_fit_is_refused(memory):
    with pytest.raises(InvalidPageError, match="another name"):
        memory.ir("net", nn.Linear(2, 20_000), X)
    assert memory["net"].ir(X).equal(X * 2)


def test_what_was_written_over_a_graph_is_noticed(memory):
    page = memory.derive(memory["net"], "x", name="y")
    good = memory.tx
    for at in (3, 60, 70, 65_000):
        memory.update("net", torch.tensor(7, dtype=torch.uint8), indices=[at])
        with pytest.raises(RecipeError) as caught:
            _ = page.tensor
        assert isinstance(caught.value.__cause__, SerializationError)
        with pytest.raises(SerializationError):
            _ = memory["net"].ir
        memory.restore(good)
        assert page.tensor.equal(X * 2)


# without the user's code

READ = """
import sys
import torch, mmsb_torch as mmsb
torch.set_num_threads(1)  # as in the tests: it belongs to what a value was computed with
with mmsb.open(sys.argv[1], mode=sys.argv[2]) as memory:
    print(memory["y"].tensor.tolist(), memory.stats()["recomputed"])
    print(memory["net"].ir.digest)
"""


@pytest.mark.parametrize("mode", ["w", "r"])
@pytest.mark.parametrize("stale", [False, True])
def test_reopened_it_computes_without_the_users_code(path, mode, stale):
    with mmsb.open(path) as memory:
        memory.page("x", X)
        memory.ir("net", nn.Sequential(nn.Linear(2, 3), nn.Tanh()), memory["x"])
        page = memory.derive(memory["net"], "x", name="y")
        _ = page.tensor
        digest, net = memory["net"].ir.digest, memory["net"].ir
        if stale:
            memory.update("x", X + 1)
    script = [sys.executable, "-c", textwrap.dedent(READ), str(path), mode]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    value = net(X + stale)
    assert done.stdout.splitlines() == [f"{value.tolist()} {int(stale)}", digest]


def test_a_graph_changed_after_reopening_makes_its_page_stale(path):
    with mmsb.open(path) as memory:
        memory.page("x", X)
        memory.ir("net", scaled(2.0), X)
        _ = memory.derive(memory["net"], "x", name="y").tensor
    with mmsb.open(path) as memory:
        memory.ir("net", scaled(-1.0), X)
        assert memory["y"].tensor.equal(-X)
    with mmsb.open(path) as memory:
        assert memory["y"].tensor.equal(-X)
        assert memory.stats()["recomputed"] == 0
        assert memory.derive(memory["net"], "x", name="y") is memory["y"]
        assert memory.stats()["recomputed"] == 0
