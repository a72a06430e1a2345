"""Imitation, DPO and KTO: updates against plain ones, and on eight devices."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import imitation, preference
from rljax.data import pairs
from rljax.policy import texts
from rljax.training import devices
from tests.agents import offline_texts as toy
from tests.agents import on_devices

LOG = toy.log()
SINGLE: list[pairs.Item] = [(episode,) for episode in LOG]
PAIRS = 2 * pairs.better_and_worse(LOG, seed=0, most=4)[:4]  # eight devices share them


def sft(axis_name=None):
    settings = imitation.Config(updates=10, actor=on_devices.STEADY)
    return imitation.make(texts.make(toy.CONFIG), settings, axis_name=axis_name)


def dpo(axis_name=None):
    settings = preference.Config(updates=10, actor=on_devices.STEADY)
    loss = preference.dpo(0.3)
    return preference.make(texts.make(toy.CONFIG), loss, settings, axis_name)


def kto(axis_name=None):
    settings = preference.Config(updates=10, actor=on_devices.STEADY)
    loss = preference.kto(0.3, 1.0, 1.5)
    return preference.make(texts.make(toy.CONFIG), loss, settings, axis_name)


CASES: dict[str, tuple[Any, list[pairs.Item]]] = {
    "sft": (sft, SINGLE),
    "dpo": (dpo, PAIRS),
    "kto": (kto, pairs.with_mismatched(SINGLE)),
}


def said(params, episodes):
    """log p of the actions of each text."""
    every = toy.log_probs_of(params, episodes)
    found = []
    for n, episode in enumerate(episodes):
        (places,) = np.nonzero(episode.action)
        found.append(every[n, places - 1, episode.ids[places]])
    return found


def rho(params, reference, episodes):
    pairs_ = zip(said(params, episodes), said(reference, episodes), strict=True)
    return jnp.stack([jnp.sum(own - other) for own, other in pairs_])


def plain(name, params, reference):
    """The loss, one text after the other."""
    items = CASES[name][1]
    if name == "sft":
        return -jnp.mean(jnp.concatenate(said(params, [item[0] for item in items])))
    first = rho(params, reference, [item[0] for item in items])
    second = rho(params, reference, [item[1] for item in items])
    if name == "dpo":
        return -jnp.mean(jnp.log(jax.nn.sigmoid(0.3 * (first - second))))
    z = jax.lax.stop_gradient(jnp.maximum(jnp.mean(second), 0.0))
    good = np.array([item[0].reward > 0.5 for item in items])
    up = 1.0 - jax.nn.sigmoid(0.3 * (first - z))
    down = 1.5 * (1.0 - jax.nn.sigmoid(0.3 * (z - first)))
    return jnp.mean(jnp.where(good, up, down))


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_the_plain_ones(name):
    make, items = CASES[name]
    agent, batch = make(), toy.batch(items)
    state = agent.init(jax.random.key(0), toy.weights())
    update = jax.jit(agent.update)
    state, _ = update(state, batch)  # away from the reference
    new, told = update(state, batch)
    reference = toy.weights()

    @jax.jit
    @jax.value_and_grad
    def expected(params):
        return plain(name, params, reference)

    loss, grad = expected(state.params["actor"])
    np.testing.assert_allclose(told["train/policy_loss"], loss, rtol=2e-5)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grad)))
    np.testing.assert_allclose(told["train/grad_norm"], norm, rtol=2e-4)
    # Downhill as far as the gradient says, to first order.
    step = jax.tree.map(jnp.subtract, new.params["actor"], state.params["actor"])
    slope = sum(
        float(jnp.vdot(g, s))
        for g, s in zip(jax.tree.leaves(grad), jax.tree.leaves(step), strict=True)
    )
    assert slope < 0


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_are_one(name):
    make, items = CASES[name]
    ways = (devices.pmap, devices.mesh) if name == "dpo" else (devices.pmap,)
    on_devices.assert_logs_learnt_alike(make, begin, items, ways)


def begin(agent):
    return agent.init(jax.random.key(0), toy.weights())


def test_imitation_keeps_no_second_model():
    agent = sft()
    assert agent.init(jax.random.key(0), toy.weights()).frozen is None


@pytest.mark.parametrize("name", CASES)
def test_a_policy_may_begin_away_from_the_reference(name):
    make, items = CASES[name]
    agent, other = make(), toy.weights(1)
    state = agent.init(jax.random.key(0), toy.weights(), {"actor": other})
    jax.tree.map(np.testing.assert_array_equal, state.params["actor"], other)
    if state.frozen is not None:
        jax.tree.map(np.testing.assert_array_equal, state.frozen, toy.weights())
    jax.jit(agent.update)(state, toy.batch(items))  # no array is in two places


def test_pairs_are_good_then_bad_of_one_task_and_none_twice():
    found = pairs.better_and_worse(LOG, seed=3, most=3)
    assert all(a.reward == 1 and b.reward == 0 and a.task == b.task for a, b in found)
    names = [(a.line, b.line) for a, b in found]
    assert len(set(names)) == len(names)
    tasks = [a.task for a, _ in found]
    assert max(map(tasks.count, tasks)) <= 3
    assert names != [
        (a.line, b.line) for a, b in pairs.better_and_worse(LOG, seed=4, most=3)
    ]
    with pytest.raises(ValueError, match=r"none of the 1 tasks has .*reward above 0.5"):
        pairs.better_and_worse(LOG[:1], seed=0)


def test_mismatched_answers_follow_the_own_prompt():
    found = pairs.with_mismatched(SINGLE[:3])
    for i, (own, other) in enumerate(found):
        begin = int(np.argmax(own.action))
        nxt = LOG[(i + 1) % 3]
        rest = nxt.ids[int(np.argmax(nxt.action)) :]
        assert own is LOG[i]
        np.testing.assert_array_equal(
            other.ids, np.concatenate([own.ids[:begin], rest])
        )
        assert not other.action[:begin].any() and other.action[begin]
        assert len(other.action) == len(other.step) == len(other.ids)
    with pytest.raises(ValueError, match="a batch of one answer"):
        pairs.with_mismatched(SINGLE[:1])


def test_no_mismatched_answer_is_longer_than_foreseen():
    log = [item[0] for item in SINGLE]
    needed = pairs.longest_mismatched(log)
    made = [
        len(pairs.with_mismatched([(a,), (b,)])[0][1].ids)
        for a, b in itertools.permutations(log, 2)
    ]
    # Here the longest prompt and the longest answer are of two episodes.
    assert max(made) == needed > max(len(one.ids) for one in log)
    assert pairs.longest_mismatched(log[:1]) == len(log[0].ids)


def test_good_only():
    assert [e.line for (e,) in pairs.good_only(LOG)] == list(range(1, 9, 2))
    level = [episode._replace(reward=0.5) for episode in LOG]
    with pytest.raises(
        ValueError, match="none of the 8 attempts has a reward above 0.5"
    ):
        pairs.good_only(level)
