"""A program that contradicts itself is refused, wherever the contradiction lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from argosy.errors import BundleError
from argosy.model.architectures import program_from_config
from argosy.model.check import check_program
from argosy.model.formats import Format, Kind
from argosy.model.program import Attention, CacheGroup, Embed, Linear, Program, Qkv, Rope, Segment

CONFIG = {
    "model_type": "qwen3",
    "attention_bias": True,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
}


def op(kind: type[Any], **changes: Any) -> Callable[[Program], Program]:
    """A change of the first operation of one kind."""

    def change(p: Program) -> Program:
        index = next(i for i, op in enumerate(p.ops) if isinstance(op, kind))
        ops = list(p.ops)
        ops[index] = replace(ops[index], **changes)
        return replace(p, ops=tuple(ops))

    return change


def matrix(name: str, **changes: Any) -> Callable[[Program], Program]:
    """A change of one matrix."""
    return lambda p: replace(p, matrices={**p.matrices, name: replace(p.matrices[name], **changes)})


def whole(**changes: Any) -> Callable[[Program], Program]:
    """A change of the program itself."""
    return lambda p: replace(p, **changes)


def cut_segment(p: Program) -> Program:
    """A segment of the first qkv that is one column short."""
    qkv = p.matrices["layers.0.qkv"]
    first = replace(qkv.segments[0], cols=63)
    return matrix("layers.0.qkv", segments=(first, *qkv.segments[1:]))(p)


GROUP = CacheGroup("main", (0, 1), 2, 16)
WRONG: list[tuple[str, Callable[[Program], Program]]] = [
    ("no operations", whole(ops=())),
    ("size 0", whole(vocab_size=0)),
    ("size -3", whole(hidden_size=-3)),
    ("out of range", lambda p: replace(p, widths={**p.widths, "x": 2**40})),
    ("columns of", whole(vocab_size=101)),
    ("calls itself", lambda p: replace(p, matrices={**p.matrices, "odd": p.matrices["head"]})),
    ("has k=0", matrix("layers.0.o", k=0)),
    ("k of layers.0.o", matrix("layers.0.o", k=65)),
    ("segments of layers.0.qkv", cut_segment),
    ("has segments of", matrix("layers.0.o", segments=())),
    ("groups of 0", matrix("head", format=Format(Kind.W4))),
    ("groups of 32", matrix("head", format=Format(Kind.BF16, 32))),
    ("matrix head is", matrix("head", format=Format(Kind.W8, 32, True))),
    ("interleaves", matrix("layers.0.o", interleaved=True)),
    ("go together", matrix("layers.0.gate_up", interleaved=False)),
    ("in two cache groups", whole(caches=(GROUP, GROUP))),
    ("has no cache", whole(caches=())),
    ("kv heads", whole(caches=(replace(GROUP, num_kv_heads=4),))),
    ("head_dim", whole(caches=(replace(GROUP, head_dim=8),))),
    ("of kind", whole(caches=(replace(GROUP, kind="state"),))),
    ("qkv has more than one segment", op(Linear, weight="layers.0.qkv")),
    ("width of out is 64, not 63", matrix("layers.0.o", segments=(Segment("layers.0.o", 63, ""),))),
    ("more than one segment", op(Embed, weight="layers.0.qkv")),
    ("activation", op(Linear, activation="relu")),
    ("is unknown", op(Linear, x="nothing")),
    ("matrix nothing is missing", op(Linear, weight="nothing")),
    ("vector nothing is missing", op(Linear, bias="nothing")),
    ("segments of layers.0.qkv_bias", op(Linear, bias="layers.0.qkv_bias")),
    ("size of layers.0.attn_norm", op(Qkv, q_norm="layers.0.attn_norm")),
    ("rope turns 18", op(Qkv, rope=Rope((1.0,) * 9))),
    ("not finite", op(Qkv, rope=Rope((float("nan"),)))),
    ("layer 7", op(Attention, layer=7)),
    ("do not divide", op(Attention, num_heads=3)),
    ("scale", op(Attention, scale=float("inf"))),
    ("window 0", op(Attention, window=0)),
    ("eps", op(Qkv, eps=-1.0)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "change"), WRONG, ids=[said for said, _ in WRONG])
def test_contradictions_are_refused(said: str, change: Callable[[Program], Program]) -> None:
    program = program_from_config(CONFIG)
    check_program(program)
    with pytest.raises(BundleError, match=said):
        check_program(change(program))


def test_the_operation_is_named() -> None:
    with pytest.raises(BundleError, match=r"operation 2 \(Qkv\)"):
        check_program(op(Qkv, x="nothing")(program_from_config(CONFIG)))
