"""/openapi.json says what is true."""

from __future__ import annotations

import json
from typing import Any

import pytest

from argosy.serve.dialects.openai_body import CHAT, COMPLETION, DETOKENIZE, TOKENIZE
from argosy.serve.dialects.openai_schema import openapi, schemas


def references(value: Any) -> set[str]:
    """Every "$ref" in a document."""
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()))


def test_every_reference_leads_somewhere() -> None:
    document = json.loads(openapi(400))
    assert document["openapi"].startswith("3.1")
    names = document["components"]["schemas"]
    found = references(document)
    assert found
    assert {one.removeprefix("#/components/schemas/") for one in found} <= names.keys()


@pytest.mark.parametrize("form", [CHAT, COMPLETION, TOKENIZE, DETOKENIZE])
def test_every_field_is_there(form: Any) -> None:
    schema = schemas(400)[form.struct.__name__]
    assert schema["properties"].keys() == form.known


def test_every_operation_tells_its_answers() -> None:
    for path in json.loads(openapi(400))["paths"].values():
        for operation in (path[m] for m in ("get", "post") if m in path):
            assert {"200", "400", "404", "413", "429", "503"} <= operation["responses"].keys()
            for answer in operation["responses"].values():
                assert "application/json" in answer["content"]


def test_a_key_is_asked_for_where_there_is_one() -> None:
    assert "security" not in json.loads(openapi(400))
    assert json.loads(openapi(400, needs_key=True))["security"] == [{"key": []}]
