"""How fast is the engine, beside llama.cpp, on a 0.5 B shape? `make bench-peers`.

Both engines are loaded; each measurement alternates A B A B; the table gives medians, their spread
and the ratio, beside what the machine could do in the same minutes (ceilings.cc). One line per
figure is appended to results/engine.jsonl. Weights are random: only speed is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURES = (
    ("prefill 512", {"measure": "prefill", "tokens": 512}),
    ("decode B=1", {"measure": "decode", "batch": 1, "tokens": 48}),
    ("decode B=8", {"measure": "decode", "batch": 8, "tokens": 48}),
    ("decode B=32", {"measure": "decode", "batch": 32, "tokens": 48}),
)


@dataclass(frozen=True)
class Peer:
    """An engine in a process of its own, answering one measurement at a time."""

    name: str
    process: subprocess.Popen[str]
    description: str

    @classmethod
    def start(cls, name: str, command: list[str]) -> Peer:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE / "peers"
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} did not start: {' '.join(command)}")
        return cls(name, process, json.loads(line)["ready"])

    def measure(self, ask: dict[str, object]) -> float:
        """Tokens per second."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(ask) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} died during {ask}")
        return float(json.loads(line)["tokens_per_s"])

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def ceilings(program: Path, threads: int) -> dict[str, float]:
    """What the machine can do now."""
    out = subprocess.run([program, str(threads)], check=True, capture_output=True, text=True)
    return dict(json.loads(out.stdout))


def build_ceilings(work: Path) -> Path:
    program = work / "ceilings"
    source = HERE / "ceilings.cc"
    flags = ["-O3", "-std=c++20", "-pthread", "-w"]
    subprocess.run(["g++", *flags, str(source), "-o", str(program)], check=True)
    return program


def build_model(work: Path) -> Path:
    """A w4 bundle of the Qwen2.5-0.5B shape with random weights."""
    bundle = work / "qwen2-0.5b-w4"
    if not bundle.exists():
        sys.path.insert(0, str(HERE.parent / "tests"))
        from argosy.bundle.build import build_bundle
        from random_models import write_model

        checkpoint = write_model(
            work / "qwen2-0.5b", arch="qwen2", hidden=896, heads=14, kv_heads=2, head_dim=64,
            layers=24, vocab=151936, inter=4864, tied=True, dtype="bfloat16", max_position=32768,
            tokenizer=False,
        )  # fmt: skip
        build_bundle(checkpoint, bundle, quantization="w4")
    return bundle


def run(peers: list[Peer], ceiling: Path, threads: int, pairs: int) -> list[dict[str, object]]:
    """A row per measurement and engine."""
    rows: list[dict[str, object]] = []
    for name, ask in MEASURES:
        seen: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for peer in peers:
            peer.measure(ask)  # warm-up
        now = ceilings(ceiling, threads)
        for _ in range(pairs):
            for peer in peers:
                seen[peer.name].append(peer.measure(ask))
        for peer in peers:
            values = sorted(seen[peer.name])
            rows.append(
                {
                    "name": name,
                    "provider": peer.name,
                    "description": peer.description,
                    "unit": "tokens/s",
                    "median": statistics.median(values),
                    "low": values[0],
                    "high": values[-1],
                    "runs": pairs,
                    "ceilings": now,
                    "threads": threads,
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """The rows as a table in Markdown: a line per measurement."""
    lines = [
        "| tokens/s, median (low to high) | Argosy | llama.cpp | ratio | DRAM GB/s | VNNI TOP/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, _ in MEASURES:
        ours, theirs = (r for r in rows if r["name"] == name)
        cells = [f"{r['median']:.0f} ({r['low']:.0f} to {r['high']:.0f})" for r in (ours, theirs)]
        ratio = ours["median"] / theirs["median"]  # type: ignore[operator]
        top = ours["ceilings"]
        assert isinstance(top, dict)
        lines.append(
            f"| {name} | {cells[0]} | {cells[1]} | {ratio:.2f} | {top['dram_gb_s']:.0f} "
            f"| {top.get('vnni_top_s', 0):.2f} |"
        )
    return "\n".join(lines)


def record(rows: list[dict[str, object]]) -> None:
    """Append to results/engine.jsonl, with machine, commit and date."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    stamp = {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
    }
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    with (results / "engine.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps({**row, **stamp}) + "\n")


def publish(mark: str, text: str) -> None:
    """Put a table into the pages that have its marks, between them."""
    for page in (HERE / "README.md", HERE.parent / "README.md"):
        before, found, rest = page.read_text().partition(f"<!-- {mark} -->\n")
        if found:
            _, end, after = rest.partition(f"<!-- /{mark} -->")
            page.write_text(f"{before}{found}{text}\n{end}{after}")


def heading(rows: list[dict[str, object]]) -> str:
    """What was measured, where and when."""
    engines = "; ".join(dict.fromkeys(str(row["description"]) for row in rows))
    cores = f"{rows[0]['threads']} threads of {processor()}"
    return f"{time.strftime('%Y-%m-%d')}, {cores}. {engines}.\n"


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where models are kept")
    parser.add_argument("--llamacpp", required=True, help="python of llama.cpp's environment")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    args.work = args.work.resolve()  # the peers run in a folder of their own
    args.work.mkdir(parents=True, exist_ok=True)
    ceiling = build_ceilings(args.work)
    gguf = args.work / "qwen2-0.5b-q4_0.gguf"
    commands = {
        "argosy": [sys.executable, "argosy_engine.py", str(build_model(args.work))],
        "llama.cpp": [args.llamacpp, "llamacpp.py", str(gguf)],
    }
    peers = [Peer.start(name, [*command, str(args.threads)]) for name, command in commands.items()]
    rows = run(peers, ceiling, args.threads, args.pairs)
    for peer in peers:
        peer.stop()
    record(rows)
    text = f"{heading(rows)}\n{table(rows)}"
    publish("engine", text)
    print(text)


if __name__ == "__main__":
    main()
