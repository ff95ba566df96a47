"""Limits on latency as they are written: `ttft=200ms,itl=50ms` and `ttft_p95=200ms`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from argosy.errors import ConfigError

METRICS = ("ttft", "itl", "tpot", "e2e")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True, slots=True)
class Objective:
    """A percentile of a metric that must stay within a number of seconds."""

    metric: str
    percent: float
    limit_s: float

    def __str__(self) -> str:
        return f"{self.metric}_p{self.percent:g}"


def parse_seconds(text: str) -> float:
    """Seconds of `200ms`, `1.5s` or `50us`. Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(us|ms|s)", text.strip())
    if match is None or not float(match[1]):
        raise ConfigError(f"{text!r} is no time; write it as 200ms or 1.5s")
    return float(match[1]) * _UNITS[match[2]]


def parse_limits(text: str) -> dict[str, float]:
    """Seconds by metric of `ttft=200ms,itl=50ms`. Raises ConfigError."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        limits[_metric(name.strip())] = parse_seconds(value)
    return limits


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """The objectives of `ttft_p95=200ms,itl_p99=50ms`. Raises ConfigError."""
    return tuple(_objective(part) for part in text.split(","))


def _objective(part: str) -> Objective:
    name, _, value = part.partition("=")
    match = re.fullmatch(r"(\w+)_p(\d{1,2}(?:\.\d{1,3})?|100)", name.strip())
    if match is None:
        raise ConfigError(f"{part!r} is no objective; write it as ttft_p95=200ms")
    return Objective(_metric(match[1]), float(match[2]), parse_seconds(value))


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ConfigError(f"{name!r} is no latency; choose one of {', '.join(METRICS)}")
    return name
