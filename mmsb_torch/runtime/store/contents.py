"""What envelopes hold: pages, deltas, transactions, events and tensors, as bodies and back.

The body of an event is its own binary form. Every other body is a transaction's `payload`, so a
complete safetensors file: of a delta, a transaction 0 of that delta alone; of a page, one that
creates it and writes its value over zeros, in whichever form takes the fewest bytes:

- everything, the tensor under the page's name;
- whole rows, elements by index, or packed bits and compact values, of what is not zero. Zero is what
  has no bit set: -0.0 is a value like any other;
- of a bool page ("packed": true in the transaction's metadata) a uint8 tensor of its bits, in one of
  these forms.

What cannot be read back is not written. All functions are re-entrant.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from mmsb_torch.device import copy_of, pack_mask, require_dense, unpack_mask, words, zeros
from mmsb_torch.errors import CorruptStoreError, SerializationError, UnsupportedError
from mmsb_torch.runtime.store import payload, payload_writer
from mmsb_torch.runtime.store.codecs import WORTH, Part
from mmsb_torch.runtime.store.envelope import Kind, Raw, check_size, unwrap, wrap
from mmsb_torch.runtime.store.sealed import Fields, check_json
from mmsb_torch.runtime.store.tensorfile import encode_tensors
from mmsb_torch.types import Delta, Event, EventType, Form, PageInfo, Region, Spec, Transaction
from mmsb_torch.types import apply as merge

MAX_EVENT_BYTES = 16 << 20
"""JSON takes many times its size once it is read: larger events are refused."""

_INDEX_BYTES = 128  # that a second tensor takes in the header
_WHERE = "these bytes"
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PageRecord:
    """What a page was at one moment, apart from the memory it was in. Compared by identity.

    Attributes:
        info: its identity: id, name, spec (None if derived), metadata, time of creation.
        epoch: how many deltas had changed it.
        value: its value. The record's own if it was read from bytes, on the CPU; of a page, an
            alias, for reading.
    """

    info: PageInfo
    epoch: int
    value: Tensor

    def __repr__(self) -> str:
        # torch cannot print a tensor of every dtype
        return f"<PageRecord {self.info.name!r} epoch {self.epoch} {Spec.of(self.value)}>"


Content: TypeAlias = PageRecord | Delta | Transaction | Event | Tensor


def write(content: Content, codec: str, *, sparse: bool = False) -> bytes:
    """`content` in an envelope.

    Args:
        content: what to write.
        codec: "auto", "none" or "zstd".
        sparse: write a page or tensor in the form that takes the fewest bytes, not as it is.

    Raises:
        SerializationError: it would not read back as it is.
        UnsupportedError: a tensor that is not dense, too much for one envelope, or no zstandard.
    """
    if isinstance(content, Event):
        return wrap(Kind.EVENT, [_event_bytes(content)], codec)
    names: dict[int, str] = {}
    if isinstance(content, Delta):
        kind, transaction = Kind.DELTA, _alone(content)
    elif isinstance(content, Transaction):
        kind, transaction = Kind.TRANSACTION, content
        names = {info.id: info.name for info in content.created}
    else:
        record = content if isinstance(content, PageRecord) else _record(content)
        kind = Kind.PAGE if content is record else Kind.TENSOR
        transaction = _creation(record, sparse=sparse)
        names = {record.info.id: record.info.name}
    return wrap(kind, _payload(transaction, names), codec)


def read(raw: Raw, expected: Kind | None, max_nbytes: int) -> Content:
    """What `write` wrote: tensors are on the CPU and own their memory.

    Allocates at most about twice the size of `raw`, or of what is compressed or sparse in it, which
    is at most `max_nbytes`.

    Raises:
        SerializationError: not from here, another kind than `expected`, or too large.
        CorruptStoreError: damaged, or no such content.
        UnsupportedError: from a newer version, or zstandard is needed.
    """
    if torch.is_inference_mode_enabled():  # what is read must have a version counter
        with torch.inference_mode(mode=False):
            return read(raw, expected, max_nbytes)
    kind, body = unwrap(raw, expected, max_nbytes)
    if kind is Kind.EVENT:
        return _event(body)
    transaction = payload.decode(body, _WHERE)
    if kind is Kind.TRANSACTION:
        return transaction
    del body  # a decompressed one is no longer needed
    if len(transaction.deltas) != 1 or len(transaction.created) != (kind is not Kind.DELTA):
        raise _damage(
            f"{kind.name.lower()} with {len(transaction.created)} pages created and "
            f"{len(transaction.deltas)} deltas"
        )
    if kind is Kind.DELTA:
        return transaction.deltas[0]
    record = _created(transaction, max_nbytes)
    return record if kind is Kind.PAGE else record.value


def _payload(transaction: Transaction, names: dict[int, str]) -> list[Part]:
    """The body of a transaction. It is read back, without a copy of its tensors, before it counts."""
    for delta in transaction.deltas:
        _check_dense(delta)
    deltas = tuple([_contiguous(delta) for delta in transaction.deltas])
    for place, metadata in (
        ("the transaction's metadata", transaction.metadata),
        *((f"the metadata of page {info.name!r}", info.metadata) for info in transaction.created),
    ):
        check_json(dict(metadata), place)
    if any(info.spec is None or info.derived for info in transaction.created):
        raise SerializationError("a transaction creates no derived pages: expected pages with spec")
    try:
        tensors, text = payload_writer.describe(transaction._replace(deltas=deltas), names)
        payload.transaction_of(tensors, {payload.OPS_KEY: text}, "what would be written")
    except UnsupportedError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # the store's own among them
        raise SerializationError(
            f"this cannot be written so that it reads back: {error}"
        ) from error
    return list(encode_tensors(tensors, {payload.OPS_KEY: text}))


def _check_dense(delta: Delta) -> None:
    """Raise unless the delta's tensors are dense, and a mask fits its values."""
    region, index = delta.region, delta.region.index
    for what, tensor in (("values", delta.values), ("index", index)):
        problem = require_dense(tensor)
        if problem is not None and (what == "values" or tensor is not None):
            raise UnsupportedError(
                f"the {what} of a delta of page {delta.page_id} are {problem}: expected a dense "
                "torch.Tensor on 'cpu' or 'cuda'. Store its dense parts instead."
            )
    indexed = region.form not in {Form.ALL, Form.NONE}
    shapes = {tuple(region.shape), tuple(delta.values.shape)}
    if indexed != (index is not None) or (
        index is not None
        and region.form is Form.MASK
        and (index.dtype is not torch.bool or {tuple(index.shape)} != shapes)
    ):
        raise SerializationError(
            f"the delta of page {delta.page_id} has a region that contradicts itself: expected "
            f"an index that fits its form {region.form.value!r}. Region's class methods make one."
        )


def _contiguous(delta: Delta) -> Delta:
    """The delta with values whose memory can be looked at as words."""
    values = delta.values
    if values.is_contiguous() and not values.is_conj() and not values.is_neg():
        return delta._replace(values=values.detach())
    return delta._replace(values=copy_of(values))


def _alone(delta: Delta) -> Transaction:
    return Transaction(0, 0, (), (delta,), None, None, {})


def _record(value: Tensor) -> PageRecord:
    """A bare tensor as the page that it is written as."""
    problem = require_dense(value)
    if problem is not None:
        raise UnsupportedError(
            f"expected a dense torch.Tensor on 'cpu' or 'cuda', found {problem}. "
            "Store its dense parts instead."
        )
    return PageRecord(PageInfo(0, "tensor", Spec.of(value), False, {}, 0), 0, value)


def _creation(record: PageRecord, *, sparse: bool) -> Transaction:
    """The transaction that makes a page with this value and epoch."""
    info, value = record.info, record.value.detach()
    if not value.is_contiguous() or value.is_conj() or value.is_neg():
        value = copy_of(value)
    if info.derived != (info.spec is None) or info.spec not in {None, Spec.of(value)}:
        raise SerializationError(
            f"page {info.name!r} is said to be {info.spec}, its value is {Spec.of(value)}: "
            "expected the same, or None for a derived page."
        )
    if type(record.epoch) is not int or record.epoch < 0:
        raise SerializationError(
            f"page {info.name!r} is at epoch {record.epoch!r:.40}: expected an integer from 0."
        )
    info = info._replace(spec=Spec.of(value), derived=False)
    packed = sparse and value.dtype is torch.bool and _is_plain_bool(value)
    region, held = Region.all(tuple(value.shape)), value
    if packed:
        held = pack_mask(value)
        region = Region.all(tuple(held.shape))
    if sparse:
        region, held = smallest(held)
    delta = Delta(0, info.id, record.epoch - 1, region, held, info.created_ns, "create")
    about = {"derived": record.info.derived, "packed": packed}
    return Transaction(0, info.created_ns, (info,), (delta,), None, None, about)


def _is_plain_bool(value: Tensor) -> bool:
    """Whether every True is a 1: other bytes are True too, and would come back as 1."""
    return value.numel() == 0 or int(words(value).max()) <= 1


def smallest(value: Tensor) -> tuple[Region, Tensor]:
    """`value` as a change of zeros: the region and values that take the fewest bytes.

    Bytes are counted as they are written: a mask takes a bit an element, an index as a tensor of its
    own some more. A sparse form has to save a tenth; docs/codecs.md has the figures: what is smaller
    plain is smaller compressed, too.
    """
    bits = words(value)
    filled = bits != 0
    if filled.dim() > value.dim():  # 16-byte dtypes: two words an element
        filled = filled.any(-1)
    mask = Region.where(filled)
    if mask.form is Form.ALL:
        return mask, value
    small, item = mask.compact(), value.dtype.itemsize
    sizes = {
        Form.ALL: value.nbytes,
        Form.MASK: (value.numel() + 7) // 8 + mask.count * item,
        small.form: small.nbytes + mask.count * item,
    }
    best = min(sizes, key=lambda form: sizes[form])
    if sizes[best] + _INDEX_BYTES > WORTH * value.nbytes:
        return Region.all(tuple(value.shape)), value
    if best is Form.MASK:
        return mask, value
    return small, zeros((0,), value.dtype, _CPU) if small.empty else small.pick(value)


def _created(transaction: Transaction, max_nbytes: int) -> PageRecord:
    """The page that `_creation` wrote; nothing is allocated before its size is known to be fine."""
    info, delta = transaction.created[0], transaction.deltas[0]
    about = Fields(dict(transaction.metadata), _WHERE)
    derived, packed, spec = about.get("derived", bool), about.get("packed", bool), info.spec
    assert spec is not None
    held = Spec(torch.uint8, (-(-spec.numel // 8),), _CPU) if packed else spec
    if (
        (delta.page_id, delta.region.shape, delta.values.dtype) != (info.id, held.shape, held.dtype)
        or delta.base_epoch < -1
        or delta.rows_before is not None
        or (packed and spec.dtype is not torch.bool)
    ):
        raise _damage(f"page {info.name!r:.80}: {delta!r} does not make a value of {spec}")
    if packed or delta.region.form is not Form.ALL:
        check_size(spec.nbytes, max_nbytes, f"page {info.name!r:.80}, sparse,")
    try:
        value = _spread(delta)
        if packed:
            value = _unpacked(value, spec)
    except (RuntimeError, ValueError, OverflowError) as error:
        if isinstance(error, SerializationError):
            raise
        raise _damage(f"page {info.name!r:.80} of {spec}: {error}") from error
    info = info._replace(spec=None if derived else spec, derived=derived)
    return PageRecord(info, delta.base_epoch + 1, value)


def _spread(delta: Delta) -> Tensor:
    """The value that the delta makes of zeros."""
    region, values = delta.region, delta.values
    if region.form is Form.ALL:
        return values
    value = zeros(region.shape, values.dtype, _CPU)
    if region.form is not Form.BITS or region.index is None:
        merge(value, delta)
        return value
    mask, bits = unpack_mask(region.index, region.shape), words(value)
    if bits.dim() > mask.dim():
        mask = mask.unsqueeze(-1).expand_as(bits)
    bits.masked_scatter_(mask, words(values))  # no list of positions, which takes 8 bytes each
    return value


def _unpacked(bits: Tensor, spec: Spec) -> Tensor:
    if spec.numel % 8 and int(bits[-1]) >> spec.numel % 8:
        raise _damage(f"bits beyond {spec} are set")
    return unpack_mask(bits, spec.shape)


def _event_bytes(event: Event) -> bytes:
    if not isinstance(event.type, EventType):
        raise SerializationError(f"an event of type {event.type!r:.40}: expected an EventType.")
    check_json(dict(event.fields), "the event's fields")
    try:
        raw = event.to_bytes()
    except (struct.error, ValueError, TypeError) as error:
        raise SerializationError(f"this event cannot be written: {error}.") from error
    if len(raw) > MAX_EVENT_BYTES:
        raise SerializationError(
            f"an event of {len(raw)} bytes: expected at most {MAX_EVENT_BYTES}. "
            "Large values belong into pages."
        )
    return raw


def _event(body: memoryview) -> Event:
    if len(body) > MAX_EVENT_BYTES:
        raise _damage(f"an event of {len(body)} bytes, expected at most {MAX_EVENT_BYTES}")
    try:
        event = Event.from_bytes(bytes(body))
        check_json(dict(event.fields), "its fields")
    except SerializationError as error:
        raise _damage(f"no event: {error}") from error
    return event


def _damage(problem: str) -> CorruptStoreError:
    return CorruptStoreError(f"{_WHERE} do not hold what they say: {problem}.")
