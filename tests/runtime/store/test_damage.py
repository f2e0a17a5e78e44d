"""Every byte of a checkpoint flipped, cut, added to or swapped: never a silently different load."""

import json
import random
import shutil

import pytest
import xxhash

from mmsb_torch.errors import CorruptStoreError, MMSBError, UnsupportedError
from mmsb_torch.runtime.store import (
    Store,
    list_checkpoints,
    load_checkpoint,
    read_tensors,
    verify_checkpoint,
)

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"
MANIFEST = "MMSB_CHECKPOINT.json"


@pytest.fixture
def folder(root, put):
    put(root, 1)
    return list_checkpoints(root)[0].path


@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
def test_every_flipped_byte_is_noticed(root, folder, name):
    path = folder / name
    good = path.read_bytes()
    bits = random.Random(name)
    for at in range(len(good)):
        for mask in (0xFF, 1 << bits.randrange(8)):
            path.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            with pytest.raises(CorruptStoreError, match=name):
                load_checkpoint(root, tx=1)
        (damage,) = verify_checkpoint(folder)
        assert damage.path == path
        assert damage.start <= at < damage.stop
    path.write_bytes(good)
    assert load_checkpoint(root).tx == 1


def test_every_flipped_byte_of_the_identity_is_noticed(root, folder):
    path = root / "MMSB.json"
    good = path.read_bytes()
    for at in range(len(good)):
        for mask in (0xFF, 0x20):
            path.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            for call in (load_checkpoint, Store.open):
                with pytest.raises(CorruptStoreError, match=r"MMSB\.json"):
                    call(root)


@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
def test_every_length_is_noticed(root, folder, name):
    path = folder / name
    good = path.read_bytes()
    lengths = [good[:length] for length in range(len(good))]
    for damaged in [*lengths, good + b"\0", good + b" ", good + b"\n", good + good]:
        path.write_bytes(damaged)
        with pytest.raises(CorruptStoreError, match=name):
            load_checkpoint(root)
        assert len(verify_checkpoint(folder)) == 1


@pytest.mark.parametrize("name", [SHARD, INDEX, MANIFEST])
@pytest.mark.parametrize("how", ["missing", "link", "folder", "empty"])
def test_a_file_that_is_not_there(root, folder, tmp_path, name, how):
    (folder / name).rename(tmp_path / "away")
    if how == "link":
        (folder / name).symlink_to(tmp_path / "away")
    elif how == "folder":
        (folder / name).mkdir()
    elif how == "empty":
        (folder / name).touch()
    with pytest.raises(CorruptStoreError, match=name):
        load_checkpoint(root)
    assert [damage.path.name for damage in verify_checkpoint(folder)] == [name]


@pytest.mark.parametrize("name", [SHARD, MANIFEST])
def test_a_file_of_another_checkpoint(root, folder, put, name):
    put(root, 2, seed=7)
    newer = list_checkpoints(root)[1].path
    assert (folder / name).read_bytes() != (newer / name).read_bytes()
    shutil.copy(folder / name, newer / name)
    with pytest.raises(CorruptStoreError, match="verifies is 1: `mmsb"):
        load_checkpoint(root)


def test_every_flip_of_a_tensor_file_read_without_record_is_typed(folder):
    """Without a digest damage of the data cannot be seen, but nothing untyped is raised."""
    path = folder / SHARD
    good = path.read_bytes()
    for at in range(len(good)):
        for mask in (0xFF, 1):
            path.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            try:
                read_tensors(path)
            except MMSBError:
                continue


def test_extra_files_are_not_ours(root, folder):
    (folder / "README.md").write_text("a model card")
    (folder / "config.json").write_text("{}")
    assert load_checkpoint(root).tx == 1
    assert verify_checkpoint(folder) == []


def reseal(path, change):
    """Change the manifest's text and seal it again, as somebody who knows the format would."""
    body = path.read_bytes().split(b"\n", 1)[1].decode()
    changed = change(body)
    assert changed != body
    digest = xxhash.xxh3_128_hexdigest(changed.encode())
    path.write_bytes(f'{{"digest": "xxh3-128:{digest}",\n{changed}'.encode())


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.safetensors",
        "/etc/passwd",
        "..",
        "",
        ".",
        "model-00001-of-00001.safetensors/../x",
        "model-00001-of-00001.safetensors\\n",
        "MODEL-00001-of-00001.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00000-of-00001.safetensors",
        "model-1-of-1.safetensors",
        "model-0000\u0661-of-00001.safetensors",
        "MMSB_CHECKPOINT.json",
        "model.safetensors.index.json",
    ],
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_opened(root, folder, kit, name):
    reseal(folder / MANIFEST, lambda text: text.replace(SHARD, name))

    class Watched(kit.FastFiles):
        def open(self, path, flags, mode=0o666):
            opened.append(path.name)
            return super().open(path, flags, mode)

    opened = []
    with pytest.raises(CorruptStoreError, match="files"):
        load_checkpoint(folder, files=Watched())
    assert opened == [MANIFEST]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"transaction": 1', '"transaction": 1,"transaction": 1'),
        lambda text: text.replace('"transaction": 1', '"transaction": true'),
        lambda text: text.replace('"transaction": 1', '"transaction": "1"'),
        lambda text: text.replace('"transaction": 1', '"transaction": 2'),
        lambda text: text.replace('"epoch":1', '"epoch":NaN'),
        lambda text: text.replace('"epoch":1', '"epoch":1e999'),
        lambda text: text.replace('"epoch":1', '"epoch":1,"epoch":1'),
        lambda text: text.replace('"store": "', '"store": "x'),
        lambda text: text.replace('"nbytes":', '"nbytes":-'),
        lambda text: text.replace('"nbytes":', '"nbytes":99999999999999999999'),
        lambda text: text.replace('"xxh3_128":"', '"xxh3_128":"z'),
        lambda text: text.replace('"files": [', '"files": [],"more": ['),
        lambda text: text.replace('"files": [', '"files": [3,'),
        lambda text: text.replace('"registry": {', '"registry": 3, "x": {'),
        lambda text: text.replace("mmsb-checkpoint", "other-checkpoint"),
        lambda text: "[]",
        lambda text: "",
    ],
    ids=range(17),
)
def test_a_manifest_that_contradicts_itself(root, folder, change):
    reseal(folder / MANIFEST, change)
    with pytest.raises(CorruptStoreError, match=MANIFEST):
        load_checkpoint(root)
    assert [damage.path.name for damage in verify_checkpoint(folder)] == [MANIFEST]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda text: text.replace('"required": []', '"required": ["delta"]'), "'delta'"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 2"),
    ],
)
def test_what_needs_a_newer_version_is_refused_by_name(root, folder, change, match):
    reseal(folder / MANIFEST, change)
    for call in (lambda: load_checkpoint(root), lambda: verify_checkpoint(folder)):
        with pytest.raises(UnsupportedError, match=match):
            call()


def test_unknown_optional_features_and_fields_are_ignored(root, folder):
    reseal(
        folder / MANIFEST,
        lambda text: text.replace('"optional": []', '"optional": ["shiny"],"later": {"x": [1]}'),
    )
    assert load_checkpoint(root).tx == 1


def relist(folder, name):
    """Make the manifest vouch for the file as it is now."""
    raw = (folder / name).read_bytes()
    fields = json.loads((folder / MANIFEST).read_text())
    record = next(file for file in fields["files"] if file["name"] == name)
    reseal(
        folder / MANIFEST,
        lambda text: text.replace(record["xxh3_128"], xxhash.xxh3_128_hexdigest(raw)).replace(
            f'"{name}","nbytes":{record["nbytes"]}', f'"{name}","nbytes":{len(raw)}'
        ),
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"w"', '"v"'),
        lambda text: text.replace('"w": "' + SHARD, '"w": "../' + SHARD),
        lambda text: text.replace('"w": "' + SHARD + '",', ""),
        lambda text: text.replace('"w":', '"more": "' + SHARD + '", "w":'),
        lambda text: text.replace('"w":', '"bits":'),
        lambda text: text.replace('"w": "' + SHARD + '"', '"w": 3'),
        lambda text: text.replace('"w": "' + SHARD + '"', '"w": ["x"]'),
        lambda text: text.replace("weight_map", "map"),
        lambda text: "{",
        lambda text: "[]",
    ],
    ids=range(10),
)
def test_an_index_that_does_not_fit_the_files(root, folder, change):
    path = folder / INDEX
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    relist(folder, INDEX)
    with pytest.raises(CorruptStoreError):
        load_checkpoint(root)
    assert len(verify_checkpoint(folder)) == 1


def test_a_tensor_file_that_its_digest_vouches_for_but_is_none(root, folder):
    (folder / SHARD).write_bytes(b"not a tensor file")
    relist(folder, SHARD)
    with pytest.raises(CorruptStoreError, match=SHARD):
        load_checkpoint(root)
    assert [damage.path.name for damage in verify_checkpoint(folder)] == [SHARD]
