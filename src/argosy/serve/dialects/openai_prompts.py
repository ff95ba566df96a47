"""Prompts: conversations rendered, texts tokenized, and what is too long for the model refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from argosy.client.models import Served
from argosy.serve.dialects import openai_types as types
from argosy.serve.errors import Refusal

TOO_LONG = "context_length_exceeded"
"""Code of a prompt that does not fit, as programs written for OpenAI look for it."""

_LEAST_LONG = 2**17  # tokens: what a text may have that is cut, or only counted


def render(request: types.ChatRequest | types.TokenizeRequest, served: Served) -> str:
    """The text of a conversation. Raises Refusal, RequestError, TemplateError."""
    variables = dict(request.chat_template_kwargs or {})
    for name in ("messages", "chat_template"):
        if name in variables:
            raise Refusal(400, f"{name} is no variable to set", param="chat_template_kwargs")
    for name in ("documents", "reasoning_effort"):
        value = getattr(request, name, None)
        if value is not None:
            variables.setdefault(name, value)
    return served.intake.render(
        request.messages or [],
        add_generation_prompt=request.add_generation_prompt is not False,
        continue_final_message=bool(request.continue_final_message),
        variables=variables,
    )


def listed(prompt: str | list[Any]) -> Sequence[str | list[Any]]:
    """One text, or the ids of one, become a list."""
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(one) for one in prompt}
    if kinds == {int}:
        return [prompt]
    if kinds not in ({str}, {list}):
        what = "is an empty list" if not prompt else "mixes kinds, or holds neither texts nor ids"
        raise Refusal(
            400, f"prompt {what}; give text, a list of texts, ids, or lists of ids", param="prompt"
        )
    if len(prompt) > types.MAX_PROMPTS:
        raise Refusal(
            400,
            f"prompt holds {len(prompt)} prompts, at most {types.MAX_PROMPTS} are served at once; "
            "send several requests",
            param="prompt",
        )
    return prompt


def encode(served: Served, text: str, special: bool, param: str, cut: bool = False) -> list[int]:
    """The ids of a text, unless it surely has twice as many as fit; of one that is cut, 2**17.

    Of a long text, ever longer beginnings are looked at first. What follows a beginning can change
    only tokens near its end, so one that has far too many says the same of the whole, and no text
    costs much more time and memory than the longest one that fits. Raises Refusal, InvalidPrompt.
    """
    tokenizer = served.intake.tokenizer
    most = max(2 * served.max_model_len, _LEAST_LONG if cut else 0)
    size = 2 * most
    while size < len(text):
        if len(tokenizer.encode(text[:size], special)) > most:
            raise too_long(f"more than {most}", served.max_model_len, param)
        size *= 2
    return tokenizer.encode(text, special)


def too_long(tokens: str, max_model_len: int, param: str) -> Refusal:
    """A prompt that does not fit, in words that programs written for OpenAI look for."""
    return Refusal(
        400,
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt has "
        f"{tokens} tokens. Please shorten it to at most {max_model_len - 1} tokens, which leaves "
        "room for one token of an answer.",
        param=param,
        code=TOO_LONG,
    )
