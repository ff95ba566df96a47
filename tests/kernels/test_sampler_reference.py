"""The plain sampler does what its parameters say; its noise is Gumbel's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from argosy.runtime.reference.elementary import (
    exp,
    gumbel,
    gumbel_hash,
    gumbel_key,
    gumbel_of_hash,
    log,
)
from argosy.runtime.reference.sampling import best_first, sample_row, sample_rows
from argosy.types import Edits, HeadRows, RowError

if TYPE_CHECKING:
    from argosy.types import F32

INF = math.inf


def edits(*entries: tuple[int, float, float, float]) -> Edits:
    """One row's edits from (id, bias, repetition, penalty)."""
    columns = list(zip(*entries, strict=True)) or [()] * 4
    bias, repetition, penalty = (np.array(c, np.float32) for c in columns[1:])
    starts = np.array([0, len(entries)], np.int32)
    return Edits(starts, np.array(columns[0], np.int32), bias, repetition, penalty)


def head(rows: int = 1, **settings: Any) -> HeadRows:
    """Rows that draw at temperature 1 without limits, unless `settings` say else."""
    plain: dict[str, tuple[Any, type]] = {
        "draw": (1, np.uint8),
        "targets": (0, np.int32),
        "want_logprobs": (0, np.uint8),
        "logprobs": (0, np.int32),
        "temperature": (1, np.float32),
        "top_k": (0, np.int32),
        "top_p": (1, np.float32),
        "min_p": (0, np.float32),
        "seeds": (1, np.uint64),
        "positions": (0, np.int32),
        "has_mask": (0, np.uint8),
        "mask_rows": (0, np.int32),
    }
    fields = {
        name: np.full(rows, settings.pop(name, value), dtype)
        for name, (value, dtype) in plain.items()
    }
    blank = edits()
    base = HeadRows(
        rows=np.arange(rows, dtype=np.int32),
        starts=np.arange(rows + 1, dtype=np.int32),
        edits=replace(blank, starts=np.zeros(rows + 1, np.int32)),
        **fields,
    )
    return replace(base, **settings)


def logits(*values: float) -> F32:
    return np.array(values, np.float32)


def drawn(x: F32, times: int, **settings: Any) -> list[int]:
    """Tokens of `times` positions that see the same logits."""
    rows = head(times, **settings)
    rows = replace(rows, positions=np.arange(times, dtype=np.int32))
    return sample_rows(np.tile(x, (times, 1)), rows).tokens.tolist()


def ulps(got: F32, truth: np.ndarray) -> float:
    spacing = np.spacing(np.abs(truth).astype(np.float32)).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - truth) / spacing).max())


def test_exp_is_within_an_ulp() -> None:
    x = np.random.default_rng(0).uniform(-86.9, 88.7, 200_000).astype(np.float32)
    x = np.concatenate([x, x / 1000, x * np.float32(1e-6)])
    assert ulps(exp(x), np.exp(x.astype(np.float64))) <= 1.0


def test_exp_at_its_ends() -> None:
    x = logits(-INF, -1e30, -104, -88, INF, 1e30, 89, 0, -0.0, math.nan)
    assert exp(x)[:4].tolist() == [0, 0, 0, 0]
    assert exp(x)[4:7].tolist() == [INF, INF, INF]
    assert exp(x)[7:9].tolist() == [1, 1]
    assert np.isnan(exp(x)[9])


def test_log_is_within_an_ulp() -> None:
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(-87, 88, 200_000)).astype(np.float32)
    x = np.concatenate([x, rng.uniform(0.5, 2, 200_000).astype(np.float32)])
    x = x[x != 1]
    assert ulps(log(x), np.log(x.astype(np.float64))) <= 1.0
    assert log(logits(1))[0] == 0


def test_log_at_its_ends() -> None:
    y = log(logits(0, -0.0, 1e-40, INF, -1, math.nan, -INF))
    assert y[:3].tolist() == [-INF, -INF, -INF]
    assert y[3] == INF
    assert np.isnan(y[4:]).all()


def test_noise_is_gumbels_and_falls_with_the_hash() -> None:
    h = np.linspace(0, 2**32 - 1, 100_001).astype(np.uint32)
    w = ((h >> 1) + 0.5) * 2.0**-31
    noise = gumbel_of_hash(h)
    body = w < 0.999
    np.testing.assert_allclose(noise[body], -np.log(-np.log1p(-w[body])), rtol=1e-5, atol=1e-6)
    assert (np.diff(noise) <= 0).all()
    assert np.isfinite(noise).all()
    assert noise.max() < 22.19


@pytest.mark.parametrize(
    ("seed", "position", "hashes"),
    [
        (0, 0, [0x29879A90, 0x80C667E8, 0x14A0894B, 0x630E1B9D]),
        (1, 2, [0x63A20B5B, 0xE0FE118E, 0x58A8BABC, 0x7A1A4752]),
        (2**64 - 1, 4095, [0x27CD8CB4, 0xE27CF03E, 0x60CE15AA, 0x08D53852]),
    ],
)
def test_the_noise_of_a_seed_never_changes(seed: int, position: int, hashes: list[int]) -> None:
    """A seeded answer, and a replay after a crash, must outlive a change of version."""
    ids = np.array([0, 1, 2, 151_935], np.int32)
    assert gumbel_hash(gumbel_key(seed, position), ids).tolist() == hashes


@pytest.mark.parametrize("key", [0, 1, gumbel_key(0, 0), gumbel_key(7, 12345)])
def test_hash_is_uniform_over_ids(key: int) -> None:
    h = gumbel_hash(key, np.arange(1 << 18, dtype=np.int32))
    for shift in (0, 12, 24):
        counts = np.bincount((h >> np.uint32(shift)) & np.uint32(0xFF), minlength=256)
        chi2 = float(((counts - 1024.0) ** 2 / 1024).sum())
        assert 150 < chi2 < 380  # 255 degrees of freedom


def test_every_bit_of_seed_position_and_id_changes_half_of_the_hash() -> None:
    rng = np.random.default_rng(2)
    trials = 400
    for name, width in (("seed", 64), ("position", 20), ("id", 18)):
        for bit in range(width):
            changed = 0
            for _ in range(trials // width + 8):
                at = {"seed": int(rng.integers(2**63)), "position": int(rng.integers(2**20))}
                at["id"] = int(rng.integers(2**18))
                other = at | {name: at[name] ^ (1 << bit)}
                a, b = (
                    gumbel_hash(gumbel_key(v["seed"], v["position"]), np.array([v["id"]], np.int32))
                    for v in (at, other)
                )
                changed += bin(int(a[0]) ^ int(b[0])).count("1")
            share = changed / (32 * (trials // width + 8))
            assert 0.3 < share < 0.7, (name, bit, share)


def test_noise_of_neighbouring_rows_is_unrelated() -> None:
    ids = np.arange(20_000, dtype=np.int32)
    streams = [gumbel(s, p, ids) for s, p in [(0, 0), (0, 1), (1, 0), (1, 1), (2**63, 0), (0, 2)]]
    related = np.corrcoef(np.array(streams, np.float64)) - np.eye(len(streams))
    assert np.abs(related).max() < 0.04
    shifted = np.corrcoef(streams[0][1:], streams[0][:-1])[0, 1]
    assert abs(shifted) < 0.04


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    x = logits(2, 1, 0, -1, 1.5, -3)
    p = np.exp(x.astype(np.float64) / temperature)
    p /= p.sum()
    times = 8000
    counts = np.bincount(drawn(x, times, temperature=temperature, seeds=99), minlength=6)
    assert ((counts - times * p) ** 2 / (times * p)).sum() < 25  # 5 degrees of freedom


def test_draws_by_seed_follow_the_softmax_too() -> None:
    x = logits(1, 0, 0.5)
    p = np.exp(x.astype(np.float64))
    p /= p.sum()
    rows = replace(head(6000, positions=5), seeds=np.arange(6000, dtype=np.uint64))
    counts = np.bincount(sample_rows(np.tile(x, (6000, 1)), rows).tokens, minlength=3)
    assert ((counts - 6000 * p) ** 2 / (6000 * p)).sum() < 16


def test_a_draw_depends_on_seed_position_and_nothing_else() -> None:
    x = np.random.default_rng(3).normal(size=500).astype(np.float32)
    again = [sample_row(x, head(seeds=5, positions=p), 0).token for p in range(40)]
    assert again == drawn(x, 40, seeds=5)
    assert again != drawn(x, 40, seeds=6)
    assert len(set(again)) > 20


def test_the_winner_still_wins_when_others_are_banned() -> None:
    """A property of Gumbel-max: a mask or top_k that spares the winner changes nothing."""
    rng = np.random.default_rng(4)
    for seed in range(30):
        x = rng.normal(0, 2, 300).astype(np.float32)
        token = sample_row(x, head(seeds=seed), 0).token
        place = int(np.flatnonzero(best_first(x) == token)[0])
        assert sample_row(x, head(seeds=seed, top_k=place + 1), 0).token == token
        banned = [(int(i), -INF, 1.0, 0.0) for i in rng.choice(300, 200, False) if i != token]
        assert sample_row(x, head(seeds=seed, edits=edits(*sorted(banned))), 0).token == token


def test_greedy_takes_the_best_and_of_equals_the_first() -> None:
    assert sample_row(logits(1, 3, 2), head(temperature=0), 0).token == 1
    assert sample_row(logits(1, 3, 3, 3), head(temperature=0), 0).token == 1
    assert sample_row(logits(-0.0, 0.0), head(temperature=0), 0).token == 0


def test_top_k_keeps_exactly_k_and_of_equals_the_first() -> None:
    x = logits(0, 2, 2, 2, 1, 2)
    assert set(drawn(x, 300, top_k=2)) == {1, 2}
    assert set(drawn(x, 300, top_k=1)) == {1}
    assert set(drawn(x, 400, top_k=6)) == set(range(6))
    assert set(drawn(x, 400, top_k=2**31 - 1)) == set(range(6))


def plain_nucleus(p: np.ndarray, top_p: float) -> set[int]:
    kept: set[int] = set()
    while sum(p[i] for i in kept) < top_p:
        left = [i for i in range(len(p)) if i not in kept]
        kept.add(max(left, key=lambda i: (p[i], -i)))
    return kept


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.55, 0.8, 0.99])
def test_top_p_keeps_the_shortest_run_that_holds_it(top_p: float) -> None:
    x = np.random.default_rng(5).normal(0, 1, 12).astype(np.float32)
    p = np.exp(x.astype(np.float64))
    assert set(drawn(x, 3000, top_p=top_p)) == plain_nucleus(p / p.sum(), top_p)


def test_top_p_counts_equal_probabilities_exactly() -> None:
    assert set(drawn(np.ones(8, np.float32), 600, top_p=0.5)) == {0, 1, 2, 3}
    assert set(drawn(np.ones(8, np.float32), 600, top_p=0.50001)) == {0, 1, 2, 3, 4}


def test_top_p_is_of_what_top_k_left() -> None:
    x = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    assert set(drawn(x, 400, top_p=0.6)) == {0, 1}
    assert set(drawn(x, 400, top_k=2, top_p=0.56)) == {0}  # 0.4 of 0.7 is 0.571


def test_min_p_is_a_share_of_the_best() -> None:
    x = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert set(drawn(x, 500, min_p=0.25)) == {0, 1, 2}
    assert set(drawn(x, 500, min_p=1.0)) == {0}
    assert set(drawn(x, 800, min_p=0.0)) == {0, 1, 2, 3}


def test_limits_see_the_tempered_logits() -> None:
    x = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    assert set(drawn(x, 500, temperature=0.2, min_p=0.2)) == {0}
    assert set(drawn(x, 500, temperature=2.0, min_p=0.6)) == {0, 1, 2}


def test_edits_come_in_their_order() -> None:
    """Bias, then repetition by sign, then the penalty taken off."""
    x = logits(1.0, -1.0, 0.0, 2.0)
    greedy = head(temperature=0)
    assert sample_row(x, replace(greedy, edits=edits((0, 1.5, 1, 0))), 0).token == 0
    assert sample_row(x, replace(greedy, edits=edits((3, 0, 4, 0))), 0).token == 0
    # -1 times 4 is worse, not better; biased to 3 first it is divided: 0.75.
    two = logits(-1.0, -3.5)
    assert sample_row(two, replace(greedy, edits=edits((0, 0, 4, 0))), 0).token == 1
    both = logits(-1.0, 0.5)
    assert sample_row(both, replace(greedy, edits=edits((0, 4, 4, 0))), 0).token == 0
    assert sample_row(both, replace(greedy, edits=edits((0, 4, 4, 0.5))), 0).token == 1


def test_bans_and_masks_hold_at_every_setting() -> None:
    x = logits(5, 4, 3, 2, 1)
    ban = edits((0, -INF, 1.0, 0.0))
    mask = replace(head(), has_mask=np.ones(1, np.uint8), masks=np.array([[0b01101]], np.uint32))
    for temperature in (0, 1, 2):
        for limits in ({}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.001}):
            for seed in range(20):
                row = head(temperature=temperature, seeds=seed, edits=ban, **limits)
                assert sample_row(x, row, 0).token != 0
                masked = replace(row, has_mask=mask.has_mask, masks=mask.masks)
                assert sample_row(x, masked, 0).token in {2, 3}


def test_nothing_allowed_is_an_error() -> None:
    all_banned = edits(*[(i, -INF, 1.0, 0.0) for i in range(3)])
    assert sample_row(logits(1, 2, 3), head(edits=all_banned), 0).error is RowError.NO_TOKEN


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_logits_that_are_not_finite_are_an_error_of_their_sequence(bad: float) -> None:
    x = np.zeros((4, 6), np.float32)
    x[2, 3] = bad
    rows = replace(head(4), starts=np.array([0, 1, 3, 4], np.int32))
    assert sample_rows(x, rows).errors == {1: RowError.NONFINITE}


def test_huge_logits_draw_without_trouble() -> None:
    x = logits(3e38, -3e38, 2.9e38, 0)
    for settings in ({}, {"top_p": 0.9}, {"top_k": 2}, {"min_p": 0.1}, {"temperature": 0.01}):
        assert set(drawn(x, 20, **settings)) <= {0, 2}


def test_logprobs_are_of_the_raw_logits() -> None:
    x = np.random.default_rng(6).normal(0, 4, 9000).astype(np.float32)
    truth = x - (np.log(np.exp(x.astype(np.float64) - x.max()).sum()) + x.max())
    row = head(want_logprobs=1, logprobs=5, temperature=2, edits=edits((7, 50.0, 1.0, 0.0)))
    got = sample_row(x, row, 0)
    assert got.token == 7
    assert got.logprob == pytest.approx(truth[7], abs=1e-5)
    assert got.rank == 1 + int((x > x[7]).sum())
    assert got.top_ids.tolist() == np.argsort(-x)[:5].tolist()
    np.testing.assert_allclose(got.top_logprobs, truth[got.top_ids], atol=1e-5)


def test_ranks_of_equals_go_by_id() -> None:
    x = logits(1, 2, 2, 2, 0)
    ranks = [
        sample_row(x, head(draw=0, targets=t, want_logprobs=1, logprobs=3), 0).rank
        for t in range(5)
    ]
    assert ranks == [4, 1, 2, 3, 5]
    got = sample_row(x, head(draw=0, want_logprobs=1, logprobs=3), 0)
    assert got.top_ids.tolist() == [1, 2, 3]


def test_scoring_takes_the_target_and_no_edits() -> None:
    x = logits(1, 2, 3)
    row = head(draw=0, targets=1, want_logprobs=1, edits=edits((1, -INF, 1.0, 0.0)))
    got = sample_row(x, row, 0)
    assert (got.token, got.rank, got.error) == (1, 2, None)
    assert got.logprob == pytest.approx(-1.4076, abs=1e-3)


def test_results_are_padded_to_the_most_wanted() -> None:
    rows = replace(
        head(3, temperature=0),
        want_logprobs=np.array([1, 0, 1], np.uint8),
        logprobs=np.array([1, 9, 4], np.int32),
    )
    got = sample_rows(np.tile(logits(1, 5, 4, 3, 2), (3, 1)), rows)
    assert got.top_ids.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]]
    assert got.logprob[1] == 0
    assert got.rank.tolist() == [1, 0, 1]
