"""Moments that are not there, subscribers that fail, stores that cannot be used like that."""

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


def make(*args, **options):
    return lambda memory: memory.page(*args, **options)


ONE = torch.ones(1)


# moments


def moment(call, *words):
    return call, mmsb.HistoryError, words


MOMENTS = {
    "zero": moment(lambda m: m.at(0), "0", "1 to 8"),
    "later": moment(lambda m: m.at(99), "99", "1 to 8"),
    "negative": moment(lambda m: m.at(-1), "-1", "1 to 8"),
    "huge": moment(lambda m: m.at(2**70), str(2**70), "1 to 8"),
    "label": moment(lambda m: m.at("last"), "'last'", "'first'"),
    "empty label": moment(lambda m: m.at(""), "''"),
    "bool": moment(lambda m: m.at(True), "True"),
    "float": moment(lambda m: m.at(1.0), "1.0"),
    "nan": moment(lambda m: m.at(NAN), "nan"),
    "None": moment(lambda m: m.at(None), "number", "label", "step="),
    "nothing": moment(lambda m: m.at(), "number", "label", "step="),
    "list": moment(lambda m: m.at([1]), "[1]"),
    "tensor": moment(lambda m: m.at(torch.tensor(1)), "tensor(1)"),
    "moment": moment(lambda m: m.at(m.at(1)), "Moment"),
    "both": moment(lambda m: m.at(1, step=1), "one moment"),
    "step": moment(lambda m: m.at(step=7), "step 7", "1"),
    "step bool": moment(lambda m: m.at(step=True), "step", "True"),
    "step float": moment(lambda m: m.at(step=1.0), "step", "1.0"),
    "step nan": moment(lambda m: m.at(step=NAN), "step", "nan"),
    "step string": moment(lambda m: m.at(step="1"), "step", "'1'"),
    "step list": moment(lambda m: m.at(step=[1]), "step", "[1]"),
    "step negative": moment(lambda m: m.at(step=-1), "step", "-1"),
    "diff from": moment(lambda m: m.diff(0, 3), "0", "1 to 8"),
    "diff to": moment(lambda m: m.diff(1, 99), "99", "1 to 8"),
    "diff bool": moment(lambda m: m.diff(True, 3), "True"),
    "diff float": moment(lambda m: m.diff(1, 3.0), "3.0"),
    "diff None": moment(lambda m: m.diff(1, None), "number", "label"),
    "diff label": moment(lambda m: m.diff("first", "last"), "'last'", "'first'"),
    "restore zero": moment(lambda m: m.restore(0), "0", "1 to 8"),
    "restore later": moment(lambda m: m.restore(99), "99", "1 to 8"),
    "restore negative": moment(lambda m: m.restore(-1), "-1", "1 to 8"),
    "restore label": moment(lambda m: m.restore("last"), "'last'", "'first'"),
    "restore bool": moment(lambda m: m.restore(True), "True"),
    "restore float": moment(lambda m: m.restore(1.0), "1.0"),
    "restore None": moment(lambda m: m.restore(None), "number", "label", "step="),
    "restore step": moment(lambda m: m.restore(step=7), "step 7", "1"),
    "restore step bool": moment(lambda m: m.restore(step=True), "step", "True"),
}


@table(MOMENTS)
def test_moments_that_are_not_there(refused, call, kind, words):
    refused(call, kind, words)


def test_a_memory_without_a_past_says_so(mem):
    with pytest.raises(mmsb.HistoryError) as caught:
        mem.at(1)
    assert "1 to 0" not in str(caught.value)
    assert "no transaction" in str(caught.value)
    with pytest.raises(mmsb.HistoryError, match="none"):
        mem.at("label")


# subscribers


def test_what_cannot_be_called_cannot_subscribe(room):
    for subscriber in (None, 5, "f"):
        with pytest.raises(TypeError):
            room.subscribe(subscriber)
    for types in (mmsb.EventType.STALE, [99], ["STALE"], 5):
        with pytest.raises((TypeError, ValueError)):
            room.subscribe(print, types)


# stores


@pytest.mark.parametrize("mode", ["", "rw", "a", "tail", "W", None, 5, ["r"]], ids=repr)
def test_modes_that_there_are_not(path, mode):
    with pytest.raises(mmsb.UnsupportedError, match=r"mode=.*'w'.*'r'"):
        mmsb.open(path, mode=mode)
    assert not path.exists()


@pytest.mark.parametrize("device", ["meta", "tape", 1.5, "unified", mmsb.PageLocation.UNIFIED])
def test_devices_that_there_are_not(path, device):
    with pytest.raises(mmsb.UnsupportedLocationError, match=r"expected|unknown|unified"):
        mmsb.open(path, device=device)
    assert not path.exists()


def test_a_reader_needs_a_path(tmp_path):
    with pytest.raises(mmsb.StoreError, match=r"mode='r'.*path"):
        mmsb.open(mode="r")
    with pytest.raises(mmsb.StoreError, match=r"missing\.mmsb"):
        mmsb.open(tmp_path / "missing.mmsb", mode="r")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_file_is_no_store(tmp_path, mode):
    file = tmp_path / "run.mmsb"
    file.write_text("mine")
    with pytest.raises(mmsb.StoreError, match=r"run\.mmsb"):
        mmsb.open(file, mode=mode)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("mode", ["w", "r"])
def test_a_foreign_folder_is_no_store(tmp_path, mode):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "me.jpg").write_text("smile")
    with pytest.raises(mmsb.StoreError, match="photos"):
        mmsb.open(folder, mode=mode)
    assert [item.name for item in folder.iterdir()] == ["me.jpg"]


def test_a_store_in_a_folder_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(mmsb.StoreError, match="missing"):
        mmsb.open(tmp_path / "missing" / "run.mmsb")
    assert not list(tmp_path.iterdir())


def test_a_store_whose_identity_is_damaged_is_refused(path):
    mmsb.open(path).close()
    (path / "MMSB.json").write_text("{}")
    for mode in "wr":
        with pytest.raises(mmsb.CorruptStoreError, match=r"MMSB\.json"):
            mmsb.open(path, mode=mode)


def test_a_refused_open_leaves_no_lock(path):
    mmsb.open(path).close()
    with pytest.raises(mmsb.UnsupportedLocationError):
        mmsb.open(path, device="meta")
    mmsb.open(path).close()


@pytest.fixture
def reader(path):
    """A store with a page `a` and a derived page `d` (stale), opened for reading."""
    with mmsb.open(path) as memory:
        memory.page("a", torch.arange(3.0))
        _ = memory.derive(doubled, "a", name="d").tensor
        memory.update("a", 1.0)
    with mmsb.open(path, mode="r") as memory:
        yield memory


def commit_to(memory):
    with memory.commit() as tx:
        tx.update("a", 1.0)


READ_ONLY = {
    "update": update("a", torch.ones(3)),
    "update_many": lambda m: m.update_many([("a", None, 1.0)]),
    "commit": commit_to,
    "empty commit": lambda m: m.commit("x").__enter__(),
    "page": make("new", ONE),
    "zero page": make("new", shape=(2,)),
    "restore": lambda m: m.restore(m.tx),
    "checkpoint": lambda m: m.checkpoint(),
}


@pytest.mark.parametrize("call", READ_ONLY.values(), ids=READ_ONLY.keys())
def test_a_reader_writes_nothing(reader, call, picture_of):
    reader.derive(doubled, "a", name="d")
    before = picture_of(reader)
    with pytest.raises(mmsb.ReadOnlyError, match="mode='r'") as caught:
        call(reader)
    assert isinstance(caught.value, PermissionError)
    assert picture_of(reader) == before


def test_a_memory_in_ram_has_no_checkpoints(refused):
    refused(lambda m: m.checkpoint(), mmsb.StoreError, ["RAM", "mmsb.open(", "mmsb_stop"])


@pytest.mark.parametrize("keep", [0, -1, 1.5, "all", True, NAN], ids=repr)
def test_a_number_of_checkpoints_that_cannot_be_kept(path, keep):
    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(2))
        memory.update("a", 1.0, rows=[1])
        with pytest.raises(mmsb.MMSBError, match="keep"):
            memory.checkpoint(keep=keep)
        assert not list((path / "checkpoints").iterdir())
        assert memory["a"].mask.tolist() == [False, True]


def test_a_progress_that_raises_leaves_no_checkpoint(path):
    def progress(done, total):
        raise ZeroDivisionError

    with mmsb.open(path) as memory:
        memory.page("a", torch.zeros(2))
        memory.update("a", 1.0, rows=[1])
        with pytest.raises(ZeroDivisionError):
            memory.checkpoint(progress=progress)
        assert not list((path / "checkpoints").iterdir())
        assert memory["a"].mask.tolist() == [False, True]
        assert memory.checkpoint().tx == 2
