import json
import os

import pytest

from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store.sealed import (
    MAX_DEPTH,
    Fields,
    check_json,
    read_sealed,
    seal,
    strict_loads,
    unseal,
)

FIELDS = {"format": "x", "version": 1, "text": "é\n\ud800", "list": [1, 2.5, None, True, {"a": []}]}


def test_round_trip_and_plain_json():
    raw = seal(FIELDS)
    assert unseal(raw, "f") == FIELDS
    plain = json.loads(raw)
    assert plain.pop("digest").startswith("xxh3-128:")
    assert plain == FIELDS


def test_every_flip_cut_and_addition_is_noticed():
    raw = seal(FIELDS)
    for at in range(len(raw)):
        for mask in (1, 32, 255):
            damaged = raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]
            with pytest.raises(CorruptStoreError, match="f "):
                unseal(damaged, "f")
        with pytest.raises(CorruptStoreError):
            unseal(raw[:at], "f")
    for extra in (b" ", b"\n", b"\0", b"{}"):
        with pytest.raises(CorruptStoreError):
            unseal(raw + extra, "f")


@pytest.mark.parametrize("raw", [b"", b"{}", b"null", b'{"digest": "xxh3-128:0"}', b"\xff" * 80])
def test_foreign(raw):
    with pytest.raises(CorruptStoreError):
        unseal(raw, "f")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 1}',
        b'{"b": [{"a": 1, "a": 2}]}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 1}{',
        b"\xff",
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 200_000,
    ],
)
def test_loose_json_is_refused(raw):
    with pytest.raises(CorruptStoreError, match="f is"):
        strict_loads(raw, "f")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({1: 2}, "r"),
        ({True: 2}, "r"),
        ({None: 2}, "r"),
        ({"a": [1, (2,)]}, r"r\['a'\]\[1\]"),
        ({"a": float("nan")}, r"r\['a'\]"),
        ({"a": {"b": float("inf")}}, r"r\['a'\]\['b'\]"),
        ({"a": {1}}, "r"),
        ({"a": type("I", (int,), {})(3)}, "r"),
        ({"a": b"x"}, "r"),
    ],
)
def test_what_json_would_change_is_refused_by_place(value, place):
    with pytest.raises(SerializationError, match=place):
        check_json(value, "r")


def test_too_deep_and_too_long_are_refused():
    deep = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    check_json(deep, "r")
    assert unseal(seal({"a": deep}), "f") == {"a": deep}
    with pytest.raises(SerializationError, match=r"r\[0\]\[0\].* is nested too deeply"):
        check_json([deep], "r")
    with pytest.raises(SerializationError, match="JSON"):
        seal({"a": 10**5000})


def test_fields_are_read_by_exact_type():
    fields = Fields({"flag": True, "count": 3, "big": 1 << 64, "texts": ["a", 1]}, "f")
    assert fields.count("count") == 3
    for read in (
        lambda: fields.count("flag"),
        lambda: fields.get("count", bool),
        lambda: fields.count("big"),
        lambda: fields.count("missing"),
        lambda: fields.texts("texts"),
        lambda: Fields([], "f"),
    ):
        with pytest.raises(CorruptStoreError, match="f: "):
            read()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"format": "y"}, CorruptStoreError, "expected the format 'x', found 'y'"),
        ({"version": 2}, UnsupportedError, "version 2, this mmsb_torch knows 1"),
        ({"version": 0}, CorruptStoreError, "version"),
        ({"version": True}, CorruptStoreError, "version"),
        ({"required": ["ok", "warp"]}, UnsupportedError, "requires 'warp'"),
    ],
)
def test_format_versions_and_features(change, error, match):
    good = {"format": "x", "version": 1, "required": ["ok"]}
    Fields(good, "f").format("x", 1, frozenset({"ok"}))
    with pytest.raises(error, match=match):
        Fields(good | change, "f").format("x", 1, frozenset({"ok"}))


def test_links_pipes_and_folders_are_not_read(tmp_path):
    (tmp_path / "good").write_bytes(seal(FIELDS))
    assert read_sealed(tmp_path / "good") == FIELDS
    (tmp_path / "link").symlink_to("good")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(CorruptStoreError, match=name):
            read_sealed(tmp_path / name)


def test_a_huge_file_is_refused_by_its_size(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptStoreError, match="too large"):
        read_sealed(tmp_path / "huge")
