"""Learning rates of runs on logs: a wait, a rise, a cosine fall to 0, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import offline

UPDATES = 20


def moves(**settings) -> np.ndarray:
    """How far each update moves a weight of gradient 1: Adam steps by the rate."""
    config = offline.Optimizer(learning_rate=0.1, max_grad_norm=10.0, **settings)
    optimizer = offline.make_optimizer(config, UPDATES)
    params, found = jnp.float32(0.0), []
    state = optimizer.init(params)
    for _ in range(UPDATES):
        change, state = optimizer.update(jnp.float32(1.0), state, params)
        found.append(-np.asarray(change).item())
    return np.array(found)


@pytest.mark.parametrize("wait, still", [(0.0, 0), (0.25, 5), (0.4, 8)])
def test_a_wait_then_a_rise_then_a_fall(wait, still):
    moving = UPDATES - still
    rise = round(0.2 * moving)
    steps = np.arange(moving)
    fall = 0.05 * (1 + np.cos(np.pi * (steps - rise) / (moving - rise)))
    expected = np.where(steps < rise, 0.1 * steps / rise, fall)
    found = moves(wait=wait, warmup=0.2)
    np.testing.assert_array_equal(found[:still], 0)
    np.testing.assert_allclose(found[still:], expected, rtol=1e-4, atol=1e-7)


def test_a_wait_of_all_updates_leaves_the_last():
    found = moves(wait=1.0, warmup=0.0)
    np.testing.assert_array_equal(found[:-1], 0)
    np.testing.assert_allclose(found[-1], 0.1, rtol=1e-4)
