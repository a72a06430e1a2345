"""PPO-GLAM's update on a toy policy, against numbers worked out by hand."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import ppo_glam
from rljax.agents.base import Action
from rljax.policy.networks import Networks
from rljax.rollout.unroll import Trajectory
from rljax.types import TimeStep
from tests.agents.on_devices import assert_eight_equal_one

STATES, COMMANDS = 3, 4
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)


def make_agent(axis_name=None, **settings):
    def log_policy(trunk, hidden, trie):
        return jax.nn.log_softmax(jnp.where(trie, hidden, -jnp.inf))

    networks = Networks(
        init_trunk=lambda key: jax.random.normal(key, (STATES, COMMANDS)),
        init_q=lambda key: (),
        init_v=lambda key: jnp.float32(1.0),
        encode=lambda trunk, prompt, trie: trunk[prompt],
        log_policy=log_policy,
        q=lambda head, hidden, trie: hidden,
        v=lambda head, hidden: head * hidden[:, 0],
        logits=lambda trunk, tokens: jnp.zeros((1, 1, 1)),  # not called
    )

    def read(obs):
        return obs, jnp.asarray(MASK)[obs]

    return ppo_glam.make(networks, read, ppo_glam.Config(**settings), axis_name)


def make_batch(size=16):
    rng = np.random.default_rng(0)
    obs = rng.integers(0, STATES, size)
    return ppo_glam.Batch(
        obs=jnp.asarray(obs),
        action=jnp.asarray([rng.choice(np.flatnonzero(MASK[s])) for s in obs]),
        log_pi=jnp.asarray(rng.uniform(-2, -0.5, size), jnp.float32),
        value=jnp.asarray(rng.normal(size=size), jnp.float32),
        advantage=jnp.asarray(rng.normal(size=size), jnp.float32),
        target=jnp.asarray(rng.normal(size=size), jnp.float32),
    )


def test_losses_are_those_of_a_plain_loop():
    agent = make_agent(clip=0.2)
    state, batch = agent.init(jax.random.key(0)), make_batch()
    _, metrics = agent.update(state, batch)
    table = np.asarray(state.params["actor"], np.float64)
    policy = value = entropy = 0.0
    for i in range(16):
        s, a = int(batch.obs[i]), int(batch.action[i])
        p = np.where(MASK[s], np.exp(table[s]), 0)
        p /= p.sum()
        ratio = p[a] / np.exp(float(batch.log_pi[i]))
        gain = float(batch.advantage[i])
        policy -= min(ratio * gain, np.clip(ratio, 0.8, 1.2) * gain) / 16
        old, goal = float(batch.value[i]), float(batch.target[i])
        near = old + np.clip(table[s, 0] - old, -0.2, 0.2)
        value += max((table[s, 0] - goal) ** 2, (near - goal) ** 2) / 16
        entropy -= sum(p[b] * np.log(p[b]) for b in np.flatnonzero(MASK[s])) / 16
    np.testing.assert_allclose(metrics["train/policy_loss"], policy, rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["train/entropy"], entropy, rtol=1e-5)


def test_entropy_weight_falls_with_updates_taken():
    # Without advantages and value loss only the entropy moves the policy: the third
    # update of a falling weight is that of a fixed one of 0.2 exp(-2 * 0.7).
    batch = make_batch()._replace(advantage=jnp.zeros(16))
    settings = {"value_weight": 0.0, "max_grad_norm": 1e6}
    falling = make_agent(entropy_weight=0.2, entropy_decay=0.7, **settings)
    fixed = make_agent(entropy_weight=0.2 * np.exp(-1.4), **settings)
    start = falling.init(jax.random.key(0))
    after_two = dataclasses.replace(start, updates=jnp.int32(2))
    moved, metrics = falling.update(after_two, batch)
    asked, _ = fixed.update(start, batch)
    np.testing.assert_allclose(
        metrics["train/entropy_weight"], 0.2 * np.exp(-1.4), rtol=1e-6
    )
    # First moments, since the first step of Adam forgets the size of a gradient.
    got, want = (
        [x for x in jax.tree.leaves(s.opt_state) if x.dtype == jnp.float32]
        for s in (moved, asked)
    )
    assert max(float(jnp.abs(leaf).max()) for leaf in want) > 1e-4
    chex.assert_trees_all_close(got, want, rtol=1e-5)
    _, first = falling.update(start, batch)
    np.testing.assert_allclose(first["train/entropy_weight"], 0.2, rtol=1e-6)


def test_a_batch_of_a_rollout_by_hand():
    # One environment, three steps: the episode is cut off after the second, where
    # V(reached) = 5; the third starts a new one and ends in success.
    #   scale 2, gamma 0.5, lambda 0.5, V = 1, 2, 3
    #   delta_2 = 2*1 + 0       - 3 = -1     A_2 = -1
    #   delta_1 = 0   + 0.5 * 5 - 2 = 0.5    A_1 = 0.5 (never across the reset)
    #   delta_0 = 0   + 0.5 * 2 - 1 = 0      A_0 = 0 + 0.25 * 0.5 = 0.125
    config = ppo_glam.Config(
        gamma=0.5, gae_lambda=0.5, reward_scale=2.0, normalise_advantages=False
    )
    log_pi = jnp.log(jnp.array([[[0.25, 0.75]], [[0.5, 0.5]], [[1.0, 0.0]]]))
    action = Action(
        command=jnp.array([[1], [0], [0]]),
        log_pi=log_pi,
        value=jnp.array([[1.0], [2.0], [3.0]]),
        q=jnp.zeros((3, 1, 2)),
    )
    step = TimeStep(
        obs=(),
        reached=(),
        reward=jnp.array([[0.0], [0.0], [1.0]]),
        terminated=jnp.array([[False], [False], [True]]),
        truncated=jnp.array([[False], [True], [False]]),
        achieved=jnp.zeros((3, 1, 1), bool),
    )
    trajectory = Trajectory(jnp.arange(3)[:, None], action, step)
    reached = jnp.array([[2.0], [5.0], [jnp.nan]])
    batch = ppo_glam.to_batch(config, trajectory, reached)
    np.testing.assert_allclose(batch.advantage, [0.125, 0.5, -1.0], rtol=1e-6)
    np.testing.assert_allclose(batch.target, [1.125, 2.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(batch.log_pi, np.log([0.75, 0.5, 1.0]), rtol=1e-6)
    np.testing.assert_array_equal(batch.obs, [0, 1, 2])


def test_eight_devices_equal_one():
    assert_eight_equal_one(make_agent, make_batch(64))


def test_a_batch_that_is_not_finite_is_skipped_and_counted():
    agent, batch = make_agent(), make_batch()
    start = agent.init(jax.random.key(0))
    state, _ = jax.jit(agent.update)(
        start, batch._replace(advantage=batch.advantage.at[0].set(jnp.inf))
    )
    assert (int(state.updates), int(state.skipped)) == (1, 1)
    jax.tree.map(np.testing.assert_array_equal, start.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, start.opt_state, state.opt_state)
