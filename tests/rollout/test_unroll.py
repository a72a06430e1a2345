"""Acting in toy environments that count."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rollout.unroll import environment_keys, map_selected, unroll
from rljax.types import TimeStep


def advance(envs, command):
    """A counter to three, then anew; `command` is added to it."""
    reached = envs + command
    ended = reached >= 3
    obs = jnp.where(ended, 0, reached)
    no = jnp.zeros_like(ended)
    reward = ended.astype(jnp.float32)
    return obs, TimeStep(obs, reached, reward, ended, no, no[:, None])


def act(obs, keys):
    return jax.vmap(lambda key: jax.random.randint(key, (), 1, 3))(keys)


def run(first_index, num_envs, key):
    start = jnp.zeros(num_envs, jnp.int32)
    return unroll(
        act, lambda a: a, advance, start, start, key, 6, first_index=first_index
    )


def test_records_where_each_step_was_taken_and_where_it_led():
    envs, obs, trajectory = run(0, 4, jax.random.key(0))
    assert trajectory.obs.shape == (6, 4)
    np.testing.assert_array_equal(
        trajectory.obs + trajectory.action, trajectory.step.reached
    )
    np.testing.assert_array_equal(trajectory.obs[1:], trajectory.step.obs[:-1])
    np.testing.assert_array_equal(trajectory.step.obs[-1], obs)
    assert bool(trajectory.step.terminated.any())
    assert len(np.unique(trajectory.action)) == 2


def test_an_environment_does_the_same_wherever_it_is_dealt_to():
    key = jax.random.key(7)
    _, _, whole = run(0, 6, key)
    _, _, share = run(4, 2, key)
    np.testing.assert_array_equal(whole.action[:, 4:], share.action)
    keys = jax.random.key_data(environment_keys(key, 6))
    assert len(np.unique(keys, axis=0)) == 6


def test_map_selected_calls_only_as_often_as_needed():
    calls = []

    def double(x):
        jax.debug.callback(lambda _: calls.append(1), x)
        return 2.0 * x

    rng = np.random.default_rng(0)
    items = jnp.asarray(rng.normal(size=20), jnp.float32)
    for count, expected_calls in ((0, 0), (1, 1), (4, 1), (5, 2), (20, 5)):
        selected = np.zeros(20, bool)
        selected[rng.permutation(20)[:count]] = True
        calls.clear()
        out = jax.jit(lambda i, s: map_selected(double, i, s, 4))(items, selected)
        jax.effects_barrier()
        np.testing.assert_allclose(out, np.where(selected, 2 * items, 0))
        assert len(calls) == expected_calls
