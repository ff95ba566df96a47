"""TensorRT-LLM style build configs: every key's effect, acceptance or refusal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from argosy.bundle.build import build_bundle
from argosy.bundle.open import open_bundle
from argosy.bundle.trtllm import KEYS, LENGTHS, PLUGIN_KEYS, Builder, read_build_config
from argosy.errors import ConfigError
from random_models import write_model

WHOLE: dict[str, Any] = {
    "architecture": "llama",
    "dtype": "float16",
    "tp_size": 1,
    "pp_size": 1,
    "max_batch_size": 8,
    "max_input_len": 100,
    "max_output_len": 28,
    "max_seq_len": 128,
    "plugin_config": {
        "use_paged_context_fmha": True,
        "use_flash_attention": True,
        "gemm_plugin": "float16",
    },
}


def test_the_whole_config_builds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="argosy"):
        out = Builder(write_model(tmp_path / "hf"), tmp_path / "out").build_engine(WHOLE)
    bundle = open_bundle(out)
    assert bundle.dtype == bundle.manifest.quantization == "fp16"
    assert bundle.limits == {"max_num_seqs": 8, "max_model_len": 128}
    (said,) = [record.getMessage() for record in caplog.records]
    silent = [f"plugin_config.{name}" for name in WHOLE["plugin_config"]]
    assert said == f"accepted without effect: {', '.join([*silent, *LENGTHS])}"


EFFECTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"dtype": "auto", "limits": {}, "architecture": None, "silent": ()}),
    ({"architecture": "LlamaForCausalLM"}, {"architecture": "llama"}),
    ({"architecture": "Qwen2ForCausalLM"}, {"architecture": "qwen2"}),
    ({"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
    ({"tp_size": 1, "pp_size": 1}, {"silent": ()}),
    ({"max_batch_size": 4}, {"limits": {"max_num_seqs": 4}}),
    ({"max_num_tokens": 256}, {"limits": {"max_num_batched_tokens": 256}}),
    ({"max_seq_len": 99}, {"limits": {"max_model_len": 99}}),
    ({"max_input_len": 60, "max_output_len": 4}, {"limits": {"max_model_len": 64}, "silent": ()}),
    ({"max_input_len": 60}, {"limits": {}, "silent": ("max_input_len",)}),
    (
        {"max_seq_len": 90, "max_output_len": 60},
        {"limits": {"max_model_len": 90}, "silent": ("max_output_len",)},
    ),
    ({"checkpoint_dir": "m", "output_dir": "o"}, {"model": "m", "output": "o"}),
    ({"plugin_config": None}, {"silent": ()}),
    ({"plugin_config": {"gemm_plugin": None}}, {"silent": ("plugin_config.gemm_plugin",)}),
    ({"plugin_config": {"tokens_per_block": 16}}, {"limits": {}}),
    ({"plugin_config": {"paged_kv_cache": "enable"}}, {"limits": {}}),
]


@pytest.mark.parametrize(("config", "expected"), EFFECTS)
def test_effects(config: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = read_build_config(config)
    assert {name: getattr(settings, name) for name in expected} == expected


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "gpt2"}, "architecture='gpt2'"),
    ({"architecture": 3}, "architecture=3"),
    ({"dtype": "float8"}, "float8"),
    ({"dtype": None}, "dtype=None"),
    ({"tp_size": 2}, "tp_size=2.*set tp_size=1"),
    ({"pp_size": 4}, "pp_size=4"),
    ({"tp_size": 0}, "tp_size=0"),
    ({"tp_size": "1"}, "tp_size='1'"),
    ({"max_batch_size": 0}, "max_batch_size=0"),
    ({"max_batch_size": True}, "max_batch_size=True"),
    ({"max_seq_len": 2.5}, "max_seq_len=2.5"),
    ({"max_input_len": 200, "max_seq_len": 128}, "max_input_len=200 exceeds max_seq_len=128"),
    ({"max_sequence_len": 9}, "max_sequence_len=9 is unknown"),
    ({"plugin_config": {"use_paged_context_fmha": False}}, "use_paged_context_fmha=False"),
    ({"plugin_config": {"use_flash_attention": False}}, "use_flash_attention=False"),
    ({"plugin_config": {"use_flash_attention": "disable"}}, "'disable'"),
    ({"plugin_config": {"gemm_plugin": 3}}, "gemm_plugin=3"),
    ({"plugin_config": {"tokens_per_block": 64}}, "tokens_per_block=64.*16"),
    ({"plugin_config": {"lora_plugin": "auto"}}, "plugin_config.lora_plugin='auto' is unknown"),
    ({"plugin_config": [1]}, "plugin_config"),
]


@pytest.mark.parametrize(("config", "said"), REFUSED)
def test_refusals_name_key_and_value(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_build_config(config)


def test_a_config_must_be_a_map() -> None:
    with pytest.raises(ConfigError, match="list"):
        read_build_config([("dtype", "float16")])  # type: ignore[arg-type]


def test_every_key_of_the_table_is_tested() -> None:
    rows = [*(config for config, _ in EFFECTS), *(config for config, _ in REFUSED), WHOLE]
    tested = {name for config in rows for name in config}
    plugins = [
        config["plugin_config"] for config in rows if isinstance(config.get("plugin_config"), dict)
    ]
    assert set(KEYS) <= tested
    assert {"use_paged_context_fmha", "use_flash_attention", "gemm_plugin"} <= {
        name for config in plugins for name in config
    } & set(PLUGIN_KEYS)


def test_the_page_shows_the_table(root: Path) -> None:
    page = (root / "docs" / "reference" / "trtllm-build-config.md").read_text()
    for prefix, table in (("", KEYS), ("plugin_config.", PLUGIN_KEYS)):
        for name, key in table.items():
            what = "no effect: " if key.silent else ""
            assert f"| `{prefix}{name}` | {what}{key.effect} |" in page


AGAINST: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "mistral"}, "checkpoint is a 'llama'"),
    ({"max_seq_len": 513}, "exceeds the model's context of 512"),
    ({"dtype": "float32"}, "dtype=float32 with quantization=w4"),
]


@pytest.mark.parametrize(("config", "said"), AGAINST)
def test_what_the_checkpoint_cannot_do_is_refused(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    builder = Builder(write_model(tmp_path / "hf"), tmp_path / "out", quantization="w4")
    with pytest.raises(ConfigError, match=said):
        builder.build_engine(config)
    assert not (tmp_path / "out").exists()


def test_places_may_come_from_the_config(tmp_path: Path) -> None:
    source = write_model(tmp_path / "hf")
    config = {"checkpoint_dir": str(source), "output_dir": str(tmp_path / "out")}
    assert Builder().build_engine(config) == tmp_path / "out"
    open_bundle(tmp_path / "out")


def test_there_must_be_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model to build from"):
        Builder(output=tmp_path / "out").build_engine({})
    bundle = build_bundle(write_model(tmp_path / "hf"), tmp_path / "bundle")
    with pytest.raises(ConfigError, match="is a bundle already"):
        Builder(bundle, tmp_path / "out").build_engine({})
