"""Train the embedded model: first mostly on prose, then mostly on chats.

Prose is trained on every token, chats on the assistant's tokens only. `--smoke` runs the whole
path in under two minutes with few steps, for testing.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import Config, Decoder
from tokenizers import Tokenizer
from torch import Tensor

HERE = Path(__file__).parent
END_OF_TEXT, START, END = 0, 1, 2
MAX_POSITIONS = Config.max_positions


@dataclass(frozen=True)
class Chat:
    """One conversation: its tokens, and which of them are the assistant's."""

    tokens: np.ndarray
    learn: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Inputs, targets (-100 where nothing is learned) and positions, all [rows, length]."""

    inputs: Tensor
    targets: Tensor
    positions: Tensor
    is_chat: bool


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its share of chat batches."""

    name: str
    steps: int
    chat_share: float


def load_chats(path: Path, tokenizer: Tokenizer, limit: int) -> list[Chat]:
    """The first `limit` conversations, in ChatML form."""
    with path.open(encoding="utf-8") as file:
        chats = [json.loads(line) for line, _ in zip(file, range(limit), strict=False)]
    flat = [message for chat in chats for message in chat]
    heads = {m["role"]: tokenizer.encode(f"{m['role']}\n").ids for m in flat}
    contents = iter(tokenizer.encode_batch_fast([m["content"] for m in flat]))
    newline = tokenizer.encode("\n").ids
    result = []
    for chat in chats:
        tokens: list[int] = []
        learn: list[bool] = []
        for message in chat:
            head = [START, *heads[message["role"]]]
            body = [*next(contents).ids, END]
            tokens += head + body + newline
            learn += [False] * len(head)
            learn += [message["role"] == "assistant"] * len(body) + [False] * len(newline)
        tokens, learn = tokens[: MAX_POSITIONS - 1], learn[: MAX_POSITIONS - 1]
        result.append(Chat(np.array(tokens, np.int16), np.array(learn)))
    return result


def load_prose(path: Path, tokenizer: Tokenizer) -> np.ndarray:
    """All books as one row of tokens, with an end-of-text token between books."""
    books = path.read_text(encoding="utf-8").split("\n\n\n")
    rows = [[*encoded.ids, END_OF_TEXT] for encoded in tokenizer.encode_batch_fast(books)]
    return np.concatenate([np.array(row, np.int16) for row in rows])


def prose_batches(prose: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Random windows of 256 tokens, now and then of 1,024, in batches of `size` tokens."""
    while True:
        length = 1024 if rng.random() < 0.04 else 256
        starts = rng.integers(0, len(prose) - length - 1, max(1, size // length))
        rows = np.stack([prose[i : i + length + 1] for i in starts]).astype(np.int64)
        positions = np.arange(length)[None].repeat(len(rows), 0)
        yield Batch(*map(torch.from_numpy, (rows[:, :-1], rows[:, 1:], positions)), False)


def chat_batches(chats: list[Chat], size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Conversations of similar length padded together, about `size` tokens in a batch.

    In a fifth of the rows the positions jump ahead at a random message, so that the model also
    meets large positions and large distances.
    """
    while True:
        order = rng.permutation(len(chats))
        for pool in np.array_split(order, max(1, len(order) // 2000)):
            groups: list[list[Chat]] = [[]]
            for chat in sorted((chats[i] for i in pool), key=lambda c: len(c.tokens)):
                if groups[-1] and (len(groups[-1]) + 1) * len(chat.tokens) > size:
                    groups.append([])
                groups[-1].append(chat)
            for i in rng.permutation(len(groups)):
                yield collate(groups[i], rng)


def collate(chats: list[Chat], rng: np.random.Generator) -> Batch:
    """One padded batch of conversations."""
    length = max(len(chat.tokens) for chat in chats) - 1
    inputs = np.zeros((len(chats), length), np.int64)
    targets = np.full_like(inputs, -100)
    positions = np.arange(length)[None].repeat(len(chats), 0)
    for row, chat in enumerate(chats):
        n = len(chat.tokens) - 1
        inputs[row, :n] = chat.tokens[:-1]
        targets[row, :n] = np.where(chat.learn[1:], chat.tokens[1:], -100)
        if rng.random() < 0.2:
            jump = rng.choice(np.flatnonzero(inputs[row] == START))
            positions[row, jump:] += rng.integers(0, MAX_POSITIONS - length + 1)
    return Batch(*map(torch.from_numpy, (inputs, targets, positions)), True)


def loss_of(model: Decoder, batch: Batch) -> Tensor:
    """Mean cross-entropy over the tokens to learn."""
    hidden = model(batch.inputs, batch.positions)
    wanted = batch.targets >= 0
    return F.cross_entropy(model.logits(hidden[wanted]).float(), batch.targets[wanted])


def optimizers(model: Decoder, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, AdamW for the embedding and the norms."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=lr / 5, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate(progress: float, step: int) -> float:
    """Learning-rate factor: a short warm-up, a plateau, and a linear way down to zero."""
    return min(1.0, (step + 1) / 50) * min(1.0, max(0.0, 1.0 - progress) / 0.6)


def train(
    model: Decoder,
    phases: list[Phase],
    prose: Iterator[Batch],
    chat: Iterator[Batch],
    args: argparse.Namespace,
) -> list[dict[str, float | str]]:
    """Run the phases; returns the log, one row for every 20 steps."""
    rng = np.random.default_rng(args.seed)
    tools = optimizers(model, args.lr)
    base = [tool.param_groups[0]["lr"] for tool in tools]
    total, step, tokens, begin = sum(p.steps for p in phases), 0, 0, time.monotonic()
    log: list[dict[str, float | str]] = []
    for phase in phases:
        recent: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(phase.steps):
            spent = (time.monotonic() - begin) / 60
            if spent >= args.minutes:
                break
            factor = rate(max(step / total, spent / args.minutes), step)
            for tool, lr in zip(tools, base, strict=True):
                tool.param_groups[0]["lr"] = lr * factor
            batch = next(chat if rng.random() < phase.chat_share else prose)
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.fp32):
                loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for tool in tools:
                tool.step()
                tool.zero_grad(set_to_none=True)
            step, tokens = step + 1, tokens + batch.inputs.numel()
            recent[batch.is_chat].append(loss.item())
            if step % 20 == 0:
                mean = {k: float(np.mean(v)) if v else float("nan") for k, v in recent.items()}
                row = {"step": step, "phase": phase.name, "prose_loss": round(mean[False], 4)}
                row |= {"chat_loss": round(mean[True], 4), "tokens": tokens}
                row |= {"seconds": round(time.monotonic() - begin, 1)}
                log.append(row)
                recent = {True: [], False: []}
                if step % 100 == 0:
                    print(*(f"{key} {value}" for key, value in row.items()), flush=True)
            if step % 200 == 0:
                save(model, args.out)
    return log


def save(model: Decoder, out: Path) -> None:
    """Write the model's shape and weights."""
    torch.save({"config": model.config.to_dict(), "state": model.state_dict()}, out / "model.pt")


def plot(log: list[dict[str, float | str]], path: Path) -> None:
    """Draw the loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for key, label in (("prose_loss", "prose"), ("chat_loss", "chat, assistant's tokens")):
        points = [(row["step"], row[key]) for row in log if row[key] == row[key]]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    change = next((row["step"] for row in log if row["phase"] == "chat"), None)
    if change is not None:
        axes.axvline(change, color="grey", linestyle=":", label="start of the chat phase")
    axes.set(xlabel="step", ylabel="cross-entropy, nats per token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train on the output of make_data.py and train_tokenizer.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--out", type=Path, default=HERE / "data" / "run")
    parser.add_argument("--pretrain-steps", type=int, default=150)
    parser.add_argument("--chat-steps", type=int, default=2850)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=0.02, help="rate of Muon; AdamW has a fifth")
    parser.add_argument("--layers", type=int, default=Config.num_layers)
    parser.add_argument("--minutes", type=float, default=600, help="finish within this time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="a model.pt to start from")
    parser.add_argument("--fp32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--smoke", action="store_true", help="a run of under two minutes")
    args = parser.parse_args()
    if args.smoke:
        args.pretrain_steps, args.chat_steps = 40, 60
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    prose = load_prose(args.data / "prose.txt", tokenizer)
    chats = load_chats(args.data / "chat.jsonl", tokenizer, 5_000 if args.smoke else 10**9)
    model = Decoder(Config(num_layers=args.layers))
    if args.resume:
        model.load_state_dict(torch.load(args.resume, weights_only=True)["state"])
    sizes = (
        sum(p.numel() for p in model.parameters()),
        len(prose),
        sum(len(c.tokens) for c in chats),
    )
    print("parameters {:,}, prose tokens {:,}, chat tokens {:,}".format(*sizes), flush=True)

    rngs = np.random.default_rng(args.seed).spawn(2)
    phases = [Phase("prose", args.pretrain_steps, 0.3), Phase("chat", args.chat_steps, 0.86)]
    log = train(
        model,
        phases,
        prose_batches(prose, args.batch_tokens, rngs[0]),
        chat_batches(chats, args.batch_tokens, rngs[1]),
        args,
    )
    save(model, args.out)
    with (args.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    plot(log, args.out / "loss.png")


if __name__ == "__main__":
    main()
