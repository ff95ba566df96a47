"""A model as data: a flat list of fused operations over named weights.

Activations are named buffers of fp32 rows: "x" the residual stream, others what their operation
says. Passes (model/passes) turn programs into programs; a runtime executes one. A program says
nothing about how it is stored on disk except each matrix' format.
"""

from __future__ import annotations

from msgspec import Struct

from argosy.model.formats import CACHE_DTYPES, COLUMNS, Format, Kind
from argosy.types import PAGE_TOKENS


class Segment(Struct, frozen=True):
    """A range of columns of a fused matrix that has a name of its own.

    name: logical name ("layers.0.q").  cols: columns that count.  source: the checkpoint's tensor,
    shape (cols, k). A segment starts on a block of 16 columns and is padded with zero columns.
    """

    name: str
    cols: int
    source: str

    @property
    def padded(self) -> int:
        """Columns it takes: `cols` up to a whole block."""
        return -(-self.cols // COLUMNS) * COLUMNS


class Matrix(Struct, frozen=True):
    """A weight of k rows and the columns of its segments, y = x @ W.

    interleaved: its two segments, of equal width, alternate block by block (gate, up, gate, up).
    """

    name: str
    k: int
    segments: tuple[Segment, ...]
    format: Format = Format(Kind.FP32)
    interleaved: bool = False

    @property
    def n(self) -> int:
        """Columns stored, padding included."""
        return sum(s.padded for s in self.segments)

    @property
    def num_bytes(self) -> int:
        """Bytes stored."""
        return self.format.matrix_bytes(self.k, self.n)

    @property
    def num_parameters(self) -> int:
        """Weights that count."""
        return self.k * sum(s.cols for s in self.segments)


class Vector(Struct, frozen=True):
    """A weight of `size` fp32 numbers: a norm's, or a bias.

    segments: as for a matrix with k = 1 (a fused bias is padded like its matrix); `offset` is
    added to every element when read (norms stored as w - 1).  interleaved: as for a matrix, so
    that a bias lies in the order of its matrix' columns.
    """

    name: str
    segments: tuple[Segment, ...]
    offset: float = 0.0
    interleaved: bool = False

    @property
    def size(self) -> int:
        """Numbers stored, padding included for fused ones."""
        if len(self.segments) == 1:
            return self.segments[0].cols
        return sum(s.padded for s in self.segments)

    @property
    def num_bytes(self) -> int:
        """Bytes stored."""
        return 4 * self.size


class Rope(Struct, frozen=True):
    """Rotary position embedding, half-split: lane i turns with lane i + dim/2 by pos * inv_freq[i].

    inv_freq: dim/2 fp32 numbers, any scaling applied.  scale: multiplies cosine and sine.
    Source: Su et al. 2021, arXiv:2104.09864.
    """

    inv_freq: tuple[float, ...]
    scale: float = 1.0

    @property
    def dim(self) -> int:
        """Lanes of a head that turn."""
        return 2 * len(self.inv_freq)


class CacheGroup(Struct, frozen=True):
    """Layers whose keys and values live in pages of one size.

    kind: "paged" keeps all tokens; "window" needs the last `window` only.
    """

    name: str
    layers: tuple[int, ...]
    num_kv_heads: int
    head_dim: int
    kind: str = "paged"
    window: int | None = None


class Embed(Struct, frozen=True, kw_only=True, tag_field="op", tag="embed"):
    """out = embedding[token]; of a tied matrix, its column."""

    out: str
    weight: str


class Norm(Struct, frozen=True, kw_only=True, tag_field="op", tag="norm"):
    """out = x / rms(x) * weight. Source: Zhang and Sennrich 2019, arXiv:1910.07467."""

    x: str
    out: str
    weight: str
    eps: float


class Linear(Struct, frozen=True, kw_only=True, tag_field="op", tag="linear"):
    """out = act(x @ weight + bias), or out += that when `residual`.

    activation: None, or "silu_gated": the matrix holds gate and up interleaved and the result is
    silu(gate) * up, half as wide. Source: Shazeer 2020, arXiv:2002.05202.
    """

    x: str
    out: str
    weight: str
    bias: str | None = None
    residual: bool = False
    activation: str | None = None


class Qkv(Struct, frozen=True, kw_only=True, tag_field="op", tag="qkv"):
    """q, k, v = x @ weight + bias; q and k normed per head and turned; k and v to the cache.

    out: q after all that, num_heads * head_dim wide.  layer: index of the layer whose cache is
    written.  q_norm, k_norm: names of (head_dim,) weights or None.
    """

    x: str
    out: str
    weight: str
    bias: str | None
    q_norm: str | None
    k_norm: str | None
    eps: float
    rope: Rope
    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


class Attention(Struct, frozen=True, kw_only=True, tag_field="op", tag="attention"):
    """out = softmax(q @ keys * scale) @ values over the pages of `layer`, causal.

    window: a row sees itself and the window - 1 tokens before it; None sees all.
    Source: Kwon et al. 2023, arXiv:2309.06180; Milakov and Gimelshein 2018, arXiv:1805.02867.
    """

    q: str
    out: str
    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None


class Head(Struct, frozen=True, kw_only=True, tag_field="op", tag="head"):
    """logits = x @ weight + bias for the rows that are wanted, then the draw."""

    x: str
    weight: str
    bias: str | None = None


Op = Embed | Norm | Linear | Qkv | Attention | Head


class Program(Struct, frozen=True, kw_only=True):
    """A model: operations, weights, caches.

    widths: numbers per row of each activation.  vocab_size: tokens the head knows (its matrix may
    have padding columns after them).  max_position: the longest context it was made for.
    """

    architecture: str
    ops: tuple[Op, ...]
    matrices: dict[str, Matrix]
    vectors: dict[str, Vector]
    caches: tuple[CacheGroup, ...]
    widths: dict[str, int]
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_position: int
    notes: tuple[str, ...] = ()

    @property
    def num_parameters(self) -> int:
        """Weights that count, a tied head once."""
        vectors = sum(s.cols for v in self.vectors.values() for s in v.segments)
        return vectors + sum(m.num_parameters for m in self.matrices.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(m.num_bytes for m in self.matrices.values()) + sum(
            v.num_bytes for v in self.vectors.values()
        )

    def head(self) -> Head:
        """The operation that makes logits."""
        return next(op for op in self.ops if isinstance(op, Head))


def page_bytes(group: CacheGroup, cache_dtype: str) -> int:
    """Bytes of one page of `group`, all its layers: keys with head_dim padded to 4, values to 16.

    Per (layer, page, kv head) one record: keys [head_dim4][16 tokens], then values
    [tokens][head_dim16] in the cells of the cache's format, each followed by its scales.
    """
    stored = CACHE_DTYPES[cache_dtype]
    keys = -(-group.head_dim // 4) * 4
    values = -(-group.head_dim // COLUMNS) * COLUMNS
    token = (keys + values) * stored.element_bytes + 2 * stored.scale_bytes
    return len(group.layers) * group.num_kv_heads * token * PAGE_TOKENS
