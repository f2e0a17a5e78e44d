"""Pages that are not there, and pages that cannot be made."""

import math
import warnings

import numpy as np
import pytest
import torch

import mmsb_torch as mmsb

NAN = float("nan")


def doubled(a):
    return a * 2


def table(cases):
    """Parametrise over {id: (call, class, words)}."""
    return pytest.mark.parametrize(
        ("call", "kind", "words"), cases.values(), ids=[name.replace(" ", "_") for name in cases]
    )


def update(*args, **options):
    return lambda memory: memory.update(*args, **options)


def delta(call, *words):
    return call, mmsb.InvalidDeltaError, words


class Sub(torch.Tensor):
    """A tensor of a class of somebody's own."""


def sub(*shape):
    return torch.zeros(*shape).as_subclass(Sub)


def quietly(make):
    """A tensor of a layout that torch warns about once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantised(*shape):
    return quietly(lambda: torch.quantize_per_tensor(torch.zeros(*shape), 1.0, 0, torch.quint8))


def nested():
    return quietly(lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))


ROW = torch.ones(1, 3)


# which page, which transaction


def foreign_page(memory):
    with mmsb.open() as other:
        return memory.update(other.page("a", torch.zeros(5, 3)), torch.ones(5, 3))


def foreign_input(memory):
    with mmsb.open() as other:
        return memory.derive(doubled, other.page("a", torch.zeros(5, 3)), name="x")


def foreign_keyword(memory):
    with mmsb.open() as other:
        return memory.derive(doubled, a=other.page("a", torch.zeros(5, 3)), name="x")


def not_found(call, *words):
    return call, mmsb.PageNotFoundError, words


PAGES = {
    "unknown": not_found(update("nobody", torch.ones(1)), "'nobody'"),
    "near": not_found(update("flags", torch.ones(1)), "'flags'", "Did you mean 'flag'"),
    "by number": not_found(update(1, torch.ones(5, 3)), "1"),
    "None": not_found(update(None, torch.ones(1)), "None"),
    "a tensor": not_found(update(torch.ones(1), torch.ones(1)), "Page or a page's name"),
    "a foreign page": not_found(foreign_page, "'a'", "another memory"),
    "a foreign input": not_found(foreign_input, "'a'", "another memory"),
    "a foreign keyword": not_found(foreign_keyword, "'a'", "another memory"),
    "look up": not_found(lambda m: m["nobody"], "'nobody'"),
    "look up a number": not_found(lambda m: m[99], "99"),
    "look up None": not_found(lambda m: m[None], "None"),
    "look up True": not_found(lambda m: m[True], "True"),
    "look up a float": not_found(lambda m: m[1.0], "1.0"),
    "look up a list": not_found(lambda m: m[["a"]], "['a']"),
    "look up a page": not_found(lambda m: m[m["a"]], "'a'"),
    "page": not_found(lambda m: m.page("nobody"), "'nobody'", "mem.page(name, tensor)"),
    "page with a dtype": not_found(lambda m: m.page("nobody", dtype=torch.int8), "'nobody'"),
    "why": not_found(lambda m: m.why("nobody"), "'nobody'"),
    "why a number": not_found(lambda m: m.why(3), "3"),
    "at": not_found(lambda m: m.at(1)["nobody"], "'nobody'"),
    "at, later page": not_found(lambda m: m.at(1)["b"], "'b'", "transaction 1"),
    "at, epoch of nobody": not_found(lambda m: m.at(1).epoch("nobody"), "'nobody'"),
    "at, epoch of a later page": not_found(lambda m: m.at(1).epoch("b"), "'b'", "transaction 1"),
    "many": not_found(lambda m: m.update_many([("b", None, 1), ("nobody", None, 1)]), "'nobody'"),
}


@table(PAGES)
def test_pages_that_are_not_there(refused, call, kind, words):
    refused(call, kind, words)


def test_what_is_no_name_is_in_no_memory(room):
    for thing in (5, None, 1.0, True, room["a"]):
        assert thing not in room


MANY = {
    "None": delta(lambda m: m.update_many(None), "update_many"),
    "a number": delta(lambda m: m.update_many(5), "update_many"),
    "pairs": delta(lambda m: m.update_many([("a", torch.ones(5, 3))]), "update_many", "rows"),
    "a name": delta(lambda m: m.update_many(["abc"]), "update_many", "'abc'"),
    "one bad of two": delta(
        lambda m: m.update_many([("b", None, 1), ("a", [9], ROW)]), "'a'", "9", "-5 to 4"
    ),
}


@table(MANY)
def test_update_many_that_does_not_fit(refused, call, kind, words):
    refused(call, kind, words)


def test_an_iterable_that_raises_half_way_changes_nothing(room, picture_of):
    before = picture_of(room)

    def updates():
        yield "b", None, 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        room.update_many(updates())
    assert picture_of(room) == before


BAD_LABELS = [5, "", b"x", ["x"], 1.5, True, ("a",)]


@pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
def test_labels_that_are_none(refused, label):
    refused(lambda m: m.commit(label), mmsb.HistoryError, ["label", repr(label)])


@pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
def test_update_many_takes_no_such_labels_either(refused, label):
    refused(
        lambda m: m.update_many([("b", None, 1)], label=label),
        mmsb.HistoryError,
        ["label", repr(label)],
    )


@pytest.mark.parametrize("step", [-1, 1.0, True, "1", [1], NAN, torch.tensor(1)], ids=repr)
def test_steps_that_are_none(refused, step):
    refused(lambda m: m.commit("x", step=step), mmsb.HistoryError, ["step", repr(step)])


@pytest.mark.parametrize("epoch", ["0", 0.0, NAN, [0], False], ids=repr)
def test_epochs_that_are_none(refused, epoch):
    refused(
        lambda m: m.update("b", 1, epoch=epoch),
        mmsb.InvalidDeltaError,
        ["'b'", "epoch", repr(epoch)],
    )


def test_an_epoch_that_never_was_is_a_conflict(refused):
    refused(update("b", 1, epoch=-1), mmsb.EpochConflictError, ["'b'", "epoch 0", "-1"])
    refused(update("b", 1, epoch=2**70), mmsb.EpochConflictError, ["'b'", "epoch 1"])


# new pages


def invalid(call, *words):
    return call, mmsb.InvalidPageError, words


def make(*args, **options):
    return lambda memory: memory.page(*args, **options)


def looped():
    found = {}
    found["self"] = found
    return found


ONE = torch.ones(1)


NEW = {
    "empty name": invalid(make("", ONE), "name", "0 characters"),
    "reserved name": invalid(make("__metadata__", ONE), "name", "__metadata__"),
    "surrogate": invalid(make("a\ud800", ONE), "name", "\\ud800"),
    "newline": invalid(make("a\nb", ONE), "name", "\\n"),
    "nul": invalid(make("a\0", ONE), "name", "\\x00"),
    "delete": invalid(make("a\x7f", ONE), "name", "\\x7f"),
    "c1 control": invalid(make("a\x85", ONE), "name", "\\x85"),
    "too long": invalid(make("x" * 1025, ONE), "name", "1025", "1024"),
    "number": invalid(make(5, ONE), "name", "int"),
    "None": invalid(make(None, ONE), "name", "NoneType"),
    "bytes": invalid(make(b"x", ONE), "name", "bytes"),
    "no value, bad name": invalid(make(""), "name"),
    "list for a name": invalid(make(["x"], ONE), "name", "list"),
    "sparse": invalid(make("x", ONE.to_sparse()), "'x'", "sparse"),
    "quantised": invalid(lambda m: m.page("x", quantised(2)), "'x'", "quantised"),
    "nested": invalid(lambda m: m.page("x", nested()), "'x'", "nested"),
    "meta": invalid(make("x", torch.ones(1, device="meta")), "'x'", "meta"),
    "subclass": invalid(lambda m: m.page("x", sub(2)), "'x'", "subclass"),
    "list": invalid(make("x", [1.0]), "'x'", "list"),
    "number as a value": invalid(make("x", 5.0), "'x'", "float"),
    "numpy": invalid(make("x", np.ones(1)), "'x'", "ndarray"),
    "a page": invalid(lambda m: m.page("x", m["a"]), "'x'", "Page"),
    "both": invalid(make("x", ONE, shape=(1,)), "'x'", "both", "shape="),
    "dtype that is not the value's": invalid(make("x", ONE, dtype=torch.int8), "float32", "int8"),
    "dtype as a string": invalid(
        make("x", shape=(1,), dtype="float32"), "'x'", "dtype", "'float32'"
    ),
    "dtype as a type": invalid(make("x", shape=(1,), dtype=float), "'x'", "dtype"),
    "quantised dtype": invalid(make("x", shape=(1,), dtype=torch.qint8), "'x'", "qint8"),
    "negative size": invalid(make("x", shape=(2, -1)), "'x'", "shape", "(2, -1)"),
    "float size": invalid(make("x", shape=(2.0,)), "'x'", "shape", "2.0"),
    "nan size": invalid(make("x", shape=(NAN,)), "'x'", "shape", "nan"),
    "bool size": invalid(make("x", shape=(True,)), "'x'", "shape", "True"),
    "string size": invalid(make("x", shape="23"), "'x'", "shape", "'23'"),
    "number for a shape": invalid(make("x", shape=5), "'x'", "shape", "5"),
    "huge size": invalid(make("x", shape=(2**62,)), "'x'", str(2**62)),
    "huger size": invalid(make("x", shape=(2**70,)), "'x'", str(2**70)),
    "huge product": invalid(make("x", shape=(2**31, 2**31, 4)), "'x'", str(2**31)),
    "huge size of nothing": invalid(make("x", shape=(0, 2**70)), "'x'", str(2**70)),
    "metadata set": invalid(make("x", ONE, metadata={"k": {1}}), "'x'", "metadata", "set"),
    "metadata nan": invalid(make("x", ONE, metadata={"k": NAN}), "'x'", "metadata"),
    "metadata inf": invalid(make("x", ONE, metadata={"k": [math.inf]}), "'x'", "metadata"),
    "metadata cycle": invalid(lambda m: m.page("x", ONE, metadata=looped()), "'x'", "metadata"),
    "metadata keys": invalid(make("x", ONE, metadata={1: 2}), "'x'", "metadata", "strings"),
    "metadata inner keys": invalid(
        make("x", ONE, metadata={"k": {1: 2}}), "'x'", "metadata", "strings"
    ),
    "metadata keys that collide": invalid(
        make("x", ONE, metadata={"k": [{1: 2, "1": 3}]}), "'x'", "metadata", "strings"
    ),
    "metadata tensor": invalid(make("x", ONE, metadata={"k": ONE}), "'x'", "metadata", "Tensor"),
    "metadata bytes": invalid(make("x", ONE, metadata={"k": b"x"}), "'x'", "metadata", "bytes"),
    "metadata list": invalid(make("x", ONE, metadata=[("k", 1)]), "'x'", "metadata"),
    "metadata string": invalid(make("x", ONE, metadata="k"), "'x'", "metadata"),
    "page id string": invalid(make("x", ONE, page_id="7"), "'x'", "page_id", "'7'"),
    "page id float": invalid(make("x", ONE, page_id=70.0), "'x'", "page_id", "70.0"),
    "page id bool": invalid(make("x", ONE, page_id=True), "'x'", "page_id", "True"),
    "page id negative": invalid(make("x", ONE, page_id=-5), "'x'", "page_id", "-5"),
    "page id zero": invalid(make("x", ONE, page_id=0), "'x'", "page_id", "0"),
    "page id huge": invalid(make("x", ONE, page_id=2**70), "'x'", "page_id", str(2**70)),
    "page id in use": (make("x", ONE, page_id=2), mmsb.PageExistsError, ["2", "'b'"]),
    "page id of a derived page": (make("x", ONE, page_id=8), mmsb.PageExistsError, ["8", "'d'"]),
    "device meta": (make("x", ONE, device="meta"), mmsb.UnsupportedLocationError, ["meta"]),
    "device nonsense": (make("x", ONE, device="tape"), mmsb.UnsupportedLocationError, ["'tape'"]),
    "device unified": (
        make("x", ONE, device=mmsb.PageLocation.UNIFIED),
        mmsb.UnsupportedLocationError,
        ["unified", "device='cpu'"],
    ),
    "device number": (make("x", ONE, device=1.5), mmsb.UnsupportedLocationError, ["1.5"]),
    "unknown kind": (make("x", kind="nobody's"), mmsb.InvalidRecipeError, ['"nobody\'s"']),
    "kind of a root": (make("a", kind="nobody's"), mmsb.InvalidRecipeError, ["nobody's"]),
    "kind number": (make("x", kind=5), mmsb.InvalidRecipeError, ["kind", "5"]),
    "kind list": (make("x", kind=["k"]), mmsb.InvalidRecipeError, ["kind", "['k']"]),
}


@table(NEW)
def test_pages_that_cannot_be_made(refused, call, kind, words):
    refused(call, kind, words)


def test_a_page_of_a_kind_takes_no_value(refused):
    mmsb.register_recomputation("kind and value", lambda memory, page: memory["a"].tensor)
    refused(make("x", ONE, kind="kind and value"), mmsb.InvalidPageError, ["'x'", "kind"])
    refused(make("x", shape=(1,), kind="kind and value"), mmsb.InvalidPageError, ["'x'", "kind"])


def test_the_page_of_a_root_is_of_no_kind(refused):
    mmsb.register_recomputation("kind of a root", lambda memory, page: memory["b"].tensor)
    refused(make("a", kind="kind of a root"), mmsb.PageExistsError, ["'a'", "no derived page"])


def test_no_id_is_lost_to_refused_pages(room):
    for call, kind, _ in NEW.values():
        with pytest.raises(kind):
            call(room)
    assert room.page("x", ONE).id == 9
