"""What the launchers share: sizes of tiles, words that move any dtype, and what is refused.

A tile is what one program of a kernel works on. Sizes are reasoned from the instructions that the kernels
compile to, not measured: 128 threads with vectors of 16 bytes each.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmsb_kernels.checks import check_plain
from mmsb_kernels.dual import check_device

# What tl.sum and tl.cumsum combine with; the interpreter knows it by identity and uses numpy.
ADD = tl.standard._sum_combine  # noqa: SLF001

NUM_WARPS = 4

# Elements in the tile of one program of a mask, by element size in bytes. 128 threads move 16 bytes
# each in one vector instruction, so no tile is smaller than 2048 bytes; and none has fewer than 512
# elements, so that the mask is read in vectors as well.
TILE = {1: 2048, 2: 2048, 4: 1024, 8: 1024, 16: 512}

# Elements in the tile of one program that scatters: vectors would not help, registers do.
SCATTER_TILE = 512

# Words in the tile of one program that moves rows, by word size in bytes. Words of 8 are what rows
# move in unless their size or address is odd, and four to a thread are two vector instructions.
ROW_TILE = {1: 1024, 2: 1024, 4: 1024, 8: 512}

# Words in the tile of one program that moves, fills or compares whole tensors: four vectors to a thread.
MOVE_TILE = {1: 2048, 2: 2048, 4: 2048, 8: 1024}

# Bytes of packed bits in the tile of one program that packs or unpacks masks.
PACK_TILE = 512

WORD = {1: tl.int8, 2: tl.int16, 4: tl.int32, 8: tl.int64}
"""Triton's type of a word, by its bytes."""


def row_word(row_bytes: int, *addresses: int) -> int:
    """Return the widest word, in bytes, that rows can move in, whatever their dtype.

    Args:
        row_bytes: size of one row.
        *addresses: where the tensors begin.

    Returns:
        8, 4, 2 or 1: it divides the row and every address.
    """
    return next(
        width
        for width in (8, 4, 2, 1)
        if row_bytes % width == 0 and all(address % width == 0 for address in addresses)
    )


def row_tile(row_words: int, width: int) -> tuple[int, int]:
    """Return the rows and words of the tile of one program.

    Args:
        row_words: words in one row, at least 1.
        width: bytes in one word.

    Returns:
        Two powers of two whose product is always the same for one `width`: short rows share a
        tile, long rows are cut.
    """
    size = ROW_TILE[width]
    cols = min(triton.next_power_of_2(row_words), size)
    return size // cols, cols


def layout(base: Tensor) -> tuple[Any, int, int]:
    """Return the word type, the words in an element, and the elements in a tile."""
    width = base.element_size()
    return WORD[min(width, 8)], max(width // 8, 1), TILE[width]


def mover(*tensors: Tensor) -> tuple[int, list[Any]]:
    """Return the bytes of the widest word that all can move in, and the tensors as such words."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    width = row_word(tensors[0].nbytes, *addresses)
    return width, [triton.reinterpret(tensor, WORD[width]) for tensor in tensors]


def check_launch(where: str, **tensors: Tensor) -> None:
    """Refuse what the kernels cannot take: memory that is not plain, or no GPU."""
    check_plain(where, **tensors)
    check_device(where, next(iter(tensors.values())).device)


def bump(base: Tensor) -> None:
    """Tell autograd that `base` changed, as every in-place operation of torch does."""
    if not base.is_inference():
        torch.autograd.graph.increment_version(base)
