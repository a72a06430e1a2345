"""Intervals of paired differences: against a likelihood maximised, and their coverage.

Coverage is exact: every outcome of n problems is listed with its probability.
"""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from rljax.training import paired


def score_by_hand(gained, lost, count, at):
    """Tango's statistic with the likelihood maximised by a search."""
    same = count - gained - lost

    def minus_log_likelihood(q):
        chances = [(gained, q + at), (lost, q), (same, 1 - 2 * q - at)]
        return -sum(n * math.log(max(p, 1e-300)) for n, p in chances if n)

    span = (max(0.0, -at), (1 - at) / 2)
    q = optimize.minimize_scalar(
        minus_log_likelihood, bounds=span, method="bounded", options={"xatol": 1e-12}
    ).x
    error = math.sqrt(count * (2 * q + at - at * at))
    return (gained - lost - count * at) / error


@pytest.mark.parametrize(
    ("gained", "lost", "count"), [(9, 3, 44), (1, 12, 60), (30, 25, 200), (5, 1, 9)]
)
def test_the_score_test_is_on_its_border_at_both_ends(gained, lost, count):
    middle, low, high = paired.difference(gained, lost, count)
    assert middle == (gained - lost) / count
    z = stats.norm.ppf(0.975)
    assert score_by_hand(gained, lost, count, low) == pytest.approx(z, abs=1e-4)
    assert score_by_hand(gained, lost, count, high) == pytest.approx(-z, abs=1e-4)


def test_no_pair_that_differs_leaves_an_interval_of_wilsons_width():
    # q = 0 there, so n D^2 = z^2 D (1 - D) and D = z^2 / (n + z^2).
    z2 = stats.norm.ppf(0.975) ** 2
    middle, low, high = paired.difference(0, 0, 50)
    assert (middle, high) == (0.0, pytest.approx(z2 / (50 + z2)))
    assert low == pytest.approx(-high)


def test_swapping_the_policies_turns_the_interval_round():
    middle, low, high = paired.difference(17, 6, 90)
    assert paired.difference(6, 17, 90) == pytest.approx((-middle, -high, -low))


@pytest.mark.parametrize("count", [20, 60])
@pytest.mark.parametrize(
    ("chance", "shift"),
    [(0.1, 0.0), (0.3, 0.0), (0.05, 0.1), (0.1, 0.2), (0.02, 0.05), (0.0, 0.15)],
)
def test_intervals_cover_the_truth_in_95_of_100_cases(count, chance, shift):
    covered = promoted = 0.0
    for gained in range(count + 1):
        for lost in range(count + 1 - gained):
            outcome = [gained, lost, count - gained - lost]
            odds = [chance + shift, chance, 1 - 2 * chance - shift]
            weight = stats.multinomial.pmf(outcome, count, odds)
            if weight < 1e-9:
                continue
            _, low, high = paired.difference(gained, lost, count)
            covered += weight * (low <= shift <= high)
            promoted += weight * (low > shift)
    assert 0.93 <= covered <= 1.0
    assert promoted <= 0.037  # asked for a gain of `shift`, which is not exceeded


def test_outcomes_are_paired_problem_by_problem():
    first = np.array([1, 1, 0, 0, 1, 0], bool)
    second = np.array([1, 0, 1, 1, 1, 0], bool)
    found = paired.compare("all", first, second)
    assert (found.gained, found.lost, found.count) == (2, 1, 6)
    assert (found.first, found.second) == (0.5, pytest.approx(4 / 6))
    assert found[6:] == paired.difference(2, 1, 6)


def test_kinds_that_lost_come_first():
    first = np.array([1, 1, 0, 0, 1, 1], bool)
    second = np.array([0, 0, 1, 1, 1, 1], bool)
    found = paired.by_kind(
        ["lost", "lost", "won", "won", "same", "same"], first, second
    )
    assert [one.name for one in found] == ["lost", "same", "won"]
    assert [one.difference for one in found] == [-1.0, 0.0, 1.0]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="of 3 problems 2 were gained and 2 lost"):
        paired.difference(2, 2, 3)
    with pytest.raises(ValueError, match="one at least"):
        paired.compare("none", np.zeros(0, bool), np.zeros(0, bool))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        paired.compare("all", np.zeros(2, bool), np.zeros(3, bool))
    with pytest.raises(ValueError, match="1 kinds are given for 2"):
        paired.by_kind(["a"], np.zeros(2, bool), np.zeros(2, bool))
