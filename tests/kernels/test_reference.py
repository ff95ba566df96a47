"""The reference runtime computes the model, whatever way its tokens are split, paged or batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from argosy.bundle.pack import from_bf16, pack_matrix, to_bf16, unpack_matrix
from argosy.errors import UnsupportedParameter
from argosy.model.formats import Format, Kind, parse_format
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
    Rope,
    Segment,
    Vector,
)
from argosy.runtime.reference import ReferenceRuntime
from argosy.runtime.reference.operations import as_input
from argosy.types import NULL_PAGE, PAGE_TOKENS, Batch, Edits, HeadRows, Result, RowError

if TYPE_CHECKING:
    from argosy.types import F32, U8

FP32 = Format(Kind.FP32)
HIDDEN, INNER, VOCAB, LAYERS, EPS = 24, 40, 53, 2, 1e-5


@dataclass(frozen=True)
class Shape:
    """What the small models of this file differ in."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 6
    bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    window: int | None = None
    rope_dim: int = 6
    groups: tuple[tuple[int, ...], ...] = ((0, 1),)
    format: Format = FP32


@dataclass(frozen=True)
class Model:
    """A program and its weights in memory: what a runtime needs of a bundle."""

    shape: Shape
    program: Program
    packed: dict[str, U8]
    vectors: dict[str, F32]

    def matrix(self, name: str) -> U8:
        return self.packed[name]

    def vector(self, name: str) -> F32:
        return self.vectors[name]

    def part(self, segment: str) -> np.ndarray:
        """A named weight as kernels read it, (cols, k)."""
        for matrix in self.program.matrices.values():
            parts = unpack_matrix(matrix, self.packed[matrix.name])
            for s, weight in zip(matrix.segments, parts, strict=True):
                if s.name == segment:
                    return weight.astype(np.float64)
        raise KeyError(segment)


def matrix(name: str, k: int, parts: dict[str, int], fmt: Format, gated: bool = False) -> Matrix:
    segments = tuple(Segment(part, cols, part) for part, cols in parts.items())
    return Matrix(name, k, segments, fmt, gated)


def layer_ops(i: int, shape: Shape) -> list[Op]:
    at = f"layers.{i}"
    size = {"num_heads": shape.heads, "num_kv_heads": shape.kv_heads, "head_dim": shape.head_dim}
    inv_freq = tuple(float(100.0 ** (-j / 3)) for j in range(shape.rope_dim // 2))
    return [
        Norm(x="x", out="h", weight=f"{at}.attn_norm", eps=EPS),
        Qkv(
            x="h",
            out="q",
            weight=f"{at}.qkv",
            bias=f"{at}.qkv_bias" if shape.bias else None,
            q_norm=f"{at}.q_norm" if shape.qk_norm else None,
            k_norm=f"{at}.k_norm" if shape.qk_norm else None,
            eps=EPS,
            rope=Rope(inv_freq, 1.25),
            layer=i,
            **size,
        ),
        Attention(q="q", out="a", layer=i, scale=0.7, window=shape.window, **size),
        Linear(x="a", out="x", weight=f"{at}.o", residual=True),
        Norm(x="x", out="h", weight=f"{at}.mlp_norm", eps=EPS),
        Linear(x="h", out="m", weight=f"{at}.gate_up", activation="silu_gated"),
        Linear(x="m", out="x", weight=f"{at}.down", residual=True),
    ]


def layer_weights(i: int, shape: Shape) -> tuple[list[Matrix], list[Vector]]:
    at, q, kv = f"layers.{i}", shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    qkv = {f"{at}.q": q, f"{at}.k": kv, f"{at}.v": kv}
    matrices = [
        matrix(f"{at}.qkv", HIDDEN, qkv, shape.format),
        matrix(f"{at}.o", q, {f"{at}.o": HIDDEN}, shape.format),
        matrix(
            f"{at}.gate_up", HIDDEN, {f"{at}.gate": INNER, f"{at}.up": INNER}, shape.format, True
        ),
        matrix(f"{at}.down", INNER, {f"{at}.down": HIDDEN}, shape.format),
    ]
    sizes = {"attn_norm": HIDDEN, "mlp_norm": HIDDEN}
    if shape.qk_norm:
        sizes |= {"q_norm": shape.head_dim, "k_norm": shape.head_dim}
    vectors = [Vector(f"{at}.{n}", (Segment(n, size, n),), 0.5) for n, size in sizes.items()]
    if shape.bias:
        segments = tuple(Segment(f"{n}.bias", cols, n) for n, cols in qkv.items())
        vectors.append(Vector(f"{at}.qkv_bias", segments))
    return matrices, vectors


def make_model(shape: Shape, seed: int = 0) -> Model:
    rng = np.random.default_rng(seed)
    matrices = [matrix("head", HIDDEN, {"head": VOCAB}, shape.format)]
    if not shape.tied:
        matrices.append(matrix("embed", HIDDEN, {"embed": VOCAB}, FP32))
    vectors = [Vector("norm", (Segment("norm", HIDDEN, "norm"),), 0.5)]
    ops: list[Op] = [Embed(out="x", weight="head" if shape.tied else "embed")]
    for i in range(LAYERS):
        ops += layer_ops(i, shape)
        more, small = layer_weights(i, shape)
        matrices, vectors = matrices + more, vectors + small
    ops += [Norm(x="x", out="h", weight="norm", eps=EPS), Head(x="h", weight="head")]
    kind = "window" if shape.window else "paged"
    program = Program(
        architecture="test",
        ops=tuple(ops),
        matrices={m.name: m for m in matrices},
        vectors={v.name: v for v in vectors},
        caches=tuple(
            CacheGroup(f"g{i}", layers, shape.kv_heads, shape.head_dim, kind, shape.window)
            for i, layers in enumerate(shape.groups)
        ),
        widths={},
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_layers=LAYERS,
        max_position=512,
    )
    packed = {
        m.name: pack_matrix(m, [normal(rng, s.cols, m.k) for s in m.segments]) for m in matrices
    }
    return Model(shape, program, packed, {v.name: small_vector(rng, v) for v in vectors})


def normal(rng: np.random.Generator, cols: int, k: int) -> F32:
    return (rng.normal(size=(cols, k)) * 1.5 / np.sqrt(k)).astype(np.float32)


def small_vector(rng: np.random.Generator, vector: Vector) -> F32:
    """A vector as stored: without its offset, padding of fused ones zero."""
    out = rng.normal(size=vector.size).astype(np.float32)
    at = 0
    for s in vector.segments if len(vector.segments) > 1 else ():
        out[at + s.cols : at + s.padded] = 0
        at += s.padded
    return out


def dense_logits(model: Model, tokens: Sequence[int]) -> np.ndarray:
    """All logits of a fp32 model at once: whole matrices, complex rotation, a mask."""
    shape, n = model.shape, len(tokens)
    vector = {name: v.astype(np.float64) for name, v in model.vectors.items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x * (vector[name] + 0.5) * (np.mean(x**2, -1, keepdims=True) + EPS) ** -0.5

    ago = np.arange(n)[:, None] - np.arange(n)
    seen = (ago >= 0) & (ago < (shape.window or n))
    half = shape.rope_dim // 2
    angle = np.float32(np.arange(n)[:, None]) * np.float32(100.0 ** (-np.arange(half) / 3))
    turn = 1.25 * np.exp(1j * angle.astype(np.float64))[:, None]

    def turned(x: np.ndarray) -> np.ndarray:
        z = (x[..., :half] + 1j * x[..., half : 2 * half]) * turn
        return np.concatenate([z.real, z.imag, x[..., 2 * half :]], -1)

    x = model.part("head" if shape.tied else "embed")[list(tokens)]
    for i in range(LAYERS):
        at = f"layers.{i}"
        h = normed(x, f"{at}.attn_norm")
        parts, shift = [], 0
        for name in "qkv":
            w = model.part(f"{at}.{name}")
            y = h @ w.T
            if shape.bias:
                y = y + vector[f"{at}.qkv_bias"][shift : shift + len(w)]
                shift += -(-len(w) // 16) * 16
            parts.append(y.reshape(n, -1, shape.head_dim))
        q, k, v = parts
        if shape.qk_norm:
            q, k = normed(q, f"{at}.q_norm"), normed(k, f"{at}.k_norm")
        repeat = shape.heads // shape.kv_heads
        k, v = np.repeat(turned(k), repeat, 1), np.repeat(v, repeat, 1)
        scores = np.einsum("qhd,khd->hqk", turned(q), k) * 0.7
        weights = np.where(seen, np.exp(scores), 0)
        weights /= weights.sum(-1, keepdims=True)
        a = np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1)
        x = x + a @ model.part(f"{at}.o").T
        h = normed(x, f"{at}.mlp_norm")
        gate = h @ model.part(f"{at}.gate").T
        m = gate / (1 + np.exp(-gate)) * (h @ model.part(f"{at}.up").T)
        x = x + m @ model.part(f"{at}.down").T
    return normed(x, "norm") @ model.part("head").T


@dataclass
class Feed:
    """Tokens of one sequence, how many are in the cache, and its pages in each group."""

    tokens: list[int]
    tables: list[list[int]]
    computed: int = 0


@dataclass
class Driver:
    """Feeds a runtime: gives pages in a scrambled order and builds plain batches."""

    runtime: ReferenceRuntime
    groups: int = 1
    free: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        orders = [np.random.default_rng(g).permutation(39) + 1 for g in range(self.groups)]
        self.free = [order.tolist() for order in orders]

    def start(self, tokens: Sequence[int]) -> Feed:
        pages = -(-len(tokens) // PAGE_TOKENS)
        tables = [[self.free[g].pop() for _ in range(pages)] for g in range(self.groups)]
        return Feed(list(tokens), tables)

    def end(self, sequence: Feed) -> None:
        for free, table in zip(self.free, sequence.tables, strict=True):
            free.extend(reversed(table))

    def step(self, *work: tuple[Feed, int], copies: Any = None) -> Result:
        """Compute the next n tokens of each sequence, all rows to the head."""
        batch = self.batch(*work, copies=copies)
        for sequence, n in work:
            sequence.computed += n
        return self.runtime.submit(batch).result()

    def batch(self, *work: tuple[Feed, int], copies: Any = None) -> Batch:
        spans = [range(s.computed, s.computed + n) for s, n in work]
        starts = np.cumsum([0] + [len(span) for span in spans]).astype(np.int32)
        wide = max(len(s.tables[0]) for s, _ in work)
        tables = [
            np.array([s.tables[g] + [NULL_PAGE] * (wide - len(s.tables[g])) for s, _ in work])
            for g in range(self.groups)
        ]
        slots = [
            [
                t[b][p // PAGE_TOKENS] * PAGE_TOKENS + p % PAGE_TOKENS
                for b, span in enumerate(spans)
                for p in span
            ]
            for t in tables
        ]
        none = np.empty((0, 2), np.int32)
        return Batch(
            tokens=i32(
                [s.tokens[p] for (s, _), span in zip(work, spans, strict=True) for p in span]
            ),
            positions=i32([[p for span in spans for p in span]]),
            slots=i32(slots),
            row_starts=starts,
            lengths=i32([s.computed + n for s, n in work]),
            page_tables=tuple(i32(t) for t in tables),
            copies=copies or (none,) * self.groups,
            head=greedy(np.arange(starts[-1], dtype=np.int32), starts),
        )


def i32(values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def greedy(rows: np.ndarray, starts: np.ndarray) -> HeadRows:
    n = len(rows)
    zeros, bytes_, floats = np.zeros(n, np.int32), np.zeros(n, np.uint8), np.zeros(n, np.float32)
    blank = np.empty(0, np.float32)
    return HeadRows(
        rows=rows,
        starts=starts,
        draw=np.ones(n, np.uint8),
        targets=zeros,
        want_logprobs=bytes_,
        logprobs=zeros,
        temperature=floats,
        top_k=zeros,
        top_p=np.ones(n, np.float32),
        min_p=floats,
        seeds=np.zeros(n, np.uint64),
        positions=zeros,
        edits=Edits(i32([0] * (n + 1)), i32([]), blank, blank, blank),
        has_mask=bytes_,
        mask_rows=zeros,
    )


def drive(model: Model, cache_dtype: str = "fp32") -> Driver:
    groups = len(model.program.caches)
    runtime = ReferenceRuntime(
        model, num_pages=(40,) * groups, cache_dtype=cache_dtype, keep_logits=True
    )
    return Driver(runtime, groups)


def logits_of(result: Result) -> F32:
    assert result.logits is not None
    assert not result.errors
    return result.logits


def some_tokens(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, n).tolist()


SHAPES = {
    "grouped heads": Shape(),
    "one head each": Shape(kv_heads=4),
    "one kv head": Shape(kv_heads=1),
    "bias": Shape(bias=True),
    "qk norm": Shape(qk_norm=True, bias=True),
    "tied": Shape(tied=True),
    "window": Shape(window=9),
    "window of a page": Shape(window=16),
    "partly turned": Shape(head_dim=10, rope_dim=6),
    "two groups": Shape(groups=((1,), (0,))),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_logits_equal_plain_dense_attention(shape: Shape) -> None:
    model, tokens = make_model(shape), some_tokens(45)
    driver = drive(model)
    got = logits_of(driver.step((driver.start(tokens), len(tokens))))
    truth = dense_logits(model, tokens)
    assert truth.std() > 0.5
    np.testing.assert_allclose(got, truth, atol=2e-5)


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16", "w8", "w4", "w4g64z"])
@pytest.mark.parametrize("cache_dtype", ["fp32", "bf16", "int8"])
def test_chunks_and_single_tokens_give_the_prompts_logits(name: str, cache_dtype: str) -> None:
    model, tokens = make_model(Shape(format=parse_format(name), bias=True)), some_tokens(37)
    driver = drive(model, cache_dtype)
    whole = logits_of(driver.step((driver.start(tokens), 37)))
    for chunk in (1, 5, 16):
        sequence, rows = driver.start(tokens), []
        while sequence.computed < 37:
            rows.append(logits_of(driver.step((sequence, min(chunk, 37 - sequence.computed)))))
        np.testing.assert_allclose(np.concatenate(rows), whole, atol=1e-10)


def test_company_changes_nothing() -> None:
    driver = drive(make_model(Shape()))
    prompts = [some_tokens(n, n) for n in (1, 20, 33)]
    alone = [logits_of(driver.step((driver.start(p), len(p)))) for p in prompts]
    together = driver.step(*[(driver.start(p), len(p)) for p in prompts])
    np.testing.assert_allclose(logits_of(together), np.concatenate(alone), atol=1e-10)
    assert together.starts.tolist() == [0, 1, 21, 54]
    np.testing.assert_array_equal(together.tokens, logits_of(together).argmax(axis=1))


def test_only_wanted_rows_reach_the_head() -> None:
    driver = drive(make_model(Shape()))
    sequence = driver.start(some_tokens(20))
    batch = driver.batch((sequence, 20))
    whole = logits_of(driver.runtime.submit(batch).result())
    some = replace(batch, head=greedy(i32([3, 19]), i32([0, 2])))
    np.testing.assert_allclose(
        logits_of(driver.runtime.submit(some).result()), whole[[3, 19]], atol=1e-10
    )
    none = replace(batch, head=greedy(i32([]), i32([0, 0])))
    assert driver.runtime.submit(none).result().tokens.size == 0


def test_copied_pages_serve_a_fork_and_leave_the_original_alone() -> None:
    driver = drive(make_model(Shape()))
    tokens = some_tokens(40)
    parent = driver.start(tokens)
    truth = logits_of(driver.step((parent, 40)))
    child = driver.start(tokens[:20] + some_tokens(20, 9))
    pairs = i32([[a, b] for a, b in zip(parent.tables[0][:2], child.tables[0][:2], strict=True)])
    parent.computed, child.computed = 30, 20
    both = logits_of(driver.step((parent, 10), (child, 20), copies=(pairs,)))
    np.testing.assert_allclose(both[:10], truth[30:], atol=1e-10)
    fresh = driver.start(child.tokens)
    np.testing.assert_allclose(both[10:], logits_of(driver.step((fresh, 40)))[20:], atol=1e-10)


def test_pages_that_left_the_window_are_not_read() -> None:
    """Freed pages stand as the null page in the table; nobody ever wrote that one."""
    driver = drive(make_model(Shape(window=16)))
    tokens = some_tokens(50)
    truth = logits_of(driver.step((driver.start(tokens), 50)))
    sequence = driver.start(tokens)
    driver.step((sequence, 47))
    sequence.tables[0][:1] = [NULL_PAGE]
    np.testing.assert_allclose(logits_of(driver.step((sequence, 3))), truth[47:], atol=1e-10)


def test_what_a_page_held_before_does_not_matter() -> None:
    model = make_model(Shape())
    bad = some_tokens(1)[0]
    embed = unpack_matrix(model.program.matrices["embed"], model.packed["embed"])[0]
    good = [t for t in some_tokens(60, 3) if t != bad]
    poisoned = replace(model, packed=model.packed | {"embed": with_nan(embed, bad)})
    driver = drive(poisoned)
    first = driver.start([bad] * 40)
    assert driver.step((first, 40)).errors == {0: RowError.NONFINITE}
    driver.end(first)
    again = logits_of(driver.step((driver.start(good[:35]), 35)))
    clean = drive(model)
    truth = logits_of(clean.step((clean.start(good[:35]), 35)))
    np.testing.assert_array_equal(again, truth)


def with_nan(embed: F32, token: int) -> U8:
    """fp32 cells of an embedding with one token's row not finite."""
    padded = np.zeros((-(-len(embed) // 16) * 16, embed.shape[1]), np.float32)
    padded[: len(embed)] = embed
    padded[token] = np.nan
    return (
        np.ascontiguousarray(padded.reshape(-1, 16, HIDDEN).transpose(0, 2, 1))
        .view(np.uint8)
        .reshape(-1)
    )


def test_a_sequence_that_is_not_finite_fails_alone_even_without_a_head_row() -> None:
    model = make_model(Shape())
    embed = unpack_matrix(model.program.matrices["embed"], model.packed["embed"])[0]
    driver = drive(replace(model, packed=model.packed | {"embed": with_nan(embed, 7)}))
    work = [(driver.start(p), len(p)) for p in ([1, 2, 3], [4, 7, 5], [6])]
    batch = driver.batch(*work)
    assert driver.runtime.submit(batch).result().errors == {1: RowError.NONFINITE}
    headless = replace(batch, head=greedy(i32([2]), i32([0, 1, 1, 1])))
    assert driver.runtime.submit(headless).result().errors == {1: RowError.NONFINITE}


@pytest.mark.parametrize("cache_dtype", ["bf16", "int8"])
def test_a_cache_of_eight_bits_has_eight_bits(cache_dtype: str) -> None:
    """Scores of rounded keys: the logits move, by about what 8 bits move them."""
    model, tokens = make_model(Shape()), some_tokens(30)
    fp32, rounded = drive(model), drive(model, cache_dtype)
    a = logits_of(fp32.step((fp32.start(tokens), 30)))
    b = logits_of(rounded.step((rounded.start(tokens), 30)))
    assert 1e-5 < np.abs(a - b).max() < 0.1 * np.abs(a).max()


@pytest.mark.parametrize(("name", "share"), [("bf16", 0.03), ("w8", 0.06), ("w4", 0.6)])
def test_formats_come_near_fp32(name: str, share: float) -> None:
    tokens = some_tokens(30)
    exact, rough = (drive(make_model(Shape(format=f))) for f in (FP32, parse_format(name)))
    a = logits_of(exact.step((exact.start(tokens), 30)))
    b = logits_of(rough.step((rough.start(tokens), 30)))
    assert 0 < np.sqrt(np.mean((a - b) ** 2)) < share * a.std()


def test_inputs_of_integer_weights_are_rounded_128_by_128() -> None:
    fmt = parse_format("w4g32")
    x = np.random.default_rng(2).normal(size=(5, 300))
    x[0, :128] = 0
    x[1, 128:256] *= 1e-35
    read = as_input(x, fmt)
    assert read.shape == x.shape
    assert not read[0, :128].any()
    assert not read[1, 128:256].any()
    for start in (0, 128, 256):
        group, got = x[2:, start : start + 128], read[2:, start : start + 128]
        step = np.abs(group).max(axis=1, keepdims=True) / 127
        assert np.abs(got / step - np.rint(got / step)).max() < 1e-4
        assert (np.abs(got - group) <= step * 0.5001).all()
        np.testing.assert_allclose(np.abs(got).max(axis=1), np.abs(group).max(axis=1), rtol=1e-6)


def test_inputs_of_float_weights() -> None:
    x = np.random.default_rng(3).normal(size=(2, 9))
    np.testing.assert_array_equal(as_input(x, FP32), x.astype(np.float32))
    np.testing.assert_array_equal(as_input(x, parse_format("fp16")), x.astype(np.float32))
    bf16 = from_bf16(to_bf16(x.astype(np.float32)))
    np.testing.assert_array_equal(as_input(x, parse_format("bf16")), bf16)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("token_is_row", np.zeros(2, np.uint8)),
        ("token_rows", np.zeros(2, np.int32)),
        ("ancestors", np.zeros(2, np.uint8)),
        ("adapters", np.zeros(1, np.int32)),
        ("embeddings", np.zeros((1, HIDDEN), np.float32)),
        ("program", "draft"),
        ("positions", np.zeros((3, 2), np.int32)),
    ],
)
def test_what_is_not_served_is_refused_by_name(part: str, value: Any) -> None:
    driver = drive(make_model(Shape()))
    batch = driver.batch((driver.start([1, 2]), 2))
    with pytest.raises(UnsupportedParameter, match="axes" if part == "positions" else part):
        driver.runtime.submit(replace(batch, **{part: value}))


def test_logits_are_kept_only_when_asked() -> None:
    model = make_model(Shape())
    runtime = ReferenceRuntime(model, num_pages=(40,), cache_dtype="fp32")
    driver = Driver(runtime)
    assert driver.step((driver.start([1, 2, 3]), 3)).logits is None
    runtime.close()
