"""Taking tensors over: memory that cannot be watched is replaced by memory of torch's own."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def adopt(tensors: Iterable[Tensor]) -> int:
    """Copy those that live in memory of files or arrays (which has no flag) into memory of their own.

    The tensor objects stay, so that optimizers and modules go on with them. Left alone are those that share bytes
    with another one given here, that other processes share, or that are not on the CPU: they are
    compared at each commit. Returns how many bytes were copied.
    """
    dense = [tensor for tensor in tensors if tensor.is_cpu and type(tensor.data) is Tensor]
    foreign = [tensor for tensor in dense if _is_foreign(tensor)]
    copied = 0
    for tensor in foreign:
        if not any(_overlap(tensor, other) for other in dense if other is not tensor):
            tensor.data = tensor.detach().clone()
            copied += tensor.nbytes
    return copied


def _is_foreign(tensor: Tensor) -> bool:
    if tensor.is_sparse or tensor.is_quantized or tensor.is_nested or not tensor.nbytes:
        return False
    return not tensor.untyped_storage().resizable() and not tensor.is_shared()


def _overlap(a: Tensor, b: Tensor) -> bool:
    if b.layout is not a.layout or a.untyped_storage()._cdata != b.untyped_storage()._cdata:  # noqa: SLF001
        return False
    (first, last), (begin, end) = _extent(a), _extent(b)
    return first < end and begin < last


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage that a tensor may touch."""
    first = int(tensor.storage_offset())
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    last = first + sum((size - 1) * step for size, step in sizes)
    return first * tensor.itemsize, (last + 1) * tensor.itemsize
