"""An engine without a model: a function from requests to tokens, played as events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from argosy.client.intake import Intake
from argosy.client.local import LocalClient
from argosy.text.tokenizer import Tokenizer
from argosy.types import Event, FinishReason, Request, TokenLogprobs

Tokens = Callable[[Request, int], Sequence[int]]


@dataclass
class FakeEngine:
    """Plays `tokens(request, index)`, `per_step` at a time, as the real engine would report them.

    fail_at: the step that ends every sequence with an error.  running: what would hold pages.
    """

    tokens: Tokens
    per_step: int = 1
    fail_at: int | None = None
    running: dict[tuple[str, int], tuple[Request, list[int]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    num_steps: int = 0
    num_resets: int = 0
    closed: bool = False
    on_step: Callable[[], None] = lambda: None
    _inbox: list[tuple[str, int | None]] = field(default_factory=list)
    _sent: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, request: Request) -> None:
        self.requests.append(request)
        for index in range(request.index, request.index + request.params.n):
            budget = request.max_total_tokens - request.num_prompt_tokens
            self.running[request.request_id, index] = (
                request,
                list(self.tokens(request, index))[:budget],
            )

    def abort(self, request_id: str, index: int | None = None) -> None:
        self._inbox.append((request_id, index))

    def step(self, now: float) -> list[Event]:
        self.num_steps += 1
        events = self._aborted()
        self.on_step()
        for key in list(self.running):
            events.append(self._play(key))
        return events

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._inbox)

    def reset_prefix_cache(self) -> None:
        self.num_resets += 1

    def close(self) -> None:
        self.closed = True

    def _aborted(self) -> list[Event]:
        inbox, self._inbox = self._inbox, []
        gone = [
            key for key in self.running for id_, i in inbox if key[0] == id_ and i in (None, key[1])
        ]
        for key in gone:
            del self.running[key]
        return [Event(request_id=r, index=i, finish_reason=FinishReason.ABORT) for r, i in gone]

    def _play(self, key: tuple[str, int]) -> Event:
        request, left = self.running[key]
        if self.num_steps == self.fail_at:
            del self.running[key]
            reason = FinishReason.ERROR
            return Event(request_id=key[0], index=key[1], finish_reason=reason, error="step broke")
        new, reason = self._next(request, left)
        first = key not in self._sent
        self._sent[key] = self._sent.get(key, 0) + len(new)
        if reason is None and not left:
            reason = FinishReason.LENGTH
        if reason is not None:
            del self.running[key]
        own = new[-1] if reason is FinishReason.STOP else None
        wanted = request.params.prompt_logprobs is not None and first and key[1] == request.index
        prompt = request.token_ids[1 : request.num_prompt_tokens]
        return Event(
            request_id=key[0],
            index=key[1],
            token_ids=tuple(new),
            logprobs=self._logprobs(request.params.logprobs, new),
            prompt_logprobs=self._logprobs(request.params.prompt_logprobs, prompt)
            if wanted
            else (),
            num_cached_tokens=16 if key[1] == request.index else 99,
            finish_reason=reason,
            stop_reason=own if own in (request.params.stop_token_ids or ()) else None,
        )

    def _next(self, request: Request, left: list[int]) -> tuple[list[int], FinishReason | None]:
        new: list[int] = []
        while left and len(new) < self.per_step:
            new.append(left.pop(0))
            if new[-1] in request.stop_token_ids:
                return new, FinishReason.STOP
        return new, None

    def _logprobs(self, count: int | None, ids: Sequence[int]) -> tuple[TokenLogprobs, ...]:
        if count is None:
            return ()
        top = tuple((id_, -float(id_)) for id_ in range(count))
        return tuple(TokenLogprobs(id_, -0.5, 1 + id_, top) for id_ in ids)


def client_of(
    engine: FakeEngine,
    tokenizer: Tokenizer,
    *,
    template: str | None = None,
    max_model_len: int = 200,
    seed: int | None = 0,
) -> LocalClient:
    """A client of `engine` whose clock goes on by one second a look."""
    eos = tokenizer.special_id("</s>")
    intake = Intake(
        tokenizer,
        template,
        vocab_size=tokenizer.num_ids,
        max_model_len=max_model_len,
        eos_token_ids=[] if eos is None else [eos],
        seed=seed,
    )
    times = iter(range(10**9))
    return LocalClient(engine, intake, clock=lambda: float(next(times)))


def saying(tokenizer: Tokenizer, *texts: str) -> Tokens:
    """Answer child i with the tokens of text i, the last one for all others."""
    return lambda request, index: tokenizer.encode(
        texts[min(index, len(texts) - 1)], add_special_tokens=False
    )
