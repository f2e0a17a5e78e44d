"""`verify`: a table of damage, and the exit code."""

import random

import pytest

import mmsb_torch as mmsb


def test_a_clean_store(run, root):
    done = run("verify", root)
    assert done.code == 0
    assert "no damage" in done.out
    found = run("verify", root, "--json").json
    assert found["clean"] is True
    assert found["found"] == []
    assert found["bytes"] == sum(p.stat().st_size for p in root.rglob("*") if p.is_file())


def damaged_files(root):
    """Every file of a store that a digest covers."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "LOCK")


def test_a_flipped_byte_in_every_file_of_the_store(run, root, kit):
    rng, seen = random.Random(0), set()
    for path in damaged_files(root):
        size = path.stat().st_size
        for at in {0, size // 2, rng.randrange(size), max(size - 65, 0), size - 1}:
            kit.flip(path, at)
            done = run("verify", root, "--json")
            if path.name == "MMSB.json":  # nothing else can be judged
                assert (done.code, done.out) == (2, "")
                assert "MMSB.json" in done.err
            else:
                assert done.code in {0, 1}
                (item,) = done.json["found"]
                assert done.code == (0 if item["torn"] else 1)
                assert done.json["clean"] is item["torn"]
                assert item["file"] == str(path)
                assert item["start"] <= at < item["stop"]
                seen.add((path.parent.name, item["torn"]))
            kit.flip(path, at)
    assert {name for name, torn in seen if not torn} == {f"{5:020d}", f"{7:020d}", "deltas", "log"}
    assert ("log", True) in seen  # of the last record nobody can tell
    assert run("verify", root).code == 0


def test_damage_for_people(run, root, kit):
    path = kit.logs(root)[1]
    kit.flip(path, 140)
    done = run("verify", root)
    assert done.code == 1
    heading, line = done.out.splitlines()
    assert heading.split() == ["file", "from", "to", "transactions", "problem"]
    assert line.startswith("DAMAGE")
    assert str(path) in line
    assert "a record's body is damaged" in line


def test_a_torn_tail_is_shown_and_is_no_damage(run, root, kit):
    path = kit.logs(root)[-1]
    kit.cut(path, 3)
    done = run("verify", root)
    assert done.code == 0
    assert "torn tail" in done.out
    kit.flip(kit.logs(root)[0], 140)
    done = run("verify", root)
    assert done.code == 1
    assert [line[:9] for line in done.out.splitlines()[1:]] == ["DAMAGE   ", "torn tail"]


def test_a_payload_file_that_is_missing(run, root):
    next((root / "deltas").iterdir()).unlink()
    done = run("verify", root, "--json")
    assert done.code == 1
    (item,) = done.json["found"]
    assert "missing" in item["problem"]
    assert item["transactions"] == [2, 2]


@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_what_is_no_store(run, tmp_path, what):
    path = tmp_path / "x.mmsb"
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.touch()
    done = run("verify", path)
    assert (done.code, done.out) == (2, "")
    assert str(path) in done.err


def test_a_newer_format_is_not_judged(run, root, kit):
    from mmsb_torch.runtime.store.frame import HEADER_BYTES, FileHeader

    path = kit.logs(root)[0]
    raw = path.read_bytes()
    header = FileHeader.unpack(raw)._replace(version=99)
    path.write_bytes(header.pack() + raw[HEADER_BYTES:])
    done = run("verify", root)
    assert done.code == 2
    assert "newer" in done.err


def test_beside_a_live_writer(run, root):
    with mmsb.open(root) as mem:
        for step in range(5):
            mem.update("w", float(step))
            mem.checkpoint(keep=1)
            assert run("verify", root).code == 0


def test_repair_sets_aside_what_verify_names(run, root, kit):
    assert "nothing to repair" in run("repair", root, "--dry-run").out
    manifest = max((root / "checkpoints").iterdir()) / "MMSB_CHECKPOINT.json"
    kit.flip(manifest, 100)
    planned = run("repair", root, "--dry-run", "--json").json
    assert planned["checkpoints"] == [int(manifest.parent.name)]
    assert manifest.exists()
    done = run("repair", root)
    assert (done.code, manifest.exists()) == (0, False)
    assert "set aside" in done.out
    assert run("verify", root).code == 0
    with mmsb.open(root, mode="r") as memory:
        assert memory.tx == planned["tx"]
