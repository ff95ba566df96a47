"""From a Program to the instructions of the C++ executor.

Each matrix reads its input in its own format (bf16, or integers with scales). Who makes that form
is decided here: a norm prepares its own rows; a gated product of many rows its own columns;
anything else is prepared in a pass of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from argosy.model.formats import COLUMNS, Format, Kind
from argosy.model.program import Attention, Embed, Head, Linear, Norm, Op, Program, Qkv, Rope

if TYPE_CHECKING:
    from argosy.runtime.native import _core
    from argosy.types import F32, U8

KINDS = {Kind.FP32: 0, Kind.FP16: 1, Kind.BF16: 2, Kind.W8: 3, Kind.W4: 4}
CACHE_KINDS = {"fp32": 0, "bf16": 1, "int8": 2}


class Weights(Protocol):
    """What lowering needs of a bundle."""

    @property
    def program(self) -> Program:
        """The logical program."""
        ...

    def matrix(self, name: str) -> U8:
        """Packed bytes of a matrix."""
        ...

    def vector(self, name: str) -> F32:
        """Numbers of a vector."""
        ...


def lower(
    weights: Weights, core: _core.Program, num_pages: tuple[int, ...], cache_dtype: str
) -> None:
    """Build `weights.program` in `core`, which keeps the arrays it points into alive.

    num_pages: pages of each cache group, the null page included.
    """
    lowering = _Lowering(weights, core, num_pages, cache_dtype)
    for place, op in enumerate(weights.program.ops):
        lowering.lower(op, place)


class _Lowering:
    def __init__(
        self, weights: Weights, core: _core.Program, num_pages: tuple[int, ...], cache_dtype: str
    ) -> None:
        self.program = program = weights.program
        self.weights = weights
        self.core = core
        self.buffers = {name: core.buffer(width) for name, width in program.widths.items()}
        self.matrices = {m.name: self._matrix(m.name) for m in program.matrices.values()}
        self.inputs: dict[tuple[str, Format], int] = {}
        self.rotations: dict[Rope, int] = {}
        self.normed: set[str] = set()  # activations last written by a norm, hence prepared
        self.fused: set[str] = set()  # gated products that become inputs at once
        self.cache_of = {
            layer: (g, i)
            for g, group in enumerate(program.caches)
            for i, layer in enumerate(group.layers)
        }
        for group, pages in zip(program.caches, num_pages, strict=True):
            core.cache_group(
                len(group.layers),
                group.num_kv_heads,
                group.head_dim,
                CACHE_KINDS[cache_dtype],
                pages,
            )

    def lower(self, op: Op, place: int) -> None:
        """Append the instructions of the operation at `place`."""
        match op:
            case Embed():
                self.core.embed(self.matrices[op.weight], self.buffers[op.out])
            case Norm():
                self._norm(op, place)
            case Linear():
                inputs = self._prepared(op.x, op.weight)
                gated = op.activation == "silu_gated"
                self.core.linear(
                    inputs,
                    self.matrices[op.weight],
                    self.buffers[op.out],
                    self._bias(op.bias),
                    op.residual,
                    gated,
                    self._into(op, place) if gated else -1,
                )
            case Qkv():
                self._qkv(op)
            case Attention():
                group, layer = self.cache_of[op.layer]
                self.core.attention(
                    self.buffers[op.q],
                    self.buffers[op.out],
                    group,
                    layer,
                    op.num_heads,
                    op.scale,
                    op.window or 0,
                )
            case Head():
                # The head gathers and prepares its own rows; only the buffer is made here.
                inputs = self._inputs(op.x, self.program.matrices[op.weight].format)
                self.core.head(
                    self.buffers[op.x],
                    inputs,
                    self.matrices[op.weight],
                    self._bias(op.bias),
                    self.program.vocab_size,
                )
                return
        (self.normed.add if isinstance(op, Norm) else self.normed.discard)(op.out)

    def _matrix(self, name: str) -> int:
        matrix, data = self.program.matrices[name], self.weights.matrix(name)
        f = matrix.format
        return self.core.matrix(
            data, KINDS[f.kind], f.group, f.asymmetric, matrix.k, matrix.n // COLUMNS
        )

    def _vector(self, name: str) -> int:
        data = np.ascontiguousarray(self.weights.vector(name), np.float32)
        if offset := self.program.vectors[name].offset:
            data = data + np.float32(offset)
        return self.core.vector(data)

    def _bias(self, name: str | None) -> int:
        if name is None:
            return -1
        vector = self.program.vectors[name]
        data = np.zeros(sum(s.padded for s in vector.segments), np.float32)
        stored = self.weights.vector(name)
        data[: stored.size] = stored
        return self.core.vector(data)

    def _inputs(self, x: str, fmt: Format) -> int:
        key = (x, fmt)
        if key not in self.inputs:
            self.inputs[key] = self.core.inputs(
                self.program.widths[x], KINDS[fmt.kind], fmt.group, fmt.asymmetric
            )
        return self.inputs[key]

    def _prepared(self, x: str, weight: str) -> int:
        inputs = self._inputs(x, self.program.matrices[weight].format)
        if x not in self.normed:
            self.core.prepare(self.buffers[x], inputs, x in self.fused)
        return inputs

    def _into(self, op: Linear, place: int) -> int:
        """The inputs that a gated product is for, where there is one kind of them; else -1."""
        users = self._users(op.out, place + 1)
        formats = {self.program.matrices[user.weight].format for user in users}
        if len(formats) != 1:
            return -1
        self.fused.add(op.out)
        return self._inputs(op.out, formats.pop())

    def _norm(self, op: Norm, place: int) -> None:
        formats = dict.fromkeys(
            self.program.matrices[user.weight].format for user in self._users(op.out, place + 1)
        )
        self.core.norm(
            self.buffers[op.x],
            self.buffers[op.out],
            self._vector(op.weight),
            op.eps,
            [self._inputs(op.out, f) for f in formats],
        )

    def _users(self, x: str, first: int) -> list[Linear | Qkv]:
        """Matrix products from `first` on that read `x`, up to whoever writes it again."""
        users: list[Linear | Qkv] = []
        for op in self.program.ops[first:]:
            if isinstance(op, Linear | Qkv) and op.x == x:
                users.append(op)
            if not isinstance(op, Head) and op.out == x:
                break
        return users

    def _qkv(self, op: Qkv) -> None:
        matrix = self.program.matrices[op.weight]
        q, k, _ = (s.padded for s in matrix.segments)
        scratch = self._columns(matrix.n)
        inputs = self._prepared(op.x, op.weight)
        bias = self._bias(op.bias)
        self.core.linear(inputs, self.matrices[op.weight], scratch, bias, False, False, -1)
        group, layer = self.cache_of[op.layer]
        self.core.qkv(
            scratch,
            q,
            q + k,
            -1 if op.q_norm is None else self._vector(op.q_norm),
            -1 if op.k_norm is None else self._vector(op.k_norm),
            op.eps,
            self._rotation(op),
            group,
            layer,
            op.num_heads,
            self.buffers[op.out],
        )

    def _columns(self, width: int) -> int:
        """A buffer for rows of q, k, v; layers of one width share it."""
        name = f"qkv:{width}"
        if name not in self.buffers:
            self.buffers[name] = self.core.buffer(width)
        return self.buffers[name]

    def _rotation(self, op: Qkv) -> int:
        if op.rope not in self.rotations:
            frequencies = np.array(op.rope.inv_freq, np.float32)
            self.rotations[op.rope] = self.core.rotation(frequencies, op.rope.scale)
        return self.rotations[op.rope]
