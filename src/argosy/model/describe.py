"""Texts for `argosy show`: what a model is, and its program in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from argosy.model.formats import CACHE_DTYPES
from argosy.model.program import (
    Attention,
    Embed,
    Head,
    Linear,
    Matrix,
    Norm,
    Op,
    Program,
    Qkv,
    page_bytes,
)
from argosy.types import PAGE_TOKENS


def describe(program: Program) -> str:
    """Sizes, parameters, bytes by format and memory per token of context, one fact a line."""
    lines = [
        f"architecture     {program.architecture}",
        f"layers           {program.num_layers}",
        f"hidden           {program.hidden_size}",
        f"intermediate     {program.widths.get('m', 0)}",
        *_attention_lines(program),
        f"vocabulary       {program.vocab_size}{_tied_text(program)}",
        f"context          {program.max_position} tokens",
        f"parameters       {program.num_parameters:,}",
        f"weights          {bytes_text(program.weight_bytes)}",
        *_format_lines(program),
        *_cache_lines(program),
        *program.notes,
    ]
    return "\n".join(lines)


def describe_program(program: Program) -> str:
    """The operations in order, in words, layers that are alike folded into one."""
    blocks = _fold([(_layer(op), _op_text(program, op)) for op in program.ops])
    return "\n".join(line for block in blocks for line in block)


def bytes_text(count: int) -> str:
    """A number of bytes in the unit that reads best (powers of 1,024)."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def kv_bytes_per_token(program: Program, cache_dtype: str) -> float:
    """Bytes of all cache groups per token of context, padding of heads included."""
    return sum(page_bytes(group, cache_dtype) for group in program.caches) / PAGE_TOKENS


def _attention_lines(program: Program) -> list[str]:
    attention = [op for op in program.ops if isinstance(op, Attention)]
    if not attention:
        return []
    first = attention[0]
    windows = Counter(op.window for op in attention)
    heads = f"{first.num_heads} of {first.head_dim}, {first.num_kv_heads} for keys and values"
    lines = [f"heads            {heads}"]
    if set(windows) != {None}:
        parts = (f"{n} layers {f'see {w} tokens' if w else 'see all'}" for w, n in windows.items())
        lines.append(f"windows          {', '.join(parts)}")
    return lines


def _tied_text(program: Program) -> str:
    embed = next((op.weight for op in program.ops if isinstance(op, Embed)), None)
    return ", tied to the embedding" if embed == program.head().weight else ""


def _format_lines(program: Program) -> list[str]:
    sizes: Counter[str] = Counter()
    for matrix in program.matrices.values():
        sizes[str(matrix.format)] += matrix.num_bytes
    sizes["fp32 vectors"] += sum(v.num_bytes for v in program.vectors.values())
    return [f"  {name:<14} {bytes_text(size)}" for name, size in sizes.most_common()]


def _cache_lines(program: Program) -> list[str]:
    if not program.caches:
        return ["cache            none"]
    texts = (
        f"{bytes_text(round(kv_bytes_per_token(program, dtype)))} per token in {dtype}"
        for dtype in CACHE_DTYPES
    )
    return [f"cache            {', '.join(texts)}"]


def _layer(op: Op) -> int | None:
    return op.layer if isinstance(op, Qkv | Attention) else _layer_of_name(op.weight)


def _layer_of_name(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" and len(parts) > 2 else None


def _fold(ops: Iterable[tuple[int | None, str]]) -> list[list[str]]:
    """Runs of layers whose texts are equal but for their number, as one block with a title."""
    runs: list[tuple[int | None, int | None, list[str]]] = []
    current: tuple[int | None, list[str]] | None = None
    blocks: list[tuple[int | None, list[str]]] = []
    for layer, text in ops:
        if current is None or current[0] != layer:
            current = (layer, [])
            blocks.append(current)
        current[1].append(text)
    for layer, texts in blocks:
        last = runs[-1] if runs else None
        if last and layer is not None and last[1] == layer - 1 and last[2] == texts:
            runs[-1] = (last[0], layer, texts)
        else:
            runs.append((layer, layer, texts))
    return [_titled(first, last, texts) for first, last, texts in runs]


def _titled(first: int | None, last: int | None, texts: list[str]) -> list[str]:
    if first is None:
        return texts
    title = f"layer {first}:" if first == last else f"layers {first} to {last}:"
    return [title, *(f"  {text}" for text in texts)]


def _op_text(program: Program, op: Op) -> str:
    match op:
        case Embed():
            return f"{op.out} = embedding of the token, from {_weight(program.matrices[op.weight])}"
        case Norm():
            return f"{op.out} = rms norm of {op.x}, eps {op.eps:g}"
        case Linear():
            return _linear_text(program, op)
        case Qkv():
            return _qkv_text(program, op)
        case Attention():
            window = f", the last {op.window} tokens" if op.window else ""
            scale = f"scale {op.scale:.6g}"
            return f"{op.out} = attention of {op.q} over the cache, causal{window}, {scale}"
        case Head():
            bias = " + bias" if op.bias else ""
            return f"logits = {op.x} @ {_weight(program.matrices[op.weight])}{bias}, then the draw"


def _linear_text(program: Program, op: Linear) -> str:
    product = f"{op.x} @ {_weight(program.matrices[op.weight])}{' + bias' if op.bias else ''}"
    if op.activation == "silu_gated":
        return f"{op.out} = silu(gate) * up of {product}"
    return f"{op.out} {'+=' if op.residual else '='} {product}"


def _qkv_text(program: Program, op: Qkv) -> str:
    bias = " + bias" if op.bias else ""
    norm = ", q and k normed per head" if op.q_norm else ""
    return (
        f"{op.out}, k, v = {op.x} @ {_weight(program.matrices[op.weight])}{bias}{norm}, "
        f"q and k turned (rope, {op.rope.dim} lanes), k and v to the cache"
    )


def _weight(matrix: Matrix) -> str:
    name = matrix.name.split(".", 2)[2] if matrix.name.startswith("layers.") else matrix.name
    cols = " + ".join(str(s.cols) for s in matrix.segments)
    return f"{name} ({matrix.k} x {cols}, {matrix.format})"
