"""Random models of every architecture agree with transformers in fp32, teacher-forced.

Run by `make oracle`, in an environment with torch and transformers.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from argosy.bundle.build import build_bundle
from argosy.bundle.open import Bundle, open_bundle
from argosy.runtime.native import NativeRuntime, variants
from argosy.runtime.reference import ReferenceRuntime
from argosy.types import PAGE_TOKENS, Runtime
from kernels.programs import F32, batch, logits
from random_models import LINEAR_SCALING, LLAMA3_SCALING, write_model

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # transformers' and torch's own
]

NUM_DECODED = 32
CASES: dict[str, dict[str, Any]] = {
    "llama, head_dim 8, untied": {
        "arch": "llama", "hidden": 64, "heads": 8, "kv_heads": 8, "head_dim": 8,
    },
    "llama, head_dim 20, 3 heads per kv head, vocabulary 5003, tied": {
        "arch": "llama", "hidden": 120, "heads": 6, "kv_heads": 2, "head_dim": 20,
        "vocab": 5003, "tied": True,
    },
    "llama 3.1 rope, head_dim 80, 8 heads per kv head, biases": {
        "arch": "llama", "hidden": 640, "heads": 8, "kv_heads": 1, "head_dim": 80,
        "rope_scaling": LLAMA3_SCALING, "rope_theta": 500000.0, "bias": True, "mlp_bias": True,
    },
    "llama, linear rope, three shards, newer config": {
        "arch": "llama", "rope_scaling": LINEAR_SCALING, "shards": 3, "rope_parameters": True,
    },
    "llama, K 2304, context 3000": {
        "arch": "llama", "hidden": 256, "heads": 4, "kv_heads": 2, "head_dim": 64, "inter": 2304,
        "max_position": 4096, "length": 3000,
    },
    "mistral, head_dim 128, window 100": {
        "arch": "mistral", "hidden": 96, "heads": 3, "kv_heads": 1, "head_dim": 128,
        "sliding_window": 100,
    },
    "mistral, no window, tied": {
        "arch": "mistral", "hidden": 64, "heads": 8, "kv_heads": 1, "head_dim": 8, "tied": True,
    },
    "qwen2, window on some layers": {
        "arch": "qwen2", "hidden": 240, "heads": 3, "kv_heads": 3, "head_dim": 80, "layers": 3,
        "sliding_window": 70,
    },
    "qwen2, tied, vocabulary 5003": {
        "arch": "qwen2", "hidden": 160, "heads": 8, "kv_heads": 1, "head_dim": 20, "vocab": 5003,
        "tied": True,
    },
    "qwen3, head_dim 128, tied": {
        "arch": "qwen3", "hidden": 192, "heads": 6, "kv_heads": 2, "head_dim": 128, "tied": True,
    },
    "qwen3, head_dim 80, biases, context 1300": {
        "arch": "qwen3", "hidden": 64, "heads": 8, "kv_heads": 1, "head_dim": 80, "bias": True,
        "max_position": 2048, "length": 1300,
    },
}  # fmt: skip


def theirs(folder: Path, tokens: list[int]) -> tuple[F32, float]:
    """Logits of transformers, and the mean over rows and heads of the largest attention weight."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        out = model.eval()(torch.tensor(tokens)[None], output_attentions=True)
    peak = float(torch.stack([a.amax(-1).mean() for a in out.attentions]).mean())
    return out.logits[0].numpy(), peak


def ours(runtime: Runtime, tokens: list[int], pages: list[int]) -> F32:
    """The prompt in uneven chunks, then the last tokens one by one."""
    prompt = len(tokens) - NUM_DECODED
    cuts = [*range(0, prompt, 97), *range(prompt, len(tokens) + 1)]
    parts = [
        logits(runtime, batch([(tokens[start:end], start, pages)])) for start, end in pairwise(cuts)
    ]
    return np.concatenate(parts)


def runtimes(bundle: Bundle, num_pages: int, short: bool) -> dict[str, Runtime]:
    options = {"num_pages": (num_pages,), "cache_dtype": "fp32", "keep_logits": True}
    isas = variants() if short else variants()[:1]
    all_of_them: dict[str, Runtime] = {
        isa: NativeRuntime(bundle, num_threads=2, isa=isa, **options) for isa in isas
    }
    if short:
        all_of_them["reference"] = ReferenceRuntime(bundle, **options)
    return all_of_them


@pytest.mark.parametrize("name", CASES)
def test_logits_agree(name: str, tmp_path: Path) -> None:
    case = dict(CASES[name])
    length = case.pop("length", 200)
    write_model(tmp_path / "model", **case)
    bundle = open_bundle(build_bundle(tmp_path / "model", tmp_path / "bundle", dtype="float32"))
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, case.get("vocab", 320), length).tolist()
    num_pages = length // PAGE_TOKENS + 2
    pages = rng.permutation(np.arange(1, num_pages)).tolist()
    want, peak = theirs(tmp_path / "model", tokens)
    assert want.std() >= 1
    assert peak >= 0.15, "attention is flat: masks and heads would not show"
    for kind, runtime in runtimes(bundle, num_pages, short=length <= 200).items():
        got = ours(runtime, tokens, pages)
        assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max(), kind
