"""ServerConfig: what is accepted, and what is refused with a remedy."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from argosy.config import MAX_FRONTS, MAX_SOCKET_PATH, ServerConfig, check_accepted
from argosy.errors import ConfigError
from argosy.types import MAX_LOGPROBS

SWITCHES = ("protect_probes", "strict_fields", "explain", "log_requests")

BAD: list[tuple[str, Any, str]] = [
    *[("host", v, "address or a name") for v in ("", None, 1)],
    *[("port", v, "whole number from 0 to 65535") for v in (-1, 65536, "80", True, None, 1.5)],
    *[("uds", v, "must be a path") for v in ("", 1)],
    ("uds", "x" * (MAX_SOCKET_PATH + 1), f"longer than the {MAX_SOCKET_PATH} bytes"),
    *[("served_model_name", v, "none of them empty") for v in ("", ("a", ""), (1,), None, 7)],
    *[("api_keys", v, "none of them empty") for v in ("", ("a", ""), (1,))],
    *[(n, v, "True or False") for n in SWITCHES for v in (1, "true", None)],
    *[("max_logprobs", v, f"from 0 to {MAX_LOGPROBS}") for v in (-1, MAX_LOGPROBS + 1, None)],
    *[("max_num_queued_reqs", v, "of at least 0") for v in (-1, None, 0.5)],
    *[("max_num_queued_tokens", v, "at least 1") for v in (0, -1, "4k")],
    *[("request_timeout", v, "seconds") for v in (-1, "5", True, float("nan"), float("inf"))],
    ("request_timeout", 0, "leave it out"),
    *[("shutdown_timeout", v, "seconds, 0 or more") for v in (-0.5, None, True, float("nan"))],
    *[("api_server_count", v, f"from 1 to {MAX_FRONTS}") for v in (0, MAX_FRONTS + 1, True)],
    *[("max_body_bytes", v, "of at least 1") for v in (0, -1, "32M")],
    *[("allowed_origins", v, "none of them empty") for v in ("", (1,))],
    ("ssl_keyfile", "key.pem", "give ssl_certfile too"),
    ("ssl_certfile", 1, "must be a path"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD, ids=lambda v: repr(v)[:30])
def test_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ServerConfig(**{name: value})
    assert name in str(caught.value)


GOOD: list[dict[str, Any]] = [
    {},
    {"port": 0, "host": "::1", "uds": "/run/argosy.sock"},
    {"max_logprobs": 0, "max_num_queued_reqs": 0, "max_num_queued_tokens": 1},
    {"request_timeout": 0.5, "shutdown_timeout": 0.0, "api_server_count": 2},
    {"ssl_certfile": "cert.pem", "ssl_keyfile": "key.pem"},
    {"served_model_name": ("a", "b"), "api_keys": ("sk-1", "a,b"), "allowed_origins": ("*",)},
]


@pytest.mark.parametrize("values", GOOD, ids=repr)
def test_accepted(values: dict[str, Any]) -> None:
    config = ServerConfig(**values)
    assert all(getattr(config, name) == value for name, value in values.items())


def test_one_text_and_lists_become_tuples_without_doubles() -> None:
    config = ServerConfig(served_model_name="a", api_keys=["k", "k", "l"])  # type: ignore[arg-type]
    assert (config.served_model_name, config.api_keys) == (("a",), ("k", "l"))


@pytest.mark.parametrize("key", ["two words", "tab\t", "schlüssel", "line\n", "\x7f"])
def test_a_key_no_header_can_carry_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="api key 2 of 2") as caught:
        ServerConfig(api_keys=("good", key))
    assert key not in str(caught.value) and "good" not in str(caught.value)


def test_keys_are_not_in_its_words() -> None:
    assert "sk-secret" not in repr(ServerConfig(api_keys=("sk-secret",)))


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ServerConfig().port = 1  # type: ignore[misc]


def test_what_would_need_an_effect_is_refused_by_name() -> None:
    why, only = {"load_format": "it is seen", "hf_token": "found"}, {"load_format": ("auto", 0)}
    check_accepted("load_format", "auto", why, only)
    check_accepted("load_format", 0, why, only)
    check_accepted("hf_token", "anything", why, only)
    for value in ("pt", False, None):
        with pytest.raises(ConfigError, match=r"load_format=.*\(it is seen\).* give 'auto', 0"):
            check_accepted("load_format", value, why, only)
    with pytest.raises(ConfigError) as caught:
        check_accepted("hf_token", "hf_secret", why, {"hf_token": (None,)})
    assert "secret" not in str(caught.value)
