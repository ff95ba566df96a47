"""Random histories (arrivals, aborts, deadlines, forks, failures, tiny pools), always checked."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

from argosy.engine.pages import PagePool
from argosy.engine.scheduler import Scheduler
from argosy.engine.sequence import Sequence
from argosy.engine.step import Limits, Outcome, Plan, Work
from argosy.types import (
    NULL_PAGE,
    Abort,
    Event,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprobs,
)
from property.device import (
    STOP,
    VOCAB,
    Device,
    Windows,
    drawn,
    expected_answer,
    expected_scores,
    first_seen,
    scored,
)

Name = tuple[str, int]


@dataclass(frozen=True)
class Setting:
    """One history's world; all of it follows from the seed."""

    windows: Windows
    page_tokens: int
    num_pages: tuple[int, ...]
    limits: Limits
    depth: int
    num_drafts: int
    error_rate: float
    empty_rate: float


@dataclass
class Story:
    """What was asked, and what came back, by name."""

    requests: dict[Name, Request] = field(default_factory=dict)
    tokens: dict[Name, list[int]] = field(default_factory=dict)
    scores: dict[Name, tuple[TokenLogprobs, ...]] = field(default_factory=dict)
    ends: dict[Name, Event] = field(default_factory=dict)
    errors: set[Name] = field(default_factory=set)

    def ask(self, request: Request) -> None:
        for index in range(request.index, request.index + request.params.n):
            self.requests[request.request_id, index] = request
            self.tokens[request.request_id, index] = []

    def hear(self, event: Event) -> None:
        name = event.request_id, event.index
        assert name in self.requests, "an event for nobody"
        assert name not in self.ends, "an event after the last"
        if event.prompt_logprobs:
            assert name not in self.scores, "prompt logprobs sent twice"
            assert not self.tokens[name], "prompt logprobs come with the first token"
            self.scores[name] = event.prompt_logprobs
        self.tokens[name] += event.token_ids
        if event.finish_reason is not None:
            self.ends[name] = event


def random_setting(rng: random.Random, num_groups: int) -> Setting:
    windows: Windows = tuple(
        rng.choice((None, None, 1, 2, 3, 5, 8)) if g or num_groups > 1 else None
        for g in range(num_groups)
    )
    page_tokens, max_model_len = rng.choice((2, 3, 4)), rng.choice((16, 24))
    whole = -(-max_model_len // page_tokens)  # what one long sequence needs
    return Setting(
        windows=windows,
        page_tokens=page_tokens,
        num_pages=tuple(1 + int(whole * rng.choice((0.7, 1, 1.2, 1.5, 2, 4))) for _ in windows),
        limits=Limits(
            max_num_seqs=rng.choice((1, 2, 4, 8, 8)),
            max_num_batched_tokens=rng.choice((1, 3, 8, 16, 64, 64)),
            max_model_len=max_model_len,
            vocab_size=VOCAB,
            step_tokens=rng.choice((None, None, 1, 40)),
            by_priority=rng.random() < 0.4,
            prefix_caching=rng.random() < 0.7,
        ),
        depth=rng.choice((1, 1, 1, 2, 3)),
        num_drafts=rng.choice((0, 0, 0, 1, 3)),
        error_rate=rng.choice((0.0, 0.0, 0.0, 0.03)),
        empty_rate=rng.choice((0.0, 0.0, 0.1)),
    )


def random_request(rng: random.Random, number: int, bases: Seq[Seq[int]], now: int) -> Request:
    base = rng.choice(bases)
    shared = base[: rng.randrange(0, len(base) + 1)]
    own = [rng.randrange(8, 11) for _ in range(rng.choice((0, 0, 1, 2, 4)))]
    tokens = (*shared, *own) or (8,)
    num_prompt = len(tokens)
    if rng.random() < 0.1:  # a replay
        num_prompt = rng.randrange(1, len(tokens) + 1)
    return Request(
        request_id=str(number),
        token_ids=tokens,
        num_prompt_tokens=num_prompt,
        params=SamplingParams(
            n=rng.choice((1, 1, 1, 2, 3)),
            temperature=1.0,
            max_tokens=rng.choice((1, 3, 6, 9, 12)),
            prompt_logprobs=0 if rng.random() < 0.15 else None,
            skip_reading_prefix_cache=rng.random() < 0.1,
        ),
        seed=rng.choice((0, 1, rng.randrange(2**64))),
        max_total_tokens=rng.choice((14, 40, 40)),
        stop_token_ids=frozenset((STOP,)),
        index=rng.choice((0, 0, 0, 2)),
        priority=rng.randrange(3),
        deadline=now + rng.randrange(12) if rng.random() < 0.1 else None,
        cache_salt=rng.choice(("", "", "", "other")),
    )


class World:
    """One random history: a scheduler, a device, and everything checked at every step."""

    def __init__(self, seed: int, num_groups: int) -> None:
        self.rng = rng = random.Random(seed)
        self.setting = setting = random_setting(rng, num_groups)
        self.pools = [
            PagePool(pages, window=window, page_tokens=setting.page_tokens)
            for pages, window in zip(setting.num_pages, setting.windows, strict=True)
        ]
        propose = self._propose if setting.num_drafts else None
        self.scheduler = Scheduler(setting.limits, self.pools, propose=propose)
        self.device = Device(setting.windows, setting.num_pages, setting.page_tokens)
        self.story = Story()
        self._answers: dict[Name, list[int]] = {}
        self.flight: deque[tuple[Plan, list[Outcome]]] = deque()
        bases = [[rng.randrange(8, 11) for _ in range(11)] for _ in range(2)]
        arrivals: dict[int, list[Request | Abort]] = {}
        for number in range(rng.choice((1, 2, 4, 6))):
            when = rng.choice((0, 0, 0, 0, 2, 6))
            request = random_request(rng, number, bases, when)
            arrivals.setdefault(when, []).append(request)
            if rng.random() < 0.2:
                index = rng.choice((None, request.index, request.index + 1))
                abort = Abort(request.request_id, index)
                arrivals.setdefault(when + rng.randrange(8), []).append(abort)
        self.arrivals = arrivals

    def run(self) -> None:
        """Let it happen, to the end."""
        last, bound, now = max(self.arrivals), 0, 0
        while now <= last or self.scheduler.has_work or self.flight:
            for item in self.arrivals.get(now, ()):
                if isinstance(item, Request):
                    self.story.ask(item)
                    bound += (
                        4 * item.params.n * (len(item.token_ids) + (item.params.max_tokens or 0))
                    )
            self.step(self.arrivals.get(now, []), now)
            now += 1
            assert now < 40 + 2 * bound, "somebody starves"
        self.check_story()

    def step(self, items: list[Request | Abort], now: int) -> None:
        scheduler = self.scheduler
        scheduler.admit(items, now)
        plan = scheduler.plan()
        self.check_plan(plan)
        assert plan.work or self.flight or not scheduler.roster, "nobody can go on"
        self.flight.append((plan, self.execute(plan)))
        while self.flight and (len(self.flight) >= self.setting.depth or not plan.work):
            for event in scheduler.commit(*self.flight.popleft()):
                self.story.hear(event)
        self.check_pages()

    def execute(self, plan: Plan) -> list[Outcome]:
        """One step on the device; now and then it breaks, for one sequence or for all."""
        rng, setting = self.rng, self.setting
        self.device.copy(plan.copies)
        if rng.random() < setting.error_rate / 3:
            for work in plan.work:
                self.device.spoil(work.start, work.end, work.tables, rng.randrange(2**60))
            return [self.failed(work) for work in plan.work]
        outcomes = []
        for work in plan.work:
            outcome = self.compute(work)
            if rng.random() < setting.error_rate:
                self.device.spoil(work.start, work.end, work.tables, rng.randrange(2**60))
                outcome = self.failed(work)
            elif rng.random() < setting.empty_rate:
                outcome = replace(outcome, token_ids=())
            outcomes.append(outcome)
        return outcomes

    def failed(self, work: Work) -> Outcome:
        self.story.errors.add((work.seq.request.request_id, work.seq.index))
        return Outcome(error="broken")

    def compute(self, work: Work) -> Outcome:
        score = work.score_from - work.start
        wanted = [
            *range(score, score + work.num_scores),
            *range(len(work.tokens) - work.num_draws, len(work.tokens)),
        ]
        seen = self.device.compute(work.tokens, work.start, work.tables, wanted)
        prompt = work.seq.request.token_ids
        targets = prompt[work.score_from + 1 : work.score_from + 1 + work.num_scores]
        scores = [scored(target, s) for target, s in zip(targets, seen, strict=False)]
        tokens: list[int] = []
        for row, s in zip(wanted[work.num_scores :], seen[work.num_scores :], strict=True):
            tokens.append(drawn(work.seq.seed, work.start + row + 1, s))
            if row + 1 < len(work.tokens) and work.tokens[row + 1] != tokens[-1]:
                break
        return Outcome(token_ids=tuple(tokens), prompt_logprobs=tuple(scores))

    def answer(self, name: Name) -> list[int]:
        """What `name` draws when it is alone."""
        if name not in self._answers:
            request = self.story.requests[name]
            asked = request.num_prompt_tokens + (request.params.max_tokens or 0)
            limit = min(asked, request.max_total_tokens, self.setting.limits.max_model_len)
            self._answers[name] = expected_answer(request, name[1], limit, self.setting.windows)
        return self._answers[name]

    def _propose(self, seq: Sequence) -> list[int]:
        """The truth, or nearly."""
        name = seq.request.request_id, seq.index
        done = len(seq.tokens) - len(seq.request.token_ids)
        drafts = self.answer(name)[done : done + self.rng.randrange(self.setting.num_drafts + 1)]
        return [d if self.rng.random() < 0.7 else self.rng.randrange(VOCAB) for d in drafts]

    # -- what must be true ---------------------------------------------------------------------

    def check_plan(self, plan: Plan) -> None:
        limits, running = self.setting.limits, self.scheduler.roster.running
        assert len({id(work.seq) for work in plan.work}) == len(plan.work)
        assert sum(len(work.tokens) for work in plan.work) <= limits.max_num_batched_tokens
        assert len(running) <= limits.max_num_seqs
        for g in range(len(self.pools)):
            users = Counter(page for seq in running for page in seq.tables[g])
            for work in plan.work:
                size = self.setting.page_tokens
                written = work.tables[g][work.start // size : (work.end - 1) // size + 1]
                assert all(users[page] == 1 for page in written), "a shared page is written"

    def check_pages(self) -> None:
        """Every page in one place, held exactly by those that name it."""
        self.scheduler.check()
        roster, kept = self.scheduler.roster, self.scheduler.tables.kept
        assert all(seq.tables == () for seq in roster.waiting), "who waits holds pages"
        for g, pool in enumerate(self.pools):
            pool.check()
            named = Counter(page for seq in roster.running for page in seq.tables[g])
            named.update(page for owner, page in kept if owner is pool)
            del named[NULL_PAGE]
            held = {page: n for page in range(pool.num_pages) if (n := pool.num_refs(page))}
            assert held == dict(named), "a page leaked or has a wrong count"
            in_flight = {page for plan, _ in self.flight for w in plan.work for page in w.tables[g]}
            assert in_flight - {NULL_PAGE} <= held.keys(), "a page was freed under a running step"

    def check_story(self) -> None:
        story = self.story
        assert story.ends.keys() == story.requests.keys(), "not everybody ended"
        assert all(pool.num_available == pool.num_usable for pool in self.pools)
        for name, request in story.requests.items():
            end, tokens = story.ends[name], story.tokens[name]
            if end.finish_reason is FinishReason.ERROR and name not in story.errors:
                assert not tokens and not self.fits(request), f"refused: {end.error}"
                continue
            self.check_answer(name, end, tokens)
            if name in story.scores:
                assert story.scores[name] == expected_scores(request, self.setting.windows)
            wants = request.params.prompt_logprobs is not None and request.num_prompt_tokens > 1
            if wants and tokens and len(request.token_ids) == request.num_prompt_tokens:
                assert name in story.scores, "prompt logprobs were never sent"

    def check_answer(self, name: Name, end: Event, tokens: list[int]) -> None:
        answer = self.answer(name)
        if end.finish_reason in (FinishReason.STOP, FinishReason.LENGTH):
            assert tokens == answer, "the answer is not the one it gives alone"
            ended = tokens[-1] if tokens else self.story.requests[name].token_ids[-1]
            assert (end.finish_reason is FinishReason.STOP) == (ended == STOP)
        else:
            assert tokens == answer[: len(tokens)]
        assert (end.finish_reason is FinishReason.ERROR) <= (name in self.story.errors)

    def fits(self, request: Request) -> bool:
        """Whether `request` could be served by these pools, with nobody else there."""
        total = min(request.max_total_tokens, self.setting.limits.max_model_len)
        if request.num_prompt_tokens >= total:
            return False
        length = min(total, request.num_prompt_tokens + (request.params.max_tokens or total)) - 1
        for pool, window in zip(self.pools, self.setting.windows, strict=True):
            pages = max(
                (pos // pool.page_tokens - first_seen(pos, window) // pool.page_tokens + 1)
                for pos in range(length)
            )
            if pages > pool.num_usable:
                return False
        return True
