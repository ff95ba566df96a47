"""class LLM: Argosy in a script or a notebook, by vLLM's names."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

from argosy.client.intake import Accepted, Prompt, read_template
from argosy.client.local import LocalClient
from argosy.client.open import open_client
from argosy.client.options import LLMOptions, engine_config
from argosy.client.outputs import RequestOutput
from argosy.client.progress import answers_bar, build_bar
from argosy.client.tokens import ModelTokenizer
from argosy.errors import (
    ConfigError,
    InvalidPrompt,
    InvalidSampling,
    RequestError,
    UnsupportedParameter,
)
from argosy.text.template import Message
from argosy.types import RequestOutputKind, SamplingParams, plain, whole

Params = SamplingParams | Sequence[SamplingParams] | None
Conversation = Sequence[Message]


def _refused(name: str, why: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnsupportedParameter(f"LLM.{name} is not served: {why}")

    refuse.__doc__ = f"Refused: {why}."
    return refuse


class _Lines(logging.Handler):
    """The log of a program that set up none, as plain lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, unless the program has a log of its own by now."""
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


def show_log() -> None:
    """Make what Argosy says of itself seen, unless the program has set up a log."""
    log = logging.getLogger("argosy")
    if log.handlers or logging.getLogger().handlers:
        return
    lines = _Lines()
    lines.setFormatter(logging.Formatter("argosy: %(message)s"))
    log.addHandler(lines)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)


class LLM:
    """A model and its engine, in this process, driven by the threads that call it.

    model: a bundle, a Hugging Face folder, `org/model` in the local cache, or None: the model that
    comes with Argosy.  options: see LLMOptions.
    Where the program has set up no logging, what Argosy says of itself goes to stderr.
    Raises ConfigError, ModelError, or OutOfMemory, before anything is loaded where it can.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, **options: Unpack[LLMOptions]
    ) -> None:
        self._client: LocalClient | None = None
        show_log()
        config = engine_config(model, options)
        with build_bar() as progress:
            self._client = open_client(
                config,
                chat_template=given_template(options.get("chat_template")),
                cache_dir=chosen_cache(options),
                progress=progress,
                given=[name for name, value in options.items() if value is not None],
            )

    encode = _refused("encode", "pooling models are not built yet")
    embed = _refused("embed", "embedding models are not built yet")
    classify = _refused("classify", "classifiers are not built yet")
    score = _refused("score", "rerankers are not built yet")
    beam_search = _refused("beam_search", "answers are drawn; use n and temperature")

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """The whole answers to `prompts`, in order. All are checked before any runs.

        prompts: one or a list of text, token ids, {"prompt": ...} or {"prompt_token_ids": [...]}.
        sampling_params: one for all, one each, or None: the model's own defaults.
        An answer that the engine could not finish has finish_reason "error" and says why in
        stop_reason. Raises RequestError for a prompt or parameter that cannot be served.
        """
        refuse_lora(lora_request)
        accepted = self._accept(_as_list(prompts), sampling_params, priority)
        return self._run(accepted, use_tqdm)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
        chat_template: str | Path | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The whole answers to one conversation, or a list of them, in order.

        chat_template: Jinja text or a file, in place of the model's.
        tools and chat_template_kwargs are handed to it. As `generate` otherwise.
        """
        refuse_lora(lora_request)
        template = given_template(chat_template)
        conversations, prompts = _conversations(messages), []
        for place, conversation in enumerate(conversations):
            with _named(f"conversation {place}", len(conversations)):
                prompts.append(
                    self.client.intake.render(
                        conversation,
                        template,
                        add_generation_prompt=add_generation_prompt,
                        continue_final_message=continue_final_message,
                        tools=tools,
                        variables=chat_template_kwargs,
                    )
                )
        accepted = self._accept(prompts, sampling_params, priority, add_special_tokens=False)
        return self._run(accepted, use_tqdm)

    def stream(
        self, prompts: Prompt | Iterable[Prompt], sampling_params: Params = None
    ) -> Generator[RequestOutput, None, None]:
        """Outputs of `prompts` as they come, in the output_kind of their parameters.

        Closing the iterator aborts what is unfinished.
        """
        return self.client.stream(self._accept(_as_list(prompts), sampling_params, None))

    def get_tokenizer(self) -> ModelTokenizer:
        """The model's tokenizer and chat template."""
        return ModelTokenizer(self.client.intake)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json says, SamplingParams' defaults elsewhere."""
        return SamplingParams(**self.client.sampling_defaults)

    def reset_prefix_cache(self) -> bool:
        """Forget the prompts kept for reuse; always True."""
        self.client.reset_prefix_cache()
        return True

    @property
    def client(self) -> LocalClient:
        """The client underneath. Raises ConfigError once shut down."""
        if self._client is None:
            raise ConfigError("this LLM was shut down; make a new one")
        return self._client

    def shutdown(self) -> None:
        """Give memory and threads back; the LLM is of no use after. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    close = shutdown

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _accept(
        self,
        prompts: Sequence[Prompt],
        params: Params,
        priority: Sequence[int] | None,
        add_special_tokens: bool = True,
    ) -> list[Accepted]:
        each = self._each_params(params, len(prompts))
        ranks = [0] * len(prompts) if priority is None else _items("priority", priority)
        if len(ranks) != len(prompts):
            raise InvalidSampling(f"priority has {len(ranks)} entries for {len(prompts)} prompts")
        accepted = []
        for place, (prompt, one, rank) in enumerate(zip(prompts, each, ranks, strict=True)):
            with _named(f"prompts[{place}]", len(prompts)):
                accepted.append(
                    self.client.intake.accept(
                        prompt, one, priority=rank, add_special_tokens=add_special_tokens
                    )
                )
        return accepted

    def _each_params(self, params: Params, count: int) -> list[SamplingParams]:
        if params is None:
            return [self.get_default_sampling_params()] * count
        if isinstance(params, SamplingParams):
            return [params] * count
        each = _items("sampling_params", params)
        for one in each:
            if not isinstance(one, SamplingParams):
                kind = type(one).__name__
                raise InvalidSampling(f"sampling_params must be SamplingParams, not {kind}")
        if len(each) != count:
            raise InvalidSampling(f"sampling_params has {len(each)} entries for {count} prompts")
        return each

    def _run(self, accepted: list[Accepted], use_tqdm: bool) -> list[RequestOutput]:
        final = [a.with_kind(RequestOutputKind.FINAL_ONLY) for a in accepted]
        with answers_bar(len(final), use_tqdm) as advance:
            return self.client.run(final, advance)


def chosen_cache(options: LLMOptions) -> str | Path | None:
    """Where bundles are built: as asked for, or ARGOSY_CACHE; None is the default place."""
    return options.get("cache_dir") or os.environ.get("ARGOSY_CACHE") or None


def refuse_lora(lora_request: object) -> None:
    """Raise UnsupportedParameter for an adapter."""
    if lora_request is not None:
        raise UnsupportedParameter(
            "lora_request is not served: adapters are not built yet; leave it out"
        )


@contextmanager
def _named(place: str, count: int) -> Iterator[None]:
    """Say which of several it was that cannot be served."""
    try:
        yield
    except RequestError as exc:
        if count == 1:
            raise
        raise type(exc)(f"{place}: {exc}") from exc


def given_template(given: str | Path | None) -> str | None:
    """A chat template given as an argument, as Jinja text. Raises TemplateError."""
    return None if given is None else read_template(given)


def _items(name: str, given: Any) -> list[Any]:
    items = plain(given)
    if not isinstance(items, Iterable) or isinstance(items, str | bytes | Mapping | set):
        raise InvalidSampling(f"{name} must be a list, one entry each, not {type(given).__name__}")
    return list(items)


def _as_list(prompts: Any) -> list[Prompt]:
    """A list of prompts from one or many; a flat list of ids is one."""
    if isinstance(prompts, str | Mapping | bytes | bytearray | memoryview):
        return [prompts]  # bytes are refused where a prompt is read
    items = plain(prompts)
    if not isinstance(items, Iterable) or isinstance(items, set | frozenset):
        raise InvalidPrompt(
            f"prompts are text, ids, a map, or a list of these, not {type(prompts).__name__}"
        )
    found = list(items)
    return [found] if found and all(whole(item) is not None for item in found) else found


def _conversations(messages: Any) -> list[Conversation]:
    if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping):
        kind = type(messages).__name__
        raise InvalidPrompt(f"messages are a list of maps, or a list of such lists, not {kind}")
    found = list(messages)
    return [found] if not found or isinstance(found[0], Mapping) else found
