"""Small requests, a scheduler with small pages, and a loop that plays the runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from argosy.engine.pages import PagePool
from argosy.engine.scheduler import Scheduler
from argosy.engine.step import Limits, Outcome, Plan, Work
from argosy.engine.wire import Facts
from argosy.types import Abort, Event, Request, SamplingParams, TokenLogprobs

PAGE = 4
VOCAB = 100


def request(name: str = "a", prompt: Iterable[int] = (1, 2, 3), **options: Any) -> Request:
    """A request; options of Request and, by their names, of SamplingParams."""
    ids = tuple(prompt)
    fields = set(SamplingParams.known_fields()) - {f.name for f in dataclasses.fields(Request)}
    params = {name: options.pop(name) for name in tuple(options) if name in fields}
    given: dict[str, Any] = {
        "request_id": name,
        "token_ids": ids,
        "num_prompt_tokens": len(ids),
        "params": SamplingParams(**params),
        "seed": 0,
        "max_total_tokens": 1000,
    }
    return Request(**(given | options))


def facts(**given: Any) -> Facts:
    """What an engine says of itself to fronts."""
    base = Facts(
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=64,
        page_tokens=16,
        num_pages=100,
        kv_tokens=1600,
        cache_dtype="fp32",
        runtime="played",
        isa="none",
        memory="",
        tokens_per_s=0.0,
        prefix_caching=True,
    )
    return msgspec.structs.replace(base, **given)


def scheduler(
    *num_pages: int, windows: Sequence[int | None] | None = None, propose: Any = None, **limits: Any
) -> Scheduler:
    """A scheduler over one pool of `num_pages` usable pages each, 4 tokens a page."""
    given: dict[str, Any] = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "max_model_len": 200,
        "vocab_size": VOCAB,
    }
    pools = [
        PagePool(n + 1, window=w, page_tokens=PAGE)
        for n, w in zip(num_pages, windows or [None] * len(num_pages), strict=True)
    ]
    return Scheduler(Limits(**(given | limits)), pools, propose=propose)


Draw = Callable[[Work], int]


def outcome(work: Work, token: int = 50) -> Outcome:
    """What a runtime gives that draws `token`."""
    targets = work.seq.tokens[work.score_from + 1 :][: work.num_scores]
    return Outcome(
        token_ids=(token,) if work.num_draws else (),
        prompt_logprobs=tuple(TokenLogprobs(target, -1.0, 1) for target in targets),
    )


def step(
    made: Scheduler,
    *items: Request | Abort,
    now: float = 0.0,
    draw: Draw = lambda work: 50,
) -> tuple[Plan, list[Event]]:
    """Admit, plan and commit once."""
    made.admit(items, now)
    plan = made.plan()
    return plan, made.commit(plan, [outcome(work, draw(work)) for work in plan.work])


def finish(made: Scheduler, *items: Request | Abort, steps: int = 500) -> list[Event]:
    """Run until nothing is left; all events."""
    made.admit(items, 0.0)
    events: list[Event] = []
    for _ in range(steps):
        if not made.has_work:
            return events
        events += step(made)[1]
    raise AssertionError("it does not end")


def shares(plan: Plan) -> list[tuple[str, int, int, int]]:
    """Who got what: (request, child, first position, number of tokens)."""
    return [(w.seq.request.request_id, w.seq.index, w.start, len(w.tokens)) for w in plan.work]


def tables(plan: Plan, group: int = 0) -> list[list[int]]:
    """The page tables of a plan."""
    return [w.tables[group].tolist() for w in plan.work]
