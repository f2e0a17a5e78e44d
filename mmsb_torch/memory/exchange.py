"""Pages, deltas, transactions and events as bytes, to hand to somebody else, and back."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from mmsb_torch.errors import SerializationError, UnsupportedError
from mmsb_torch.memory.page import Page
from mmsb_torch.runtime.store.contents import Content, PageRecord, read, write
from mmsb_torch.runtime.store.envelope import MAX_NBYTES, Kind, Raw
from mmsb_torch.types import Delta, Event, Transaction

__all__ = [
    "PageRecord",
    "compress_delta",
    "compress_page",
    "deserialize_delta",
    "deserialize_event",
    "deserialize_from_bytes",
    "deserialize_page",
    "serialize_delta",
    "serialize_event",
    "serialize_page",
    "serialize_to_bytes",
]

Thing: TypeAlias = Page | Content


def serialize_to_bytes(thing: Thing, codec: str = "none") -> bytes:
    """Write a page, delta, transaction, event or tensor as bytes that `deserialize_from_bytes` reads.

    Bit for bit, whatever the dtype: NaN payloads and -0.0 too. The bytes carry a version and a
    checksum; after their first 64 there is (unless it is compressed, and but for events) a complete
    safetensors file. Any thread may call this, at any time: a page is read at one moment, its epoch
    and value together. A stale derived page is computed first.

    Args:
        thing: a `Page` or `PageRecord`, `Delta`, `Transaction`, `Event`, or dense tensor of any
            device. A delta's mask is written as packed bits and the values under it.
        codec: "none", so that the bytes do not depend on what is installed; "zstd"; or "auto", zstd
            where it saves a tenth or more, and none where the extra `zstd` is not installed.

    Raises:
        SerializationError: it would not read back as it is: metadata that JSON cannot hold,
            contradictions, no such codec; or another type.
        UnsupportedError: a tensor that is not dense; "zstd" without the extra `zstd`; a page inside
            of a recipe of its memory, whose moment has no epochs.
        RecipeError, RecipeNotLoadedError, PageMutatedError, ClosedError: as for `page.tensor`.
    """
    if not isinstance(thing, Page | PageRecord | Delta | Transaction | Event | Tensor):
        raise SerializationError(
            f"found a {type(thing).__name__}: expected a Page, PageRecord, Delta, Transaction, "
            "Event or tensor."
        )
    return write(record_of(thing) if isinstance(thing, Page) else thing, codec)


def deserialize_from_bytes(raw: Raw, *, max_nbytes: int = MAX_NBYTES) -> Content:
    """Read what `serialize_to_bytes` or `compress_page` wrote.

    Nothing that is read can run code, and what is damaged is never returned. Tensors are on the CPU
    and own their memory. A page comes as a `PageRecord`: `mem.page(record.info.name, record.value,
    metadata=record.info.metadata)` makes it a page again. A delta's mask comes as packed bits.
    Any thread may call this.

    Args:
        raw: all the bytes, and no others; they are not kept.
        max_nbytes: how many bytes something that is compressed or sparse may say to take. What is
            neither takes no more than `raw` does. While it reads this takes up to twice that.

    Raises:
        SerializationError: bytes from elsewhere, or more than `max_nbytes`.
        CorruptStoreError: cut or damaged.
        UnsupportedError: of a newer version, or compressed and the extra `zstd` is not installed.
    """
    return read(raw, None, max_nbytes)


def serialize_page(page: Page | PageRecord, codec: str = "none") -> bytes:
    """As `serialize_to_bytes`, of a page: its identity, metadata, epoch and value."""
    _check_type(page, Page, PageRecord)
    return serialize_to_bytes(page, codec)


def deserialize_page(raw: Raw, *, max_nbytes: int = MAX_NBYTES) -> PageRecord:
    """As `deserialize_from_bytes`, of a page; SerializationError if it is anything else."""
    found = read(raw, Kind.PAGE, max_nbytes)
    assert isinstance(found, PageRecord)
    return found


def serialize_delta(delta: Delta, codec: str = "none") -> bytes:
    """As `serialize_to_bytes`, of a delta."""
    _check_type(delta, Delta)
    return serialize_to_bytes(delta, codec)


def deserialize_delta(raw: Raw, *, max_nbytes: int = MAX_NBYTES) -> Delta:
    """As `deserialize_from_bytes`, of a delta; SerializationError if it is anything else."""
    found = read(raw, Kind.DELTA, max_nbytes)
    assert isinstance(found, Delta)
    return found


def serialize_event(event: Event, codec: str = "none") -> bytes:
    """As `serialize_to_bytes`, of an event; `Event.to_bytes` is the same without an envelope."""
    _check_type(event, Event)
    return serialize_to_bytes(event, codec)


def deserialize_event(raw: Raw, *, max_nbytes: int = MAX_NBYTES) -> Event:
    """As `deserialize_from_bytes`, of an event; SerializationError if it is anything else."""
    found = read(raw, Kind.EVENT, max_nbytes)
    assert isinstance(found, Event)
    return found


def compress_page(page: Page | PageRecord | Tensor, codec: str = "auto") -> bytes:
    """Write a page or a tensor in few bytes; `deserialize_from_bytes` gives it back, bit for bit.

    Only what is not zero is kept where that takes fewer bytes: whole rows, elements by index, or
    packed bits and the values under them (-0.0 is not zero). Bools become bits. Then `codec`
    applies, see `serialize_to_bytes`; docs/codecs.md has the figures.

    Raises:
        as `serialize_to_bytes`.
    """
    _check_type(page, Page, PageRecord, Tensor)
    return write(record_of(page) if isinstance(page, Page) else page, codec, sparse=True)


def compress_delta(delta: Delta) -> Delta:
    """The same change in the form that takes the fewest bytes of memory; values are not looked at.

    Raises:
        SerializationError: something else than a delta.
    """
    _check_type(delta, Delta)
    return delta.compress()


def _check_type(thing: object, *types: type) -> None:
    if not isinstance(thing, types):
        raise SerializationError(
            f"found a {type(thing).__name__}: expected a "
            f"{' or '.join(kind.__name__ for kind in types)}. serialize_to_bytes takes any."
        )


def record_of(page: Page) -> PageRecord:
    """What a page is now, at one moment; its value is an alias, for reading."""
    entry, router = page._entry, page.memory._router  # noqa: SLF001 - one facade
    if router.recipes.depth:
        raise UnsupportedError(
            f"page {page.name!r} cannot be serialized inside of a recipe, whose moment has values "
            "but no epochs. Return the tensor, and serialize the derived page outside; or hand "
            "page.tensor over instead of the page."
        )
    while True:
        page.tensor  # noqa: B018 - computes a stale page; raises if somebody wrote through an alias
        with router.table.lock:  # epoch and value of one moment
            if entry.tensor is not None and entry.is_unwritten():
                return PageRecord(entry.info, entry.epoch, entry.alias())
