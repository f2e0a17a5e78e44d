"""The Triton bodies of the merges. `launch` computes their arguments; nothing here is public.

Common to all of them:

- pointers are to signed integer words of 1, 2, 4 or 8 bytes (masks: bytes); an element of 16
  bytes is `WORDS = 2` words of 8 bytes;
- a tensor may have more than 2**31 elements, so a tile begins at an int64 offset; offsets within
  the tile are int32, which saves registers;
- only builtins of `triton.language` are called: `tl.sum`, `tl.cdiv` and their like are compiled
  functions, which the interpreter cannot enter.
"""

import triton.language as tl

from mmsb_kernels.dual import kernel

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


@kernel(do_not_specialize=("numel",))
def merge_dense(base, values, mask, numel, TILE: tl.constexpr, WORDS: tl.constexpr):
    """Copy the elements of one tile whose mask byte is not zero."""
    start = tl.program_id(0).to(tl.int64) * TILE
    to = base + start * WORDS
    source = values + start * WORDS
    lanes = tl.arange(0, TILE)
    # A bound check is a predicate on each byte, and predicates kill vector loads: only the last,
    # partial tile pays it. Lanes past the end count as false, so that tile is never "all true".
    if start + TILE <= numel:
        chosen = tl.load(mask + start + lanes) != 0
    else:
        chosen = tl.load(mask + start + lanes, mask=start + lanes < numel, other=0) != 0
    count = tl.reduce(chosen.to(tl.int32), 0, ADD)
    if count == TILE:
        words = tl.arange(0, TILE * WORDS)
        tl.store(to + words, tl.load(source + words))
    elif count > 0:
        for word in tl.static_range(WORDS):
            at = lanes * WORDS + word
            tl.store(to + at, tl.load(source + at, mask=chosen), mask=chosen)


@kernel(do_not_specialize=("count", "base_rows"))
def merge_rows(
    base,
    values,
    rows,
    count,
    base_rows,
    row_words,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Copy one tile of `ROWS` rows by `COLS` words; rows out of range are skipped."""
    program = tl.program_id(0).to(tl.int64)
    # The grid is one-dimensional because its other dimensions end at 65535.
    across = (row_words + COLS - 1) // COLS
    row = program // across * ROWS + tl.arange(0, ROWS)
    col = program % across * COLS + tl.arange(0, COLS)
    live = row < count
    target = tl.load(rows + row, mask=live, other=0)
    live = live & (target >= 0) & (target < base_rows)
    keep = live[:, None] & (col < row_words)[None, :]
    moved = tl.load(values + (row[:, None] * row_words + col[None, :]), mask=keep)
    tl.store(base + (target[:, None] * row_words + col[None, :]), moved, mask=keep)


@kernel(do_not_specialize=("count", "numel"))
def merge_elements(base, values, indices, count, numel, TILE: tl.constexpr, WORDS: tl.constexpr):
    """Scatter one tile of values; indices out of range are skipped."""
    lanes = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    live = lanes < count
    target = tl.load(indices + lanes, mask=live, other=0)
    live = live & (target >= 0) & (target < numel)
    for word in tl.static_range(WORDS):
        moved = tl.load(values + (lanes * WORDS + word), mask=live)
        tl.store(base + (target * WORDS + word), moved, mask=live)


@kernel(do_not_specialize=("numel",))
def count_bits(bits, counts, numel, TILE: tl.constexpr):
    """Store the number of bits set among the `TILE` elements of one tile."""
    program = tl.program_id(0).to(tl.int64)
    byte = program * (TILE // 8) + tl.arange(0, TILE // 8)
    # The last byte may have bits past the end.
    left = tl.maximum(tl.minimum(numel - byte * 8, 8), 0).to(tl.int32)
    pairs = tl.load(bits + byte, mask=left > 0, other=0).to(tl.int32) & ((1 << left) - 1)
    # Sums of 1, then 2, then 4 neighbouring bits, all of a byte at once.
    pairs = pairs - ((pairs >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    found = (fours + (fours >> 4)) & 0x0F
    tl.store(counts + program, tl.reduce(found, 0, ADD).to(tl.int64))


@kernel(do_not_specialize=("count", "numel"))
def merge_bits(
    base,
    values,
    bits,
    counts,
    ends,
    count,
    numel,
    TILE: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Copy compact values to the elements of one tile whose bit is set.

    `counts` holds the bits set in each tile and `ends` their inclusive sums, so the values of this
    tile are those from `ends - counts` on. `count` is how many values there are: none is read past
    the end, whatever the bits say.
    """
    program = tl.program_id(0).to(tl.int64)
    start = program * TILE
    found = tl.load(counts + program)
    first = tl.load(ends + program) - found
    to = base + start * WORDS
    source = values + first * WORDS
    if (found == TILE) & (first + TILE <= count):
        words = tl.arange(0, TILE * WORDS)
        tl.store(to + words, tl.load(source + words))
    elif found > 0:
        lanes = tl.arange(0, TILE)
        # TILE is a multiple of 8, so a tile begins with a byte.
        packed = tl.load(bits + start // 8 + lanes // 8, mask=start + lanes < numel, other=0)
        bit = (packed.to(tl.int32) >> (lanes % 8)) & 1
        rank = tl.associative_scan(bit, 0, ADD) - bit
        live = (bit != 0) & (first + rank < count)
        for word in tl.static_range(WORDS):
            moved = tl.load(source + (rank * WORDS + word), mask=live)
            tl.store(to + (lanes * WORDS + word), moved, mask=live)
