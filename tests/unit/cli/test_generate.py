"""One prompt: where it comes from, how its answers are told."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from argosy.cli import chat, generate
from argosy.cli.generate import read_prompt
from argosy.cli.main import app
from argosy.client.local import LocalClient

MakeClient = Callable[..., LocalClient]


@pytest.fixture
def argosy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """argosy(client, *arguments, stdin=) runs `argosy generate` on a scripted client."""

    def run(
        client: LocalClient, *arguments: str, stdin: str | None = None, charset: str = "utf-8"
    ) -> object:
        monkeypatch.setattr(
            generate, "open_model", lambda engine, name: engine.config(name) and client
        )
        return CliRunner(charset=charset).invoke(app, ["generate", *arguments], input=stdin)

    return run


def test_the_answer_is_printed(argosy: Callable, make_client: MakeClient) -> None:
    done = argosy(make_client("Paris."), "capital?")
    assert (done.exit_code, done.stdout) == (0, "Paris.\n")


def test_a_prompt_from_a_pipe(argosy: Callable, make_client: MakeClient) -> None:
    client = make_client("ok", "ok")
    argosy(client, stdin="two\nlines\n")
    argosy(client, "-", stdin="dash\n")
    ids = [r.token_ids for r in client.scripted.requests]  # type: ignore[attr-defined]
    texts = [client.intake.tokenizer.decode(i, skip_special_tokens=False) for i in ids]
    assert texts == ["<user>two\nlines\n<assistant>", "<user>dash\n<assistant>"]


def test_raw_text_is_continued(argosy: Callable, make_client: MakeClient) -> None:
    client = make_client("ok")
    argosy(client, "Once", "--raw")
    ids = client.scripted.requests[0].token_ids  # type: ignore[attr-defined]
    assert client.intake.tokenizer.decode(ids) == "Once"


def test_no_prompt_on_a_terminal_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(typer.BadParameter, match="give a PROMPT"):
        read_prompt(None)


@pytest.mark.parametrize("flags", [["--raw"], ["--chat"], []])
def test_an_empty_prompt_is_refused(
    argosy: Callable, make_client: MakeClient, flags: list[str]
) -> None:
    for arguments, stdin in ((["", *flags], None), (flags, ""), (["-", *flags], "\n")):
        done = argosy(make_client("ok"), *arguments, stdin=stdin)
        assert done.exit_code == 1
        assert done.stderr == "argosy: the prompt is empty; give some text\n"


def test_a_value_out_of_range_is_refused_before_the_model_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(generate, "open_model", fail)
    done = CliRunner().invoke(app, ["generate", "hi", "--top-p", "7"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("argosy: top_p=7")


def test_flags_may_have_underscores_as_in_vllm(argosy: Callable, make_client: MakeClient) -> None:
    client = make_client("abcdef")
    done = argosy(client, "hi", "--max_tokens", "3", "--stop=x_y", "--ignore_eos")
    params = client.scripted.requests[0].params  # type: ignore[attr-defined]
    assert (done.stdout, params.stop, params.ignore_eos) == ("abc\n", ("x_y",), True)


def test_a_chat_needs_a_template(
    argosy: Callable, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client("ok")
    monkeypatch.setattr(type(client.intake), "has_template", False)
    done = argosy(client, "hi", "--chat")
    assert done.exit_code == 1 and "--chat-template" in done.stderr
    monkeypatch.setattr(chat, "open_model", lambda *_: client)
    done = CliRunner().invoke(app, ["chat"], input="hi\n")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "--chat-template" in done.stderr and "argosy generate --raw" in done.stderr


def test_json_on_a_stdout_without_utf8(argosy: Callable, make_client: MakeClient) -> None:
    client = make_client("caf\u00e9", "caf\u00e9")
    assert "caf\u00e9" in argosy(client, "hi", "--json").stdout
    done = argosy(client, "hi", "--json", charset="latin-1")
    assert "caf\\u00e9" in done.stdout
    assert json.loads(done.stdout)["outputs"][0]["text"] == "caf\u00e9"


def test_sampling_flags_reach_the_request(argosy: Callable, make_client: MakeClient) -> None:
    client = make_client("ok")
    flags = "--temperature 0.5 --top-k 7 --max-tokens 1k --stop A --stop B --seed 9".split()
    argosy(client, "hi", *flags, "--logit-bias", "5=-2.5", "--logit-bias", "6=1")
    params = client.scripted.requests[0].params  # type: ignore[attr-defined]
    assert (params.temperature, params.top_k, params.max_tokens) == (0.5, 7, 1024)
    assert (params.stop, params.seed) == (("A", "B"), 9)
    assert params.logit_bias == {5: -2.5, 6: 1.0}


def test_several_answers_are_numbered(argosy: Callable, make_client: MakeClient) -> None:
    done = argosy(make_client("one", "two"), "hi", "--n", "2")
    assert done.stdout == "[0] one\n[1] two\n"


def test_json_is_one_object(argosy: Callable, make_client: MakeClient) -> None:
    done = argosy(make_client("one", "two"), "hi", "--n", "2", "--json")
    told = json.loads(done.stdout)
    assert [o["text"] for o in told["outputs"]] == ["one", "two"]
    assert told["outputs"][0]["finish_reason"] == "stop"


def test_a_failed_answer_is_exit_code_1(argosy: Callable, make_client: MakeClient) -> None:
    for flags in ([], ["--json"]):
        done = argosy(make_client("bad", fail_at="bad"), "hi", *flags)
        assert done.exit_code == 1
        assert "argosy: the answer ended early: broken" in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--temperature", "9"], 1, "temperature=9.0 must be finite and lie in [0.0, 2.0]"),
        (["--temperature", "hot"], 2, "should be a valid number"),
        (["--max-model-len", "many"], 2, "'many' is not a count"),
        (["--memory", "lots"], 2, "is not a size"),
        (["--logit-bias", "5"], 2, "is not ID=BIAS"),
        (["--runtime", "magic"], 1, "runtime='magic'"),
        (["--kv-cache-dtype", "int1"], 1, "kv_cache_dtype='int1'"),
        (["--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_wrong_flags(
    argosy: Callable, make_client: MakeClient, flags: list[str], code: int, message: str
) -> None:
    done = argosy(make_client("ok"), "hi", *flags)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
