"""A server started from a vLLM user's YAML: each key is in effect, or known to have none."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import yaml

from argosy.cli.accepted import WHY
from random_models import write_model
from serving import Server, events, start_server

NAME = "org/name"
FILE = (Path(__file__).parents[1] / "vllm.yaml").read_text()
SEATS = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face cache that holds the model, and the file."""
    folder = tmp_path_factory.mktemp("vllm")
    snapshot = folder / "hf" / "hub" / "models--org--name" / "snapshots" / "0" / "x"
    write_model(snapshot.parent, max_position=2048, layers=1)
    refs = folder / "hf" / "hub" / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    (folder / "serve.yaml").write_text(FILE)
    return folder


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[None]:
    """The environment in which that cache is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("ARGOSY_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def served(folder: Path, home: None) -> Iterator[Server]:
    """A server of that file, on a port of its own."""
    with start_server(folder, "--config", str(folder / "serve.yaml")) as server:
        yield server


def test_every_key_is_in_effect_or_known_to_have_none(served: Server) -> None:
    log = served.log.read_text()
    ignored = {key for key in yaml.safe_load(FILE) if key.replace("-", "_") in WHY}
    assert ignored == {"swap-space"}
    assert "accepted without effect here: swap_space (pages are recomputed, not swapped)\n" in log
    assert re.search(r"serving llama-2-70b on http://0\.0\.0\.0:\d+ ", log)
    [card] = served.get("/v1/models")[1]["data"]
    assert (card["id"], card["root"]) == ("llama-2-70b", NAME)
    assert served.metric("argosy_max_num_seqs") == SEATS
    cache = series(served, "vllm:cache_config_info")
    assert (cache["block_size"], cache["gpu_memory_utilization"]) == ("16", "0.92")
    assert re.search(r"engine 1: memory: .* of .* \(92% of .*steps of 8192 tokens", log)


def series(server: Server, name: str) -> dict[str, str]:
    """The labels of a metric's one series."""
    text = server.get("/metrics")[1]
    [labels] = re.findall(rf"^{re.escape(name)}\{{(.*)\}} ", text, re.MULTILINE)
    return dict(re.findall(r'(\w+)="([^"]*)"', labels))


def test_the_dry_run_tells_what_no_client_can_see(folder: Path, home: None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "argosy", "serve", "--config", folder / "serve.yaml", "--dry-run"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    told = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert ("gpu_memory_utilization", "0.92", "file") in told
    assert ("max_num_batched_tokens", "8192", "file") in told
    assert ("max_num_seqs", str(SEATS), "file") in told
    assert "(92% of " in done.stdout


def test_max_logprobs_is_five(served: Server) -> None:
    body = {"model": "llama-2-70b", "prompt": "a", "max_tokens": 1}
    assert served.post("/v1/completions", {**body, "logprobs": 5})[0] == 200
    status, answer = served.post("/v1/completions", {**body, "logprobs": 6})
    assert status == 400
    assert "6" in answer["error"]["message"] and "5" in answer["error"]["message"]


def test_only_the_served_name_is_known(served: Server) -> None:
    status, answer = served.post("/v1/completions", {"model": NAME, "prompt": "a"})
    assert (status, answer["error"]["param"]) == (404, "model")


def test_requests_are_logged(served: Server) -> None:
    served.post("/v1/completions", {"prompt": "not to be told", "max_tokens": 1})
    log = wait_for_line(served, '"path":"/v1/completions"')
    assert '"model":"llama-2-70b"' in log and "not to be told" not in log


def wait_for_line(server: Server, text: str) -> str:
    """The log once it has `text`; it is written by a thread."""
    for _ in range(1000):
        log = server.log.read_text()
        if text in log:
            return log
        server.get("/health")
    raise AssertionError(f"{text} is not in the log")


def test_the_257th_sequence_waits(served: Server) -> None:
    asyncio.run(fill_the_seats(served))
    served.wait_idle()


async def fill_the_seats(server: Server) -> None:
    """256 answers run, one more waits, and it runs as soon as one of them ends."""
    loop = asyncio.get_running_loop()
    body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "n": 64}

    async def first(more: dict[str, Any]) -> AsyncIterator[str]:
        stream = events(server.port, "/v1/completions", {**body, **more})
        await anext(stream)
        return stream

    streams = [await first({}) for _ in range(SEATS // 64)]
    await until(loop, server, running=SEATS, waiting=0)
    late = asyncio.create_task(first({"n": 1}))
    await until(loop, server, running=SEATS, waiting=1)
    assert not late.done()
    async with aclosing(streams.pop()) as gone:  # a client leaves: 64 seats
        assert json.loads(await anext(gone))["choices"]
    streams.append(await asyncio.wait_for(late, 60))
    for stream in streams:
        await stream.aclose()


async def until(loop: asyncio.AbstractEventLoop, server: Server, **wanted: int) -> None:
    """Wait until these numbers of requests are running and waiting."""
    names = {name: f"vllm:num_requests_{name}" for name in wanted}
    for _ in range(2000):
        found = {
            name: await loop.run_in_executor(None, server.metric, one)
            for name, one in names.items()
        }
        if found == wanted:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{found}, not {wanted}")


def test_four_shards_are_refused_before_anything_starts(folder: Path) -> None:
    four = folder / "four.yaml"
    four.write_text(FILE.replace("tensor-parallel-size: 1", "tensor-parallel-size: 4"))
    done = subprocess.run(
        [sys.executable, "-m", "argosy", "serve", "--config", str(four)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "tensor_parallel_size=4: sharding is not built yet; set tensor_parallel_size=1" in (
        done.stderr
    )


def test_the_file_of_the_issue_is_taken_byte_for_byte(folder: Path) -> None:
    other = folder / "issue.yaml"
    shutil.copy(folder / "serve.yaml", other)
    done = subprocess.run(
        [sys.executable, "-m", "argosy", "serve", str(folder / "nowhere"), "--config", str(other)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "nowhere" in done.stderr  # the command line wins
