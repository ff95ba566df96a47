"""The front door: finding verbs, errors in one line, exit codes, the environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import argosy
from argosy.cli import show
from argosy.cli.environment import read_environment
from argosy.cli.main import VERBS, app
from argosy.errors import ConfigError


def run(*arguments: str, **variables: str) -> object:
    """What `argosy ARGUMENTS` does, in this process."""
    return CliRunner(env=variables).invoke(app, list(arguments))


def test_help_names_every_verb() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        told = run(*arguments).output
        assert all(f"{verb} " in told for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_teaches_with_examples(verb: str) -> None:
    done = run(verb, "--help")
    assert done.exit_code == 0
    assert f"argosy {verb}" in done.output.split("Examples:")[1]


def test_version_is_quick_and_lean() -> None:
    code = (
        "import sys; from argosy.cli.main import app\n"
        "try: app(['--version'])\n"
        "except SystemExit: print(sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"argosy {argosy.__version__}\n")
    assert not [m for m in ("numpy", "tokenizers", "jinja2", "rich") if f"'{m}'" in done.stdout]


def test_a_verb_of_two_words_is_not_an_argument_of_the_first() -> None:
    assert "bench serve [OPTIONS] [URL]" in run("bench", "serve", "--help").output
    assert "bench [OPTIONS] [MODEL]" in run("bench", "--help").output
    assert "argosy bench serve" in run("bench", "--help").output


def test_an_unknown_verb_is_wrong_usage_and_a_near_one_is_named() -> None:
    done = run("chta")
    assert done.exit_code == 2
    assert "Did you mean 'chat'?" in done.stderr


@pytest.mark.parametrize("verb", ["show", "verify", "chat", "bench"])
def test_a_missing_model_is_one_line(verb: str, tmp_path: Path) -> None:
    done = run(verb, str(tmp_path / "none"), ARGOSY_CACHE=str(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.startswith("argosy: ") and done.stderr.count("\n") == 1
    assert "none" in done.stderr


def test_our_own_bugs_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(show, "program_of", fail)
    assert isinstance(run("show").exception, ZeroDivisionError)


def test_a_reader_that_leaves_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m argosy show {model} --program --json | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{", "")


def test_environment_defaults() -> None:
    found = read_environment({})
    assert found.cache == Path.home() / ".cache" / "argosy"
    assert (found.log_level, found.colour) == ("info", True)


def test_environment_given() -> None:
    variables = {"ARGOSY_CACHE": "/x", "ARGOSY_LOG": "DEBUG", "NO_COLOR": "1"}
    found = read_environment(variables)
    assert (found.cache, found.log_level, found.colour) == (Path("/x"), "debug", False)
    assert not read_environment({"TERM": "dumb"}).colour


def test_a_servers_key_in_the_environment() -> None:
    both = {"ARGOSY_API_KEY": "ours", "VLLM_API_KEY": "theirs"}
    assert read_environment(both).api_key == "ours" and "ours" not in repr(read_environment(both))
    assert read_environment({"ARGOSY_API_KEY": "", "VLLM_API_KEY": "theirs"}).api_key == "theirs"
    assert read_environment({}).api_key is None
    with pytest.raises(ConfigError, match="comma"):
        read_environment({"ARGOSY_API_KEY": "a,b"})


def test_an_unknown_log_level_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="ARGOSY_LOG='loud'"):
        read_environment({"ARGOSY_LOG": "loud"})
    done = run("show", ARGOSY_LOG="loud")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
