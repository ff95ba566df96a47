"""Keys: which paths ask for one, and what opens them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest

from argosy.serve.auth import OPEN_PATHS, Keys
from argosy.serve.errors import Refusal
from serving import Server, start_server

KEYS = Keys(("first-key", "second-key"))


def refused(path: str, header: str | None, keys: Keys = KEYS) -> str | None:
    try:
        keys.check(path, header)
    except Refusal as exc:
        assert exc.status == 401
        assert (b"www-authenticate", b"Bearer") in exc.headers
        return str(exc.code)
    return None


@pytest.mark.parametrize("header", ["Bearer first-key", "bearer second-key", "BEARER  first-key"])
def test_any_of_the_keys_opens(header: str) -> None:
    assert refused("/v1/models", header) is None


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer", "missing_api_key"),
        ("Basic first-key", "missing_api_key"),
        ("first-key", "missing_api_key"),
        ("Bearer first-ke", "invalid_api_key"),
        ("Bearer FIRST-KEY", "invalid_api_key"),
        ("Bearer first-key second-key", "invalid_api_key"),
        ("Bearer \xe9", "invalid_api_key"),
    ],
)
def test_nothing_else_does(header: str | None, code: str) -> None:
    assert refused("/v1/models", header) == code


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_probes_are_open_unless_protected(path: str) -> None:
    assert refused(path, None) is None
    assert refused(path, None, Keys(("k",), protect_probes=True)) == "missing_api_key"


@pytest.mark.parametrize("path", ["/v1/models", "/debug/check", "/openapi.json", "/nowhere"])
def test_all_else_asks(path: str) -> None:
    assert refused(path, None) == "missing_api_key"
    assert refused(path, None, Keys(())) is None


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--api-key", "first-key", "--api-key", "second-key")
    with start_server(tmp_path_factory.mktemp("locked"), *flags) as server:
        yield server


def ask(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, answer.read()
    finally:
        connection.close()


def test_a_server_with_keys(locked: Server) -> None:
    status, headers, body = ask(locked, "/v1/models")
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    error = json.loads(body)["error"]
    assert error["type"] == "AuthenticationError"
    assert error["code"] == "missing_api_key"
    assert ask(locked, "/v1/models", Authorization="Bearer second-key")[0] == 200
    assert ask(locked, "/nowhere", Authorization="Bearer second-key")[0] == 404
    assert ask(locked, "/health")[0] == ask(locked, "/metrics")[0] == 200
    for key in (b"first-key", b"second-key"):
        assert key not in locked.log.read_bytes()
