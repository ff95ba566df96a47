"""What the README says about serving happens, word for word, but for the port."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import Server

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/howto/serve.md", "docs/howto/read-the-metrics.md")


def blocks(page: str, kind: str, section: str = "") -> Iterator[str]:
    """The code blocks of one kind, of one `##` section or of all."""
    text = (ROOT / page).read_text()
    if section:
        text = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    yield from re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def curls() -> list[str]:
    """Every curl command of the pages, its continued lines joined."""
    lines = [
        line
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line.startswith("curl ")]


def curl(command: str, port: int) -> tuple[str, str]:
    """Content type and text of what a curl command gets: URL, -H, -d, -N and -s."""
    words = iter(shlex.split(command)[1:])
    url, data, headers = "", None, {}
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = next(words).encode()
        elif word not in ("-N", "-s"):
            assert word.startswith("http://127.0.0.1:8000/"), command
            url = word.replace(":8000/", f":{port}/")
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as reply:
        return reply.headers["content-type"], reply.read().decode()


def test_the_pages_have_commands() -> None:
    assert sum("chat/completions" in one for one in curls()) == 1
    assert sum('"stream": true' in one for one in curls()) == 1
    assert sum("/metrics" in one for one in curls()) == 1


@pytest.mark.parametrize("command", curls())
def test_a_curl_command_gets_what_it_asks_for(server: Server, command: str) -> None:
    kind, text = curl(command, server.port)
    if '"stream": true' in command:
        assert kind.startswith("text/event-stream") and text.endswith("data: [DONE]\n\n")
        first = json.loads(text.partition("\n")[0].removeprefix("data: "))
        assert first["object"] == "text_completion"
    elif "chat" in command:
        answer = json.loads(text)["choices"][0]["message"]["content"]
        assert answer.startswith("LLMOps is the practice of running large language models")
    else:
        assert "vllm:num_requests_running{" in text


def test_the_openai_client_of_the_readme(server: Server) -> None:
    [program] = blocks("README.md", "python", "Serve")
    assert ":8000/" in program
    program = program.replace(":8000/", f":{server.port}/")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Continuous batching lets new requests join"), done.stdout
