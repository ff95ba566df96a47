"""Packing of weights: from rows of numbers to the cells that kernels read, and back.

A weight arrives as (columns, k): one row per output, as checkpoints hold it. Blocks of 16 columns
are independent streams of bytes (bundle/cells.py), so segments are packed one by one, in pieces
that fit the caches, and their blocks put in order after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from argosy.bundle.cells import (
    F16,
    F32,
    U8,
    Integers,
    from_bf16,
    from_cells,
    from_float_cells,
    from_stored,
    to_bf16,
    to_cells,
    to_float_cells,
    to_stored,
)
from argosy.errors import CheckpointError
from argosy.model.formats import CELL_BYTES, COLUMNS, Format, Kind
from argosy.model.program import Matrix

__all__ = [
    "Integers",
    "assemble",
    "cut_columns",
    "cut_groups",
    "dequantize",
    "from_bf16",
    "from_cells",
    "pack_columns",
    "pack_matrix",
    "quantize",
    "to_bf16",
    "to_cells",
    "unpack_columns",
    "unpack_matrix",
]

ZERO = {Kind.W4: 8, Kind.W8: 128}
"""The stored integer that means 0 in a symmetric format."""

# What is tried for each group, the least squared error wins. Symmetric w4: the level at which the
# weight of largest magnitude comes to lie (-8 has no positive counterpart, so scales may be
# negative). With minima: the share of the group's range that the 16 levels span. From the best of
# these on, scale (and minimum) are fitted to the integers and integers to the scale, in turns.
_W4_LEVELS = (-8.0, -8.7, -7.3, 7.0, 7.6, 6.5)
_W4_SPANS = (1.0, 0.94, 0.88, 0.82)
_W4_FITS = 2
_WEIGHTS_AT_ONCE = 1 << 18


def quantize(weight: F32, fmt: Format) -> Integers:
    """Integers near `weight` (n, k) with a small squared error in each group.

    Scales are rounded to fp16 first and integers chosen for the rounded ones. Padded k holds the
    zero point, so it weighs exactly 0 (with minima: any value; its inputs are 0).
    """
    n, k = weight.shape
    padded = fmt.pad_k(k)
    if fmt.asymmetric:  # a padding of zeros would widen the range of the last group
        w = np.pad(weight, ((0, 0), (0, padded - k)), mode="edge")
    else:
        w = np.pad(weight, ((0, 0), (0, padded - k)))
    groups = w.reshape(n, padded // fmt.group, fmt.group)
    best = _Best(groups, fmt)
    for scale, minimum in _candidates(groups, fmt):
        best.attempt(scale, minimum)
    if fmt.kind is Kind.W4:
        for _ in range(_W4_FITS):
            best.attempt(*_fit(groups, best.levels, fmt))
    values = best.levels.astype(np.uint8).reshape(n, padded)
    return Integers(values, best.scale, best.minimum if fmt.asymmetric else None)


def dequantize(fmt: Format, ints: Integers) -> F32:
    """The (n, padded k) fp32 weights that `ints` stand for."""
    n, padded = ints.values.shape
    q = ints.values.reshape(n, padded // fmt.group, fmt.group).astype(np.float32)
    minima = np.zeros_like(ints.scales) if ints.minima is None else ints.minima
    return _read(q, ints.scales, minima, fmt).reshape(n, padded)


def pack_columns(fmt: Format, weight: F32) -> U8:
    """Bytes of one segment `weight` (cols, k): padded, rounded or quantized, in blocks.

    Raises CheckpointError if a weight is NaN or infinite, or too large for the format.
    """
    cols, k = weight.shape
    blocks = -(-cols // COLUMNS)
    out = np.empty((blocks, fmt.block_bytes(k)), np.uint8)
    step = max(1, _WEIGHTS_AT_ONCE // (COLUMNS * k))
    for first in range(0, blocks, step):
        w = weight[first * COLUMNS : (first + step) * COLUMNS].astype(np.float32, copy=False)
        w = np.pad(w, ((0, -w.shape[0] % COLUMNS), (0, 0)))
        out[first : first + step] = _pack_blocks(fmt, w).reshape(-1, out.shape[1])
    return out.reshape(-1)


def unpack_columns(fmt: Format, k: int, n: int, data: U8) -> F32:
    """The (n, k) fp32 weights stored in `data`, n a multiple of 16."""
    if fmt.quantized:
        return dequantize(fmt, from_cells(fmt, k, n, data))[:, :k]
    return from_stored(fmt, from_float_cells(fmt, k, n, data))[:, :k]


def assemble(matrix: Matrix, segments: Sequence[U8]) -> U8:
    """The bytes of `matrix` from those of its packed segments, interleaved if it is."""
    size = matrix.format.block_bytes(matrix.k)
    blocks = [data.reshape(-1, size) for data in segments]
    if matrix.interleaved:
        return np.stack(blocks, axis=1).reshape(-1)
    return np.concatenate(blocks).reshape(-1)


def pack_matrix(matrix: Matrix, parts: Sequence[F32]) -> U8:
    """The (num_bytes,) u8 of `matrix`; part i is its segment i, (cols, k) fp32.

    Raises CheckpointError, naming the segment, for weights the format cannot hold.
    """
    packed = []
    for segment, part in zip(matrix.segments, parts, strict=True):
        assert part.shape == (segment.cols, matrix.k), segment.name
        try:
            packed.append(pack_columns(matrix.format, part))
        except CheckpointError as error:
            raise CheckpointError(f"{segment.name} ({segment.source}): {error}") from error
    return assemble(matrix, packed)


def unpack_matrix(matrix: Matrix, data: U8) -> list[F32]:
    """Per segment the (cols, k) fp32 weights that kernels read from `data`."""
    blocks = data.reshape(-1, matrix.format.block_bytes(matrix.k))
    if matrix.interleaved:
        pieces = [blocks[i :: len(matrix.segments)] for i in range(len(matrix.segments))]
    else:
        ends = np.cumsum([s.padded // COLUMNS for s in matrix.segments])
        pieces = np.split(blocks, ends[:-1])
    return [
        unpack_columns(matrix.format, matrix.k, s.padded, np.ascontiguousarray(piece))[: s.cols]
        for s, piece in zip(matrix.segments, pieces, strict=True)
    ]


def cut_columns(fmt: Format, k: int, data: U8, first: int, last: int) -> U8:
    """The column blocks [first, last) of a packed matrix of `k` rows."""
    return data.reshape(-1, fmt.block_bytes(k))[first:last].reshape(-1)


def cut_groups(fmt: Format, k: int, data: U8, first: int, last: int) -> U8:
    """Rows [first, last) of a packed matrix, counted in whole groups (in cells if unquantized)."""
    blocks = data.size // fmt.block_bytes(k)
    if not fmt.quantized:
        return data.reshape(blocks, -1, CELL_BYTES)[:, first:last].reshape(-1)
    ints = from_cells(fmt, k, blocks * COLUMNS, data)
    values = ints.values[:, first * fmt.group : last * fmt.group]
    minima = None if ints.minima is None else ints.minima[:, first:last]
    return to_cells(fmt, Integers(values, ints.scales[:, first:last], minima))


def _pack_blocks(fmt: Format, w: F32) -> U8:
    if not np.isfinite(w).all():
        raise CheckpointError("a weight is NaN or infinite; the checkpoint is broken")
    if fmt.quantized:
        ints = quantize(w, fmt)
        finite = np.isfinite(ints.scales).all()
        if ints.minima is not None:
            finite &= np.isfinite(ints.minima).all()
        data = to_cells(fmt, ints)
    else:
        stored = to_stored(fmt, np.pad(w, ((0, 0), (0, fmt.pad_k(w.shape[1]) - w.shape[1]))))
        finite = np.isfinite(from_stored(fmt, stored)).all()
        data = to_float_cells(fmt, stored)
    if finite:
        return data
    raise CheckpointError(
        f"a weight of magnitude {np.abs(w).max():.3g} does not fit {fmt}; choose bf16 or fp32"
    )


class _Best:
    """The best seen for each group of w (n, groups, group).

    levels: stored integers, as fp32.  scale, minimum: (n, groups) f16; minima 0 if symmetric.
    """

    def __init__(self, w: F32, fmt: Format) -> None:
        self._w, self._fmt = w, fmt
        self.levels = np.zeros_like(w)
        self.scale = self.minimum = np.zeros(w.shape[:2], np.float16)
        self._error: F32 | None = None

    def attempt(self, scale: F16, minimum: F16) -> None:
        """Take these for the groups in which the squared error is less.

        The first is taken everywhere. Where its scale is infinite its error is no number, nothing
        is better, and it is refused later.
        """
        levels = _levels(self._w, scale, minimum, self._fmt)
        with np.errstate(invalid="ignore", over="ignore"):
            missed = self._w - _read(levels, scale, minimum, self._fmt)
            error = np.einsum("ngk,ngk->ng", missed, missed)
            better = np.array(True) if self._error is None else error < self._error
        self.levels = np.where(better[..., None], levels, self.levels)
        self.scale = np.where(better, scale, self.scale)
        self.minimum = np.where(better, minimum, self.minimum)
        self._error = error if self._error is None else np.where(better, error, self._error)


def _candidates(w: F32, fmt: Format) -> Iterator[tuple[F16, F16]]:
    """Scales and minima to try for each group; infinite where fp16 cannot hold them."""
    high, low = w.max(axis=-1), w.min(axis=-1)
    none = np.zeros(high.shape, np.float16)
    with np.errstate(over="ignore"):
        if fmt.asymmetric:
            for span in _W4_SPANS:
                scale = (high - low) * np.float32(span / 15)
                bottom = low + (high - low) * np.float32((1 - span) / 2)
                yield scale.astype(np.float16), (-bottom).astype(np.float16)
        elif fmt.kind is Kind.W4:
            largest = np.where(high > -low, high, low)
            for level in _W4_LEVELS:
                yield (largest / np.float32(level)).astype(np.float16), none
        else:
            yield (np.maximum(high, -low) / np.float32(127)).astype(np.float16), none


def _fit(w: F32, levels: F32, fmt: Format) -> tuple[F16, F16]:
    """The scales and minima of least squared error for w (n, groups, group) at these integers."""
    with np.errstate(all="ignore"):  # all integers alike give 0 / 0, which is never better
        if not fmt.asymmetric:
            q = levels - np.float32(_zero(fmt))
            scale = (q * w).sum(axis=-1) / (q * q).sum(axis=-1)
            return scale.astype(np.float16), np.zeros(scale.shape, np.float16)
        mean_q, mean_w = levels.mean(axis=-1, keepdims=True), w.mean(axis=-1, keepdims=True)
        q = levels - mean_q
        scale = (q * (w - mean_w)).sum(axis=-1) / (q * q).sum(axis=-1)
        minimum = scale * mean_q[..., 0] - mean_w[..., 0]
        return scale.astype(np.float16), minimum.astype(np.float16)


def _levels(w: F32, scale: F16, minimum: F16, fmt: Format) -> F32:
    """Stored integers (as fp32) nearest to `w`; the zero point where the scale is 0."""
    s = scale.astype(np.float32)
    inverse = np.divide(np.float32(1), s, out=np.zeros_like(s), where=s != 0)
    low, high = (1, 255) if fmt.kind is Kind.W8 else (0, 15)
    with np.errstate(invalid="ignore"):  # infinite scales and minima, refused later
        shifted = w + minimum.astype(np.float32)[..., None]
        q: F32 = np.rint(shifted * inverse[..., None]) + np.float32(_zero(fmt))
    return np.nan_to_num(np.clip(q, low, high), copy=False)


def _read(q: F32, scale: F16, minimum: F16, fmt: Format) -> F32:
    """The weights that stored integers stand for."""
    read = (q - np.float32(_zero(fmt))) * scale.astype(np.float32)[..., None]
    return read - minimum.astype(np.float32)[..., None]


def _zero(fmt: Format) -> int:
    return 0 if fmt.asymmetric else ZERO[fmt.kind]
