"""Executes a program one operation at a time, all rows of it, in NumPy.

Rows are float64 between operations: rounding happens only where a format stores a number (weights,
inputs of quantized and bf16 linears, the cache, logits), so what other runtimes lose in between
shows as their difference from this one. The weights' own formats decide, there is no other dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.pack import unpack_matrix
from argosy.errors import UnsupportedParameter
from argosy.model.formats import COLUMNS
from argosy.model.program import Attention, Embed, Head, Linear, Matrix, Norm, Op, Program, Qkv
from argosy.runtime.reference.cache import Pages
from argosy.runtime.reference.operations import as_input, attend, rms_norm, rotate, silu
from argosy.runtime.reference.sampling import sample_rows
from argosy.types import Batch, Result, RowError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

_NOT_SERVED = ("token_is_row", "token_rows", "ancestors", "adapters", "embeddings")


class Weights(Protocol):
    """What a runtime needs of a bundle."""

    @property
    def program(self) -> Program:
        """The program to execute."""
        ...

    def matrix(self, name: str) -> U8:
        """The packed bytes of a matrix."""
        ...

    def vector(self, name: str) -> F32:
        """The numbers of a vector."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """A step that is done when it is submitted."""

    outcome: Result

    def result(self) -> Result:
        """What the step gave."""
        return self.outcome


@dataclass(slots=True)
class _Step:
    """A step under way: its activations, and which rows' keys and values are finite so far."""

    batch: Batch
    rows: dict[str, F64]
    finite: NDArray[np.bool_]

    def errors(self) -> dict[int, RowError]:
        starts = self.batch.row_starts
        failed = [
            b for b in range(len(starts) - 1) if not self.finite[starts[b] : starts[b + 1]].all()
        ]
        return dict.fromkeys(failed, RowError.NONFINITE)


class ReferenceRuntime:
    """The plain twin of every other runtime; keeps all weights as fp32."""

    name = "reference"

    def __init__(
        self,
        bundle: Weights,
        *,
        num_pages: tuple[int, ...],
        cache_dtype: str,
        keep_logits: bool = False,
        heartbeat: U64 | None = None,
    ) -> None:
        """Read the weights of `bundle` and make the pages.

        num_pages: pages of each cache group, the null page included.
        cache_dtype: fp32, bf16 or int8.
        keep_logits: results carry the raw logits.  heartbeat: as in `watch`, from here on.
        """
        self._heartbeat = np.zeros(1, np.uint64) if heartbeat is None else heartbeat
        self._program = program = bundle.program
        self._columns = {}
        for name, matrix in program.matrices.items():
            self._columns[name] = unpack_matrix(matrix, bundle.matrix(name))
            self._beat()
        self._vectors = {
            name: bundle.vector(name).astype(np.float64) + vector.offset
            for name, vector in program.vectors.items()
        }
        self._pages = Pages(program.caches, num_pages, cache_dtype)
        self._keep_logits = keep_logits

    def submit(self, batch: Batch) -> Finished:
        """Execute one step. Raises UnsupportedParameter for a part of `batch` it does not serve."""
        _check_served(batch)
        self._pages.copy(batch.copies)
        self._beat()
        step = _Step(batch, {}, np.ones(len(batch.tokens), np.bool_))
        with np.errstate(all="ignore"):  # NaN is its sequence's own matter, reported as an error
            for op in self._program.ops:
                self._execute(op, step)
                self._beat()
            logits = self._logits(self._program.head(), step)
            result = sample_rows(logits, batch.head)
        errors = result.errors | step.errors()
        return Finished(
            replace(result, errors=errors, logits=logits if self._keep_logits else None)
        )

    def watch(self, heartbeat: U64) -> None:
        """Count heartbeat[0], of (1,) u64, up at every operation of a step."""
        self._heartbeat = heartbeat

    def _beat(self) -> None:
        self._heartbeat[0] += np.uint64(1)

    def close(self) -> None:
        """Forget the weights and pages."""
        self._columns.clear()
        self._vectors.clear()

    def _execute(self, op: Op, step: _Step) -> None:
        rows = step.rows
        match op:
            case Embed():
                (table,) = self._columns[op.weight]
                rows[op.out] = table[step.batch.tokens].astype(np.float64)
            case Norm():
                rows[op.out] = rms_norm(rows[op.x], self._vectors[op.weight], op.eps)
            case Linear():
                y = self._linear(op, rows[op.x])
                rows[op.out] = rows[op.out] + y if op.residual else y
            case Qkv():
                rows[op.out] = self._qkv(op, step)
            case Attention():
                rows[op.out] = self._attention(op, rows[op.q], step.batch)
            case Head():
                pass  # after the program, on the rows that are wanted

    def _product(self, x: F64, weight: str, bias: str | None) -> list[F64]:
        """x @ weight + bias, segment by segment, without the padding."""
        matrix = self._program.matrices[weight]
        inputs = as_input(x, matrix.format)
        parts = [inputs @ columns.T.astype(np.float64) for columns in self._columns[weight]]
        if bias is None:
            return parts
        shifts = split_columns(matrix, self._vectors[bias])
        return [y + shift for y, shift in zip(parts, shifts, strict=True)]

    def _linear(self, op: Linear, x: F64) -> F64:
        parts = self._product(x, op.weight, op.bias)
        if op.activation == "silu_gated":
            gate, up = parts
            return silu(gate) * up
        return np.concatenate(parts, axis=1)

    def _qkv(self, op: Qkv, step: _Step) -> F64:
        x, positions = step.rows[op.x], step.batch.positions[0]
        q, k, v = (
            part.reshape(len(x), -1, op.head_dim) for part in self._product(x, op.weight, op.bias)
        )
        if op.q_norm is not None:
            q = rms_norm(q, self._vectors[op.q_norm], op.eps)
        if op.k_norm is not None:
            k = rms_norm(k, self._vectors[op.k_norm], op.eps)
        slots = step.batch.slots[self._pages.group_of(op.layer)]
        step.finite &= self._pages.write(op.layer, slots, rotate(k, positions, op.rope), v)
        return rotate(q, positions, op.rope).reshape(len(x), -1)

    def _attention(self, op: Attention, q: F64, batch: Batch) -> F64:
        """Each row over the tokens of its own sequence up to itself, read from the pages."""
        out = np.empty((len(q), op.num_heads * op.head_dim))
        tables = batch.page_tables[self._pages.group_of(op.layer)]
        for b, length in enumerate(batch.lengths):
            start, end = batch.row_starts[b], batch.row_starts[b + 1]
            for row in range(start, end):
                last = int(length) - int(end - row) + 1
                first = 0 if op.window is None else max(0, last - op.window)
                keys, values = self._pages.read(op.layer, tables[b], first, last)
                heads = self._pages.as_query(q[row].reshape(op.num_heads, op.head_dim))
                out[row] = attend(heads, keys, values, op.scale).reshape(-1)
        return out

    def _logits(self, op: Head, step: _Step) -> F32:
        """Logits (H, V) of the rows that are wanted."""
        wanted = step.rows[op.x][step.batch.head.rows]
        (logits,) = self._product(wanted, op.weight, op.bias)
        return logits.astype(np.float32)[:, : self._program.vocab_size]


def _check_served(batch: Batch) -> None:
    for part in _NOT_SERVED:
        if getattr(batch, part) is not None:
            raise UnsupportedParameter(
                f"the reference runtime does not serve Batch.{part}; leave it None"
            )
    if batch.program != "main" or len(batch.positions) != 1:
        raise UnsupportedParameter(
            "the reference runtime serves one program and one position axis; "
            f"program={batch.program!r} with {len(batch.positions)} axes is neither"
        )


def split_columns(matrix: Matrix, stored: F64) -> list[F64]:
    """A vector in the order of a matrix' stored columns, by segment and without the padding."""
    if matrix.interleaved:
        parts = list(stored.reshape(-1, len(matrix.segments), COLUMNS).transpose(1, 0, 2))
        stored = np.concatenate([part.reshape(-1) for part in parts])
    ends = np.cumsum([s.padded for s in matrix.segments])
    parts = np.split(stored, ends[:-1])
    return [part[: s.cols] for part, s in zip(parts, matrix.segments, strict=True)]
