"""Streamed answers in OpenAI's shapes: events made of the outputs as they come.

A stream of thousands of tokens says the same around each: what comes before and after the text is
made once, so that a plain token costs one JSON string and two joins. Chunks that say more
(logprobs, ids, counts, an end) take the slow way.
"""

from __future__ import annotations

from typing import Any

import msgspec

from argosy.client.outputs import CompletionOutput, RequestOutput
from argosy.serve import sse
from argosy.serve.dialects import openai_answers as answers
from argosy.serve.dialects.openai_parse import Call

_encode = msgspec.json.encode


class _Stream:
    """What both kinds share. kind: the chunks' `object`."""

    kind: str
    _after: bytes

    def __init__(self, call: Call) -> None:
        self._call = call
        self.completion_tokens = 0
        self._cached = [0] * len(call.accepted)
        self._counts = [0] * (call.n * len(call.accepted))
        self._begun: set[int] = set()  # places of the prompts that have an output
        self._is_plain = call.logprobs is None and not (call.tells_ids or call.running_usage)
        head = {"id": call.id, "object": self.kind, "created": call.created}
        self._head = _encode(head | {"model": call.served.name})[:-1] + b',"choices":['
        self._before = [
            sse.event(self._head + self._opened(index))[:-2] for index in range(len(self._counts))
        ]

    def chunks(
        self, place: int, output: RequestOutput, story: dict[str, Any] | None = None
    ) -> bytes:
        """The events that tell `output`, of prompt number `place`; perhaps none.

        story: where the time went, told in the last of them.
        """
        found = b""
        if place not in self._begun:
            self._begun.add(place)
            found = self._begin(place, output)
        self._cached[place] = output.num_cached_tokens
        for one in output.outputs:
            index = place * self._call.n + one.index
            if self._is_plain and one.finish_reason is None and not self._call.scores_only:
                self._count(index, one)
                if one.text:
                    found += self._before[index] + _encode(one.text) + self._after
                continue
            found += self._told(index, output, answers.shown(self._call, one), story)
        return found

    def last(self) -> bytes:
        """What ends the stream: the counts, if they were asked for, and the mark of its end."""
        if not self._call.usage:
            return sse.DONE
        cached = sum(self._cached)
        counts = answers.usage(self._call.num_prompt_tokens, self.completion_tokens, cached)
        return sse.event(self._head + b'],"usage":' + _encode(counts) + b"}") + sse.DONE

    def _count(self, index: int, one: CompletionOutput) -> None:
        self._counts[index] += len(one.token_ids)
        self.completion_tokens += len(one.token_ids)

    def _told(
        self, index: int, output: RequestOutput, one: CompletionOutput, story: dict[str, Any] | None
    ) -> bytes:
        choice = self._choice(index, output, one)
        self._count(index, one)
        more: dict[str, Any] = {}
        if one.finish_reason is not None:
            choice["stop_reason"] = one.stop_reason
            more["system_fingerprint"] = self._call.fingerprint
            if story is not None and output.outputs[-1].index == one.index:
                more["argosy"] = story
        elif not (one.text or one.token_ids):
            return b""
        if self._call.tells_ids:
            choice["token_ids"] = one.token_ids
        return self._chunk(choice, more, index)

    def _chunk(self, choice: dict[str, Any], more: dict[str, Any], index: int) -> bytes:
        if self._call.running_usage:
            more["usage"] = self._running(index)
        tail = b"," + _encode(more)[1:] if more else b"}"
        return sse.event(self._head + _encode(choice) + b"]" + tail)

    def _running(self, index: int) -> Any:
        place = index // self._call.n
        prompt = self._call.accepted[place].request.num_prompt_tokens
        return answers.usage(prompt, self._counts[index], self._cached[place])

    def _opened(self, index: int) -> bytes:
        """A choice up to its text."""
        raise NotImplementedError

    def _begin(self, place: int, output: RequestOutput) -> bytes:
        """Events before the first output of a prompt."""
        raise NotImplementedError

    def _choice(self, index: int, output: RequestOutput, one: CompletionOutput) -> dict[str, Any]:
        """A choice with all that is in it while it goes on."""
        raise NotImplementedError


class ChatStream(_Stream):
    """Chunks of a chat: the role first, then what is new."""

    kind = "chat.completion.chunk"
    _after = b'},"logprobs":null,"finish_reason":null}]}\n\n'

    def _opened(self, index: int) -> bytes:
        return b'{"index":%d,"delta":{"content":' % index

    def _begin(self, place: int, output: RequestOutput) -> bytes:
        more: dict[str, Any] = {}
        if self._call.tells_ids:
            more["prompt_token_ids"] = output.prompt_token_ids
        if self._call.tells_prompt:
            more["prompt_text"] = self._call.accepted[0].prompt
        deltas = [{"role": self._call.role, "content": ""}]
        deltas += [{"content": echo} for echo in self._call.echoes if echo]
        found = b""
        for index in range(self._call.n):
            for delta in deltas:
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                found += self._chunk(choice, more, index)
        return found

    def _choice(self, index: int, output: RequestOutput, one: CompletionOutput) -> dict[str, Any]:
        logprobs = None
        if self._call.logprobs is not None and one.token_ids:
            logprobs = answers.chat_logprobs(self._call, one.token_ids, one.logprobs or [])
        return {
            "index": index,
            "delta": {"content": one.text},
            "logprobs": logprobs,
            "finish_reason": one.finish_reason,
        }


class CompletionStream(_Stream):
    """Chunks of a completion: what is new, in the first one perhaps after the prompt."""

    kind = "text_completion"
    _after = b',"logprobs":null,"finish_reason":null,"stop_reason":null}]}\n\n'

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._num_chars = [0] * len(self._counts)

    def _opened(self, index: int) -> bytes:
        return b'{"index":%d,"text":' % index

    def _begin(self, place: int, output: RequestOutput) -> bytes:
        echo, found = self._call.echoes[place], b""
        if not echo and not self._call.tells_ids:
            return found
        for index in range(place * self._call.n, (place + 1) * self._call.n):
            choice = self._shape(index, echo)
            if echo and self._call.logprobs is not None:
                before = output.prompt_logprobs or []
                ids = output.prompt_token_ids[: len(before)]
                choice["logprobs"] = answers.completion_logprobs(self._call, ids, before)
            if self._call.tells_ids:
                choice["prompt_token_ids"] = output.prompt_token_ids
            found += self._chunk(choice, {}, index)
            self._num_chars[index] += len(echo)
        return found

    def _choice(self, index: int, output: RequestOutput, one: CompletionOutput) -> dict[str, Any]:
        choice = self._shape(index, one.text)
        if self._call.logprobs is not None and one.token_ids:
            choice["logprobs"] = answers.completion_logprobs(
                self._call, one.token_ids, one.logprobs or [], self._num_chars[index]
            )
        self._num_chars[index] += len(one.text)
        return choice | {"finish_reason": one.finish_reason}

    def _shape(self, index: int, text: str) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
        }
