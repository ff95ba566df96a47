"""SamplingParams become arrays: one row per row that reaches the head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from argosy.engine.batch import build_batch
from argosy.engine.sampling import allowed_mask
from argosy.engine.sequence import child_seed
from argosy.types import HeadRows, Request
from unit.engine.driver import VOCAB, outcome, request, scheduler


def rows(*requests: Request, answers: tuple[int, ...] = (), propose: Any = None) -> HeadRows:
    """The head rows of the step after `answers` were drawn, of all requests alike."""
    made = scheduler(200, max_model_len=500, max_num_batched_tokens=400, propose=propose)
    made.admit(requests, 0.0)
    for token in answers:
        plan = made.plan()
        made.commit(plan, [outcome(work, token) for work in plan.work])
    return build_batch(made.plan(), vocab_size=VOCAB).head


def edits(head: HeadRows, row: int = 0) -> dict[int, tuple[float, float, float]]:
    """The edits of one row: id -> (bias, repetition, penalty)."""
    e = head.edits
    part = slice(e.starts[row], e.starts[row + 1])
    ids = e.ids[part].tolist()
    assert ids == sorted(set(ids))
    columns = (e.bias[part], e.repetition[part], e.penalty[part])
    numbers = zip(*(np.round(column.astype(float), 6).tolist() for column in columns), strict=True)
    return dict(zip(ids, numbers, strict=True))


def test_each_row_has_its_own_parameters() -> None:
    params: dict[str, Any] = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125}
    head = rows(request("a", **params, seed=-1), request("b", temperature=0, seed=5))
    assert head.rows.tolist() == [2, 5]
    assert head.starts.tolist() == [0, 1, 2]
    assert head.draw.tolist() == [1, 1]
    assert head.temperature.tolist() == [0.5, 0.0]
    assert head.top_p.tolist() == [0.25, 1.0]
    assert head.top_k.tolist() == [7, 0]
    assert head.min_p.tolist() == [0.125, 0.0]
    assert head.seeds.tolist() == [2**64 - 1, 5]
    assert head.positions.tolist() == [3, 3]
    assert head.want_logprobs.tolist() == [0, 0]
    assert len(head.edits.ids) == 0
    assert head.masks is None


def test_dtypes_are_those_of_the_contract() -> None:
    head = rows(request(logit_bias={1: 1.0}, allowed_token_ids=[1, 2]))
    i32 = ("rows", "starts", "targets", "logprobs", "top_k", "positions", "mask_rows")
    wanted = dict.fromkeys(i32, "int32") | {
        "draw": "uint8", "want_logprobs": "uint8", "has_mask": "uint8", "seeds": "uint64",
        "temperature": "float32", "top_p": "float32", "min_p": "float32", "masks": "uint32",
    }  # fmt: skip
    assert {name: str(getattr(head, name).dtype) for name in wanted} == wanted
    e = head.edits
    names = [str(a.dtype) for a in (e.starts, e.ids, e.bias, e.repetition, e.penalty)]
    assert names == ["int32", "int32", "float32", "float32", "float32"]


def test_children_draw_with_seeds_of_their_own() -> None:
    head = rows(request(n=3, seed=9), answers=(50,))
    assert head.seeds.tolist() == [child_seed(9, index) for index in range(3)]
    assert head.positions.tolist() == [4, 3, 3]


def test_penalties_count_from_where_the_prompt_ends() -> None:
    asked = request(
        prompt=[1, 2, 2, 50],
        presence_penalty=0.5,
        frequency_penalty=0.25,
        repetition_penalty=2.0,
    )
    assert edits(rows(asked)) == {1: (0, 2, 0), 2: (0, 2, 0), 50: (0, 2, 0)}
    assert edits(rows(asked, answers=(50, 50, 60))) == {
        1: (0, 2, 0),
        2: (0, 2, 0),
        50: (0, 2, 1.0),
        60: (0, 2, 0.75),
    }


def test_a_replay_is_penalised_as_the_original_was() -> None:
    params: dict[str, Any] = {
        "presence_penalty": 0.5,
        "frequency_penalty": 1.0,
        "repetition_penalty": 1.5,
    }
    first = rows(request(prompt=[1, 2], **params), answers=(50, 60))
    again = rows(request(prompt=[1, 2, 50, 60], num_prompt_tokens=2, **params))
    assert edits(first) == edits(again)
    assert first.positions.tolist() == again.positions.tolist()


def test_negative_penalties_reward() -> None:
    assert edits(rows(request(presence_penalty=-2.0), answers=(50,))) == {50: (0, 1, -2.0)}


def test_a_bias_and_a_ban_may_meet() -> None:
    asked = request(
        logit_bias={7: 3.0, 90: -100.0}, min_tokens=2, stop_token_ids=frozenset({7, 8, 5000})
    )
    ban = float("-inf")
    assert edits(rows(asked)) == {7: (ban, 1, 0), 8: (ban, 1, 0), 90: (-100, 1, 0)}


def test_ends_are_banned_until_min_tokens() -> None:
    asked = request(min_tokens=2, stop_token_ids=frozenset({7}))
    assert list(edits(rows(asked, answers=(50,)))) == [7]
    assert list(edits(rows(asked, answers=(50, 50)))) == []


@pytest.mark.parametrize(
    ("answers", "banned"), [((), [9]), ((3,), [4, 9]), ((3, 4), [5, 9]), ((4, 3, 3), [4, 9])]
)
def test_bad_words_ban_their_last_token_after_the_others(
    answers: tuple[int, ...], banned: list[int]
) -> None:
    asked = request(prompt=[3, 4], bad_words=((9,), (3, 4), (3, 4, 5)))
    assert list(edits(rows(asked, answers=answers))) == banned


def test_masks_hold_the_allowed_ids() -> None:
    mask = allowed_mask([0, 31, 32, 99], 100)
    assert mask.tolist() == [2**31 + 1, 1, 0, 2**3]
    head = rows(request("a"), request("b", allowed_token_ids=[99]), request("c"))
    assert head.has_mask.tolist() == [0, 1, 0]
    assert head.masks is not None
    assert head.masks[head.mask_rows[1]].tolist() == [0, 0, 0, 8]


def test_prompt_logprobs_are_rows_that_score() -> None:
    head = rows(request(prompt=[5, 6, 7], prompt_logprobs=2, logprobs=3, allowed_token_ids=[1]))
    assert head.rows.tolist() == [0, 1, 2]
    assert head.draw.tolist() == [0, 0, 1]
    assert head.targets.tolist() == [6, 7, 0]
    assert head.want_logprobs.tolist() == [1, 1, 1]
    assert head.logprobs.tolist() == [2, 2, 3]
    assert head.has_mask.tolist() == [0, 0, 1]


def test_logprobs_of_zero_alternatives_are_still_wanted() -> None:
    head = rows(request("a", logprobs=0), request("b"))
    assert head.want_logprobs.tolist() == [1, 0]
    assert head.logprobs.tolist() == [0, 0]


def test_a_chunk_has_no_row_at_the_head() -> None:
    head = rows(request(prompt=[1] * 450))
    assert len(head.rows) == 0
    assert head.starts.tolist() == [0, 0]


def test_rows_of_drafts_see_the_drafts_before_them() -> None:
    asked = request(prompt=[1], presence_penalty=1.0)
    head = rows(asked, propose=lambda seq: [8, 9])
    assert head.rows.tolist() == [0, 1, 2]
    assert head.positions.tolist() == [1, 2, 3]
    assert [list(edits(head, row)) for row in range(3)] == [[], [8], [8, 9]]
