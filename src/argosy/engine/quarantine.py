"""Which request kills the engine: who runs after a crash, with whom, and who does not run again.

Requests of the step in which the engine died are *suspects*. A suspect is cleared when each of its
sequences that run has delivered a token since, or has ended.

    first death            suspects are let in again, with everybody else
    death with suspects    *isolation*: suspects run one at a time, each alone in the engine, those
    uncleared              never caught alone first, while all others wait, until none is left
    two deaths alone       condemned: the request ends with an error

Hence a request is condemned only if nothing else was in either step, and one that always kills the
engine is ended after a few deaths. A death between steps accuses nobody. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

MAX_DEATHS_ALONE = 2

CONDEMNED = (
    f"this request was alone in {MAX_DEATHS_ALONE} steps in which the engine died; "
    "it is not run again: change it, and report it with the server's log"
)


class Quarantine:
    """The suspects and their turn; requests are whole numbers, see `engine/wire.py`.

    suspects: (number, deaths alone) of each.  is_isolating: whether they run one at a time.
    """

    def __init__(
        self, suspects: Iterable[tuple[int, int]] = (), *, is_isolating: bool = False
    ) -> None:
        self._deaths = dict(suspects)
        self._isolating = is_isolating
        self._alone: int | None = None
        self._owing: dict[int, set[int]] = {}  # suspects that run: sequences without a token yet

    @classmethod
    def after_death(
        cls, step: Iterable[int], suspects: Iterable[tuple[int, int]], *, is_isolating: bool
    ) -> Quarantine:
        """The state in which the next engine begins: what the last one left, and its step's death.

        step: requests of the step it died in, empty if it died between steps.
        """
        accused, deaths = set(step), dict(suspects)
        if not accused:
            return cls(deaths.items(), is_isolating=is_isolating)
        is_isolating = is_isolating or bool(deaths)
        for number in accused:
            deaths[number] = deaths.get(number, 0) + (len(accused) == 1)
        return cls(deaths.items(), is_isolating=is_isolating)

    @property
    def is_open(self) -> bool:
        """Whether there is nothing to look after: everybody runs."""
        return not self._deaths

    @property
    def is_isolating(self) -> bool:
        """Whether suspects run one at a time, and others wait."""
        return self._isolating and bool(self._deaths)

    def suspects(self) -> list[tuple[int, int]]:
        """(number, deaths alone) of each, as the board keeps them."""
        return list(self._deaths.items())

    # -- who runs ---------------------------------------------------------------------------------

    def is_condemned(self, number: int) -> bool:
        """Whether `number` is to be ended, not run."""
        return self._deaths.get(number, 0) >= MAX_DEATHS_ALONE

    def may_run(self, number: int) -> bool:
        """Whether `number` may be let into the engine now; see `choose`."""
        return not self.is_isolating or number == self._alone

    def choose(self, waiting: Set[int], *, is_complete: bool) -> int | None:
        """Settle whose turn it is, before waiting requests are let in.

        waiting: numbers not in the engine; condemned ones should be gone from it.
        is_complete: nobody else is coming back, so that suspects who did not are given up.
        Returns who has to leave the engine and wait, so that the next is alone there.
        """
        if is_complete:
            self._forget(self._deaths.keys() - waiting - self._owing.keys())
        last = self._alone
        if last in self._owing:
            return None
        present = [(deaths, number) for number, deaths in self._deaths.items() if number in waiting]
        self._alone = min(present)[1] if present and self._isolating else None
        if not self._deaths:
            self._isolating = False
        return last if self._isolating and last != self._alone else None

    # -- what became of them ----------------------------------------------------------------------

    def entered(self, number: int, index: int) -> None:
        """A sequence of request `number` is in the engine."""
        if number in self._deaths:
            self._owing.setdefault(number, set()).add(index)

    def delivered(self, number: int, index: int) -> None:
        """It gave a token, or ended."""
        owing = self._owing.get(number)
        if owing is not None:
            owing.discard(index)
            if not owing:
                self._forget((number,))

    def left(self, number: int) -> None:
        """The request is gone, all of it: ended, dropped, or its front is."""
        self._forget((number,))

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._deaths.pop(number, None)
            self._owing.pop(number, None)
