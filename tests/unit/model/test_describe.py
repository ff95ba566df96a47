"""The texts of `argosy show`."""

from __future__ import annotations

from argosy.model.architectures import program_from_config
from argosy.model.describe import bytes_text, describe, describe_program, kv_bytes_per_token
from argosy.model.passes.quantize import choose_numbers, quantize
from argosy.model.program import Program

CONFIG = {
    "model_type": "mistral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "sliding_window": 8,
    "tie_word_embeddings": True,
}


def program(rules: list[tuple[str, str]] | None = None) -> Program:
    """A small quantized program."""
    return quantize(
        program_from_config(CONFIG), choose_numbers("bf16", quantization="w4"), rules or []
    )


def test_facts_are_shown() -> None:
    text = describe(program())
    for fact in ("mistral", "4 of 16, 2 for keys and values", "100, tied", "4 layers see 8 tokens"):
        assert fact in text
    assert f"{program().num_parameters:,}" in text
    assert "w4g32" in text and "w8g32" in text


def test_bytes_by_format_add_up() -> None:
    p = program()
    by_format = sum(m.num_bytes for m in p.matrices.values() if str(m.format) == "w4g32")
    assert f"w4g32          {bytes_text(by_format)}" in describe(p)


def test_memory_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert kv_bytes_per_token(program(), "bf16") == 4 * 2 * (16 + 16) * 2
    assert kv_bytes_per_token(program(), "fp32") == 2 * kv_bytes_per_token(program(), "bf16")


def test_layers_that_are_alike_are_told_once() -> None:
    text = describe_program(program())
    assert "layers 0 to 3:" in text
    assert text.count("attention of q") == 1
    assert text.splitlines()[-1].startswith("logits = h @ head (64 x 100, w8g32)")


def test_a_layer_that_differs_stands_alone() -> None:
    text = describe_program(program([("layers.2.o", "w8")]))
    assert [line for line in text.splitlines() if line.startswith("layer")] == [
        "layers 0 to 1:", "layer 2:", "layer 3:",
    ]  # fmt: skip


def test_bytes_are_readable() -> None:
    assert [bytes_text(n) for n in (0, 1023, 1024, 5 * 2**30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 GiB",
    ]
