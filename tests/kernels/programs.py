"""Small programs with random weights in memory, and batches for them: what kernel tests run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.pack import pack_matrix
from argosy.model.formats import parse_format
from argosy.model.program import (
    Attention,
    CacheGroup,
    Embed,
    Head,
    Linear,
    Matrix,
    Op,
    Program,
    Qkv,
    Rope,
    Segment,
    Vector,
)
from argosy.types import PAGE_TOKENS, Batch, Edits, HeadRows, Result, Runtime

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class MemoryBundle:
    """What a runtime needs of a bundle."""

    program: Program
    matrices: dict[str, NDArray[np.uint8]]
    vectors: dict[str, F32] = field(default_factory=dict)

    def matrix(self, name: str) -> NDArray[np.uint8]:
        return self.matrices[name]

    def vector(self, name: str) -> F32:
        return self.vectors[name]


def matrix(name: str, k: int, *cols: int, fmt: str = "fp32", interleaved: bool = False) -> Matrix:
    segments = tuple(Segment(f"{name}.{i}", n, f"{name}.{i}") for i, n in enumerate(cols))
    return Matrix(name, k, segments, parse_format(fmt), interleaved)


def bundle(
    ops: tuple[Op, ...],
    weights: dict[str, tuple[Matrix, list[F32]]],
    vectors: dict[str, F32],
    widths: dict[str, int],
    caches: tuple[CacheGroup, ...] = (),
) -> MemoryBundle:
    head = next(op for op in ops if isinstance(op, Head))
    program = Program(
        architecture="test",
        ops=ops,
        matrices={name: m for name, (m, _) in weights.items()},
        vectors={n: Vector(n, (Segment(n, v.size, n),)) for n, v in vectors.items()},
        caches=caches,
        widths=widths,
        vocab_size=weights[head.weight][0].segments[0].cols,
        hidden_size=widths["x"],
        num_layers=1,
        max_position=2**20,
    )
    packed = {name: pack_matrix(m, parts) for name, (m, parts) in weights.items()}
    return MemoryBundle(program, packed, vectors)


def linear_bundle(
    fmt: str, inputs: F32, parts: list[F32], *, gated: bool = False, bias: bool = False
) -> MemoryBundle:
    """Token t has the activations inputs[t]; logits are exactly the outputs of one linear."""
    (tokens, k), n = inputs.shape, parts[0].shape[0]
    vocab = max(tokens, n)
    rows = np.zeros((vocab, k), np.float32)
    rows[:tokens] = inputs
    m = matrix("w", k, *[p.shape[0] for p in parts], fmt=fmt, interleaved=gated)
    offsets = np.linspace(-2, 2, m.n).astype(np.float32) if bias else None
    linear = Linear(
        x="x",
        out="y",
        weight="w",
        bias="b" if bias else None,
        activation="silu_gated" if gated else None,
    )
    weights = {
        "embed": (matrix("embed", k, vocab), [rows]),
        "w": (m, parts),
        "head": (matrix("head", n, vocab), [np.eye(vocab, n, dtype=np.float32)]),
    }
    vectors = {} if offsets is None else {"b": offsets}
    ops = (Embed(out="x", weight="embed"), linear, Head(x="y", weight="head"))
    return bundle(ops, weights, vectors, {"x": k, "y": n})


def attention_bundle(
    rng: np.random.Generator,
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    window: int | None = None,
    vocab: int = 64,
    gain: float = 3.0,
) -> MemoryBundle:
    """Logits are the attention's output under a random head; scores are peaked by `gain`."""

    def normal(scale: float, *shape: int) -> F32:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    width = 2 * dim
    q, kv = heads * dim, kv_heads * dim
    sharp = gain / np.sqrt(width)
    weights = {
        "embed": (matrix("embed", width, vocab), [normal(1, vocab, width)]),
        "qkv": (
            matrix("qkv", width, q, kv, kv),
            [normal(sharp, q, width), normal(1 / np.sqrt(width), kv, width), normal(1, kv, width)],
        ),
        "head": (matrix("head", q, vocab), [normal(1 / np.sqrt(q), vocab, q)]),
    }
    sizes = {"layer": 0, "num_heads": heads, "num_kv_heads": kv_heads, "head_dim": dim}
    inv_freq = 10000.0 ** (-np.arange(dim // 2) / (dim // 2))
    rope = Rope(tuple(float(f) for f in inv_freq.astype(np.float32)))
    norms = {"q_norm": "qn", "k_norm": "kn"}
    ops = (
        Embed(out="x", weight="embed"),
        Qkv(x="x", out="q", weight="qkv", bias=None, **norms, eps=1e-6, rope=rope, **sizes),
        Attention(q="q", out="a", scale=gain / np.sqrt(dim), window=window, **sizes),
        Head(x="a", weight="head"),
    )
    vectors = {"qn": normal(0.2, dim) + 1, "kn": normal(0.2, dim) + 1}
    caches = (CacheGroup("main", (0,), kv_heads, dim),)
    return bundle(ops, weights, vectors, {"x": width, "q": q, "a": q}, caches)


def every_row(count: int, starts: list[int] | None = None, **changes: Any) -> HeadRows:
    """All rows reach the head and are drawn greedily."""

    def zeros(kind: Any, size: int = count) -> NDArray[Any]:
        return np.zeros(size, kind)

    none = np.zeros(0, np.float32)
    fields: dict[str, Any] = {
        "rows": np.arange(count, dtype=np.int32),
        "starts": np.array([0, count] if starts is None else starts, np.int32),
        "draw": np.ones(count, np.uint8),
        "targets": zeros(np.int32),
        "want_logprobs": zeros(np.uint8),
        "logprobs": zeros(np.int32),
        "temperature": zeros(np.float32),
        "top_k": zeros(np.int32),
        "top_p": np.ones(count, np.float32),
        "min_p": zeros(np.float32),
        "seeds": zeros(np.uint64),
        "positions": zeros(np.int32),
        "edits": Edits(zeros(np.int32, count + 1), zeros(np.int32, 0), none, none, none),
        "has_mask": zeros(np.uint8),
        "mask_rows": zeros(np.int32),
    }
    return HeadRows(**{**fields, **changes})


def batch(
    pieces: list[tuple[list[int], int, list[int]]], *, groups: int = 1, **changes: Any
) -> Batch:
    """A step of sequences given as (tokens, position of the first, pages in order)."""
    counts = [len(tokens) for tokens, _, _ in pieces]
    starts = [0, *np.cumsum(counts).tolist()]
    positions = np.concatenate([np.arange(p, p + len(t)) for t, p, _ in pieces]).astype(np.int32)
    width = max(len(pages) for _, _, pages in pieces)
    table = np.zeros((len(pieces), width), np.int32)
    for row, (_, _, pages) in zip(table, pieces, strict=True):
        row[: len(pages)] = pages
    owner = np.repeat(np.arange(len(pieces)), counts)
    slots = table[owner, positions // PAGE_TOKENS] * PAGE_TOKENS + positions % PAGE_TOKENS
    fields: dict[str, Any] = {
        "tokens": np.concatenate([t for t, _, _ in pieces]).astype(np.int32),
        "positions": positions[None],
        "slots": np.tile(slots.astype(np.int32), (groups, 1)),
        "row_starts": np.array(starts, np.int32),
        "lengths": np.array([p + len(t) for t, p, _ in pieces], np.int32),
        "page_tables": (table,) * groups,
        "copies": (np.zeros((0, 2), np.int32),) * groups,
        "head": every_row(starts[-1], starts),
    }
    return Batch(**{**fields, **changes})


def logits(runtime: Runtime, step: Batch) -> F32:
    result = run(runtime, step)
    assert result.logits is not None
    return result.logits


def run(runtime: Runtime, step: Batch) -> Result:
    return runtime.submit(step).result()
