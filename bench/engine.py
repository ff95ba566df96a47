"""How fast is the engine, beside other engines on the same CPU? `make bench`.

All engines are loaded, each in a process of its own. A round measures every one of them, A B C, and
what the machine can do (ceilings.cc) before and after; rounds in which a ceiling moved by more than
15 % are left out. The table gives medians with their spread, the ratio to the best peer, and the
share of the ceiling that Argosy reaches. Weights are random: only speed is measured. One line per
figure is appended to results/engine.jsonl.

Peers: those of llamacpp, openvino, vllm, transformers whose Python is given (peers/install makes
their environments). --weights 4-bit compares each engine's 4 bits (vLLM and transformers have none
for this and run bf16, named so), --weights bf16 the same bits everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

from checkpoints import TITLES, bundle, checkpoint  # noqa: E402
from records import append, processor, publish  # noqa: E402

DECODE = {"measure": "decode", "tokens": 48, "context": 32}
MEASURES: dict[str, dict[str, Any]] = {
    "prefill 512": {"measure": "prefill", "tokens": 512},
    "prefill 4096": {"measure": "prefill", "tokens": 4096},
    "decode B=1": DECODE | {"batch": 1},
    "decode B=8": DECODE | {"batch": 8},
    "decode B=32": DECODE | {"batch": 32},
    "decode B=1 at 4k": {"measure": "decode", "batch": 1, "tokens": 128, "context": 4096},
}
PEERS = ("llamacpp", "openvino", "vllm", "transformers")
STEADY = 0.15
"""How far a ceiling may move within a round."""
REST_S = 0.3
"""Between engines: threads of the last one may still spin for work."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """An engine in a process of its own, answering one measurement at a time."""

    name: str
    process: subprocess.Popen[str]
    about: dict[str, Any]

    @classmethod
    def start(cls, name: str, command: list[str]) -> Engine:
        environment = os.environ | ({} if name == "argosy" else {"PYTHONPATH": ""})
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=HERE / "peers", env=environment,
        )  # fmt: skip
        return cls(name, process, _answer(name, process))

    def measure(self, ask: dict[str, Any]) -> float:
        """Tokens per second."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        return float(_answer(self.name, self.process)["tokens_per_s"])

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def _answer(name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line in JSON; what else an engine prints is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit(f"{name} ended: {process.args}")


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Of each engine asked for; models are made first, so that no start waits for that."""
    folder, threads = str(checkpoint(args.model, args.work)), str(args.threads)
    four = args.weights == "4-bit"
    made = bundle(args.model, args.work, "w4" if four else None)
    found = {"argosy": [sys.executable, "argosy_engine.py", str(made), threads]}
    kinds = {
        "llamacpp": ["q4_0" if four else "bf16", str(args.work)],
        "openvino": ["int4" if four else "bf16"],
    }
    for name in PEERS:
        if python := getattr(args, name):
            found[name] = [python, f"{name}_engine.py", folder, threads, *kinds.get(name, ())]
    return found


def build_ceilings(work: Path) -> Path:
    program = work / "ceilings"
    flags = ["-O3", "-std=c++20", "-pthread", "-w"]
    subprocess.run(["g++", *flags, HERE / "ceilings.cc", "-o", program], check=True)
    return program


def ceilings(program: Path, threads: int) -> dict[str, float]:
    """What the machine can do now."""
    out = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    return dict(json.loads(out.stdout))


def moved(before: dict[str, float], after: dict[str, float]) -> float:
    """The largest change of a ceiling, as a share of the larger value."""
    return max(1 - min(before[k], after[k]) / max(before[k], after[k]) for k in before)


def run(
    engines: list[Engine], ceiling: Path, args: argparse.Namespace, ask: dict[str, Any]
) -> tuple[dict[str, list[float]], dict[str, float], int]:
    """Of each engine the figures of steady rounds; the ceilings; how many rounds were left out."""
    seen: dict[str, list[float]] = {engine.name: [] for engine in engines}
    tops, dropped = [], 0
    for engine in engines:
        engine.measure(ask)  # warm-up
    now = ceilings(ceiling, args.threads)
    while len(tops) < args.rounds and dropped < 3 * args.rounds:
        before, figures = now, {}
        for engine in engines:
            time.sleep(REST_S)
            figures[engine.name] = engine.measure(ask)
        time.sleep(REST_S)
        now = ceilings(ceiling, args.threads)
        if moved(before, now) > STEADY:
            dropped += 1
            continue
        tops.append({k: (before[k] + now[k]) / 2 for k in now})
        for name, figure in figures.items():
            seen[name].append(figure)
    if not tops:
        raise SystemExit(f"no steady round of {dropped}: the machine is too busy to measure on")
    middle = {k: statistics.median(top[k] for top in tops) for k in tops[0]}
    return seen, middle, dropped


def rows_of(
    engines: list[Engine], name: str, ask: dict[str, Any], seen: dict[str, list[float]],
    top: dict[str, float], dropped: int,
) -> list[Row]:  # fmt: skip
    """A row for each engine."""
    return [
        {
            "name": name,
            "provider": engine.name,
            "description": engine.about["ready"],
            "unit": "tokens/s",
            "median": statistics.median(seen[engine.name]),
            "low": min(seen[engine.name]),
            "high": max(seen[engine.name]),
            "runs": len(seen[engine.name]),
            "dropped": dropped,
            "ceilings": top,
            "ratios": _ratios(seen, engine.name),
        }
        | _share(engine, ask, statistics.median(seen[engine.name]), top)
        for engine in engines
    ]


def _ratios(seen: dict[str, list[float]], name: str) -> dict[str, float]:
    """Median over rounds of Argosy's figure over this engine's, in the same round."""
    pairs = zip(seen["argosy"], seen[name], strict=True)
    return {} if name == "argosy" else {"argosy": statistics.median(a / b for a, b in pairs)}


def _share(engine: Engine, ask: dict[str, Any], rate: float, top: dict[str, float]) -> Row:
    """How much of its ceiling an engine reaches that tells what a step reads and computes."""
    if "step_bytes" not in engine.about:
        return {}
    peak = top.get(engine.about["peak"], 0) * 1e12
    ops = engine.about["body_ops"]
    ops += engine.about["head_ops"] if ask["measure"] == "decode" else 0
    shares = {engine.about["peak"]: rate * ops / peak if peak else 0.0}
    if ask["measure"] == "decode":
        context = ask["context"] + ask["tokens"] / 2
        read = engine.about["step_bytes"] / ask["batch"] + context * engine.about["kv_bytes"]
        shares["dram_gb_s"] = rate * read / (top["dram_gb_s"] * 1e9)
    return {"shares": shares}


CEILINGS = {"dram_gb_s": "DRAM", "vnni_top_s": "VNNI", "bf16_tflop_s": "BF16"}


def table(rows: list[Row]) -> str:
    """The rows as a table in Markdown: a line per measurement."""
    names = list(dict.fromkeys(row["provider"] for row in rows))
    title = " | ".join(["tokens/s, median (low to high)", *names, "to the best", "ceiling reached"])
    lines = [f"| {title} |", "|---" * (len(names) + 3) + "|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        cells = [f"{r['median']:.0f} ({r['low']:.0f} to {r['high']:.0f})" for r in mine]
        ratio = min((r["ratios"]["argosy"] for r in mine if r["ratios"]), default=float("nan"))
        kind, share = max(mine[0].get("shares", {"": 0.0}).items(), key=lambda one: one[1])
        reached = f"{share:.0%} of {mine[0]['ceilings'].get(kind, 0):.3g} {UNITS.get(kind, '')}"
        lines.append(f"| {name} | " + " | ".join([*cells, f"{ratio:.2f}", reached]) + " |")
    return "\n".join(lines)


UNITS = {"dram_gb_s": "GB/s", "vnni_top_s": "TOP/s (VNNI)", "bf16_tflop_s": "TFLOP/s (BF16)"}


def heading(args: argparse.Namespace, rows: list[Row]) -> str:
    """What was measured, where and when."""
    engines = "; ".join(dict.fromkeys(str(row["description"]) for row in rows))
    cores = f"{args.threads} threads of {processor()}"
    return f"{time.strftime('%Y-%m-%d')}, {TITLES[args.model]} shape, {cores}. {engines}."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=list(TITLES), default="0.5b")
    parser.add_argument("--weights", choices=["4-bit", "bf16"], default="4-bit")
    parser.add_argument("--only", default="", help="measures whose name holds this")
    parser.add_argument("--rounds", type=int, default=5, help="steady ones")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--work", type=lambda p: Path(p).resolve(), default=HERE / "work", help="for models"
    )
    for name in PEERS:
        parser.add_argument(f"--{name}", help="python of its environment")
    parser.add_argument("--publish", action="store_true", help="renew the READMEs' tables")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    ceiling = build_ceilings(args.work)
    engines = [Engine.start(name, command) for name, command in commands(args).items()]
    rows: list[Row] = []
    for name, ask in MEASURES.items():
        if args.only in name:
            rows += rows_of(engines, name, ask, *run(engines, ceiling, args, ask))
            print(table(rows[-len(engines) :]), file=sys.stderr, flush=True)
    for engine in engines:
        engine.stop()
    about = {"model": args.model, "weights": args.weights, "threads": args.threads}
    append(HERE / "results" / "engine.jsonl", rows, about)
    text = table(rows)
    print(text)
    if args.publish:
        publish(f"engine {args.model} {args.weights}", f"{heading(args, rows)}\n\n{text}")


if __name__ == "__main__":
    main()
