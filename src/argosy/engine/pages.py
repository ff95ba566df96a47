"""Pages of one cache group: which are free, who holds them, which can be found again.

A page is always in one of three places:

    free     nobody holds it, nobody knows its content
    held     by refs >= 1 tables (or copies under way); it may also be known by a key
    idle     nobody holds it, but its content is known by a key; taken last, least recent first

Only this class changes a page's place. Source: Kwon et al. 2023, arXiv:2309.06180, section 4.
"""

from __future__ import annotations

from collections import OrderedDict

from argosy.types import NULL_PAGE, PAGE_TOKENS


class PagePool:
    """The pages of one cache group.

    num_pages: ids 1..num_pages-1 are given out; page 0 is the null page.
    window: a row sees itself and the window - 1 tokens before it; None: all before it.
    page_tokens: tokens a page holds.
    """

    def __init__(
        self, num_pages: int, *, window: int | None = None, page_tokens: int = PAGE_TOKENS
    ) -> None:
        self.num_pages = num_pages
        self.window = window
        self.page_tokens = page_tokens
        self._free = list(range(num_pages - 1, NULL_PAGE, -1))
        self._refs = [0] * num_pages
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._page_by_key: dict[bytes, int] = {}
        self._key_by_page: dict[int, bytes] = {}

    @property
    def num_usable(self) -> int:
        """Pages that can be held at all."""
        return self.num_pages - 1

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can give now, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_held(self) -> int:
        """Pages that somebody holds."""
        return self.num_usable - self.num_available

    def num_refs(self, page: int) -> int:
        """How many hold `page`."""
        return self._refs[page]

    def is_idle(self, page: int) -> bool:
        """Whether `page` is known and nobody holds it."""
        return page in self._idle

    def is_writable(self, page: int) -> bool:
        """Whether its one holder may write it: not shared, and not known under a key."""
        return self._refs[page] == 1 and page not in self._key_by_page

    def allocate(self) -> int:
        """A page with one holder and no known content: a free one, else the oldest idle one."""
        if self._free:
            page = self._free.pop()
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_by_key[self._key_by_page.pop(page)]
        self._refs[page] = 1
        return page

    def share(self, page: int) -> None:
        """One holder more of a held or idle page."""
        assert self._refs[page] or page in self._idle, f"page {page} is free"
        self._idle.pop(page, None)
        self._refs[page] += 1

    def release(self, page: int) -> None:
        """One holder less; the last one leaves it idle if it is known, else free."""
        assert self._refs[page], f"page {page} is not held"
        self._refs[page] -= 1
        if self._refs[page]:
            return
        if page in self._key_by_page:
            self._idle[page] = None
        else:
            self._free.append(page)

    def register(self, page: int, key: bytes) -> None:
        """Make a held page known by `key`; the first page known by a key stays the only one."""
        assert self._refs[page], f"page {page} is not held"
        if key not in self._page_by_key and page not in self._key_by_page:
            self._page_by_key[key] = page
            self._key_by_page[page] = key

    def find(self, key: bytes) -> int | None:
        """The page known by `key`."""
        return self._page_by_key.get(key)

    def forget(self) -> None:
        """Nothing is known any more: idle pages become free, held ones stay with their holders."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._page_by_key.clear()
        self._key_by_page.clear()

    def pages_for(self, num_tokens: int) -> int:
        """Entries of the table of a sequence of `num_tokens`."""
        return -(-num_tokens // self.page_tokens)

    def first_page(self, pos: int) -> int:
        """Index in the table of the first page that a row at `pos` or later can see."""
        return 0 if self.window is None else max(0, pos - self.window + 1) // self.page_tokens

    def most_pages(self, num_tokens: int) -> int:
        """Pages a sequence needs at once when it is computed token by token up to `num_tokens`."""
        pages = self.pages_for(num_tokens)
        if self.window is None:
            return pages
        return min(pages, (self.window - 1 + self.page_tokens - 1) // self.page_tokens + 1)

    def check(self) -> None:
        """Assert that every page is in one place, and keys and pages name each other."""
        held = {page for page, refs in enumerate(self._refs) if refs}
        free, idle = set(self._free), set(self._idle)
        assert len(free) == len(self._free), "a page is free twice"
        assert free | idle | held == set(range(1, self.num_pages)), "a page is lost"
        assert len(free) + len(idle) + len(held) == self.num_usable, "a page is in two places"
        assert {p: k for k, p in self._page_by_key.items()} == self._key_by_page, "keys disagree"
        assert idle <= self._key_by_page.keys() <= idle | held, "a known page is free"
