"""What is asked of a server: its models, one token counted, one streamed answer.

Standard fields of the OpenAI API, and `ignore_eos`, which vLLM, llama.cpp and others know: every
answer then has the length asked for, and all servers do equal work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from argosy.errors import ArgosyError, ConfigError
from argosy.load.connection import Body, Target
from argosy.load.stream import said

PATHS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
"""The two ways to ask for an answer."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a server. max_model_len: tokens of prompt and answer, None if untold."""

    name: str
    max_model_len: int | None


@dataclass(frozen=True)
class Api:
    """How requests to one model look. Raises ConfigError for an unknown kind.

    kind: a key of PATHS.  ignore_eos: ask that answers go on to their full length.
    extra: further fields of every body.
    """

    target: Target
    model: Model
    kind: str = "completions"
    ignore_eos: bool = True
    extra: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in PATHS:
            raise ConfigError(f"api={self.kind!r} is none of {', '.join(PATHS)}")

    def prompt(self, text: str) -> dict[str, Any]:
        """The field that carries a prompt."""
        if self.kind == "chat":
            return {"messages": [{"role": "user", "content": text}]}
        return {"prompt": text}

    def request(self, text: str, output_len: int) -> bytes:
        """A streamed request for `output_len` tokens, ready to send."""
        body = {
            "model": self.model.name,
            **self.prompt(text),
            "max_tokens": output_len,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        return self._message(PATHS[self.kind], body | dict(self.extra))

    def _message(self, path: str, body: dict[str, Any]) -> bytes:
        return self.target.message(path, msgspec.json.encode(body))

    async def count(self, text: str) -> int:
        """Tokens of a prompt, template included: by /tokenize, else by the usage of one token.

        Raises ArgosyError when the server answers neither.
        """
        body = {"model": self.model.name} | self.prompt(text)
        answer = await ask_whole(self.target, self._message("/tokenize", body))
        if answer.status == 200:
            told = value_of(answer).get("count")
            if isinstance(told, int):
                return told
        body["max_tokens"] = 1
        answer = await ask_whole(self.target, self._message(PATHS[self.kind], body))
        if answer.status != 200:
            raise refusal(answer)
        usage = value_of(answer).get("usage") or {}
        if not isinstance(usage.get("prompt_tokens"), int):
            raise ArgosyError("the server does not tell the length of prompts: no usage in answers")
        return int(usage["prompt_tokens"])


async def ask_whole(target: Target, message: bytes) -> Body:
    """A whole answer. Raises ArgosyError when the server cannot be reached."""
    answer = Body()
    try:
        await target.ask(message, answer)
    except OSError as exc:
        why = exc.strerror or exc
        raise ArgosyError(f"no server answers at {target.host}:{target.port}: {why}") from exc
    return answer


def value_of(answer: Body) -> dict[str, Any]:
    """The JSON object in an answer. Raises ArgosyError when there is none."""
    try:
        return msgspec.json.decode(answer.data, type=dict[str, Any])
    except msgspec.DecodeError as exc:
        raise ArgosyError(f"the server's answer is no JSON object: {answer.data[:80]!r}") from exc


def refusal(answer: Body) -> ArgosyError:
    """The error for an answer that should have been a success."""
    return ArgosyError(f"the server answered {answer.status}: {said(answer.data)}")


async def find_model(target: Target, name: str | None = None) -> Model:
    """The model of that name, or the first one the server lists.

    Raises ArgosyError when there is none.
    """
    answer = await ask_whole(target, target.message("/v1/models"))
    if answer.status != 200:
        raise refusal(answer)
    listed = value_of(answer).get("data") or []
    models = {str(entry["id"]): entry for entry in listed if isinstance(entry, dict)}
    if name is None and not models:
        raise ArgosyError("the server lists no model")
    if name is not None and name not in models:
        raise ArgosyError(f"the server does not list model {name!r}, only {', '.join(models)}")
    name = name or next(iter(models))
    limit = models[name].get("max_model_len")
    return Model(name, limit if isinstance(limit, int) else None)
