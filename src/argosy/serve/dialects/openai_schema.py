"""/openapi.json: the protocol for programs, made from the Structs and the tables of fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from argosy import __version__
from argosy.serve.dialects import openai_types as types

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_NULL = {"type": "null"}
_TEXT = {"type": "string", "minLength": 1}

_MESSAGE: Schema = {
    "type": "object",
    "description": "Further properties are handed to the chat template.",
    "required": ["role", "content"],
    "properties": {
        "role": {"type": "string", "examples": ["system", "user", "assistant"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {"anyOf": [{"type": "string"}, {"$ref": _REF + "TextPart"}]},
                },
            ]
        },
    },
}
_TEXT_PART: Schema = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_STOP: Schema = {
    "anyOf": [_TEXT, {"type": "array", "maxItems": types.MAX_STOPS, "items": _TEXT}, _NULL],
    "default": None,
}
_LOGIT_BIAS: Schema = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,8})$"},
            "additionalProperties": {"type": "number"},
        },
        _NULL,
    ],
    "default": None,
}

_REQUEST_ID: Schema = {
    "anyOf": [{"type": "string", "pattern": "^[!-~]{1,128}$"}, _NULL],
    "default": None,
}
_STRUCTS = (
    types.ChatRequest,
    types.CompletionRequest,
    types.TokenizeRequest,
    types.DetokenizeRequest,
    types.ChatCompletion,
    types.Completion,
    types.ModelList,
    types.Tokenized,
    types.Detokenized,
    types.ErrorAnswer,
)

_ERRORS = {
    400: "A field is wrong; param names it.",
    401: "The key is missing or wrong.",
    404: "No model has this name.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The server is full; Retry-After says when to come again.",
    500: "The request failed in the engine.",
    503: "The server is shutting down, or its engine did not come back.",
}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
_IGNORED = {
    "x-argosy-ignored": {
        "description": "Fields of the request that nobody knows.",
        "schema": {"type": "string"},
    }
}


def openapi(vocab_size: int, *, needs_key: bool = False, by_priority: bool = False) -> bytes:
    """OpenAPI 3.1, JSON. vocab_size: ids of the model.  needs_key: whether clients must send a key.

    by_priority: whether requests may have a priority.
    """
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "Argosy", "version": __version__},
        "paths": _paths(),
        "components": {"schemas": schemas(vocab_size, by_priority)},
    }
    if needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return msgspec.json.encode(document)


def schemas(vocab_size: int, by_priority: bool = False) -> dict[str, Schema]:
    """The schema of every body, by name."""
    _, found = msgspec.json.schema_components(_STRUCTS, ref_template=_REF + "{name}")
    chat, completion = found["ChatRequest"], found["CompletionRequest"]
    _complete(chat, types.CHAT_ONLY, types.CHAT_WITHOUT_EFFECT)
    _complete(completion, types.COMPLETION_ONLY, types.COMPLETION_WITHOUT_EFFECT)
    _complete(found["TokenizeRequest"], types.TOKENIZE_ONLY, {})
    messages = {"type": "array", "minItems": 1, "items": {"$ref": _REF + "Message"}}
    chat["properties"]["messages"] = messages
    for request in (chat, completion):
        _narrow(request["properties"], vocab_size, by_priority)
    completion["properties"]["prompt"] = _prompt(vocab_size)
    _bind_fields(chat, completion, found["TokenizeRequest"])
    texts = {"messages": messages, "prompt": _TEXT}
    found["TokenizeRequest"]["properties"] |= {
        name: {"anyOf": [text, _NULL], "default": None} for name, text in texts.items()
    }
    found["DetokenizeRequest"]["properties"]["tokens"] = _ids(vocab_size, 0)
    return found | {"Message": _MESSAGE, "TextPart": _TEXT_PART}


def _narrow(properties: Schema, vocab_size: int, by_priority: bool) -> None:
    """Say of fields what their types do not."""
    properties |= {"stop": _STOP, "logit_bias": _LOGIT_BIAS, "request_id": _REQUEST_ID}
    for name, least in (("stop_token_ids", 0), ("allowed_token_ids", 1)):
        properties[name] = {"anyOf": [_ids(vocab_size, least), _NULL], "default": None}
    if not by_priority:
        properties["priority"] = {"enum": [None, 0]}


def _bind_fields(chat: Schema, completion: Schema, tokenize: Schema) -> None:
    """Say which fields need others."""
    streams = _needs("stream_options", {"type": "object"}, {"stream": {"const": True}})
    whole = _needs("prompt_logprobs", {"type": "integer"}, {"stream": {"enum": [False, None]}}, ())
    goes_on = {"add_generation_prompt": {"const": False}}
    continues = _needs("continue_final_message", {"const": True}, goes_on)
    logprobs = _needs("top_logprobs", {"not": {"enum": [0, None]}}, {"logprobs": {"const": True}})
    chat["allOf"] = [streams, whole, continues, logprobs]
    completion["allOf"] = [
        streams,
        whole,
        _needs("max_tokens", {"const": 0}, {"echo": {"const": True}}),
    ]
    tokenize["allOf"] = [continues]
    tokenize["oneOf"] = [_has("prompt", {"type": "string"}), _has("messages", {"type": "array"})]


def _has(name: str, value: Schema) -> Schema:
    return {"properties": {name: value}, "required": [name]}


def _needs(name: str, value: Schema, then: Schema, required: Sequence[str] | None = None) -> Schema:
    """Where `name` is `value`, `then` must hold."""
    required = list(then) if required is None else list(required)
    return {"if": _has(name, value), "then": {"properties": then, "required": required}}


def _ids(vocab_size: int, least: int) -> Schema:
    one = {"type": "integer", "minimum": 0, "maximum": vocab_size - 1}
    return {"type": "array", "minItems": least, "items": one}


def _prompt(vocab_size: int) -> Schema:
    """A text, texts, ids, or lists of ids."""
    many = {"type": "array", "minItems": 1, "maxItems": types.MAX_PROMPTS}
    ids = _ids(vocab_size, 1)
    return {"anyOf": [_TEXT, many | {"items": _TEXT}, ids, many | {"items": ids}]}


def _complete(
    schema: Schema, only: Mapping[str, tuple[Any, ...]], without_effect: Mapping[str, str]
) -> None:
    """Add the fields that are no members of the Struct."""
    for name, values in only.items():
        schema["properties"][name] = {"enum": [None, *values]}
    for name, why in without_effect.items():
        schema["properties"][name] = {"description": f"Has no effect: {why}."}


def _paths() -> Schema:
    return {
        "/v1/chat/completions": {"post": _post("ChatRequest", "ChatCompletion", streams=True)},
        "/v1/completions": {"post": _post("CompletionRequest", "Completion", streams=True)},
        "/tokenize": {"post": _post("TokenizeRequest", "Tokenized")},
        "/detokenize": {"post": _post("DetokenizeRequest", "Detokenized")},
        "/v1/models": {"get": _operation("ModelList")},
        "/v1/models/{id}": {
            "get": _operation("ModelCard"),
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
        },
    }


def _post(request: str, answer: str, streams: bool = False) -> Schema:
    body = {"required": True, "content": _json(request)}
    return _operation(answer, streams) | {"requestBody": body}


def _operation(answer: str, streams: bool = False) -> Schema:
    content = _json(answer)
    if streams:
        content["text/event-stream"] = {
            "schema": {"description": "With stream=true: events whose data is a chunk, or [DONE]."}
        }
    responses: Schema = {
        "200": {"description": "The answer.", "content": content, "headers": _IGNORED}
    }
    for status, words in _ERRORS.items():
        headers = _RETRY if status in (429, 503) else {}
        responses[str(status)] = {
            "description": words,
            "content": _json("ErrorAnswer"),
            "headers": headers,
        }
    return {"responses": responses}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": _REF + name}}}
