"""Random models in Hugging Face form for tests: every supported architecture, any odd size.

Weights are scaled so that a test cannot pass by accident: logits have a standard deviation of
about 2, attention scores of about 2.5 (a few keys take most of the weight), norms and biases
are far from 1 and 0. Only NumPy is needed, so that an oracle in another environment can call it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from argosy.bundle.safetensors import write_safetensors

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_SCALING = {"rope_type": "linear", "factor": 2.0}
SPECIAL_TOKENS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
BOS, EOS, IM_START, IM_END = range(4)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MERGES = (
    "Ġ t", "h e", "i n", "Ġ a", "Ġt he", "e r", "o n", "r e", "Ġ s", "a t", "Ġ w", "o u", "e n",
    "i s", "o r", "Ġ c", "i t", "a n", "e s", "Ġ o", "in g", "l l", "Ġa n", "Ġan d",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandomModel:
    """What `write_model` writes. Sizes are Hugging Face's; `bias` is attention_bias.

    rope_parameters: write the config in the newer form, with rope_parameters and dtype.
    prefix: begin tensor names of the body with "model.".  shards: number of weight files.
    config: entries put over the config last, to break it.
    """

    arch: str = "llama"
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    layers: int = 2
    vocab: int = 320
    inter: int = 96
    tied: bool = False
    rope_scaling: dict[str, Any] | None = None
    rope_theta: float = 10000.0
    bias: bool = False
    mlp_bias: bool = False
    dtype: str = "float32"
    seed: int = 0
    max_position: int = 512
    eps: float = 1e-5
    sliding_window: int | None = None
    max_window_layers: int = 1
    shards: int = 1
    rope_parameters: bool = False
    prefix: bool = True
    tokenizer: bool = True
    config: dict[str, Any] = field(default_factory=dict)


def write_model(folder: Path | str, **options: Any) -> Path:
    """Write a random model into `folder` (made if absent) and return it; options: RandomModel's."""
    model = RandomModel(**options)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    _dump(out / "config.json", {**_config(model), **model.config})
    _dump(out / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": [EOS, IM_END]})
    _write_weights(out, random_weights(model), model)
    if model.tokenizer and model.vocab >= len(SPECIAL_TOKENS) + 256:
        write_tokenizer(out, model)
    return out


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def _config(m: RandomModel) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": [CLASSES[m.arch]],
        "model_type": m.arch,
        "hidden_size": m.hidden,
        "intermediate_size": m.inter,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.head_dim,
        "vocab_size": m.vocab,
        "max_position_embeddings": m.max_position,
        "rms_norm_eps": m.eps,
        "hidden_act": "silu",
        "tie_word_embeddings": m.tied,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if m.arch in ("llama", "qwen3"):
        config["attention_bias"] = m.bias
    if m.arch == "llama":
        config["mlp_bias"] = m.mlp_bias
    if m.arch == "mistral":
        config["sliding_window"] = m.sliding_window
    if m.arch in ("qwen2", "qwen3"):
        config["use_sliding_window"] = m.sliding_window is not None
        config["sliding_window"] = m.sliding_window or m.max_position
        config["max_window_layers"] = m.max_window_layers
    return config | _rope_config(m)


def _rope_config(m: RandomModel) -> dict[str, Any]:
    if m.rope_parameters:
        scaling = m.rope_scaling or {"rope_type": "default"}
        return {"rope_parameters": {**scaling, "rope_theta": m.rope_theta}, "dtype": m.dtype}
    return {"rope_theta": m.rope_theta, "rope_scaling": m.rope_scaling, "torch_dtype": m.dtype}


def random_weights(m: RandomModel) -> dict[str, NDArray[np.float32]]:
    """The model's tensors in fp32 by Hugging Face name, before rounding to its dtype."""
    rng = np.random.default_rng(m.seed)

    def normal(scale: float, *shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(gain: float, rows: int, cols: int) -> NDArray[np.float32]:
        return normal(gain / np.sqrt(cols), rows, cols)

    def norm(mean: float, size: int) -> NDArray[np.float32]:
        return normal(0.2, size) + np.float32(mean)

    q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
    qkv_bias = m.arch == "qwen2" or (m.bias and m.arch != "mistral")
    o_bias = m.bias and m.arch in ("llama", "qwen3")
    mlp_bias = m.mlp_bias and m.arch == "llama"
    scale = 2 / np.sqrt(m.hidden) if m.tied else 1
    body = {"embed_tokens.weight": normal(scale, m.vocab, m.hidden)}
    for i in range(m.layers):
        layer = f"layers.{i}."
        body[layer + "input_layernorm.weight"] = norm(1, m.hidden)
        for name, rows, gain in (("q", q, 1.6), ("k", kv, 1.6), ("v", kv, 1.0)):
            body[f"{layer}self_attn.{name}_proj.weight"] = linear(gain, rows, m.hidden)
            if qkv_bias:
                body[f"{layer}self_attn.{name}_proj.bias"] = normal(0.5, rows)
        if m.arch == "qwen3":
            body[layer + "self_attn.q_norm.weight"] = norm(1.6, m.head_dim)
            body[layer + "self_attn.k_norm.weight"] = norm(1.6, m.head_dim)
        body[layer + "self_attn.o_proj.weight"] = linear(1.0, m.hidden, q)
        body[layer + "post_attention_layernorm.weight"] = norm(1, m.hidden)
        for name, rows, cols, gain in (
            ("gate", m.inter, m.hidden, 1.0),
            ("up", m.inter, m.hidden, 1.0),
            ("down", m.hidden, m.inter, 2.0),
        ):
            body[f"{layer}mlp.{name}_proj.weight"] = linear(gain, rows, cols)
            if mlp_bias:
                body[f"{layer}mlp.{name}_proj.bias"] = normal(0.5, rows)
        if o_bias:
            body[layer + "self_attn.o_proj.bias"] = normal(0.5, m.hidden)
    body["norm.weight"] = norm(1, m.hidden)
    tensors = {("model." if m.prefix else "") + name: values for name, values in body.items()}
    if not m.tied:
        tensors["lm_head.weight"] = linear(2.0, m.vocab, m.hidden)
    return tensors


def round_to(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """`values` in a dtype by torch's name; bfloat16 as uint16 bit patterns, to nearest even."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype({"float32": np.float32, "float16": np.float16}[dtype])


def _write_weights(out: Path, weights: dict[str, NDArray[np.float32]], m: RandomModel) -> None:
    tensors = {name: round_to(values, m.dtype) for name, values in weights.items()}
    if m.shards == 1:
        write_safetensors(out / "model.safetensors", tensors, {"format": "pt"})
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for s in range(m.shards):
        file = f"model-{s + 1:05}-of-{m.shards:05}.safetensors"
        part = names[s :: m.shards]
        write_safetensors(out / file, {name: tensors[name] for name in part}, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(values.nbytes for values in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _dump(out / "model.safetensors.index.json", index)


def byte_alphabet() -> list[str]:
    """The 256 printable characters byte-level BPE writes bytes with, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def write_tokenizer(out: Path, m: RandomModel) -> None:
    """A byte-level BPE: 4 special tokens, 256 bytes, and as many merges as the vocabulary holds."""
    pieces = [*SPECIAL_TOKENS, *byte_alphabet()]
    merges = list(_MERGES[: max(0, m.vocab - len(pieces))])
    pieces += [merge.replace(" ", "") for merge in merges]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    level |= {"use_regex": True}
    add_bos = m.arch in ("llama", "mistral")
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] if add_bos else []
    template = {
        "type": "TemplateProcessing",
        "single": [*begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "special": True, **flags}
            for i, text in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": template,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": merges,
        },
    }
    _dump(out / "tokenizer.json", tokenizer)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "clean_up_tokenization_spaces": False}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    _dump(out / "tokenizer_config.json", settings)
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
