"""Malformed HTTP requests, drawn with a seed: bytes, framing, JSON and values that are broken."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Draw = random.Random

CHAT: dict[str, Any] = {
    "model": "argosy",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 3,
    "temperature": 0.5,
    "seed": 7,
    "n": 1,
    "stop": ["\n"],
    "logit_bias": {"5": 1.0},
    "stream": False,
}
COMPLETION: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 3,
    "logprobs": 2,
    "stop_token_ids": [3],
    "presence_penalty": 0.1,
    "stream": True,
    "stream_options": {"include_usage": True},
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/tokenize": {"prompt": "Hello", "return_token_strs": True},
    "/detokenize": {"tokens": [1, 2, 3]},
}
GETS = ("/v1/models", "/v1/models/argosy", "/health", "/ready", "/version", "/metrics", "/load")

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "\x00", "a\x00b", "\ud800", "é" * 50, "x" * 5000, [], [[]], {},
    [None], [1, "a", None], [[1, 2], ["b"]], {"a": {}}, {"": None}, {"type": "text"}, ["\ud800"],
    "../../etc/passwd", "0x10", "1e5", "true",
)  # fmt: skip
ODD_HEADERS = (
    b"Content-Type: text/plain", b"Content-Type: application/json; charset=utf-16",
    b"Authorization: Bearer " + b"k" * 5000, b"X-Request-Id: " + b"\xff\xfe",
    b"Expect: 100-continue",
    b"X-Request-Id: a\x00b", b"Accept-Encoding: br", b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Transfer-Encoding: gzip", b"Range: bytes=0-1", b"X-Argosy-Explain: 1",
    b"X-Argosy-Timeout: nan",
    b"Origin: null", b"Cookie: " + b"c=1;" * 500, b"Host: other", b": empty", b"NoColon",
)  # fmt: skip


def request(draw: Draw) -> bytes:
    """One request, nearly always broken somewhere."""
    return draw.choice(KINDS)(draw)


def _post(path: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [f"POST {path} HTTP/1.1".encode(), b"Host: argosy", b"Connection: close", *headers]
    if not any(h.lower().startswith(b"content-type") for h in headers):
        lines.append(b"Content-Type: application/json")
    lines.append(f"Content-Length: {len(body) if length is None else length}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _target(draw: Draw) -> tuple[str, dict[str, Any]]:
    path = draw.choice(list(BODIES))
    return path, json.loads(json.dumps(BODIES[path]))


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def odd_value(draw: Draw) -> bytes:
    """A field, known or not, holds what it should not."""
    path, body = _target(draw)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        name = draw.choice([*body, *CHAT, *COMPLETION, *KNOWN, "nonsense", "\x00", ""])
        body[name] = draw.choice(ODD_VALUES)
    return _post(path, _dumps(body))


def odd_message(draw: Draw) -> bytes:
    """Messages or prompts of strange shapes."""
    path = draw.choice(("/v1/chat/completions", "/v1/completions", "/tokenize"))
    body: dict[str, Any] = {"max_tokens": 2}
    message: dict[str, Any] = {"role": "user", "content": "Hi"}
    message[draw.choice(("role", "content", "name", "tool_calls"))] = draw.choice(ODD_VALUES)
    body["messages"] = draw.choice(([message], [message] * 3, message, [draw.choice(ODD_VALUES)]))
    if draw.random() < 0.5:
        body = {"prompt": draw.choice((*ODD_VALUES, [5] * 3000, "word " * 3000)), "max_tokens": 2}
    return _post(path, _dumps(body))


def broken_json(draw: Draw) -> bytes:
    """JSON cut, doubled, nested ten thousand deep, or with bytes flipped."""
    path, body = _target(draw)
    text = bytearray(_dumps(body))
    choice = draw.randrange(6)
    if choice == 0:
        del text[draw.randrange(len(text)) :]
    elif choice == 1:
        for _ in range(draw.randrange(1, 6)):
            text[draw.randrange(len(text))] = draw.randrange(256)
    elif choice == 2:
        text = text * 2
    elif choice == 3:
        text = bytearray(b"[" * 10000 + b"]" * 10000)
    elif choice == 4:
        text = bytearray(b'{"prompt":' + b'{"a":' * 5000 + b"1" + b"}" * 5001)
    else:
        text = bytearray(
            draw.choice((b"", b"null", b"[]", b"3", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}"))
        )
    return _post(path, bytes(text))


def broken_framing(draw: Draw) -> bytes:
    """Wrong lengths, chunks that lie, a request cut anywhere."""
    path, body = _target(draw)
    text = _dumps(body)
    choice = draw.randrange(6)
    if choice == 0:
        return _post(path, text, length=len(text) + draw.randrange(1, 1000))
    if choice == 1:
        return _post(path, text, length=draw.randrange(len(text)))
    if choice == 2:
        whole = _post(path, text)
        return whole[: draw.randrange(1, len(whole))]
    if choice == 3:
        return _post(path, text, b"Transfer-Encoding: chunked")
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    size = draw.choice((b"ffffffffffffffff", b"-1", b"zz", b"5", b"", b"%x" % len(text)))
    return head.encode() + size + b"\r\n" + text + draw.choice((b"\r\n0\r\n\r\n", b"", b"\r\n"))


def odd_header(draw: Draw) -> bytes:
    """A sound body under headers that are not."""
    path, body = _target(draw)
    headers = draw.sample(ODD_HEADERS, draw.randrange(1, 4))
    if draw.random() < 0.1:
        headers.append(b"X-Long: " + b"y" * draw.choice((1000, 20_000, 100_000)))
    if draw.random() < 0.1:
        headers += [b"X-Many: 1"] * 300
    return _post(path, _dumps(body), *headers)


def odd_line(draw: Draw) -> bytes:
    """Methods, paths and versions nobody serves."""
    method, path = draw.choice(METHODS), draw.choice(PATHS)
    version = draw.choice(("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "FTP", ""))
    return f"{method} {path} {version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode()


def noise(draw: Draw) -> bytes:
    """Bytes from nowhere: noise, a TLS hello, another protocol's preface."""
    known = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\r\n" * 50,
    )
    return draw.choice((*known, draw.randbytes(draw.randrange(1, 400))))


def flipped(draw: Draw) -> bytes:
    """A sound request with some of its bytes changed, headers included."""
    path, body = _target(draw)
    whole = bytearray(_post(path, _dumps(body)))
    for _ in range(draw.randrange(1, 8)):
        whole[draw.randrange(len(whole))] = draw.randrange(256)
    return bytes(whole)


METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PRI", "get", "")
PATHS = (
    *GETS, *BODIES, "/", "//", "/v1/models/%00", "/%ff%fe", "/v1/../x", "*", "", "/é",
    "/v1/models/" + "a/" * 500, "/?" + "q=1&" * 500, "/debug/trace", "/openapi.json",
)  # fmt: skip
KNOWN = (
    "top_k", "top_p", "min_p", "min_tokens", "ignore_eos", "repetition_penalty", "prompt_logprobs",
    "priority", "cache_salt", "top_logprobs", "logprobs", "stream_options", "response_format",
    "tools", "tool_choice", "echo", "suffix", "best_of", "user", "max_completion_tokens",
    "bad_words", "allowed_token_ids", "chat_template", "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message", "return_token_ids", "truncate_prompt_tokens", "skip_special_tokens",
)  # fmt: skip
KINDS: tuple[Callable[[Draw], bytes], ...] = (
    odd_value, odd_value, odd_value, odd_message, broken_json, broken_framing, odd_header, odd_line,
    noise, flipped,
)  # fmt: skip
