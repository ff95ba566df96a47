"""OpenVINO GenAI under the harness: `python openvino_engine.py FOLDER THREADS KIND`.

Its continuous batching, on the benchmark's own checkpoint FOLDER, converted once beside it by
optimum-intel. KIND int4: symmetric, groups of 32, embedding and head int8 (4.5 and 8 bits each);
bf16: weights as they are.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import openvino_genai as ov
from openvino import Tensor
from protocol import CONTEXT, serve

CACHE_GB = 2
SEQUENCES = 32
FORMS = {
    "int4": ("int4", "--group-size", "32", "--sym", "--ratio", "1.0"),
    "bf16": ("bf16",),
}


def convert(checkpoint: Path, kind: str) -> Path:
    folder = checkpoint.with_name(f"{checkpoint.name}-openvino-{kind}")
    if not (folder / "openvino_model.xml").exists():
        export = Path(sys.executable).with_name("optimum-cli")
        command = [export, "export", "openvino", "--model", checkpoint, "--task"]
        command += ["text-generation-with-past", "--weight-format", *FORMS[kind], folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


class OpenVino:
    """One pipeline; `step` advances all its sequences."""

    def __init__(self, checkpoint: Path, threads: int, kind: str) -> None:
        config = ov.SchedulerConfig()
        config.cache_size, config.enable_prefix_caching = CACHE_GB, False
        config.max_num_seqs, config.max_num_batched_tokens = SEQUENCES, CONTEXT
        self._pipe = ov.ContinuousBatchingPipeline(
            str(convert(checkpoint, kind)), config, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
        self._vocab = len(self._pipe.get_tokenizer().get_vocab())
        self._rng, self._sent = np.random.default_rng(0), 0
        bits = {"int4": "int4 g32 4.50 bits, head 8", "bf16": "bf16"}[kind]
        self.description = f"OpenVINO GenAI {ov.__version__.split('-')[0]}, {bits}"
        self.facts: dict[str, float] = {}

    def _add(self, prompt: int, answer: int) -> ov.GenerationHandle:
        ids = self._rng.integers(0, self._vocab, (1, prompt), np.int64)
        params = ov.GenerationConfig()
        params.max_new_tokens, params.ignore_eos, params.do_sample = answer, True, False
        self._sent += 1
        return self._pipe.add_request(self._sent, Tensor(ids), params)

    def _finish(self) -> None:
        while self._pipe.has_non_finished_requests():
            self._pipe.step()

    def prefill(self, tokens: int) -> float:
        handle = self._add(tokens, 1)
        start = time.perf_counter()
        self._finish()
        took = time.perf_counter() - start
        del handle
        return took

    def decode(self, batch: int, tokens: int, context: int) -> float:
        handles = [self._add(context, tokens + 8) for _ in range(batch)]
        waiting = set(range(batch))
        while waiting:
            self._pipe.step()
            waiting -= {i for i in waiting if handles[i].can_read()}
        start = time.perf_counter()
        for _ in range(tokens):
            self._pipe.step()
        took = time.perf_counter() - start
        self._finish()
        return took


if __name__ == "__main__":
    serve(lambda: OpenVino(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
