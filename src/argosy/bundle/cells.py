"""The layout of packed weights: 16 columns wide cells of 64 bytes, and lines of scales.

Exact in both directions, no arithmetic: model/formats.py says what a cell holds. A block of 16
columns is one stream of bytes. Quantized: the cells of two groups, then a line with their scales
(an odd last group has half a line); with minima, the cells of one group, then a line with its
scales and minima. Everything is little-endian; bf16 is held as bit patterns in u16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.model.formats import CELL_BYTES, CELL_K, COLUMNS, Format, Kind

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
Stored = NDArray[Any]
"""Numbers as an unquantized format stores them: f4, f2, or u2 for bf16."""

_HALF_LINE = CELL_BYTES // 2
_STORED = {Kind.FP32: "<f4", Kind.FP16: "<f2", Kind.BF16: "<u2"}


@dataclass(frozen=True, slots=True)
class Integers:
    """A quantized weight before packing.

    values: (n, padded k) u8, as stored (zero point added).  scales: (n, groups) f16.
    minima: (n, groups) f16 for formats with zero points, where weight = scale * value - minimum;
    else None, and weight = scale * (value - zero).
    """

    values: U8
    scales: F16
    minima: F16 | None = None


def to_bf16(x: F32) -> U16:
    """bf16 bit patterns of `x`, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: U16) -> F32:
    """The fp32 numbers of bf16 bit patterns, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_cells(fmt: Format, ints: Integers) -> U8:
    """The blocks of `ints` (n a multiple of 16) as flat bytes: cells and lines of scales."""
    n, padded = ints.values.shape
    blocks, groups = n // COLUMNS, padded // fmt.group
    q = ints.values.reshape(blocks, COLUMNS, groups, -1, CELL_K[fmt.kind])
    if fmt.kind is Kind.W4:
        q = q[..., :4] | (q[..., 4:] << np.uint8(4))
    cells = q.transpose(0, 2, 3, 1, 4).reshape(blocks, groups, -1)
    scales = _half_lines(ints.scales)
    if ints.minima is None:
        return _join_pairs(cells, scales).reshape(-1)
    return np.concatenate([cells, scales, _half_lines(ints.minima)], axis=2).reshape(-1)


def from_cells(fmt: Format, k: int, n: int, data: U8) -> Integers:
    """The exact inverse of `to_cells` for `n` columns (a multiple of 16) of `k` rows."""
    blocks, groups = n // COLUMNS, fmt.pad_k(k) // fmt.group
    size = fmt.group // CELL_K[fmt.kind] * CELL_BYTES
    stream = data.reshape(blocks, fmt.block_bytes(k))
    minima = None
    if fmt.asymmetric:
        parts = stream.reshape(blocks, groups, size + CELL_BYTES)
        cells, scales = parts[..., :size], parts[..., size : size + _HALF_LINE]
        minima = _from_half_lines(parts[..., size + _HALF_LINE :])
    else:
        cells, scales = _split_pairs(stream, groups, size)
    q = cells.reshape(blocks, groups, -1, COLUMNS, 4)
    if fmt.kind is Kind.W4:
        q = np.concatenate([q & np.uint8(15), q >> np.uint8(4)], axis=-1)
    values = np.ascontiguousarray(q.transpose(0, 3, 1, 2, 4)).reshape(n, fmt.pad_k(k))
    return Integers(values, _from_half_lines(scales), minima)


def to_stored(fmt: Format, w: F32) -> Stored:
    """`w` rounded to the numbers of an unquantized format; too large becomes infinite."""
    if fmt.kind is Kind.BF16:
        return to_bf16(w)
    with np.errstate(over="ignore"):
        return w.astype(_STORED[fmt.kind], copy=False)


def from_stored(fmt: Format, stored: Stored) -> F32:
    """The fp32 numbers that `stored` stands for."""
    return from_bf16(stored) if fmt.kind is Kind.BF16 else stored.astype(np.float32, copy=False)


def to_float_cells(fmt: Format, stored: Stored) -> U8:
    """The cells of `stored` (n, k), n a multiple of 16 and k of a cell's, as flat bytes."""
    n, k = stored.shape
    cells = stored.reshape(n // COLUMNS, COLUMNS, k // CELL_K[fmt.kind], CELL_K[fmt.kind])
    order = (0, 2, 1, 3) if fmt.kind is Kind.BF16 else (0, 2, 3, 1)
    return np.ascontiguousarray(cells.transpose(order)).view(np.uint8).reshape(-1)


def from_float_cells(fmt: Format, k: int, n: int, data: U8) -> Stored:
    """The exact inverse of `to_float_cells`: (n, padded k)."""
    each, padded = CELL_K[fmt.kind], fmt.pad_k(k)
    shape = (COLUMNS, each) if fmt.kind is Kind.BF16 else (each, COLUMNS)
    numbers = np.ascontiguousarray(data).view(_STORED[fmt.kind])
    cells = numbers.reshape(n // COLUMNS, padded // each, *shape)
    order = (0, 2, 1, 3) if fmt.kind is Kind.BF16 else (0, 3, 1, 2)
    return np.ascontiguousarray(cells.transpose(order)).reshape(n, padded)


def _half_lines(numbers: F16) -> U8:
    """(n, groups) f16 as (blocks, groups, 32) bytes: 16 columns of one group together."""
    n, groups = numbers.shape
    by_group = numbers.reshape(n // COLUMNS, COLUMNS, groups).transpose(0, 2, 1)
    return np.ascontiguousarray(by_group, "<f2").view(np.uint8)


def _from_half_lines(lines: U8) -> F16:
    blocks, groups, _ = lines.shape
    by_column = np.ascontiguousarray(lines).view("<f2").transpose(0, 2, 1)
    return np.ascontiguousarray(by_column, np.float16).reshape(blocks * COLUMNS, groups)


def _join_pairs(cells: U8, lines: U8) -> U8:
    """(blocks, stream) of [two groups' cells, their line of scales]."""
    blocks, groups, size = cells.shape
    pairs, odd = divmod(groups, 2)
    stream = np.concatenate(
        [
            cells[:, : 2 * pairs].reshape(blocks, pairs, 2 * size),
            lines[:, : 2 * pairs].reshape(blocks, pairs, CELL_BYTES),
        ],
        axis=2,
    ).reshape(blocks, pairs * (2 * size + CELL_BYTES))
    if not odd:
        return stream
    blank = np.zeros((blocks, _HALF_LINE), np.uint8)
    return np.concatenate([stream, cells[:, -1], lines[:, -1], blank], axis=1)


def _split_pairs(stream: U8, groups: int, size: int) -> tuple[U8, U8]:
    """Cells (blocks, groups, size) and half lines (blocks, groups, 32) of joined pairs."""
    blocks = stream.shape[0]
    pairs, odd = divmod(groups, 2)
    each = 2 * size + CELL_BYTES
    body = stream[:, : pairs * each].reshape(blocks, pairs, each)
    cells = body[..., : 2 * size].reshape(blocks, 2 * pairs, size)
    lines = body[..., 2 * size :].reshape(blocks, 2 * pairs, _HALF_LINE)
    if not odd:
        return cells, lines
    tail = stream[:, None, pairs * each :]
    return (
        np.concatenate([cells, tail[..., :size]], axis=1),
        np.concatenate([lines, tail[..., size : size + _HALF_LINE]], axis=1),
    )
