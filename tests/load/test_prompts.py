"""Prompts of a given length for tokenizers unseen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from argosy.errors import ArgosyError, ConfigError
from argosy.load.prompts import FIRST, KEPT_MIN, WORDS, Prompts, learn


def taught(count: Callable[[str], int]) -> Prompts:
    async def ask(text: str) -> int:
        return count(text)

    return asyncio.run(learn(ask))


def by_words(text: str) -> int:
    return 3 + sum(1 if len(word) < 4 else 2 for word in text.split())


def test_prompts_have_the_length_asked_for_whatever_the_template_costs() -> None:
    prompts, draw = taught(by_words), random.Random(0)
    assert [by_words(prompts.write(n, draw)) for n in (5, 6, 17, 300)] == [5, 6, 17, 300]


def test_prompts_differ_from_the_second_word_on() -> None:
    prompts, draw = taught(by_words), random.Random(0)
    written = [prompts.write(40, draw).split() for _ in range(50)]
    assert {words[0] for words in written} == {FIRST}
    assert len({tuple(words[1:9]) for words in written}) == 50


def test_where_no_word_is_one_token_the_cheapest_are_used() -> None:
    prompts = taught(lambda text: len(text))
    assert prompts.cost == 3, "a blank and two letters"
    assert {len(word) for word in prompts.words} == {2}
    assert len(prompts.write(302, random.Random(0))) == 302


def test_a_cost_that_few_words_share_is_passed_over() -> None:
    rare = WORDS[: KEPT_MIN - 1]
    prompts = taught(lambda text: sum(1 if word in rare else 2 for word in text.split()))
    assert prompts.cost == 2 and not set(rare) & set(prompts.words)


def test_a_prompt_too_short_to_be_written_is_refused() -> None:
    prompts = taught(by_words)
    prompts.require(5)
    with pytest.raises(ConfigError, match="at least 5"):
        prompts.require(4)
    assert by_words(prompts.write(1, random.Random(0))) == 5


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ArgosyError, match="do not add up"):
        taught(lambda text: 9)
