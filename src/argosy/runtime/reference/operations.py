"""The operations of a program on float64 rows, rounded only where a format stores them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.cells import from_bf16, to_bf16
from argosy.model.formats import Format, Kind
from argosy.model.program import Rope

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


W4_INPUT_GROUP = 128
"""k per scale of the inputs of w4, whatever its own groups."""


def as_input(x: F64, fmt: Format) -> F64:
    """Rows `x` (N, k) as a linear over weights of `fmt` sees them.

    Over w8 and w4: s8 integers, q = rint(x * (127 / absmax)), with one fp32 scale per group of the
    weights (w8) or per 128 k (w4). Over bf16: bf16. Over fp16 and fp32: fp32.
    """
    rows = x.astype(np.float32)
    if fmt.kind is Kind.BF16:
        return from_bf16(to_bf16(rows)).astype(np.float64)
    if not fmt.quantized:
        return rows.astype(np.float64)
    n, k = rows.shape
    size = fmt.group if fmt.kind is Kind.W8 else W4_INPUT_GROUP
    groups = np.pad(rows, ((0, 0), (0, -k % size))).reshape(n, -1, size)
    return as_int8(groups).reshape(n, -1)[:, :k]


def as_int8(x: F32) -> F64:
    """`x` rounded to s8 integers with one fp32 scale for the last axis, as numbers again."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    # Below 2^-100 all are zero: the reciprocal would overflow.
    inverse = np.where(largest < 2.0**-100, 0, np.float32(127) / np.maximum(largest, 2.0**-100))
    scale = (largest / np.float32(127)).astype(np.float64)
    read: F64 = np.rint(x * inverse) * scale
    return read


def rms_norm(x: F64, weight: F64, eps: float) -> F64:
    """x / rms(x) * weight over the last axis. Source: arXiv:1910.07467."""
    rms: F64 = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return x / rms * weight


def silu(x: F64) -> F64:
    """x * sigmoid(x). Source: Elfwing et al. 2017, arXiv:1702.03118."""
    y: F64 = x / (1 + np.exp(-x))
    return y


def rotate(x: F64, positions: I32, rope: Rope) -> F64:
    """Turn the first `rope.dim` lanes of heads `x` (N, heads, dim) by their positions (N,).

    Angles are fp32 products of position and frequency, as in transformers.
    """
    inv_freq = np.array(rope.inv_freq, np.float32)
    angles = (positions.astype(np.float32)[:, None] * inv_freq).astype(np.float64)[:, None]
    cosine, sine = np.cos(angles) * rope.scale, np.sin(angles) * rope.scale
    half = rope.dim // 2
    a, b = x[..., :half], x[..., half : rope.dim]
    turned = [a * cosine - b * sine, b * cosine + a * sine, x[..., rope.dim :]]
    return np.concatenate(turned, axis=-1)


def attend(q: F64, keys: F64, values: F64, scale: float) -> F64:
    """One query's heads (heads, dim) over keys and values (T, kv heads, dim), each head its own.

    Query head i reads kv head i // (heads / kv heads). Source: arXiv:1706.03762, 2305.13245.
    """
    group = q.shape[0] // keys.shape[1]
    out = np.empty_like(q)
    for head, query in enumerate(q):
        scores = keys[:, head // group] @ query * scale
        weights = np.exp(scores - scores.max())
        out[head] = weights / weights.sum() @ values[:, head // group]
    return out
