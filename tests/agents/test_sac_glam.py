"""SAC-GLAM's update on a toy policy: three states, four commands, small tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import sac_glam
from rljax.agents.base import Agent
from rljax.losses import soft_bellman
from rljax.policy.networks import Networks
from rljax.training import devices
from rljax.types import Transition
from tests.agents.on_devices import assert_eight_equal_one

STATES, COMMANDS, WIDTH = 3, 4, 5
# Command 3 is not admissible in state 0, commands 2 and 3 are not in state 1.
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)


def toy_networks() -> Networks:
    """A trunk that looks its features up, and linear heads on them."""

    def init_trunk(key):
        keys = jax.random.split(key)
        return {
            "features": jax.random.normal(keys[0], (STATES, COMMANDS, WIDTH)),
            "out": jax.random.normal(keys[1], (WIDTH,)),
        }

    def log_policy(trunk, hidden, trie):
        scores = jnp.where(trie, hidden @ trunk["out"], -jnp.inf)
        return jax.nn.log_softmax(scores, axis=-1)

    return Networks(
        init_trunk=init_trunk,
        init_q=lambda key: 0.1 * jax.random.normal(key, (WIDTH,)),
        init_v=lambda key: jnp.zeros(WIDTH),
        encode=lambda trunk, prompt, trie: trunk["features"][prompt],
        log_policy=log_policy,
        q=lambda head, hidden, trie: hidden @ head,
        v=lambda head, hidden: hidden[:, 0] @ head,
        logits=lambda trunk, tokens: jnp.zeros((1, 1, 1)),  # not called
    )


def make_agent(axis_name=None, error=soft_bellman.sigmoid_cross_entropy, **settings):
    return sac_glam.make(
        toy_networks(),
        lambda obs: (obs, jnp.asarray(MASK)[obs]),
        sac_glam.Config(**settings),
        error,
        axis_name,
    )


def make_batch(size=16, seed=0) -> Transition:
    rng = np.random.default_rng(seed)
    obs = rng.integers(0, STATES, size)
    return Transition(
        obs=jnp.asarray(obs),
        action=jnp.asarray([rng.choice(np.flatnonzero(MASK[s])) for s in obs]),
        reward=jnp.asarray(rng.integers(0, 2, size), jnp.float32),
        discount=jnp.asarray(rng.choice([0.0, 0.9, 0.81], size), jnp.float32),
        reached=jnp.asarray(rng.integers(0, STATES, size)),
    )


def run(agent: Agent, batch: Transition, updates=1, seed=0):
    state = agent.init(jax.random.key(seed))
    update = jax.jit(agent.update)
    metrics = {}
    for _ in range(updates):
        state, metrics = update(state, batch)
    return state, metrics


def equal(a, b) -> bool:
    same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b)
    return all(jax.tree.leaves(same))


def log_pi_of(agent, state):
    obs = jnp.arange(STATES)
    keys = jax.random.split(jax.random.key(0), STATES)
    return agent.act(agent.params(state), obs, keys).log_pi


def test_losses_are_those_of_a_plain_loop():
    agent = make_agent(alpha=0.3, entropy_in_target=0.5)
    batch = make_batch()
    state = agent.init(jax.random.key(3))
    # Make the slow copy differ, so that mixing them up shows.
    state = dataclasses.replace(
        state, target=jax.tree.map(lambda x: 0.5 * x, state.target)
    )
    _, metrics = agent.update(state, batch)

    def tables(params):
        f = np.asarray(params["actor"]["features"], np.float64)
        scores = f @ np.asarray(params["actor"]["out"], np.float64)
        pi = np.where(MASK, np.exp(scores), 0)
        pi /= pi.sum(-1, keepdims=True)
        q = 1 / (1 + np.exp(-(f @ np.asarray(params["q"], np.float64))))
        return pi, q

    pi, q = tables(state.params)
    _, slow_q = tables(state.target)
    critic, actor = 0.0, 0.0
    for i in range(16):
        s, a, s2 = int(batch.obs[i]), int(batch.action[i]), int(batch.reached[i])
        soft = sum(
            pi[s2, b] * (slow_q[s2, b] - 0.5 * 0.3 * np.log(pi[s2, b]))
            for b in np.flatnonzero(MASK[s2])
        )
        y = float(batch.reward[i]) + float(batch.discount[i]) * soft
        critic += -(y * np.log(q[s, a]) + (1 - y) * np.log(1 - q[s, a])) / 16
        actor += (
            sum(
                pi[s, b] * (0.3 * np.log(pi[s, b]) - q[s, b])
                for b in np.flatnonzero(MASK[s])
            )
            / 16
        )
    np.testing.assert_allclose(metrics["critic/loss"], critic, rtol=1e-5)
    np.testing.assert_allclose(metrics["train/policy_loss"], actor, rtol=1e-5)


@pytest.mark.parametrize("shared_trunk", [True, False])
def test_warmup_moves_the_critic_and_not_a_bit_of_the_policy(shared_trunk):
    agent = make_agent(warmup_updates=5, shared_trunk=shared_trunk)
    start = agent.init(jax.random.key(0))
    state, _ = run(agent, make_batch(), updates=5)
    assert equal(log_pi_of(agent, start), log_pi_of(agent, state))
    assert equal(start.params["actor"], state.params["actor"])
    assert not equal(start.params["q"], state.params["q"])
    if not shared_trunk:
        assert not equal(start.params["critic"], state.params["critic"])
    state, _ = run(agent, make_batch(), updates=6)
    assert not equal(start.params["actor"], state.params["actor"])


def test_gradients_go_where_the_docstring_says():
    # No actor loss: on separate trunks the language model stays where it is, on a
    # shared one the critic moves it.
    for shared, moves in ((False, False), (True, True)):
        agent = make_agent(actor_weight=0.0, shared_trunk=shared)
        start = agent.init(jax.random.key(0))
        state, _ = run(agent, make_batch())
        assert equal(start.params["actor"], state.params["actor"]) is not moves
    # The actor's loss leaves the critic alone: with a batch on whose targets Q is
    # already right, squared error has no gradient and only the actor moves.
    agent = make_agent(error=soft_bellman.squared_error, shared_trunk=False, alpha=0.5)
    start = agent.init(jax.random.key(0))
    start = dataclasses.replace(
        start, params=start.params | {"q": jnp.zeros_like(start.params["q"])}
    )
    batch = dataclasses.replace(
        make_batch(), reward=jnp.zeros(16), discount=jnp.zeros(16)
    )
    state, _ = agent.update(start, batch)
    assert equal(start.params["q"], state.params["q"])
    assert equal(start.params["critic"], state.params["critic"])
    assert not equal(start.params["actor"], state.params["actor"])


def test_target_is_a_hard_copy_then_follows_by_polyak():
    agent = make_agent(target_step=0.25)
    start = agent.init(jax.random.key(0))
    assert equal(start.target, start.params)
    state, _ = agent.update(start, make_batch())
    expected = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * new, start.params, state.params
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.target, expected
    )


def test_a_batch_that_is_not_finite_is_skipped_and_counted():
    agent = make_agent(alpha_target_ratio=0.5)
    good = make_batch()
    bad = dataclasses.replace(good, reward=good.reward.at[3].set(jnp.nan))
    update = jax.jit(agent.update)
    start, _ = update(agent.init(jax.random.key(0)), good)
    state, _ = update(start, bad)
    state, _ = update(state, bad)
    assert (int(state.updates), int(state.skipped)) == (3, 2)
    assert int(state.skipped_in_row) == 2
    for name in ("params", "target", "opt_state", "log_alpha", "alpha_opt_state"):
        assert equal(getattr(start, name), getattr(state, name)), name
    state, _ = update(state, good)
    assert (int(state.skipped), int(state.skipped_in_row)) == (2, 0)
    assert not equal(start.params, state.params)


def test_alpha_fixed_annealed_and_automatic():
    fixed, _ = run(make_agent(alpha=0.2), make_batch(), updates=3)
    np.testing.assert_allclose(jnp.exp(fixed.log_alpha), 0.2, rtol=1e-6)
    # log alpha falls by 0.1 an update: 0.2 exp(-0.3).
    falling, _ = run(make_agent(alpha=0.2, alpha_decay=0.1), make_batch(), updates=3)
    np.testing.assert_allclose(jnp.exp(falling.log_alpha), 0.2 * np.exp(-0.3), 1e-5)
    # Entropy above its target lowers alpha, below it raises alpha.
    low, _ = run(make_agent(alpha=0.2, alpha_target_ratio=1e-4), make_batch())
    high, _ = run(make_agent(alpha=0.2, alpha_target_ratio=2.0), make_batch())
    assert float(low.log_alpha) < np.log(0.2) < float(high.log_alpha)


def test_kl_to_the_initial_policy_is_zero_at_first_and_holds_it_back():
    free, _ = run(make_agent(learning_rate=0.1), make_batch(), updates=20)
    held_agent = make_agent(learning_rate=0.1, kl_weight=10.0)
    start = held_agent.init(jax.random.key(0))
    _, metrics = held_agent.update(start, make_batch())
    np.testing.assert_allclose(metrics["train/kl_to_initial"], 0.0, atol=1e-6)
    held, _ = run(held_agent, make_batch(), updates=20)
    first = log_pi_of(held_agent, start)
    pi = jnp.exp(first)

    def moved(state):
        change = jnp.where(MASK, first - log_pi_of(held_agent, state), 0.0)
        return float(jnp.sum(jnp.where(MASK, pi, 0.0) * change))

    assert moved(held) < 0.2 * moved(free)


@pytest.mark.parametrize(
    "settings",
    [{}, {"alpha_target_ratio": 0.5}, {"shared_trunk": False, "kl_weight": 0.3}],
    ids=["shared", "automatic alpha", "separate trunk and KL"],
)
def test_eight_devices_equal_one(settings):
    ways = (devices.pmap,) if settings else (devices.pmap, devices.mesh)
    assert_eight_equal_one(
        lambda axis_name: make_agent(axis_name, **settings),
        make_batch(64, seed=1),
        ways=ways,
    )


def test_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        make_agent(alpha=0.0)
