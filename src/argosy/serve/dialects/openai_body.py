"""From the bytes of a body to a Struct: JSON, known fields, types. Every fault names its field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from argosy.errors import RequestError, TemplateError
from argosy.serve.dialects import openai_types as types
from argosy.serve.errors import Refusal

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")

_PLACE = re.compile(r" - at `\$\.?(.*)`$", re.DOTALL)
_WORD = re.compile(r"[a-z_]+")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_KINDS = {list: "an array", str: "text", bool: "a truth value", type(None): "null"}
_QUICK = 2**20
"""Bytes to look at below which counting costs less than reading."""

_SHOWN = 64
"""Characters shown of a name or a value that is refused."""


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """The fields a body may have; the head of openai_types says what the three kinds are."""

    struct: type[T]
    only: Mapping[str, tuple[Any, ...]]
    without_effect: Mapping[str, str]

    @property
    def known(self) -> frozenset[str]:
        """The names of all fields that are not unknown."""
        return frozenset((*self.struct.__struct_fields__, *self.only, *self.without_effect))


CHAT = Form(types.ChatRequest, types.CHAT_ONLY, types.CHAT_WITHOUT_EFFECT)
COMPLETION = Form(types.CompletionRequest, types.COMPLETION_ONLY, types.COMPLETION_WITHOUT_EFFECT)
TOKENIZE = Form(types.TokenizeRequest, types.TOKENIZE_ONLY, {})
DETOKENIZE = Form(types.DetokenizeRequest, {}, {})


def read(body: bytes, form: Form[T], *, strict: bool = False) -> tuple[T, tuple[str, ...]]:
    """The fields of a body, and the names of those that nobody knows.

    strict: refuse these. Raises Refusal 400, its param the field at fault.
    """
    fields = _object(body)
    unknown = tuple(sorted(fields.keys() - form.known))
    if unknown and strict:
        raise _unknown(unknown[0], form.known)
    _check_only(fields, form.only)
    try:
        return msgspec.convert(fields, form.struct), unknown
    except msgspec.ValidationError as exc:
        if "got `float`" not in str(exc):
            raise _misfit(str(exc)) from None
    try:  # 3.0 is a whole number in JSON
        return msgspec.convert(_WHOLE.decode(body), form.struct), unknown
    except msgspec.ValidationError as exc:
        raise _misfit(str(exc)) from None


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


_WHOLE = msgspec.json.Decoder(float_hook=_number)


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object a body must be."""
    try:
        fields = msgspec.json.decode(body)
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply to be read; flatten it") from None
    except ValueError as exc:  # malformed, numbers out of range, not UTF-8, half a surrogate pair
        raise Refusal(400, f"the body is not valid JSON: {exc}") from None
    if not isinstance(fields, dict):
        kind = _KINDS.get(type(fields), "a number")
        raise Refusal(400, f"the body must be a JSON object, not {kind}")
    twice = _named_twice(body, fields)
    if twice is not None:
        raise Refusal(
            400,
            f"the body has the field {twice[:_SHOWN]!r} twice; give it once",
            param=twice[:_SHOWN],
        )
    return fields


def _named_twice(body: bytes, fields: Mapping[str, Any]) -> str | None:
    """A field that stands twice in the body: which of them is meant is anybody's guess.

    Counting is quick and finds every body that may have one; only these are read again.
    """
    is_small = len(body) * len(fields) < _QUICK
    if is_small and b"\\u" not in body and all(_stands_once(name, body) for name in fields):
        return None
    seen: set[str] = set()
    for name, _ in json.loads(body, object_pairs_hook=list):
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def _stands_once(name: str, body: bytes) -> bool:
    return body.count(b'"%s"' % name.encode()) == 1


def _unknown(name: str, known: frozenset[str]) -> Refusal:
    near = difflib.get_close_matches(name[:_SHOWN], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out"
    return Refusal(400, f"the field {name[:_SHOWN]!r} is unknown; {hint}", param=name[:_SHOWN])


def _check_only(fields: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> None:
    for name in only.keys() & fields.keys():
        value, accepted = fields[name], (None, *only[name])
        if any(type(value) is type(one) and value == one for one in accepted):
            continue
        words = " or ".join(msgspec.json.encode(one).decode() for one in accepted)
        raise Refusal(400, f"{name} is not supported: leave it out, or give {words}", param=name)


def _misfit(words: str) -> Refusal:
    """A value of the wrong type, in msgspec's words: "Expected `int`, got `str` - at `$.n`"."""
    missing = _MISSING.match(words)
    found = _PLACE.search(words)
    place = found[1] if found else ""
    if missing:
        name = f"{place}.{missing[1]}" if place else missing[1]
        return Refusal(400, f"the field {name} is missing", param=name)
    what = _PLACE.sub("", words)
    return Refusal(400, f"{place}: {what[0].lower()}{what[1:]}", param=place.split("[")[0] or None)


def naming(fallback: str, make: Callable[[], V]) -> V:
    """What `make` gives; a fault becomes a Refusal that names the field its message begins with."""
    try:
        return make()
    except (RequestError, TemplateError) as exc:
        found = _WORD.match(str(exc))
        name = found[0] if found and found[0] in _KNOWN else fallback or None
        raise Refusal(400, str(exc), param=name) from exc


_KNOWN = frozenset(
    (*types.ChatRequest.__struct_fields__, *types.CompletionRequest.__struct_fields__)
)
