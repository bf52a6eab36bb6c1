"""Intervals, the paired test and the divergence against published numbers and independent sums."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from edge_eds.pipeline.statistics import (
    Histogram,
    bin_edges,
    kl_divergence,
    mcnemar,
    paired_difference,
    quantiles,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3 (score without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    rate = wilson(successes, n)
    assert rate.value == pytest.approx(successes / n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 250])
def test_wilson_bounds_solve_the_score_equation_and_hold_the_rate(n: int) -> None:
    z = 1.959963984540054
    for successes in range(n + 1):
        rate = wilson(successes, n)
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        for bound in (rate.low, rate.high):
            assert (rate.value - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-12)
        mirrored = wilson(n - successes, n)
        assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((rate.low, rate.high))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_rate(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        wilson(successes, n)


def outcomes(both: int, removed: int, added: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Paired outcomes with so many of each kind."""
    before = [True] * (both + removed) + [False] * (added + neither)
    after = [True] * both + [False] * removed + [True] * added + [False] * neither
    return before, after


@pytest.mark.parametrize(("removed", "added"), [(0, 1), (1, 5), (2, 10), (6, 6), (7, 6), (0, 30), (121, 59)])
def test_mcnemar_is_the_two_sided_sum_of_binomials(removed: int, added: int) -> None:
    n = removed + added
    as_rare = [k for k in range(n + 1) if math.comb(n, k) <= math.comb(n, removed)]
    exact = float(Fraction(sum(math.comb(n, k) for k in as_rare), 2**n))
    assert mcnemar(*outcomes(3, removed, added, 4)) == pytest.approx(exact, rel=1e-12)
    assert mcnemar(*outcomes(3, added, removed, 4)) == pytest.approx(exact, rel=1e-12)


def test_mcnemar_known_values() -> None:
    assert mcnemar(*outcomes(9, 0, 0, 9)) == 1.0
    assert mcnemar(*outcomes(0, 5, 0, 0)) == 0.0625  # 2 / 2**5
    assert mcnemar(*outcomes(0, 3000, 0, 0)) == 0.0  # below the smallest float, and no overflow on the way
    with pytest.raises(ValueError, match="no pairs"):
        mcnemar([True], [])


def test_kl_divergence_is_the_textbook_sum() -> None:
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.6, 0.3])
    expected = float(np.sum(p * np.log(p / q)))
    # logits are defined up to a constant; large ones must not overflow
    assert kl_divergence(np.log(p) + 900, np.log(q) - 900) == pytest.approx(expected)
    assert kl_divergence(np.log(q), np.log(q)) == 0.0


def test_kl_divergence_of_an_impossible_token() -> None:
    certain = np.array([0.0, -np.inf])
    assert kl_divergence(certain, [0.0, 0.0]) == pytest.approx(math.log(2))
    assert kl_divergence(certain, certain) == 0.0


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10 (there the first rate minus the second)
        ((36, 2, 12, 0), 0.0569, 0.3404),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        ((0, 0, 30, 0), 0.8395, 1.0),
    ],
)
def test_the_paired_difference_has_the_published_interval(
    cells: tuple[int, int, int, int], low: float, high: float
) -> None:
    found = paired_difference(*outcomes(*cells))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_the_paired_difference_turns_with_its_outcomes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        before, after = outcomes(*(int(n) for n in rng.integers(0, 9, 4) + (rng.integers(4) == np.arange(4))))
        there, back = paired_difference(before, after), paired_difference(after, before)
        assert there.value == pytest.approx(np.mean(after) - np.mean(before))
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert -1 <= there.low <= there.value <= there.high <= 1


def test_what_is_no_pair_has_no_difference() -> None:
    for before, after in (([True], []), ([], [])):
        with pytest.raises(ValueError):
            paired_difference(before, after)


def test_quantiles_and_bins_are_those_of_sorted_values() -> None:
    values = np.arange(101.0)[::-1]
    assert quantiles(values, (5, 50, 99)) == {"mean": 50.0, "p5": 5.0, "p50": 50.0, "p99": 99.0}
    histogram = Histogram.of(values, bin_edges(values, 4))
    assert histogram.edges == (0.0, 25.0, 50.0, 75.0, 100.0)
    assert histogram.counts == (25, 25, 25, 26)  # the last one holds its upper edge
    alone = Histogram.of([2.0, 2.0], bin_edges([2.0, 2.0], 3))
    assert sum(alone.counts) == 2 and len(alone.edges) == 4
