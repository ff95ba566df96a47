"""class LLM: Argosy in a script or a notebook, by vLLM's names."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

from argosy.client.intake import Accepted, Prompt, read_template
from argosy.client.local import LocalClient
from argosy.client.open import open_client
from argosy.client.options import LLMOptions, engine_config
from argosy.client.outputs import RequestOutput
from argosy.client.progress import answers_bar, build_bar
from argosy.client.tokens import ModelTokenizer
from argosy.errors import ConfigError, InvalidSampling, UnsupportedParameter
from argosy.text.template import Message
from argosy.types import RequestOutputKind, SamplingParams

Params = SamplingParams | Sequence[SamplingParams] | None
Conversation = Sequence[Message]


def _refused(name: str, why: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise UnsupportedParameter(f"LLM.{name} is not served: {why}")

    refuse.__doc__ = f"Refused: {why}."
    return refuse


class LLM:
    """A model and its engine, in this process, driven by the calling thread.

    model: a bundle, a Hugging Face folder, `org/model` in the local cache, or None: the model that
    comes with Argosy.  options: see LLMOptions.
    Raises ConfigError, ModelError, or OutOfMemory, before anything is loaded where it can.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, **options: Unpack[LLMOptions]
    ) -> None:
        config = engine_config(model, options)
        template = options.get("chat_template")
        with build_bar() as progress:
            self._client: LocalClient | None = open_client(
                config,
                chat_template=None if template is None else read_template(template),
                cache_dir=options.get("cache_dir"),
                progress=progress,
            )

    encode = _refused("encode", "pooling models are not built yet")
    embed = _refused("embed", "embedding models are not built yet")
    classify = _refused("classify", "classifiers are not built yet")
    score = _refused("score", "rerankers are not built yet")
    beam_search = _refused("beam_search", "answers are drawn; use n and temperature")

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
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
        _refuse_lora(lora_request)
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
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The whole answers to one conversation, or a list of them, in order.

        tools and chat_template_kwargs are handed to the chat template. As `generate` otherwise.
        """
        _refuse_lora(lora_request)
        prompts = [
            self.client.intake.render(
                conversation,
                chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                variables=chat_template_kwargs,
            )
            for conversation in _conversations(messages)
        ]
        accepted = self._accept(prompts, sampling_params, priority, add_special_tokens=False)
        return self._run(accepted, use_tqdm)

    def stream(
        self, prompts: Prompt | Sequence[Prompt], sampling_params: Params = None
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
        if priority is not None and len(priority) != len(prompts):
            raise InvalidSampling(
                f"priority has {len(priority)} entries for {len(prompts)} prompts"
            )
        ranks = [0] * len(prompts) if priority is None else priority
        return [
            self.client.intake.accept(
                prompt, one, priority=rank, add_special_tokens=add_special_tokens
            )
            for prompt, one, rank in zip(prompts, each, ranks, strict=True)
        ]

    def _each_params(self, params: Params, count: int) -> list[SamplingParams]:
        if params is None:
            return [self.get_default_sampling_params()] * count
        if isinstance(params, SamplingParams):
            return [params] * count
        for one in params:
            if not isinstance(one, SamplingParams):
                kind = type(one).__name__
                raise InvalidSampling(f"sampling_params must be SamplingParams, not {kind}")
        if len(params) != count:
            raise InvalidSampling(f"sampling_params has {len(params)} entries for {count} prompts")
        return list(params)

    def _run(self, accepted: list[Accepted], use_tqdm: bool) -> list[RequestOutput]:
        final = [a.with_kind(RequestOutputKind.FINAL_ONLY) for a in accepted]
        with answers_bar(len(final), use_tqdm) as advance:
            return self.client.run(final, advance)


def _refuse_lora(lora_request: object) -> None:
    if lora_request is not None:
        raise UnsupportedParameter(
            "lora_request is not served: adapters are not built yet; leave it out"
        )


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts from one or many; a flat list of ids is one."""
    single = isinstance(prompts, str | Mapping)
    if not single and len(prompts) and all(isinstance(item, int) for item in prompts):
        single = True
    return [prompts] if single else list(prompts)  # type: ignore[list-item, arg-type]


def _conversations(messages: Conversation | Sequence[Conversation]) -> list[Conversation]:
    one = not messages or isinstance(messages[0], Mapping)
    return [messages] if one else list(messages)  # type: ignore[list-item, arg-type]
