"""OpenAI's protocol, as vLLM serves it: chats, completions, models, and tokens of texts.

What a field does is in openai_types. An answer that is a stream begins with its first token, so
that what goes wrong before it still has an HTTP status of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from starlette.routing import Route

from argosy.client.models import Served
from argosy.client.outputs import RequestOutput
from argosy.client.remote import Stream
from argosy.errors import RequestError, StepFailed
from argosy.serve import sse
from argosy.serve.dialects import openai_answers as answers
from argosy.serve.dialects import openai_body as bodies
from argosy.serve.dialects import openai_types as types
from argosy.serve.dialects.openai_parse import (
    Call,
    Terms,
    chat_call,
    completion_call,
)
from argosy.serve.dialects.openai_prompts import encode, render
from argosy.serve.dialects.openai_schema import openapi
from argosy.serve.dialects.openai_stream import ChatStream, CompletionStream
from argosy.serve.errors import ClientGone, Refusal, openai_shape
from argosy.serve.exchange import Exchange
from argosy.serve.service import Service

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

IGNORED = b"x-argosy-ignored"
"""Header of an answer that names the fields of the request which nobody knows."""

_LONG_BODY = 8 * 1024
"""Bytes from which a body is read by a thread: tokenizing takes about 2 us a byte."""

_THREADS = 2
_MAX_TOLD = 32
"""Unknown fields named in the header; of each the first 64 characters."""

_encode = msgspec.json.encode


def routes(service: Service, *, by_priority: bool = False) -> list[Route]:
    """The routes of this protocol. by_priority: whether the scheduler looks at priorities."""
    openai = OpenAI(service, by_priority)
    post, get = ("POST",), ("GET",)
    return [
        service.route("/v1/chat/completions", openai.chat, methods=post),
        service.route("/v1/completions", openai.completions, methods=post),
        service.route("/tokenize", openai.tokenize, methods=post),
        service.route("/detokenize", openai.detokenize, methods=post),
        service.route("/v1/models", openai.models, methods=get, while_draining=True),
        service.route("/v1/models/{id:path}", openai.model, methods=get, while_draining=True),
        service.route("/openapi.json", openai.schema, methods=get, while_draining=True),
    ]


class OpenAI:
    """The handlers of one front."""

    def __init__(self, service: Service, by_priority: bool = False) -> None:
        self._service = service
        self._by_priority = by_priority
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="long-text")

    # -- chats and completions --------------------------------------------------------------------

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions"""
        await self._run(exchange, bodies.CHAT, chat_call, answers.chat_completion, ChatStream)

    async def completions(self, exchange: Exchange) -> None:
        """POST /v1/completions"""
        await self._run(
            exchange, bodies.COMPLETION, completion_call, answers.completion, CompletionStream
        )

    async def _run(
        self,
        exchange: Exchange,
        form: bodies.Form[S],
        make_call: Callable[[S, Served, Terms, str], Call],
        whole: answers.Whole,
        chunks: type[ChatStream] | type[CompletionStream],
    ) -> None:
        body = await self._body(exchange)
        request = await self._read(exchange, body, form)
        served = self._served(exchange, request)
        with self._service.gate.slot() as slot:
            terms = self._terms(served)
            call = await self._sized(
                body, lambda: make_call(request, served, terms, exchange.request_id)
            )
            slot.charge(tokens=call.num_prompt_tokens, requests=call.num_answers)
            with _submitted(call) as streams, exchange.until_gone(lambda: _close(streams)):
                if call.stream:
                    await _tell(exchange, call, streams, chunks(call))
                else:
                    await _answer(exchange, call, streams, whole)

    def _terms(self, served: Served) -> Terms:
        config = self._service.config
        timeout = config.request_timeout
        return Terms(
            max_logprobs=config.max_logprobs,
            by_priority=self._by_priority,
            deadline=None if timeout is None else served.client.now() + timeout,
        )

    # -- bodies -----------------------------------------------------------------------------------

    async def _body(self, exchange: Exchange) -> bytes:
        media = (exchange.header("content-type") or "").partition(";")[0].strip().lower()
        if media != "application/json":
            raise Refusal(
                400,
                f"Unsupported Media Type: {media[:64]!r}; send the header "
                "'Content-Type: application/json'",
            )
        return await exchange.body()

    async def _read(self, exchange: Exchange, body: bytes, form: bodies.Form[S]) -> S:
        """The fields of a body; unknown ones are told to the client, and once to the log."""
        strict = self._service.config.strict_fields
        request, unknown = await self._sized(body, lambda: bodies.read(body, form, strict=strict))
        if unknown:
            names = tuple(quote(name[:64]) for name in unknown[:_MAX_TOLD])
            exchange.line.ignored = names
            exchange.more_headers.append((IGNORED, ", ".join(names).encode()))
            for name in names:
                self._service.log.say_once(
                    f"the field '{name}' of {exchange.scope['path']} is not known and is ignored"
                )
        return request

    async def _sized(self, body: bytes, work: Callable[[], T]) -> T:
        """What `work` gives, done by a thread where the body is long."""
        if len(body) < _LONG_BODY:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _served(self, exchange: Exchange, request: Any) -> Served:
        served = self._service.models.get(request.model)
        exchange.line.model = served.name
        return served

    # -- models and tokens ------------------------------------------------------------------------

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models"""
        cards = [_card(served) for served in self._service.models]
        await exchange.reply(_encode(types.ModelList(data=cards)))

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/NAME"""
        served = self._service.models.get(exchange.path_params["id"])
        await exchange.reply(_encode(_card(served)))

    async def tokenize(self, exchange: Exchange) -> None:
        """POST /tokenize"""
        body = await self._body(exchange)
        request = await self._read(exchange, body, bodies.TOKENIZE)
        served = self._served(exchange, request)
        with self._service.gate.slot():
            found = await self._sized(body, lambda: _tokenized(request, served))
        await exchange.reply(_encode(found))

    async def detokenize(self, exchange: Exchange) -> None:
        """POST /detokenize"""
        body = await self._body(exchange)
        request = await self._read(exchange, body, bodies.DETOKENIZE)
        served = self._served(exchange, request)
        with self._service.gate.slot():
            found = await self._sized(body, lambda: _detokenized(request, served))
        await exchange.reply(_encode(found))

    async def schema(self, exchange: Exchange) -> None:
        """GET /openapi.json"""
        document = openapi(
            self._service.models.first.intake.vocab_size,
            needs_key=bool(self._service.config.api_keys),
            by_priority=self._by_priority,
        )
        await exchange.reply(document)


def _card(served: Served) -> types.ModelCard:
    return types.ModelCard(
        id=served.name,
        created=served.created,
        root=served.root,
        max_model_len=served.max_model_len,
    )


def _tokenized(request: types.TokenizeRequest, served: Served) -> types.Tokenized:
    if (request.prompt is None) == (request.messages is None):
        raise Refusal(400, "give either prompt or messages", param="prompt")
    if request.messages is None:
        param, text = "prompt", request.prompt or ""
        special = request.add_special_tokens is not False
    else:
        param, text = "messages", bodies.naming("messages", lambda: render(request, served))
        special = bool(request.add_special_tokens)
    ids = bodies.naming(param, lambda: encode(served, text, special, param, cut=True))
    name = served.intake.tokenizer.token_text
    return types.Tokenized(
        count=len(ids),
        max_model_len=served.max_model_len,
        tokens=ids,
        token_strs=[name(id_) for id_ in ids] if request.return_token_strs else None,
    )


def _detokenized(request: types.DetokenizeRequest, served: Served) -> types.Detokenized:
    size = served.intake.vocab_size
    for place, id_ in enumerate(request.tokens):
        if not 0 <= id_ < size:
            raise Refusal(
                400,
                f"tokens[{place}]={id_} lies outside the vocabulary; ids go from 0 to {size - 1}",
                param="tokens",
            )
    text = served.intake.tokenizer.decode(request.tokens, skip_special_tokens=False)
    return types.Detokenized(prompt=text)


# -- answers --------------------------------------------------------------------------------------


@contextmanager
def _submitted(call: Call) -> Iterator[list[Stream]]:
    """A stream for each prompt; what is unfinished at the end is aborted."""
    streams: list[Stream] = []
    try:
        for accepted in call.accepted:
            streams.append(call.served.client.submit(accepted))
        yield streams
    finally:
        _close(streams)


def _close(streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.close()


async def _answer(
    exchange: Exchange, call: Call, streams: Sequence[Stream], whole: answers.Whole
) -> None:
    """Wait for all of it, then tell it in one piece."""
    outputs = [await _final(stream) for stream in streams]
    for output in outputs:
        _log(exchange, output)
    stories = await _stories(exchange, streams)
    await exchange.reply(_encode(whole(call, outputs, stories)))


async def _final(stream: Stream) -> RequestOutput:
    async for output in stream:
        if output.finished:
            _check(output)
            return output
    raise ClientGone  # closed from outside: there is nobody to tell


def _check(output: RequestOutput) -> None:
    for one in output.outputs:
        if one.finish_reason == "error":
            why = str(one.stop_reason)
            raise RequestError(why) if one.is_refusal else StepFailed(why)


async def _tell(
    exchange: Exchange,
    call: Call,
    streams: Sequence[Stream],
    chunks: ChatStream | CompletionStream,
) -> None:
    """Tell it piece by piece. An error after the first piece is an event, then the stream ends."""
    exchange.line.stream = True
    try:
        async with aclosing(_merged(streams)) as outputs:
            async for place, output in outputs:
                await _tell_one(exchange, streams[place], place, output, chunks)
        if exchange.gone:
            raise ClientGone
        exchange.line.completion_tokens = chunks.completion_tokens
        await exchange.end(chunks.last())
    except Exception as exc:
        if not exchange.started or isinstance(exc, ClientGone):
            raise
        error = sse.event(openai_shape(exchange.failure_of(exc)))
        await exchange.end(error + sse.DONE)


async def _tell_one(
    exchange: Exchange,
    stream: Stream,
    place: int,
    output: RequestOutput,
    chunks: ChatStream | CompletionStream,
) -> None:
    _check(output)
    story = None
    if output.finished:
        _log(exchange, output)
        stories = await _stories(exchange, [stream])
        story = stories[0] if stories else None
    piece = chunks.chunks(place, output, story)
    if not exchange.started:
        await exchange.begin()
    if piece:
        await exchange.send(piece)


async def _merged(streams: Sequence[Stream]) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """(number of the prompt, output) as they come."""
    if len(streams) == 1:
        async for output in streams[0]:
            yield 0, output
        return
    waiting = {asyncio.ensure_future(_next(one)): place for place, one in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place, found = waiting.pop(task), task.result()
                if found is not None:
                    waiting[asyncio.ensure_future(_next(streams[place]))] = place
                    yield place, found
    finally:
        for task in waiting:
            task.cancel()


async def _next(stream: Stream) -> RequestOutput | None:
    return await anext(stream, None)


async def _stories(exchange: Exchange, streams: Sequence[Stream]) -> list[dict[str, Any]] | None:
    """Where the time of requests that are over went: for the log, and if asked for, the answer."""
    if not exchange.explains:
        for stream in streams:
            exchange.line.take(stream.story)
        return None
    stories = [await stream.explain() for stream in streams]
    for story in stories:
        exchange.line.take(story)
    return [asdict(story) for story in stories]


def _log(exchange: Exchange, output: RequestOutput) -> None:
    """What the log says of a request that is over."""
    line = exchange.line
    line.finish_reason = output.outputs[0].finish_reason
    if not line.stream:
        tokens = sum(len(one.token_ids) for one in output.outputs)
        line.completion_tokens = (line.completion_tokens or 0) + tokens
