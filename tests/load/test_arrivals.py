"""When requests come: Poisson statistics, and traces as they are written."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import mean, pstdev

import pytest

from argosy.errors import ConfigError
from argosy.load.arrivals import Arrival, fit, poisson, read_trace


def test_poisson_gaps_have_the_mean_and_the_spread_of_their_rate() -> None:
    arrivals = list(poisson(4.0, 10, 5, requests=20_000, duration_s=None, seed=1))
    times = [0.0, *(a.at_s for a in arrivals)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > 0
    assert mean(gaps) == pytest.approx(0.25, rel=0.03)
    assert pstdev(gaps) == pytest.approx(0.25, rel=0.03)
    assert {(a.input_len, a.output_len) for a in arrivals} == {(10, 5)}


def test_a_seed_repeats_arrivals_and_another_does_not() -> None:
    def draw(seed: int) -> list[Arrival]:
        return list(poisson(2.0, 1, 1, requests=5, duration_s=None, seed=seed))

    assert draw(3) == draw(3) != draw(4)


def test_arrivals_end_with_the_duration() -> None:
    arrivals = list(poisson(50.0, 1, 1, requests=None, duration_s=2.0, seed=0))
    assert 50 < len(arrivals) < 200
    assert arrivals[-1].at_s < 2.0


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ConfigError, match="rate="):
        list(poisson(rate, 1, 1, requests=1, duration_s=None, seed=0))


def test_the_azure_trace_is_read_whole(data: Path) -> None:
    trace = read_trace(data / "traces" / "AzureLLMInferenceTrace_conv.csv")
    assert len(trace) == 19366
    assert trace[0] == Arrival(0.0, 374, 44)
    assert trace[1].at_s == pytest.approx(50.995167 - 46.680590, abs=1e-5)
    assert trace[1].output_len == 109
    assert all(a.at_s <= b.at_s for a, b in pairwise(trace))


def test_the_mooncake_trace_is_read_whole(data: Path) -> None:
    trace = read_trace(data / "traces" / "mooncake_conversation_trace.jsonl")
    assert len(trace) == 12031
    assert trace[:2] == [Arrival(0.0, 6758, 500), Arrival(0.0, 7322, 490)]
    assert trace[-1].at_s < 2 * 3600, "milliseconds were read as seconds"


def test_a_trace_out_of_order_is_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = ((500, 2), (100, 1))
    path.write_text(
        "\n".join(f'{{"timestamp": {t}, "input_length": {n}, "output_length": 0}}' for t, n in rows)
    )
    assert read_trace(path) == [Arrival(0.0, 1, 1), Arrival(0.4, 2, 1)]


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", AZURE, "holds no request"),
        ("t.csv", AZURE + "2023-11-16 18:15:46.68,374,44\nyesterday,1,1\n", "line 3"),
        ("t.csv", AZURE + "2023-11-16 18:15:46.68,374\n", "line 2"),
        ("t.csv", "a,b\n1,2\n", "line 2"),
        ("t.jsonl", '{"timestamp": 1}\n', "line 1"),
        ("t.jsonl", "\n[1]\n", "line 2"),
        ("t.jsonl", "nothing\n", "line 1"),
        ("t.jsonl", b"\xff\xfe", "cannot be read"),
    ],
)
def test_what_is_no_trace_is_named(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=said):
        read_trace(path)


def test_a_trace_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.csv"):
        read_trace(tmp_path / "no.csv")


TRACE = [Arrival(0.0, 1000, 100), Arrival(1.0, 50, 400), Arrival(4.0, 10, 1)]


def test_a_rate_scales_time_in_proportion() -> None:
    assert [a.at_s for a in fit(TRACE, rate=1.0)] == [0.0, 0.5, 2.0]


def test_lengths_scale_and_keep_a_token() -> None:
    fitted = fit(TRACE, lengths=0.1)
    assert [(a.input_len, a.output_len) for a in fitted] == [(100, 10), (5, 40), (1, 1)]


def test_prompt_and_answer_fit_the_context() -> None:
    fitted = fit(TRACE, max_model_len=256)
    assert [(a.input_len, a.output_len) for a in fitted] == [(156, 100), (50, 128), (10, 1)]


def test_the_head_of_a_trace_ends_by_number_or_by_scaled_time() -> None:
    assert fit(TRACE, requests=2) == TRACE[:2]
    assert len(fit(TRACE, rate=1.0, duration_s=1.0)) == 2
    assert fit(TRACE[:1], rate=5.0) == TRACE[:1]


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"lengths": -1.0}])
def test_factors_are_positive(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        fit(TRACE, **options)  # type: ignore[arg-type]
