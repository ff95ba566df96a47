"""Chat templates: what real ones use, what strangers' ones may not do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from argosy.errors import InvalidPrompt, TemplateError
from argosy.text import template as template_module
from argosy.text.template import ChatTemplate

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HI = [{"role": "user", "content": "hi"}]


def rendered(source: str, messages: list[Any] = HI, **options: Any) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(messages, **options)


def test_chatml() -> None:
    chat = [{"role": "system", "content": "Be brief."}, *HI]
    assert rendered(CHATML, chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered(CHATML, add_generation_prompt=False).endswith("hi<|im_end|>\n")


WRITES = [
    ("{{ bos_token }}|{{ eos_token }}", "<s>|"),
    ("{% if true %}\n  a\n{% endif %}\nb", "  a\nb"),
    ("    {% if true %}a{% endif %}", "a"),
    ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
    ("{{ {'z': '<é>', 'a': 1} | tojson }}", '{"z": "<é>", "a": 1}'),
    ("{{ {'a': [1]} | tojson(indent=2) }}", '{\n  "a": [\n    1\n  ]\n}'),
    ("{{ strftime_now('%d %b %Y') }}", "05 Mar 2024"),
    ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "hi!"),
    ("{{ messages[0].content.__class__ }}", ""),
    ("{{ tools }} {{ documents }} {{ enable_thinking }}", "None None False"),
    ("{{ 3 * 4 }} {{ 2 ** 10 }} {{ '-' * 3 }} {{ [0] * 2 }}", "12 1024 --- [0, 0]"),
    (
        "{% set ns = namespace(n=0) %}{% for m in [5] %}{% set ns.n = m %}{% endfor %}{{ ns.n }}",
        "5",
    ),
]


@pytest.mark.parametrize(("source", "expected"), WRITES)
def test_what_templates_use(source: str, expected: str) -> None:
    chat = ChatTemplate(source, {"bos_token": "<s>"}, now=lambda: datetime(2024, 3, 5))
    assert chat.render(HI, variables={"enable_thinking": False}) == expected


FAILS = [
    ("{{ raise_exception('roles must alternate') }}", "refused the messages: roles must alternate"),
    ("{% if %}", "not valid Jinja"),
    ("{{ " * 10_000, "not valid Jinja"),
    ("{{ missing.attribute }}", "UndefinedError"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{{ messages[0].update(role='x') }}", "SecurityError"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "UndefinedError|SecurityError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ("{{ 'a' * 10**9 }}", "repeated text"),
    ("{{ 10**9 * [0] }}", "repeated text"),
    ("{{ 9 ** (9 ** 9) }}", "too large"),
    ("{{ range(10**9) }}", "OverflowError"),
    ("{% include 'secret' %}", "TypeError|no loader"),
    ("{{ 1 / 0 }}", "ZeroDivisionError"),
]


@pytest.mark.parametrize(("source", "message"), FAILS)
def test_what_templates_may_not(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        rendered(source)


LOOP = "{% for a in range(100000) %}{% for b in range(100000) %}BODY{% endfor %}{% endfor %}"


WITHOUT_CALLS = (
    "{% set many = range(3000) | list %}"
    "{% for a in many %}{% for b in many %}{{ messages[0].x }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("source", [LOOP.replace("BODY", ""), WITHOUT_CALLS])
def test_time_is_limited(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_module, "MAX_SECONDS", 0.05)
    with pytest.raises(TemplateError, match=r"more than 0\.05 s"):
        rendered(source)


def test_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_CHARACTERS", 1000)
    with pytest.raises(TemplateError, match="wrote more than 1000 characters"):
        rendered(LOOP.replace("BODY", "x"))


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"


def test_no_content_is_left_to_the_template() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "f"}]}
    assert rendered("{{ messages[0].content is none }}{{ messages[0].tool_calls }}", [call]) == (
        "True[{'name': 'f'}]"
    )


BAD_CHATS: list[tuple[Any, str]] = [
    ([], "conversation is empty"),
    (["hi"], r"messages\[0\] must be a map"),
    ([{"content": "hi"}], r"messages\[0\] must be a map"),
    ([{"role": 1, "content": "hi"}], r"messages\[0\] must be a map"),
    ([*HI, {"role": "user", "content": 7}], r"messages\[1\]: content must be text, not int"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "part of type 'image_url'"),
    ([{"role": "user", "content": [7]}], "part of type 'int'"),
]


@pytest.mark.parametrize(("chat", "message"), BAD_CHATS)
def test_messages_refused(chat: list[Any], message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        rendered(CHATML, chat)


@pytest.mark.parametrize("said", ["Well, I", " Well, I ", "Well, I\n"])
@pytest.mark.parametrize("strip", ["", " | trim"])
def test_a_message_to_be_continued_stays_open(said: str, strip: str) -> None:
    source = CHATML.replace("message['content']", f"message['content']{strip}")
    chat = [*HI, {"role": "assistant", "content": said}]
    text = rendered(source, chat, add_generation_prompt=False, continue_final_message=True)
    kept = said.strip() if strip else said
    assert text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{kept}"


def test_what_cannot_be_continued() -> None:
    with pytest.raises(InvalidPrompt, match="exclude each other"):
        rendered(CHATML, continue_final_message=True)
    options = {"add_generation_prompt": False, "continue_final_message": True}
    with pytest.raises(InvalidPrompt, match="needs text"):
        rendered(CHATML, [{"role": "assistant", "content": ""}], **options)
    with pytest.raises(TemplateError, match="cannot be continued"):
        rendered("{{ messages[0].content | upper }}", **options)
