"""Hugging Face folders in every form they come in, and what is said of broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.bundle.checkpoint import open_checkpoint
from argosy.bundle.safetensors import open_safetensors, write_safetensors
from argosy.errors import CheckpointError, ModelNotFound
from random_models import RandomModel as Model
from random_models import random_weights, round_to, write_model


def rewrite(folder: Path, **changes: Any) -> None:
    """Change tensors of model.safetensors: an array replaces or adds, None removes."""
    path = folder / "model.safetensors"
    file = open_safetensors(path)
    tensors = {name: file.raw_rows(name) for name in file.tensors} | changes
    write_safetensors(path, {name: t for name, t in tensors.items() if t is not None})


@pytest.mark.parametrize("arch", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"tied": True, "prefix": False}, {"shards": 3}])
def test_every_form_gives_the_same_tensors(
    tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path, arch=arch, **options))
    weights = random_weights(Model(arch=arch, **options))
    names = {name.removeprefix("model.") for name in weights}
    assert {source.removeprefix("model.") for source in checkpoint.tensors} == names
    for source, (_, name) in checkpoint.tensors.items():
        whole = checkpoint.rows(source, 0, len(weights[name]))
        np.testing.assert_array_equal(whole, weights[name])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("newer", [False, True])
def test_dtype_is_what_the_config_says(tmp_path: Path, dtype: str, newer: bool) -> None:
    checkpoint = open_checkpoint(write_model(tmp_path, dtype=dtype, rope_parameters=newer))
    assert checkpoint.dtype == {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]


def test_dtype_is_that_of_the_tensors_where_the_config_is_silent(tmp_path: Path) -> None:
    folder = write_model(tmp_path, dtype="bfloat16", config={"torch_dtype": None})
    assert open_checkpoint(folder).dtype == "bf16"


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        open_checkpoint(write_model(tmp_path, config={"torch_dtype": "float8_e4m3fn"}))


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    folder = write_model(tmp_path, layers=3)
    rewrite(
        folder,
        **{
            "model.layers.0.self_attn.q_proj.weight": None,
            "model.layers.2.mlp.up_proj.weight": None,
            "model.norm.weight": np.ones(63, "<f4"),
            "model.layers.1.self_attn.q_norm.weight": np.ones(16, "<f4"),
            "extra": np.ones(3, "<f4"),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    said = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert said == [
        "missing: model.layers.0.self_attn.q_proj.weight [64, 64]",
        "missing: model.layers.2.mlp.up_proj.weight [96, 64]",
        "shape [63] should be [64]: model.norm.weight",
        "unexpected: extra",
        "unexpected: model.layers.1.self_attn.q_norm.weight",
    ]


def test_a_dtype_that_is_no_weight_is_said(tmp_path: Path) -> None:
    folder = write_model(tmp_path, tied=True)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(
        CheckpointError, match=r"dtype I32 should be one of F32, F16, BF16: model\.emb"
    ):
        open_checkpoint(folder)


def test_copies_of_a_tied_head_and_old_buffers_are_ignored(tmp_path: Path) -> None:
    folder = write_model(tmp_path, tied=True)
    head = np.ones((320, 64), "<f4")
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, "<f4")}
    rewrite(folder, **{"lm_head.weight": head}, **buffer)
    assert "lm_head.weight" not in open_checkpoint(folder).tensors


def test_a_head_that_is_not_tied_is_needed(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    rewrite(folder, **{"lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        open_checkpoint(folder)


def test_the_same_tensor_twice_is_said(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    rewrite(folder, **{"norm.weight": np.ones(64, "<f4")})
    with pytest.raises(CheckpointError, match=r"twice: norm\.weight"):
        open_checkpoint(folder)


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    folder = write_model(tmp_path, shards=3)
    for part in (1, 3):
        (folder / f"model-{part:05}-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2 of 3 .*00001-of.*00003-of"):
        open_checkpoint(folder)


INDEXES = ["{", "[]", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
INDEXES += ['{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}']


@pytest.mark.parametrize("text", INDEXES)
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path, shards=2)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": "\\ud800"', "\x00"])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_model(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="save_pretrained"):
        open_checkpoint(folder)


def test_folders_without_weights_or_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        open_checkpoint(tmp_path)
    folder = write_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        open_checkpoint(folder)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(tmp_path)


def test_weights_in_one_file_of_any_name(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert open_checkpoint(folder).program.num_layers == 2


def test_stories_opens(stories: Path) -> None:
    checkpoint = open_checkpoint(stories)
    assert (checkpoint.dtype, checkpoint.program.num_parameters) == ("fp32", 260_032)
    config = json.loads((stories / "config.json").read_text())
    assert checkpoint.config == config


def test_random_models_round_to_their_dtype() -> None:
    values = np.array(
        [1.0, 1.00390625, 1.01171875, -3.4e38], np.float32
    )  # halfway cases go to even
    assert round_to(values, "bfloat16").tolist() == [0x3F80, 0x3F80, 0x3F82, 0xFF80]
