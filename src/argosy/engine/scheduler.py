"""Who runs, how many tokens each, and what becomes of it. No array library, no I/O, no clock.

`admit` takes what arrived and the time; `plan` decides one step; `commit` takes what it gave.
A prompt, a chunk, a decoded token and drafts are one case: tokens known and not yet scheduled.

Policy order is (class, arrival, index); the class is the priority or, first come first served, 0.
Each plan visits sequences best first, so that a victim of preemption, the worst that runs, was
never visited before. The best one can always go on, since all others can be preempted and none
that waits holds a page; hence every sequence ends, whatever the size of the pool.

Several plans may be in flight; they are committed in order. A sequence that a submitted step
names is not preempted, and pages it lets go of are kept until that step was committed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import count

from argosy.engine.admission import length_limit, refusal
from argosy.engine.pages import PagePool
from argosy.engine.roster import Roster
from argosy.engine.sequence import Family, Sequence, State
from argosy.engine.step import Counters, Limits, Outcome, Plan, Work, prompt_share
from argosy.engine.tables import Copies, PageTables
from argosy.types import Abort, Event, FinishReason, Request, TokenLogprobs

SCORE_ROWS = 32
"""Most rows of a step that reach the head for prompt_logprobs."""

Propose = Callable[[Sequence], Seq[int]]
"""Drafts of the tokens after the last known one; any number, wrong ones only cost time."""


@dataclass(slots=True)
class _Step:
    """A plan while it is made. reserved: of the token budget, for those that only decode."""

    copies: Copies
    budget: int
    reserved: int
    scores: int = SCORE_ROWS
    is_admitting: bool = True
    cursor: int = 0
    decodes: list[Work] = field(default_factory=list)
    prompts: list[Work] = field(default_factory=list)


class Scheduler:
    """Owns all sequences and, through its page tables, all pages; one pool per cache group.

    propose: makes drafts, which the next step verifies; None makes none.
    """

    def __init__(
        self, limits: Limits, pools: Seq[PagePool], *, propose: Propose | None = None
    ) -> None:
        self.limits = limits
        self.tables = PageTables(pools, prefix_caching=limits.prefix_caching)
        self.roster = Roster()
        self.counters = Counters()
        self._propose = propose
        self._arrivals = count()
        self._events: list[Event] = []
        self._num_planned = 0
        self._num_committed = 0
        self._now = 0.0  # of the last admit

    @property
    def has_work(self) -> bool:
        """Whether a sequence is alive or an event undelivered."""
        return bool(self.roster or self._events)

    # -- in ------------------------------------------------------------------------------------

    def admit(self, items: Iterable[Request | Abort], now: float) -> None:
        """Take arrivals and aborts, in order, then end what is past its deadline at `now`."""
        self._now = now
        for item in items:
            if isinstance(item, Abort):
                for seq in self.roster.find(item.request_id, item.index):
                    self._report(seq, finish_reason=FinishReason.ABORT)
            else:
                self._add(item)
        for seq in self.roster.pop_overdue(now):
            self._report(seq, finish_reason=FinishReason.ABORT, stop_reason="deadline")

    def _add(self, request: Request) -> None:
        family, arrival = Family(request), next(self._arrivals)
        error = refusal(request, self.limits, self.tables.pools)
        rank = request.priority if self.limits.by_priority else 0
        for index in range(request.index, request.index + request.params.n):
            if error:
                self._refuse(request, index, error)
                continue
            limit = length_limit(request, self.limits)
            key = rank, arrival, index
            seq = Sequence(request, family, index=index, key=key, limit=limit, arrived=self._now)
            self.roster.enter(seq)
            if reason := seq.finish_reason():  # a replay whose last token was its last
                self._report(seq, finish_reason=reason)

    def _refuse(self, request: Request, index: int, error: str) -> None:
        event = Event(
            request_id=request.request_id,
            index=index,
            finish_reason=FinishReason.ERROR,
            error=error,
            is_refusal=True,
        )
        self._events.append(event)

    # -- plan ----------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The next step, frozen; without work if nothing can be done before a commit."""
        step = self._open()
        for seq in tuple(self.roster.running):
            self._admit_waiting(step, before=seq)
            if seq.state is State.RUNNING:
                self._schedule(seq, step)
        self._admit_waiting(step, before=None)
        return self._close(step)

    def _open(self) -> _Step:
        self.tables.open_step()
        limits = self.limits
        num_decoding = sum(seq.num_remaining == 1 for seq in self.roster.running)
        # The best one, too, must be able to go on.
        reserved = min(num_decoding, limits.max_num_batched_tokens - 1)
        budget = limits.max_num_batched_tokens - reserved
        if limits.step_tokens is not None:
            aim = limits.step_tokens
            budget = min(budget, max(aim - reserved, prompt_share(aim)))
        return _Step(tuple({} for _ in self.tables.pools), budget, reserved)

    def _close(self, step: _Step) -> Plan:
        work = (*step.decodes, *step.prompts)
        if work:
            self._num_planned += 1
        else:
            self.tables.drop_step()
        copies = tuple(
            tuple((source, target) for target, source in copied.items()) for copied in step.copies
        )
        return Plan(self._num_planned, work, copies)

    def _admit_waiting(self, step: _Step, before: Sequence | None) -> None:
        """Let in who waits, best first, as long as they come before `before`."""
        waiting = self.roster.waiting
        while step.is_admitting and step.budget and step.cursor < len(waiting):
            seq = waiting[step.cursor]
            if before is not None and before.key <= seq.key:
                return
            if seq.family.is_computing and not self.tables.can_fork(seq):
                step.cursor += 1  # a sibling computes their prompt
            elif self._begin(seq):
                self._schedule(seq, step)
            else:
                step.is_admitting = False

    def _begin(self, seq: Sequence) -> bool:
        """Let `seq` in if there is a seat and room, or if lower classes can make them."""
        running = self.roster.running
        while True:
            start = self.tables.find_start(seq)
            has_seat = len(running) < self.limits.max_num_seqs
            # One page to spare for each that runs, or they would soon preempt it.
            if has_seat and self.tables.has_room(seq, start, spare=len(running)):
                break
            victim = self._victim(seq)
            if victim is None or victim.key[0] == seq.key[0]:
                return False
            self._preempt(victim)
        self.roster.withdraw(seq)
        self.roster.run(seq)
        self.tables.begin(seq, start)
        if seq.family.num_cached is None:
            seq.family.num_cached = min(start.num_tokens, seq.num_prompt)
        if seq.queued_s is None:
            seq.queued_s = self._now - seq.arrived
            self._count_lookup(seq, start.num_tokens)
        return True

    def _count_lookup(self, seq: Sequence, num_found: int) -> None:
        if self.limits.prefix_caching and seq.family.reads_cache:
            self.counters.prefix_queries += len(seq.tokens)
            self.counters.prefix_hits += num_found

    def _schedule(self, seq: Sequence, step: _Step) -> None:
        """Give `seq` its share of the step, as far as budget and pages go."""
        tokens = self._wanted(seq, step)
        if not tokens:
            return
        while not (fitting := self.tables.num_fitting(seq, len(tokens))):
            victim = self._victim(seq)
            if victim is None:
                return
            self._preempt(victim)
        work = self._work(seq, tokens[:fitting], step)
        (step.decodes if work.num_draws == len(work.tokens) else step.prompts).append(work)

    def _wanted(self, seq: Sequence, step: _Step) -> array[int]:
        """The next tokens of `seq` that the budget allows: known ones, then drafts."""
        start, num_known = seq.num_scheduled, len(seq.tokens)
        budget = step.budget + _from_reserve(seq, step)
        end = min(num_known, start + budget)
        first = max(start, len(seq.family.prompt_logprobs))
        if first < seq.family.num_scores:
            end = min(end, first + step.scores)
        tokens = seq.tokens[start:end]
        if self._propose is not None and tokens and end == num_known:
            room = min(seq.limit - num_known - 1, budget - len(tokens))
            tokens.extend(self._propose(seq)[: max(room, 0)])
        return tokens

    def _work(self, seq: Sequence, tokens: array[int], step: _Step) -> Work:
        from_reserve = _from_reserve(seq, step)
        step.reserved -= from_reserve
        step.budget -= len(tokens) - from_reserve
        start, end = seq.num_scheduled, seq.num_scheduled + len(tokens)
        self.tables.extend(seq, len(tokens), step.copies)
        first = max(start, len(seq.family.prompt_logprobs))
        num_scores = max(0, min(end, seq.family.num_scores) - first)
        step.scores -= num_scores
        return Work(
            seq,
            start,
            tokens,
            tuple(table[:] for table in seq.tables),
            num_draws=max(0, end - len(seq.tokens) + 1),
            score_from=first,
            num_scores=num_scores,
        )

    def _victim(self, seq: Sequence) -> Sequence | None:
        """The worst that runs, is worse than `seq`, and is named by no submitted step."""
        for other in reversed(self.roster.running):
            if other.key <= seq.key:
                return None
            if not other.is_in_flight:
                return other
        return None

    def _preempt(self, seq: Sequence) -> None:
        """Back to its place in the queue, to be computed again from its tokens."""
        self.tables.release(seq)
        self.roster.withdraw(seq)
        self.roster.wait(seq)
        seq.num_preemptions += 1
        self.counters.preemptions += 1

    # -- out -----------------------------------------------------------------------------------

    def commit(self, plan: Plan, outcomes: Seq[Outcome]) -> list[Event]:
        """Take what `plan` gave, an outcome for each work; return all events since the last time.

        Plans are committed in the order they were made; an empty one has no outcomes.
        """
        if plan.work:
            self._num_committed += 1
            assert plan.number == self._num_committed, "plans are committed in order"
            self.tables.close_step()
            num_seqs = len(plan.work)
            for work, outcome in zip(plan.work, outcomes, strict=True):
                if work.seq.state is State.RUNNING:  # else it ended meanwhile
                    work.seq.batches.append(num_seqs)
                    self._apply(work, outcome)
        events, self._events = self._events, []
        return events

    def _apply(self, work: Work, outcome: Outcome) -> None:
        seq = work.seq
        if outcome.error is not None:
            seq.num_computed = work.end
            reason = FinishReason.ERROR
            refused = outcome.is_refusal
            self._report(seq, finish_reason=reason, error=outcome.error, is_refusal=refused)
            return
        assert len(outcome.prompt_logprobs) == work.num_scores, "a row did not score"
        assert len(outcome.token_ids) <= work.num_draws, "more tokens than rows that draw"
        seq.family.prompt_logprobs.extend(outcome.prompt_logprobs)
        if work.num_draws:
            self._accept(seq, outcome)
        else:
            seq.num_computed = work.end
        if seq.state is State.RUNNING:
            self.tables.trim(seq)

    def _accept(self, seq: Sequence, outcome: Outcome) -> None:
        """Take the tokens drawn, up to one that ends the sequence; what lies behind is dropped."""
        num_known, reason = len(seq.tokens), None
        for token_id in outcome.token_ids:
            seq.tokens.append(token_id)
            if reason := seq.finish_reason():
                break
        num_new = len(seq.tokens) - num_known
        # With no new token the last known one is computed again: its row has to draw.
        seq.num_computed = seq.num_scheduled = num_known + num_new - 1
        self.tables.publish(seq)
        if num_new:
            self.counters.generated_tokens += num_new
            if num_known == seq.num_prompt:  # not so for a replay, whose prompt was counted before
                self.counters.prompt_tokens += num_known
            self._report(
                seq,
                token_ids=outcome.token_ids[:num_new],
                logprobs=outcome.logprobs[:num_new],
                finish_reason=reason,
            )

    def _report(
        self,
        seq: Sequence,
        *,
        token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        finish_reason: FinishReason | None = None,
        stop_reason: int | str | None = None,
        error: str | None = None,
        is_refusal: bool = False,
    ) -> None:
        """Say what happened to `seq`; with a reason it ends here, as every sequence does."""
        family, is_first = seq.family, not seq.has_spoken
        named = seq.params.stop_token_ids or ()  # by the caller, not the model
        if finish_reason is FinishReason.STOP and seq.tokens[-1] in named:
            stop_reason = seq.tokens[-1]
        if finish_reason is not None:
            if seq.state is State.RUNNING:
                self.tables.release(seq)
            self.roster.end(seq)
        event = Event(
            request_id=seq.request.request_id,
            index=seq.index,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=tuple(family.prompt_logprobs) if is_first and token_ids else (),
            num_cached_tokens=family.num_cached or 0 if is_first else 0,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            error=error,
            is_refusal=is_refusal,
            story=None if finish_reason is None else seq.story(self._now),
        )
        self._events.append(event)
        seq.has_spoken = True

    def check(self) -> None:
        """Assert that every page is in one place, held exactly by those that name it."""
        self.tables.check(self.roster.running)


def _from_reserve(seq: Sequence, step: _Step) -> int:
    """Tokens `seq` may take of the reserve: one if it only decodes."""
    return int(seq.num_remaining == 1 and step.reserved > 0)
