"""The page tables of sequences, over all cache groups: the only place that moves pages to them.

Who holds a page, and until when:

    a running sequence   the pages of its tables; a waiting or ended one holds none
    a submitted step     pages it names whose sequence let go of them, and sources of its copies:
                         kept in `_kept` until the step is committed

A page that is shared, or known to the prefix cache, is copied before it is written.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from argosy.engine.pages import PagePool
from argosy.engine.prefix import extend_keys, longest_hit, root_key
from argosy.engine.sequence import Sequence
from argosy.types import NULL_PAGE, PAGE_TOKENS

Copies = tuple[dict[int, int], ...]
"""Copies of the step being planned, per group: target -> source."""


@dataclass(frozen=True, slots=True)
class Start:
    """Tokens a sequence need not compute, and the pages that hold them, one table per group."""

    num_tokens: int
    tables: tuple[array[int], ...]


class PageTables:
    """Gives pages to sequences and takes them back; `pools` has one pool per cache group."""

    def __init__(self, pools: Seq[PagePool], *, prefix_caching: bool) -> None:
        self.pools = tuple(pools)
        self.page_tokens = pools[0].page_tokens if pools else PAGE_TOKENS
        assert all(pool.page_tokens == self.page_tokens for pool in pools)
        self._prefix_caching = prefix_caching and bool(pools)
        self._kept: deque[list[tuple[PagePool, int]]] = deque()

    def find_start(self, seq: Sequence) -> Start:
        """The longest start that a running sibling or the prefix cache can lend `seq`."""
        lent, found = self._from_sibling(seq), self._from_prefix(seq)
        return lent if lent is not None and lent.num_tokens >= found.num_tokens else found

    def can_fork(self, seq: Sequence) -> bool:
        """Whether a running sibling has computed the prompt and still has its pages."""
        return self._from_sibling(seq) is not None

    def has_room(self, seq: Sequence, start: Start, *, spare: int) -> bool:
        """Whether all known tokens of `seq` fit after `start`, leaving `spare` pages a group."""
        copied = int(start.num_tokens % self.page_tokens != 0)
        for pool, table in zip(self.pools, start.tables, strict=True):
            lent = [page for page in table if page != NULL_PAGE]
            idle = sum(map(pool.is_idle, lent))
            needed = pool.most_pages(len(seq.tokens)) - len(lent) + copied
            if pool.num_available - idle < needed + spare:
                return False
        return True

    def begin(self, seq: Sequence, start: Start) -> None:
        """Give `seq`, which holds nothing, the pages of `start`."""
        for pool, table in zip(self.pools, start.tables, strict=True):
            for page in table:
                if page != NULL_PAGE:
                    pool.share(page)
        seq.tables = start.tables
        seq.num_computed = seq.num_scheduled = seq.num_lent = start.num_tokens
        seq.num_published = 0

    def num_fitting(self, seq: Sequence, count: int) -> int:
        """How many of the next `count` tokens of `seq` there are pages for, now."""
        for pool, table in zip(self.pools, seq.tables, strict=True):
            room = pool.num_available - self._must_copy(pool, table, seq.num_scheduled)
            if room < 0:
                return 0
            count = min(count, (len(table) + room) * pool.page_tokens - seq.num_scheduled)
        return count

    def extend(self, seq: Sequence, count: int, copies: Copies) -> None:
        """Make room for the next `count` tokens of `seq` and count them as scheduled."""
        start = seq.num_scheduled
        for pool, table, copied in zip(self.pools, seq.tables, copies, strict=True):
            if self._must_copy(pool, table, start):
                source, target = table[start // pool.page_tokens], pool.allocate()
                # Never a chain of copies: their order is the runtime's.
                copied[target] = copied.get(source, source)
                table[start // pool.page_tokens] = target
                self._kept[-1].append((pool, source))
            while len(table) < pool.pages_for(start + count):
                table.append(pool.allocate())
        seq.num_scheduled = start + count

    def publish(self, seq: Sequence) -> None:
        """Enter the full pages `seq` has computed into the prefix cache."""
        num_full = seq.num_computed // self.page_tokens
        if not self._prefix_caching or num_full <= seq.num_published:
            return
        self._extend_keys(seq, num_full)
        for pool, table in zip(self.pools, seq.tables, strict=True):
            for index in range(seq.num_published, num_full):
                if table[index] != NULL_PAGE:
                    pool.register(table[index], seq.page_keys[index])
        seq.num_published = num_full

    def trim(self, seq: Sequence) -> None:
        """Take back pages behind the window, and those of drafts that were not accepted."""
        for pool, table in zip(self.pools, seq.tables, strict=True):
            while len(table) > pool.pages_for(seq.num_scheduled):
                self._give_back(seq, pool, table.pop())
            for index in range(pool.first_page(seq.num_computed) - 1, -1, -1):
                if table[index] == NULL_PAGE:
                    break
                self._give_back(seq, pool, table[index])
                table[index] = NULL_PAGE

    def release(self, seq: Sequence) -> None:
        """Take all pages back, last first, so that long prefixes are forgotten from their end."""
        for pool, table in zip(self.pools, seq.tables, strict=True):
            for page in reversed(table):
                self._give_back(seq, pool, page)
        seq.tables = ()
        seq.num_computed_prompt += max(0, min(seq.num_computed, seq.num_prompt) - seq.num_lent)
        seq.num_computed = seq.num_scheduled = 0

    def open_step(self) -> None:
        """Begin a step: what `extend` copies from is kept for it."""
        self._kept.append([])

    def drop_step(self) -> None:
        """The step begun last turned out empty."""
        assert not self._kept.pop(), "an empty step keeps pages"

    def close_step(self) -> None:
        """The oldest step was committed: let go of what was kept for it."""
        for pool, page in self._kept.popleft():
            pool.release(page)

    @property
    def kept(self) -> tuple[tuple[PagePool, int], ...]:
        """Pages that only submitted steps still hold."""
        return tuple(entry for step in self._kept for entry in step)

    def check(self, running: Seq[Sequence]) -> None:
        """Assert that each page is in one place, and held exactly by those that name it."""
        for g, pool in enumerate(self.pools):
            pool.check()
            named = Counter(page for seq in running for page in seq.tables[g])
            named.update(page for owner, page in self.kept if owner is pool)
            del named[NULL_PAGE]
            held = {page: refs for page in range(pool.num_pages) if (refs := pool.num_refs(page))}
            wrong = sorted(page for page in held | named if held.get(page, 0) != named[page])
            assert not wrong, f"group {g}: pages {wrong[:10]} have holders that do not name them"

    def _give_back(self, seq: Sequence, pool: PagePool, page: int) -> None:
        if page == NULL_PAGE:
            return
        if seq.is_in_flight:
            self._kept[-1].append((pool, page))
        else:
            pool.release(page)

    @staticmethod
    def _must_copy(pool: PagePool, table: array[int], pos: int) -> bool:
        index = pos // pool.page_tokens
        return index < len(table) and not pool.is_writable(table[index])

    def _from_sibling(self, seq: Sequence) -> Start | None:
        """All of the prompt but its last token, whose logits every child needs for itself."""
        num_tokens = seq.family.num_shared - 1
        for sibling in seq.family.running:
            if sibling.num_computed < seq.family.num_shared:
                continue
            tables = [
                _visible(pool, table, num_tokens)
                for pool, table in zip(self.pools, sibling.tables, strict=True)
            ]
            lent = tuple(table for table in tables if table is not None)
            if len(lent) == len(self.pools):
                return Start(num_tokens, lent)
        return None

    def _from_prefix(self, seq: Sequence) -> Start:
        """Whole pages; never the last token, since a row must reach the head."""
        num_full = (len(seq.tokens) - 1) // self.page_tokens
        if not (self._prefix_caching and seq.family.reads_cache):
            num_full = 0
        self._extend_keys(seq, num_full)
        num_pages, tables = longest_hit(self.pools, seq.page_keys[:num_full])
        return Start(num_pages * self.page_tokens, tables)

    def _extend_keys(self, seq: Sequence, num_pages: int) -> None:
        if num_pages > len(seq.page_keys):
            root = root_key(seq.request.adapter, seq.request.cache_salt)
            extend_keys(
                seq.page_keys, root, seq.tokens, num_pages=num_pages, page_tokens=self.page_tokens
            )


def _visible(pool: PagePool, table: array[int], num_tokens: int) -> array[int] | None:
    """The pages that rows at `num_tokens` and later can see; None if one was taken back."""
    first = pool.first_page(num_tokens)
    pages = table[first : pool.pages_for(num_tokens)]
    return None if NULL_PAGE in pages else array("i", [NULL_PAGE]) * first + pages
