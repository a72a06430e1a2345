"""OREO's update against a plain one, text by text, and on eight devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import oreo
from rljax.agents.offline import Optimizer
from rljax.losses import oreo as losses
from rljax.models.lora import LoraConfig
from rljax.optim import optimizers
from rljax.policy import texts
from rljax.training import devices
from tests.agents import offline_texts as toy
from tests.agents import on_devices, stepping

BETA, ALPHA, RATE = 0.3, 0.05, 1e-2
SETTINGS = oreo.Config(
    beta=BETA,
    kl_weight=ALPHA,
    updates=10,
    actor=Optimizer(learning_rate=RATE, warmup=0.0, max_grad_norm=1e9),
    critic=Optimizer(learning_rate=2 * RATE, warmup=0.0, max_grad_norm=1e9),
)
LOG = toy.log()
ITEMS = [(episode,) for episode in LOG]


def make(settings=SETTINGS, **options):
    model = texts.make(toy.CONFIG)
    value = options.pop("value", oreo.own_trunk)(model)
    return oreo.make(model, value, settings, **options)


def away_from_start(agent, seed=5):
    """A state whose policy and value are not the reference's any more."""

    @jax.jit
    def begin(weights):
        state = agent.init(jax.random.key(0), weights)
        keys = iter(jax.random.split(jax.random.key(seed), 200))

        def move(x):
            return x + 0.05 * jax.random.normal(next(keys), x.shape)

        return dataclasses.replace(state, params=jax.tree.map(move, state.params))

    return begin(toy.weights())


def plain_losses(actor, critic, reference, level):
    """Equations 8 and 9 and the divergence, one text after the other."""
    policy, value, divergence = 0.0, 0.0, 0.0
    every_log_p = toy.log_probs_of(actor, LOG)
    every_log_q = toy.log_probs_of(reference, LOG)
    every_v = toy.hidden_of(critic["trunk"], LOG) @ critic["head"]
    for n, episode in enumerate(LOG):
        (said,) = np.nonzero(episode.action)
        log_p, log_q = every_log_p[n, said - 1], every_log_q[n, said - 1]
        ratio = (log_p - log_q)[np.arange(len(said)), episode.ids[said]]
        v = every_v[n, said - 1]
        divergence += jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))
        groups = {
            "token": [[i] for i in range(len(said))],
            "response": [list(range(len(said)))],
            "step": [
                [i for i in range(len(said)) if episode.step[said[i]] == number]
                for number in dict.fromkeys(episode.step[said].tolist())
            ],
        }
        value_groups = groups["step" if level == "step" else "token"]
        for name, chosen in (("policy", groups[level]), ("value", value_groups)):
            total = 0.0
            for k, group in enumerate(chosen):
                own = sum(ratio[i] for i in group)
                later = sum(ratio[i] for g in chosen[k + 1 :] for i in g)
                later = jax.lax.stop_gradient(jnp.asarray(later))
                state = v[group[0]]
                if name == "policy":
                    state = jax.lax.stop_gradient(state)
                else:
                    own = jax.lax.stop_gradient(own)
                total += (state - episode.reward + BETA * (own + later)) ** 2
            total = total / len(chosen)
            policy += total * (name == "policy")
            value += total * (name == "value")
    count = len(LOG)
    return (policy + ALPHA * divergence) / count, value / count


LEVELS = {
    "token": losses.by_token,
    "step": losses.by_step,
    "response": losses.by_answer,
}


@pytest.mark.parametrize("level", LEVELS)
def test_an_update_is_adams_step_on_the_plain_losses(level):
    agent = make(level=LEVELS[level])
    state = away_from_start(agent)
    new, told = jax.jit(agent.update)(state, toy.batch(ITEMS))
    actor, critic, reference = (
        state.params["actor"],
        state.params["critic"],
        state.frozen,
    )

    @jax.jit
    def plain(actor, critic, reference):
        policy, pull = jax.vjp(
            lambda a: plain_losses(a, critic, reference, level)[0], actor
        )
        value, push = jax.vjp(
            lambda c: plain_losses(actor, c, reference, level)[1], critic
        )
        one = jnp.ones(())
        return policy, value, {"actor": pull(one)[0], "critic": push(one)[0]}

    policy_loss, value_loss, grads = plain(actor, critic, reference)
    np.testing.assert_allclose(told["critic/loss"], value_loss, rtol=1e-5)
    found = told["train/policy_loss"] + ALPHA * told["train/kl"]
    np.testing.assert_allclose(found, policy_loss, rtol=1e-5)
    rates = {"actor": RATE, "critic": 2 * RATE}
    stepping.assert_first_step(told, state.params, new.params, grads, rates)
    assert new.frozen is not None
    jax.tree.map(np.testing.assert_array_equal, new.frozen, state.frozen)


def test_at_the_start_policy_is_reference_and_value_is_zero():
    agent = make()
    state = agent.init(jax.random.key(0), toy.weights())
    found = jax.jit(agent.read)(state, toy.batch(ITEMS))
    np.testing.assert_array_equal(found.log_prob, found.reference_log_prob)
    assert not np.any(found.value) and np.abs(found.kl).max() < 1e-6


def test_networks_may_begin_elsewhere():
    agent, other = make(), toy.weights(1)
    learnt = {"trunk": toy.weights(2), "head": jnp.arange(1.0, 17.0)}
    begun = {"actor": other, "critic": learnt}
    state = jax.jit(agent.init)(jax.random.key(0), toy.weights(), begun)
    jax.tree.map(np.testing.assert_array_equal, state.params, begun)
    jax.tree.map(np.testing.assert_array_equal, state.frozen, toy.weights())
    found = jax.jit(agent.read)(state, toy.batch(ITEMS))
    assert np.abs(found.log_prob - found.reference_log_prob).max() > 0.1
    assert np.any(found.value)

    # What is stepped in place of narrow parameters begins there, too.
    def narrow(tree):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)

    state = agent.init(
        jax.random.key(0), narrow(toy.weights()), {"actor": narrow(other)}
    )
    stepped = state.opt_state["actor"]
    assert isinstance(stepped, optimizers.WideState)
    jax.tree.map(np.testing.assert_array_equal, stepped.wide, narrow(other))


@pytest.mark.parametrize(
    ("begun", "wrong"),
    [
        ({"value": {}}, "'value' is no network; there are .'actor', 'critic'"),
        ({"critic": {"head": jnp.zeros(16)}}, r"absent, expected float32\[11, 16\]"),
        (
            {"critic": {"trunk": toy.weights(), "head": jnp.zeros(3)}},
            r"\['head'\] is float32\[3\], expected float32\[16\]",
        ),
    ],
)
def test_what_no_network_can_begin_as_is_refused(begun, wrong):
    with pytest.raises(ValueError, match=wrong):
        make().init(jax.random.key(0), toy.weights(), begun)


def test_the_shared_trunk_has_a_head_alone_and_leaves_the_policys_gradient_as_it_is():
    own, shared = make(), make(value=oreo.shared_trunk)
    state = shared.init(jax.random.key(0), toy.weights())
    assert set(state.params["critic"]) == {"head"}
    both = [
        agent.update(agent.init(jax.random.key(0), toy.weights()), toy.batch(ITEMS))
        for agent in (own, shared)
    ]
    # V is 0 in both at first, so the policies make the same step.
    jax.tree.map(
        np.testing.assert_array_equal, *(new.params["actor"] for new, _ in both)
    )
    assert np.any(both[1][0].params["critic"]["head"])


def test_adapters_of_policy_and_value_learn_beside_one_frozen_model():
    model = texts.make(toy.CONFIG, LORA)
    agent = oreo.make(model, oreo.own_trunk(model), SETTINGS)
    state = agent.init(jax.random.key(0), toy.weights())
    sizes = [sum(x.size for x in jax.tree.leaves(p)) for p in state.params.values()]
    frozen = sum(x.size for x in jax.tree.leaves(state.frozen))
    assert max(sizes) < frozen / 2
    batch, update = toy.batch(ITEMS), jax.jit(agent.update)
    losses_ = []
    for _ in range(8):
        state, told = update(state, batch)
        losses_.append(float(told["critic/loss"]))
    assert losses_[-1] < 0.8 * losses_[0]
    jax.tree.map(np.testing.assert_array_equal, state.frozen, toy.weights())


STEADY = dataclasses.replace(
    SETTINGS, actor=on_devices.STEADY, critic=on_devices.STEADY
)
LORA = LoraConfig(rank=2, alpha=4.0)


def whole(axis_name, **options):
    return make(STEADY, axis_name=axis_name, **options)


def adapted(axis_name, **options):
    """Policy and critic are adapters."""
    model = texts.make(toy.CONFIG, LORA)
    return oreo.make(
        model, oreo.own_trunk(model), STEADY, axis_name=axis_name, **options
    )


WAYS = {
    "token": functools.partial(whole, level=losses.by_token),
    "step": functools.partial(whole, level=losses.by_step),
    "response": functools.partial(whole, level=losses.by_answer),
    "full gradient, shared trunk": functools.partial(
        whole, value=oreo.shared_trunk, actor_loss=losses.full_gradient_actor_loss
    ),
    "one step, adapters": functools.partial(
        adapted, actor_loss=losses.one_step_actor_loss
    ),
}
OVER_A_MESH = "full gradient, shared trunk"


@pytest.mark.parametrize("name", WAYS)
def test_eight_devices_are_one(name):
    ways = (devices.pmap, devices.mesh) if name == OVER_A_MESH else (devices.pmap,)
    on_devices.assert_logs_learnt_alike(WAYS[name], away_from_start, ITEMS, ways)


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    agent = make()
    state = agent.init(jax.random.key(0), toy.weights())
    batch = toy.batch(ITEMS)
    bad = batch._replace(reward=batch.reward.at[3].set(jnp.nan))
    new, _ = agent.update(state, bad)
    assert int(new.skipped) == int(new.updates) == 1
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
