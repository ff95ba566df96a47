"""A Hugging Face folder as llama.cpp reads it: `python gguf_model.py FOLDER OUT.gguf KIND`.

Run in an environment with gguf. Llama, Qwen2 and Qwen3 with byte-level BPE and a tied head; KIND
q4_0 (embedding and head Q8_0: 4.5 and 8.5 bits a weight), q8_0, bf16 or f32.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = {"q4_0": "Q4_0, head Q8_0", "q8_0": "Q8_0", "bf16": "bf16", "f32": "fp32"}
PRE = {True: "smollm", False: "gpt-2"}
"""llama.cpp's name of the splitting before BPE: digits one by one, or not."""


def gguf_file(folder: Path, kind: str, python: Path, work: Path) -> Path:
    """The converted checkpoint in `work`; made by `python` if absent."""
    path = work / f"{folder.name}-{kind}.gguf"
    if not path.exists():
        subprocess.run([python, __file__, folder, path, kind], check=True)
    return path


def tensors(folder: Path) -> dict[str, Any]:
    """The weights in fp32 by name, from one file of bf16 safetensors."""
    import numpy as np

    data = np.memmap(folder / "model.safetensors", np.uint8)
    size = int(data[:8].view("<u8")[0])
    entries = json.loads(bytes(data[8 : 8 + size]))
    found = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", entry
            begin, end = (8 + size + at for at in entry["data_offsets"])
            bits = np.frombuffer(bytes(data[begin:end]), "<u2").astype(np.uint32) << 16
            found[name] = bits.view(np.float32).reshape(entry["shape"])
    return found


def interleaved(weights: Any, heads: int) -> Any:
    """Rows of a head in the order of llama.cpp's Llama: pairs that rotate lie side by side."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def write_shape(out: Any, config: dict[str, Any]) -> None:
    out.add_context_length(config["max_position_embeddings"])
    out.add_embedding_length(config["hidden_size"])
    out.add_block_count(config["num_hidden_layers"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    out.add_head_count_kv(config["num_key_value_heads"])
    out.add_rope_dimension_count(config["head_dim"])
    out.add_layer_norm_rms_eps(config["rms_norm_eps"])
    out.add_rope_freq_base(config["rope_theta"])
    out.add_vocab_size(config["vocab_size"])


def write_tokenizer(out: Any, folder: Path) -> None:
    """The vocabulary, merges and template of a byte-level BPE."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    special = {entry["id"]: entry["content"] for entry in spec["added_tokens"]}
    pieces = {i: piece for piece, i in spec["model"]["vocab"].items()} | special
    ids = {piece: i for i, piece in pieces.items()}
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(PRE["Digits" in json.dumps(spec["pre_tokenizer"])])
    out.add_token_list([pieces[i] for i in range(len(pieces))])
    out.add_token_types([3 if i in special else 1 for i in range(len(pieces))])
    merges = spec["model"]["merges"]
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    out.add_bos_token_id(ids[config["bos_token"]])
    out.add_eos_token_id(ids[config["eos_token"]])
    out.add_add_bos_token(False)
    out.add_chat_template((folder / "chat_template.jinja").read_text())


def write_weights(out: Any, weights: dict[str, Any], config: dict[str, Any], kind: str) -> None:
    from gguf import GGMLQuantizationType, quants

    body = GGMLQuantizationType[kind.upper()]
    ends = GGMLQuantizationType.Q8_0 if kind == "q4_0" else body
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, values in weights.items():
        kept = name.split(".")[-2]
        if kept in heads and config["model_type"] == "llama":
            values = interleaved(values, heads[kept])
        into = gguf_name(name)
        if values.ndim == 1:
            out.add_tensor(into, values)
        else:
            form = ends if into == "token_embd.weight" else body
            out.add_tensor(into, quants.quantize(values, form), raw_dtype=form)


TENSORS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
    "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
    "up_proj": "ffn_up", "down_proj": "ffn_down", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """A tensor's name in the file."""
    parts = name.removeprefix("model.").split(".")
    if parts[0] != "layers":
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[parts[0]] + ".weight"
    return f"blk.{parts[1]}.{TENSORS[parts[-2]]}.{parts[-1]}"


def convert(folder: Path, path: Path, kind: str) -> None:
    import gguf

    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] in ("llama", "qwen2", "qwen3") and config["tie_word_embeddings"], (
        config
    )
    part = path.with_suffix(".part")
    out = gguf.GGUFWriter(str(part), config["model_type"])
    write_shape(out, config)
    write_tokenizer(out, folder)
    write_weights(out, tensors(folder), config, kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    part.rename(path)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
