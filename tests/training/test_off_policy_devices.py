"""The compiled off-policy loop on eight devices does what it does on one."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.training import off_policy
from tests.training.off_policy_run import ENVS, OBJECTS


def as_on_one(local, count: int):
    """What the environments of all devices see, do and remember, in their order."""
    length = local.episodes.length.reshape(-1)
    seen = jax.tree.map(
        lambda x: np.asarray(x).reshape(ENVS, *x.shape[1 + (count > 1) :]),
        (local.obs, local.envs.states, local.envs.next, local.episodes.action),
    )
    return seen, np.asarray(length)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_eight_devices_do_as_one(eight, past):
    state, local = eight.init()
    names = np.asarray(local.obs.names).reshape(ENVS, -1)
    assert len({tuple(row) for row in names.tolist()}) == ENVS
    metrics = {}
    for number in range(1, 13):  # random play
        state, local, metrics = eight.call(state, local)
        assert_same(as_on_one(local, 8), as_on_one(past.locals[number], 1))
        assert metrics["env_steps"] == ENVS * number
        assert metrics["replay/original_size"] == past.locals[number].original.size
    assert metrics["updates"] == 0
    for _ in range(13, 41):
        state, local, metrics = eight.call(state, local)
    assert metrics["env_steps"] == 40 * ENVS and 5 < metrics["updates"] < 20
    assert np.isfinite(metrics["critic/loss"])
    assert np.isclose(metrics["replay/hindsight_share"], 0.5, atol=0.4)
    assert metrics["replay/original_size"] == local.original.size.sum()
    assert len({tuple(np.ravel(x)) for x in np.asarray(local.obs.names)}) == ENVS
    assert len(eight.traced) == 1


def test_goes_on_with_eight_devices(eight, past):
    """Where one device stopped; random play does not notice."""
    local = off_policy.redistribute(past.locals[12], 1, 8)
    state = jax.tree.map(jnp.asarray, past.states[12])
    for number in range(13, 19):
        state, local, _ = eight.call(state, local)
        assert_same(as_on_one(local, 8), as_on_one(past.locals[number], 1))
    assert len(eight.traced) == 1


def test_redistributed_and_back(past):
    local = past.locals[40]
    four = off_policy.redistribute(local, 1, 4)
    assert four.first_index.tolist() == [0, 2, 4, 6]
    assert four.obs.names.shape == (4, 2, OBJECTS)
    back = jax.device_get(off_policy.redistribute(four, 4, 1))
    ours, theirs = (jax.random.key_data(x.envs.keys) for x in (local, back))
    np.testing.assert_array_equal(ours, theirs)
    for name in ("obs", "episodes", "bad_batch", "env_steps", "stuck", "first_index"):
        assert_same(getattr(local, name), getattr(back, name))
    assert_same(local.envs.states, back.envs.states)
    assert_same(local.envs.pool, back.envs.pool)
    for ours, theirs in (
        (local.original, back.original),
        (local.relabelled, back.relabelled),
    ):
        size = int(ours.size)
        assert size == theirs.size > 0
        assert_same(
            jax.tree.map(lambda x, n=size: x[:n], ours.data),
            jax.tree.map(lambda x, n=size: x[:n], theirs.data),
        )
