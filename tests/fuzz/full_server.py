"""A server that has met the largest requests there are: only then is flat memory to be expected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from argosy.serve.dialects.openai_types import MAX_SEQUENCES
from argosy.types import MAX_LOGPROBS
from serving import Server, start_server

SMALL = ("--memory", "130M")
DEADLINE = ("--request-timeout", "10")  # thousands of long answers are a lawful request, and hours
AT_ONCE = 16
MANY = {"prompt": "a", "n": MAX_SEQUENCES, "temperature": 1, "max_tokens": 2, "ignore_eos": True}
LONG = MANY | {"n": 256, "max_tokens": 64, "repetition_penalty": 1.1}


@contextmanager
def full_server(folder: Path) -> Iterator[Server]:
    """A server of little memory, each page of whose cache was used."""
    with start_server(folder, *SMALL, *DEADLINE) as server:
        model = server.get("/v1/models")[1]["data"][0]
        longest = model["max_model_len"] - 1
        used = AT_ONCE * longest
        assert used > server.metric("argosy_pages_usable") * 16
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for status, body in pool.map(lambda i: server.post(*largest(i, longest)), range(32)):
                assert status == 200, body
        for body in (MANY, LONG):
            status, answer = server.post("/v1/completions", body)
            assert status == 200, answer
        server.wait_idle()
        yield server


def largest(number: int, longest: int) -> tuple[str, dict[str, Any]]:
    """A prompt that fills the context, of which everything is asked."""
    draw = random.Random(number)
    return "/v1/completions", {
        "prompt": [draw.randrange(1000) for _ in range(longest)],
        "max_tokens": 1,
        "logprobs": MAX_LOGPROBS,
        "prompt_logprobs": MAX_LOGPROBS,
        "echo": True,
    }
