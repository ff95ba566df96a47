"""What decoder-only transformers share: reading their sizes, and the program of a pre-norm stack.

An architecture (model/architectures) reads a `Decoder` from a config, says what is particular
to it, and calls `decoder_program`. Logical names: layers.0.qkv holds layers.0.q, .k, .v; then .o,
.gate_up (of .gate and .up, interleaved), .down; vectors .attn_norm, .mlp_norm, .q_norm, .k_norm
and the matrices' names with _bias; norm, head and, if not tied, embed. Activations: x the
residual stream, h what a norm gives, q queries, a attention's output, m the gated product.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

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
from argosy.model.rope import read_rope
from argosy.model.settings import Settings

HEAD_DIM_MIN = 8


class Decoder(Struct, frozen=True, kw_only=True):
    """The sizes and switches of one decoder-only transformer; windows: one entry per layer."""

    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    eps: float
    rope: Rope
    tied: bool
    windows: tuple[int | None, ...]
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


class Switches(Struct, frozen=True, kw_only=True):
    """What is particular to an architecture, and its defaults where a config is silent."""

    max_position: int
    head_dim: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


def read_decoder(config: Settings, switches: Switches, windows: Iterable[int | None]) -> Decoder:
    """Validated sizes of a config. Raises CheckpointError naming the entry and its value."""
    config.neutral("hidden_act", "silu", "swish")
    hidden = config.whole("hidden_size", 1, 2**17)
    heads = config.whole("num_attention_heads", 1, 2**12)
    kv_heads = config.whole("num_key_value_heads", 1, 2**12, heads)
    if heads % kv_heads:
        raise config.refuse("num_key_value_heads", f"does not divide num_attention_heads={heads}")
    head_dim = _head_dim(config, hidden, heads, switches.head_dim)
    max_position = config.whole("max_position_embeddings", 1, 2**27, switches.max_position)
    return Decoder(
        architecture=config.raw("model_type"),
        hidden_size=hidden,
        intermediate_size=config.whole("intermediate_size", 1, 2**20),
        num_layers=num_layers(config),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=config.whole("vocab_size", 1, 2**22),
        max_position=max_position,
        eps=config.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        rope=read_rope(config, head_dim, max_position),
        tied=config.flag("tie_word_embeddings", False),
        windows=tuple(windows),
        qkv_bias=switches.qkv_bias,
        o_bias=switches.o_bias,
        mlp_bias=switches.mlp_bias,
        qk_norm=switches.qk_norm,
    )


def num_layers(config: Settings) -> int:
    """Number of layers, bounded."""
    return config.whole("num_hidden_layers", 1, 1024)


def mixed_windows(config: Settings) -> list[int | None]:
    """Each layer's window as use_sliding_window, layer_types and max_window_layers say (Qwen)."""
    layers = num_layers(config)
    if not config.flag("use_sliding_window", False):
        return [None] * layers
    window = config.whole("sliding_window", 1, 2**27, 4096)
    full = config.whole("max_window_layers", 0, 2**20, 28)
    kinds = config.raw("layer_types")
    if kinds is None:
        kinds = ["full_attention" if i < full else "sliding_attention" for i in range(layers)]
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or [str(kind) in known for kind in kinds] != [True] * layers:
        raise config.refuse(
            "layer_types", f"must name {' or '.join(known)} for all {layers} layers"
        )
    return [known[kind] for kind in kinds]


def _head_dim(config: Settings, hidden: int, heads: int, default: int | None) -> int:
    if config.raw("head_dim") is None and default is None:
        if hidden % heads:
            raise config.refuse("num_attention_heads", f"does not divide hidden_size={hidden}")
        default = hidden // heads
    head_dim = config.whole("head_dim", 1, 512, default)
    if head_dim % 2 or head_dim < HEAD_DIM_MIN:
        why = f"head_dim={head_dim} must be even and at least {HEAD_DIM_MIN}"
        raise config.refuse("head_dim", f"is not supported: {why}")
    return head_dim


class _Weights:
    """Collects the matrices and vectors of a program while its operations are listed."""

    def __init__(self) -> None:
        self.matrices: dict[str, Matrix] = {}
        self.vectors: dict[str, Vector] = {}

    def matrix(self, name: str, k: int, parts: list[Segment], interleaved: bool = False) -> str:
        self.matrices[name] = Matrix(name, k, tuple(parts), interleaved=interleaved)
        return name

    def vector(self, name: str, parts: list[Segment], interleaved: bool = False) -> str:
        self.vectors[name] = Vector(name, tuple(parts), interleaved=interleaved)
        return name

    def norm(self, name: str, size: int, source: str) -> str:
        return self.vector(name, [Segment(name, size, source)])

    def bias(self, matrix: str, wanted: bool) -> str | None:
        """The bias of a matrix: same segments, in the same order."""
        if not wanted:
            return None
        of = self.matrices[matrix]
        parts = [
            Segment(f"{s.name}_bias", s.cols, s.source.removesuffix("weight") + "bias")
            for s in of.segments
        ]
        return self.vector(f"{matrix}_bias", parts, of.interleaved)


def decoder_program(d: Decoder) -> Program:
    """A pre-norm decoder: embed, then attention and gated MLP for each layer, then head."""
    weights = _Weights()
    embedding = "model.embed_tokens.weight"
    head_source = embedding if d.tied else "lm_head.weight"
    head = weights.matrix("head", d.hidden_size, [Segment("head", d.vocab_size, head_source)])
    embed = head
    if not d.tied:
        parts = [Segment("embed", d.vocab_size, embedding)]
        embed = weights.matrix("embed", d.hidden_size, parts)
    ops: list[Op] = [Embed(out="x", weight=embed)]
    for i in range(d.num_layers):
        ops += _attention_ops(d, weights, i)
        ops += _mlp_ops(d, weights, i)
    norm = weights.norm("norm", d.hidden_size, "model.norm.weight")
    ops += [Norm(x="x", out="h", weight=norm, eps=d.eps), Head(x="h", weight=head)]
    cache = CacheGroup("main", tuple(range(d.num_layers)), d.num_kv_heads, d.head_dim)
    return Program(
        architecture=d.architecture,
        ops=tuple(ops),
        matrices=weights.matrices,
        vectors=weights.vectors,
        caches=(cache,),
        widths=_widths(d),
        vocab_size=d.vocab_size,
        hidden_size=d.hidden_size,
        num_layers=d.num_layers,
        max_position=d.max_position,
    )


def _widths(d: Decoder) -> dict[str, int]:
    attention = d.num_heads * d.head_dim
    return {
        "x": d.hidden_size, "h": d.hidden_size, "q": attention, "a": attention,
        "m": d.intermediate_size,
    }  # fmt: skip


def _attention_ops(d: Decoder, weights: _Weights, i: int) -> list[Op]:
    layer, source = f"layers.{i}.", f"model.layers.{i}."
    widths = {"q": d.num_heads, "k": d.num_kv_heads, "v": d.num_kv_heads}
    parts = [
        Segment(layer + part, heads * d.head_dim, f"{source}self_attn.{part}_proj.weight")
        for part, heads in widths.items()
    ]
    qkv = weights.matrix(layer + "qkv", d.hidden_size, parts)
    o_part = Segment(layer + "o", d.hidden_size, f"{source}self_attn.o_proj.weight")
    o = weights.matrix(layer + "o", d.num_heads * d.head_dim, [o_part])
    norm = weights.norm(layer + "attn_norm", d.hidden_size, source + "input_layernorm.weight")
    q_norm, k_norm = (
        weights.norm(layer + name, d.head_dim, f"{source}self_attn.{name}.weight")
        if d.qk_norm
        else None
        for name in ("q_norm", "k_norm")
    )
    bias = weights.bias(qkv, d.qkv_bias)
    return [
        Norm(x="x", out="h", weight=norm, eps=d.eps),
        Qkv(
            x="h", out="q", weight=qkv, bias=bias, q_norm=q_norm, k_norm=k_norm, eps=d.eps,
            rope=d.rope, layer=i, num_heads=d.num_heads, num_kv_heads=d.num_kv_heads,
            head_dim=d.head_dim,
        ),
        Attention(
            q="q", out="a", layer=i, num_heads=d.num_heads, num_kv_heads=d.num_kv_heads,
            head_dim=d.head_dim, scale=d.head_dim**-0.5, window=d.windows[i],
        ),
        Linear(x="a", out="x", weight=o, bias=weights.bias(o, d.o_bias), residual=True),
    ]  # fmt: skip


def _mlp_ops(d: Decoder, weights: _Weights, i: int) -> list[Op]:
    layer, source = f"layers.{i}.", f"model.layers.{i}."
    norm_source = f"{source}post_attention_layernorm.weight"
    norm = weights.norm(layer + "mlp_norm", d.hidden_size, norm_source)
    parts = [
        Segment(layer + part, d.intermediate_size, f"{source}mlp.{part}_proj.weight")
        for part in ("gate", "up")
    ]
    gate_up = weights.matrix(layer + "gate_up", d.hidden_size, parts, interleaved=True)
    down_part = Segment(layer + "down", d.hidden_size, f"{source}mlp.down_proj.weight")
    down = weights.matrix(layer + "down", d.intermediate_size, [down_part])
    gate_up_bias = weights.bias(gate_up, d.mlp_bias)
    return [
        Norm(x="x", out="h", weight=norm, eps=d.eps),
        Linear(x="h", out="m", weight=gate_up, bias=gate_up_bias, activation="silu_gated"),
        Linear(x="m", out="x", weight=down, bias=weights.bias(down, d.mlp_bias), residual=True),
    ]
