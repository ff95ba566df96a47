"""The names of all metrics: vLLM's, with its labels and buckets, and our own under `argosy_`.

Every series carries model_name and engine="0" but those marked as the process's. Counters gain
`_total` on the wire, histograms `_bucket`, `_sum` and `_count`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from argosy.engine.board import Cell
from argosy.serve.tally import Tally

Kind = Literal["gauge", "counter"]

REASONS = ("stop", "length", "abort", "error")
STATUSES = (200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 499, 500, 503)
"""HTTP statuses that are counted one by one; another one counts as 500."""


@dataclass(frozen=True, slots=True)
class Series:
    """A gauge or counter. source: its cell, or None where `Metrics` works it out.

    labels: beyond model_name and engine, with their values.  front: the cell is summed over the
    fronts, else it is the engine's.
    """

    name: str
    kind: Kind
    help: str
    source: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    front: bool = False


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of what fronts see. scale: one unit of its sum, in the units of `bounds`."""

    name: str
    help: str
    bounds: tuple[float, ...]
    scale: float = 1e-9


def _one_two_five(most: int) -> Iterator[float]:
    """1, 2, 5, 10 and so on, up to `most`."""
    for exponent in range(len(str(most))):
        yield from (m * 10.0**exponent for m in (1, 2, 5) if m * 10**exponent <= most)


_TOKENS = tuple(_one_two_five(10_000_000))
_TTFT: tuple[float, ...] = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
)
_TTFT += (10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
_PER_TOKEN: tuple[float, ...] = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
)
_PER_TOKEN += (10.0, 20.0, 40.0, 80.0)
_LATENCY: tuple[float, ...] = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
)
_LATENCY += (120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)


TTFT = Histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.", _TTFT)
INTER_TOKEN = Histogram(
    "vllm:inter_token_latency_seconds", "Between one token of an answer and the next.", _PER_TOKEN
)
PER_TOKEN = Histogram(
    "vllm:request_time_per_output_token_seconds",
    "Mean time of a token after the first, of a request.",
    _PER_TOKEN,
)
E2E = Histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.", _LATENCY)
QUEUE = Histogram(
    "vllm:request_queue_time_seconds", "From arrival to the first step that ran it.", _LATENCY
)
PREFILL = Histogram(
    "vllm:request_prefill_time_seconds", "From the first step to the first token.", _LATENCY
)
DECODE = Histogram("vllm:request_decode_time_seconds", "From the first token to the end.", _LATENCY)
INFERENCE = Histogram(
    "vllm:request_inference_time_seconds", "From the first step to the end.", _LATENCY
)
PROMPT_TOKENS = Histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", _TOKENS, 1.0)
COMPUTED = Histogram(
    "vllm:request_prefill_kv_computed_tokens", "Prompt tokens that were computed.", _TOKENS, 1.0
)
GENERATION_TOKENS = Histogram(
    "vllm:request_generation_tokens", "Tokens of an answer.", _TOKENS, 1.0
)
MOST_TOKENS = Histogram(
    "vllm:request_max_num_generation_tokens", "Of the longest answer of a request.", _TOKENS, 1.0
)
MAX_TOKENS = Histogram("vllm:request_params_max_tokens", "max_tokens as asked for.", _TOKENS, 1.0)
NUM_ANSWERS = Histogram(
    "vllm:request_params_n", "n as asked for.", (1.0, 2.0, 5.0, 10.0, 20.0), 1.0
)
PREEMPTIONS = Histogram(
    "vllm:request_num_preemptions",
    "Times the answers of a request lost their pages.",
    (0.0, 1.0, 2.0, 5.0, 10.0, 20.0),
    1.0,
)

HISTOGRAMS = (
    TTFT,
    INTER_TOKEN,
    PER_TOKEN,
    E2E,
    QUEUE,
    PREFILL,
    DECODE,
    INFERENCE,
    PROMPT_TOKENS,
    COMPUTED,
    GENERATION_TOKENS,
    MOST_TOKENS,
    MAX_TOKENS,
    NUM_ANSWERS,
    PREEMPTIONS,
)

_SUCCESS = "Answers that ended, by reason."
_REJECTED = "Requests refused because the server is full."

SERIES = (
    Series("vllm:num_requests_running", "gauge", "Sequences in the engine's batch."),
    Series("vllm:num_requests_waiting", "gauge", "Sequences that wait for a seat or pages."),
    Series(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Sequences that wait, by reason.",
        labels=(("reason", "capacity"),),
    ),
    Series("vllm:kv_cache_usage_perc", "gauge", "Share of the cache's pages held, 0 to 1."),
    Series(
        "vllm:prefix_cache_queries",
        "counter",
        "Tokens looked up in the prefix cache.",
        Cell.PREFIX_QUERIES,
    ),
    Series("vllm:prefix_cache_hits", "counter", "Tokens found there.", Cell.PREFIX_HITS),
    Series(
        "vllm:num_preemptions",
        "counter",
        "Times a sequence lost its pages to another.",
        Cell.PREEMPTIONS,
    ),
    Series("vllm:prompt_tokens", "counter", "Tokens of prompts done.", Cell.PROMPT_TOKENS),
    Series(
        "vllm:prompt_tokens_cached",
        "counter",
        "Prompt tokens found in the prefix cache, of requests that ended.",
        Tally.CACHED_TOKENS,
        front=True,
    ),
    Series("vllm:generation_tokens", "counter", "Tokens generated.", Cell.GENERATION_TOKENS),
    *(
        Series(
            "vllm:request_success",
            "counter",
            _SUCCESS,
            Tally.ENDED_STOP + place,
            (("finished_reason", reason),),
            front=True,
        )
        for place, reason in enumerate(REASONS)
    ),
    *(
        Series("vllm:admission_rejections", "counter", _REJECTED, cell, (("reason", reason),), True)
        for reason, cell in (
            ("max_num_queued_reqs", Tally.REFUSED_REQUESTS),
            ("max_num_queued_tokens", Tally.REFUSED_TOKENS),
            ("body_bytes", Tally.REFUSED_BODIES),
        )
    ),
    Series(
        "request_queue_depth", "gauge", "Requests accepted and not ended.", Tally.HELD, front=True
    ),
    Series("gpu_utilization", "gauge", "Share of the last seconds the device computed, 0 to 1."),
    Series("argosy_memory_used_bytes", "gauge", "Memory the engine holds.", Cell.MEMORY_USED),
    Series("argosy_memory_limit_bytes", "gauge", "Memory it may hold.", Cell.MEMORY_LIMIT),
    Series("argosy_memory_used_ratio", "gauge", "The one over the other, 0 to 1."),
    Series("argosy_pages_held", "gauge", "Pages of the cache held.", Cell.PAGES_HELD),
    Series("argosy_pages_usable", "gauge", "Pages that can be held.", Cell.PAGES_USABLE),
    Series("argosy_steps", "counter", "Steps of the engine.", Cell.STEPS),
    Series("argosy_engine_pid", "gauge", "The engine's process; 0 without one.", Cell.ENGINE_PID),
    Series(
        "argosy_engine_restarts", "counter", "Times the engine was started again.", Cell.RESTARTS
    ),
    Series("argosy_engine_up", "gauge", "Whether the engine serves, 0 or 1."),
    Series("argosy_heartbeat_age_seconds", "gauge", "Since the engine was last seen to move."),
    Series("argosy_max_num_seqs", "gauge", "Sequences that can run at once."),
    Series(
        "argosy_queued_tokens",
        "gauge",
        "Prompt tokens of requests not ended.",
        Tally.HELD_TOKENS,
        front=True,
    ),
    Series(
        "argosy_http_connections",
        "gauge",
        "Open connections of clients.",
        Tally.CONNECTIONS,
        front=True,
    ),
)

HTTP_REQUESTS = Series(
    "http_requests", "counter", "HTTP requests answered, by handler, method and status."
)
CACHE_CONFIG = Series("vllm:cache_config_info", "gauge", "The cache's configuration, as labels.")
