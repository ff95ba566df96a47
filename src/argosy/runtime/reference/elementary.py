"""exp, log and the noise of a draw, operation by operation as in native/math.h.

Every step is one fp32 (or integer) operation without fused multiply-adds, so the two give the same
bits, and a draw of the plain sampler is the draw of every runtime that uses the same formulas. The
header explains them and names their sources.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = 2**64 - 1
_EXP = ("0x1.6a2430p-10", "0x1.1239e4p-7", "0x1.5558f2p-5", "0x1.555492p-3", "0x1.fffffcp-2")
_LOG = (
    "-0x1.38b4ccp-4",
    "0x1.055b46p-3",
    "-0x1.0d8552p-3",
    "0x1.22da22p-3",
    "-0x1.547244p-3",
    "0x1.99a008p-3",
    "-0x1.000228p-2",
    "0x1.555554p-2",
)
_LN2_HIGH = np.float32(float.fromhex("0x1.62e4p-1"))
_LN2_LOW = np.float32(float.fromhex("0x1.7f7d1cp-20"))
_LOG2_E = np.float32(1.44269504)
_MAGIC = np.float32(12582912 + 126)
_SMALLEST_NORMAL = np.float32(2.0**-126)
_BELOW_ONE = np.float32(1 - 2.0**-24)


def exp(x: F32) -> F32:
    """e ** x in fp32, at most 1 ulp off; 0 below -86.99 and +inf above 88.72."""
    with np.errstate(over="ignore", invalid="ignore"):
        t = np.where(x < np.float32(-87.5), np.float32(-87.5), x)
        t = np.where(t > np.float32(89), np.float32(89), t)
        shifted = t * _LOG2_E + _MAGIC
        n = shifted - _MAGIC
        r = (t - n * _LN2_HIGH) - n * _LN2_LOW
        p = (r + (r * r) * _horner(_EXP, r)) + np.float32(1)
        scale = (shifted.view(np.uint32) << np.uint32(23)).view(np.float32)
        y: F32 = (p + p) * scale
    return y


def log(x: F32) -> F32:
    """Natural logarithm in fp32, at most 1 ulp off; -inf for zeros and denormals, NaN below."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    exponent = (bits - np.uint32(0x3F3504F3)) & np.uint32(0xFF800000)
    e = (exponent.view(np.int32) >> 23).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        f = (bits - exponent).view(np.float32) - np.float32(1)
        square = f * f
        small = ((f * square) * _horner(_LOG, f) + e * _LN2_LOW) - np.float32(0.5) * square
        y = (f + small) + e * _LN2_HIGH
    y = np.where(x == np.inf, x, y)
    y = np.where(x < _SMALLEST_NORMAL, np.float32(-np.inf), y)
    y = np.where(x < 0, np.float32(np.nan), y)
    return np.where(np.isnan(x), x, y)


def gumbel(seed: int, position: int, ids: NDArray[np.int32]) -> F32:
    """Standard Gumbel noise of (seed, position, token id), fp32, one number per id."""
    return gumbel_of_hash(gumbel_hash(gumbel_key(seed, position), ids))


def gumbel_key(seed: int, position: int) -> int:
    """The 64-bit key of a row: two splitmix64 finalisers over seed and position."""
    return _mix64((_mix64((seed + _GOLDEN) & _MASK64) + _GOLDEN * (position + 1)) & _MASK64)


def gumbel_hash(key: int, ids: NDArray[np.int32]) -> U32:
    """32 well mixed bits per id: triple32 with the key's halves as its seeds."""
    h = ids.astype(np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    h ^= h >> np.uint32(17)
    h *= np.uint32(0xED5AD4BB)
    h += np.uint32(key >> 32)
    h ^= h >> np.uint32(11)
    h *= np.uint32(0xAC4C1B51)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x31848BAB)
    return h ^ (h >> np.uint32(14))


def gumbel_of_hash(h: U32) -> F32:
    """-log(-log1p(-w)) with w uniform in (0, 1): small w, the large noise, keep 24 bits."""
    w = ((h >> np.uint32(1)).astype(np.int32).astype(np.float32) + np.float32(0.5)) * np.float32(
        2.0**-31
    )
    w = np.minimum(w, _BELOW_ONE)
    u = np.float32(1) - w
    lost = (np.float32(1) - u) - w
    return -log(-(log(u) + lost / u))


def _horner(coefficients: tuple[str, ...], x: F32) -> F32:
    """The polynomial with `coefficients`, highest power first."""
    q = np.full_like(x, float.fromhex(coefficients[0]))
    for coefficient in coefficients[1:]:
        q = q * x + np.float32(float.fromhex(coefficient))
    return q


def _mix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)
