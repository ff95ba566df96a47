"""A device that shows every page it reads, and the truth it is compared with.

The device keeps in each slot a hash of the token, its position, and what its row read at the two
ends of its view. A draw hashes everything its row can see, read back through the page table. So a
page that is stale, shared and overwritten, or given back too early, changes the tokens drawn, and
`Alone`, which has no pages, says what they should have been.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import pairwise

from argosy.types import NULL_PAGE, Request, TokenLogprobs

VOCAB = 40
STOP = 7
Windows = tuple[int | None, ...]


def first_seen(pos: int, window: int | None) -> int:
    """The first position that the row at `pos` sees."""
    return 0 if window is None else max(0, pos - window + 1)


def cell(token: int, pos: int, before: int, oldest: int) -> int:
    """What a row writes, having read the token before it and the oldest in its view."""
    return hash((token, pos, before, oldest))


def drawn(seed: int, pos: int, seen: int) -> int:
    """The token drawn for position `pos` by a row that has `seen` this."""
    return hash((seed, pos, seen)) % VOCAB


def scored(target: int, seen: int) -> TokenLogprobs:
    """What a row says of the token after it."""
    return TokenLogprobs(target, -float(seen % 997), 1)


def splitmix(seed: int, index: int) -> int:
    """Seeds of children, written down a second time."""
    if index == 0:
        return seed % 2**64
    x = (seed + index * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


class Alone:
    """A sequence computed with nobody beside it and no pages at all."""

    def __init__(self, windows: Windows, tokens: Seq[int]) -> None:
        self._windows = windows
        self._cells: list[list[int]] = [[] for _ in windows]
        self._seen = 0
        for token in tokens:
            self.feed(token)

    def feed(self, token: int) -> None:
        """Compute one more token."""
        seen = []
        for window, cells in zip(self._windows, self._cells, strict=True):
            pos = len(cells)
            first = first_seen(pos, window)
            before = cells[pos - 1] if first < pos else 0
            cells.append(cell(token, pos, before, cells[first] if first < pos else 0))
            seen.append(tuple(cells[first:]))
        self._seen = hash((token, *seen))

    @property
    def seen(self) -> int:
        """What the last row saw."""
        return self._seen


def expected_answer(request: Request, index: int, limit: int, windows: Windows) -> list[int]:
    """The tokens drawn after `request.token_ids` until the answer ends."""
    alone, seed = Alone(windows, request.token_ids), splitmix(request.seed, index)
    tokens = list(request.token_ids)
    while len(tokens) < limit:
        token = drawn(seed, len(tokens), alone.seen)
        tokens.append(token)
        if token in request.stop_token_ids:
            break
        alone.feed(token)
    return tokens[len(request.token_ids) :]


def expected_scores(request: Request, windows: Windows) -> tuple[TokenLogprobs, ...]:
    """The prompt logprobs of `request`."""
    alone, scores = Alone(windows, ()), []
    prompt = request.token_ids[: request.num_prompt_tokens]
    for token, target in pairwise(prompt):
        alone.feed(token)
        scores.append(scored(target, alone.seen))
    return tuple(scores)


class Device:
    """The pages of all groups, and rows that are computed on them."""

    def __init__(self, windows: Windows, num_pages: Seq[int], page_tokens: int) -> None:
        self.windows = windows
        self.page_tokens = page_tokens
        self.pages = [[[0] * page_tokens for _ in range(n)] for n in num_pages]

    def copy(self, copies: Seq[Seq[tuple[int, int]]]) -> None:
        """Copies of one step, before anything is computed; no order is promised."""
        for pages, pairs in zip(self.pages, copies, strict=True):
            sources = {source for source, _ in pairs}
            assert not sources & {target for _, target in pairs}, "a chain of copies"
            for source, target in pairs:
                pages[target][:] = pages[source]

    def compute(
        self, tokens: Seq[int], start: int, tables: Seq[Seq[int]], wanted: Seq[int]
    ) -> list[int]:
        """Compute and store tokens at positions start..; what the wanted rows (ascending) saw."""
        seen, size, wants = [], self.page_tokens, set(wanted)
        for pos, token in enumerate(tokens, start):
            views = []
            for window, pages, table in zip(self.windows, self.pages, tables, strict=True):
                first = first_seen(pos, window)
                assert NULL_PAGE not in table[first // size : pos // size + 1], "a page is missing"
                before = oldest = 0
                if first < pos:
                    before = pages[table[(pos - 1) // size]][(pos - 1) % size]
                    oldest = pages[table[first // size]][first % size]
                pages[table[pos // size]][pos % size] = cell(token, pos, before, oldest)
                if pos - start in wants:
                    cells: list[int] = []
                    for page in table[first // size : pos // size + 1]:
                        cells += pages[page]
                    skip = first // size * size
                    views.append(tuple(cells[first - skip : pos + 1 - skip]))
            if pos - start in wants:
                seen.append(hash((token, *views)))
        return seen

    def spoil(self, start: int, end: int, tables: Seq[Seq[int]], garbage: int) -> None:
        """What a broken row leaves behind."""
        for pages, table in zip(self.pages, tables, strict=True):
            for pos in range(start, end):
                pages[table[pos // self.page_tokens]][pos % self.page_tokens] = garbage
