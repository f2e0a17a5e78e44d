"""Going back to a tracked cell: pages and variables as they were, and what cannot be given back."""

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb
from mmsb_torch.notebook.history import History


def test_variables_come_back_as_they_were(cell):
    cell("x = torch.arange(1000.)\nk = 3\ns = {'a': [1, 2.5, None], 'b': ('t', True)}")
    cell("x[0] = 7\nk = 4\ns['a'].append(9)\nlater = torch.ones(3)")
    told = cell.session.checkout(1)
    space = cell.shell.user_ns
    assert space["x"].equal(torch.arange(1000.0))
    assert (space["k"], space["s"]) == (3, {"a": [1, 2.5, None], "b": ("t", True)})
    assert "later" not in space
    assert "removed, made later: later" in told
    cell.session.checkout(2)
    assert space["later"].equal(torch.ones(3))
    assert float(space["x"][0]) == 7
    assert space["s"]["a"][-1] == 9


def test_pages_come_back_too(cell):
    mem = cell.shell.user_ns["mem"] = mmsb.open()
    mem.page("emb", torch.zeros(4, 2))
    cell("mem.update('emb', torch.ones(1, 2), rows=[1])\na = 1")
    cell("mem.update('emb', torch.ones(1, 2), rows=[2])\na = 2")
    told = cell.session.checkout(1)
    assert "pages: as of transaction 2" in told
    assert mem["emb"].tensor[:, 0].tolist() == [0, 1, 0, 0]
    assert cell.shell.user_ns["a"] == 1
    mem.close()


def test_what_is_there_now_can_be_had_back(cell):
    cell("x = torch.zeros(500)")
    cell("x[1] = 1", tracked=False)
    cell.session.checkout(1)
    entries = cell.session.history.entries
    assert [entry.title for entry in entries.values()][1:] == [
        "(before checkout 1)",
        "(checkout 1)",
    ]
    cell.session.checkout(2)
    assert float(cell.shell.user_ns["x"][1]) == 1


def test_functions_and_modules_go_back(cell):
    cell("def f(v):\n    return v + 1\nmodel = torch.nn.Linear(3, 3)")
    before = cell.shell.user_ns["model"].weight.detach().clone()
    cell("def f(v):\n    return v + 2\nmodel.weight.data.zero_()")
    model = cell.shell.user_ns["model"]
    cell.session.checkout(1)
    assert cell.shell.user_ns["f"](1) == 2
    assert cell.shell.user_ns["model"] is model
    assert model.weight.equal(before)


def test_tensors_that_share_memory_still_do(cell):
    cell("x = torch.zeros(600)\ny = x[100:400]\nz = x.view(20, 30).T")
    cell("x = y = z = 0")
    cell.session.checkout(1)
    space = cell.shell.user_ns
    space["x"][150] = 5
    assert float(space["y"][50]) == 5
    assert float(space["z"][0, 5]) == 5
    assert space["z"].stride() == (1, 30)


def test_kinds_of_values(cell):
    cell(
        "import numpy as np\n"
        "a = np.arange(6).reshape(2, 3)\nb = torch.nn.Parameter(torch.ones(2))\n"
        "c = torch.tensor([1 + 2j])\nd = (float('nan'), float('-inf'), -0.0, 1 + 1j, b'x', range(3), slice(1, 2))\n"
        "e = torch.float16\ng = torch.randn(2, requires_grad=True) * 2\nh = torch.eye(3).to_sparse()\n"
        "i = frozenset((1, 2))\nj = torch.zeros(0, 3)\nk = torch.tensor(True)\nl = torch.Size((2, 3))\nm = object()"
    )
    names = {n: cell.shell.user_ns[n] for n in "abcdegijkl"}
    cell("a = b = c = d = e = g = i = j = k = l = None")
    told = cell.session.checkout(1)
    space = cell.shell.user_ns
    assert np.array_equal(space["a"], names["a"])
    assert space["a"].dtype == names["a"].dtype
    assert isinstance(space["b"], torch.nn.Parameter)
    assert space["b"].requires_grad
    assert repr(space["d"]) == repr(names["d"])
    for name in "eil":
        assert space[name] == names[name]
        assert type(space[name]) is type(names[name])
    for name in "cgjk":
        assert space[name].equal(names[name])
    assert not space["g"].requires_grad
    assert "g: its value, not how it was computed" in told
    assert any(line.startswith("h: left as it is") for line in told)
    assert any(line.startswith("m: left as it is, a builtins.object") for line in told)


def test_history_takes_what_changed(cell):
    cell("x = torch.randn(1000, 256)")
    size = cell.session.history.nbytes
    cell("x[3] = 0")
    assert cell.session.history.nbytes - size < 4096
    cell("y = 1")
    assert cell.session.history.nbytes - size < 4096


def test_a_path_outlives_the_session(cell, tmp_path):
    cell("%mmsb open run.mmsb", tracked=False)
    assert cell.shell.user_ns["mem"] is cell.session.memory
    cell("x = torch.arange(50.)\nname = 'first'\ndef f(): pass")
    cell("x = x * 2\nname = 'second'")
    cell.session.close()
    history = History(tmp_path / "run.cells.mmsb")
    given = history.checkout(1)
    assert given.values["x"].equal(torch.arange(50.0))
    assert given.values["name"] == "first"
    assert "earlier session" in given.left["f"]
    assert history.next_number == 3
    assert [entry.title for entry in history.entries.values()] == [
        "x = torch.arange(50.)",
        "x = x * 2",
    ]
    history.close()


def test_an_open_that_fails_leaves_what_was_open(cell, tmp_path):
    cell("%mmsb open run.mmsb", tracked=False)
    memory = cell.session.memory
    held = mmsb.open(tmp_path / "held.mmsb")
    assert not cell.shell.run_cell("%mmsb open held.mmsb").success
    assert cell.session.memory is memory
    assert not memory.closed
    held.close()


def test_what_was_there_before_it_was_tracked_is_left(cell):
    cell("a = 1")
    cell("b = 2", tracked=False)
    cell("b = 3")
    told = cell.session.checkout(1)
    assert cell.shell.user_ns["b"] == 3
    assert "b: left as it is, no tracked cell had assigned it then" in told


def test_no_such_cell(cell):
    with pytest.raises(mmsb.HistoryError, match="no tracked cell 5"):
        cell.session.checkout(5)


def test_a_history_in_memory_has_a_limit(cell, monkeypatch):
    monkeypatch.setattr("mmsb_torch.notebook.history.IN_MEMORY_BYTES", 1000)
    cell("x = torch.randn(1000)")
    cell("y = 1")
    assert list(cell.session.history.entries) == [2]
    assert cell.session.history.names >= {"y"}
