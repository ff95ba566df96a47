"""Stop strings, found across token borders, and the text that must wait because it could begin one.

The match that is complete first, reading character by character, ends the answer; of two complete
at the same character, the longer. So where tokens or chunks end changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from argosy.text.tokenizer import Tokenizer


class StopMatcher:
    """The stop strings of one sequence and the text held back.

    include: keep the string that matched in the text.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, text: str, armed: bool = True) -> tuple[str, str | None]:
        """Text that may be shown now, and the stop string if one is complete.

        armed: whether a match ending in `text` counts (not before min_tokens).
        After a match nothing is held and nothing more should be pushed.
        """
        if not self._stops:
            return text, None
        buffer = self._held + text
        match = self._match(buffer) if armed else None
        if match is not None:
            end, start, stop = match
            self._held = ""
            return buffer[: end if self._include else start], stop
        shown = len(buffer) - self._begun(buffer)
        self._held = buffer[shown:]
        return buffer[:shown], None

    def finish(self) -> str:
        """The text held back, of an answer that ended otherwise."""
        held, self._held = self._held, ""
        return held

    def _match(self, buffer: str) -> tuple[int, int, str] | None:
        """(end, start, string) of the first match that ends beyond what was held."""
        found = []
        for stop in self._stops:
            start = buffer.find(stop, max(0, len(self._held) - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        return min(found, default=None)

    def _begun(self, buffer: str) -> int:
        """Length of the longest end of `buffer` that begins a stop string."""
        longest = min(len(buffer), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            end = buffer[-length:]
            if any(len(stop) > length and stop.startswith(end) for stop in self._stops):
                return length
        return 0


def special_stops(tokenizer: Tokenizer, stops: Iterable[str]) -> dict[int, str]:
    """Ids of the stop strings that are the text of a special token, which no text would show."""
    found = {tokenizer.special_id(stop): stop for stop in stops}
    return {id_: stop for id_, stop in found.items() if id_ is not None}
