"""What OpenAI's clients send and are sent: the fields of requests, and the shapes of answers.

A field of a request is one of four. Those of the Structs are honoured. `ONLY` may have the values
listed, which change nothing; others are refused by name. `WITHOUT_EFFECT` may have any value. The
rest is unknown: accepted and told in `x-argosy-ignored`, or refused where fields are strict.
Every field may be null, which is as if it were left out; only of completions' max_tokens it says
"as many as there is room for". Limits given to `_limited` go into the OpenAPI schema;
`SamplingParams` is what enforces them, with better words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_PROMPTS = 1024
MAX_SEQUENCES = 16384
"""Answers of one HTTP request: its prompts times n."""

MAX_STOPS = 4
MAX_SALT = 128
DEFAULT_MAX_TOKENS = 16
"""Of /v1/completions, as at OpenAI; a chat goes on while there is room."""


def _limited(low: float | None = None, high: float | None = None, **more: Any) -> Meta:
    """Limits for the schema alone."""
    ends = {"minimum": low, "maximum": high}
    return Meta(extra_json_schema={k: v for k, v in ends.items() if v is not None} | more)


Penalty = Annotated[float, _limited(-2, 2)]
Share = Annotated[float, _limited(0, 1)]
Count = Annotated[int, _limited(1, 2**31 - 1)]
TokenId = Annotated[int, _limited(0, 2**31 - 1)]
Text = Annotated[str, _limited(minLength=1)]


class StreamOptions(Struct, frozen=True):
    """include_usage: a last chunk with the counts.  continuous_usage_stats: with it, every chunk
    has them."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampling(Struct, frozen=True, kw_only=True):
    """What chats and completions have in common.

    seed: makes the answer repeatable.  stop: up to 4 strings that end the answer.
    min_p, top_k, repetition_penalty, stop_token_ids, ignore_eos, min_tokens, allowed_token_ids,
    bad_words, include_stop_str_in_output, skip_special_tokens: as SamplingParams.
    prompt_logprobs: alternatives to report for each token of the prompt; -1: the most allowed.
    truncate_prompt_tokens: keep so many tokens of the prompt; -1: as many as leave room for
    max_tokens.  truncation_side: which end is cut, "left" by default.
    priority: lower runs first, under scheduling-policy priority.
    cache_salt: prompts share cached pages only with those of the same salt.
    request_id: becomes part of the answer's id.
    return_token_ids: tell the ids of prompt and answer.
    return_tokens_as_token_ids: tokens of logprobs as "token_id:123".
    """

    model: str | None = None
    n: Annotated[int, _limited(1, MAX_SEQUENCES)] | None = None
    temperature: Annotated[float, _limited(0, 2)] | None = None
    top_p: Annotated[float, _limited(high=1, exclusiveMinimum=0)] | None = None
    top_k: Annotated[int, _limited(-1, 2**31 - 1)] | None = None
    min_p: Share | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, _limited(1e-4, 1e4)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, _limited(-(2**63), 2**64 - 1)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, _limited(0, 2**31 - 1)] | None = None
    allowed_token_ids: Annotated[list[TokenId], _limited(minItems=1)] | None = None
    bad_words: list[Text] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, _limited(-1, 20)] | None = None
    truncate_prompt_tokens: Annotated[int, _limited(-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, _limited(-(2**63), 2**63 - 1)] | None = None
    cache_salt: Annotated[str, _limited(minLength=1, maxLength=MAX_SALT)] | None = None
    request_id: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """Body of /v1/chat/completions.

    messages: a conversation; content is text, or parts of type "text".
    max_completion_tokens, max_tokens: the first wins; neither: the model's own limit, else as many
    as there is room for.  logprobs with top_logprobs: alternatives to report; -1: the most allowed.
    echo: with add_generation_prompt=false, put the last message before the answer.
    documents, chat_template_kwargs, reasoning_effort: handed to the chat template.
    return_prompt_text: tell the rendered prompt.
    """

    messages: list[dict[str, Any]]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _limited(-1, 20)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    return_prompt_text: bool | None = None


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """Body of /v1/completions.

    prompt: a text, a list of them, the ids of one, or a list of such; at most 1024.
    max_tokens: 0 with echo scores the prompt.  logprobs: alternatives to report; -1: the most
    allowed.  echo: put the prompt before the answer.
    """

    prompt: str | list[Any]
    max_tokens: Annotated[int, _limited(0, 2**31 - 1)] | None = DEFAULT_MAX_TOKENS
    logprobs: Annotated[int, _limited(-1, 20)] | None = None


class TokenizeRequest(Struct, frozen=True, kw_only=True):
    """Body of /tokenize: a prompt, or a conversation as a chat would render it.

    add_special_tokens: true for a prompt, false for a conversation, which has them already.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Struct, frozen=True, kw_only=True):
    """Body of /detokenize. Special tokens are kept."""

    tokens: list[TokenId]
    model: str | None = None


_ONLY: dict[str, tuple[Any, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "watermarking": (False,),
    "logprob_token_ids": ([],),
    "thinking_token_budget": (-1,),
    "repetition_detection": (),
    "structured_outputs": (),
    "response_format": ({"type": "text"},),
    "spaces_between_special_tokens": (True,),
    "stream_interval": (1,),
    "return_token_offsets": (False,),
    "return_weight_versions": (False,),
    "routed_experts_prompt_start": (0,),
    "mm_payload": ("none",),
    "kv_transfer_params": ({},),
    "ec_transfer_params": ({},),
    "vllm_xargs": ({},),
}

CHAT_ONLY: dict[str, tuple[Any, ...]] = _ONLY | {
    "tools": (),
    "tool_choice": ("none",),
    "functions": (),
    "function_call": ("none",),
    "chat_template": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "audio": (),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of a chat that may be null or one of these values; see the head of this file."""

COMPLETION_ONLY: dict[str, tuple[Any, ...]] = _ONLY | {
    "suffix": ("",),
    "best_of": (1,),
    "prompt_embeds": (),
}
"""The same of a completion."""

TOKENIZE_ONLY: dict[str, tuple[Any, ...]] = {"chat_template": (), "tools": ()}

_WITHOUT_EFFECT = {
    "user": "names nobody here",
    "safety_identifier": "names nobody here",
    "session_id": "requests with a common beginning find its pages by themselves",
    "prompt_cache_key": "requests with a common beginning find its pages by themselves",
    "prompt_cache_options": "pages stay as long as there is room",
    "prompt_cache_retention": "pages stay as long as there is room",
    "service_tier": "there is one",
    "metadata": "nothing is stored",
}

CHAT_WITHOUT_EFFECT: dict[str, str] = _WITHOUT_EFFECT | {
    "parallel_tool_calls": "no tools are called",
    "include_reasoning": "what a model thinks is part of its text",
    "prediction": "nothing is predicted",
}
"""Fields of a chat with which an answer is the same, and why."""

COMPLETION_WITHOUT_EFFECT: dict[str, str] = _WITHOUT_EFFECT
"""The same of a completion."""


# -- answers --------------------------------------------------------------------------------------


class CachedTokens(Struct, frozen=True):
    """Tokens of the prompts that were found in the prefix cache."""

    cached_tokens: int


class Usage(Struct, frozen=True):
    """Tokens of all prompts and all answers."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    prompt_tokens_details: CachedTokens


class TopLogprob(Struct, frozen=True):
    """A token that could stand at a place: natural logarithm of its probability, its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(Struct, frozen=True):
    """The token at a place, and the likeliest ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    """One entry for each token."""

    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True):
    """Lists with one entry for each token; null where there is nothing before it."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class PromptLogprob(Struct, frozen=True):
    """A token that could stand at a place of the prompt; rank 1 is the likeliest."""

    logprob: float
    rank: int | None
    decoded_token: str | None


PromptLogprobs = list[dict[int, PromptLogprob] | None]


class AnswerMessage(Struct, frozen=True):
    """What the model says."""

    role: str
    content: str
    refusal: None = None


class ChatChoice(Struct, frozen=True, kw_only=True):
    """One answer of a chat. finish_reason: stop, length or abort.  stop_reason: the stop string or
    the id of the stop token; null for the end of a sequence."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """Answer of /v1/chat/completions. argosy: where the time went, if that was asked for."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    service_tier: None = None
    system_fingerprint: str
    usage: Usage
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None
    prompt_text: str | UnsetType = UNSET
    argosy: dict[str, Any] | UnsetType = UNSET


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """One answer of a completion; see ChatChoice. index: number of the prompt times n, and on."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None
    token_ids: list[int] | None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None


class Completion(Struct, frozen=True, kw_only=True):
    """Answer of /v1/completions."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    service_tier: None = None
    system_fingerprint: str
    usage: Usage
    argosy: dict[str, Any] | list[dict[str, Any]] | UnsetType = UNSET


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model that is served. max_model_len: tokens of prompt and answer; null while it loads."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "argosy"
    root: str
    parent: str | None = None
    max_model_len: int | None


class ModelList(Struct, frozen=True, kw_only=True):
    """Answer of /v1/models."""

    object: str = "list"
    data: list[ModelCard]


class Tokenized(Struct, frozen=True, kw_only=True):
    """Answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(Struct, frozen=True, kw_only=True):
    """Answer of /detokenize."""

    prompt: str


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """code: the HTTP status, or a word for what programs should know."""

    message: str
    type: str
    param: str | None
    code: int | str | None


class ErrorAnswer(Struct, frozen=True, kw_only=True):
    """Answer to what cannot be done."""

    error: ErrorDetail
