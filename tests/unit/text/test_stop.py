"""Stop strings: the same answer wherever tokens end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from argosy.text.stop import StopMatcher, special_stops
from unit.text.small_tokenizers import byte_level


def fed(stops: list[str], parts: list[str], include: bool = False) -> tuple[list[str], str | None]:
    """What is shown after each part (and at the end), and what stopped it."""
    matcher, shown = StopMatcher(stops, include), []
    for part in parts:
        text, stop = matcher.push(part)
        shown.append(text)
        if stop is not None:
            return shown, stop
    return [*shown, matcher.finish()], None


def first_match(text: str, stops: list[str]) -> tuple[int, int, str] | None:
    """Plain twin: the match complete first, reading character by character."""
    for end in range(1, len(text) + 1):
        found = [s for s in stops if text[:end].endswith(s)]
        if found:
            longest = max(found, key=len)
            return end, end - len(longest), longest
    return None


letters = st.text("ab", max_size=12)


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    parts=st.lists(letters, max_size=8),
    include=st.booleans(),
)
def test_borders_change_nothing(stops: list[str], parts: list[str], include: bool) -> None:
    text = "".join(parts)
    shown, stop = fed(stops, parts, include)
    match = first_match(text, stops)
    if match is None:
        assert (shown and "".join(shown), stop) == (shown and text, None)
    else:
        end, start, expected = match
        assert "".join(shown) == text[: end if include else start]
        assert stop == expected


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4),
    parts=st.lists(letters, max_size=8),
)
def test_only_what_could_begin_a_stop_waits(stops: list[str], parts: list[str]) -> None:
    matcher, shown, text = StopMatcher(stops), "", ""
    for part in parts:
        new, stop = matcher.push(part)
        if stop is not None:
            return
        shown, text = shown + new, text + part
        waiting = text[len(shown) :]
        assert text.startswith(shown)
        begun = [n for n in range(len(text) + 1) for s in stops if s[:n] == text[len(text) - n :]]
        assert len(waiting) == max(n for n in begun if n < max(map(len, stops)))


def test_across_three_parts() -> None:
    assert fed(["Human:"], ["Hi. Hu", "man", ": what"]) == (["Hi. ", "", ""], "Human:")


def test_a_false_alarm_is_shown_later() -> None:
    assert fed(["Human:"], ["Hi Hum", "us", " ok"]) == (["Hi ", "Humus", " ok", ""], None)


def test_the_end_shows_what_waited() -> None:
    assert fed(["</s>"], ["bye </"]) == (["bye ", "</"], None)


def test_the_longer_of_two_that_end_together() -> None:
    assert fed(["b", "ab"], ["xab"]) == (["x"], "ab")


def test_not_armed_is_not_a_match() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("xENDx", armed=False) == ("xENDx", None)
    assert matcher.push("END") == ("", "END")


def test_a_match_that_does_not_count_is_not_held_back() -> None:
    matcher = StopMatcher(["END", "something long"])
    assert matcher.push("xEND", armed=False) == ("xEND", None)


def test_a_match_may_begin_before_it_counts() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("xEN", armed=False) == ("x", None)
    assert matcher.push("D") == ("", "END")


def test_a_match_that_ended_before_it_counted_stays_text() -> None:
    matcher = StopMatcher(["a", "aab"])
    assert matcher.push("aa", armed=False) == ("", None)
    assert matcher.push("c") == ("aac", None)


@pytest.mark.parametrize("include", [True, False])
def test_included_or_not(include: bool) -> None:
    assert fed(["."], ["one. two"], include) == ([("one." if include else "one")], ".")


def test_stop_strings_that_are_special_tokens() -> None:
    tokenizer = byte_level()
    eos = tokenizer.token_id("</s>")
    assert special_stops(tokenizer, ["</s>", "Human:", "<think>", "the"]) == {eos: "</s>"}
    assert special_stops(tokenizer, []) == {}
