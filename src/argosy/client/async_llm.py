"""class AsyncLLM: Argosy in an asyncio program, by vLLM's names, its engine in another process."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from argosy.client.attachment import State
from argosy.client.intake import Accepted, Prompt
from argosy.client.llm import chosen_cache, given_template, refuse_lora, show_log
from argosy.client.options import LLMOptions, engine_config
from argosy.client.outputs import RequestOutput
from argosy.client.prepare import prepare
from argosy.client.progress import build_bar
from argosy.client.reading import open_intake
from argosy.client.remote import AsyncClient, Stream
from argosy.client.supervise import Supervisor
from argosy.client.tokens import ModelTokenizer
from argosy.engine.board import Board
from argosy.errors import ArgosyError, ConfigError, EngineDead, InvalidSampling, RequestError
from argosy.text.template import Message
from argosy.types import SamplingParams


class AsyncLLM:
    """A model whose engine runs in a process of its own; used from one event loop at a time.

    model, options: as for `LLM`. If the engine process dies it is started again, and answers under
    way go on where they stopped, with the tokens they would have had.
    Raises ConfigError, ModelError, or OutOfMemory; returns when the engine serves.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, **options: Unpack[LLMOptions]
    ) -> None:
        show_log()
        config = engine_config(model, options)
        with build_bar() as progress:
            self._prepared = prepare(
                config,
                cache_dir=chosen_cache(options),
                chat_template=given_template(options.get("chat_template")),
                progress=progress,
                given=[name for name, value in options.items() if value is not None],
            )
        self._board = Board.create()
        self._board_fd = weakref.finalize(self._board, os.close, self._board.fd)
        self._supervisor = Supervisor(self._prepared.spec(), self._board)
        self._client: AsyncClient | None = None
        self._named: dict[str, Stream] = {}
        self._is_shut = False
        self._supervisor.start()
        try:
            self._intake = open_intake(self._prepared)
            self._supervisor.wait_ready()
        except BaseException:
            self.shutdown()
            raise

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        lora_request: Any = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one prompt as they come, in the output_kind of `sampling_params`.

        prompt: text, token ids, {"prompt": ...} or {"prompt_token_ids": [...]}.
        request_id: names its outputs, and it for `abort`.
        Leaving the iteration aborts what is unfinished. A request that fails ends with
        finish_reason "error"; raised are RequestError, for what cannot be served, and EngineDead.
        """
        refuse_lora(lora_request)
        accepted = self._intake.accept(prompt, self._params(sampling_params), priority=priority)
        async with self._submit(accepted, request_id) as stream:
            async for output in stream:
                yield output

    async def chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        lora_request: Any = None,
        priority: int = 0,
        chat_template: str | Path | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one conversation as they come; see `generate`, and `LLM.chat`."""
        refuse_lora(lora_request)
        text = self._intake.render(
            messages,
            given_template(chat_template),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            variables=chat_template_kwargs,
        )
        accepted = self._intake.accept(
            text, self._params(sampling_params), priority=priority, add_special_tokens=False
        )
        async with self._submit(accepted, request_id) as stream:
            async for output in stream:
                yield output

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests by name, with finish_reason "abort"; unknown names are ignored."""
        for name in [request_id] if isinstance(request_id, str) else list(request_id):
            if name in self._named:
                self._named[name].abort()

    def get_tokenizer(self) -> ModelTokenizer:
        """The model's tokenizer and chat template."""
        return ModelTokenizer(self._intake)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json says, SamplingParams' defaults elsewhere."""
        return SamplingParams(**self._prepared.sampling_defaults)

    async def reset_prefix_cache(self) -> bool:
        """Forget the prompts kept for reuse; always True."""
        await self._here().reset_prefix_cache()
        return True

    async def check_health(self) -> None:
        """Raise EngineDead if the engine is gone for good; one that restarts is not."""
        if self.dead_error is not None:
            raise self.dead_error

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return not self._is_shut and not self.errored

    @property
    def errored(self) -> bool:
        """Whether the engine died and did not come back."""
        return not self._is_shut and self._supervisor.status().state is State.FAILED

    @property
    def dead_error(self) -> ArgosyError | None:
        """Why no request is taken; None while they are."""
        if self._is_shut:
            return EngineDead("this AsyncLLM was shut down; make a new one")
        return self._supervisor.failure

    def shutdown(self) -> None:
        """End the engine process; streams still open end with an error. Safe to call twice."""
        if self._is_shut:
            return
        self._is_shut = True
        client, self._client = self._client, None
        if client is not None:
            client.shut("this AsyncLLM was shut down before the answer was complete")
        self._supervisor.stop()
        self._board_fd.detach()
        self._board.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def _params(self, given: SamplingParams | None) -> SamplingParams:
        if given is None:
            return self.get_default_sampling_params()
        if not isinstance(given, SamplingParams):
            kind = type(given).__name__
            raise InvalidSampling(f"sampling_params must be SamplingParams, not {kind}")
        return given

    def _submit(self, accepted: Accepted, name: str | None) -> _Named:
        if name is not None and name in self._named:
            raise RequestError(f"request_id={name!r} is under way; give each request its own")
        stream = self._here().submit(accepted, request_id=name)
        return _Named(self._named, accepted.request.request_id if name is None else name, stream)

    def _here(self) -> AsyncClient:
        """The client of the running loop; one whose loop is closed is replaced."""
        if self._is_shut:
            raise EngineDead("this AsyncLLM was shut down; make a new one")
        loop, client = asyncio.get_running_loop(), self._client
        if client is None or client.loop.is_closed():
            self._named.clear()
            self._client = client = AsyncClient(
                self._supervisor.attachment(),
                self._intake,
                sampling_defaults=self._prepared.sampling_defaults,
            )
            client.begin()
        if client.loop is not loop:
            raise ConfigError("this AsyncLLM is used by another event loop, which still runs")
        return client


class _Named:
    """A stream that can be found by name while it is read."""

    def __init__(self, known: dict[str, Stream], name: str, stream: Stream) -> None:
        self._known, self._name, self._stream = known, name, stream

    async def __aenter__(self) -> Stream:
        self._known[self._name] = self._stream
        return self._stream

    async def __aexit__(self, *_: object) -> None:
        self._known.pop(self._name, None)
        self._stream.close()
