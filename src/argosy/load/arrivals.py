"""When requests come and how long they are: Poisson arrivals and recorded traces.

All of it is known before the first request is sent, and the same seed gives the same load.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count, islice
from pathlib import Path

import msgspec

from argosy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to come: due after `at_s` seconds, with lengths in tokens."""

    at_s: float
    input_len: int
    output_len: int


def poisson(
    rate: float, input_len: int, output_len: int, *, requests: int | None,
    duration_s: float | None, seed: int,
) -> Iterator[Arrival]:  # fmt: skip
    """Arrivals at `rate` a second with exponential gaps, as many or as long as asked.

    Raises ConfigError for a rate that is not positive. Endless without either bound.
    """
    if not rate > 0:
        raise ConfigError(f"rate={rate} must be a positive number of requests a second")
    draw, at = random.Random(f"arrivals {seed}"), 0.0
    for _ in count() if requests is None else range(requests):
        at += draw.expovariate(rate)
        if duration_s is not None and at >= duration_s:
            return
        yield Arrival(at, input_len, output_len)


def read_trace(path: Path) -> list[Arrival]:
    """The requests of a trace in order of time, the first one at 0.

    Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens) or Mooncake's JSON lines (timestamp in
    milliseconds, input_length, output_length). Raises ConfigError naming the line that is neither.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            read = _azure if path.suffix.lower() == ".csv" else _mooncake
            arrivals = sorted(read(path, lines), key=lambda arrival: arrival.at_s)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the trace {path} cannot be read: {exc}") from exc
    if not arrivals:
        raise ConfigError(f"the trace {path} holds no request")
    start = arrivals[0].at_s
    return [replace(arrival, at_s=arrival.at_s - start) for arrival in arrivals]


def _azure(path: Path, lines: Iterator[str]) -> Iterator[Arrival]:
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            stamp = row["TIMESTAMP"].strip()
            yield _arrival(_seconds(stamp), row["ContextTokens"], row["GeneratedTokens"])
        except (KeyError, ValueError, TypeError, AttributeError) as exc:
            raise ConfigError(
                f"line {number} of {path} is not TIMESTAMP,ContextTokens,GeneratedTokens"
            ) from exc


def _seconds(stamp: str) -> float:
    """Seconds since an epoch; seven digits of a second are more than datetime reads."""
    whole, _, part = stamp.partition(".")
    fraction = float(f"0.{part}") if part else 0.0
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + fraction


def _mooncake(path: Path, lines: Iterator[str]) -> Iterator[Arrival]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
            yield _arrival(row["timestamp"] / 1000, row["input_length"], row["output_length"])
        except (KeyError, ValueError, TypeError) as exc:
            raise ConfigError(
                f"line {number} of {path} is no JSON object with timestamp, input_length and "
                "output_length"
            ) from exc


def _arrival(at_s: float, input_len: str | int, output_len: str | int) -> Arrival:
    return Arrival(at_s, max(1, int(input_len)), max(1, int(output_len)))


def fit(
    trace: Sequence[Arrival], *, rate: float | None = None, lengths: float = 1.0,
    max_model_len: int | None = None, requests: int | None = None, duration_s: float | None = None,
) -> list[Arrival]:  # fmt: skip
    """The head of a trace, made to fit.

    lengths: factor on all lengths (at least 1 token is left).  max_model_len: prompt and answer
    together are cut to it, the answer to half of it at most.  rate: the mean of the head becomes
    this many requests a second, gaps in proportion.  requests, duration_s: the head's end, after
    that scaling. Raises ConfigError for a factor or a rate that is not positive.
    """
    for name, value in (("rate", rate), ("scale-lengths", lengths)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name}={value} must be positive")
    head = list(islice(trace, requests))
    span = head[-1].at_s if head else 0.0
    slow = 1.0 if rate is None or not span else (len(head) - 1) / span / rate
    fitted = (_fit_one(arrival, slow, lengths, max_model_len) for arrival in head)
    return [a for a in fitted if duration_s is None or a.at_s < duration_s]


def _fit_one(arrival: Arrival, slow: float, lengths: float, limit: int | None) -> Arrival:
    output_len = max(1, round(arrival.output_len * lengths))
    input_len = max(1, round(arrival.input_len * lengths))
    if limit is not None:
        output_len = min(output_len, max(1, limit // 2))
        input_len = max(1, min(input_len, limit - output_len))
    return Arrival(arrival.at_s * slow, input_len, output_len)
