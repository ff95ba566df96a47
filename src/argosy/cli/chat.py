"""`argosy chat`: questions from a terminal or a pipe, answers as they come."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated

import typer

from argosy.cli.chat_commands import EndOfChat, run_command
from argosy.cli.conversation import Conversation
from argosy.cli.environment import read_environment
from argosy.cli.opening import check_template, open_model
from argosy.cli.options import EngineFlags, Model, SamplingFlags, sampling_settings, takes
from argosy.cli.terminal import Screen, figures
from argosy.client.intake import Accepted
from argosy.client.local import LocalClient
from argosy.errors import ArgosyError, ContextLengthExceeded, StepFailed

with contextlib.suppress(ImportError):
    import readline  # noqa: F401  (line editing and history for input())

HELP = '''In a terminal, type a question; /help lists the commands, """ begins and ends a question
of several lines, Ctrl-C stops an answer, Ctrl-D leaves. Through a pipe, every line is a question,
and only answers are printed.'''

EXAMPLES = """\b
Examples:
  argosy chat
  argosy chat ~/models/my-llama --quantize w8 --max-model-len 32k
  argosy chat --system "Answer in one word." --temperature 0
  echo "What is the capital of France?" | argosy chat"""

QUOTES = '"""'
COMMAND = re.compile(r"/[a-z]+(\s|$)")
LEAVING = ("exit", "quit", "bye")
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
    settings = sampling_settings(sampling, engine)
    client = open_model(engine, model)
    conversation = Conversation(system, client.sampling_defaults, settings)
    conversation.show_stats = stats
    check_template(client)
    client.intake.render(conversation.asking("Hello"))  # whether the template works at all
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
        for question in self._typed() if self._screen.interactive else self._piped():
            good = self._try_answer(question) and good
        return good

    def _piped(self) -> Iterator[str]:
        """Every line that is not blank."""
        while (line := self._prompted_line("")) is not None:
            if line.strip():
                yield line.strip()

    def _typed(self) -> Iterator[str]:
        """Questions; commands between them are run."""
        while (line := self._prompted_line(">>> ")) is not None:
            text = line.strip()
            if text.startswith(QUOTES):
                text = quoted(text.removeprefix(QUOTES), self._prompted_line)
            elif text in LEAVING:
                self._screen.note("/exit or Ctrl-D leaves")
                continue
            elif COMMAND.match(text):
                try:
                    self._screen.note(run_command(text, self._conversation))
                except EndOfChat:
                    return
                continue
            if text.strip():
                yield text

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
        except KeyboardInterrupt:
            print()
            raise

    def _try_answer(self, question: str) -> bool:
        try:
            self._answer(question)
        except ArgosyError as exc:
            self._screen.note(f"argosy: {exc}")
            return False
        return True

    def _answer(self, question: str) -> None:
        """Stream one answer, and remember the exchange once it is whole, or stopped by Ctrl-C."""
        accepted = self._accept(question)
        answer, num_tokens, stopped = "", 0, False
        try:
            with closing(self._client.stream([accepted])) as outputs:
                for output in outputs:
                    part = output.outputs[0]
                    answer += part.text
                    num_tokens += len(part.token_ids)
                    self._screen.show(part.text)
        except KeyboardInterrupt as exc:
            if not self._screen.interactive or _is_second(exc):
                raise
            stopped = True
        finally:
            self._screen.end_line()
        if stopped:
            if answer:
                self._conversation.keep(question, answer)
            self._screen.note("[stopped]")
            return
        if part.finish_reason == "error":
            raise StepFailed(f"the answer ended early: {part.stop_reason}")
        self._conversation.keep(question, answer)
        if part.finish_reason == "length":
            self._screen.note(f"[cut at {num_tokens} tokens: max_tokens or the context is reached]")
        if self._conversation.show_stats:
            self._screen.note(figures(output, num_tokens))

    def _accept(self, question: str) -> Accepted:
        """The request for `question`, with the oldest exchanges forgotten if they leave no room."""
        intake, skip = self._client.intake, 0
        while (accepted := self._fitting(question, skip)) is None:
            skip += 1
        if skip:  # only now: a question that never fits must not cost the conversation
            self._conversation.forget(skip)
            self._screen.note(
                f"[the context of {intake.max_model_len} tokens is full: "
                f"the oldest {skip} exchanges were forgotten]"
            )
        return accepted

    def _fitting(self, question: str, skip: int) -> Accepted | None:
        """The request without the oldest `skip` exchanges; None where more must and can go."""
        intake, more = self._client.intake, skip < self._conversation.num_exchanges
        text = intake.render(self._conversation.asking(question, skip))
        try:
            accepted = intake.accept(text, self._conversation.params(), add_special_tokens=False)
        except ContextLengthExceeded:
            if more:
                return None
            raise
        room = intake.max_model_len - accepted.request.num_prompt_tokens
        wanted = min(ROOM_FOR_ANSWER, intake.max_model_len // 4)
        return None if room < wanted and more else accepted


def _is_second(exc: BaseException) -> bool:
    """Whether a Ctrl-C came while another was being handled."""
    before = exc.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before is not None


def quoted(first: str, read: Callable[[str], str | None]) -> str:
    """The lines up to one that ends in triple quotes, or to the end of input."""
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        line = read("... ")
        if line is None:
            return "\n".join(lines).strip("\n")
        lines.append(line)
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")
