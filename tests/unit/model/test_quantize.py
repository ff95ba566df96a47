"""What dtype and quantization come to, and which matrix gets which format."""

from __future__ import annotations

import pytest

from argosy.errors import ConfigError
from argosy.model.architectures import program_from_config
from argosy.model.passes.quantize import Numbers, choose_numbers, quantize
from argosy.model.program import Program

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}

CHOICES = [
    ("fp32", "auto", None, "fp32", "fp32"),
    ("fp16", "auto", None, "fp16", "fp16"),
    ("bf16", "auto", None, "bf16", "bf16"),
    ("bf16", "float32", None, "fp32", "fp32"),
    ("fp32", "bfloat16", None, "bf16", "bf16"),
    ("fp32", "auto", "w4", "bf16", "w4g32"),
    ("fp32", "auto", "bf16", "bf16", "bf16"),
    ("bf16", "half", "w8g128", "fp16", "w8g128"),
    ("fp16", "float32", "fp32", "fp32", "fp32"),
]


@pytest.mark.parametrize(("own", "dtype", "quantization", "activations", "weights"), CHOICES)
def test_what_auto_comes_to(
    own: str, dtype: str, quantization: str | None, activations: str, weights: str
) -> None:
    numbers = choose_numbers(own, dtype, quantization)
    assert (numbers.dtype, str(numbers.format)) == (activations, weights)


@pytest.mark.parametrize("quantization", ["w4", "w8", "w4g64z", "bf16", "fp16"])
def test_float32_excludes_smaller_weights_by_name(quantization: str) -> None:
    with pytest.raises(ConfigError, match=f"dtype=float32 with quantization={quantization}"):
        choose_numbers("bf16", "float32", quantization)


def test_two_float_formats_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="disagree"):
        choose_numbers("bf16", "float16", "bf16")


def formats(numbers: Numbers, rules: list[tuple[str, str]] | None = None) -> dict[str, str]:
    """Format by matrix name."""
    program = quantize(plain(), numbers, rules or [])
    return {name: str(matrix.format) for name, matrix in program.matrices.items()}


def plain() -> Program:
    """A small program, formats not chosen."""
    return program_from_config(CONFIG)


def test_head_and_embedding_keep_more_bits_under_w4() -> None:
    found = formats(choose_numbers("bf16", quantization="w4g64z"))
    assert found["head"] == found["embed"] == "w8g64"
    assert found["layers.0.qkv"] == found["layers.1.down"] == "w4g64z"


def test_the_first_rule_that_matches_wins() -> None:
    rules = [("layers.0.*", "bf16"), ("layers.*.qkv", "w8"), ("head", "w4")]
    found = formats(choose_numbers("bf16", quantization="w4"), rules)
    assert found["layers.0.qkv"] == found["layers.0.down"] == "bf16"
    assert (found["layers.1.qkv"], found["layers.1.o"], found["head"]) == (
        "w8g32",
        "w4g32",
        "w4g32",
    )


def test_a_rule_may_name_a_segment() -> None:
    found = formats(choose_numbers("bf16"), [("layers.1.v", "w8")])
    assert (found["layers.0.qkv"], found["layers.1.qkv"]) == ("bf16", "w8g32")


@pytest.mark.parametrize("rule", [("layers.7.*", "w8"), ("lm_head", "w8")])
def test_a_rule_that_matches_nothing_is_refused(rule: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"rule {rule[0]}"):
        formats(choose_numbers("bf16"), [rule])


def test_a_rule_against_float32_is_refused() -> None:
    rules = [("layers.*", "fp32"), ("head", "w8")]
    with pytest.raises(ConfigError, match="dtype=float32 with rule head=w8"):
        choose_numbers("bf16", "float32", rules=rules)
    assert formats(choose_numbers("fp32", rules=rules), rules)["head"] == "w8g32"


def test_nothing_else_changes() -> None:
    before = plain()
    after = quantize(before, choose_numbers("fp32"))
    assert after == before
