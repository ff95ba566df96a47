"""What the screen shows: plain text where the output is no terminal, a little more where it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from argosy.client.outputs import RequestOutput
from argosy.model.describe import bytes_text

_CONTROL = {c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\t\n"}


@dataclass(frozen=True, slots=True)
class Screen:
    """Where text goes. Answers to stdout, all else to stderr.

    interactive: somebody types and reads.  colour: dim notes on stderr.
    """

    interactive: bool
    colour: bool

    @classmethod
    def of_process(cls, colour: bool) -> Screen:
        """The screen of this process; `colour`: whether it is welcome."""
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        return cls(interactive, colour and sys.stderr.isatty())

    def show(self, text: str) -> None:
        """Part of an answer, at once; on a terminal without control characters."""
        print(text.translate(_CONTROL) if sys.stdout.isatty() else text, end="", flush=True)

    def end_line(self) -> None:
        """The end of an answer."""
        print(flush=True)

    def note(self, text: str) -> None:
        """Something beside the answers."""
        print(f"\x1b[2m{text}\x1b[0m" if self.colour else text, file=sys.stderr, flush=True)


def figures(output: RequestOutput, num_tokens: int) -> str:
    """Tokens, times and rate of a finished answer."""
    cached = f", {output.num_cached_tokens} of them cached" if output.num_cached_tokens else ""
    text = f"[{len(output.prompt_token_ids)} prompt tokens{cached}; {num_tokens} tokens"
    times = output.metrics
    if times and times.first_token_time is not None and times.finished_time is not None:
        first = times.first_token_time - times.arrival_time
        rest = times.finished_time - times.first_token_time
        text += f"; the first after {first:.2f} s"
        if rest > 0 and num_tokens > 1:
            text += f", then {(num_tokens - 1) / rest:.1f} tokens/s"
    return text + "]"


class ProgressLine:
    """Tells how far a long job is: one moving line on a terminal, a line per quarter elsewhere.

    Quick jobs say nothing where nobody watches: the first line comes after a quarter.
    """

    def __init__(self, label: str, amount: Callable[[int], str] = bytes_text) -> None:
        self._label = label
        self._amount = amount
        self._moving = sys.stderr.isatty()
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done, bytes if not said otherwise; total is at least 1."""
        percent = 100 * done // max(total, 1)
        step = 1 if self._moving else 25
        if percent // step <= self._told // step:
            return
        self._told = percent
        text = f"{self._label} {percent:3} % of {self._amount(total)}"
        end = "\n" if not self._moving or percent == 100 else ""
        print(f"\r{text}" if self._moving else text, end=end, file=sys.stderr, flush=True)
