"""One request under way: what it gave so far, who waits for more, and how to ask for it again.

Sampling is a pure function of the parameters, the seed, the tokens and where the prompt ends. All
of that is here, so a new engine continues each answer as the old one would have.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from argosy.client.answers import Answers
from argosy.client.intake import Accepted
from argosy.client.stories import Ended, explain
from argosy.types import Event, FinishReason, Request, RequestOutputKind, Story


class Entry:
    """A request in the journal.

    is_fresh: whether there may be news for the reader.  waiter: the reader, where it waits.
    is_sent: whether an engine was asked for it.  wakes: whether news before the end are of use.
    untold: answers of which the engine has not said its last word.
    last_times: when each answer's last token came.
    """

    __slots__ = (
        "accepted",
        "answers",
        "arrival",
        "ended_at",
        "first_at",
        "is_fresh",
        "is_sent",
        "last_times",
        "number",
        "restarts",
        "stories",
        "told",
        "untold",
        "waiter",
        "wakes",
    )

    def __init__(self, accepted: Accepted, answers: Answers, arrival: float) -> None:
        request = accepted.request
        self.accepted = accepted
        self.answers = answers
        self.number = int(request.request_id)
        self.arrival = arrival
        self.first_at: float | None = None
        self.ended_at: float | None = None
        self.is_fresh = False
        self.is_sent = False
        self.last_times: dict[int, float] = {}
        self.restarts = 0
        self.stories: dict[int, Story] = {}
        self.untold = set(range(request.index, request.index + request.params.n))
        self.waiter: asyncio.Future[None] | None = None
        self.told: asyncio.Future[None] | None = None
        self.wakes = request.params.output_kind is not RequestOutputKind.FINAL_ONLY

    def is_running(self, index: int) -> bool:
        """Whether this answer exists and has not ended."""
        return self.answers.is_running(index)

    def wake(self) -> None:
        """There is news: whoever reads may go on."""
        self.is_fresh = True
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def time_token(self, index: int, now: float) -> float | None:
        """Seconds since this answer's token before; None for its first."""
        last = self.last_times.get(index)
        self.last_times[index] = now
        return None if last is None else now - last

    def hear_end(self, event: Event) -> None:
        """The engine's last word on one answer."""
        self.untold.discard(event.index)
        if event.story is not None:
            self.stories[event.index] = event.story

    def finish(self, now: float, reason: FinishReason, why: str | None = None) -> None:
        """End what is unfinished from here."""
        failed = reason is FinishReason.ERROR
        for index in self.answers.running():
            event = Event(
                request_id=self.accepted.request.request_id,
                index=index,
                finish_reason=reason,
                stop_reason=None if failed else why,
                error=why if failed else None,
            )
            self.answers.take(event, now)
        self.wake()

    def replay(self) -> list[Request]:
        """What to ask a new engine for: the answers that have not ended, from where they are.

        Untouched, the request goes as it came, so that its answers share their prompt again.
        """
        request, running = self.accepted.request, self.answers.running()
        given = {index: self.answers.token_ids(index) for index in running}
        if len(running) == request.params.n and not any(given.values()):
            return [request]
        params = request.params if request.params.n == 1 else replace(request.params, n=1)
        prompt = request.token_ids[: request.num_prompt_tokens]
        return [
            replace(request, token_ids=(*prompt, *given[index]), params=params, index=index)
            for index in running
        ]

    def ended(self, now: float) -> Ended:
        """The account of it, once over."""
        answers, request = self.answers, self.accepted.request
        num_tokens = tuple(len(answers.token_ids(index)) for index in answers.indexes())
        end = now if self.ended_at is None else self.ended_at
        story = explain(
            self.stories.values(),
            num_answers=request.params.n,
            prompt_tokens=request.num_prompt_tokens,
            generated_tokens=sum(num_tokens),
            cached_tokens=answers.num_cached_tokens,
            restarts=self.restarts,
            ttft_s=None if self.first_at is None else self.first_at - self.arrival,
            total_s=end - self.arrival,
        )
        return Ended(self.accepted, answers.reasons(), num_tokens, story)
