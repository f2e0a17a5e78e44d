"""Any dense tensor as integers of the same width: bits move, numbers are never touched."""

from __future__ import annotations

import torch
from torch import Tensor

from mmsb_torch.device.allocation import LARGE, advised, empty

_CONTIGUOUS = torch.contiguous_format
_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# torch shells that hold bits but that no torch op can copy: they move as words from the start
UNCOPYABLE = frozenset(
    getattr(torch, name)
    for name in (*(f"int{n}" for n in range(1, 8)), *(f"uint{n}" for n in range(1, 8)))
    if hasattr(torch, name)
)


def words(tensor: Tensor) -> Tensor:
    """Return `tensor`'s bits as integers, a view of the same memory.

    The view has the tensor's shape and an integer dtype of its item size (1, 2, 4 or 8 bytes);
    a 16-byte dtype gets a last dimension of two int64 words. The tensor must not carry a lazy
    conjugate or negative bit (`resolve_conj`, `resolve_neg` first).
    """
    if tensor.dtype is torch.complex128:
        return torch.view_as_real(tensor).view(torch.int64)
    return tensor.view(_WORD[tensor.dtype.itemsize])


def flat_words(tensor: Tensor) -> Tensor:
    """Return the bits of a contiguous tensor as [numel] words ([numel, 2] for 16-byte dtypes)."""
    if tensor.dtype is torch.complex128:
        return words(tensor).view(-1, 2)
    return words(tensor).view(-1)


def from_words(bits: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return words (as `words` or `flat_words` gave them) as `dtype` and `shape`; same memory."""
    if dtype is torch.complex128:
        return torch.view_as_complex(bits.contiguous().view(torch.float64)).view(shape)
    return bits.view(dtype).view(shape)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a zero tensor of any dense dtype, those that torch itself cannot fill included."""
    if dtype is torch.complex128:
        return advised(torch.zeros(shape, dtype=dtype, device=device))
    bits = advised(torch.zeros(shape, dtype=_WORD[dtype.itemsize], device=device))
    return from_words(bits, dtype, shape)


def fill(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a new tensor of `shape`, every element of the 0-dim `value`; any dense dtype."""
    bits = words(copy_of(value))
    spread = bits.expand(*shape, 2) if value.dtype is torch.complex128 else bits.expand(shape)
    return from_words(copy_of(spread), value.dtype, shape)


def take_rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Return a new tensor of rows `index` (int64 [n]) of a contiguous tensor, bit for bit."""
    bits = words(tensor)
    if tensor.nbytes < LARGE:
        taken = bits.index_select(0, index)
    else:
        taken = empty((index.numel(), *bits.shape[1:]), bits.dtype, bits.device)
        torch.index_select(bits, 0, index, out=taken)
    return from_words(taken, tensor.dtype, (index.numel(), *tensor.shape[1:]))


def copy_of(tensor: Tensor, into: Tensor | None = None) -> Tensor:
    """Return a contiguous copy that owns its memory, bit for bit, detached from autograd.

    It is made in the memory of `into`, if given: contiguous, of the same dtype, shape and device.
    Under inference mode too the copy is a normal tensor: it has a version counter.
    """
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(mode=False):
            return copy_of(tensor, into)
    if tensor.dtype in UNCOPYABLE:
        copied = copy_of(words(tensor.detach()), None if into is None else words(into))
        return copied.view(tensor.dtype)
    if tensor.requires_grad or tensor.is_conj() or tensor.is_neg():
        tensor = tensor.detach().resolve_conj().resolve_neg()
    if into is not None:
        words(into).copy_(words(tensor))
        return into
    if tensor.nbytes < LARGE:
        return tensor.clone(memory_format=_CONTIGUOUS)
    return empty(tensor.shape, tensor.dtype, tensor.device).copy_(tensor)


def require_dense(value: object) -> str | None:
    """Say why `value` is no dense tensor that a page can hold, or None if it is one.

    Dense: a plain strided `torch.Tensor` (or Parameter) with real memory: not sparse, quantised,
    nested, meta, fake, nor any other subclass.
    """
    if type(value) is not Tensor and type(value) is not torch.nn.Parameter:
        if isinstance(value, Tensor):
            return f"a tensor subclass ({type(value).__name__})"
        return f"a {type(value).__name__}"
    if value.layout is not torch.strided:
        return f"a tensor of layout {value.layout}"
    if value.is_quantized:
        return f"a quantised tensor ({value.dtype})"
    if value.device.type not in {"cpu", "cuda"}:
        return f"a tensor on device {value.device}"
    if value.is_nested:
        return "a nested tensor"
    return None
