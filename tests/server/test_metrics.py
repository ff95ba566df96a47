"""Metrics: vLLM's names from the start, true counts, summed over fronts."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Sequence

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from argosy.client.attachment import Attachment, State
from argosy.client.intake import Accepted
from argosy.client.stories import Ended, Explanation
from argosy.engine.board import Board, Cell
from argosy.engine.wire import Facts
from argosy.serve.metrics import OTHER, Metrics
from argosy.serve.series import HISTOGRAMS, SERIES
from argosy.serve.tally import Tallies, Tally
from argosy.types import Request, SamplingParams
from serving import Server
from unit.engine.driver import facts

ROUTES = [("/v1/completions", "POST"), ("/health", "GET"), OTHER]


def fronts(number: int = 1) -> tuple[Board, list[Metrics]]:
    board = Board.create(number)
    made = []
    for front in range(number):
        attachment = Attachment("nowhere", board, front)
        one = Metrics(Tallies(board, front), attachment, model_name="m", max_num_seqs=7)
        one.name_handlers(ROUTES)
        made.append(one)
    return board, made


def text(metrics: Metrics, told: Facts | None = None) -> str:
    return metrics.expose(None, told)[0].decode()


def value(text: str, name: str, **labels: str) -> float:
    for family in classic(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"no {name} with {labels}")


def ended(reasons: Sequence[str] = ("stop",), tokens: Sequence[int] = (9,)) -> Ended:
    params = SamplingParams(n=len(reasons), max_tokens=64)
    request = Request(
        request_id="1",
        token_ids=(1,) * 5,
        num_prompt_tokens=5,
        params=params,
        seed=1,
        max_total_tokens=100,
    )
    story = Explanation(
        queue_s=0.4,
        prompt_tokens=5,
        generated_tokens=sum(tokens),
        cached_tokens=3,
        computed_prompt_tokens=2,
        steps=9,
        preemptions=1,
        batch_min=1,
        batch_mean=1.0,
        batch_max=1,
        restarts=0,
        ttft_s=1.0,
        total_s=9.0,
        is_complete=True,
    )
    return Ended(Accepted(request), reasons, tokens, story)


def test_every_series_is_there_from_the_start() -> None:
    _, (metrics,) = fronts()
    out = text(metrics)
    names = {sample.name for family in classic(out) for sample in family.samples}
    for one in SERIES:
        wire = one.name + "_total" if one.kind == "counter" else one.name
        assert wire in names
        assert value(out, wire, model_name="m", engine="0", **dict(one.labels)) >= 0
    for histogram in HISTOGRAMS:
        assert value(out, histogram.name + "_count", model_name="m", engine="0") == 0
    for reason in ("stop", "length", "abort", "error"):
        assert value(out, "vllm:request_success_total", finished_reason=reason) == 0
    assert value(out, "http_requests_total", handler="/v1/completions", status="200") == 0


def test_a_request_is_counted() -> None:
    _, (metrics,) = fronts()
    metrics.first_token(0.03)
    metrics.tokens([0.02, 0.06, 99.0])
    metrics.ended(ended(("stop", "length"), (9, 3)))
    out = text(metrics)
    assert value(out, "vllm:time_to_first_token_seconds_bucket", le="0.02") == 0
    assert value(out, "vllm:time_to_first_token_seconds_bucket", le="0.04") == 1
    assert value(out, "vllm:inter_token_latency_seconds_bucket", le="0.025") == 1
    assert value(out, "vllm:inter_token_latency_seconds_bucket", le="0.075") == 2
    assert value(out, "vllm:inter_token_latency_seconds_bucket", le="+Inf") == 3
    assert value(out, "vllm:inter_token_latency_seconds_sum") == pytest.approx(99.08)
    assert value(out, "vllm:request_success_total", finished_reason="stop") == 1
    assert value(out, "vllm:request_success_total", finished_reason="length") == 1
    assert value(out, "vllm:prompt_tokens_cached_total") == 3
    assert value(out, "vllm:e2e_request_latency_seconds_sum") == pytest.approx(9.0)
    assert value(out, "vllm:request_queue_time_seconds_bucket", le="0.5") == 1
    assert value(out, "vllm:request_queue_time_seconds_bucket", le="0.3") == 0
    assert value(out, "vllm:request_prompt_tokens_bucket", le="5.0") == 1
    assert value(out, "vllm:request_prompt_tokens_bucket", le="2.0") == 0
    assert value(out, "vllm:request_generation_tokens_count") == 2
    assert value(out, "vllm:request_generation_tokens_sum") == 12
    assert value(out, "vllm:request_time_per_output_token_seconds_sum") == pytest.approx(1.0)
    assert value(out, "vllm:request_params_n_bucket", le="1.0") == 0
    assert value(out, "vllm:request_params_n_bucket", le="2.0") == 1
    assert value(out, "vllm:request_params_max_tokens_sum") == 64
    assert value(out, "vllm:request_num_preemptions_bucket", le="0.0") == 0


def test_fronts_are_summed() -> None:
    _, (one, other) = fronts(2)
    for metrics in (one, one, other):
        metrics.ended(ended())
        metrics.http(0, 200)
    other.http(-1, 404)
    other.tallies.add(Tally.HELD, 4)
    for metrics in (one, other):
        out = text(metrics)
        assert value(out, "vllm:request_success_total", finished_reason="stop") == 3
        assert value(out, "http_requests_total", handler="/v1/completions", status="200") == 3
        assert value(out, "http_requests_total", handler="other", status="404") == 1
        assert value(out, "request_queue_depth") == 4


def test_the_engines_cells_are_told() -> None:
    board, (metrics,) = fronts()
    board[Cell.STATE] = State.READY
    board[Cell.RUNNING], board[Cell.WAITING] = 3, 2
    board[Cell.PAGES_HELD], board[Cell.PAGES_USABLE] = 1, 4
    board[Cell.MEMORY_USED], board[Cell.MEMORY_LIMIT] = 30, 40
    board[Cell.PREFIX_QUERIES], board[Cell.RESTARTS] = 11, 5
    out = text(metrics)
    assert value(out, "vllm:num_requests_running") == 3
    assert value(out, "vllm:num_requests_waiting") == 2
    assert value(out, "vllm:num_requests_waiting_by_reason", reason="capacity") == 2
    assert value(out, "vllm:kv_cache_usage_perc") == 0.25
    assert value(out, "argosy_memory_used_ratio") == 0.75
    assert value(out, "vllm:prefix_cache_queries_total") == 11
    assert value(out, "argosy_engine_restarts_total") == 5
    assert value(out, "argosy_max_num_seqs") == 7
    assert value(out, "argosy_engine_up") == 1


def test_what_a_dead_engine_ran_waits() -> None:
    board, (metrics,) = fronts()
    board[Cell.STATE] = State.RESTARTING
    board[Cell.RUNNING] = 3
    metrics.tallies.add(Tally.HELD, 5)
    out = text(metrics)
    assert value(out, "vllm:num_requests_running") == 0
    assert value(out, "vllm:num_requests_waiting") == 5


def test_utilization_is_that_of_the_last_seconds() -> None:
    board, (metrics,) = fronts()
    second = 10**9
    for at, busy in ((0, 0), (1, 1), (2, 2), (3, 2), (4, 2.5), (5, 2.5), (6, 2.5)):
        board[Cell.BUSY_NS] = int(busy * second)
        metrics.tick(at * second, connections=9)
    out = text(metrics)
    assert value(out, "gpu_utilization") == pytest.approx(0.5 / 3)
    assert value(out, "argosy_http_connections") == 9


def test_the_cache_is_described_once_it_is_known() -> None:
    _, (metrics,) = fronts()
    assert "cache_config_info" not in text(metrics)
    out = text(metrics, facts(num_pages=99, cache_dtype="bf16", kv_tokens=1584))
    assert value(out, "vllm:cache_config_info", block_size="16", num_gpu_blocks="99") == 1
    assert value(out, "vllm:cache_config_info", cache_dtype="bf16", kv_cache_size_tokens="1584")


def scrape(server: Server, accept: str) -> tuple[str, str]:
    request = urllib.request.Request(server.url + "/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_a_server_is_scraped_in_both_formats(server: Server) -> None:
    media, plain = scrape(server, "text/plain")
    assert media.startswith("text/plain")
    assert value(plain, "vllm:cache_config_info", block_size="16") == 1
    assert value(plain, "process_resident_memory_bytes") > 1e6
    media, wanted = scrape(server, "application/openmetrics-text; version=1.0.0")
    assert media.startswith("application/openmetrics-text")
    assert wanted.endswith("# EOF\n")
    names = {family.name for family in openmetrics(wanted)}
    assert {"vllm:e2e_request_latency_seconds", "vllm:generation_tokens"} <= names


def test_a_servers_counts_are_true(server: Server) -> None:
    names = (
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_total",
        "vllm:e2e_request_latency_seconds_count",
        "vllm:time_to_first_token_seconds_count",
        "vllm:request_generation_tokens_sum",
        "vllm:prefix_cache_queries_total",
    )
    server.wait_idle()
    before = [server.metric(name) for name in names]
    body = {"prompt": "Hello there", "max_tokens": 7, "ignore_eos": True, "n": 2, "temperature": 1}
    status, answer = server.post("/v1/completions", body)
    assert status == 200, answer
    server.wait_idle()
    grown = [server.metric(name) - old for name, old in zip(names, before, strict=True)]
    prompt = answer["usage"]["prompt_tokens"]
    assert grown[0] == 14
    assert grown[2:5] == [1, 1, 14]
    assert grown[1] in (prompt, 2 * prompt)
    assert grown[5] >= prompt
    text = server.get("/metrics")[1]
    assert re.search(r'http_requests_total\{handler="/v1/completions",method="POST"', text)
    assert json.dumps(body) not in text
