"""Train the byte-level BPE tokenizer: 4,096 entries, three of them special."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCAB_SIZE = 4096


def train(data: Path, chats: int) -> Tokenizer:
    """A tokenizer for the prose and for the first `chats` conversations in `data`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = (data / "prose.txt").read_text(encoding="utf-8").split("\n\n")
    with (data / "chat.jsonl").open(encoding="utf-8") as file:
        for line, _ in zip(file, range(chats), strict=False):
            texts += [f"{m['role']}\n{m['content']}" for m in json.loads(line)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"got {tokenizer.get_vocab_size()} entries instead of {VOCAB_SIZE}")
    return tokenizer


def main() -> None:
    """Train on the output of make_data.py and write tokenizer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--out", type=Path, default=HERE / "data" / "tokenizer.json")
    parser.add_argument("--chats", type=int, default=15_000, help="conversations to learn from")
    args = parser.parse_args()
    tokenizer = train(args.data, args.chats)
    tokenizer.save(str(args.out))
    sample = "What is the capital of France? 12 + 7"
    print(args.out, tokenizer.encode(sample).tokens)


if __name__ == "__main__":
    main()
