"""The runtime `engine` talks to: checks a batch, gives C++ the arrays to fill, reads errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from argosy.errors import ConfigError, UnsupportedParameter
from argosy.runtime.native import _core
from argosy.runtime.native.lower import Weights, lower
from argosy.types import Batch, Result, RowError

if TYPE_CHECKING:
    from argosy.types import F32, I32, U8, U64

_STATUS = (None, RowError.NONFINITE, RowError.NO_TOKEN)
_NOT_SERVED = ("token_is_row", "token_rows", "ancestors", "adapters", "embeddings")


def variants() -> list[str]:
    """Kernel variants this processor runs, best first."""
    return _core.variants()


@dataclass(frozen=True, slots=True)
class _Arrays:
    """What one step fills; N rows, H head rows, L alternatives at most."""

    row_nonfinite: U8
    head_status: U8
    tokens: I32
    rank: I32
    top_ids: I32
    logprob: F32
    top_logprobs: F32
    logits: F32 | None


@dataclass(frozen=True, slots=True)
class _Done:
    """A step that is over."""

    value: Result

    def result(self) -> Result:
        return self.value


class NativeRuntime:
    """Executes a bundle's program on the CPU's own kernels.

    num_pages: pages of each cache group, the null page included.  cache_dtype: fp32, bf16 or int8.
    isa: a name from `variants()`; empty takes the best.  keep_logits: results carry raw logits.
    """

    name = "native"

    def __init__(
        self,
        bundle: Weights,
        *,
        num_pages: tuple[int, ...],
        cache_dtype: str,
        num_threads: int,
        keep_logits: bool = False,
        isa: str = "",
    ) -> None:
        self._core = _open_core(num_threads, isa)
        lower(bundle, self._core, num_pages, cache_dtype)
        self._matrices = tuple(bundle.program.matrices)
        self._vocab_size = bundle.program.vocab_size
        self._keep_logits = keep_logits

    @property
    def isa(self) -> str:
        """The kernel variant in use."""
        return self._core.isa

    def submit(self, batch: Batch) -> _Done:
        """Run one step to its end. Raises UnsupportedParameter for parts of a batch not served."""
        for part in _NOT_SERVED:
            if getattr(batch, part) is not None:
                raise UnsupportedParameter(
                    f"the native runtime does not serve {part}; leave it None"
                )
        if batch.program != "main" or batch.positions.shape[0] != 1:
            raise UnsupportedParameter(
                "the native runtime serves one program and one position axis"
            )
        arrays = self._arrays(batch)
        self._core.step(batch, arrays)
        head = batch.head
        return _Done(
            Result(
                head.starts,
                arrays.tokens,
                arrays.logprob,
                arrays.rank,
                arrays.top_ids,
                arrays.top_logprobs,
                _errors(batch, arrays),
                arrays.logits,
            )
        )

    def watch(self, heartbeat: U64) -> None:
        """Count heartbeat[0], of (1,) u64, up at every operation of a step and page copied."""
        self._core.watch(heartbeat)

    def profile(self) -> None:
        """From now on, tell `times` where steps spend theirs."""
        self._core.profile()

    def times(self) -> dict[str, tuple[float, float]]:
        """Of each operation, layers together: seconds of its work, and of waiting at its end.

        As the caller's thread saw it, since `profile`. Products go by their matrix: "qkv", "head".
        """
        found: dict[str, tuple[float, float]] = {}
        for operation, matrix, work, wait in self._core.times():
            name = operation if matrix < 0 else self._matrices[matrix].rpartition(".")[2]
            before = found.get(name, (0.0, 0.0))
            found[name] = (before[0] + work, before[1] + wait)
        return found

    def close(self) -> None:
        """Give threads, pages and the mapping of the weights back."""
        del self._core

    def _arrays(self, batch: Batch) -> _Arrays:
        heads = len(batch.head.rows)
        wanted = int((batch.head.logprobs * batch.head.want_logprobs).max(initial=0))
        return _Arrays(
            row_nonfinite=np.zeros(len(batch.tokens), np.uint8),
            head_status=np.zeros(heads, np.uint8),
            tokens=np.zeros(heads, np.int32),
            rank=np.zeros(heads, np.int32),
            top_ids=np.zeros((heads, wanted), np.int32),
            logprob=np.zeros(heads, np.float32),
            top_logprobs=np.zeros((heads, wanted), np.float32),
            logits=np.zeros((heads, self._vocab_size), np.float32) if self._keep_logits else None,
        )


def _open_core(num_threads: int, isa: str) -> _core.Program:
    try:
        return _core.Program(num_threads, isa)
    except RuntimeError as exc:
        raise ConfigError(
            f"the system gives no {num_threads} threads ({exc}); set num_threads to fewer"
        ) from exc


def _errors(batch: Batch, arrays: _Arrays) -> dict[int, RowError]:
    """Why sequences failed: a key or value, or a logit, that is not finite; or nothing to draw."""
    errors: dict[int, RowError] = {}
    for h in np.flatnonzero(arrays.head_status):
        sequence = int(np.searchsorted(batch.head.starts, h, side="right")) - 1
        error = _STATUS[arrays.head_status[h]]
        assert error is not None
        errors[sequence] = error
    for row in np.flatnonzero(arrays.row_nonfinite):
        sequence = int(np.searchsorted(batch.row_starts, row, side="right")) - 1
        errors[sequence] = RowError.NONFINITE
    return errors
