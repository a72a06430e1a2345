"""Advantages of groups: by hand, against numpy, with answers missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import groups

ALL = jnp.ones((2, 4), bool)


def test_centred_by_hand():
    reward = jnp.array([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    # Means 1/4 and 1.
    np.testing.assert_allclose(
        groups.centred(reward, ALL), [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]
    )


def test_standardised_by_hand():
    reward = jnp.array([[1.0, 0.0, 0.0, 1.0], [4.0, 0.0, 0.0, 0.0]])
    # Means 1/2 and 1; mean squares 1/4 and (9 + 3) / 4 = 3.
    root = np.sqrt(3)
    np.testing.assert_allclose(
        groups.standardised(reward, ALL, epsilon=0.0),
        [[1, -1, -1, 1], [3 / root, -1 / root, -1 / root, -1 / root]],
        rtol=1e-6,
    )


def test_equal_rewards_teach_nothing():
    """0.1 seven times has a mean that is not 0.1 in float32, and no variance."""
    reward, mask = jnp.full((1, 7), 0.1), jnp.ones((1, 7), bool)
    assert not groups.varied(reward, mask)[0]
    np.testing.assert_array_equal(groups.standardised(reward, mask), 0.0)


def test_who_is_not_there_does_not_count():
    nan = jnp.nan
    reward = jnp.array([[1.0, nan, 0.0, nan], [1.0, nan, nan, nan], [nan] * 4])
    mask = ~jnp.isnan(reward)
    np.testing.assert_array_equal(groups.varied(reward, mask), [True, False, False])
    np.testing.assert_allclose(groups.group_mean(reward, mask), [0.5, 1.0, 0.0])
    expected = [[0.5, 0, -0.5, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(groups.centred(reward, mask), expected)
    np.testing.assert_allclose(
        groups.standardised(reward, mask), 2 * np.array(expected), rtol=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_is_numpys(seed):
    rng = np.random.default_rng(seed)
    reward = rng.choice([0.0, 0.2, 1.0], size=(6, 5)).astype(np.float32)
    mask = rng.random((6, 5)) < 0.7
    varied = jax.jit(groups.varied)(reward, mask)
    centred = jax.jit(groups.centred)(np.where(mask, reward, np.nan), mask)
    scaled = jax.jit(groups.standardised)(np.where(mask, reward, np.nan), mask)
    for n in range(6):
        there = reward[n, mask[n]]
        if not len(there):
            continue
        apart = there - there.mean()
        np.testing.assert_allclose(centred[n][mask[n]], apart, atol=1e-6)
        np.testing.assert_allclose(
            scaled[n][mask[n]], apart / (there.std() + 1e-6), rtol=1e-4, atol=1e-5
        )
        assert varied[n] == (len(set(there.tolist())) > 1)
    np.testing.assert_array_equal(np.asarray(scaled)[~mask], 0.0)
    np.testing.assert_array_equal(np.asarray(centred)[~mask], 0.0)


def test_a_group_does_not_know_of_others():
    reward = jnp.array([[1.0, 0.0], [5.0, 5.0]])
    mask = jnp.ones((2, 2), bool)
    alone = groups.standardised(reward[:1], mask[:1])
    np.testing.assert_array_equal(groups.standardised(reward, mask)[:1], alone)


def test_refuses_another_shape():
    with pytest.raises(AssertionError):
        groups.centred(jnp.zeros(4), jnp.ones(4, bool))
