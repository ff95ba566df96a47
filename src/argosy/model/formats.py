"""Number formats of weights and caches: names, bits, cells. Data, no array library.

A matrix is stored in 64-byte *cells* of 16 columns (docs/reference/bundle-format.md):

    fp32  1 k x 16 columns          fp16  2 k x [16 columns]        bf16  16 columns x [2 k]
    w8    16 columns x [4 k]        w4    16 columns x [low nibbles k0..k3, high nibbles k4..k7]
"""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec import Struct

from argosy.errors import ConfigError

COLUMNS = 16
"""Columns of a cell, and of a column block."""

CELL_BYTES = 64


class Kind(StrEnum):
    """Families of weight formats."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    W8 = "w8"
    W4 = "w4"


CELL_K = {Kind.FP32: 1, Kind.FP16: 2, Kind.BF16: 2, Kind.W8: 4, Kind.W4: 8}
"""How many k (rows of the transposed weight) one cell holds."""

GROUPS = {Kind.W8: (32, 64, 128), Kind.W4: (32, 64, 128)}
_DEFAULT_GROUP = 32


class Format(Struct, frozen=True):
    """How one matrix is stored: a family; for w4 and w8 the k per scale; whether it has minima."""

    kind: Kind
    group: int = 0
    asymmetric: bool = False

    @property
    def quantized(self) -> bool:
        """Whether weights are integers with scales."""
        return self.kind in GROUPS

    @property
    def k_multiple(self) -> int:
        """K is padded with zeros to a multiple of this."""
        return self.group if self.quantized else CELL_K[self.kind]

    def pad_k(self, k: int) -> int:
        """`k` padded to a whole group or cell."""
        return -(-k // self.k_multiple) * self.k_multiple

    def block_bytes(self, k: int) -> int:
        """Bytes of one block of 16 columns with `k` rows, scales included.

        w4 and w8: groups are followed by 64-byte lines of fp16: symmetric, one line after every
        two groups (16 scales of the first, 16 of the second; the last may be half used);
        asymmetric, one line after every group (16 scales, 16 minima).
        """
        padded = self.pad_k(k)
        cells = padded // CELL_K[self.kind] * CELL_BYTES
        if not self.quantized:
            return cells
        groups = padded // self.group
        return cells + CELL_BYTES * (groups if self.asymmetric else -(-groups // 2))

    def matrix_bytes(self, k: int, n: int) -> int:
        """Bytes of a matrix of `n` columns (a multiple of 16) and `k` rows."""
        return n // COLUMNS * self.block_bytes(k)

    def __str__(self) -> str:
        if not self.quantized:
            return str(self.kind)
        return f"{self.kind}g{self.group}{'z' if self.asymmetric else ''}"


def parse_format(text: str) -> Format:
    """A format by name: fp32, fp16, bf16, w8, w4, w4g64, w4g128z (z: with zero points).

    Raises ConfigError for a name that is none of them.
    """
    name = _ALIASES.get(text, text)
    match = re.fullmatch(r"(fp32|fp16|bf16)|(w[48])(?:g(\d{1,3}))?(z)?", name)
    if match is None:
        raise ConfigError(
            f"weight format {text!r} is unknown; choose fp32, fp16, bf16, w8 or w4, with g32, g64 "
            "or g128 for the group and z for zero points, as in w4g64z"
        )
    if match[1]:
        return Format(Kind(match[1]))
    kind, group = Kind(match[2]), int(match[3] or _DEFAULT_GROUP)
    if group not in GROUPS[kind]:
        raise ConfigError(f"group {group} of {text!r} is not one of {GROUPS[kind]}")
    if match[4] and kind is Kind.W8:
        raise ConfigError(f"{text!r}: w8 is symmetric; drop the z")
    return Format(kind, group, bool(match[4]))


_ALIASES = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
}


class CacheFormat(Struct, frozen=True):
    """Bytes of a number of a key or value, and of the scale of one head's key or value."""

    element_bytes: int
    scale_bytes: int = 0


CACHE_DTYPES = {"fp32": CacheFormat(4), "bf16": CacheFormat(2), "int8": CacheFormat(1, 4)}
"""Formats of cached keys and values. int8: a fp32 scale for each token's key, and value, of a head;
the query is rounded likewise when it meets them."""


def parse_cache_dtype(text: str) -> str:
    """A cache format by name or alias. Raises ConfigError for one that is not served."""
    name = _ALIASES.get(text, text)
    if name not in CACHE_DTYPES:
        served = ", ".join(CACHE_DTYPES)
        raise ConfigError(f"kv_cache_dtype={text!r} is not served; choose auto, {served}")
    return name


AUTO_DTYPE: dict[str, dict[str, tuple[str, str]]] = {
    # device -> dtype of the checkpoint -> (weights and activations, cache)
    "cpu": {"fp32": ("fp32", "fp32"), "fp16": ("fp16", "bf16"), "bf16": ("bf16", "bf16")},
}
"""What dtype "auto" picks: the checkpoint's own. Quantized weights keep an int8 cache."""


def parse_dtype(text: str) -> str:
    """The name "auto", or fp32, fp16, bf16 from any usual name. Raises ConfigError otherwise."""
    name = _ALIASES.get(text, text)
    if name not in ("auto", "fp32", "fp16", "bf16"):
        raise ConfigError(f"dtype={text!r} is unknown; choose auto, float32, float16 or bfloat16")
    return name
