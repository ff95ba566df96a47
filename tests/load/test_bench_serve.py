"""`argosy bench serve` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from load.fake_server import fake_server


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "argosy", "bench", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


SHORT = ("--input-len", 16, "--output-len", 3)


def test_a_run_prints_a_table_and_writes_every_figure(tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    with fake_server(first_s=0.01) as server:
        done = bench(
            server.url, "--users", 3, "--requests", 12, *SHORT,
            "--limit", "ttft=60s,itl=1us", "--json", report,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12 requests in" in done.stdout and "0.0 % within ttft 60000 ms" in done.stdout
    figures = json.loads(report.read_text())
    assert figures["model"] == "fake" and figures["users"] == 3
    assert (figures["completed"], figures["errors"]) == (12, {})
    assert figures["prompt_tokens"]["mean"] == 16 and figures["tokens"]["mean"] == 3
    assert figures["ttft"]["p50"] >= 0.01


def test_a_search_finds_the_users_a_server_can_take(tmp_path: Path) -> None:
    report = tmp_path / "search.json"
    with fake_server(capacity=3, gap_s=0.01) as server:
        done = bench(
            server.url, "--slo", "ttft_p95=60s", "--duration", 0.2, "--ramp", 0, *SHORT,
            "--max-users", 16, "--json", report,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3 users at once with ttft_p95 within 60000 ms"
    found = json.loads(report.read_text())
    assert found["users"] == 3
    assert [level["users"] for level in found["levels"]] == [1, 2, 4, 3]
    missed = found["levels"][2]
    assert not missed["met"] and "429" in missed["summary"]["errors"]


def test_a_trace_is_sent_with_its_lengths_cut_to_the_context(tmp_path: Path) -> None:
    trace, report = tmp_path / "t.csv", tmp_path / "t.json"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.1,300,4\n"
        "2023-11-16 18:15:46.2,20,2\n"
    )
    with fake_server() as server:
        done = bench(server.url, "--trace", trace, "--json", report)
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text())
    assert figures["completed"] == 2
    assert figures["prompt_tokens"]["largest"] == 252, "the server says 256 tokens"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--users", 1, "--rate", 1], "--users is a closed loop"),
        (["--slo", "ttft_p95=1s", "--rate", 1], "--slo searches"),
        (["--slo", "ttft=1s"], "ttft_p95=200ms"),
        (["--limit", "x=1s"], "no latency"),
        (["--duration", 1, "--requests", 1], "give one of them"),
        (["--api", "magic"], "none of completions, chat"),
        (["--input-len", 1], "at least 2"),
        (["--rate", 0], "rate=0"),
        (["--model", "other"], "only fake"),
    ],
)
def test_wrong_wishes_are_refused_in_one_line(arguments: list[object], said: str) -> None:
    with fake_server() as server:
        done = bench(server.url, *arguments)
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with fake_server() as server:
        url = server.url
    done = bench(url)
    assert done.returncode == 1
    assert done.stderr == f"argosy: no server answers at {url[7:]}: Connection refused\n"


def test_a_plot_without_matplotlib_is_refused_before_any_load(tmp_path: Path) -> None:
    with fake_server() as server:
        done = bench(server.url, "--requests", 2, *SHORT, "--plot", tmp_path / "p.png")
        streams = len(server.seen)
    if done.returncode:
        assert "pip install argosy[plot]" in done.stderr and not streams
    else:
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
