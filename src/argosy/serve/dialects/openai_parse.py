"""From the fields of a request to what the engine runs: one `Accepted` for each prompt.

Reading, rendering and tokenizing are pure functions of their arguments, so that a long text can be
taken in by a thread. Whatever is wrong raises Refusal 400 with the field at fault.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import Any

from argosy import __version__
from argosy.client.intake import Accepted
from argosy.client.models import Served
from argosy.serve.dialects import openai_types as types
from argosy.serve.dialects.openai_body import naming
from argosy.serve.dialects.openai_prompts import encode, listed, render, too_long
from argosy.serve.dialects.openai_types import ChatRequest, CompletionRequest, Sampling
from argosy.serve.errors import Refusal
from argosy.types import MAX_LOGPROBS, RequestOutputKind, SamplingParams

_ID = re.compile(r"[\x21-\x7e]{1,128}")
_SALT = re.compile(rf"[^@/\\\0]{{1,{types.MAX_SALT}}}")
_MAX_BAD_WORDS = 128
_MAX_BAD_WORD = 2**16  # characters
_PASSED = (
    "n temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty "
    "logit_bias seed stop stop_token_ids ignore_eos min_tokens allowed_token_ids bad_words "
    "include_stop_str_in_output skip_special_tokens"
).split()
"""Fields that are SamplingParams' own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the server allows. max_logprobs: alternatives.  by_priority: whether priority counts.

    deadline: of the client's clock, seconds; None: no limit.
    """

    max_logprobs: int = MAX_LOGPROBS
    by_priority: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request: what is to run, and how its answers are to be told.

    n: answers for each prompt.  usage, running_usage: in streams, a last chunk with the counts, and
    counts in every chunk.  logprobs: alternatives told for each token, None for no logprobs.
    names_ids: tokens of logprobs by id.  tells_ids, tells_prompt: ids of tokens and the prompt's
    text in the answer.  echoes: what stands before the answers to each prompt.
    scores_only: the prompt alone is wanted; the one token generated is not told.
    """

    accepted: tuple[Accepted, ...]
    served: Served
    id: str
    created: int
    fingerprint: str
    n: int = 1
    stream: bool = False
    usage: bool = False
    running_usage: bool = False
    logprobs: int | None = None
    names_ids: bool = False
    tells_ids: bool = False
    tells_prompt: bool = False
    tells_prompt_logprobs: bool = False
    echoes: tuple[str, ...] = ("",)
    role: str = "assistant"
    scores_only: bool = False

    @property
    def num_prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(one.request.num_prompt_tokens for one in self.accepted)

    @property
    def num_answers(self) -> int:
        """Sequences the engine will run for it."""
        return sum(one.request.params.n for one in self.accepted)


def chat_call(request: ChatRequest, served: Served, terms: Terms, request_id: str) -> Call:
    """A conversation as a call. Raises Refusal."""
    if request.top_logprobs and not request.logprobs:
        raise Refusal(400, "top_logprobs needs logprobs=true", param="top_logprobs")
    wanted = (request.top_logprobs or 0) if request.logprobs else None
    logprobs = _alternatives("top_logprobs", wanted, terms)
    most = request.max_tokens
    if request.max_completion_tokens is not None:
        most = request.max_completion_tokens
    params = _params(request, served, terms, most, logprobs)
    text = naming("messages", lambda: render(request, served))
    special = bool(request.add_special_tokens)
    accepted = _accept(request, text, "messages", served, params, terms, special)
    role, echo = _echo(request)
    return Call(
        accepted=(accepted,),
        logprobs=logprobs,
        echoes=(echo,),
        role=role,
        tells_prompt=bool(request.return_prompt_text),
        **_common(request, served, "chatcmpl", request_id),
    )


def completion_call(
    request: CompletionRequest, served: Served, terms: Terms, request_id: str
) -> Call:
    """Prompts as a call. Raises Refusal."""
    prompts = listed(request.prompt)
    if len(prompts) * (request.n or 1) > types.MAX_SEQUENCES:
        raise Refusal(
            400,
            f"{len(prompts)} prompts with n={request.n} exceed {types.MAX_SEQUENCES} answers; "
            "send several requests",
            param="n",
        )
    logprobs = _alternatives("logprobs", request.logprobs, terms)
    scores_only = bool(request.echo) and request.max_tokens == 0
    most = 1 if scores_only else request.max_tokens
    params = _params(request, served, terms, most, logprobs)
    special = request.add_special_tokens is not False
    accepted = tuple(
        _accept(request, prompt, "prompt", served, params, terms, special) for prompt in prompts
    )
    decode = served.intake.tokenizer.decode
    echoes = [
        one.prompt
        if one.prompt is not None
        else decode(one.request.token_ids, params.skip_special_tokens)
        for one in accepted
        if request.echo
    ]
    return Call(
        accepted=accepted,
        logprobs=logprobs,
        echoes=tuple(echoes) or ("",) * len(accepted),
        scores_only=scores_only,
        **_common(request, served, "cmpl", request_id),
    )


def _common(request: Sampling, served: Served, prefix: str, request_id: str) -> dict[str, Any]:
    """What chats and completions share of a Call."""
    options = request.stream_options or types.StreamOptions()
    if request.stream_options is not None and not request.stream:
        raise Refusal(400, "stream_options needs stream=true", param="stream_options")
    if request.request_id is not None and not _ID.fullmatch(request.request_id):
        raise Refusal(
            400,
            "request_id must be 1 to 128 visible ASCII characters; leave it out for a new one",
            param="request_id",
        )
    usage = bool(options.include_usage)
    return {
        "served": served,
        "id": f"{prefix}-{request.request_id or request_id}",
        "created": int(time.time()),
        "fingerprint": fingerprint(served),
        "n": request.n or 1,
        "stream": bool(request.stream),
        "usage": usage,
        "running_usage": usage and bool(options.continuous_usage_stats),
        "names_ids": bool(request.return_tokens_as_token_ids),
        "tells_ids": bool(request.return_token_ids),
        "tells_prompt_logprobs": request.prompt_logprobs is not None,
    }


def fingerprint(served: Served) -> str:
    """Changes when the model or this program does, as `system_fingerprint`."""
    named = f"{served.root} {__version__}"
    return "fp_" + hashlib.sha256(named.encode()).hexdigest()[:12]


# -- parameters -----------------------------------------------------------------------------------


def _params(
    request: Sampling, served: Served, terms: Terms, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Of the request, else the model's own, else vLLM's defaults."""
    _check_sizes(request, served.intake.vocab_size)
    given = {name: v for name in _PASSED if (v := getattr(request, name)) is not None}
    values = dict(served.sampling_defaults)
    values["max_tokens"] = max_tokens if max_tokens is not None else values.get("max_tokens")
    prompt_logprobs = _alternatives("prompt_logprobs", request.prompt_logprobs, terms)
    if request.stream and prompt_logprobs is not None:
        raise Refusal(
            400, "prompt_logprobs are not streamed; set stream=false", param="prompt_logprobs"
        )
    if prompt_logprobs is None and request.echo and isinstance(request, CompletionRequest):
        prompt_logprobs = logprobs
    kind = RequestOutputKind.DELTA if request.stream else RequestOutputKind.FINAL_ONLY
    values |= given | {"logprobs": logprobs, "prompt_logprobs": prompt_logprobs}
    return naming("", lambda: SamplingParams(**values, output_kind=kind))


def _check_sizes(request: Sampling, vocab_size: int) -> None:
    """Refuse lists that would take long to look at, before they are."""
    stops = request.stop if isinstance(request.stop, list) else []
    longest = {"stop": types.MAX_STOPS, "bad_words": _MAX_BAD_WORDS}
    longest |= dict.fromkeys(("logit_bias", "allowed_token_ids", "stop_token_ids"), vocab_size)
    for name, most in longest.items():
        given = stops if name == "stop" else getattr(request, name)
        if given is not None and len(given) > most:
            raise Refusal(
                400,
                f"{name} holds {len(given)} entries, at most {most} are served; give fewer",
                param=name,
            )
    for word in request.bad_words or ():
        if len(word) > _MAX_BAD_WORD:
            raise Refusal(
                400, f"bad_words holds a text of {len(word)} characters; cut it", param="bad_words"
            )


def _alternatives(name: str, asked: int | None, terms: Terms) -> int | None:
    """How many are told, -1 settled."""
    if asked is None:
        return None
    if asked < -1:
        raise Refusal(400, f"{name}={asked} must be at least 0, or -1 for all", param=name)
    if asked > terms.max_logprobs:
        kind = "prompt" if name == "prompt_logprobs" else "sample"
        raise Refusal(
            400,
            f"Requested {kind} logprobs of {asked}, which is greater than max allowed: "
            f"{terms.max_logprobs}",
            param=name,
        )
    return terms.max_logprobs if asked == -1 else asked


# -- prompts -------------------------------------------------------------------------------------


def _echo(request: ChatRequest) -> tuple[str, str]:
    """The role of the answer, and what stands before it.

    Without a generation prompt the answer goes on with the last message, and has its role.
    """
    if request.add_generation_prompt is not False:
        return "assistant", ""
    last = request.messages[-1]
    content = last.get("content")
    if isinstance(content, list):
        content = "\n".join(part if isinstance(part, str) else part["text"] for part in content)
    return last["role"], (content or "") if request.echo else ""


def _accept(
    request: Sampling,
    prompt: str | list[Any],
    name: str,
    served: Served,
    params: SamplingParams,
    terms: Terms,
    special: bool,
) -> Accepted:
    intake = served.intake
    keep = _kept(request, served.max_model_len, params.max_tokens)
    text, ids = None, prompt
    if isinstance(prompt, str) and prompt:
        whole, cut = prompt, keep is not None
        text, ids = whole, naming(name, lambda: encode(served, whole, special, name, cut))
    if keep is not None and len(ids) > keep:
        text, ids = None, ids[:keep] if request.truncation_side == "right" else ids[-keep:]
    if len(ids) >= served.max_model_len:
        raise too_long(f"{len(ids)}", served.max_model_len, name)
    given = {"prompt": text, "prompt_token_ids": ids, "cache_salt": _salt(request)}
    return naming(
        name,
        lambda: intake.accept(
            given, params, priority=_priority(request, terms), deadline=terms.deadline
        ),
    )


def _kept(request: Sampling, max_model_len: int, max_tokens: int | None) -> int | None:
    keep = request.truncate_prompt_tokens
    if keep == -1:
        return max(1, max_model_len - (max_tokens or 1))
    if keep is not None and keep < 1:
        raise Refusal(
            400,
            f"truncate_prompt_tokens={keep} must be at least 1, or -1 for as many as fit",
            param="truncate_prompt_tokens",
        )
    return keep


def _salt(request: Sampling) -> str | None:
    salt = request.cache_salt
    if salt is not None and not _SALT.fullmatch(salt):
        raise Refusal(
            400,
            f"cache_salt must be 1 to {types.MAX_SALT} characters, none of them @, /, \\ or NUL",
            param="cache_salt",
        )
    return salt


def _priority(request: Sampling, terms: Terms) -> int:
    priority = request.priority or 0
    if priority and not terms.by_priority:
        raise Refusal(
            400,
            f"priority={priority} needs a server started with --scheduling-policy priority; "
            "leave it at 0",
            param="priority",
        )
    if not -(2**63) <= priority < 2**63:
        raise Refusal(400, f"priority={priority} must fit 64 bits", param="priority")
    return priority
