"""Configs to programs: what is particular to each architecture, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from argosy.errors import CheckpointError
from argosy.model.architectures import ARCHITECTURES, program_from_config
from argosy.model.check import check_program
from argosy.model.program import Attention, Embed, Linear, Program, Qkv

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 77,
}


def program(arch: str = "llama", **entries: Any) -> Program:
    """The program of a small config."""
    return program_from_config({"model_type": arch, **SMALL, **entries})


def biases(p: Program) -> set[str]:
    """Names of the biases of layer 0, without the layer."""
    return {
        v.removeprefix("layers.0.") for v in p.vectors if v.startswith("layers.0.") and "bias" in v
    }


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_architecture_gives_a_whole_program(arch: str, tied: bool) -> None:
    p = program(arch, head_dim=10, tie_word_embeddings=tied)
    check_program(p)
    assert len(p.ops) == 1 + 3 * 7 + 2
    assert [s.name for s in p.matrices["layers.2.qkv"].segments] == [
        "layers.2.q", "layers.2.k", "layers.2.v",
    ]  # fmt: skip
    assert [s.cols for s in p.matrices["layers.0.qkv"].segments] == [60, 20, 20]
    assert p.matrices["layers.0.gate_up"].interleaved
    assert ("embed" in p.matrices) is not tied
    embed = next(op for op in p.ops if isinstance(op, Embed))
    assert embed.weight == ("head" if tied else "embed")


def test_parameters_are_counted_once() -> None:
    layer = 48 * (48 + 16 + 16) + 48 * 48 + 3 * 48 * 100 + 2 * 48
    assert program().num_parameters == 3 * layer + 48 + 2 * 77 * 48
    assert program(tie_word_embeddings=True).num_parameters == 3 * layer + 48 + 77 * 48


BIASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("llama", {}, set()),
    ("llama", {"attention_bias": True}, {"qkv_bias", "o_bias"}),
    ("llama", {"mlp_bias": True}, {"gate_up_bias", "down_bias"}),
    ("mistral", {"attention_bias": True}, set()),
    ("qwen2", {}, {"qkv_bias"}),
    ("qwen2", {"attention_bias": False}, {"qkv_bias"}),
    ("qwen3", {}, set()),
    ("qwen3", {"attention_bias": True}, {"qkv_bias", "o_bias"}),
]


@pytest.mark.parametrize(("arch", "entries", "expected"), BIASES)
def test_biases(arch: str, entries: dict[str, Any], expected: set[str]) -> None:
    p = program(arch, **entries)
    check_program(p)
    assert biases(p) == expected


def test_a_bias_lies_in_the_order_of_its_matrix() -> None:
    p = program(mlp_bias=True)
    bias = p.vectors["layers.0.gate_up_bias"]
    assert bias.interleaved and bias.size == 2 * 112
    assert bias.segments[1].source == "model.layers.0.mlp.up_proj.bias"


def test_qk_norms_are_qwen3s_alone() -> None:
    ops = {
        arch: next(op for op in program(arch).ops if isinstance(op, Qkv)) for arch in ARCHITECTURES
    }
    assert {arch for arch, op in ops.items() if op.q_norm and op.k_norm} == {"qwen3"}


def test_head_dim_defaults() -> None:
    assert program().caches[0].head_dim == 8
    assert program("qwen3").caches[0].head_dim == 128
    assert program(head_dim=80).caches[0].head_dim == 80


def test_kv_heads_default_to_heads() -> None:
    assert program(num_key_value_heads=None).caches[0].num_kv_heads == 6


WINDOWS: list[tuple[str, dict[str, Any], list[int | None]]] = [
    ("llama", {"sliding_window": 16}, [None, None, None]),
    ("mistral", {}, [4096, 4096, 4096]),
    ("mistral", {"sliding_window": None}, [None, None, None]),
    ("mistral", {"sliding_window": 32}, [32, 32, 32]),
    ("qwen2", {"sliding_window": 32}, [None, None, None]),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 32}, [None, None, None]),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
        [None, 32, 32],
    ),
    (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 32,
            "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        },
        [32, None, None],
    ),
]


@pytest.mark.parametrize(("arch", "entries", "windows"), WINDOWS)
def test_windows(arch: str, entries: dict[str, Any], windows: list[int | None]) -> None:
    ops = program(arch, **entries).ops
    assert [op.window for op in ops if isinstance(op, Attention)] == windows


def test_outputs_are_added_to_the_residual() -> None:
    linears = [op for op in program().ops if isinstance(op, Linear)]
    assert [op.residual for op in linears] == [True, False, True] * 3
    assert linears[1].activation == "silu_gated"


ABSURD: list[tuple[str, Any]] = [
    ("hidden_size", 0),
    ("hidden_size", -1),
    ("hidden_size", 10**12),
    ("hidden_size", 64.0),
    ("hidden_size", "64"),
    ("hidden_size", True),
    ("hidden_size", [64]),
    ("hidden_size", float("nan")),
    ("intermediate_size", 0),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", 10**9),
    ("num_attention_heads", 0),
    ("num_attention_heads", 5),
    ("num_key_value_heads", 4),
    ("num_key_value_heads", -2),
    ("head_dim", 6),
    ("head_dim", 9),
    ("head_dim", 0),
    ("head_dim", 10**6),
    ("vocab_size", 0),
    ("vocab_size", 2**40),
    ("max_position_embeddings", 0),
    ("rms_norm_eps", 0.0),
    ("rms_norm_eps", -1e-5),
    ("rms_norm_eps", float("nan")),
    ("rms_norm_eps", float("inf")),
    ("rms_norm_eps", "1e-5"),
    ("hidden_act", "gelu"),
    ("tie_word_embeddings", 1),
    ("attention_bias", "yes"),
    ("architectures", ["LlamaForSequenceClassification"]),
    ("architectures", "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("name", "value"), ABSURD)
def test_absurd_values_are_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        program(**{name: value})
    assert name in str(caught.value)
    assert repr(value) in str(caught.value) or str(value) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"]
)
def test_missing_values_are_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        program(**{name: None})


@pytest.mark.parametrize("entries", [{"layer_types": ["full_attention"]}, {"layer_types": "all"}])
def test_layer_types_must_name_every_layer(entries: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="layer_types"):
        program("qwen3", use_sliding_window=True, **entries)


@pytest.mark.parametrize("kind", ["gpt2", None, 3, ["llama"]])
def test_unknown_architectures_get_the_list_of_known_ones(kind: Any) -> None:
    with pytest.raises(CheckpointError, match="llama, mistral, qwen2, qwen3"):
        program_from_config({**SMALL, "model_type": kind})


def test_remote_code_is_refused_with_a_reason() -> None:
    config = {**SMALL, "model_type": "mine", "auto_map": {"AutoModelForCausalLM": "m.Mine"}}
    with pytest.raises(CheckpointError, match="no remote code is ever executed"):
        program_from_config(config)


def test_a_known_architecture_needs_none_of_its_code() -> None:
    assert program(auto_map={"AutoModelForCausalLM": "m.Mine"}).architecture == "llama"


def test_quantized_checkpoints_are_refused() -> None:
    with pytest.raises(CheckpointError, match="gptq"):
        program(quantization_config={"quant_method": "gptq"})
