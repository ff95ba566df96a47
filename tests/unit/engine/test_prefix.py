"""The prefix cache: keys, spaces, and the longest hit all groups can serve."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from argosy.engine.pages import PagePool
from argosy.engine.prefix import extend_keys, longest_hit, root_key
from argosy.types import NULL_PAGE, Event
from unit.engine.driver import finish, outcome, request, scheduler, shares, step


def keys(tokens: list[int], root: bytes = root_key(None, "")) -> list[bytes]:
    made: list[bytes] = []
    extend_keys(made, root, array("i", tokens), num_pages=len(tokens) // 4, page_tokens=4)
    return made


def pool_with(known: list[bytes], window: int | None = None) -> PagePool:
    pool = PagePool(20, window=window, page_tokens=4)
    for key in known:
        page = pool.allocate()
        pool.register(page, key)
        pool.release(page)
    return pool


def test_a_key_stands_for_all_tokens_up_to_the_end_of_its_page() -> None:
    a, b = keys([1, 2, 3, 4, 5, 6, 7, 8]), keys([1, 2, 3, 4, 5, 6, 7, 9])
    assert a[0] == b[0]
    assert a[1] != b[1]
    assert keys([0, 2, 3, 4, 5, 6, 7, 8])[1] != a[1]


def test_keys_extend_as_if_made_at_once() -> None:
    made: list[bytes] = []
    tokens = list(range(12))
    for num_pages in (1, 3):
        extend_keys(
            made, root_key(None, ""), array("i", tokens), num_pages=num_pages, page_tokens=4
        )
    assert made == keys(tokens)


def test_spaces_never_meet() -> None:
    spaces = [(None, ""), (None, "a"), ("a", ""), ("", "a"), ("a", "a"), (None, "\ud800")]
    assert len({root_key(*space) for space in spaces}) == len(spaces)


def test_the_hit_ends_before_the_first_page_a_paged_group_lacks() -> None:
    chain = keys(list(range(16)))
    assert longest_hit([pool_with([chain[0], chain[1], chain[3]])], chain)[0] == 2
    assert longest_hit([pool_with([])], chain)[0] == 0
    assert longest_hit([], chain) == (0, ())


def test_a_window_group_needs_only_what_the_next_row_sees() -> None:
    chain = keys(list(range(16)))
    window = pool_with(chain[2:4], window=6)
    num_pages, (table,) = longest_hit([window], chain)
    assert num_pages == 4
    assert list(table) == [NULL_PAGE, NULL_PAGE, *(window.find(key) for key in chain[2:])]


def test_the_hit_is_the_longest_that_all_groups_can_serve() -> None:
    chain = keys(list(range(24)))
    paged = pool_with(chain[:5])
    window = pool_with([chain[1], chain[2], chain[4]], window=6)
    num_pages, tables = longest_hit([paged, window], chain)
    assert num_pages == 3  # 5: page 3 fell out of the cache; 4 too
    assert [len(table) for table in tables] == [3, 3]


def cached(events: list[Event]) -> int:
    return sum(event.num_cached_tokens for event in events)


@pytest.mark.parametrize(
    ("length", "hit"), [(4, 0), (5, 4), (8, 4), (9, 8)], ids=lambda value: str(value)
)
def test_a_hit_never_covers_the_last_prompt_token(length: int, hit: int) -> None:
    made, prompt = scheduler(20), range(length)
    assert cached(finish(made, request("a", prompt))) == 0
    made.admit([request("b", prompt)], 0.0)
    assert shares(made.plan()) == [("b", 0, hit, length - hit)]


def test_a_hit_is_reported_once_with_the_first_event() -> None:
    made = scheduler(20)
    finish(made, request("a", range(9)))
    events = finish(made, request("b", range(9), max_tokens=3))
    assert [event.num_cached_tokens for event in events] == [8, 0, 0]


def test_answers_are_found_too() -> None:
    made = scheduler(20)
    finish(made, request("a", [1, 2, 3], max_tokens=6))  # 3 + 5 tokens computed: two pages
    events = finish(made, request("b", [1, 2, 3, *[50] * 6]))
    assert cached(events) == 8


@pytest.mark.parametrize(
    "other", [{"cache_salt": "x"}, {"adapter": "x"}, {"skip_reading_prefix_cache": True},
              {"prompt_logprobs": 0}], ids=str
)  # fmt: skip
def test_who_does_not_read_the_cache(other: dict[str, object]) -> None:
    made = scheduler(20)
    finish(made, request("a", range(9)))
    assert cached(finish(made, request("b", range(9), **other))) == 0


def test_switched_off_nothing_is_found_or_kept() -> None:
    made = scheduler(20, prefix_caching=False)
    finish(made, request("a", range(9)))
    assert cached(finish(made, request("b", range(9)))) == 0
    assert not any(made.tables.pools[0].is_idle(page) for page in range(21))


def test_what_a_broken_sequence_computed_is_never_found() -> None:
    made = scheduler(20, max_num_batched_tokens=8)
    made.admit([request("a", range(20))], 0.0)
    for _ in range(2):  # two chunks go well: nothing says yet that their numbers are finite
        plan = made.plan()
        made.commit(plan, [outcome(work) for work in plan.work])
    plan = made.plan()
    (event,) = made.commit(plan, [replace(outcome(plan.work[0]), error="not finite")])
    assert event.error == "not finite"
    assert cached(finish(made, request("b", range(20)))) == 0


def test_the_end_of_a_prefix_is_forgotten_first() -> None:
    made = scheduler(6)
    finish(made, request("a", range(16), max_tokens=1))  # 4 pages, idle; 2 free
    finish(made, request("b", [90] * 12, max_tokens=1))  # takes the 2 free ones and one of a's
    assert cached(finish(made, request("c", range(16), max_tokens=1))) == 12


def test_two_that_compute_the_same_prompt_at_once() -> None:
    made = scheduler(20)
    plan, _ = step(made, request("a", range(9)), request("b", range(9)))
    assert shares(plan) == [("a", 0, 0, 9), ("b", 0, 0, 9)]
    finish(made)
    made.tables.pools[0].check()
    assert cached(finish(made, request("c", range(9)))) == 8
