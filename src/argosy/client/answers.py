"""Events of the engine become text: one `Answer` per sequence, one `Answers` per request."""

from __future__ import annotations

from collections.abc import Mapping

from argosy.client.intake import Accepted
from argosy.client.outputs import CompletionOutput, Logprob, Logprobs, RequestMetrics, RequestOutput
from argosy.text.detokenize import open_detokenizer
from argosy.text.stop import StopMatcher
from argosy.text.tokenizer import Tokenizer
from argosy.types import Event, FinishReason, Request, RequestOutputKind, TokenLogprobs


class Answer:
    """One sequence's answer as it grows: tokens, text, what stopped it."""

    def __init__(
        self, index: int, request: Request, special_stops: Mapping[int, str], tokenizer: Tokenizer
    ) -> None:
        params = request.params
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._params = params
        self._special_stops = special_stops
        self._tokenizer = tokenizer
        prompt = request.token_ids[: request.num_prompt_tokens]
        self._text = open_detokenizer(tokenizer, prompt, params.skip_special_tokens)
        self._stops = StopMatcher(params.stop_strings, params.include_stop_str_in_output)
        self._stop_reason: int | str | None = None
        self._parts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[Logprobs] = []
        self._cumulative = 0.0
        self._given: tuple[int, int, FinishReason | None] = (0, 0, None)

    def take(self, event: Event) -> None:
        """Add what a step gave. Tokens after a complete stop string are dropped."""
        stopped = event.finish_reason is FinishReason.STOP
        for place, token_id in enumerate(event.token_ids):
            self._append(token_id, event.logprobs[place] if event.logprobs else None)
            if stopped and place == len(event.token_ids) - 1:
                break
            if self._params.detokenize and self._show(self._text.push(token_id)):
                return
        if event.finish_reason is not None:
            self._finish(event)

    def whole(self) -> CompletionOutput:
        """All of it so far."""
        return self._output(0, 0)

    def news(self) -> CompletionOutput | None:
        """What was not given out by this method before; None where there is nothing."""
        given = self._given
        self._given = (len(self._parts), len(self._token_ids), self.finish_reason)
        return None if given == self._given else self._output(*given[:2])

    def _append(self, token_id: int, logprobs: TokenLogprobs | None) -> None:
        self._token_ids.append(token_id)
        if logprobs is not None:
            self._cumulative += logprobs.logprob
            self._logprobs.append(logprob_map(logprobs, self._tokenizer))

    def _show(self, text: str) -> bool:
        """Show text as far as no stop string may begin in it; whether one was complete."""
        armed = len(self._token_ids) > self._params.min_tokens
        shown, stop = self._stops.push(text, armed)
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
            if include and self._params.detokenize and last not in self._special_stops:
                self._put_rest(self._text.push(last))
        if self._params.detokenize:
            self._put_rest(self._text.finish())
        if include and isinstance(reason, str) and event.finish_reason is FinishReason.STOP:
            self._put(reason)
        failed = event.finish_reason is FinishReason.ERROR
        self._stop_reason = event.error if failed else reason
        self.finish_reason = event.finish_reason

    def _put_rest(self, text: str) -> None:
        self._put(self._stops.finish() + text)

    def _output(self, part: int, token: int) -> CompletionOutput:
        wanted = self._params.logprobs is not None
        return CompletionOutput(
            index=self.index,
            text="".join(self._parts[part:]),
            token_ids=self._token_ids[token:],
            cumulative_logprob=self._cumulative if wanted else None,
            logprobs=self._logprobs[token:] if wanted else None,
            finish_reason=None if self.finish_reason is None else str(self.finish_reason),
            stop_reason=self._stop_reason,
        )


class Answers:
    """All answers of one request, and when its events came."""

    def __init__(self, accepted: Accepted, tokenizer: Tokenizer, arrival_time: float) -> None:
        request = accepted.request
        self.request = request
        self._prompt = accepted.prompt
        self._prompt_token_ids = list(request.token_ids[: request.num_prompt_tokens])
        self._tokenizer = tokenizer
        self._answers = {
            index: Answer(index, request, accepted.special_stops, tokenizer)
            for index in range(request.index, request.index + request.params.n)
        }
        self._prompt_logprobs: list[Logprobs | None] | None = None
        self._prompt_given = False
        self._num_cached_tokens = 0
        self._arrival_time = arrival_time
        self._first_token_time: float | None = None
        self._finished_time: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every answer is."""
        return all(a.finish_reason is not None for a in self._answers.values())

    def take(self, event: Event, now: float) -> bool:
        """Add what a step gave; whether a stop string ended a sequence the engine still runs."""
        answer = self._answers[event.index]
        if answer.finish_reason is not None:  # the engine's word on a sequence aborted here
            return False
        if event.token_ids and self._first_token_time is None:
            self._first_token_time = now
        if event.index == self.request.index:
            self._take_prompt(event)
        answer.take(event)
        if self.finished:
            self._finished_time = now
        return answer.finish_reason is not None and event.finish_reason is None

    def _take_prompt(self, event: Event) -> None:
        """What the first child's events say of the prompt, which all share."""
        self._num_cached_tokens = max(self._num_cached_tokens, event.num_cached_tokens)
        wanted = self.request.params.prompt_logprobs is not None
        if wanted and event.token_ids and self._prompt_logprobs is None:
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
        request = self.request
        return RequestOutput(
            request_id=request.request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
            outputs=outputs,
            finished=self.finished,
            metrics=RequestMetrics(self._arrival_time, self._first_token_time, self._finished_time),
            num_cached_tokens=self._num_cached_tokens,
        )


def logprob_map(place: TokenLogprobs, tokenizer: Tokenizer) -> Logprobs:
    """One place in vLLM's shape: the token's own entry, then the best ones by rank."""
    ranked = [(place.token_id, place.logprob, place.rank)]
    ranked += [(id_, value, rank) for rank, (id_, value) in enumerate(place.top, 1)]
    found: Logprobs = {}
    for id_, value, rank in ranked:
        found.setdefault(id_, Logprob(value, rank, tokenizer.token_text(id_)))
    return found
