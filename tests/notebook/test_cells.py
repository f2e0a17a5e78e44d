"""Incremental cells: what runs, what is reused, and what is said about it."""

import pytest
import torch

import mmsb_torch as mmsb

SETUP = """
torch.manual_seed(0)
x = torch.randn(200, 300)
w = torch.randn(300, 300)
def scaled(v):
    return torch.tanh(v @ w) * 0.5
def unrelated(v):
    return torch.relu(v @ w.T).sum(0)
"""
WORK = "a = scaled(x)\nb = unrelated(x)\nc = a @ w\n"


@pytest.fixture
def ready(cell):
    cell(SETUP, tracked=False)
    return cell


def test_an_unchanged_cell_runs_nothing(ready):
    first = ready(WORK)
    assert first.total.ran >= 5
    assert first.first
    ready(WORK)  # what was not worth keeping at first is kept now
    again = ready(WORK)
    assert (again.total.ran, again.causes) == (0, ())
    assert again.total.reused >= 3
    assert "nothing to run" in str(again)
    assert "saved" in str(again)


def test_an_edited_line_runs_what_is_behind_it(ready):
    for _ in range(2):
        ready(WORK)
    edited = ready(WORK.replace("a @ w", "a @ w.T"))
    assert [group.label for group in edited.groups if group.ran] == ["line 4"]
    assert edited.causes == ("line 4 was edited",)
    again = ready(WORK)
    assert again.total.ran == 0  # put back: its results are there


def test_a_redefined_function_is_named_with_what_differs(ready):
    for _ in range(2):
        ready(WORK)
    ready(SETUP.partition("def scaled")[0].partition("torch.man")[0] + "\n", tracked=False)
    ready("def scaled(v):\n    return torch.tanh(v @ w) * 0.25\n", tracked=False)
    summary = ready(WORK)
    assert "scaled() was redefined: 0.5 became 0.25" in summary.causes
    assert {group.label for group in summary.groups if group.ran} == {"scaled()", "line 4"}
    assert "because scaled() was redefined" in str(summary)
    assert ready.shell.user_ns["a"].equal(
        torch.tanh(ready.shell.user_ns["x"] @ ready.shell.user_ns["w"]) * 0.25
    )


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("def f(v, k=2.0):\n    return v * k", "def f(v, k=3.0):\n    return v * k", "default k: 2.0 became 3.0"),
        ("def f(v):\n    return v * k()\ndef k():\n    return 2.0", "def f(v):\n    return v * k()\ndef k():\n    return 3.0", "k() was redefined: 2.0 became 3.0"),
        ("k = 2.0\ndef f(v):\n    return v * k", "k = 3.0\ndef f(v):\n    return v * k", "k: 2.0 became 3.0"),
        ("def f(v):\n    return v * 2", "def f(v):\n    return v + 2", "f() was redefined: now return v + 2"),
        ("class M(torch.nn.Module):\n    def forward(self, v):\n        return v * 2.0\nf = M()", "class M(torch.nn.Module):\n    def forward(self, v):\n        return v * 3.0\nf = M()", "M.forward() was redefined: 2.0 became 3.0"),
    ],
)  # fmt: skip
def test_what_was_redefined_is_found(cell, before, after, cause):
    cell("x = torch.randn(300, 300)\n" + before, tracked=False)
    cell("y = f(x)")
    cell("y = f(x)")
    cell(after, tracked=False)
    assert any(cause in found for found in cell("y = f(x)").causes)


def test_comments_and_the_same_again_are_no_cause(ready):
    for _ in range(2):
        ready(WORK)
    ready(SETUP.partition("torch.manual_seed(0)")[0], tracked=False)
    ready("def scaled(v):\n    # better\n    return torch.tanh(v @ w) * 0.5\n", tracked=False)
    summary = ready("# a comment\n" + WORK)
    assert (summary.total.ran, summary.causes) == (0, ())


def test_data_that_changed_is_named(ready):
    for _ in range(2):
        ready(WORK)
    ready("x[3] = 0", tracked=False)
    assert ready(WORK).causes == ("x changed",)
    ready("model = torch.nn.Linear(300, 300)", tracked=False)
    cell = "with torch.no_grad():\n    y = model(x)"
    ready(cell)
    ready("model.weight.data[0] = 0", tracked=False)
    assert ready(cell).causes == ("model.weight changed",)


def test_random_numbers_are_a_cause(ready):
    source = "r = torch.rand(300, 300)\ns = r @ w"
    ready(source)
    summary = ready(source)
    assert any("random numbers" in cause for cause in summary.causes)


def test_a_cell_that_raises_keeps_what_was_completed(ready):
    ready(WORK)
    failed = ready("a = scaled(x)\nd = a @ w\n1 / 0\n", raises=ZeroDivisionError)
    assert failed.error == "ZeroDivisionError"
    assert "d" in ready.shell.user_ns
    assert not ready.session.history.entries[2].trees.keys() & {"c"}
    mended = ready("a = scaled(x)\nd = a @ w\n")
    assert mended.total.ran == 0
    assert torch._C._len_torch_dispatch_stack() == 0


def test_a_syntax_error_leaves_no_scope(ready):
    result = ready.shell.run_cell("%%mmsb\nx = (")
    assert isinstance(result.error_before_exec, SyntaxError)
    assert torch._C._len_torch_dispatch_stack() == 0
    assert ready(WORK).total.ran


def test_values_are_shown_as_usual(ready, capsys):
    result = ready.shell.run_cell("%%mmsb\nx.shape", store_history=True)
    assert result.result == torch.Size([200, 300])
    capsys.readouterr()
    assert ready.shell.run_cell("%%mmsb\nx.shape;", store_history=True).success
    assert "torch.Size" not in capsys.readouterr().out


def test_other_magics_nest(ready):
    first = ready.shell.run_cell("%%capture out\n%%mmsb\nt = x @ w\nprint('hello')")
    first.raise_error()
    assert "hello" in str(ready.shell.user_ns["out"])
    ready.shell.run_cell("%%mmsb\n%%capture out\nt = x @ w\nprint('again')").raise_error()
    assert "again" in str(ready.shell.user_ns["out"])
    assert ready("t = x @ w").total.ran == 0


def test_await_works(ready):
    summary = ready(
        "import asyncio\nawait asyncio.sleep(0.01)\na = x @ w\nawait asyncio.sleep(0)\nb = a @ w"
    )
    assert summary.total.ran == 2
    assert ready("import asyncio\na = x @ w\nawait asyncio.sleep(0)\nb = a @ w").total.ran == 0


def test_called_by_hand(ready):
    shell = ready.shell
    shell.run_cell_magic("mmsb", "", "t = x @ w")
    assert shell.user_ns["t"].shape == (200, 300)
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("mmsb", "-q", "1 / 0")


def test_the_memory_is_the_only_one_there_is(ready):
    session = ready.session
    own = session.memory
    assert own is session.memory
    ready("import mmsb_torch as mmsb\nmem = mmsb.open()", tracked=False)
    assert session.memory is ready.shell.user_ns["mem"]
    ready("other = mmsb.open()", tracked=False)
    assert session.memory is own
    ready("%mmsb use other", tracked=False)
    assert session.memory is ready.shell.user_ns["other"]
    ready("other.close()", tracked=False)
    assert session.memory is ready.shell.user_ns["mem"]


def test_pages_recomputed_are_counted(ready):
    mem = mmsb.open()
    ready.shell.user_ns["mem"] = mem
    mem.page("p", torch.ones(3))
    mem.derive(lambda p: p * 2, "p", name="q")
    assert ready("mem['q'].tensor").pages == 1
    assert "recomputed 1 page" in str(ready("mem.update('p', torch.zeros(3)); mem['q'].tensor"))
    mem.close()


def test_wrong_commands_say_what_there_is(shell, capsys):
    for line in (
        "%mmsb nothing",
        "%mmsb checkout x",
        "%mmsb checkout 99",
        "%mmsb why nobody",
        "%mmsb budget lots",
        "%mmsb open",
        "%%mmsb --loud\n1",
    ):
        assert not shell.run_cell(line).success, line
    shown = "".join(capsys.readouterr())
    assert "expected one of stats, graph, why, log" in shown
    assert "Traceback" not in shown


def test_budget_and_stats(ready):
    ready(WORK)
    ready("%mmsb budget 1 KiB", tracked=False)
    assert ready.session.memory._operations.nbytes <= 1024
    for command in ("stats", "graph", "log", "why a", ""):
        result = ready.shell.run_cell(f"%mmsb {command}")
        assert result.success, command
        assert repr(result.result)
        assert "<" in result.result._repr_html_()


def test_unloading_leaves_nothing(shell):
    transforms = len(shell.input_transformer_manager.line_transforms)
    shell.run_cell("%unload_ext mmsb_torch").raise_error()
    assert len(shell.input_transformer_manager.line_transforms) == transforms - 1
    assert not shell.run_cell("%mmsb stats").success
    shell.run_cell("%load_ext mmsb_torch").raise_error()
    assert shell.run_cell("%mmsb stats").success
