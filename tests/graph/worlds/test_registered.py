"""What a user registers: a change makes exactly the results that name it stale; the history stays."""

import contextlib
import io
import json
import logging
import textwrap

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import mmsb_torch as mmsb
from mmsb_torch.instrumentation.code import Worlds

LOG = logging.getLogger("runs of tests/graph/worlds")


def doubled(x):
    LOG.info("run")
    return x * 2


def added(x):
    LOG.info("run")
    return x + 1


def test_a_change_makes_exactly_the_results_that_name_it_stale(mem, kept, runs):
    assert mem.register_world("tokenizer", "v1") == 0
    mem.register_world("corpus", 1)
    result = kept(doubled, world="tokenizer")
    other = mem.derive(added, "x", world=["corpus"])
    free = mem.derive(lambda x: added(x), "x", name="free")
    result.value(), other.tensor, free.tensor
    assert runs() == 3
    mem.register_world("tokenizer", "v1")
    result.value(), other.tensor, free.tensor
    assert runs() == 0
    assert mem.register_world("tokenizer", "v2") == 1
    told = result.explain()
    assert "world 'tokenizer' changed" in told
    assert "'v1' -> 'v2' in world 1" in told
    result.value(), other.tensor, free.tensor
    assert runs() == 1
    assert mem.register_world("corpus", 2) == 2
    result.value(), other.tensor, free.tensor
    assert runs() == 1
    assert [(w.name, w.kind, w.change) for w in mem.worlds()] == [
        ("tokenizer", "registered", "'v1' -> 'v2'"),
        ("corpus", "registered", "1 -> 2"),
    ]


def test_an_old_value_has_its_old_results_again(mem, runs):
    mem.register_world("tokenizer", "v1")
    f = mem.memo(doubled, world="tokenizer")
    x = torch.ones(3)
    for value, ran in (("v1", 1), ("v2", 1), ("v1", 0), ("v2", 0), (("v2",), 1), ("v3", 1)):
        mem.register_world("tokenizer", value)
        f(x)
        assert runs() == ran, value


def test_it_counts_beside_a_version(mem, runs):
    mem.register_world("t", 1)
    f = mem.memo(doubled, version="a", world=("t",))
    f(torch.ones(2)), f(torch.ones(2))
    assert runs() == 1
    mem.register_world("t", 1.0)  # another type is another value
    f(torch.ones(2))
    assert runs() == 1


def test_a_value_that_changes_while_the_function_runs(mem, kept, runs):
    mem.register_world("t", 0)
    values = iter(range(1, 3))

    def move(record):
        value = next(values, None)
        if value is not None:
            mem.register_world("t", value)
        return True

    LOG.filters.insert(0, move)
    try:
        result = kept(doubled, world="t")
        for _ in range(3):
            result.value()
            assert runs() == 1
    finally:
        LOG.removeFilter(move)
    result.value()
    assert runs() == 0


def test_decorators_take_it_too(mem):
    mem.register_world("t", 1)

    @mem.derive(world="t")
    def page(x):
        return x + 5

    @mem.memo(world="t")
    def function(x):
        return x + 5

    assert torch.equal(page.tensor, function(mem["x"].clone()))


def test_a_graph_in_a_world(mem):
    mem.register_world("t", 1)
    net = mem.ir("net", torch.nn.Linear(4, 2), mem["x"])
    page = mem.derive(net, "x", name="y", world="t")
    _ = page.tensor
    mem.register_world("t", 2)
    assert mem.why(page).status == "stale"
    _ = page.tensor
    assert mem.why(page).status == "fresh"


BAD_NAMES = ["nobody", ["t", "nobody"], 3, ["t", 3], "", [[]], object()]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: type(name).__name__)
def test_worlds_that_are_not_registered(mem, name):
    mem.register_world("t", 1)
    with pytest.raises(mmsb.WorldError, match="registered"):
        mem.derive(doubled, "x", name="y", world=name)
    with pytest.raises(mmsb.WorldError, match="registered"):
        mem.memo(doubled, world=name)
    assert "y" not in mem


@pytest.mark.parametrize(
    "value",
    [object(), torch.ones(2), {1: 2}, {"a": {3}}, print, [[open]]],
    ids=lambda value: type(value).__name__,
)
def test_values_that_are_no_plain_data(mem, value):
    with pytest.raises(mmsb.WorldError, match=r"plain data.*Pass a version"):
        mem.register_world("t", value)
    with pytest.raises(mmsb.WorldError):
        mem.memo(doubled, world="t")


@pytest.mark.parametrize("name", ["", None, 3, b"t"])
def test_names_that_are_none(mem, name):
    with pytest.raises(mmsb.WorldError, match="non-empty str"):
        mem.register_world(name, 1)


def test_a_value_is_taken_as_it_is_now(mem, runs):
    config = {"lr": 0.1, "layers": [1, 2]}
    mem.register_world("config", config)
    f = mem.memo(doubled, world="config")
    f(torch.ones(2))
    config["layers"].append(3)  # not registered anew
    f(torch.ones(2))
    assert runs() == 1
    mem.register_world("config", config)
    f(torch.ones(2))
    assert runs() == 1


def test_looking_now_tells_what_is_stale_and_computes_nothing(mem, runs):
    space = {"RATE": 2.0, "LOG": LOG}
    exec("def rated(x):\n    LOG.info('run')\n    return x * RATE", space)
    mem.derive(space["rated"], "x")
    mem.derive(lambda rated: rated + 1, name="below")
    mem.derive(added, "x", name="beside")
    mem.propagate(), runs()
    told = []
    mem.subscribe(lambda event: told.append((event.type.name, event.fields.get("page"))))
    assert mem.invalidate_on_world_change() == []
    assert not told
    space["RATE"] = 3.0
    assert [page.name for page in mem.invalidate_on_world_change()] == ["rated", "below"]
    assert mem.worlds().number == 1
    assert told == [("WORLD_CHANGED", "rated"), ("STALE", "below")]
    assert mem.invalidate_on_world_change("beside") == []
    assert runs() == 0
    tx = mem.tx
    mem.propagate()
    assert (runs(), mem.worlds().number, mem.tx) == (1, 1, tx)
    assert mem.invalidate_on_world_change() == []


def test_settings_of_torch_are_worlds_too(mem):
    page = mem.derive(doubled, "x")
    _ = page.tensor
    torch.set_default_dtype(torch.float64)
    try:
        assert "default dtype" in str(mem.why(page))
        _ = page.tensor
    finally:
        torch.set_default_dtype(torch.float32)
    assert [(w.kind, w.name) for w in mem.worlds()] == [("setting", "torch")]


def test_the_history_prints_as_a_table(mem):
    assert str(mem.worlds()) == "world 0"
    mem.register_world("tokenizer", "v1")
    mem.register_world("tokenizer", "v2")
    lines = str(mem.worlds()).splitlines()
    assert lines[0] == "world 1"
    assert lines[1].startswith("1  20")
    assert lines[1].endswith("registered  tokenizer    'v1' -> 'v2'")
    assert repr(mem.worlds()) == str(mem.worlds())
    assert "tokenizer" in str(mem.worlds()[-1])
    assert len(mem.worlds()[:1]) == 1


def test_the_history_is_bounded_and_the_number_counts_on():
    worlds = Worlds()
    for number in range(1500):
        worlds.register("step", number)
    history = worlds.history()
    assert (history.number, len(history)) == (1499, 1024)
    assert history[-1].number == 1499
    assert "the last 1024" in str(history)
    assert len(json.dumps(worlds.as_plain())) < 100_000


SESSION = """
import torch, mmsb_torch as mmsb
FACTOR = {factor}
def scaled(x):
    return x * FACTOR
with mmsb.open(path) as mem:
    mem.page("x", torch.ones(3))
    mem.register_world("tokenizer", {version!r})
    page = mem.derive(scaled, "x", world="tokenizer")
    noted = mem.memo(scaled, world="tokenizer")
    tx = mem.tx
    why = str(mem.why(page))
    page.tensor, noted(torch.ones(3))
    assert mem.tx == tx
    print(mem.stats()["recomputed"], mem.memo.stats()["misses"], mem.worlds().number)
    print("; ".join(w.change for w in mem.worlds()))
    print(why.replace(chr(10), " "))
"""


def session(path, factor, version):
    """What a session prints; its code is loaded anew."""
    code = textwrap.dedent(SESSION).format(factor=factor, version=version)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "session.py", "exec"), {"__name__": "session", "path": path})
    return printed.getvalue().splitlines()


def test_worlds_go_on_after_reopening(tmp_path):
    path = tmp_path / "run.mmsb"
    assert session(path, 2.0, "v1")[:2] == ["1 1 0", ""]
    assert session(path, 2.0, "v1")[:2] == ["0 0 0", ""]
    counts, changes, _ = session(path, 2.0, "v2")
    assert (counts, changes) == ("1 1 1", "'v1' -> 'v2'")
    counts, changes, why = session(path, 3.0, "v2")
    assert counts == "1 1 2"
    assert changes.endswith("declared with other code than in an earlier session")
    assert "computed in world 1; since then declared with other code" in why
    assert session(path, 3.0, "v2")[0] == "0 0 2"
    with mmsb.open(path, mode="r") as mem:
        assert [w.number for w in mem.worlds()] == [1, 2]
        assert mem.why("scaled").world == 2


def test_a_reader_may_register_and_writes_nothing(tmp_path):
    path = tmp_path / "run.mmsb"
    with mmsb.open(path) as mem:
        mem.page("x", torch.ones(3))
        mem.register_world("t", 1)
        _ = mem.derive(doubled, "x", world="t").tensor
    files = {f: f.stat().st_mtime_ns for f in path.rglob("*")}
    with mmsb.open(path, mode="r") as mem:
        assert mem.register_world("t", 2) == 1
        page = mem.derive(doubled, "x", world="t")
        assert torch.equal(page.tensor, torch.ones(3) * 2)
        assert mem.stats()["recomputed"] == 1
    assert {f: f.stat().st_mtime_ns for f in path.rglob("*")} == files


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30))
def test_any_edits_found_by_many(edits):
    """Several definitions, each found by three who share it: one world a change, in order."""
    worlds, now, expected = Worlds(), [0, 0, 0], []
    for place, value in edits:
        before, after = f"{place}:{now[place]}", f"{place}:{value}"
        for _ in range(3):
            if before != after:
                number = worlds.note("code", str(place), "changed", before, after)
        if before != after:
            expected.append((before, after))
            assert number == len(expected)
        now[place] = value
    assert [(w.before, w.after) for w in worlds.history()] == expected
    assert [w.number for w in worlds.history()] == list(range(1, len(expected) + 1))
    for place in range(3):
        found = worlds.since(0, [f"{place}:0"], ())
        assert [(w.before, w.after) for w in found] == [
            pair for pair in expected if pair[0].startswith(f"{place}:")
        ]
    again = Worlds()
    again.fill(json.loads(json.dumps(worlds.as_plain())))
    assert again.history()[:] == worlds.history()[:]
