"""Inverse frequencies against transformers' own fp32 numbers, and configs that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from argosy.errors import CheckpointError
from argosy.model.rope import read_rope
from argosy.model.settings import Settings

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def at(original: int) -> dict[str, int]:
    """The context a scaled model was trained with first."""
    return {"original_max_position_embeddings": original}


# inv_freq of transformers 5.23 on torch 2.13, bit for bit.
GOLDEN: list[tuple[int, dict[str, Any], list[float]]] = [
    (
        8,
        {"rope_theta": 5e5},
        [1.0, 0.03760603070259094, 0.001414213445968926, 5.3182957344688475e-05],
    ),
    (
        8,
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 3.0}},
        [0.3333333432674408, 0.012535343877971172, 0.0004714044916909188, 1.7727652448229492e-05],
    ),
    (
        8,
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5, **at(8192)}},
        [1.0, 0.03760603070259094, 0.0005248460220173001, 6.647869668086059e-06],
    ),
    (
        16,
        {"rope_scaling": {**LLAMA3, "factor": 32.0, **at(64)}},
        [1.0, 0.23668710887432098, 0.00372535502538085, 0.0009882118320092559,
         0.0003124999930150807, 9.882118320092559e-05, 3.125000148429535e-05,
         9.882118320092559e-06],
    ),
    (
        20,
        {},
        [1.0, 0.3981071710586548, 0.15848931670188904, 0.06309572607278824, 0.025118863210082054,
         0.009999999776482582, 0.003981070592999458, 0.001584893325343728, 0.0006309573072940111,
         0.0002511886996217072],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("dim", "config", "inv_freq"), GOLDEN)
def test_frequencies_are_those_of_transformers(
    dim: int, config: dict[str, Any], inv_freq: list[float]
) -> None:
    assert list(read_rope(Settings(config), dim, 2048).inv_freq) == inv_freq


def test_llama3_falls_back_to_the_context_of_the_model() -> None:
    scaled = {"rope_scaling": {**LLAMA3, **at(64)}}
    assert read_rope(Settings(scaled), 16, 2048) == read_rope(
        Settings({"rope_scaling": LLAMA3}), 16, 64
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
    ({"rope_scaling": {"rope_type": ["linear"]}}, "linear"),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "factor=0"),
    ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor=1.0"),
    ({"rope_scaling": [1]}, r"rope_scaling=\[1\]"),
    ({"rope_theta": -1.0}, "rope_theta=-1.0"),
    ({"rope_theta": float("nan")}, "rope_theta=nan"),
    ({"rope_theta": 10**400}, "rope_theta=1000"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
]


@pytest.mark.parametrize(("config", "said"), REFUSED)
def test_absurd_or_unknown_scaling_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_rope(Settings(config), 8, 2048)
