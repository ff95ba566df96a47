"""llama.cpp under the harness: `python llamacpp.py MODEL.gguf THREADS`, made first if absent.

The file has the benchmark's shape with random weights: Q4_0, the tied embedding and head in Q8_0
(4.5 and 8.5 bits a weight). Through the C API of llama-cpp-python, greedy by NumPy's argmax.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import gguf
import llama_cpp as lc
import numpy as np
from protocol import serve

SHAPE = {
    "hidden": 896, "inter": 4864, "layers": 24, "heads": 14, "kv_heads": 2, "vocab": 151936,
}  # fmt: skip
CONTEXT = 8192
SEQUENCES = 32


def write_model(path: Path) -> None:
    """A Qwen2 file of SHAPE with random weights."""
    s, rng = SHAPE, np.random.default_rng(0)
    out = gguf.GGUFWriter(str(path), "qwen2")
    out.add_context_length(32768)
    out.add_embedding_length(s["hidden"])
    out.add_block_count(s["layers"])
    out.add_feed_forward_length(s["inter"])
    out.add_head_count(s["heads"])
    out.add_head_count_kv(s["kv_heads"])
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(1e6)
    out.add_vocab_size(s["vocab"])
    out.add_tokenizer_model("none")

    def matrix(name: str, rows: int, cols: int, kind: gguf.GGMLQuantizationType) -> None:
        weights = (rng.standard_normal((rows, cols), np.float32) / np.sqrt(cols)).astype(np.float32)
        out.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)

    def vector(name: str, size: int, mean: float) -> None:
        out.add_tensor(name, (rng.standard_normal(size) * 0.1 + mean).astype(np.float32))

    q4, h, kv = gguf.GGMLQuantizationType.Q4_0, s["hidden"], s["kv_heads"] * 64
    matrix("token_embd.weight", s["vocab"], h, gguf.GGMLQuantizationType.Q8_0)
    vector("output_norm.weight", h, 1)
    for i in range(s["layers"]):
        for name, rows, cols in (
            ("attn_q", h, h), ("attn_k", kv, h), ("attn_v", kv, h), ("attn_output", h, h),
            ("ffn_gate", s["inter"], h), ("ffn_up", s["inter"], h), ("ffn_down", h, s["inter"]),
        ):  # fmt: skip
            matrix(f"blk.{i}.{name}.weight", rows, cols, q4)
        for name, size in (("attn_q", h), ("attn_k", kv), ("attn_v", kv)):
            vector(f"blk.{i}.{name}.bias", size, 0)
        vector(f"blk.{i}.attn_norm.weight", h, 1)
        vector(f"blk.{i}.ffn_norm.weight", h, 1)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class LlamaCpp:
    """One context; each step is one llama_decode over a batch of (token, position, sequence)."""

    def __init__(self, path: Path, threads: int) -> None:
        if not path.exists():
            write_model(path)
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
        self._rng = np.random.default_rng(0)
        self.description = f"llama.cpp {lc.__version__}, Q4_0, head and embedding Q8_0"

    def _step(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute rows of (token, position, sequence, wants logits); greedy tokens of those."""
        b = self._batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0] = token, position, 1, sequence
            b.logits[i] = wanted
        if lc.llama_decode(self._context, b) != 0:
            raise RuntimeError("llama_decode failed")
        vocab = SHAPE["vocab"]
        return [
            int(np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, i), (vocab,)).argmax())
            for i, row in enumerate(rows)
            if row[3]
        ]

    def _prompt(self, tokens: int, sequence: int) -> list[tuple[int, int, int, bool]]:
        ids = self._rng.integers(0, SHAPE["vocab"], tokens).tolist()
        return [(t, i, sequence, i == tokens - 1) for i, t in enumerate(ids)]

    def _clear(self) -> None:
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)

    def prefill(self, tokens: int) -> float:
        self._clear()
        rows = self._prompt(tokens, 0)
        start = time.perf_counter()
        self._step(rows)
        return time.perf_counter() - start

    def decode(self, batch: int, tokens: int) -> float:
        self._clear()
        drawn = self._step([row for s in range(batch) for row in self._prompt(32, s)])
        start = time.perf_counter()
        for position in range(32, 32 + tokens):
            drawn = self._step([(t, position, s, True) for s, t in enumerate(drawn)])
        return time.perf_counter() - start


if __name__ == "__main__":
    serve(lambda: LlamaCpp(Path(sys.argv[1]), int(sys.argv[2])))
