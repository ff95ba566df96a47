"""The same truth through the real arrays: engine, scheduler, `build_batch`, a runtime on Batch."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from argosy.engine.engine import Engine
from argosy.engine.pages import PagePool
from argosy.engine.scheduler import Scheduler
from argosy.engine.step import Limits
from argosy.types import (
    PAGE_TOKENS,
    Batch,
    FinishReason,
    Request,
    Result,
    RowError,
    SamplingParams,
    TokenLogprobs,
)
from property.device import STOP, VOCAB, Device, Windows, drawn, expected_answer, expected_scores

MEANT = ("the device is on fire", "not finite")


@dataclass(frozen=True)
class Done:
    value: Result

    def result(self) -> Result:
        return self.value


class PagedRuntime:
    """A runtime whose model is `property.device`; it fails when told to."""

    name = "paged"

    def __init__(self, device: Device, rng: random.Random, failure_rate: float) -> None:
        self.device = device
        self.rng = rng
        self.failure_rate = failure_rate

    def submit(self, batch: Batch) -> Done:
        self.device.copy([[(int(a), int(b)) for a, b in pairs] for pairs in batch.copies])
        if self.rng.random() < self.failure_rate / 4:
            raise RuntimeError("the device is on fire")
        head = batch.head
        tokens, logprobs, errors = [], [], {}
        for b, (start, end) in enumerate(zip(batch.row_starts, batch.row_starts[1:], strict=False)):
            rows = range(head.starts[b], head.starts[b + 1])
            for row, seen in zip(rows, self.compute(batch, b, int(start), int(end)), strict=True):
                position = int(head.positions[row])
                token = drawn(int(head.seeds[row]), position, seen)
                tokens.append(token if head.draw[row] else int(head.targets[row]))
                logprobs.append(-float(seen % 997))
            if self.rng.random() < self.failure_rate:
                errors[b] = RowError.NONFINITE
        nothing = np.zeros((len(tokens), 0))
        return Done(
            Result(
                starts=head.starts,
                tokens=np.array(tokens, np.int32),
                logprob=np.array(logprobs, np.float32),
                rank=np.ones(len(tokens), np.int32),
                top_ids=nothing.astype(np.int32),
                top_logprobs=nothing.astype(np.float32),
                errors=errors,
            )
        )

    def compute(self, batch: Batch, b: int, start: int, end: int) -> list[int]:
        """One sequence's rows; positions, slots, lengths and tables must tell the same story."""
        first = int(batch.positions[0, start])
        assert batch.positions[0, start:end].tolist() == list(range(first, first + end - start))
        assert batch.lengths[b] == first + end - start
        tables = [table[b].tolist() for table in batch.page_tables]
        for slots, table in zip(batch.slots, tables, strict=True):
            places = range(first, first + end - start)
            wanted = [table[p // PAGE_TOKENS] * PAGE_TOKENS + p % PAGE_TOKENS for p in places]
            assert slots[start:end].tolist() == wanted
        rows = batch.head.rows[batch.head.starts[b] : batch.head.starts[b + 1]] - start
        assert (
            batch.head.positions[batch.head.starts[b] : batch.head.starts[b + 1]]
            == first + rows + 1
        ).all()
        return self.device.compute(batch.tokens[start:end].tolist(), first, tables, rows.tolist())

    def close(self) -> None:
        pass


def random_request(rng: random.Random, number: int) -> Request:
    base = [8 + i % 3 for i in range(60)]
    prompt = base[: rng.choice((1, 15, 16, 17, 40, 60))] + [rng.randrange(8, 11) for _ in range(3)]
    return Request(
        request_id=str(number),
        token_ids=tuple(prompt),
        num_prompt_tokens=len(prompt),
        params=SamplingParams(
            n=rng.choice((1, 1, 3)),
            max_tokens=rng.choice((1, 4, 30)),
            prompt_logprobs=rng.choice((None, None, 0)),
            logprobs=rng.choice((None, 0)),
        ),
        seed=rng.randrange(2**64),
        max_total_tokens=200,
        stop_token_ids=frozenset((STOP,)),
    )


def open_world(rng: random.Random, windows: Windows) -> Engine:
    num_pages = tuple(rng.choice((8, 12, 40)) for _ in windows)
    pools = [PagePool(n, window=w) for n, w in zip(num_pages, windows, strict=True)]
    limits = Limits(
        max_num_seqs=rng.choice((1, 3, 8)),
        max_num_batched_tokens=rng.choice((1, 16, 50, 200)),
        max_model_len=100,
        vocab_size=VOCAB,
        prefix_caching=rng.random() < 0.7,
    )
    device = Device(windows, num_pages, PAGE_TOKENS)
    runtime = PagedRuntime(device, rng, rng.choice((0.0, 0.0, 0.02)))
    return Engine(Scheduler(limits, pools), runtime)


def play(seed: int, windows: Windows) -> None:
    rng = random.Random(seed)
    engine = open_world(rng, windows)
    requests = {str(i): random_request(rng, i) for i in range(rng.randrange(1, 5))}
    names = [(r, i) for r, request in requests.items() for i in range(request.params.n)]
    tokens: dict[tuple[str, int], list[int]] = {name: [] for name in names}
    scores: dict[tuple[str, int], tuple[TokenLogprobs, ...]] = {}
    ends: dict[tuple[str, int], FinishReason] = {}
    for request in requests.values():
        engine.add(request)
    while engine.has_work:
        for event in engine.step(0.0):
            name = event.request_id, event.index
            assert name not in ends
            tokens[name] += event.token_ids
            scores.setdefault(name, event.prompt_logprobs)
            if requests[event.request_id].params.logprobs is not None:
                assert tuple(place.token_id for place in event.logprobs) == event.token_ids
            if event.finish_reason is not None:
                ends[name] = event.finish_reason
                is_meant = any(words in (event.error or "") for words in MEANT)
                assert is_meant == (event.finish_reason is FinishReason.ERROR), event.error
    assert ends.keys() == tokens.keys()
    for name, reason in ends.items():
        check(requests[name[0]], name[1], reason, tokens[name], scores[name], windows)


def check(
    request: Request,
    index: int,
    reason: FinishReason,
    tokens: list[int],
    scores: tuple[TokenLogprobs, ...],
    windows: Windows,
) -> None:
    limit = min(request.num_prompt_tokens + (request.params.max_tokens or 0), 100)
    answer = expected_answer(request, index, limit, windows)
    if reason is FinishReason.ERROR:
        answer = answer[: len(tokens)]
    assert tokens == answer
    if tokens and request.params.prompt_logprobs is not None:
        assert scores == expected_scores(request, windows)


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(st.integers(0, 2**48), st.sampled_from([(), (None,), (None, 20), (None, 1), (16,)]))
def test_engine_runs_on_real_arrays(first: int, windows: Windows) -> None:
    for seed in range(first, first + 8):
        play(seed, windows)
