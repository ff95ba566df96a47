"""Ask the exported model the questions of questions.tsv and score the answers by key words.

It answers greedily in float32, with its weights as they are and rounded to 8 and to 4 bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from make_data import read_questions
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as TokenizerBase

HERE = Path(__file__).parent
GROUP = 32
END = 2
DIALOGUES = (
    ("Hello!", "who are you?", "What is LLMOps?", "And what is continuous batching?", "Thank you!"),
    ("What is Argosy?", "Which commands does it have?", "does it need a gpu", "Bye"),
    ("What is the capital of France?", "WHAT COLOUR IS THE SKY?", "what is 3 plus 4"),
    ("Who won the 1987 chess final?", "How do I bake bread?", "what's the opposite of early?"),
)
PROSE = ("It was a dark night, and the old man", "Once upon a time there was a", "The ship")


def round_to(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """`weight` rounded symmetrically to `bits` bits, one 16-bit scale for 32 weights of a row."""
    top = 2 ** (bits - 1) - 1
    groups = weight.reshape(-1, GROUP)
    scale = (groups.abs().amax(1, keepdim=True) / top).half().float().clamp_min(1e-8)
    return ((groups / scale).round().clamp(-top, top) * scale).view_as(weight)


def load(folder: Path, bits: int) -> PreTrainedModel:
    """The model in float32 with rounded weights; the embedding keeps at least 8 bits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if bits < 16:
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.data = round_to(parameter.data, 8 if "embed" in name else bits)
    return model


def complete(model: PreTrainedModel, tokenizer: TokenizerBase, text: str, limit: int) -> list[int]:
    """The greedy continuation of `text` as tokens."""
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def answer(
    model: PreTrainedModel, tokenizer: TokenizerBase, messages: list[dict[str, str]]
) -> tuple[str, bool]:
    """The answer to a conversation, and whether the model ended it by itself."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = complete(model, tokenizer, text, 96)
    return tokenizer.decode(tokens, skip_special_tokens=True), tokens[-1] == END


def is_right(text: str, keys: str) -> bool:
    """Whether the answer has all key words; "|" stands between alternatives."""
    text = text.lower()
    return all(any(word in text for word in key.split("|")) for key in keys.split(","))


def evaluate(folder: Path) -> None:
    """Print the answers, one table row for each question, and the scores."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = read_questions(HERE / "questions.tsv")
    results: dict[int, list[tuple[str, bool, bool]]] = {}
    for bits in (16, 8, 4):
        model = load(folder, bits)
        results[bits] = []
        for question, keys, _ in questions:
            text, ended = answer(model, tokenizer, [{"role": "user", "content": question}])
            results[bits].append((text, is_right(text, keys), ended))
    print("| question | wording | 16 | 8 | 4 | answer with the weights as they are |")
    print("|---|---|---|---|---|---|")
    for i, (question, _, held) in enumerate(questions):
        marks = " | ".join("yes" if results[bits][i][1] else "**no**" for bits in results)
        print(f"| {question} | {'held' if held else 'seen'} | {marks} | {results[16][i][0]} |")
    print("\n| weights | seen wordings | held-back wordings | all | ended by itself |")
    print("|---|---|---|---|---|")
    for bits, rows in results.items():
        parts = []
        for kinds in ((False,), (True,), (False, True)):
            marks = [row[1] for row, q in zip(rows, questions, strict=True) if q[2] in kinds]
            parts.append(f"{sum(marks)} of {len(marks)}")
        name = "bfloat16 in float32" if bits == 16 else f"{bits} bits"
        print(f"| {name} | {' | '.join(parts)} | {sum(row[2] for row in rows)} of {len(rows)} |")


def samples(folder: Path) -> None:
    """Print a few dialogues and continuations of prose, with the weights as they are."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), load(folder, 16)
    for system in (None, "You are a helpful assistant."):
        for dialogue in DIALOGUES[: 4 if system is None else 1]:
            messages = [{"role": "system", "content": system}] if system else []
            print(f"```text\n{f'system: {system}' + chr(10) if system else ''}", end="")
            for question in dialogue:
                messages.append({"role": "user", "content": question})
                text, _ = answer(model, tokenizer, messages)
                messages.append({"role": "assistant", "content": text})
                print(f"user: {question}\nassistant: {text}")
            print("```\n")
    for start in PROSE:
        text = tokenizer.decode(complete(model, tokenizer, start, 60), skip_special_tokens=True)
        print(f"> **{start}**{text}\n".replace("\n\n", "\n>\n").rstrip(">\n"), end="\n\n")


def main() -> None:
    """Evaluate a checkpoint folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--samples", action="store_true", help="print dialogues instead")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    (samples if args.samples else evaluate)(args.checkpoint)


if __name__ == "__main__":
    main()
