"""Events of the engine become text: one `Answer` per sequence, one `Answers` per request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from argosy.client.intake import Accepted
from argosy.client.outputs import CompletionOutput, Logprob, Logprobs, RequestMetrics, RequestOutput
from argosy.text.detokenize import open_detokenizer
from argosy.text.stop import StopMatcher
from argosy.text.tokenizer import Tokenizer
from argosy.types import Event, FinishReason, Request, RequestOutputKind, TokenLogprobs


class Answer:
    """One sequence's answer as it grows: tokens, text, what stopped it.

    It is read by `whole`, or by `news`, which keeps nothing of what it gave but the tokens.
    """

    __slots__ = (
        "_cumulative",
        "_detokenize",
        "_given",
        "_is_refusal",
        "_logprobs",
        "_num_held",
        "_params",
        "_parts",
        "_special_stops",
        "_stop_reason",
        "_stop_starts",
        "_stops",
        "_text",
        "_tokenizer",
        "finish_reason",
        "index",
        "token_ids",
    )

    def __init__(
        self,
        index: int,
        request: Request,
        special_stops: Mapping[int, str],
        tokenizer: Tokenizer,
    ) -> None:
        params = request.params
        self.index = index
        self.finish_reason: FinishReason | None = None
        self.token_ids: list[int] = []
        self._params = params
        self._detokenize = params.detokenize
        self._special_stops = special_stops
        self._tokenizer = tokenizer
        prompt = request.token_ids[: request.num_prompt_tokens]
        self._text = open_detokenizer(tokenizer, prompt, params.skip_special_tokens)
        self._stops: StopMatcher | None = None
        self._stop_starts = frozenset(stop[0] for stop in params.stop_strings)
        self._num_held = 0  # characters of text that may begin a stop string
        if params.stop_strings:
            self._stops = StopMatcher(params.stop_strings, params.include_stop_str_in_output)
        self._stop_reason: int | str | None = None
        self._is_refusal = False
        self._parts: list[str] = []
        self._logprobs: list[Logprobs] = []
        self._cumulative = 0.0
        self._given = 0  # tokens given out as news

    def take(self, event: Event) -> None:
        """Add what a step gave. Tokens after a complete stop string are dropped."""
        stopped = event.finish_reason is FinishReason.STOP
        for place, token_id in enumerate(event.token_ids):
            if event.logprobs:
                self._score(event.logprobs[place])
            if stopped and place == len(event.token_ids) - 1:
                self.token_ids.append(token_id)
                break
            if self.take_token(token_id):
                return
        if event.finish_reason is not None:
            self._finish(event)

    def take_token(self, token_id: int) -> bool:
        """Add a token that does not end the answer by itself; whether a stop string does."""
        self.token_ids.append(token_id)
        if not self._detokenize:
            return False
        text = self._text.push(token_id)
        if self._num_held or not self._stop_starts.isdisjoint(text):
            return self._show(text)
        if text:
            self._parts.append(text)
        return False

    def whole(self) -> CompletionOutput:
        """All of it so far."""
        return self._output("".join(self._parts), self.token_ids[:], self._logprobs[:])

    def news(self) -> CompletionOutput | None:
        """What was not given out by this method before; None where there is nothing.

        The end of an answer is told once, with its last news or alone.
        """
        tokens = self.token_ids[self._given :]
        if not (tokens or self._parts or self.finish_reason) or self._given < 0:
            return None
        text, logprobs = "".join(self._parts), self._logprobs
        self._parts, self._logprobs = [], []
        self._given = -1 if self.finish_reason else self._given + len(tokens)
        return self._output(text, tokens, logprobs)

    def _score(self, logprobs: TokenLogprobs) -> None:
        self._cumulative += logprobs.logprob
        self._logprobs.append(logprob_map(logprobs, self._tokenizer))

    def _show(self, text: str) -> bool:
        """Show text as far as no stop string may begin in it; whether one was complete."""
        assert self._stops is not None
        armed = len(self.token_ids) > self._params.min_tokens
        shown, stop = self._stops.push(text, armed)
        self._num_held += len(text) - len(shown)
        self._put(shown)
        if stop is not None:
            self.finish_reason, self._stop_reason = FinishReason.STOP, stop
        return stop is not None

    def _put(self, text: str) -> None:
        if text:
            self._parts.append(text)

    def _finish(self, event: Event) -> None:
        reason: int | str | None = event.stop_reason
        include = self._params.include_stop_str_in_output
        if event.finish_reason is FinishReason.STOP and event.token_ids:
            last = event.token_ids[-1]
            reason = self._special_stops.get(last, reason)
            if include and self._detokenize and last not in self._special_stops:
                self._put_rest(self._text.push(last))
        if self._detokenize:
            self._put_rest(self._text.finish())
        if include and isinstance(reason, str) and event.finish_reason is FinishReason.STOP:
            self._put(reason)
        failed = event.finish_reason is FinishReason.ERROR
        self._stop_reason = event.error if failed else reason
        self._is_refusal = event.is_refusal
        self.finish_reason = event.finish_reason

    def _put_rest(self, text: str) -> None:
        held = "" if self._stops is None else self._stops.finish()
        self._put(held + text)

    def _output(
        self, text: str, token_ids: list[int], logprobs: list[Logprobs]
    ) -> CompletionOutput:
        wanted = self._params.logprobs is not None
        return CompletionOutput(
            self.index,
            text,
            token_ids,
            self._cumulative if wanted else None,
            logprobs if wanted else None,
            None if self.finish_reason is None else self.finish_reason.value,
            self._stop_reason,
            is_refusal=self._is_refusal,
        )


class Answers:
    """All answers of one request, and when its events came.

    name: what its outputs are named; by default the request's own id.
    finished: whether every answer is.
    num_cached_tokens: prompt tokens the first engine found in its prefix cache.
    """

    __slots__ = (
        "_accepted",
        "_answers",
        "_metrics",
        "_name",
        "_num_running",
        "_prompt_given",
        "_prompt_logprobs",
        "_prompt_token_ids",
        "_tokenizer",
        "finished",
        "num_cached_tokens",
        "request",
    )

    def __init__(
        self,
        accepted: Accepted,
        tokenizer: Tokenizer,
        arrival_time: float,
        *,
        name: str | None = None,
    ) -> None:
        request = accepted.request
        self.request = request
        self.finished = False
        self.num_cached_tokens = 0
        self._accepted = accepted
        self._name = request.request_id if name is None else name
        self._prompt_token_ids = list(request.token_ids[: request.num_prompt_tokens])
        self._tokenizer = tokenizer
        self._answers = {
            index: Answer(index, request, accepted.special_stops, tokenizer)
            for index in range(request.index, request.index + request.params.n)
        }
        self._num_running = len(self._answers)
        self._prompt_logprobs: list[Logprobs | None] | None = None
        self._prompt_given = False
        self._metrics = RequestMetrics(arrival_time)

    def is_running(self, index: int) -> bool:
        """Whether this answer has not ended."""
        answer = self._answers.get(index)
        return answer is not None and answer.finish_reason is None

    def running(self) -> list[int]:
        """The answers that have not ended, by index."""
        return [a.index for a in self._answers.values() if a.finish_reason is None]

    def indexes(self) -> list[int]:
        """All answers, by index."""
        return list(self._answers)

    def token_ids(self, index: int) -> list[int]:
        """The tokens of one answer so far."""
        return self._answers[index].token_ids

    def reasons(self) -> tuple[str, ...]:
        """Why each answer ended, in order; "" where it has not."""
        return tuple(
            a.finish_reason.value if a.finish_reason else "" for a in self._answers.values()
        )

    def take(self, event: Event, now: float) -> bool:
        """Add what a step gave; whether a stop string ended a sequence the engine still runs."""
        answer = self._answers[event.index]
        if answer.finish_reason is not None:  # the engine's word on a sequence aborted here
            return False
        if event.token_ids:
            if self._metrics.first_token_time is None:
                self._metrics = replace(self._metrics, first_token_time=now)
            if event.index == self.request.index and not answer.token_ids:
                self._take_prompt(event)
        answer.take(event)
        if answer.finish_reason is None:
            return False
        self._count_end(now)
        return event.finish_reason is None

    def take_token(self, index: int, token_id: int, now: float) -> bool:
        """`take` for a token of a running answer of which there is nothing more to say."""
        if self._metrics.first_token_time is None:
            self._metrics = replace(self._metrics, first_token_time=now)
        if not self._answers[index].take_token(token_id):
            return False
        self._count_end(now)
        return True

    def _count_end(self, now: float) -> None:
        self._num_running -= 1
        if not self._num_running:
            self.finished = True
            self._metrics = replace(self._metrics, finished_time=now)

    def _take_prompt(self, event: Event) -> None:
        """What the first child's first event says of the prompt, which all share."""
        self.num_cached_tokens = event.num_cached_tokens
        if self.request.params.prompt_logprobs is not None:
            maps = [logprob_map(place, self._tokenizer) for place in event.prompt_logprobs]
            self._prompt_logprobs = [None, *maps]

    def output(self) -> RequestOutput | None:
        """What the request's output_kind says is due now."""
        kind = self.request.params.output_kind
        if kind is RequestOutputKind.DELTA:
            return self._news()
        if kind is RequestOutputKind.FINAL_ONLY and not self.finished:
            return None
        return self._output([a.whole() for a in self._answers.values()], self._prompt_logprobs)

    def _news(self) -> RequestOutput | None:
        news = [new for a in self._answers.values() if (new := a.news()) is not None]
        if not news:
            return None
        prompt_logprobs = None if self._prompt_given else self._prompt_logprobs
        self._prompt_given = self._prompt_logprobs is not None
        return self._output(news, prompt_logprobs)

    def _output(
        self, outputs: list[CompletionOutput], prompt_logprobs: list[Logprobs | None] | None
    ) -> RequestOutput:
        return RequestOutput(
            request_id=self._name,
            prompt=self._accepted.prompt,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
            outputs=outputs,
            finished=self.finished,
            metrics=self._metrics,
            num_cached_tokens=self.num_cached_tokens,
        )


def logprob_map(place: TokenLogprobs, tokenizer: Tokenizer) -> Logprobs:
    """One place in vLLM's shape: the token's own entry, then the best ones by rank."""
    ranked = [(place.token_id, place.logprob, place.rank)]
    ranked += [(id_, value, rank) for rank, (id_, value) in enumerate(place.top, 1)]
    found: Logprobs = {}
    for id_, value, rank in ranked:
        found.setdefault(id_, Logprob(value, rank, tokenizer.token_text(id_)))
    return found
