"""Which tensor of a checkpoint goes into which file."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from mmsb_torch.errors import StoreError, UnsupportedError
from mmsb_torch.runtime.store.dtypes import NATIVE
from mmsb_torch.runtime.store.header import MAX_HEADER_BYTES, MAX_TENSORS
from mmsb_torch.runtime.store.tensorfile import check_tensor

SHARD_BYTES = 1 << 28
MAX_SHARDS = 99_999

_ENTRY_BYTES = 128  # the fixed text of an entry, two offsets and the longest tag
_SIZE_BYTES = 20  # one number of a shape and its comma
_SPARE_BYTES = 4096  # metadata, padding


def plan_shards(tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> list[list[str]]:
    """Spread the tensors, in their order, over files of at most `shard_bytes`, header included.

    A tensor larger than that gets a file of its own. There is at least one file, if an empty one.

    Raises:
        SerializationError, UnsupportedError: a tensor cannot be stored, or too many files.
        StoreError: `shard_bytes` is not positive.
    """
    if shard_bytes < 1:
        raise StoreError(f"shard_bytes is {shard_bytes}: expected at least 1 byte.")
    shards: list[list[str]] = [[]]
    header_bytes = data_bytes = 0
    for name, tensor in tensors.items():
        check_tensor(name, tensor)
        header, data = _header_bytes(name, tensor), tensor.numel() * tensor.dtype.itemsize
        shard = shards[-1]
        if shard and (
            header_bytes + header + data_bytes + data > shard_bytes
            or header_bytes + header > MAX_HEADER_BYTES - _SPARE_BYTES
            or len(shard) == MAX_TENSORS
        ):
            shard = []
            shards.append(shard)
            header_bytes = data_bytes = 0
        shard.append(name)
        header_bytes += header
        data_bytes += data
    if len(shards) > MAX_SHARDS:
        raise UnsupportedError(
            f"{len(shards)} files are needed, expected at most {MAX_SHARDS}: raise shard_bytes, "
            f"which is {shard_bytes}."
        )
    return shards


def _header_bytes(name: str, tensor: torch.Tensor) -> int:
    """Return at least the bytes the header needs for the tensor."""
    quoted = json.dumps(name, ensure_ascii=False)
    nbytes = (
        len(quoted.encode("utf-8", "surrogatepass")) + _ENTRY_BYTES + _SIZE_BYTES * tensor.dim()
    )
    if tensor.dtype not in NATIVE:  # named once more, in the metadata, as JSON in JSON
        again = json.dumps(quoted, ensure_ascii=False)
        nbytes += len(again.encode("utf-8", "surrogatepass")) + _ENTRY_BYTES
    return nbytes
