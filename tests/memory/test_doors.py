"""What was decided about closing, about error classes, and the original way in and out."""

import builtins
import inspect

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import mmsb_torch as mmsb
from mmsb_torch import errors

A = torch.arange(15.0).view(5, 3)


def doubled(a):
    return a * 2


# 16. closed


MEMORY_CALLS = {
    "page": lambda m: m.page("a"),
    "page, new": lambda m: m.page("new", torch.ones(1)),
    "update": lambda m: m.update("a", 1.0),
    "update, bad": lambda m: m.update("nobody", None),
    "append": lambda m: m.append("a", A[:1]),
    "update_many": lambda m: m.update_many([]),
    "commit": lambda m: m.commit("x"),
    "derive": lambda m: m.derive(doubled, "a", name="x"),
    "derive, decorator": lambda m: m.derive(doubled),
    "ir": lambda m: m.ir("net", torch.sin, A),
    "ir, a page": lambda m: m.ir("a"),
    "propagate": lambda m: m.propagate(),
    "why": lambda m: m.why("d"),
    "graph": lambda m: m.graph,
    "at": lambda m: m.at(1),
    "diff": lambda m: m.diff(1, 2),
    "restore": lambda m: m.restore(1),
    "checkpoint": lambda m: m.checkpoint(),
    "collect": lambda m: m.collect(),
    "collect, dry run": lambda m: m.collect(dry_run=True),
    "memo": lambda m: m.memo(doubled),
    "worlds": lambda m: m.worlds(),
    "register_world": lambda m: m.register_world("t", 1),
    "invalidate_on_world_change": lambda m: m.invalidate_on_world_change(),
    "audit": lambda m: m.audit(),
    "sync": lambda m: m.sync(),
    "verify": lambda m: m.verify(),
    "subscribe": lambda m: m.subscribe(print),
    "record": lambda m: m.record(),
    "incremental": lambda m: m.incremental(),
    "stats": lambda m: m.stats(),
    "tx": lambda m: m.tx,
    "pages": lambda m: m.pages(),
    "__getitem__": lambda m: m["a"],
    "__contains__": lambda m: "a" in m,
    "__iter__": lambda m: list(m),
    "__len__": lambda m: len(m),
    "__enter__": lambda m: m.__enter__(),
}
STAYS = {"close", "closed"}

PAGE_CALLS = {
    "tensor": lambda p: p.tensor,
    "read": lambda p: p.read([0]),
    "clone": lambda p: p.clone(),
    "epoch": lambda p: p.epoch,
    "mask": lambda p: p.mask,
    "changed": lambda p: p.changed,
    "history": lambda p: p.history(),
    "dtype": lambda p: p.dtype,
    "shape": lambda p: p.shape,
    "device": lambda p: p.device,
    "location": lambda p: p.location,
    "nbytes": lambda p: p.nbytes,
    "metadata": lambda p: p.metadata,
    "ir": lambda p: p.ir,
}
PAGE_STAYS = {"id", "name", "memory", "derived"}


def public(kind):
    classes = kind.__mro__[:-1]
    return {name for cls in classes for name in vars(cls) if not name.startswith("_")}


def test_the_tables_below_cover_every_public_name():
    assert public(mmsb.Memory) - STAYS <= {name.split(",")[0] for name in MEMORY_CALLS}
    assert public(mmsb.Page) == set(PAGE_CALLS) | PAGE_STAYS


@pytest.fixture(params=["ram", "disk"])
def closed(request, path):
    memory = mmsb.open(None if request.param == "ram" else path)
    memory.page("a", A)
    memory.page("b", torch.arange(4))
    memory.derive(doubled, "a", name="d")
    memory.close()
    return memory


@pytest.mark.parametrize("call", MEMORY_CALLS.values(), ids=MEMORY_CALLS.keys())
def test_a_closed_memory_raises_on_everything(closed, call):
    with pytest.raises(mmsb.ClosedError, match=r"closed.*mmsb\.open"):
        call(closed)


@pytest.mark.parametrize("name", ["a", "d"])
@pytest.mark.parametrize("call", PAGE_CALLS.values(), ids=PAGE_CALLS.keys())
def test_so_does_every_page_of_it(name, call):
    memory = mmsb.open()
    memory.page("a", A)
    memory.derive(doubled, "a", name="d")
    page = memory[name]
    _ = page.tensor
    memory.close()
    with pytest.raises(mmsb.ClosedError, match="closed"):
        call(page)
    assert page.name == name
    assert name in repr(page)


def test_the_handle_of_a_page_opens_no_back_door(ab):
    ab.derive(doubled, "a", name="d")
    page, derived = ab["a"], ab["d"]
    ab.close()
    attempts = (
        lambda: ab.why(page),
        lambda: ab.why(derived),
        lambda: ab.update(page, 1.0),
        lambda: ab.update(page, "no tensor at all"),
        lambda: ab.update_many([(page, None, 1.0)]),
        lambda: ab.derive(doubled, page, name="x"),
    )
    for attempt in attempts:
        with pytest.raises(mmsb.ClosedError):
            attempt()


def test_closing_says_so_and_may_be_repeated(closed):
    assert closed.closed
    assert "closed" in repr(closed)
    closed.close()
    closed.__exit__(None, None, None)
    assert closed.closed


def test_a_transaction_open_at_close_commits_nothing(ab):
    value, tx = ab["a"].tensor, ab.commit()

    def commit():
        with tx:
            tx.update("a", 1.0)
            ab.close()

    with pytest.raises(mmsb.ClosedError):
        commit()
    assert tx.number is None
    assert torch.equal(value, A)


def test_what_was_taken_before_closing_stays_valid(ab):
    ab.derive(doubled, "a", name="d")
    ab.derive(lambda d, b: d[:4] + b[:, None], "d", "b", name="never read")
    ab.update("a", 1.0)
    tensor, derived, clone = ab["a"].tensor, ab["d"].tensor, ab["a"].clone()
    then, now, changes = ab.at(2), ab.at(3), ab.diff(2, 3)
    history = ab["a"].history()
    graph, reason = ab.graph, ab.why("d")
    ab.close()
    assert bool((tensor == 1).all() and (derived == 2).all() and (clone == 1).all())
    for moment, value in ((then, A), (now, torch.ones(5, 3))):
        assert torch.equal(moment["a"], value)
        assert torch.equal(moment["d"], value * 2)
        assert torch.equal(moment["never read"], (value * 2)[:4] + torch.arange(4)[:, None])
        assert list(moment) == ["a", "b", "d", "never read"]
        assert "a" in moment
        assert "nobody" not in moment
        assert len(moment) == 4
    assert (then.epoch("a"), now.epoch("a")) == (0, 1)
    assert torch.equal(changes["a"].before, A)
    assert len(history) == 2
    assert "never read" in str(graph)
    assert "'a'" in str(reason)


def test_a_moment_of_a_page_of_a_kind_stays_valid(ab):
    mmsb.register_recomputation("kind after close", lambda memory, page: memory["a"].tensor + 1)
    ab.page("k", kind="kind after close")
    moment = ab.at(2)
    ab.close()
    assert torch.equal(moment["k"], A + 1)


def test_a_page_of_a_closed_memory_is_refused_elsewhere(mem):
    with mmsb.open() as other:
        page = other.page("a", A)
    with pytest.raises(mmsb.PageNotFoundError, match="another memory"):
        mem.update(page, 1.0)


# 18. names and doors


ERRORS = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if kind.__module__ == errors.__name__
}

BUILTINS = {
    "CaptureError": RuntimeError,
    "ClosedError": RuntimeError,
    "CorruptLogError": ValueError,
    "CorruptStoreError": ValueError,
    "CycleDetectedError": ValueError,
    "DerivedPageError": TypeError,
    "EpochConflictError": RuntimeError,
    "HistoryError": LookupError,
    "InvalidMemoError": TypeError,
    "WorldError": ValueError,
    "WrongHitError": AssertionError,
    "CollectedError": LookupError,
    "InternalError": AssertionError,
    "InvalidDeltaError": ValueError,
    "InvalidPageError": ValueError,
    "InvalidRecipeError": TypeError,
    "InvalidSubscriptionError": ValueError,
    "MismatchError": ValueError,
    "TrackError": RuntimeError,
    "PageExistsError": ValueError,
    "PageMutatedError": RuntimeError,
    "PageNotFoundError": KeyError,
    "ReadOnlyError": PermissionError,
    "NotRowwiseError": RuntimeError,
    "PlanError": RuntimeError,
    "RecipeError": RuntimeError,
    "RecipeNotLoadedError": LookupError,
    "RecordingError": RuntimeError,
    "ReplayError": RuntimeError,
    "SerializationError": ValueError,
    "StoreError": OSError,
    "StoreLockedError": BlockingIOError,
    "TransactionError": RuntimeError,
    "UnsupportedError": NotImplementedError,
    "UnsupportedLocationError": NotImplementedError,
}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_class_is_importable_from_the_top(name):
    kind = ERRORS[name]
    assert getattr(mmsb, name) is kind
    assert name in mmsb.__all__
    assert kind.__doc__
    if issubclass(kind, Warning):
        return
    assert issubclass(kind, mmsb.MMSBError)
    if kind is mmsb.MMSBError:
        return
    assert issubclass(kind, BUILTINS[name])
    error = kind("what, expected, found", page_id=3, delta_id=4)
    assert (str(error), error.page_id, error.delta_id) == ("what, expected, found", 3, 4)


def test_every_public_name_is_there_once_and_sorted():
    assert mmsb.__all__ == sorted(mmsb.__all__)
    assert all(hasattr(mmsb, name) for name in mmsb.__all__)
    assert not {name for name in mmsb.__all__ if hasattr(builtins, name)} - {"open"}


def test_the_original_way_in_and_out(tmp_path):
    state = mmsb.mmsb_start(enable_gpu=False, enable_instrumentation=False)
    state.page("model.layer 1/weight", A)
    state.page("größe", torch.tensor(3, dtype=torch.int16))
    state.page("flag", torch.tensor([True, False]))
    state.derive(doubled, state["model.layer 1/weight"], name="twice")
    written = mmsb.mmsb_stop(state, checkpoint_path=tmp_path / "final.safetensors")
    assert written == tmp_path / "final.safetensors"
    assert state.closed
    loaded = load_file(written)
    assert set(loaded) == {"model.layer 1/weight", "größe", "flag", "twice"}
    assert torch.equal(loaded["twice"], A * 2)
    assert loaded["größe"].dtype is torch.int16
    with safe_open(written, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert [item.name for item in tmp_path.iterdir()] == ["final.safetensors"]


def test_stopping_without_a_path_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = mmsb.mmsb_start(enable_gpu=False)
    state.page("a", A)
    assert mmsb.mmsb_stop(state) is None
    assert state.closed
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_leaves_the_memory_open(tmp_path):
    state = mmsb.mmsb_start(enable_gpu=False)
    state.page("a", A)
    with pytest.raises(mmsb.InvalidPageError, match=r"final\.pt.*\.safetensors"):
        mmsb.mmsb_stop(state, checkpoint_path=tmp_path / "final.pt")
    with pytest.raises(mmsb.StoreError, match="missing"):
        mmsb.mmsb_stop(state, checkpoint_path=tmp_path / "missing" / "final.safetensors")
    assert not state.closed
    assert torch.equal(state["a"].tensor, A)
    mmsb.mmsb_stop(state, checkpoint_path=str(tmp_path / "final.safetensors"))
    assert torch.equal(load_file(tmp_path / "final.safetensors")["a"], A)


def test_a_failing_recipe_leaves_the_memory_open_and_an_older_file_whole(tmp_path):
    target = tmp_path / "final.safetensors"
    target.write_bytes(b"older")
    state = mmsb.mmsb_start(enable_gpu=False)
    state.page("a", A)

    def broken(a):
        raise ValueError("not today")

    state.derive(broken, "a")
    with pytest.raises(mmsb.RecipeError, match="not today"):
        mmsb.mmsb_stop(state, checkpoint_path=target)
    assert not state.closed
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]
    state.close()


def test_without_a_gpu_starting_with_one_warns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.warns(mmsb.DeviceFallbackWarning, match="CPU"):
        state = mmsb.mmsb_start(enable_gpu=True)
    assert state.page("a", A).location is mmsb.PageLocation.CPU
    state.close()
