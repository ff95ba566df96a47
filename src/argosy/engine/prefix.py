"""The prefix cache: a page is known by a hash of all tokens up to its end.

key of page i = sha256(key of page i-1, its tokens); key of page -1 = sha256(space), where the
space is (adapter, cache_salt): sequences of different spaces never meet. A cryptographic hash,
since a collision would show one tenant another's cache; a radix tree would share the same pages
(only whole ones are shared) with more code. A full page enters when a later row of its sequence
has come back from the head without error, so that what a broken step wrote is never found.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from hashlib import sha256
from itertools import islice

from argosy.engine.pages import PagePool
from argosy.types import NULL_PAGE


def root_key(adapter: str | None, cache_salt: str) -> bytes:
    """The key before the first page, of one space."""
    return sha256(repr((adapter, cache_salt)).encode()).digest()


def extend_keys(
    keys: list[bytes], root: bytes, tokens: array[int], *, num_pages: int, page_tokens: int
) -> None:
    """Append the keys of pages len(keys)..num_pages-1, all of them full."""
    for page in range(len(keys), num_pages):
        held = tokens[page * page_tokens : (page + 1) * page_tokens]
        keys.append(sha256((keys[-1] if keys else root) + held.tobytes()).digest())


def longest_hit(pools: Seq[PagePool], keys: Seq[bytes]) -> tuple[int, tuple[array[int], ...]]:
    """The longest prefix whose pages every group still has, in pages, and one table per group.

    A window group needs only the pages a row right after the prefix can see; the others are
    NULL_PAGE in its table. A program without caches has nothing to find.
    """
    if not pools:
        return 0, ()
    num_pages = len(keys)
    while missing := [page for pool in pools for page in _first_missing(pool, keys[:num_pages])]:
        num_pages = min(missing)
    return num_pages, tuple(_table(pool, keys[:num_pages]) for pool in pools)


def _first_missing(pool: PagePool, keys: Seq[bytes]) -> list[int]:
    """The first page this prefix needs and `pool` lacks, if any; no longer prefix has it either."""
    first = pool.first_page(len(keys) * pool.page_tokens)
    lacking = (page for page in range(first, len(keys)) if pool.find(keys[page]) is None)
    return list(islice(lacking, 1))


def _table(pool: PagePool, keys: Seq[bytes]) -> array[int]:
    first = pool.first_page(len(keys) * pool.page_tokens)
    found = (pool.find(key) for key in keys[first:])
    return array("i", [NULL_PAGE] * first + [page for page in found if page is not None])
