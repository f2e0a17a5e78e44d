import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from mmsb_torch.errors import (
    ClosedError,
    CorruptStoreError,
    MMSBError,
    ReadOnlyError,
    StoreError,
    StoreLockedError,
    UnsupportedError,
)
from mmsb_torch.runtime.store import Store
from mmsb_torch.runtime.store.identity import read_identity
from mmsb_torch.runtime.store.sealed import seal, unseal


def change_identity(root, **changes):
    path = root / "MMSB.json"
    path.write_bytes(seal(unseal(path.read_bytes(), "x") | changes))


def test_create_write_close_open_read(tmp_path, small, kit):
    path = tmp_path / "run.mmsb"
    assert not Store.exists(path)
    with Store.create(str(path)) as store:
        assert store.writable
        assert repr(store) == f"<Store '{path}' writable>"
        snapshot = small(1)
        store.write_checkpoint(snapshot)
        identity = store.identity
    assert repr(store) == f"<Store '{path}' closed>"
    assert Store.exists(path)
    assert kit.names(path) == ["LOCK", "MMSB.json", "checkpoints"]
    with Store.open(path) as store:
        assert store.identity == identity
        assert not store.writable
        assert repr(store) == f"<Store '{path}' read-only>"
        kit.assert_same(store.load_checkpoint().tensors, snapshot.tensors)
        assert [ref.tx for ref in store.list_checkpoints()] == [1]
        assert store.verify() == []
        for file in (path / "checkpoints").glob("*/model*"):
            file.unlink()
        assert len(store.verify()) == 2


def test_each_store_has_its_own_identity(tmp_path):
    for name in "ab":
        Store.create(tmp_path / name).close()
    assert read_identity(tmp_path / "a").uuid != read_identity(tmp_path / "b").uuid


def test_a_path_given_relatively_survives_a_change_of_folder(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    with Store.create("run.mmsb") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        store.write_checkpoint(small(1))
        assert store.load_checkpoint().tx == 1


def test_an_empty_folder_may_become_a_store(tmp_path):
    Store.create(tmp_path).close()
    assert Store.exists(tmp_path)


def test_a_creation_that_was_killed_is_taken_up_again(tmp_path, kit):
    (tmp_path / "LOCK").touch()
    (tmp_path / ".MMSB.json.tmp-0123456789abcdef").write_text("{")
    Store.create(tmp_path).close()
    assert kit.names(tmp_path) == ["LOCK", "MMSB.json", "checkpoints"]


def test_a_store_is_not_created_twice(root):
    before = (root / "MMSB.json").read_bytes()
    with pytest.raises(StoreError, match="a store already"):
        Store.create(root)
    assert (root / "MMSB.json").read_bytes() == before


def test_foreign_folders_are_not_touched(tmp_path, kit):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"'thesis\.tex', and nothing was touched"):
        Store.create(tmp_path)
    for writable in (False, True):
        with pytest.raises(StoreError, match=r"no store: it has no MMSB\.json"):
            Store.open(tmp_path, writable=writable)
    assert kit.names(tmp_path) == ["thesis.tex"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run.mmsb").write_text("mine")
    for call in (Store.create, Store.open):
        with pytest.raises(StoreError, match="a file"):
            call(tmp_path / "run.mmsb")
    assert (tmp_path / "run.mmsb").read_text() == "mine"


def test_nothing_there(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        Store.open(tmp_path / "run.mmsb", writable=True)
    with pytest.raises(StoreError, match="Check the path"):
        Store.create(tmp_path / "no" / "run.mmsb")
    assert not list(tmp_path.iterdir())


def test_versions_and_features(root):
    change_identity(root, optional=["shiny"], later=[1])
    assert Store.open(root).identity.optional == ("shiny",)
    change_identity(root, required=["warp"])
    with pytest.raises(UnsupportedError, match="requires 'warp'"):
        Store.open(root)
    change_identity(root, required=[], version=2)
    with pytest.raises(UnsupportedError, match="version 2"):
        Store.open(root, writable=True)
    change_identity(root, version=1, uuid="../x")
    with pytest.raises(CorruptStoreError, match="uuid"):
        Store.open(root)
    change_identity(root, format="other")
    with pytest.raises(CorruptStoreError, match="mmsb-store"):
        Store.open(root)


def test_one_writer_and_any_readers(root, small):
    with Store.open(root, writable=True) as writer:
        with pytest.raises(StoreLockedError):
            Store.open(root, writable=True)
        with Store.open(root) as reader:
            writer.write_checkpoint(small(1))
            assert reader.load_checkpoint().tx == 1
    Store.open(root, writable=True).close()


def test_the_loser_of_a_race_to_create_is_told(tmp_path, kit):
    class Rival(kit.FastFiles):
        def lock(self, fd):
            if not made:
                made.append(True)
                Store.create(fresh, kit.FastFiles()).close()
            super().lock(fd)

    fresh, made = tmp_path / "fresh", []
    with pytest.raises(StoreError, match="a store already"):
        Store.create(fresh, Rival())
    Store.open(fresh, writable=True).close()


def test_readers_do_not_write(root, small):
    with Store.open(root) as store:
        for call in (lambda: store.write_checkpoint(small(1)), lambda: store.retain(1)):
            with pytest.raises(ReadOnlyError, match="writable=True"):
                call()


def test_closed(root, small):
    store = Store.open(root, writable=True)
    store.close()
    store.close()
    for call in (
        lambda: store.write_checkpoint(small(1)),
        store.load_checkpoint,
        store.list_checkpoints,
        lambda: store.retain(1),
    ):
        with pytest.raises(ClosedError, match="was closed"):
            call()


def test_a_forked_child_reads_and_does_not_write(root, small, kit):
    with Store.open(root, writable=True) as store:
        store.write_checkpoint(small(1))

        def child():
            assert store.load_checkpoint().tx == 1
            assert not store.writable
            with pytest.raises(ReadOnlyError, match="forked"):
                store.write_checkpoint(small(2))
            store.close()

        assert kit.exit_code(kit.forked(child)) == 0
        store.write_checkpoint(small(2))


def test_reading_works_on_a_read_only_disk(root, put, kit):
    snapshot = put(root, 1)
    (root / "LOCK").unlink()
    with Store.open(root, files=kit.ReadOnlyFiles()) as store:
        kit.assert_same(store.load_checkpoint().tensors, snapshot.tensors)
        assert [ref.tx for ref in store.list_checkpoints()] == [1]
    assert not (root / "LOCK").exists()
    with pytest.raises(StoreError, match="read-only: open the store for reading only"):
        Store.open(root, writable=True, files=kit.ReadOnlyFiles())


def test_reading_works_without_permission_to_write(small, kit):
    """Under real permission bits: root, whom they do not bind, becomes nobody in a child."""
    base = Path(tempfile.mkdtemp(dir="/tmp"))  # nobody cannot look into pytest's own folders
    try:
        base.chmod(0o755)
        root = base / "run.mmsb"
        with Store.create(root) as store:
            info = store.write_checkpoint(small(1))
        for folder in (root, root / "checkpoints", info.path):
            folder.chmod(0o555)
        for file in (root / "LOCK", root / "MMSB.json", *info.path.iterdir()):
            file.chmod(0o444)

        def child():
            if os.geteuid() == 0:
                os.setuid(65534)
            assert Store.open(root).load_checkpoint().tx == 1
            with pytest.raises(StoreError, match="Permission denied") as caught:
                Store.open(root, writable=True)
            assert not isinstance(caught.value, StoreLockedError)

        assert kit.exit_code(kit.forked(child)) == 0
    finally:
        for folder, _, _ in os.walk(base):
            Path(folder).chmod(0o755)
        shutil.rmtree(base)


def test_files_are_readable_as_the_umask_says(root, put):
    put(root, 1)
    mask = os.umask(0)
    os.umask(mask)
    for folder, _, names in os.walk(root):
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o777 & ~mask
        for name in names:
            assert stat.S_IMODE((Path(folder) / name).stat().st_mode) == 0o666 & ~mask


def test_an_identity_that_is_a_link_is_refused(root, tmp_path):
    (root / "MMSB.json").rename(tmp_path / "away")
    (root / "MMSB.json").symlink_to(tmp_path / "away")
    with pytest.raises(MMSBError, match="links are refused"):
        Store.open(root)
