"""What is refused at the door: requests that are wrong, or could never run to their end."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import chain

from argosy.engine.pages import PagePool
from argosy.engine.step import Limits
from argosy.types import Request


def length_limit(request: Request, limits: Limits) -> int:
    """Tokens, prompt included, at which an answer to `request` ends."""
    limit = min(request.max_total_tokens, limits.max_model_len)
    if request.params.max_tokens is None:
        return limit
    return min(limit, request.num_prompt_tokens + request.params.max_tokens)


def refusal(request: Request, limits: Limits, pools: Seq[PagePool]) -> str | None:
    """Why `request` cannot be served by this engine, and what to do; None if it can."""
    return (
        _wrong_prompt(request)
        or _foreign_ids(request, limits.vocab_size)
        or _too_long(request, limits)
        or _too_large(request, limits, pools)
    )


def _wrong_prompt(request: Request) -> str | None:
    given, prompt = len(request.token_ids), request.num_prompt_tokens
    if given == 0:
        return "the prompt has no tokens; give at least one (the tokenizer's BOS will do)"
    if not 1 <= prompt <= given:
        return f"num_prompt_tokens={prompt} must lie in [1, {given}], the number of token_ids"
    return None


def _foreign_ids(request: Request, vocab_size: int) -> str | None:
    """Ids index arrays on the device, so none outside the vocabulary may pass."""
    params = request.params
    named: tuple[tuple[str, Iterable[int]], ...] = (
        ("token_ids", request.token_ids),
        ("logit_bias", params.logit_bias or ()),
        ("allowed_token_ids", params.allowed_token_ids or ()),
        ("bad_words", chain.from_iterable(request.bad_words)),
    )
    for name, ids in named:
        for token_id in ids:
            if not 0 <= token_id < vocab_size:
                return f"{name} holds {token_id}, outside the vocabulary of {vocab_size}; remove it"
    return None


def _too_long(request: Request, limits: Limits) -> str | None:
    limit = min(request.max_total_tokens, limits.max_model_len)
    if request.num_prompt_tokens < limit:
        return None
    return (
        f"the prompt has {request.num_prompt_tokens} tokens and the context {limit}: no room for "
        "an answer; shorten the prompt or raise max_model_len"
    )


def _too_large(request: Request, limits: Limits, pools: Seq[PagePool]) -> str | None:
    """The last token is never computed, so its place in the cache is not needed."""
    num_tokens = length_limit(request, limits) - 1
    for pool in pools:
        needed = pool.most_pages(num_tokens)
        if needed > pool.num_usable:
            return (
                f"prompt and answer of {num_tokens + 1} tokens need {needed} pages of "
                f"{pool.page_tokens} tokens and the KV cache has {pool.num_usable}; lower "
                "max_tokens, shorten the prompt, or give the engine more memory"
            )
    return None
