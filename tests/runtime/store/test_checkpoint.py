import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file

from mmsb_torch.errors import (
    CorruptStoreError,
    HistoryError,
    MMSBError,
    SerializationError,
    StoreError,
    UnsupportedError,
)
from mmsb_torch.runtime.store import (
    CheckpointInfo,
    CheckpointRef,
    Snapshot,
    Store,
    describe_checkpoint,
    list_checkpoints,
    load_checkpoint,
    retain,
    verify_checkpoint,
    write_checkpoint,
)


def folder(root, tx):
    return root / "checkpoints" / f"{tx:020d}"


def txs(root):
    return [ref.tx for ref in list_checkpoints(root)]


def spoil(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_round_trip(root, small, kit):
    snapshot = small(7)
    info = write_checkpoint(root, snapshot)
    assert info.path == folder(root, 7)
    assert info.nbytes == sum(path.stat().st_size for path in info.path.iterdir())
    assert info == describe_checkpoint(info.path)
    for found in (
        load_checkpoint(root),
        load_checkpoint(str(root), tx=7),
        load_checkpoint(info.path),
        load_checkpoint(info.path, tx=7),
    ):
        assert found.tx == 7
        assert found.registry == snapshot.registry
        kit.assert_same(found.tensors, snapshot.tensors)
    assert verify_checkpoint(info.path) == []


def test_the_folder_is_in_hugging_face_style(root, small):
    snapshot = small(1)
    path = write_checkpoint(root, snapshot, shard_bytes=1).path
    names = [f"model-0000{n}-of-00004.safetensors" for n in (1, 2, 3, 4)]
    assert sorted(file.name for file in path.iterdir()) == [
        "MMSB_CHECKPOINT.json",
        *names,
        "model.safetensors.index.json",
    ]
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict(zip(snapshot.tensors, names, strict=True))
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in snapshot.tensors.values())
    assert torch.equal(load_file(path / names[0])["w"], snapshot.tensors["w"])
    assert b'"format":"pt"' in (path / names[0]).read_bytes()


@pytest.mark.parametrize(("shard_bytes", "shards"), [(1, 5), (1000, 5), (2000, 3), (1 << 30, 1)])
def test_shards(root, kit, shard_bytes, shards):
    tensors = {str(n): kit.random_tensor(torch.float32, (200,), n) for n in range(5)}
    info = write_checkpoint(root, Snapshot(1, tensors), shard_bytes=shard_bytes)
    files = list(info.path.glob("*.safetensors"))
    assert len(files) == shards
    assert shard_bytes == 1 or all(file.stat().st_size <= shard_bytes for file in files)
    kit.assert_same(load_checkpoint(root).tensors, tensors)
    assert verify_checkpoint(info.path) == []


def test_the_tensors_of_one_file_are_bounded_in_number_and_names(root, kit, monkeypatch):
    monkeypatch.setattr("mmsb_torch.runtime.store.shards.MAX_TENSORS", 3)
    monkeypatch.setattr("mmsb_torch.runtime.store.header.MAX_TENSORS", 3)
    monkeypatch.setattr("mmsb_torch.runtime.store.shards.MAX_HEADER_BYTES", 16_384)
    monkeypatch.setattr("mmsb_torch.runtime.store.header.MAX_HEADER_BYTES", 16_384)
    tensors = {str(n): torch.tensor(n) for n in range(7)}
    tensors |= {'"\n' * 900 + str(n): kit.random_tensor(torch.int4, (n,)) for n in range(9)}
    info = write_checkpoint(root, Snapshot(1, tensors))
    assert len(list(info.path.glob("*.safetensors"))) > 5
    kit.assert_same(load_checkpoint(root).tensors, tensors)


def test_too_many_shards(root, monkeypatch):
    monkeypatch.setattr("mmsb_torch.runtime.store.shards.MAX_SHARDS", 2)
    with pytest.raises(UnsupportedError, match="raise shard_bytes"):
        write_checkpoint(root, Snapshot(1, dict.fromkeys("abc", torch.ones(9))), shard_bytes=1)


@pytest.mark.parametrize("shard_bytes", [0, -1])
def test_shards_of_no_size(root, shard_bytes):
    with pytest.raises(StoreError, match="shard_bytes"):
        write_checkpoint(root, Snapshot(1, {}), shard_bytes=shard_bytes)


def test_json_beyond_what_is_read_back_is_not_written(root, small, kit, monkeypatch):
    for module in ("sealed", "manifest"):
        with monkeypatch.context() as patch:
            patch.setattr(f"mmsb_torch.runtime.store.{module}.MAX_JSON_BYTES", 200)
            with pytest.raises(SerializationError, match="at most 200"):
                write_checkpoint(root, small(1))
    assert kit.names(root / "checkpoints") == []


def test_a_store_without_its_checkpoints_folder(root, put):
    (root / "checkpoints").rmdir()
    assert list_checkpoints(root) == []
    put(root, 1)
    assert txs(root) == [1]


def test_nothing_in_it(root):
    write_checkpoint(root, Snapshot(0, {}, {}))
    found = load_checkpoint(root)
    assert (found.tx, found.tensors, found.registry) == (0, {}, {})


def test_progress_counts_bytes_and_its_exception_leaves_nothing(root, small, put, kit):
    put(root, 1)
    seen = []
    snapshot = small(2)
    total = sum(tensor.nbytes for tensor in snapshot.tensors.values())
    write_checkpoint(root, snapshot, progress=lambda done, all_: seen.append((done, all_)))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(root, small(3), progress=stop)
    assert kit.names(root / "checkpoints") == [f"{tx:020d}" for tx in (1, 2)]


def test_listing_ignores_what_is_foreign_or_temporary(root, put):
    for tx in (10, 9, 2**64 - 1):
        put(root, tx)
    for name in ("x", "1", "9" * 20, "0" * 21, ".00000000000000000011.tmp-0123456789abcdef"):
        (root / "checkpoints" / name).mkdir()
    (root / "checkpoints" / "notes.txt").touch()
    assert list_checkpoints(root) == [
        CheckpointRef(tx, folder(root, tx)) for tx in (9, 10, 2**64 - 1)
    ]


@pytest.mark.parametrize("tx", [-1, 2**64, True, 1.0, "1", None])
def test_bad_transactions(root, tx):
    with pytest.raises(SerializationError, match="transaction"):
        write_checkpoint(root, Snapshot(tx, {}))


@pytest.mark.parametrize("registry", [[], None, {1: 2}, {"a": (1,)}, {"a": float("nan")}])
def test_a_registry_that_is_no_json(root, registry, kit):
    with pytest.raises(SerializationError, match="registry"):
        write_checkpoint(root, Snapshot(1, {}, registry))
    assert kit.names(root / "checkpoints") == []


def test_no_such_checkpoint(root, put):
    with pytest.raises(HistoryError, match="found none"):
        load_checkpoint(root)
    put(root, 3)
    with pytest.raises(HistoryError, match="checkpoint 4, found 3"):
        load_checkpoint(root, tx=4)
    with pytest.raises(HistoryError, match="not 4"):
        load_checkpoint(folder(root, 3), tx=4)


def test_no_store(tmp_path):
    for call in (
        lambda: load_checkpoint(tmp_path),
        lambda: write_checkpoint(tmp_path, Snapshot(1, {})),
        lambda: retain(tmp_path, 1),
    ):
        with pytest.raises(StoreError, match="no store"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_damaged_newest_is_never_replaced_silently(root, put, kit):
    old = put(root, 1)
    for tx in (2, 3, 4):
        put(root, tx, seed=tx)
    spoil(folder(root, 4) / "model-00001-of-00001.safetensors")
    spoil(folder(root, 3) / "MMSB_CHECKPOINT.json")
    (folder(root, 2) / "model.safetensors.index.json").unlink()
    with pytest.raises(CorruptStoreError, match=r"4/model-0.*verifies is 1: `mmsb\.repair"):
        load_checkpoint(root)
    kit.assert_same(load_checkpoint(root, tx=1).tensors, old.tensors)
    for tx in (2, 3, 4):
        with pytest.raises(CorruptStoreError):
            load_checkpoint(root, tx=tx)
        assert len(verify_checkpoint(folder(root, tx))) == 1
    spoil(folder(root, 1) / "MMSB_CHECKPOINT.json")
    with pytest.raises(CorruptStoreError, match="No older checkpoint verifies"):
        load_checkpoint(root)


def test_an_empty_or_foreign_folder_with_a_checkpoints_name_is_damage(root, put):
    put(root, 1)
    folder(root, 5).mkdir()
    with pytest.raises(CorruptStoreError, match=r"is missing.*verifies is 1"):
        load_checkpoint(root)
    folder(root, 5).rmdir()
    folder(root, 5).touch()
    with pytest.raises(CorruptStoreError, match=r"no folder.*verifies is 1"):
        load_checkpoint(root)
    with pytest.raises(StoreError, match="no folder"):
        put(root, 5)


def test_a_link_in_place_of_a_checkpoint_is_refused(root, put, tmp_path):
    put(root, 1)
    folder(root, 1).rename(tmp_path / "away")
    folder(root, 1).symlink_to(tmp_path / "away")
    with pytest.raises(CorruptStoreError, match="no folder"):
        load_checkpoint(root)


def test_renamed_and_copied_checkpoints_are_noticed(root, put, tmp_path):
    put(root, 1)
    shutil.copytree(folder(root, 1), folder(root, 2))
    with pytest.raises(CorruptStoreError, match="folder renamed"):
        load_checkpoint(root)
    other = tmp_path / "other.mmsb"
    Store.create(other).close()
    shutil.copytree(folder(root, 1), folder(other, 1))
    with pytest.raises(CorruptStoreError, match="another store"):
        load_checkpoint(other)
    shutil.copytree(folder(root, 1), tmp_path / "export")
    assert load_checkpoint(tmp_path / "export").tx == 1


def test_the_same_transaction_again_replaces(root, put, kit):
    put(root, 1)
    new = put(root, 1, seed=99)
    kit.assert_same(load_checkpoint(root).tensors, new.tensors)
    spoil(folder(root, 1) / "MMSB_CHECKPOINT.json")
    newest = put(root, 1, seed=5)
    kit.assert_same(load_checkpoint(root).tensors, newest.tensors)
    assert kit.names(root / "checkpoints") == [f"{1:020d}"]


def test_a_replacement_killed_between_its_renames_loses_nothing(root, put, kit):
    put(root, 1)
    aside = folder(root, 2).with_name(f".{2:020d}.old-0123456789abcdef")
    old = put(root, 2, seed=3)
    folder(root, 2).rename(aside)
    assert txs(root) == [1, 2]
    kit.assert_same(load_checkpoint(root).tensors, old.tensors)
    assert verify_checkpoint(aside) == []
    put(root, 3)
    assert kit.names(root / "checkpoints") == [f"{tx:020d}" for tx in (1, 2, 3)]
    kit.assert_same(load_checkpoint(root, tx=2).tensors, old.tensors)


def test_leftovers_are_swept_by_the_next_writer(root, put, kit, tmp_path):
    (tmp_path / "precious").touch()
    put(root, 1)
    for kind in ("tmp", "old", "drop"):
        left = root / "checkpoints" / f".{1:020d}.{kind}-0123456789abcdef"
        (left / "deep").mkdir(parents=True)
        (left / "link").symlink_to(tmp_path)
        (left / "file").touch()
    assert txs(root) == [1]
    put(root, 2)
    assert kit.names(root / "checkpoints") == [f"{tx:020d}" for tx in (1, 2)]
    assert (tmp_path / "precious").exists()


def test_retain(root, put, kit):
    assert retain(root, 1) == []
    for tx in (5, 1, 9, 7):
        put(root, tx)
    assert retain(root, 9) == []
    assert [ref.tx for ref in retain(root, 2)] == [1, 5]
    assert [ref.tx for ref in retain(root, 1)] == [7]
    assert [ref.tx for ref in retain(root, 1)] == []
    assert kit.names(root / "checkpoints") == [f"{9:020d}"]
    with pytest.raises(StoreError, match="at least 1"):
        retain(root, 0)


def test_retain_removes_nothing_while_the_newest_cannot_be_read(root, put):
    put(root, 1)
    put(root, 2)
    shard = folder(root, 2) / "model-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CorruptStoreError, match="no older one was removed"):
        retain(root, 1)
    assert txs(root) == [1, 2]


def test_verify_names_every_damaged_file(root, put):
    put(root, 1, shard_bytes=1)
    path = folder(root, 1)
    spoil(path / "model-00001-of-00004.safetensors")
    (path / "model-00003-of-00004.safetensors").unlink()
    size = (path / "model.safetensors.index.json").stat().st_size
    with (path / "model.safetensors.index.json").open("ab") as file:
        file.write(b"  ")
    damages = {damage.path.name: damage for damage in verify_checkpoint(path)}
    assert sorted(damages) == [
        "model-00001-of-00004.safetensors",
        "model-00003-of-00004.safetensors",
        "model.safetensors.index.json",
    ]
    tail = damages["model.safetensors.index.json"]
    assert (tail.start, tail.stop) == (size, size + 2)
    assert "missing" in damages["model-00003-of-00004.safetensors"].problem
    whole = damages["model-00001-of-00004.safetensors"]
    assert (whole.start, whole.stop) == (0, whole.path.stat().st_size)


def test_threads_may_write_and_read_at_once(root, small, kit):
    errors = []

    def work(first):
        try:
            for tx in range(first, first + 5):
                write_checkpoint(root, small(tx, seed=tx), kit.FastFiles())
                kit.assert_same(load_checkpoint(root, tx).tensors, small(tx, seed=tx).tensors)
        except MMSBError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list_checkpoints(root)) == 20


class Meddling:
    """Mix-in: calls `meddle()` before the reader's `nth` open, or before each if None."""

    def __init__(self, meddle, nth):
        self.meddle, self.nth, self.count = meddle, nth, 0

    def open(self, path, flags, mode=0o666):
        self.count += 1
        if "checkpoints" in str(path) and self.nth in (None, self.count):
            self.meddle()
        return super().open(path, flags, mode)


@pytest.mark.parametrize("nth", range(2, 5))
@pytest.mark.parametrize("action", ["replace", "remove"])
def test_a_reader_overtaken_by_the_writer_reads_again(root, put, kit, nth, action):
    files = type("MeddlingFiles", (Meddling, kit.FastFiles), {})
    put(root, 1)
    written = []

    def replace():
        written.append(put(root, 1, seed=50))

    def remove():
        written.append(put(root, 2, seed=50))
        retain(root, 1)

    meddle = replace if action == "replace" else remove
    found = load_checkpoint(root, files=files(meddle, nth))
    kit.assert_same(found.tensors, written[0].tensors)


def test_a_reader_that_is_always_overtaken_says_so(root, put, kit):
    files = type("MeddlingFiles", (Meddling, kit.FastFiles), {})
    put(root, 1)
    seeds = iter(range(100, 200))
    with pytest.raises(StoreError, match="Try again") as caught:
        load_checkpoint(root, files=files(lambda: put(root, 1, seed=next(seeds)), None))
    assert not isinstance(caught.value, CorruptStoreError)


def test_info_is_a_value(root, put):
    put(root, 1)
    info = describe_checkpoint(folder(root, 1))
    assert isinstance(info, CheckpointInfo)
    assert hash(info) == hash(describe_checkpoint(folder(root, 1)))
