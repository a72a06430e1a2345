"""Draws of goals: their chances, and that none is drawn that may not be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.replay import strategies
from rljax.replay.strategies import PerGoal

# Five single goals, of which 1 and 3 may come first.
ALLOWED = np.zeros((5, 5), bool)
ALLOWED[1, [0, 2, 3]] = True
ALLOWED[3, [1, 4]] = True
TRAIN = np.array([1, 1, 1, 1, 0], bool)
KIND = np.array([0, 0, 0, 1, 1])
SEQUENCE_KIND = np.full((5, 5), 2)
TABLE = strategies.goal_table(TRAIN, ALLOWED, KIND, SEQUENCE_KIND)
COUNTS = PerGoal(jnp.array([0, 1, 3, 0, 0]), jnp.zeros((2, 5), int).at[0, 2].set(9))
SINGLES = [(g, -1) for g in range(5)]
PAIRS = [(first, second) for first in (1, 3) for second in range(5)]


def flat(values: PerGoal) -> np.ndarray:
    return np.concatenate([values.single, np.ravel(values.pair)])


@functools.partial(jax.jit, static_argnums=(3, 4))
def draw_many(seeds, mask, counts, weighting, num_goals):
    return jax.vmap(
        lambda seed: strategies.draw_goals(
            jax.random.key(seed), mask, counts, weighting, TABLE, num_goals
        )
    )(seeds)


def draws(mask: PerGoal, weighting, num_goals: int, trials: int = 4000, counts=COUNTS):
    """Goals drawn in each trial, as a list of lists without the empty places."""
    seeds = jnp.arange(trials)
    goals = np.asarray(draw_many(seeds, mask, counts, weighting, num_goals))
    return [[tuple(g) for g in trial if g[0] >= 0] for trial in goals.tolist()]


WEIGHTINGS = {
    # 4 singles and 5 sequences.
    strategies.uniform: np.full(9, 1 / 9),
    # Kind 0: goals 0 1 2; kind 1: goal 3; kind 2: five sequences.
    strategies.uniform_by_kind: np.array([1 / 9] * 3 + [1 / 3] + [1 / 15] * 5),
    # Weights 1 1/2 1/4 1, and 1 1/10 1 for goal 1 first, 1 1 for goal 3: 6.85.
    strategies.inverse_frequency: np.array([1, 0.5, 0.25, 1, 1, 0.1, 1, 1, 1]) / 6.85,
}


@pytest.mark.parametrize("weigh", WEIGHTINGS, ids=["uniform", "by_kind", "rare_first"])
@pytest.mark.parametrize("num_goals", [1, 4])
def test_draws_with_the_chances_of_the_weighting(weigh, num_goals):
    mask = TABLE.train
    trials = draws(mask, weigh, num_goals)
    goals = np.array(SINGLES + PAIRS)[flat(mask)]
    found = [[trial.count(tuple(g)) for g in goals.tolist()] for trial in trials]
    assert np.max(found) == 1  # never twice
    expected = np.minimum(1.0, num_goals * WEIGHTINGS[weigh])
    # 4000 trials: a standard error below 0.008.
    np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.035)
    assert sum(map(sum, found)) == sum(map(len, trials))  # nothing else


def test_by_kind_shares_among_the_kinds_that_have_candidates():
    mask = PerGoal(jnp.array([1, 1, 0, 0, 0], bool), jnp.zeros((2, 5), bool))
    mask = mask._replace(pair=mask.pair.at[1, 4].set(True))
    drawn = [trial[0] for trial in draws(mask, strategies.uniform_by_kind, 1)]
    share = [drawn.count(g) / 4000 for g in [(0, -1), (1, -1), (3, 4)]]
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.035)


def test_draws_every_candidate_when_there_are_few():
    mask = PerGoal(jnp.array([1, 0, 1, 0, 0], bool), jnp.zeros((2, 5), bool))
    mask = mask._replace(pair=mask.pair.at[0, 3].set(True))
    for trial in draws(mask, strategies.uniform, 4, trials=50):
        assert sorted(trial) == [(0, -1), (1, 3), (2, -1)]


@pytest.mark.parametrize("num_goals", [1, 4])
def test_draws_nothing_from_nothing(num_goals):
    nothing = jax.tree.map(jnp.zeros_like, TABLE.train)
    assert draws(nothing, strategies.uniform_by_kind, num_goals, trials=5) == [[]] * 5


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.05, 1), st.floats(0, 12))
def test_never_draws_what_is_no_candidate(seed, density, spread):
    """Weights of many sizes, whose rounded sums leave gaps and overhangs."""
    rng = np.random.default_rng(seed)
    mask = PerGoal(*(jnp.asarray(rng.random(x.shape) < density) for x in COUNTS))
    sizes = PerGoal(
        *(jnp.asarray(10 ** rng.uniform(0, spread, x.shape), "f4") for x in COUNTS)
    )
    allowed = {g for g, ok in zip(SINGLES + PAIRS, flat(mask), strict=True) if ok}
    for trial in draws(mask, strategies.inverse_frequency, 4, 50, counts=sizes):
        assert set(trial) <= allowed and len(set(trial)) == len(trial)
        assert bool(trial) == bool(allowed)


def test_rounding_picks_nothing_without_weight():
    weights = jnp.array([[0, 2, 0, 1, 0]] * 5, jnp.float32)
    points = jnp.array([0, 1.5, 2, 3, 3.1])  # the last two lie past the end
    index, rest = strategies.inverse_cdf(weights, points)
    assert index.tolist() == [1, 1, 3, 3, 3]
    np.testing.assert_allclose(rest, [0, 1.5, 0, 1, 1.1], atol=1e-6)


def test_sequences_can_be_left_out():
    table = strategies.goal_table(TRAIN)
    counts = strategies.zero_counts(table)
    assert counts.single.shape == (5,) and counts.pair.shape == (1, 5)

    @jax.jit
    def draw(key):
        return strategies.draw_goals(
            key, table.train, counts, strategies.uniform_by_kind, table, 6
        )

    goals = sorted(draw(jax.random.key(0)).tolist())
    assert goals == [[-1, -1]] * 2 + [[g, -1] for g in range(4)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros(3, bool),), "none of 3 goals may be relabelled with"),
        ((TRAIN, ALLOWED[:2]), r"sequence_allowed has shape \(2, 5\), expected \(5, 5"),
        ((TRAIN, ALLOWED, KIND[:3]), r"kind has shape \(3,\), expected \(5,\)"),
    ],
)
def test_rejects_tables_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        strategies.goal_table(*arguments)
