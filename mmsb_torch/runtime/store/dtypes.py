"""How each torch dtype is written in a safetensors file.

What the format and torch's binding of it can name goes as such. The rest travels in a carrier of
the same bytes, and the file's metadata says so under `DTYPES_KEY`, a JSON object of tensor name to
torch dtype name:

- complex128 as F64 `[..., 2]`, complex32 as F16 `[..., 2]` (real, imaginary);
- every other dtype (sub-byte integers, bits, float8_e8m0fnu, float4_e2m1fn_x2) as U8 or U16 of the
  same shape, one carrier element for each element as torch counts them.

The table does not depend on the installed safetensors, so equal tensors give equal files.
Quantised dtypes are refused: their scale is not in their bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from mmsb_torch.errors import UnsupportedError

DTYPES_KEY = "mmsb.dtypes"

NATIVE: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}

# F8_E8M0 is read from foreign files; it is written as U8, for half of safetensors' own functions
# (`load` of bytes) cannot name it.
READABLE: dict[str, torch.dtype] = {tag: dtype for dtype, tag in NATIVE.items()} | {
    "F8_E8M0": torch.float8_e8m0fnu
}

_PAIRED: dict[torch.dtype, str] = {torch.complex128: "F64", torch.complex32: "F16"}

_CARRIED = (
    *(f"uint{bits}" for bits in range(1, 8)),
    *(f"int{bits}" for bits in range(1, 8)),
    *("bits1x8", "bits2x4", "bits4x2", "bits8", "bits16"),
    *("float8_e8m0fnu", "float4_e2m1fn_x2", "complex128", "complex32"),
)
_BY_NAME: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in _CARRIED if hasattr(torch, name)
}
_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in _BY_NAME.items()}
_UNSIGNED = {1: "U8", 2: "U16"}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How one dtype is written.

    Attributes:
        tag: the safetensors dtype in the header.
        paired: the header's shape has a last dimension of 2 that the tensor has not.
        name: the torch dtype's name for `DTYPES_KEY`, or None where the tag says it all.
    """

    tag: str
    paired: bool = False
    name: str | None = None


@functools.cache
def encoding(dtype: torch.dtype) -> Encoding:
    """Return how `dtype` is written.

    Raises:
        UnsupportedError: the dtype is quantised or unknown.
    """
    if (tag := NATIVE.get(dtype)) is not None:
        return Encoding(tag)
    if (name := _NAMES.get(dtype)) is None:
        raise UnsupportedError(
            f"{dtype} cannot be stored: expected a dense torch dtype. Store the tensor's integer "
            "representation and its scales instead."
        )
    if (tag := _PAIRED.get(dtype)) is not None:
        return Encoding(tag, paired=True, name=name)
    return Encoding(_UNSIGNED[dtype.itemsize], name=name)


def carried(name: str) -> torch.dtype:
    """Return the torch dtype that the metadata calls `name`.

    Raises:
        UnsupportedError: this version, or this torch, has no such dtype.
    """
    if (dtype := _BY_NAME.get(name)) is None:
        raise UnsupportedError(
            f"a stored tensor has dtype {name!r}, which torch {torch.__version__} and this version "
            "of mmsb_torch cannot name. Open it with the version that wrote it."
        )
    return dtype
