"""The sequences alive: who waits, who runs, by what name, until when. Bookkeeping, no policy."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort

from argosy.engine.sequence import Sequence, State


def _by_key(seq: Sequence) -> tuple[int, int, int]:
    return seq.key


class Roster:
    """Moves sequences between waiting and running; both lists are kept best first."""

    def __init__(self) -> None:
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self._live: dict[str, dict[int, Sequence]] = {}
        self._deadlines: list[tuple[float, int, str]] = []

    def __bool__(self) -> bool:
        return bool(self._live)

    def find(self, request_id: str, index: int | None = None) -> tuple[Sequence, ...]:
        """The sequence of this name, or all of the request; none if they have ended."""
        live = self._live.get(request_id, {})
        if index is None:
            return tuple(live.values())
        return (live[index],) if index in live else ()

    def enter(self, seq: Sequence) -> None:
        """Add a new sequence to those that wait."""
        request = seq.request
        siblings = self._live.setdefault(request.request_id, {})
        assert seq.index not in siblings, f"{request.request_id!r} {seq.index} is alive already"
        siblings[seq.index] = seq
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, seq.key[1], request.request_id))
        self.wait(seq)

    def wait(self, seq: Sequence) -> None:
        """Put `seq`, which is in neither list, to its place among those that wait."""
        seq.state = State.WAITING
        insort(self.waiting, seq, key=_by_key)

    def run(self, seq: Sequence) -> None:
        """Put `seq`, which is in neither list, to its place among those that run."""
        seq.state = State.RUNNING
        insort(self.running, seq, key=_by_key)
        seq.family.running.append(seq)

    def withdraw(self, seq: Sequence) -> None:
        """Take `seq` out of the list it is in."""
        if seq.state is State.RUNNING:
            seq.family.running.remove(seq)
        queue = self.running if seq.state is State.RUNNING else self.waiting
        index = bisect_left(queue, seq.key, key=_by_key)
        assert queue[index] is seq, "a sequence is in the list its state names"
        del queue[index]

    def end(self, seq: Sequence) -> None:
        """Forget `seq`."""
        self.withdraw(seq)
        seq.state = State.ENDED
        siblings = self._live[seq.request.request_id]
        del siblings[seq.index]
        if not siblings:
            del self._live[seq.request.request_id]

    def pop_overdue(self, now: float) -> tuple[Sequence, ...]:
        """Those alive whose deadline is not after `now`; each is named once."""
        overdue: dict[tuple[int, int, int], Sequence] = {}
        while self._deadlines and self._deadlines[0][0] <= now:
            _, arrival, request_id = heapq.heappop(self._deadlines)
            found = (seq for seq in self.find(request_id) if seq.key[1] == arrival)
            overdue.update((seq.key, seq) for seq in found)
        return tuple(overdue.values())
