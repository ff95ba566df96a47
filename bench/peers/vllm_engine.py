"""vLLM on a CPU under the harness: `python vllm_engine.py FOLDER THREADS`. bf16 weights.

Its engine without a server, on the benchmark's own checkpoint FOLDER.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from protocol import CONTEXT, serve

CACHE_GIB = 2
SEQUENCES = 32


class Vllm:
    """One engine; `step` advances all its sequences."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        import vllm

        self._params = vllm.SamplingParams
        self._engine = vllm.LLMEngine.from_engine_args(
            vllm.EngineArgs(
                model=str(checkpoint), dtype="bfloat16", max_model_len=CONTEXT,
                max_num_seqs=SEQUENCES, max_num_batched_tokens=CONTEXT,
                enable_prefix_caching=False,
            )
        )  # fmt: skip
        self._vocab = self._engine.model_config.get_vocab_size()
        self._rng, self._sent = np.random.default_rng(0), 0
        self.description = f"vLLM {vllm.__version__}, bf16"
        self.facts: dict[str, float] = {}

    def _add(self, prompt: int, answer: int) -> None:
        self._sent += 1
        ids = self._rng.integers(0, self._vocab, prompt).tolist()
        params = self._params(temperature=0, max_tokens=answer, ignore_eos=True, detokenize=False)
        self._engine.add_request(str(self._sent), {"prompt_token_ids": ids}, params)

    def _finish(self) -> None:
        while self._engine.has_unfinished_requests():
            self._engine.step()

    def prefill(self, tokens: int) -> float:
        start = time.perf_counter()
        self._add(tokens, 1)
        self._finish()
        return time.perf_counter() - start

    def decode(self, batch: int, tokens: int, context: int) -> float:
        for _ in range(batch):
            self._add(context, tokens + 8)
        made: dict[str, int] = {}

        def until(count: int) -> None:
            """Step until every sequence has so many tokens; one step may bring several."""
            while len(made) < batch or min(made.values()) < count:
                for output in self._engine.step():
                    made[output.request_id] = len(output.outputs[0].token_ids)

        until(2)
        start, before = time.perf_counter(), sum(made.values())
        until(2 + tokens)
        took = time.perf_counter() - start
        took *= batch * tokens / (sum(made.values()) - before)
        self._finish()
        return took


if __name__ == "__main__":
    serve(lambda: Vllm(Path(sys.argv[1]), int(sys.argv[2])))
