"""The chat loop: what is asked, what is shown, what is remembered."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from argosy.cli.chat import Chat, quoted
from argosy.cli.chat_commands import COMMANDS, run_command
from argosy.cli.conversation import SETTABLE, Conversation
from argosy.cli.terminal import Screen
from argosy.client.local import LocalClient
from argosy.errors import InvalidSampling

MakeClient = Callable[..., LocalClient]


def chat(
    monkeypatch: pytest.MonkeyPatch, client: LocalClient, lines: str, **settings: object
) -> tuple[bool, Conversation]:
    """Run a chat over piped lines."""
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    conversation = Conversation(None, {}, settings)
    return Chat(client, conversation, Screen(False, False)).run(), conversation


def typed(
    monkeypatch: pytest.MonkeyPatch, client: LocalClient, lines: str, **settings: object
) -> tuple[bool, Conversation]:
    """Run a chat over lines typed in a terminal."""
    left = iter(lines.splitlines())

    def read(prompt: str) -> str:
        line = next(left, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", read)
    conversation = Conversation(None, {}, settings)
    return Chat(client, conversation, Screen(True, False)).run(), conversation


def prompts(client: LocalClient) -> list[str]:
    """The prompt texts the engine saw."""
    decode = client.intake.tokenizer.decode
    engine = client.scripted  # type: ignore[attr-defined]
    return [decode(r.token_ids, skip_special_tokens=False) for r in engine.requests]


def test_a_pipe_gets_answers_only(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    good, _ = chat(monkeypatch, make_client("Paris.", "Blue."), "capital?\n\ncolour?\n")
    captured = capsys.readouterr()
    assert (good, captured.out, captured.err) == (True, "Paris.\nBlue.\n", "")


def test_the_history_is_part_of_the_next_prompt(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    client = make_client("one", "two")
    chat(monkeypatch, client, "a\nb\n")
    assert prompts(client) == [
        "<user>a\n<assistant>",
        "<user>a\n<assistant>one\n<user>b\n<assistant>",
    ]


def test_system_and_clear(monkeypatch: pytest.MonkeyPatch, make_client: MakeClient) -> None:
    client = make_client("one", "two")
    typed(monkeypatch, client, "/system Be brief.\na\n/clear\nb\n")
    assert prompts(client)[1] == "<system>Be brief.\n<user>b\n<assistant>"


def test_triple_quotes_join_lines(monkeypatch: pytest.MonkeyPatch, make_client: MakeClient) -> None:
    client = make_client("ok", "ok")
    typed(monkeypatch, client, '"""first\n/clear\n  second\n"""\n"""/one line"""\n')
    assert "<user>first\n/clear\n  second\n<assistant>" in prompts(client)[0]
    assert "<user>/one line\n" in prompts(client)[1]


def test_an_unclosed_quote_ends_with_the_input() -> None:
    lines = iter(["b", None])
    assert quoted("a", lambda _: next(lines, None)) == "a\nb"


@pytest.mark.parametrize("command", ["/exit", "/bye", "/quit"])
def test_exit_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, command: str
) -> None:
    client = make_client("never")
    good, _ = typed(monkeypatch, client, f"{command}\nquestion\n")
    assert good and prompts(client) == []


@pytest.mark.parametrize("word", ["exit", "quit"])
def test_who_types_exit_is_told_how(
    monkeypatch: pytest.MonkeyPatch,
    make_client: MakeClient,
    capsys: pytest.CaptureFixture[str],
    word: str,
) -> None:
    client = make_client()
    typed(monkeypatch, client, word)
    assert prompts(client) == [] and "/exit or Ctrl-D leaves" in capsys.readouterr().err


def test_through_a_pipe_every_line_is_a_question(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    lines = ["/exit", "exit", "/save x.json", '"""not joined']
    client = make_client(*["ok"] * 4)
    _, conversation = chat(monkeypatch, client, "\n".join(lines))
    assert [m["content"] for m in conversation.messages[::2]] == lines


def test_a_path_is_no_command(monkeypatch: pytest.MonkeyPatch, make_client: MakeClient) -> None:
    client = make_client("ok", "ok")
    typed(monkeypatch, client, "/usr/bin is what?\n/Save or not\n")
    assert "<user>/usr/bin is what?" in prompts(client)[0] and len(prompts(client)) == 2


def test_an_unknown_command_says_so(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, make_client(), "/fly home\n")
    err = capsys.readouterr().err
    assert "/fly is no command; /help lists them" in err and '"""/fly home"""' in err


def test_settings_reach_the_request(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client("ok")
    typed(monkeypatch, client, "/set temperature 0\n/set stop END\n/set top_p 7\n/set fun 1\nhi\n")
    params = client.scripted.requests[0].params  # type: ignore[attr-defined]
    assert (params.temperature, params.stop, params.top_p) == (0.0, ("END",), 1.0)
    errors = capsys.readouterr().err
    assert "top_p=7 must be finite and lie in [0.0, 1.0]" in errors
    assert "'fun' is no sampling setting" in errors


def test_a_setting_out_of_range_at_the_start_is_refused() -> None:
    with pytest.raises(InvalidSampling, match="temperature=9"):
        Conversation(None, {}, {"temperature": 9})


def test_save_writes_the_conversation(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    typed(monkeypatch, make_client("Paris."), f"/system Be brief.\ncapital?\n/save {file}\n")
    assert json.loads(file.read_text())["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "capital?"},
        {"role": "assistant", "content": "Paris."},
    ]


def test_save_overwrites_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    file.write_text("mine")
    told = run_command(f"/save {file}", Conversation(None, {}, {}))
    assert told == f"/save: {file} exists and is not overwritten; choose another name"
    assert file.read_text() == "mine"


def test_settings_without_effect_are_refused_and_not_listed() -> None:
    conversation = Conversation(None, {}, {})
    for name in ("n", "structured_outputs", "logprobs", "detokenize"):
        assert name not in SETTABLE
        assert "is no sampling setting" in run_command(f"/set {name} 1", conversation)
    assert {"temperature", "seed", "stop", "max_tokens"} <= set(SETTABLE)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    told = run_command(f"/save {tmp_path}/no/such/file", Conversation(None, {}, {}))
    assert told.startswith("/save: ") and "No such file" in told


def test_a_full_context_forgets_the_oldest(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client(*["x" * 20] * 4, max_model_len=160)
    good, conversation = chat(monkeypatch, client, "first\nsecond\nthird\nfourth\n")
    assert good
    assert "first" not in prompts(client)[-1] and "third" in prompts(client)[-1]
    assert conversation.messages[0]["content"] != "first"
    assert "the context of 160 tokens is full" in capsys.readouterr().err


def test_a_question_that_never_fits_is_told_and_the_chat_goes_on(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client("ok", max_model_len=64)
    good, conversation = chat(monkeypatch, client, "y" * 200 + "\nhi\n")
    captured = capsys.readouterr()
    assert not good
    assert captured.out == "ok\n"
    assert "max_model_len=64" in captured.err
    assert [m["content"] for m in conversation.messages] == ["hi", "ok"]


def test_a_question_that_never_fits_costs_no_memory(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    client = make_client("one", "two", max_model_len=200)
    good, conversation = chat(monkeypatch, client, "first\n" + "y" * 300 + "\nthird\n")
    assert not good
    assert [m["content"] for m in conversation.messages] == ["first", "one", "third", "two"]


def test_an_answer_that_failed_is_told_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    good, conversation = chat(monkeypatch, make_client("bad", fail_at="bad"), "hi\n")
    assert not good and conversation.messages == []
    assert "the answer ended early: broken" in capsys.readouterr().err


def test_figures_on_request(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, make_client("a", "b"), "one\n/stats\ntwo\n")
    err = capsys.readouterr().err
    assert err.count("prompt tokens") == 1 and "figures after each answer: on" in err


def test_a_cut_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    chat(monkeypatch, make_client("abcdefgh"), "hi\n", max_tokens=3)
    captured = capsys.readouterr()
    assert captured.out == "abc\n"
    assert "cut at 3 tokens" in captured.err


def interrupt_after_three(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have Ctrl-C pressed when the third piece of text was shown; the list of pieces."""
    shown: list[str] = []

    def interrupt(self: Screen, text: str) -> None:
        shown.append(text)
        print(text, end="")
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Screen, "show", interrupt)
    return shown


def test_ctrl_c_in_a_terminal_stops_the_answer_only(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client("a long answer", "ok")
    shown = interrupt_after_three(monkeypatch)
    good, conversation = typed(monkeypatch, client, "hi\ngo on\n")
    assert good and client.scripted.aborted  # type: ignore[attr-defined]
    partial = "".join(shown[:3])
    assert [m["content"] for m in conversation.messages] == ["hi", partial, "go on", "ok"]
    assert "[stopped]" in capsys.readouterr().err


def test_ctrl_c_twice_ends_the_chat(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient
) -> None:
    client = make_client("a long answer")
    interrupt_after_three(monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_leave", interrupt)
    with pytest.raises(KeyboardInterrupt):
        typed(monkeypatch, client, "hi\n")


def test_ctrl_c_through_a_pipe_ends_the_line_and_aborts(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client("a long answer")
    shown = interrupt_after_three(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        chat(monkeypatch, client, "hi\n")
    assert capsys.readouterr().out == "".join(shown) + "\n"
    assert client.scripted.aborted  # type: ignore[attr-defined]


def test_a_lone_surrogate_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    good, _ = chat(monkeypatch, make_client(), "bad \udcff byte\n")
    assert not good and "lone surrogate" in capsys.readouterr().err


def test_every_command_is_in_the_help() -> None:
    told = run_command("/help", Conversation(None, {}, {}))
    assert all(name in told for name in COMMANDS)
