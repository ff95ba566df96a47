"""Answers in OpenAI's shapes: logprobs, usage, and whole answers. Streams: openai_stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import UNSET

from argosy.client.outputs import CompletionOutput, Logprob, Logprobs, RequestOutput
from argosy.serve.dialects import openai_types as types
from argosy.serve.dialects.openai_parse import Call

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON does not have."""


def shown(call: Call, output: CompletionOutput) -> CompletionOutput:
    """What is told of an answer: nothing where the prompt alone is wanted."""
    if not call.scores_only:
        return output
    logprobs: list[Logprobs] | None = None if output.logprobs is None else []
    return replace(output, text="", token_ids=[], logprobs=logprobs, stop_reason=None)


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> types.Usage:
    """Counts of all prompts and answers."""
    return types.Usage(
        prompt_tokens=prompt_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        completion_tokens=completion_tokens,
        prompt_tokens_details=types.CachedTokens(cached_tokens),
    )


# -- logprobs -------------------------------------------------------------------------------------


def chat_logprobs(call: Call, ids: Sequence[int], places: list[Logprobs]) -> types.ChatLogprobs:
    """Of an answer's tokens, each with the likeliest ones."""
    content = []
    for id_, place in zip(ids, places, strict=True):
        own = _entry(call, id_, place[id_])
        best = [_entry(call, other, place[other]) for other in _best(call, place)]
        content.append(types.ChatLogprob(own.token, own.logprob, own.bytes, best))
    return types.ChatLogprobs(content)


def _entry(call: Call, id_: int, logprob: Logprob) -> types.TopLogprob:
    spelled = call.served.intake.tokenizer.token_bytes(id_)
    return types.TopLogprob(_token(call, id_, logprob), _finite(logprob.logprob), list(spelled))


def _best(call: Call, place: Logprobs) -> list[int]:
    """The likeliest tokens of a place, as many as were asked for."""
    count = call.logprobs or 0
    ranked = sorted((one.rank or 0, id_) for id_, one in place.items())
    return [id_ for _, id_ in ranked[:count]]


def _token(call: Call, id_: int, logprob: Logprob) -> str:
    return f"token_id:{id_}" if call.names_ids else logprob.decoded_token or ""


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def completion_logprobs(
    call: Call, ids: Sequence[int], places: Sequence[Logprobs | None], offset: int = 0
) -> types.CompletionLogprobs:
    """Of tokens one after the other. offset: characters before them; None: first of a prompt."""
    found = types.CompletionLogprobs([], [], [], [])
    text = call.served.intake.tokenizer.token_text
    for id_, place in zip(ids, places, strict=True):
        own = Logprob(0.0, None, text(id_)) if place is None else place[id_]
        found.text_offset.append(offset)
        found.tokens.append(_token(call, id_, own))
        found.token_logprobs.append(None if place is None else _finite(own.logprob))
        found.top_logprobs.append(None if place is None else _named(call, id_, place))
        offset += len(own.decoded_token or "")
    return found


def _named(call: Call, id_: int, place: Logprobs) -> dict[str, float]:
    """The token of a place and the likeliest ones; of those that read the same, the first."""
    named: dict[str, float] = {}
    for other in (id_, *_best(call, place)):
        named.setdefault(_token(call, other, place[other]), _finite(place[other].logprob))
    return named


def echoed_logprobs(
    call: Call, output: RequestOutput, answer: CompletionOutput, echo: str
) -> types.CompletionLogprobs:
    """Of the prompt and then of the answer."""
    before = output.prompt_logprobs or []
    found = completion_logprobs(call, output.prompt_token_ids[: len(before)], before)
    after = completion_logprobs(call, answer.token_ids, answer.logprobs or [], len(echo))
    for name in found.__struct_fields__:
        getattr(found, name).extend(getattr(after, name))
    return found


def prompt_logprobs(call: Call, places: list[Logprobs | None] | None) -> Any:
    """Of each token of a prompt by id, null for the first; None where nobody asked."""
    if places is None or not call.tells_prompt_logprobs:
        return None
    return [place and {id_: _prompt_entry(one) for id_, one in place.items()} for place in places]


def _prompt_entry(one: Logprob) -> types.PromptLogprob:
    return types.PromptLogprob(_finite(one.logprob), one.rank, one.decoded_token)


# -- whole answers --------------------------------------------------------------------------------


def chat_completion(
    call: Call, outputs: Sequence[RequestOutput], stories: list[dict[str, Any]] | None
) -> types.ChatCompletion:
    """The answers to a conversation. stories: where the time went, if that is to be told."""
    (output,) = outputs
    return types.ChatCompletion(
        id=call.id,
        created=call.created,
        model=call.served.name,
        choices=[_chat_choice(call, one) for one in output.outputs],
        system_fingerprint=call.fingerprint,
        usage=_usage_of(call, outputs),
        prompt_logprobs=prompt_logprobs(call, output.prompt_logprobs),
        prompt_token_ids=output.prompt_token_ids if call.tells_ids else None,
        prompt_text=call.accepted[0].prompt or "" if call.tells_prompt else UNSET,
        argosy=stories[0] if stories else UNSET,
    )


def _chat_choice(call: Call, output: CompletionOutput) -> types.ChatChoice:
    logprobs = None
    if call.logprobs is not None:
        logprobs = chat_logprobs(call, output.token_ids, output.logprobs or [])
    return types.ChatChoice(
        index=output.index,
        message=types.AnswerMessage(call.role, call.echoes[0] + output.text),
        logprobs=logprobs,
        finish_reason=output.finish_reason,
        stop_reason=output.stop_reason,
        token_ids=output.token_ids if call.tells_ids else None,
    )


def completion(
    call: Call, outputs: Sequence[RequestOutput], stories: list[dict[str, Any]] | None
) -> types.Completion:
    """The answers to prompts. stories: one for each prompt."""
    return types.Completion(
        id=call.id,
        created=call.created,
        model=call.served.name,
        choices=[
            _completion_choice(call, place, output, shown(call, one))
            for place, output in enumerate(outputs)
            for one in output.outputs
        ],
        system_fingerprint=call.fingerprint,
        usage=_usage_of(call, outputs),
        argosy=UNSET if not stories else stories[0] if len(stories) == 1 else stories,
    )


def _completion_choice(
    call: Call, place: int, output: RequestOutput, answer: CompletionOutput
) -> types.CompletionChoice:
    logprobs, echo = None, call.echoes[place]
    if call.logprobs is not None and echo:
        logprobs = echoed_logprobs(call, output, answer, echo)
    elif call.logprobs is not None:
        logprobs = completion_logprobs(call, answer.token_ids, answer.logprobs or [])
    return types.CompletionChoice(
        index=place * call.n + answer.index,
        text=echo + answer.text,
        logprobs=logprobs,
        finish_reason=answer.finish_reason,
        stop_reason=answer.stop_reason,
        token_ids=answer.token_ids if call.tells_ids else None,
        prompt_logprobs=prompt_logprobs(call, output.prompt_logprobs),
        prompt_token_ids=output.prompt_token_ids if call.tells_ids else None,
    )


def _usage_of(call: Call, outputs: Iterable[RequestOutput]) -> types.Usage:
    outputs = list(outputs)
    completion_tokens = sum(
        len(shown(call, one).token_ids) for output in outputs for one in output.outputs
    )
    cached = sum(output.num_cached_tokens for output in outputs)
    return usage(call.num_prompt_tokens, completion_tokens, cached)


Whole = Callable[
    [Call, Sequence[RequestOutput], list[dict[str, Any]] | None],
    types.ChatCompletion | types.Completion,
]
"""`chat_completion` or `completion`."""
