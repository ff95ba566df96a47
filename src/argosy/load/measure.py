"""What was seen of each request, and the figures made of it: percentiles, rates, goodput.

ttft: from the moment a request was due to its first text.  itl: between pieces of text.
tpot: a request's mean itl.  e2e: from due to the answer's end. All in seconds.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds since the load began.

    due: when it was to be sent; sent: when it was.  times: of each piece of text.
    error: a kind, such as "429" or "timeout"; "cut": the load ended before the answer did.
    """

    due: float
    sent: float
    ended: float
    times: array[float]
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tokens: int = 0
    error: str | None = None
    message: str = ""

    @property
    def ttft(self) -> float | None:
        """Seconds to the first text, if there was any."""
        return self.times[0] - self.due if self.times else None

    @property
    def e2e(self) -> float | None:
        """Seconds to the end of a whole answer."""
        return None if self.error else self.ended - self.due

    @property
    def tpot(self) -> float | None:
        """Seconds for each token after the first; of the answer so far if it was cut."""
        whole = self.tokens if not self.error else len(self.times)
        return (self.times[-1] - self.times[0]) / (whole - 1) if self.times and whole > 1 else None

    @property
    def gaps(self) -> array[float]:
        """Seconds between pieces of text."""
        return array("d", map(float.__sub__, self.times[1:], self.times[:-1]))

    @property
    def failed(self) -> bool:
        """Whether the server did not do its part; one that we cut did, so far."""
        return self.error is not None and self.error != "cut"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of values in rising order, the one that `percent` lie below, linear in between."""
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    if low + 1 >= len(ordered) or place == low:
        return ordered[low]
    if ordered[low + 1] == inf:
        return inf
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class Spread:
    """How values lie; seconds, unless said. `count` 0: no values, and all else is 0."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    largest: float


def spread(values: Iterable[float]) -> Spread:
    """The spread of values in any order."""
    ordered = sorted(values)
    if not ordered:
        return Spread(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    p50, p90, p95, p99 = (percentile(ordered, percent) for percent in (50, 90, 95, 99))
    return Spread(len(ordered), sum(ordered) / len(ordered), p50, p90, p95, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Window:
    """The time that counts, in seconds since the load began: requests due in it, tokens of it."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length; never 0."""
        return max(self.end - self.begin, 1e-9)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one load.

    requests: due in the window; completed: of these, answered whole.  errors: by kind.
    ends_per_s, output_per_s, input_per_s: answers, tokens out and prompt tokens in the window,
    whenever their requests were due.  good_share, good_per_s: requests within every limit.
    late_p99_s: how late requests were sent.  client_cpu: cores that this tool used, at most 1: near
    1 it measures itself.
    """

    window_s: float
    requests: int
    completed: int
    errors: dict[str, int]
    messages: tuple[str, ...]
    prompt_tokens: Spread
    tokens: Spread
    cached_tokens: int
    ends_per_s: float
    input_per_s: float
    output_per_s: float
    ttft: Spread
    itl: Spread
    tpot: Spread
    e2e: Spread
    good_share: float
    good_per_s: float
    late_p99_s: float
    client_cpu: float


def summarize(
    outcomes: Sequence[Outcome], window: Window, *, limits: dict[str, float] | None = None,
    client_cpu: float = 0.0,
) -> Summary:  # fmt: skip
    """The figures of the requests that were due in the window.

    limits: seconds by metric; see `is_good`.
    """
    due = [o for o in outcomes if window.begin <= o.due < window.end]
    whole = [o for o in due if not o.error]
    good = sum(is_good(o, limits or {}) for o in due)
    ended = [o for o in outcomes if not o.error and window.begin <= o.ended <= window.end]
    return Summary(
        window_s=window.seconds,
        requests=len(due),
        completed=len(whole),
        errors=dict(Counter(o.error for o in due if o.error)),
        messages=tuple(dict.fromkeys(o.message for o in due if o.message))[:5],
        prompt_tokens=spread(o.prompt_tokens for o in whole),
        tokens=spread(o.tokens for o in whole),
        cached_tokens=sum(o.cached_tokens for o in whole),
        ends_per_s=len(ended) / window.seconds,
        input_per_s=sum(o.prompt_tokens for o in ended) / window.seconds,
        output_per_s=sum(tokens_within(o, window) for o in outcomes) / window.seconds,
        ttft=spread(present(o.ttft for o in due)),
        itl=spread(gap for o in due for gap in o.gaps),
        tpot=spread(present(o.tpot for o in due)),
        e2e=spread(present(o.e2e for o in due)),
        good_share=good / len(due) if due else 0.0,
        good_per_s=good / window.seconds,
        late_p99_s=spread(o.sent - o.due for o in due).p99,
        client_cpu=client_cpu,
    )


def present(values: Iterable[float | None]) -> list[float]:
    """Values that are there."""
    return [value for value in values if value is not None]


def tokens_within(outcome: Outcome, window: Window) -> float:
    """Tokens that came in the window; of a piece of several, all count alike."""
    if not outcome.times:
        return 0.0
    inside = sum(window.begin <= at <= window.end for at in outcome.times)
    return inside * max(outcome.tokens, len(outcome.times)) / len(outcome.times)


def is_good(outcome: Outcome, limits: dict[str, float]) -> bool:
    """Whether an answer was whole and within every limit; `itl` limits its longest gap."""
    if outcome.error:
        return False
    return all(worst(outcome, metric) <= limit for metric, limit in limits.items())


def worst(outcome: Outcome, metric: str) -> float:
    """A request's figure by name: ttft, itl (its longest), tpot, e2e; 0 without a gap.

    Infinite where there was none because the request failed.
    """
    value = max(outcome.gaps, default=None) if metric == "itl" else getattr(outcome, metric)
    if value is None:
        return 0.0 if metric in ("itl", "tpot") and outcome.times else inf
    return float(value)


def reached(outcomes: Iterable[Outcome], window: Window, metric: str, percent: float) -> float:
    """A percentile over the requests due in the window; one that failed counts as infinite.

    Of `itl` every gap counts, a failed request as one infinite gap. Infinite with no request.
    """
    values: list[float] = []
    for outcome in outcomes:
        if window.begin <= outcome.due < window.end:
            if outcome.failed:
                values.append(inf)
            elif metric == "itl":
                values.extend(outcome.gaps)
            else:
                values.append(worst(outcome, metric))
    return percentile(sorted(values), percent) if values else inf


def finite(value: float) -> float | None:
    """The value for JSON, which has no infinity."""
    return value if isfinite(value) else None
