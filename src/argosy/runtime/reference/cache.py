"""Keys and values of the reference runtime, in pages, as plain arrays.

A page that was never written holds NaN: a read of what nobody stored shows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.cells import from_bf16, to_bf16
from argosy.model.program import CacheGroup
from argosy.runtime.reference.operations import as_int8
from argosy.types import PAGE_TOKENS

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Bools = NDArray[np.bool_]


ROUND: dict[str, Callable[[F32], F64]] = {
    "fp32": lambda x: x.astype(np.float64),
    "bf16": lambda x: from_bf16(to_bf16(x)).astype(np.float64),
    "int8": as_int8,
}
"""What each format of the cache makes of numbers; over the last axis, a head."""


class Pages:
    """All cache groups' keys and values; only `write` and `copy` change them."""

    def __init__(
        self, groups: Sequence[CacheGroup], num_pages: Sequence[int], cache_dtype: str
    ) -> None:
        """Pages for `groups`, num_pages[g] of each; cache_dtype fp32, bf16 or int8."""
        self._round = ROUND[cache_dtype]
        self._group_of = {layer: g for g, group in enumerate(groups) for layer in group.layers}
        self._stored: dict[int, F64] = {}
        for group, pages in zip(groups, num_pages, strict=True):
            shape = (pages, PAGE_TOKENS, 2, group.num_kv_heads, group.head_dim)
            for layer in group.layers:
                self._stored[layer] = np.full(shape, np.nan)

    def group_of(self, layer: int) -> int:
        """The cache group that holds `layer`."""
        return self._group_of[layer]

    def write(self, layer: int, slots: I32, keys: F64, values: F64) -> Bools:
        """Store keys and values (N, kv heads, dim) at `slots` (N,), rounded to the cache's format.

        Returns (N,) bool, whether all of a row's numbers are finite as stored.
        """
        both = np.stack([keys, values], axis=1).astype(np.float32)
        page, token = np.divmod(slots, PAGE_TOKENS)
        stored = self._round(both)
        self._stored[layer][page, token] = stored
        return np.asarray(np.isfinite(stored).all(axis=(1, 2, 3)))

    def read(self, layer: int, table: I32, first: int, last: int) -> tuple[F64, F64]:
        """Keys and values (last - first, kv heads, dim) of a sequence's tokens [first, last)."""
        tokens = np.arange(first, last)
        both = self._stored[layer][table[tokens // PAGE_TOKENS], tokens % PAGE_TOKENS]
        return both[:, 0], both[:, 1]

    def as_query(self, heads: F64) -> F64:
        """Queries (heads, dim) as stored keys meet them: over int8 they are rounded likewise."""
        return as_int8(heads.astype(np.float32)) if self._round is as_int8 else heads

    def copy(self, copies: Sequence[I32]) -> None:
        """Copy whole pages, copies[g] (C, 2) from and to, in order, in all layers of group g."""
        for layer, stored in self._stored.items():
            for source, target in copies[self._group_of[layer]]:
                stored[target] = stored[source]
