"""Write the trained model as a Hugging Face checkpoint folder (LlamaForCausalLM, bfloat16)."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from model import Config, Decoder
from safetensors.torch import save_file

HERE = Path(__file__).parent
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}


def load(path: Path) -> Decoder:
    """The model saved by train.py."""
    saved = torch.load(path, weights_only=True)
    model = Decoder(Config(**saved["config"]))
    model.load_state_dict(saved["state"])
    return model.eval()


def model_config(c: Config) -> dict[str, object]:
    """config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        **SPECIAL,
    }


def tokenizer_config() -> dict[str, object]:
    """tokenizer_config.json."""
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {
            str(i): {"content": name, **flags, "special": True} for i, name in enumerate(names)
        },
        "bos_token": names[0],
        "eos_token": names[2],
        "pad_token": names[0],
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": Config.max_positions,
    }


def write_json(path: Path, value: dict[str, object]) -> None:
    """`value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def export(model: Decoder, tokenizer: Path, out: Path) -> None:
    """Write all files of the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    state = {
        f"model.{name}": tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    write_json(out / "config.json", model_config(model.config))
    generation = {"do_sample": False, **SPECIAL, "eos_token_id": [2, 0]}
    write_json(out / "generation_config.json", generation)
    write_json(out / "tokenizer_config.json", tokenizer_config())
    shutil.copyfile(tokenizer, out / "tokenizer.json")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def check(model: Decoder, out: Path) -> float:
    """The largest difference between our logits and those of transformers, in float32."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    rounded = {k: v.to(torch.bfloat16).float() for k, v in model.state_dict().items()}
    model.load_state_dict(rounded)
    tokens = torch.randint(3, 4096, (2, 300), generator=torch.Generator().manual_seed(1))
    worst = 0.0
    with torch.inference_mode():
        for start in (0, 1700):
            positions = torch.arange(start, start + 300).unsqueeze(0)
            expected = theirs(tokens, position_ids=positions.expand(2, -1)).logits
            ours = model.logits(model(tokens, positions))
            worst = max(worst, (ours - expected).abs().max().item())
    return worst


def main() -> None:
    """Export, and compare with transformers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=HERE / "data" / "run" / "model.pt")
    parser.add_argument("--tokenizer", type=Path, default=HERE / "data" / "tokenizer.json")
    parser.add_argument("--out", type=Path, default=HERE / "checkpoint")
    args = parser.parse_args()
    model = load(args.model)
    export(model, args.tokenizer, args.out)
    for path in sorted(args.out.iterdir()):
        print(f"{path.stat().st_size:>12,}  {path.name}")
    worst = check(model, args.out)
    print(f"largest difference of the logits from transformers: {worst:.2e}")
    if worst > 1e-3:
        raise SystemExit("the exported model is not the same as ours")


if __name__ == "__main__":
    main()
