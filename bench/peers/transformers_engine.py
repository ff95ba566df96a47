"""transformers in bf16, eager, under the harness: `python transformers_engine.py FOLDER THREADS`.

The first prototype of many services: a loop around the model, with its cache.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from protocol import serve


class Transformers:
    """One model; a batch is a tensor of rows of equal length."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.bfloat16
        ).eval()
        self.description = f"transformers {transformers.__version__}, bf16"
        self.facts: dict[str, float] = {}

    def _step(self, ids: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        with torch.inference_mode():
            out = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def _prompt(self, batch: int, tokens: int) -> torch.Tensor:
        return torch.randint(0, self._model.config.vocab_size, (batch, tokens))

    def prefill(self, tokens: int) -> float:
        ids = self._prompt(1, tokens)
        start = time.perf_counter()
        self._step(ids, None)
        return time.perf_counter() - start

    def decode(self, batch: int, tokens: int, context: int) -> float:
        ids, cache = self._step(self._prompt(batch, context), None)
        start = time.perf_counter()
        for _ in range(tokens):
            ids, cache = self._step(ids, cache)
        return time.perf_counter() - start


if __name__ == "__main__":
    serve(lambda: Transformers(Path(sys.argv[1]), int(sys.argv[2])))
