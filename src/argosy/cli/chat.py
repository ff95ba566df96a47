"""`argosy chat`: questions from a terminal or a pipe, answers as they come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated

import typer

from argosy.cli.chat_commands import EndOfChat, run_command
from argosy.cli.conversation import Conversation
from argosy.cli.environment import read_environment
from argosy.cli.opening import open_model
from argosy.cli.options import EngineFlags, Model, SamplingFlags, takes
from argosy.cli.terminal import Screen, figures
from argosy.client.intake import Accepted
from argosy.client.local import LocalClient
from argosy.errors import ArgosyError, ContextLengthExceeded, StepFailed

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  (line editing and history for input())

HELP = '''In a terminal, type a question; /help lists the commands, """ begins and ends a question
of several lines, Ctrl-D leaves. Through a pipe, every line is a question, and only answers are
printed.'''

EXAMPLES = """\b
Examples:
  argosy chat
  argosy chat ~/models/my-llama --quantize w8 --max-model-len 32k
  argosy chat --system "Answer in one word." --temperature 0
  echo "What is the capital of France?" | argosy chat"""

QUOTES = '"""'
ROOM_FOR_ANSWER = 256
"""Tokens an answer is left, if need be by forgetting the oldest exchanges."""


@takes(sampling=SamplingFlags, engine=EngineFlags)
def run(
    model: Model = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message: how to answer.")
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Figures after each answer.")] = False,
    *,
    sampling: SamplingFlags,
    engine: EngineFlags,
) -> None:
    """Open the model and answer until the questions end."""
    screen = Screen.of_process(read_environment().colour)
    client = open_model(engine.config(model))
    seed = {} if engine.seed is None else {"seed": engine.seed}
    conversation = Conversation(system, client.sampling_defaults, sampling.given() | seed)
    conversation.show_stats = stats
    if screen.interactive:
        screen.note("/help lists the commands, Ctrl-D leaves")
    if not Chat(client, conversation, screen).run():
        raise typer.Exit(1)


class Chat:
    """One conversation between whoever types and the model."""

    def __init__(self, client: LocalClient, conversation: Conversation, screen: Screen) -> None:
        self._client = client
        self._conversation = conversation
        self._screen = screen

    def run(self) -> bool:
        """Answer until end of input or /exit; whether every question was answered."""
        good = True
        for question in read_questions(self._prompted_line):
            if question.startswith("/"):
                try:
                    self._screen.note(run_command(question, self._conversation))
                except EndOfChat:
                    break
            else:
                good = self._try_answer(question) and good
        return good

    def _prompted_line(self, prompt: str) -> str | None:
        """A line without its end, None at the end of input."""
        if not self._screen.interactive:
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            print()
            return None

    def _try_answer(self, question: str) -> bool:
        try:
            self._answer(question)
        except ArgosyError as exc:
            self._screen.note(f"argosy: {exc}")
            return False
        return True

    def _answer(self, question: str) -> None:
        """Stream one answer, and remember the exchange once it is whole."""
        accepted = self._accept(question)
        answer, num_tokens = "", 0
        try:
            with closing(self._client.stream([accepted])) as outputs:
                for output in outputs:
                    part = output.outputs[0]
                    answer += part.text
                    num_tokens += len(part.token_ids)
                    self._screen.show(part.text)
        finally:
            self._screen.end_line()
        if part.finish_reason == "error":
            raise StepFailed(f"the answer ended early: {part.stop_reason}")
        self._conversation.keep(question, answer)
        if part.finish_reason == "length":
            self._screen.note(f"[cut at {num_tokens} tokens: max_tokens or the context is reached]")
        if self._conversation.show_stats:
            self._screen.note(figures(output, num_tokens))

    def _accept(self, question: str) -> Accepted:
        """The request for `question`, with the oldest exchanges forgotten if they leave no room."""
        intake, forgotten = self._client.intake, 0
        while (accepted := self._fitting(question)) is None:
            self._conversation.forget_oldest()
            forgotten += 1
        if forgotten:
            self._screen.note(
                f"[the context of {intake.max_model_len} tokens is full: "
                f"the oldest {forgotten} exchanges were forgotten]"
            )
        return accepted

    def _fitting(self, question: str) -> Accepted | None:
        """The request, or None where something must and can be forgotten first."""
        intake = self._client.intake
        text = intake.render(self._conversation.asking(question))
        try:
            accepted = intake.accept(text, self._conversation.params(), add_special_tokens=False)
        except ContextLengthExceeded:
            if self._conversation.messages:
                return None
            raise
        room = intake.max_model_len - accepted.request.num_prompt_tokens
        wanted = min(ROOM_FOR_ANSWER, intake.max_model_len // 4)
        return None if room < wanted and self._conversation.messages else accepted


def read_questions(read: Callable[[str], str | None]) -> Iterator[str]:
    """Questions from lines: blank ones skipped, those between two triple quotes joined."""
    while (line := read(">>> ")) is not None:
        text = line.strip()
        if text.startswith(QUOTES):
            text = _quoted(text.removeprefix(QUOTES), read)
        if text.strip():
            yield text


def _quoted(first: str, read: Callable[[str], str | None]) -> str:
    """The lines up to one that ends in triple quotes, or to the end of input."""
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        line = read("... ")
        if line is None:
            return "\n".join(lines).strip("\n")
        lines.append(line)
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")
