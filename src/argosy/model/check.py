"""Check that a program is whole: every name exists and every shape fits.

A program read from a file is not trusted: a runtime computes addresses from these numbers, so
what passes here must be safe to execute whatever the weights hold.
"""

from __future__ import annotations

import math

from argosy.errors import BundleError
from argosy.model.formats import GROUPS
from argosy.model.program import (
    Attention,
    CacheGroup,
    Embed,
    Head,
    Linear,
    Matrix,
    Norm,
    Op,
    Program,
    Qkv,
    Vector,
)

SIZE_MAX = 2**31 - 1
"""No dimension exceeds this, so that products of two fit 62 bits."""


def check_program(program: Program) -> None:
    """Raise BundleError naming the first operation or weight that does not fit the others."""
    _require(bool(program.ops), "it has no operations")
    sizes = (program.vocab_size, program.hidden_size, program.num_layers, program.max_position)
    for size in (*sizes, *program.widths.values()):
        _require(1 <= size <= SIZE_MAX, f"size {size} is out of range")
    for name, matrix in program.matrices.items():
        _check_matrix(name, matrix)
    for name, vector in program.vectors.items():
        _check_vector(name, vector)
    layers = _cached_layers(program)
    for index, op in enumerate(program.ops):
        try:
            _check_op(program, op, layers)
        except BundleError as exc:
            raise BundleError(f"operation {index} ({type(op).__name__}): {exc}") from exc


def _require(true: bool, why: str) -> None:
    if not true:
        raise BundleError(why)


def _check_matrix(name: str, matrix: Matrix) -> None:
    _require(matrix.name == name, f"matrix {name} calls itself {matrix.name}")
    _require(1 <= matrix.k <= SIZE_MAX, f"matrix {name} has k={matrix.k}")
    _check_segments(name, matrix)
    weights = matrix.format
    groups = GROUPS.get(weights.kind, (0,))
    _require(weights.group in groups, f"matrix {name} has groups of {weights.group}")
    _require(not weights.asymmetric or str(weights.kind) == "w4", f"matrix {name} is {weights}")


def _check_vector(name: str, vector: Vector) -> None:
    _require(vector.name == name, f"vector {name} calls itself {vector.name}")
    _check_segments(name, vector)


def _check_segments(name: str, weight: Matrix | Vector) -> None:
    cols = [s.cols for s in weight.segments]
    _require(bool(cols) and all(1 <= c <= SIZE_MAX for c in cols), f"{name} has segments of {cols}")
    _require(sum(cols) <= SIZE_MAX, f"{name} has {sum(cols)} columns")
    if weight.interleaved:
        _require(len(cols) == 2 and cols[0] == cols[1], f"{name} interleaves segments of {cols}")


def _cached_layers(program: Program) -> dict[int, CacheGroup]:
    groups = {layer: group for group in program.caches for layer in group.layers}
    listed = sum(len(group.layers) for group in program.caches)
    _require(listed == len(groups), "a layer is in two cache groups")
    for group in program.caches:
        _require(group.kind in ("paged", "window"), f"cache {group.name} is of kind {group.kind}")
        _require(group.num_kv_heads >= 1 and group.head_dim >= 1, f"cache {group.name} is empty")
    return groups


def _check_op(program: Program, op: Op, layers: dict[int, CacheGroup]) -> None:
    match op:
        case Embed():
            _check_vocabulary(program, op.weight)
            _equal("width of out", _width(program, op.out), _matrix(program, op.weight).k)
        case Norm():
            _check_eps(op.eps)
            _equal("width of out", _width(program, op.out), _width(program, op.x))
            _equal(f"size of {op.weight}", _vector(program, op.weight).size, _width(program, op.x))
        case Linear():
            _check_linear(program, op)
        case Qkv():
            _check_qkv(program, op, layers)
        case Attention():
            _check_attention(program, op, layers)
        case Head():
            _check_vocabulary(program, op.weight)
            _equal("k of the head", _matrix(program, op.weight).k, _width(program, op.x))
            _check_bias(program, op.bias, op.weight)


def _check_linear(program: Program, op: Linear) -> None:
    matrix = _matrix(program, op.weight)
    _equal(f"k of {op.weight}", matrix.k, _width(program, op.x))
    _require(op.activation in (None, "silu_gated"), f"activation {op.activation} is unknown")
    gated = op.activation == "silu_gated"
    _require(matrix.interleaved == gated, f"{op.weight}: interleaved and gated go together")
    _require(gated or len(matrix.segments) == 1, f"{op.weight} has more than one segment")
    _require(not (gated and op.residual), "a gated product cannot be added to a residual")
    _equal("width of out", _width(program, op.out), matrix.segments[0].cols)
    _check_bias(program, op.bias, op.weight)


def _check_qkv(program: Program, op: Qkv, layers: dict[int, CacheGroup]) -> None:
    _check_eps(op.eps)
    _check_heads(op, layers)
    matrix = _matrix(program, op.weight)
    _equal(f"k of {op.weight}", matrix.k, _width(program, op.x))
    heads = (op.num_heads, op.num_kv_heads, op.num_kv_heads)
    cols = tuple(s.cols for s in matrix.segments)
    _equal(f"segments of {op.weight}", cols, tuple(count * op.head_dim for count in heads))
    _require(not matrix.interleaved, f"{op.weight} is interleaved")
    _equal("width of out", _width(program, op.out), op.num_heads * op.head_dim)
    for norm in (op.q_norm, op.k_norm):
        if norm is not None:
            _equal(f"size of {norm}", _vector(program, norm).size, op.head_dim)
    _require(op.rope.dim <= op.head_dim, f"rope turns {op.rope.dim} of {op.head_dim} lanes")
    _require(all(map(math.isfinite, (*op.rope.inv_freq, op.rope.scale))), "rope is not finite")
    _check_bias(program, op.bias, op.weight)


def _check_attention(program: Program, op: Attention, layers: dict[int, CacheGroup]) -> None:
    _check_heads(op, layers)
    for name in (op.q, op.out):
        _equal(f"width of {name}", _width(program, name), op.num_heads * op.head_dim)
    _require(math.isfinite(op.scale), f"scale {op.scale} is not finite")
    _require(op.window is None or 1 <= op.window <= SIZE_MAX, f"window {op.window} is out of range")


def _check_heads(op: Qkv | Attention, layers: dict[int, CacheGroup]) -> None:
    _require(op.layer in layers, f"layer {op.layer} has no cache")
    group = layers[op.layer]
    _require(op.num_heads >= 1, f"it has {op.num_heads} heads")
    _equal("kv heads", op.num_kv_heads, group.num_kv_heads)
    _equal("head_dim", op.head_dim, group.head_dim)
    _require(op.num_heads % op.num_kv_heads == 0, "kv heads do not divide heads")


def _check_vocabulary(program: Program, weight: str) -> None:
    matrix = _matrix(program, weight)
    _require(len(matrix.segments) == 1, f"{weight} has more than one segment")
    _equal(f"columns of {weight}", matrix.segments[0].cols, program.vocab_size)


def _check_bias(program: Program, bias: str | None, weight: str) -> None:
    if bias is None:
        return
    vector, matrix = _vector(program, bias), _matrix(program, weight)
    cols = tuple(s.cols for s in matrix.segments)
    _equal(f"segments of {bias}", tuple(s.cols for s in vector.segments), cols)
    _equal(f"order of {bias}", vector.interleaved, matrix.interleaved)


def _check_eps(eps: float) -> None:
    _require(0.0 <= eps <= 1.0, f"eps {eps} is out of range")


def _equal(what: str, value: object, expected: object) -> None:
    _require(value == expected, f"{what} is {value}, not {expected}")


def _width(program: Program, name: str) -> int:
    _require(name in program.widths, f"activation {name} is unknown")
    return program.widths[name]


def _matrix(program: Program, name: str) -> Matrix:
    _require(name in program.matrices, f"matrix {name} is missing")
    return program.matrices[name]


def _vector(program: Program, name: str) -> Vector:
    _require(name in program.vectors, f"vector {name} is missing")
    return program.vectors[name]
