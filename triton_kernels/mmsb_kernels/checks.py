"""What every merge refuses, said once: the reference and the launchers share these checks.

Nothing here reads tensor data, so nothing here makes the host wait for a device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WRITTEN = frozenset({"base", "target"})
"""Arguments that are changed in place."""


def check_dense(where: str, base: Tensor, values: Tensor, mask: Tensor) -> None:
    """Refuse a dense delta that does not fit `base`.

    Args:
        where: name of the function that was called, for the message.
        base: the tensor merged into, any shape and dtype.
        values: must have the shape, dtype and device of `base`.
        mask: must be bool, with the shape and device of `base`.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    _expect_dtype(where, "values", values, base.dtype)
    _expect_dtype(where, "mask", mask, torch.bool)
    _expect_shape(where, "values", values, base.shape)
    _expect_shape(where, "mask", mask, base.shape)
    _expect_device(where, base, values=values, mask=mask)


def check_rows(where: str, base: Tensor, values: Tensor, rows: Tensor) -> None:
    """Refuse a delta by rows that does not fit `base`.

    Args:
        where: name of the function that was called, for the message.
        base: the tensor merged into, at least one dimension.
        values: must be `[n, *base.shape[1:]]` with the dtype and device of `base`.
        rows: must be int64 `[n]` on the device of `base`.

    Raises:
        ValueError: a shape or a device differs, or `base` has no rows.
        TypeError: a dtype differs.
    """
    if base.dim() == 0:
        raise ValueError(
            f"{where}: base: expected at least one dimension, found a 0-dim tensor. "
            "Use delta_merge or delta_merge_elements."
        )
    _expect_dtype(where, "values", values, base.dtype)
    _expect_index(where, "rows", rows)
    _expect_shape(where, "values", values, (rows.numel(), *base.shape[1:]))
    _expect_device(where, base, values=values, rows=rows)


def check_elements(where: str, base: Tensor, values: Tensor, indices: Tensor) -> None:
    """Refuse a delta by elements that does not fit `base`.

    Args:
        where: name of the function that was called, for the message.
        base: the tensor merged into, any shape.
        values: must be `[n]` with the dtype and device of `base`.
        indices: must be int64 `[n]` on the device of `base`.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    _expect_dtype(where, "values", values, base.dtype)
    _expect_index(where, "indices", indices)
    _expect_shape(where, "values", values, indices.shape)
    _expect_device(where, base, values=values, indices=indices)


def check_bits(where: str, base: Tensor, values: Tensor, bits: Tensor) -> None:
    """Refuse a bit-packed delta that does not fit `base`.

    That there are as many values as bits set is not checked here: it would read the bits.

    Args:
        where: name of the function that was called, for the message.
        base: the tensor merged into, any shape.
        values: must have one dimension and the dtype and device of `base`.
        bits: must be uint8 `[ceil(base.numel() / 8)]` on the device of `base`.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    _expect_dtype(where, "values", values, base.dtype)
    _expect_dtype(where, "bits", bits, torch.uint8)
    if values.dim() != 1:
        raise ValueError(
            f"{where}: values: expected one dimension, found shape {tuple(values.shape)}. "
            "Pass the chosen values in C order, as base[mask] gives them."
        )
    _expect_shape(where, "bits", bits, (packed_size(base.numel()),))
    _expect_device(where, base, values=values, bits=bits)


def check_plain(where: str, **tensors: Tensor) -> None:
    """Refuse tensors whose memory is not their elements in C order, as kernels need it.

    Args:
        where: name of the function that was called, for the message.
        **tensors: the tensors by argument name.

    Raises:
        ValueError: a tensor is not strided, not contiguous, or a lazy conjugate or negative view.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise ValueError(
                f"{where}: {name}: expected a strided tensor, found layout {tensor.layout}. "
                f"Pass {name}.to_dense()."
            )
        if not tensor.is_contiguous():
            advice = (
                "Merge into a contiguous tensor and copy it back"
                if name in _WRITTEN
                else f"Pass {name}.contiguous()"
            )
            raise ValueError(
                f"{where}: {name}: expected a contiguous tensor, found strides {tensor.stride()} "
                f"for shape {tuple(tensor.shape)}. {advice}, or use mmsb_kernels.reference.{where}."
            )
        if tensor.is_conj() or tensor.is_neg():
            raise ValueError(
                f"{where}: {name}: expected a tensor whose memory holds its values, found a lazy "
                f"conjugate or negative view. Pass {name}.resolve_conj().resolve_neg()."
            )


def check_alike(where: str, one: Tensor, **others: Tensor) -> None:
    """Refuse tensors that differ from `one` in dtype, shape or device.

    Args:
        where: name of the function that was called, for the message.
        one: any shape and dtype.
        **others: the other tensors by argument name.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
    """
    for name, other in others.items():
        _expect_dtype(where, name, other, one.dtype)
        _expect_shape(where, name, other, one.shape)
    _expect_device(where, one, **others)


def check_gather(where: str, source: Tensor, rows: Tensor) -> None:
    """Refuse rows that cannot be read from `source`, as `check_rows` does.

    Raises:
        ValueError: `source` has no rows, or shape or device of `rows` do not fit.
        TypeError: `rows` is not int64.
    """
    if source.dim() == 0:
        raise ValueError(
            f"{where}: source: expected at least one dimension, found a 0-dim tensor. "
            "A tensor without dimensions has no rows."
        )
    _expect_index(where, "rows", rows)
    _expect_device(where, source, rows=rows)


def check_range(where: str, name: str, indices: Tensor, size: int) -> None:
    """Refuse numbers outside `[0, size)`; reads them.

    Raises:
        IndexError: there is one.
    """
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= size):
        raise IndexError(
            f"{where}: {name}: expected indices in [0, {size}), found "
            f"{int(indices.min())} to {int(indices.max())}. Nothing wraps around; nothing was written."
        )


def check_packed(where: str, bits: Tensor, numel: int) -> None:
    """Refuse what is no bit-packed mask of `numel` elements.

    Raises:
        ValueError: it has another shape.
        TypeError: it is not uint8.
    """
    _expect_dtype(where, "bits", bits, torch.uint8)
    if tuple(bits.shape) != (packed_size(numel),):
        raise ValueError(
            f"{where}: bits: expected shape {(packed_size(numel),)} for a mask of {numel} elements, "
            f"found {tuple(bits.shape)}. Pass what pack_mask gave."
        )


def check_bool(where: str, mask: Tensor) -> None:
    """Refuse a mask that is not bool.

    Raises:
        TypeError: it is not.
    """
    _expect_dtype(where, "mask", mask, torch.bool)


def check_fill(where: str, target: Tensor, value: Tensor) -> None:
    """Refuse a value that cannot fill `target`: 0-dim, of its dtype and device.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: the dtype differs.
    """
    _expect_dtype(where, "value", value, target.dtype)
    _expect_shape(where, "value", value, ())
    _expect_device(where, target, value=value)


def check_pieces(where: str, bases: list[Tensor], values: Tensor, pieces: Tensor) -> None:
    """Refuse a batch of pieces that do not lie in their tensors; reads `pieces`, which is on the CPU.

    Args:
        where: name of the function that was called, for the message.
        bases: the tensors merged into, all on one device.
        values: uint8 `[bytes]` on that device.
        pieces: int64 `[n, 4]` on the CPU: which base, byte in it, byte in `values`, bytes.

    Raises:
        ValueError: a shape or a device differs.
        TypeError: a dtype differs.
        IndexError: a piece is not inside of its base or of `values`.
    """
    _expect_dtype(where, "values", values, torch.uint8)
    _expect_dtype(where, "pieces", pieces, torch.int64)
    _expect_shape(where, "values", values, (values.numel(),))
    _expect_shape(where, "pieces", pieces, (pieces.numel() // 4, 4))
    if not pieces.is_cpu:
        raise ValueError(
            f"{where}: pieces: expected a tensor on the CPU, found one on {pieces.device}. The host "
            "checks where the pieces lie before anything is written."
        )
    for number, base in enumerate(bases):
        _expect_device(where, values, **{f"bases[{number}]": base})
    if not len(pieces):
        return
    which, at, start, size = pieces.unbind(1)
    inside = (which >= 0) & (which < len(bases)) & (at >= 0) & (start >= 0) & (size >= 0)
    if bool(inside.all()):
        room = torch.tensor([base.nbytes for base in bases], dtype=torch.int64)
        inside = (size <= room[which] - at) & (size <= values.numel() - start)
    if not bool(inside.all()):
        first = int((~inside).nonzero()[0])
        raise IndexError(
            f"{where}: pieces: expected (base, byte in it, byte in values, bytes) inside of "
            f"{len(bases)} bases and {values.numel()} bytes of values, found "
            f"{tuple(pieces[first].tolist())} in line {first}. Nothing was written."
        )


def packed_size(numel: int) -> int:
    """Return the number of bytes of a bit-packed mask of `numel` elements."""
    return (numel + 7) // 8


def _expect_dtype(where: str, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise TypeError(
            f"{where}: {name}: expected {dtype}, found {tensor.dtype}. Pass {name}.to({dtype})."
        )


def _expect_shape(where: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{where}: {name}: expected shape {tuple(shape)}, found {tuple(tensor.shape)}. "
            "Nothing is broadcast: expand it before the call."
        )


def _expect_index(where: str, name: str, tensor: Tensor) -> None:
    _expect_dtype(where, name, tensor, torch.int64)
    if tensor.dim() != 1:
        raise ValueError(
            f"{where}: {name}: expected one dimension, found shape {tuple(tensor.shape)}. "
            f"Pass {name}.reshape(-1)."
        )


def _expect_device(where: str, base: Tensor, **others: Tensor) -> None:
    for name, tensor in others.items():
        if tensor.device != base.device:
            raise ValueError(
                f"{where}: {name}: expected a tensor on {base.device} like base, found one on "
                f"{tensor.device}. Pass {name}.to(base.device)."
            )
