"""Figures as people and programs read them: a table, JSON, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from argosy.errors import ConfigError
from argosy.load.limits import Objective
from argosy.load.measure import Outcome, Spread, Summary, finite, present
from argosy.load.search import Level, best

BUSY = 0.9
"""Cores of this tool above which it may measure itself."""


def table(summary: Summary, limits: dict[str, float]) -> str:
    """A run, for a terminal."""
    s = summary
    lines = [
        f"{s.requests} requests in {s.window_s:.1f} s, {s.completed} answered whole{errors(s)}",
        f"prompts of {s.prompt_tokens.mean:.0f} tokens ({s.cached_tokens} cached in all), "
        f"answers of {s.tokens.mean:.0f}",
        f"{s.ends_per_s:.2f} requests/s, {s.output_per_s:.1f} tokens/s out, "
        f"{s.input_per_s:.1f} tokens/s in",
        "",
        "ms              mean      p50      p90      p95      p99      max",
        row("first token", s.ttft),
        row("between", s.itl),
        row("per token", s.tpot),
        row("whole", s.e2e),
    ]
    if limits:
        asked = ", ".join(f"{name} {1e3 * value:g} ms" for name, value in limits.items())
        lines += ["", f"{100 * s.good_share:.1f} % within {asked}: {s.good_per_s:.2f} requests/s"]
    return "\n".join(lines + notes(s))


def errors(s: Summary) -> str:
    """Errors by kind, where there were any."""
    kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(s.errors.items()))
    return f"; errors: {kinds}" if kinds else ""


def row(name: str, s: Spread) -> str:
    """A line of latencies in milliseconds."""
    values = (s.mean, s.p50, s.p90, s.p95, s.p99, s.largest)
    return f"{name:12}" + "".join(f"{1e3 * v:9.1f}" if s.count else f"{'-':>9}" for v in values)


def notes(s: Summary) -> list[str]:
    """What a reader should know before believing the figures."""
    lines = [f"the server said: {message}" for message in s.messages]
    if s.client_cpu > BUSY:
        lines.append(f"this tool was busy itself ({s.client_cpu:.2f} of one core): use several")
    if s.late_p99_s > 0.1:
        lines.append(f"requests were sent late (p99 {s.late_p99_s:.2f} s): the client is too slow")
    return ["", *lines] if lines else []


def level_line(level: Level) -> str:
    """One level of a search."""
    values = ", ".join(f"{name} {milliseconds(v)}" for name, v in level.values.items())
    s = level.summary
    return (
        f"{level.users:6} users: {values}; {s.output_per_s:.1f} tokens/s, {s.requests} requests"
        f"{errors(s)}: {'met' if level.met else 'missed'}"
    )


def milliseconds(value: float) -> str:
    """A latency, which may be infinite."""
    return "never" if finite(value) is None else f"{1e3 * value:.1f} ms"


def verdict(levels: Sequence[Level], objectives: Sequence[Objective]) -> str:
    """The answer of a search."""
    asked = " and ".join(f"{o} within {1e3 * o.limit_s:g} ms" for o in objectives)
    return f"{best(list(levels))} users at once with {asked}"


def level_json(level: Level) -> dict[str, Any]:
    """A level, ready for JSON."""
    values = {name: finite(value) for name, value in level.values.items()}
    return {**asdict(level), "values": values}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a report. Raises ConfigError when the file cannot be written."""
    try:
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"the report {path} cannot be written: {exc}") from exc


def require_plots() -> None:
    """Raise ConfigError where matplotlib is not installed; before a long run, not after it."""
    try:
        import_module("matplotlib")  # optional, and slow to import
    except ImportError as exc:
        raise ConfigError("plots need matplotlib; do: pip install argosy[plot]") from exc


def plot_run(path: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """A PNG: first token and gaps as shares of requests, and tokens in each second."""
    figure, axes = _figure(3, title)
    gaps = [gap for outcome in outcomes for gap in outcome.gaps]
    for axis, name, values in (
        (axes[0], "first token, ms", present(o.ttft for o in outcomes)),
        (axes[1], "between pieces, ms", gaps),
    ):
        ordered = sorted(1e3 * value for value in values)
        axis.plot(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))])
        axis.set(xlabel=name, ylabel="share", ylim=(0, 1.02))
    seconds = [int(at) for outcome in outcomes for at in outcome.times]
    axes[2].hist(seconds, bins=range(max(seconds, default=0) + 2))
    axes[2].set(xlabel="second", ylabel="pieces of text")
    _save(figure, path)


def plot_levels(path: Path, levels: Sequence[Level], objectives: Sequence[Objective]) -> None:
    """A PNG: each objective, and tokens a second, over the number of users."""
    figure, axes = _figure(len(objectives) + 1, verdict(levels, objectives))
    ordered = sorted(levels, key=lambda level: level.users)
    users = [level.users for level in ordered]
    for axis, objective in zip(axes, objectives, strict=False):
        values = [1e3 * level.values[str(objective)] for level in ordered]
        axis.plot(users, values, marker="o")
        axis.axhline(1e3 * objective.limit_s, linestyle="--", color="grey")
        axis.set(xlabel="users", ylabel=f"{objective}, ms", xscale="log", yscale="log")
    axes[-1].plot(users, [level.summary.output_per_s for level in ordered], marker="o")
    axes[-1].set(xlabel="users", ylabel="tokens/s", xscale="log")
    _save(figure, path)


def _figure(panels: int, title: str) -> tuple[Any, Any]:
    require_plots()
    figure = import_module("matplotlib.figure").Figure(figsize=(5 * panels, 4), tight_layout=True)
    figure.suptitle(title)
    return figure, figure.subplots(1, panels)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as exc:
        raise ConfigError(f"the plot {path} cannot be written: {exc}") from exc
