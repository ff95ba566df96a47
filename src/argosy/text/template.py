"""Chat templates: Jinja in a sandbox, with what transformers offers templates, and limits.

A template comes with a model, so it is data of a stranger: it reaches no attribute beginning with
an underscore, changes none of its inputs, and is stopped when it writes or takes too much. A silent
loop inside a silent loop is stopped only at its next call or output.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from argosy.errors import InvalidPrompt, TemplateError

MAX_CHARACTERS = 16 * 2**20
MAX_SECONDS = 10.0

Message = Mapping[str, Any]


class ChatTemplate:
    """One compiled template. Raises TemplateError where it is not Jinja.

    special_tokens: variables such as bos_token.  now: read by `strftime_now`.
    """

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        self._environment = _Sandbox(now)
        try:
            self._template = self._environment.from_string(source)
        except Exception as exc:  # hostile source can make the compiler raise anything
            raise TemplateError(f"the chat template is not valid Jinja: {exc}; correct it") from exc

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a conversation.

        messages: maps with "role" and "content" (text, or a list of text parts).
        continue_final_message: leave the last message open, for the model to go on with.
        Raises InvalidPrompt (messages), TemplateError (the template fails or refuses).
        """
        chat = [_message(place, message) for place, message in enumerate(messages)]
        _check_chat(chat, add_generation_prompt, continue_final_message)
        text = self._run(
            self._special_tokens
            | {"messages": chat, "tools": tools, "documents": None}
            | {"add_generation_prompt": add_generation_prompt}
            | dict(variables or {})
        )
        return _cut_after(text, chat[-1]["content"]) if continue_final_message else text

    def _run(self, variables: dict[str, Any]) -> str:
        try:
            return self._environment.run(self._template, variables)
        except TemplateError:
            raise
        except Exception as exc:  # a template can raise anything, recursion and memory included
            raise TemplateError(f"the chat template failed: {type(exc).__name__}: {exc}") from exc


class _Sandbox(ImmutableSandboxedEnvironment):
    """Runs templates of strangers; the deadline belongs to the render in progress, by thread."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        self._render = threading.local()
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: now().strftime(form)

    intercepted_binops = frozenset({"*", "**"})

    def run(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """The text of a render within the limits."""
        self._render.deadline = time.monotonic() + MAX_SECONDS
        parts: list[str] = []
        size = 0
        for part in template.generate(variables):
            self._check_time()
            size += len(part)
            if size > MAX_CHARACTERS:
                _refuse(f"it wrote more than {MAX_CHARACTERS} characters")
            parts.append(part)
        return "".join(parts)

    def call(self, context: Context, function: Any, /, *args: Any, **named: Any) -> Any:
        """Call from a template, if there is time left."""
        self._check_time()
        return super().call(context, function, *args, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Product or power, if the result is of a sensible size."""
        if operator == "**" and not (abs(left) < 2**64 and abs(right) <= 64):
            _refuse(f"{left!r} ** {right!r} is too large")
        for text, count in ((left, right), (right, left)):
            if hasattr(text, "__len__") and len(text) * int(count) > MAX_CHARACTERS:
                _refuse(f"it repeated text to more than {MAX_CHARACTERS} characters")
        return super().call_binop(context, operator, left, right)

    def _check_time(self) -> None:
        if time.monotonic() > self._render.deadline:
            _refuse(f"it ran for more than {MAX_SECONDS:g} s")


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(f"the chat template refused the messages: {message}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers: no HTML escapes, text as it is."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _message(place: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidPrompt(f'messages[{place}] must be a map with a "role" and "content"')
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(_part(place, part) for part in content)
    if content is not None and not isinstance(content, str):
        kind = type(content).__name__
        raise InvalidPrompt(f"messages[{place}]: content must be text, not {kind}")
    return {**message, "content": content}


def _part(place: int, part: object) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise InvalidPrompt(f"messages[{place}] holds a part of type {kind!r}; only text is served")
    return text


def _check_chat(chat: list[dict[str, Any]], add_prompt: bool, continue_final: bool) -> None:
    if not chat:
        raise InvalidPrompt("the conversation is empty; give at least one message")
    if continue_final and add_prompt:
        raise InvalidPrompt(
            "continue_final_message and add_generation_prompt exclude each other; "
            "set add_generation_prompt=False"
        )
    if continue_final and not chat[-1]["content"]:
        raise InvalidPrompt("continue_final_message needs text in the last message")


def _cut_after(text: str, final: str) -> str:
    """`text` up to the end of the last message, whose ends the template may have trimmed."""
    start = text.rfind(final.strip())
    if start < 0:
        raise TemplateError(
            "the chat template changes the last message, so it cannot be continued; "
            "set continue_final_message=False"
        )
    kept = final.lstrip()
    return text[: start + len(kept if text.startswith(kept, start) else final.strip())]
