"""Choosing a command."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.policy.sample import sample_commands

LOG_PI = jnp.log(jnp.array([0.1, 0.6, 0.3, 0.0]))


def draw(temperature, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    rows = jnp.broadcast_to(LOG_PI, (count, 4))
    commands = jax.jit(sample_commands)(rows, keys, temperature)
    return np.bincount(np.asarray(commands), minlength=4) / count


def test_temperature_one_draws_from_the_policy():
    # Three standard errors at 4,000 draws: 0.024.
    np.testing.assert_allclose(draw(1.0), [0.1, 0.6, 0.3, 0.0], atol=0.024)


def test_temperature_half_squares_the_odds():
    # 0.01 : 0.36 : 0.09 of 0.46.
    np.testing.assert_allclose(draw(0.5), [0.022, 0.783, 0.196, 0.0], atol=0.024)


def test_zero_is_greedy_and_infinity_uniform_over_the_admissible():
    np.testing.assert_array_equal(draw(0.0), [0, 1, 0, 0])
    np.testing.assert_allclose(draw(float("inf")), [1 / 3] * 3 + [0], atol=0.024)
