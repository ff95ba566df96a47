"""llama.cpp under the harness: `python llamacpp_engine.py FOLDER THREADS KIND WORK`.

Through the C API of llama-cpp-python, greedy by NumPy's argmax; KIND as gguf_model.py has it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import llama_cpp as lc
import numpy as np
from gguf_model import NAMES, gguf_file
from protocol import CONTEXT, serve

SEQUENCES = 32


class LlamaCpp:
    """One context; each step is one llama_decode over a batch of (token, position, sequence)."""

    def __init__(self, checkpoint: Path, threads: int, kind: str, work: Path) -> None:
        path = gguf_file(checkpoint, kind, Path(sys.executable), work)
        self._silence = lc.llama_log_callback(lambda *_: None)  # C keeps the pointer
        lc.llama_log_set(self._silence, None)
        self._model = lc.llama_model_load_from_file(
            str(path).encode(), lc.llama_model_default_params()
        )
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, 4096, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch = SEQUENCES, threads, threads
        params.kv_unified = True
        self._context = lc.llama_init_from_model(self._model, params)
        self._batch = lc.llama_batch_init(4096, 0, 1)
        self._vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(self._model))
        self._rng = np.random.default_rng(0)
        self.description = f"llama.cpp {lc.__version__}, {NAMES[kind]}"
        self.facts: dict[str, float] = {}

    def _step(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute rows of (token, position, sequence, wants logits); greedy tokens of those."""
        self._compute(rows)
        return [int(self._logits(i).argmax()) for i, row in enumerate(rows) if row[3]]

    def _compute(self, rows: list[tuple[int, int, int, bool]]) -> None:
        b = self._batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = token, position, 1, sequence
            b.logits[i] = wanted
        if lc.llama_decode(self._context, b) != 0:
            raise RuntimeError("llama_decode failed")

    def _logits(self, row: int) -> np.ndarray:
        values = lc.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(values, (self._vocab,))

    def _prompt(self, tokens: int, sequence: int) -> list[tuple[int, int, int, bool]]:
        ids = self._rng.integers(0, self._vocab, tokens).tolist()
        return [(t, i, sequence, i == tokens - 1) for i, t in enumerate(ids)]

    def _clear(self) -> None:
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """Of every position but the last of one text: (positions, vocabulary)."""
        self._clear()
        self._compute([(t, i, 0, True) for i, t in enumerate(token_ids[:-1])])
        return np.stack([self._logits(i) for i in range(len(token_ids) - 1)])

    def prefill(self, tokens: int) -> float:
        self._clear()
        rows = self._prompt(tokens, 0)
        start = time.perf_counter()
        self._step(rows)
        return time.perf_counter() - start

    def decode(self, batch: int, tokens: int, context: int) -> float:
        self._clear()
        drawn = self._step([row for s in range(batch) for row in self._prompt(context, s)])
        start = time.perf_counter()
        for position in range(context, context + tokens):
            drawn = self._step([(t, position, s, True) for s, t in enumerate(drawn)])
        return time.perf_counter() - start


if __name__ == "__main__":
    folder, threads, kind, work = sys.argv[1:]
    serve(lambda: LlamaCpp(Path(folder), int(threads), kind, Path(work)))
