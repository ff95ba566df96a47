"""PagePool: where pages are, and in which order they are taken."""

from __future__ import annotations

import pytest

from argosy.engine.pages import PagePool


def test_the_null_page_is_never_given_out() -> None:
    pool = PagePool(4)
    assert sorted(pool.allocate() for _ in range(3)) == [1, 2, 3]
    assert pool.num_available == 0


def test_a_page_is_free_when_its_last_holder_lets_go() -> None:
    pool = PagePool(2)
    page = pool.allocate()
    pool.share(page)
    pool.release(page)
    assert pool.num_available == 0
    assert pool.is_writable(page)
    pool.release(page)
    assert pool.num_available == 1
    pool.check()


def test_releasing_a_page_nobody_holds_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="not held"):
        PagePool(2).release(1)


def test_a_known_page_can_be_found_after_its_holder_left() -> None:
    pool = PagePool(3)
    page = pool.allocate()
    pool.register(page, b"key")
    assert not pool.is_writable(page)
    pool.release(page)
    assert pool.is_idle(page)
    assert pool.find(b"key") == page
    pool.share(page)
    assert not pool.is_idle(page)
    pool.check()


def test_free_pages_are_taken_first_then_the_least_recently_used() -> None:
    pool = PagePool(4)
    first, second, free = pool.allocate(), pool.allocate(), pool.allocate()
    pool.register(first, b"1")
    pool.register(second, b"2")
    for page in (first, second, free):
        pool.release(page)
    pool.share(first)  # used again: second is now the older one
    pool.release(first)
    assert [pool.allocate() for _ in range(3)] == [free, second, first]
    assert pool.find(b"1") is None
    assert pool.find(b"2") is None
    pool.check()


def test_the_first_page_known_by_a_key_stays_the_only_one() -> None:
    pool = PagePool(3)
    first, second = pool.allocate(), pool.allocate()
    pool.register(first, b"key")
    pool.register(second, b"key")
    assert pool.find(b"key") == first
    assert pool.is_writable(second)
    pool.release(second)
    assert not pool.is_idle(second)
    pool.check()


def test_forget_frees_idle_pages_and_leaves_held_ones() -> None:
    pool = PagePool(3)
    held, idle = pool.allocate(), pool.allocate()
    pool.register(held, b"held")
    pool.register(idle, b"idle")
    pool.release(idle)
    pool.forget()
    assert pool.find(b"held") is pool.find(b"idle") is None
    assert pool.num_refs(held) == 1
    assert pool.allocate() == idle
    pool.check()


@pytest.mark.parametrize("page_tokens", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 1, 2, 3, 16, 17, 18, 33])
def test_most_pages_is_what_the_worst_row_sees(window: int | None, page_tokens: int) -> None:
    pool = PagePool(1, window=window, page_tokens=page_tokens)
    seen = [pool.pages_for(pos + 1) - pool.first_page(pos) for pos in range(200)]
    assert pool.most_pages(200) == max(seen)
    assert pool.most_pages(1) == 1


def test_check_finds_a_page_in_two_places() -> None:
    pool = PagePool(3)
    pool.allocate()
    pool._free.append(2)
    with pytest.raises(AssertionError):
        pool.check()
