"""Figures, against values worked out by hand."""

from __future__ import annotations

from array import array
from math import inf

import pytest

from argosy.errors import ConfigError
from argosy.load.limits import Objective, parse_limits, parse_objectives, parse_seconds
from argosy.load.measure import (
    Outcome,
    Window,
    is_good,
    percentile,
    reached,
    spread,
    summarize,
    worst,
)


def outcome(due: float, *times: float, ended: float | None = None, **more: object) -> Outcome:
    end = ended if ended is not None else (times[-1] if times else due)
    tokens = more.pop("tokens", len(times))
    return Outcome(due, due, end, array("d", times), tokens=tokens, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("percent", "value"), [(0, 10), (25, 20), (50, 30), (90, 46), (95, 48), (99, 49.6), (100, 50)]
)
def test_percentiles_are_linear_between_values(percent: float, value: float) -> None:
    assert percentile([10, 20, 30, 40, 50], percent) == pytest.approx(value)


def test_percentiles_of_one_value_and_next_to_infinity() -> None:
    assert percentile([7.0], 95) == 7.0
    assert percentile([1.0, inf], 50) == inf
    assert percentile([1.0, inf, inf], 0) == 1.0
    assert percentile([1.0, inf, inf], 75) == inf


def test_spread_of_nothing_and_of_some() -> None:
    assert spread([]).count == 0
    s = spread([3.0, 1.0, 2.0])
    assert (s.count, s.mean, s.p50, s.largest) == (3, 2.0, 2.0, 3.0)
    assert (s.p90, s.p95, s.p99) == pytest.approx((2.8, 2.9, 2.98))


def test_latencies_of_one_request() -> None:
    o = outcome(1.0, 1.5, 1.6, 2.0, ended=2.1)
    assert o.ttft == pytest.approx(0.5)
    assert list(o.gaps) == pytest.approx([0.1, 0.4])
    assert o.tpot == pytest.approx(0.25)
    assert o.e2e == pytest.approx(1.1)


def test_a_wait_begins_when_a_request_was_due_not_when_it_was_sent() -> None:
    late = Outcome(1.0, 1.4, 2.0, array("d", [1.5]), tokens=1)
    assert late.ttft == pytest.approx(0.5) and late.e2e == pytest.approx(1.0)
    assert summarize([late], Window(0.0, 2.0)).late_p99_s == pytest.approx(0.4)


def test_a_token_time_counts_tokens_not_pieces() -> None:
    assert outcome(0.0, 1.0, 2.0, tokens=5).tpot == pytest.approx(0.25)


def test_an_answer_of_one_token_has_no_gap() -> None:
    o = outcome(0.0, 1.0)
    assert o.tpot is None and not o.gaps
    assert worst(o, "tpot") == worst(o, "itl") == 0.0


def test_only_what_was_due_in_the_window_is_counted() -> None:
    runs = [outcome(0.5, 1.5), outcome(1.0, 1.25), outcome(1.9, 2.5), outcome(2.0, 2.1)]
    s = summarize(runs, Window(1.0, 2.0))
    assert (s.requests, s.completed) == (2, 2)
    assert s.ttft.mean == pytest.approx((0.25 + 0.6) / 2)


def test_rates_count_what_happened_in_the_window() -> None:
    early = outcome(0.5, 0.8, 1.2, 1.6, tokens=6, prompt_tokens=10)
    late = outcome(1.5, 1.9, 2.5, 3.5, prompt_tokens=99)
    s = summarize([early, late], Window(1.0, 3.0))
    assert s.output_per_s == pytest.approx((4 + 2) / 2), "pieces of two tokens count twice"
    assert s.ends_per_s == pytest.approx(0.5)
    assert s.input_per_s == pytest.approx(5)


def test_errors_are_counted_by_kind_and_quoted_once() -> None:
    runs = [outcome(0.0, error="429", message="full") for _ in range(3)] + [outcome(0.0, 0.1)]
    s = summarize(runs, Window(0.0, 1.0))
    assert (s.requests, s.completed, s.errors, s.messages) == (4, 1, {"429": 3}, ("full",))


LIMITS = {"ttft": 0.5, "itl": 0.2}


@pytest.mark.parametrize(
    ("seen", "good"),
    [
        (outcome(0.0, 0.5, 0.7), True),
        (outcome(0.0, 0.6, 0.7), False),
        (outcome(0.0, 0.5, 0.6, 0.9), False),
        (outcome(0.0, 0.5), True),
        (outcome(0.0, 0.5, 0.6, error="cut"), False),
        (outcome(0.0, error="closed"), False),
    ],
)
def test_goodput_is_whole_answers_within_every_limit(seen: Outcome, good: bool) -> None:
    assert is_good(seen, LIMITS) is good
    s = summarize([seen, outcome(0.0, 9.0)], Window(0.0, 2.0), limits=LIMITS)
    assert (s.good_share, s.good_per_s) == (0.5 * good, 0.5 * good)


def test_a_failed_request_is_infinitely_slow() -> None:
    window = Window(0.0, 1.0)
    runs = [outcome(0.0, 0.1) for _ in range(9)] + [outcome(0.0, error="429")]
    assert reached(runs, window, "ttft", 50) == pytest.approx(0.1)
    assert reached(runs, window, "ttft", 95) == inf
    assert reached(runs, window, "itl", 99) == inf
    broken = outcome(0.0, 0.1, 0.2, error="closed")
    assert reached([broken], window, "ttft", 50) == inf
    assert reached([], window, "ttft", 50) == inf


def test_a_request_that_we_cut_counts_as_far_as_it_came() -> None:
    window = Window(0.0, 1.0)
    cut = outcome(0.0, 0.1, 0.3, ended=5.0, error="cut")
    assert reached([cut], window, "ttft", 95) == pytest.approx(0.1)
    assert reached([cut], window, "itl", 95) == pytest.approx(0.2)
    assert reached([cut], window, "e2e", 95) == inf
    assert reached([outcome(0.0, ended=5.0, error="cut")], window, "ttft", 95) == inf
    assert not cut.failed and outcome(0.0, error="429").failed


def test_times_are_read_with_their_units() -> None:
    assert parse_seconds("200ms") == pytest.approx(0.2)
    assert parse_seconds("1.5s") == 1.5
    assert parse_seconds("50us") == pytest.approx(5e-5)
    assert parse_limits("ttft=200ms, e2e=5s") == {"ttft": 0.2, "e2e": 5.0}
    assert parse_objectives("ttft_p95=200ms,itl_p99.9=50ms") == (
        Objective("ttft", 95.0, 0.2),
        Objective("itl", 99.9, 0.05),
    )


@pytest.mark.parametrize("text", ["", "ttft", "ttft=200", "ttft=0ms", "speed=1s", "ttft=-1s"])
def test_limits_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_limits(text)


@pytest.mark.parametrize("text", ["", "ttft=1s", "ttft_p0x=1s", "ttft_p101=1s", "speed_p95=1s"])
def test_objectives_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_objectives(text)
