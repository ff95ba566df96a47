"""Metrics: what this front counts, and the exposition that adds up all fronts and the engine.

Counting is a cell's increment on the board, quick enough for every token; formatting happens when
somebody scrapes. All series are there from the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from argosy.client.attachment import Attachment, State
from argosy.engine.board import FRONT_CELLS, Cell
from argosy.serve import series
from argosy.serve.series import HISTOGRAMS, REASONS, SERIES, STATUSES, Histogram, Series
from argosy.serve.tally import Tallies, Tally, lay_out

if TYPE_CHECKING:
    from argosy.client.stories import Ended
    from argosy.engine.wire import Facts

Labels = tuple[tuple[str, str], ...]
_BUSY_WINDOW_NS = 3 * 10**9
_STATUS_PLACE = {status: place for place, status in enumerate(STATUSES)}
_REASON_CELL = {reason: Tally.ENDED_STOP + place for place, reason in enumerate(REASONS)}
OTHER = ("other", "")
"""The handler of requests that no route takes."""


class Metrics:
    """What one front counts. It is the client's Meter.

    model_name: on every series.  max_num_seqs: seats of the engine.
    memory_share: of the memory limit, which the engine may use.
    process: whose memory and time are told; by default this one's. It must be the same in all
    fronts, since any of them may answer the next scrape.
    """

    def __init__(
        self,
        tallies: Tallies,
        attachment: Attachment,
        *,
        model_name: str,
        max_num_seqs: int,
        memory_share: float = 1.0,
        process: int | None = None,
    ) -> None:
        self.tallies = tallies
        self.attachment = attachment
        self.facts: Facts | None = None
        self.max_num_seqs = max_num_seqs
        self.memory_share = memory_share
        self.handlers = [OTHER]
        self.base: Labels = (("model_name", model_name), ("engine", "0"))
        bounds = [(h.bounds, h.scale) for h in HISTOGRAMS]
        places, self._http = lay_out(Tally.COUNT, bounds)
        self._places = dict(zip((h.name for h in HISTOGRAMS), places, strict=True))
        self._ttft = self._places[series.TTFT.name]
        self._inter_token = self._places[series.INTER_TOKEN.name]
        self._busy: deque[tuple[int, int]] = deque()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Exposition(self))
        ProcessCollector(pid=lambda: process or "self", registry=self._registry)

    # -- the client's Meter -----------------------------------------------------------------------

    def first_token(self, seconds: float) -> None:
        """A request's first token came."""
        self.tallies.observe(self._ttft, seconds)

    def tokens(self, gaps: Sequence[float]) -> None:
        """Tokens came, each so many seconds after the one before it."""
        observe, place = self.tallies.observe, self._inter_token
        for gap in gaps:
            observe(place, gap)

    def ended(self, ended: Ended) -> None:
        """A request is over."""
        for reason in ended.reasons:
            self.tallies.add(_REASON_CELL.get(reason, Tally.ENDED_ERROR))
        story = ended.story
        self.tallies.add(Tally.CACHED_TOKENS, story.cached_tokens)
        for histogram, value in _told(ended):
            self.tallies.observe(self._places[histogram.name], value)

    # -- the front --------------------------------------------------------------------------------

    def name_handlers(self, handlers: Sequence[tuple[str, str]]) -> None:
        """(path, method) of each route in order, the last for what no route takes.

        The same in all fronts, and before the first request.
        """
        assert self._http + len(handlers) * len(STATUSES) <= FRONT_CELLS, "too many routes"
        self.handlers = list(handlers)

    def http(self, handler: int, status: int) -> None:
        """An HTTP request was answered; handler: -1 for none."""
        place = handler % len(self.handlers) * len(STATUSES)
        self.tallies.add(self._http + place + _STATUS_PLACE.get(status, _STATUS_PLACE[500]))

    def tick(self, now_ns: int, connections: int) -> None:
        """To be called several times a second."""
        self.tallies.mine[Tally.CONNECTIONS] = connections
        busy = self._busy
        busy.append((now_ns, self.attachment.board[Cell.BUSY_NS]))
        while now_ns - busy[0][0] > _BUSY_WINDOW_NS:
            busy.popleft()

    def expose(self, accept: str | None, facts: Facts | None = None) -> tuple[bytes, str]:
        """The text for a scraper that accepts `accept`, and its content type.

        facts: what the engine told of itself; None: nothing yet.
        """
        self.facts = facts
        encoder, content_type = choose_encoder(accept or "")
        return encoder(self._registry), content_type

    # -- what is worked out -----------------------------------------------------------------------

    def value(self, one: Series) -> float:
        """A series' value now."""
        board = self.attachment.board
        if one.source is not None:
            return self.tallies.total(one.source) if one.front else board[one.source]
        return _WORKED_OUT[one.name](self)

    def running(self) -> int:
        """Sequences in the batch."""
        return self.attachment.board[Cell.RUNNING] if self.is_up() else 0

    def waiting(self) -> int:
        """Sequences that wait; while there is no engine, the requests that will."""
        if self.is_up():
            return self.attachment.board[Cell.WAITING]
        return self.tallies.total(Tally.HELD)

    def is_up(self) -> bool:
        """Whether the engine serves."""
        return self.attachment.state is State.READY

    def ratio(self, part: Cell, whole: Cell) -> float:
        """One cell over another, 0 where that is 0."""
        board = self.attachment.board
        return board[part] / board[whole] if board[whole] else 0.0

    def utilization(self) -> float:
        """Share of the last seconds that the device was busy."""
        if len(self._busy) < 2:
            return 0.0
        (since, before), (now, after) = self._busy[0], self._busy[-1]
        return min(1.0, max(0, after - before) / max(1, now - since))

    def cache_config(self) -> dict[str, str]:
        """Labels of vllm:cache_config_info; empty before the engine told."""
        facts = self.facts
        if facts is None:
            return {}
        return {
            "block_size": str(facts.page_tokens),
            "num_gpu_blocks": str(facts.num_pages),
            "cache_dtype": facts.cache_dtype,
            "enable_prefix_caching": str(facts.prefix_caching),
            "gpu_memory_utilization": f"{self.memory_share:g}",
            "kv_cache_size_tokens": str(facts.kv_tokens),
            "kv_cache_max_concurrency": f"{facts.kv_tokens / max(1, facts.max_model_len):.2f}",
        }

    def http_counts(self) -> Iterator[tuple[Labels, int]]:
        """(labels, count): each handler's 200, and whatever else was answered."""
        for index, (path, method) in enumerate(self.handlers):
            start = self._http + index * len(STATUSES)
            for status, count in zip(
                STATUSES, self.tallies.totals(start, len(STATUSES)), strict=True
            ):
                if count or (status == 200 and (path, method) != OTHER):
                    labels = ("handler", path), ("method", method), ("status", str(status))
                    yield labels, count

    def histogram(self, one: Histogram) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets by their upper ends, and the sum."""
        place = self._places[one.name]
        cells = self.tallies.totals(place.start, place.num_cells)
        buckets, seen = [], 0
        for end, count in zip((*map(str, place.bounds), "+Inf"), cells, strict=False):
            seen += count
            buckets.append((end, float(seen)))
        return buckets, cells[-1] * place.scale


_WORKED_OUT: dict[str, Callable[[Metrics], float]] = {
    "vllm:num_requests_running": Metrics.running,
    "vllm:num_requests_waiting": Metrics.waiting,
    "vllm:num_requests_waiting_by_reason": Metrics.waiting,
    "vllm:kv_cache_usage_perc": lambda m: m.ratio(Cell.PAGES_HELD, Cell.PAGES_USABLE),
    "gpu_utilization": Metrics.utilization,
    "argosy_memory_used_ratio": lambda m: m.ratio(Cell.MEMORY_USED, Cell.MEMORY_LIMIT),
    "argosy_engine_up": Metrics.is_up,
    "argosy_heartbeat_age_seconds": lambda m: m.attachment.look(),
    "argosy_max_num_seqs": lambda m: m.max_num_seqs,
}


def _told(ended: Ended) -> Iterator[tuple[Histogram, float]]:
    """What is entered for a request that is over."""
    story, params = ended.story, ended.accepted.request.params
    yield series.E2E, story.total_s
    yield series.PROMPT_TOKENS, story.prompt_tokens
    yield series.NUM_ANSWERS, params.n
    if params.max_tokens is not None:
        yield series.MAX_TOKENS, params.max_tokens
    for count in ended.num_tokens:
        yield series.GENERATION_TOKENS, count
    most = max(ended.num_tokens, default=0)
    yield series.MOST_TOKENS, most
    yield series.QUEUE, story.queue_s
    yield series.INFERENCE, max(0.0, story.total_s - story.queue_s)
    yield series.PREEMPTIONS, story.preemptions
    yield series.COMPUTED, story.computed_prompt_tokens
    if story.ttft_s is not None:
        yield series.PREFILL, max(0.0, story.ttft_s - story.queue_s)
        yield series.DECODE, max(0.0, story.total_s - story.ttft_s)
        if most > 1:
            yield series.PER_TOKEN, max(0.0, story.total_s - story.ttft_s) / (most - 1)


class _Exposition(Collector):
    """All series in prometheus_client's terms."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """The families, made anew for each scrape."""
        metrics = self._metrics
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for one in SERIES:
            if one.name not in families:
                labels = [name for name, _ in (*metrics.base, *one.labels)]
                families[one.name] = _family(one, labels)
            values = [value for _, value in (*metrics.base, *one.labels)]
            families[one.name].add_metric(values, metrics.value(one))
        yield from families.values()
        yield from (self._histogram(one) for one in HISTOGRAMS)
        yield self._http()
        if config := metrics.cache_config():
            told = {**dict(metrics.base), **config}
            family = _family(series.CACHE_CONFIG, list(told))
            family.add_metric(list(told.values()), 1)
            yield family

    def _histogram(self, one: Histogram) -> HistogramMetricFamily:
        base = self._metrics.base
        family = HistogramMetricFamily(one.name, one.help, labels=[name for name, _ in base])
        buckets, total = self._metrics.histogram(one)
        family.add_metric([value for _, value in base], buckets, sum_value=total)
        return family

    def _http(self) -> Metric:
        family = _family(series.HTTP_REQUESTS, ["handler", "method", "status"])
        for labels, count in self._metrics.http_counts():
            family.add_metric([value for _, value in labels], count)
        return family


def _family(one: Series, labels: list[str]) -> GaugeMetricFamily | CounterMetricFamily:
    kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    return kind(one.name, one.help, labels=labels)
