"""Bodies that are taken, and why others are not."""

from __future__ import annotations

import json

import pytest

from argosy.serve.dialects.openai_body import CHAT, COMPLETION, DETOKENIZE, TOKENIZE, Form, read
from argosy.serve.errors import Refusal, failure

FORMS = [CHAT, COMPLETION, TOKENIZE, DETOKENIZE]


def refused(body: bytes, form: Form = COMPLETION, strict: bool = False) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(body, form, strict=strict)
    assert caught.value.status == failure(caught.value).status == 400
    return caught.value


def test_fields_are_taken() -> None:
    request, unknown = read(b'{"prompt": "a", "n": 2, "stop": ["x"], "temperature": 1}', COMPLETION)
    assert (request.prompt, request.n, request.stop, request.temperature) == ("a", 2, ["x"], 1.0)
    assert request.max_tokens == 16
    assert unknown == ()


def test_null_is_as_if_left_out() -> None:
    plain, _ = read(b'{"messages": []}', CHAT)
    fields = {name: None for name in CHAT.known if name != "messages"} | {"messages": []}
    assert read(json.dumps(fields).encode(), CHAT) == (plain, ())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b'{"prompt": "a"',
        b'{"prompt": "a"}{}',
        b'{"prompt": "\x00"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "user": "\\ud800"}',
        b'{"prompt": "a", "temperature": 1e400}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"x": ' * 10_000 + b"1" + b"}" * 10_000,
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.struct.__name__)
def test_what_is_no_json_object_is_refused(body: bytes, form: Form) -> None:
    refused(body, form)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.struct.__name__)
def test_a_wrong_type_names_its_field(form: Form) -> None:
    for name in form.struct.__struct_fields__:
        for value in (b'{"a": {"b": []}}', b"[[[{}]]]", b"1.5", b"true", b'""', b"-1", b"[null]"):
            body = b'{"%s": %s}' % (name.encode(), value)
            try:
                read(body, form)
            except Refusal as exc:
                assert exc.param is not None
                required = "is missing" in str(exc)
                assert required or exc.param == name, str(exc)


def test_the_place_of_a_wrong_type_is_told() -> None:
    exc = refused(b'{"prompt": "a", "stop": ["x", 1]}')
    assert str(exc) == "stop[1]: expected `str`, got `int`"
    assert exc.param == "stop"
    exc = refused(b'{"prompt": "a", "stream_options": {"include_usage": 3}}')
    assert exc.param == "stream_options.include_usage"


def test_a_whole_number_may_be_written_as_a_fraction() -> None:
    request, _ = read(b'{"prompt": [1.0, 2], "n": 3.0, "temperature": 1.5}', COMPLETION)
    assert (request.prompt, request.n, request.temperature) == ([1, 2], 3, 1.5)
    assert type(request.n) is int
    assert refused(b'{"prompt": "a", "n": 3.5}').param == "n"
    assert refused(b'{"prompt": "a", "n": 3.0, "seed": 1e400}')


def test_a_missing_field_is_named() -> None:
    assert refused(b"{}").param == "prompt"
    assert refused(b"{}", CHAT).param == "messages"


@pytest.mark.parametrize(
    "body",
    [b'{"prompt": "a", "n": 1, "n": 2}', b'{"prompt": "a", "n": 1, "\\u006e": 2}'],
)
def test_a_field_given_twice_is_refused(body: bytes) -> None:
    exc = refused(body)
    assert exc.param == "n"
    assert "twice" in str(exc)


def test_of_very_many_fields_one_given_twice_is_found() -> None:
    many = b", ".join(b'"x%d": 0' % i for i in range(50_000))
    exc = refused(b'{"prompt": "a", %s, "x77": 1}' % many)
    assert exc.param == "x77"
    assert len(read(b'{"prompt": "a", %s}' % many, COMPLETION)[1]) == 50_000


def test_a_name_that_stands_in_a_text_too_is_not_twice() -> None:
    request, _ = read(b'{"prompt": "say \\"n\\"", "n": 2, "user": "n"}', COMPLETION)
    assert request.prompt == 'say "n"'


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.struct.__name__)
def test_what_cannot_be_honoured_is_refused_by_name(form: Form) -> None:
    needed = {"prompt": "a", "messages": [], "tokens": []}
    needed = {name: v for name, v in needed.items() if name in form.struct.__struct_fields__}
    for name, values in form.only.items():
        for value in (None, *values):
            read(json.dumps(needed | {name: value}).encode(), form)
        assert refused(json.dumps(needed | {name: {"x": 1}}).encode(), form).param == name
    for name in form.without_effect:
        assert read(json.dumps(needed | {name: {"x": 1}}).encode(), form)[1] == ()


def test_one_is_not_true() -> None:
    assert refused(b'{"prompt": "a", "use_beam_search": 0}').param == "use_beam_search"


def test_unknown_fields_are_told() -> None:
    _, unknown = read(b'{"prompt": "a", "zeta": [[]], "alpha": 1}', COMPLETION)
    assert unknown == ("alpha", "zeta")


def test_where_fields_are_strict_unknown_ones_are_refused() -> None:
    exc = refused(b'{"prompt": "a", "max_token": 1}', strict=True)
    assert exc.param == "max_token"
    assert "did you mean 'max_tokens'" in str(exc)
    assert len(str(refused(b'{"prompt": "a", "%s": 1}' % (b"x" * 10_000), strict=True))) < 200


def test_a_field_is_of_one_kind_only() -> None:
    for form in FORMS:
        kinds = [set(form.struct.__struct_fields__), set(form.only), set(form.without_effect)]
        assert sum(map(len, kinds)) == len(form.known)
