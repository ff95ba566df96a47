"""From what a caller gives to the engine's `Request`: tokenized, checked, every choice made."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from argosy.errors import (
    ContextLengthExceeded,
    InvalidPrompt,
    InvalidSampling,
    TemplateError,
    UnsupportedParameter,
)
from argosy.text.stop import special_stops
from argosy.text.template import ChatTemplate, Message
from argosy.text.tokenizer import Tokenizer, check_ids
from argosy.types import Request, RequestOutputKind, SamplingParams, plain, whole

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, or a map with "prompt" or "prompt_token_ids", and perhaps "cache_salt"."""

_PROMPT_KEYS = ("prompt", "prompt_token_ids", "cache_salt")
_MAX_BAD_WORDS = 128
_MAX_BAD_WORD_TOKENS = 1024
_SEED_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that may run, and what only the text side needs of it.

    prompt: its text, None where ids were given.  special_stops: ids of stop strings that are the
    text of special tokens.
    """

    request: Request
    prompt: str | None = None
    special_stops: Mapping[int, str] = field(default_factory=dict)

    def with_kind(self, kind: RequestOutputKind) -> Accepted:
        """The same request, its outputs given out otherwise."""
        params = replace(self.request.params, output_kind=kind)
        return replace(self, request=replace(self.request, params=params))


class Intake:
    """Accepts requests for one model; owns the request ids and the seeds it hands out.

    template: the model's chat template, or None.  vocab_size: ids of the model.
    eos_token_ids: ids that end an answer unless ignore_eos.
    seed: makes the seeds of requests that give none repeatable.
    first_number: where its request ids begin; those of front f lie from f << wire.FRONT_SHIFT on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        *,
        vocab_size: int,
        max_model_len: int,
        eos_token_ids: Iterable[int] = (),
        seed: int | None = None,
        first_number: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self._template = template
        self._compiled: ChatTemplate | None = None  # the one used last
        self._eos_token_ids = frozenset(eos_token_ids)
        self._seeds = random.SystemRandom() if seed is None else random.Random(seed)
        self._numbers = itertools.count(first_number)

    @property
    def has_template(self) -> bool:
        """Whether the model comes with a chat template."""
        return self._template is not None

    def accept(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        add_special_tokens: bool = True,
        deadline: float | None = None,
    ) -> Accepted:
        """A request for `prompt`. Raises RequestError for what cannot be served.

        deadline: seconds of the client's clock (time.monotonic) after which it is ended.
        """
        rank = whole(priority)
        if rank is None:
            raise InvalidSampling(f"priority={priority!r} must be a whole number")
        text, ids, salt = self._read(prompt, add_special_tokens)
        self._check_room(len(ids))
        self._check_sampling(params)
        specials = special_stops(self.tokenizer, params.stop_strings)
        eos = frozenset() if params.ignore_eos else self._eos_token_ids
        request = Request(
            request_id=str(next(self._numbers)),
            token_ids=ids,
            num_prompt_tokens=len(ids),
            params=params,
            seed=self._seed(params.seed),
            max_total_tokens=self._limit(len(ids), params.max_tokens),
            stop_token_ids=eos | set(params.stop_token_ids or ()) | set(specials),
            bad_words=bad_word_ids(self.tokenizer, params.bad_words or ()),
            priority=rank,
            deadline=deadline,
            cache_salt=salt,
        )
        return Accepted(request, text, specials)

    def render(
        self, messages: Sequence[Message], chat_template: str | None = None, **options: Any
    ) -> str:
        """The prompt text of a conversation; special tokens are in it already.

        chat_template: used in place of the model's.  options: as ChatTemplate.render takes.
        Raises TemplateError, InvalidPrompt.
        """
        source = chat_template or self._template
        if source is None:
            raise TemplateError(
                "this model has no chat template; pass chat_template=..., or give generate() "
                "a prompt that is already formatted"
            )
        compiled = self._compiled  # another thread may put its own there
        if compiled is None or compiled.source != source:
            self._compiled = compiled = ChatTemplate(source, self.tokenizer.special_tokens)
        return compiled.render(messages, **options)

    def _read(self, prompt: Prompt, special: bool) -> tuple[str | None, tuple[int, ...], str]:
        if isinstance(prompt, str):
            return prompt, self._encode(prompt, special), ""
        if not isinstance(prompt, Mapping):
            return None, self._ids("a prompt is text, ids or a map", prompt), ""
        text, ids, salt = (prompt.get(key) for key in _PROMPT_KEYS)
        for key, value in prompt.items():
            if key not in _PROMPT_KEYS and value is not None:
                raise UnsupportedParameter(
                    f"prompt key {key!r} is not served; there are {_PROMPT_KEYS}"
                )
        if salt is not None and not isinstance(salt, str):
            raise InvalidPrompt(f"cache_salt={salt!r} must be text")
        if ids is not None:
            return text, self._ids("prompt_token_ids must be ids", ids), salt or ""
        if text is None:
            raise InvalidPrompt('a prompt map needs "prompt" (text) or "prompt_token_ids"')
        return text, self._encode(text, special), salt or ""

    def _ids(self, expected: str, given: object) -> tuple[int, ...]:
        ids = given if isinstance(given, bytes | bytearray | memoryview) else plain(given)
        if not isinstance(ids, Sequence) or isinstance(ids, str | bytes | bytearray | memoryview):
            raise InvalidPrompt(f"{expected}, not {type(given).__name__}")
        return check_ids(ids, self.vocab_size)

    def _encode(self, text: str, special: bool) -> tuple[int, ...]:
        return check_ids(self.tokenizer.encode(text, special), self.vocab_size)

    def _check_room(self, num_prompt_tokens: int) -> None:
        if num_prompt_tokens >= self.max_model_len:
            raise ContextLengthExceeded(
                f"the prompt has {num_prompt_tokens} tokens; max_model_len={self.max_model_len} "
                f"holds prompt and answer, so at most {self.max_model_len - 1}: shorten the "
                "prompt, or raise max_model_len if the model allows"
            )

    def _limit(self, num_prompt_tokens: int, max_tokens: int | None) -> int:
        if max_tokens is None:
            return self.max_model_len
        return min(self.max_model_len, num_prompt_tokens + max_tokens)

    def _check_sampling(self, params: SamplingParams) -> None:
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            for id_ in getattr(params, name) or ():
                if id_ >= self.vocab_size:
                    raise InvalidSampling(
                        f"{name} names token {id_}, outside the vocabulary; "
                        f"ids go from 0 to {self.vocab_size - 1}"
                    )

    def _seed(self, seed: int | None) -> int:
        return self._seeds.getrandbits(64) if seed is None else seed & _SEED_MASK


def bad_word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[tuple[int, ...], ...]:
    """Token sequences of `words`: as at the start of a text, and as after a space.

    Other casings, and other tokens that spell the same, are not among them.
    Raises InvalidSampling where they are too many or too long.
    """
    found: list[tuple[int, ...]] = []
    for word in words:
        text = word.lstrip() or word
        bare = tuple(tokenizer.encode(text, add_special_tokens=False))
        spaced = tuple(tokenizer.encode(" " + text, add_special_tokens=False))
        if not bare:
            raise InvalidSampling(f"bad_words: {word!r} has no token; remove it")
        found.append(bare)
        if spaced != bare:
            found.append(spaced)
    longest = max(map(len, found), default=0)
    if len(found) > _MAX_BAD_WORDS or longest > _MAX_BAD_WORD_TOKENS:
        raise InvalidSampling(
            f"bad_words: {len(found)} sequences of up to {longest} tokens; at most "
            f"{_MAX_BAD_WORDS} of {_MAX_BAD_WORD_TOKENS} are served"
        )
    return tuple(found)


def read_template(template: str | Path) -> str:
    """A chat template given as Jinja text or as a file.

    Raises TemplateError where it is unreadable, or no Jinja.
    """
    if not isinstance(template, str | Path):
        kind = type(template).__name__
        raise TemplateError(f"chat_template must be Jinja text or a file, not {kind}")
    try:
        is_text = isinstance(template, str) and any(c in template for c in "{}\n")
        text = str(template) if is_text else Path(template).expanduser().read_text("utf-8")
    except (OSError, ValueError, RuntimeError) as exc:
        raise TemplateError(
            f"chat_template={str(template)!r} is neither Jinja text nor a readable file: {exc}"
        ) from exc
    ChatTemplate(text)
    return text
