"""The engine as a process: it serves whoever connects, and ends as it should."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from argosy.bundle.open import open_bundle
from argosy.config import EngineConfig
from argosy.engine.board import Cell
from argosy.engine.engine import open_engine
from argosy.engine.quarantine import CONDEMNED
from argosy.engine.trace import traced_steps
from argosy.engine.wire import Submit
from argosy.model.formats import CACHE_DTYPES
from argosy.types import FinishReason, Request
from engine_process.raw import EMBEDDED, Host, ask, wait_for
from engine_process.rigged_engines import POISON


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.close()


def undisturbed(*requests: Request) -> dict[tuple[int, int], list[int]]:
    """The tokens of each answer, from an engine of this process."""
    engine = open_engine(open_bundle(EMBEDDED), EngineConfig(max_num_batched_tokens=512))
    tokens: dict[tuple[int, int], list[int]] = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for event in engine.step(0.0):
            tokens.setdefault((int(event.request_id), event.index), []).extend(event.token_ids)
    engine.close()
    return tokens


SEVERAL = (
    ask(1, (5, 6, 7), temperature=0.0, ignore_eos=True),
    ask(2, tuple(range(300, 400)), temperature=0.8, n=3, ignore_eos=True),
    ask(3, (9,), tokens=6, logprobs=2, prompt_logprobs=1, ignore_eos=True),
)
NAMES = ((1, 0), (2, 0), (2, 1), (2, 2), (3, 0))


def test_it_says_that_it_serves_what_it_is_and_answers(host: Host) -> None:
    with host.engine() as engine:
        assert engine.line() == "ready\n"
        with engine.front() as front:
            facts = front.hello.facts
            assert facts.max_model_len == 2048
            assert facts.max_num_seqs == 8
            assert facts.runtime == "native"
            assert facts.cache_dtype in CACHE_DTYPES
            assert "weights" in facts.memory
            front.submit(*SEVERAL)
            front.read_until_end(*NAMES)
            assert front.tokens == undisturbed(*SEVERAL)
            assert len(front.tokens) == len(NAMES)
            end = front.ends[3, 0]
            assert end.finish_reason is FinishReason.LENGTH
            assert len(end.logprobs) == 1
            assert end.story is not None
            assert end.story.num_steps >= 6
            assert front.question("check") == ""
        board = host.board
        wait_for(lambda: not board[Cell.STEP_COUNT])
        assert board[Cell.STEPS] == len(traced_steps(board)) > 0
        assert board[Cell.GENERATION_TOKENS] == 4 * 20 + 6
        assert board[Cell.HEARTBEAT] > board[Cell.STEPS]


def test_what_a_front_that_went_had_asked_for_ends(host: Host) -> None:
    with host.engine() as engine, engine.front() as other:
        with engine.front() as front:
            front.submit(ask(7, (1, 2, 3), tokens=1900, ignore_eos=True))
            front.read_tokens(7, 3)
            assert host.board[Cell.PAGES_HELD]
        wait_for(lambda: not host.board[Cell.RUNNING])
        assert host.board[Cell.PAGES_HELD] == 0
        beats = host.board[Cell.HEARTBEAT]
        wait_for(lambda: host.board[Cell.HEARTBEAT] > beats + 2)  # idle, and alive
        assert other.question("check") == ""


def test_a_front_that_comes_again_can_replay_at_once(host: Host) -> None:
    request = ask(7, (1, 2, 3), tokens=60, temperature=0.9, ignore_eos=True)
    with host.engine() as engine:
        with engine.front() as front:
            front.submit(request)
            front.read_tokens(7, 3)
            given = front.tokens[7, 0]
        with engine.front() as front:
            front.submit(replace(request, token_ids=request.token_ids + tuple(given)))
            front.read_until_end((7, 0))
            assert front.ends[7, 0].finish_reason is FinishReason.LENGTH
            assert given + front.tokens[7, 0] == undisturbed(request)[7, 0]


def test_a_drop_ends_answers_and_only_the_fronts_own(host: Host) -> None:
    with host.engine() as engine, engine.front() as front, engine.front() as other:
        front.submit(ask(7, (1, 2, 3), tokens=1900, n=2, ignore_eos=True))
        front.read_tokens(7, 1)
        other.drop((7, None))
        assert other.question("check") == ""
        front.drop((7, 1))
        front.read_until_end((7, 1))
        assert front.ends[7, 1].finish_reason is FinishReason.ABORT
        assert (7, 0) not in front.ends
        front.drop((7, None))
        front.read_until_end((7, 0))
        assert front.ends[7, 0].finish_reason is FinishReason.ABORT


def test_a_name_in_use_is_refused_and_the_first_goes_on(host: Host) -> None:
    with host.engine() as engine, engine.front() as front, engine.front() as other:
        front.submit(ask(7, (1, 2, 3), tokens=300, ignore_eos=True))
        front.read_tokens(7, 1)
        other.submit(ask(7, (1, 2, 3)))
        other.read_until_end((7, 0))
        assert "in use" in str(other.ends[7, 0].error)
        other.submit(replace(ask(7, (1, 2, 3)), index=5))
        other.read_until_end((7, 5))
        assert "in use by another front" in str(other.ends[7, 5].error)
        front.read_until_end((7, 0))
        assert front.ends[7, 0].finish_reason is FinishReason.LENGTH


def test_messages_of_another_epoch_are_dropped(host: Host) -> None:
    with host.engine() as engine, engine.front() as front:
        front.send(Submit(front.epoch + 1, [ask(1, (1, 2))]))
        front.submit(ask(2, (1, 2), tokens=2, ignore_eos=True))
        front.read_until_end((2, 0))
        assert list(front.tokens) == [(2, 0)]


def test_questions_are_answered_in_words(host: Host) -> None:
    with host.engine() as engine, engine.front() as front:
        assert front.question("reset_prefix_cache") == ""
        assert "'what?' is no question" in front.question("what?")


GARBAGE = {
    "no message": struct.pack("<I", 5) + b"\xff" * 5,
    "a length beyond all": b"\xff" * 8,
    "a request without a number": None,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_closes_its_connection_and_no_other(host: Host, data: bytes | None) -> None:
    with host.engine() as engine:
        with engine.front() as other:
            other.submit(ask(1, (1, 2), tokens=200, ignore_eos=True))
            with engine.front() as front:
                if data is None:
                    front.submit(replace(ask(1, (1, 2)), request_id="01"))
                else:
                    front.sock.sendall(data)
                with pytest.raises(EOFError):
                    front.read()
            other.read_until_end((1, 0))
        engine.kill()
        assert "a front's connection was closed" in engine.end()[1]


def test_killed_in_mid_stream_another_goes_on_with_the_same_tokens(host: Host) -> None:
    request = ask(2, tuple(range(300, 330)), tokens=120, temperature=0.8, ignore_eos=True)
    given: list[int] = []
    for count in (5, 30, 120):
        with host.engine() as engine, engine.front() as front:
            assert front.epoch == host.board[Cell.EPOCH]
            front.submit(replace(request, token_ids=request.token_ids + tuple(given)))
            front.read_tokens(2, count - len(given))
            engine.kill()
            while True:  # what was on its way counts
                try:
                    front.read()
                except EOFError:
                    break
            given += front.tokens[2, 0]
    assert given == undisturbed(request)[2, 0]


def test_a_request_that_kills_is_ended_after_two_deaths_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, opener="rigged_engines:open_deadly")
    poisoned = ask(1, (5, POISON, 7))
    innocent = [ask(n, (n, 8, 9), tokens=12, temperature=0.0, ignore_eos=True) for n in (2, 3)]
    num_deaths, ended = 0, False
    while not ended:
        assert num_deaths < 10
        with host.engine() as engine, engine.front() as front:
            front.submit(poisoned, *innocent)
            try:
                front.read_until_end((1, 0), (2, 0), (3, 0))
                ended = True
            except EOFError:
                num_deaths += 1
    assert num_deaths == 4
    assert front.ends[1, 0].error == CONDEMNED
    assert {k: v for k, v in front.tokens.items() if v} == undisturbed(*innocent)
    assert host.board.suspects() == []
    host.close()


def test_it_ends_with_its_supervisor_even_in_a_step_that_hangs(tmp_path: Path) -> None:
    host = Host(tmp_path, opener="rigged_engines:open_hanging")
    with host.engine() as engine, engine.front() as front:
        engine.line()
        front.submit(ask(1, (POISON,)))
        wait_for(lambda: host.board.step_numbers() == [1])
        engine.lifeline.shutdown(2)
        assert engine.process.wait(60) == 0
    host.close()


def test_signals(host: Host) -> None:
    with host.engine() as engine, engine.front() as front:
        engine.line()
        engine.process.send_signal(signal.SIGINT)
        assert front.question("check") == ""
        engine.process.terminate()
        assert engine.process.wait(60) == -signal.SIGTERM


def test_one_that_cannot_start_says_why(tmp_path: Path) -> None:
    host = Host(tmp_path, bundle=str(tmp_path / "none"))
    with host.engine() as engine:
        line = engine.line()
        assert line.startswith("error BundleError ")
        assert str(tmp_path / "none") in line
        assert engine.end() == (1, "")
    host.close()


def test_a_bug_at_its_start_is_told_in_one_line_and_shown_whole(tmp_path: Path) -> None:
    host = Host(tmp_path, opener="rigged_engines:open_broken")
    with host.engine() as engine:
        assert engine.line() == "error RuntimeError two lines\n"
        status, errors = engine.end()
        assert status == 1
        assert "Traceback" in errors
        assert "open_broken" in errors
    host.close()
