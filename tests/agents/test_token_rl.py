"""The update of tokens against a plain one, answer by answer, and on eight devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.agents import grpo, oreo, ppo, token_rl
from rljax.agents.offline import Optimizer
from rljax.losses import groups, surrogate
from rljax.models.lora import LoraConfig
from rljax.policy import texts
from rljax.training import devices
from tests.agents import offline_texts as toy
from tests.agents import rollouts, stepping

RATE, LOW, HIGH, KL, CLIP = 1e-2, 0.2, 0.3, 0.05, 0.2
SETTINGS = token_rl.Config(
    updates=10,
    low=LOW,
    high=HIGH,
    kl_weight=KL,
    value_clip=CLIP,
    actor=Optimizer(learning_rate=RATE, warmup=0.0, max_grad_norm=1e9),
    critic=Optimizer(learning_rate=2 * RATE, warmup=0.0, max_grad_norm=1e9),
)
PPO = ppo.estimate(ppo.Config(beta=0.1))
GRPO = grpo.estimate(rollouts.GROUP, groups.standardised, drop_level=True)


def make(critic=True, config=SETTINGS, adapter=None, value=None, **options):
    model = texts.make(toy.CONFIG, adapter)
    if value is None and critic:
        value = oreo.own_trunk(model)
    return token_rl.make(model, config, value, **options)


def away_from_start(agent, seed=5):
    """A state whose networks are not the reference's any more."""
    state = agent.init(jax.random.key(0), toy.weights())
    keys = iter(jax.random.split(jax.random.key(seed), 200))

    def move(x):
        return x + 0.05 * jax.random.normal(next(keys), x.shape)

    return dataclasses.replace(state, params=jax.tree.map(move, state.params))


@jax.jit
def thought(actor):
    """log p of every token of the vocabulary after each prefix of the log's texts."""
    return toy.log_probs_of(actor, rollouts.LOG)


def batch_of(actor, estimate, critic=True, num_devices=1, log=rollouts.LOG):
    """A batch whose old policy is near the present one, so that some ratios clip."""
    held = rollouts.rollout(critic, log=log)
    log_p = np.asarray(thought(actor))
    now = np.full(held.mask.shape, np.nan, np.float32)
    noise = np.random.default_rng(0).normal(0, 0.5, now.shape)
    for m, episode in enumerate(log):
        (said,) = np.nonzero(episode.action)
        now[m, : len(said)] = log_p[m, said - 1, episode.ids[said]]
    held = held._replace(log_p=jnp.asarray(now + noise, jnp.float32))
    targets, _ = jax.jit(estimate)(held)
    many = rollouts.packed(num_devices, log)
    return token_rl.batch_of(many, held, targets), held, targets


def plain_losses(nets, reference, held, targets, weight, by_answer):
    """The two losses over unpacked answers; `weight` [M, L] is that of each token."""
    actor, critic = nets
    log = rollouts.LOG
    rows = np.arange(len(log))[:, None]
    begin = np.array([e.action.argmax() for e in log])[:, None]
    # Tokens that were said, however many turns they came in; the first for padding.
    said = begin + np.zeros((1, rollouts.LENGTH), int)
    for m, e in enumerate(log):
        said[m, : e.action.sum()] = np.nonzero(e.action)[0]
    ids = np.stack([e.ids[said[m]] for m, e in enumerate(log)])
    learn, taught = targets.learn, targets.taught
    log_p = toy.log_probs_of(actor, log)[rows, said - 1]
    log_q = toy.log_probs_of(reference, log)[rows, said - 1]
    own = jnp.take_along_axis(log_p, ids[..., None], axis=-1)[..., 0]
    ratio = jnp.where(learn, own - jnp.nan_to_num(held.log_p), 0.0)
    if by_answer:
        length = jnp.maximum(learn.sum(axis=1, keepdims=True), 1)
        ratio = jnp.broadcast_to(ratio.sum(axis=1, keepdims=True) / length, own.shape)
    a, w = targets.advantage, jnp.exp(ratio)
    gain = jnp.minimum(w * a, jnp.clip(w, 1 - LOW, 1 + HIGH) * a)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
    policy = jnp.sum(weight * (KL * kl - gain))
    if critic is None:
        return policy, 0.0
    v = toy.hidden_of(critic["trunk"], log)[rows, said - 1] @ critic["head"]
    old = jnp.nan_to_num(held.value)
    near = old + jnp.clip(v - old, -CLIP, CLIP)
    wanted = targets.returns
    worse = jnp.maximum((v - wanted) ** 2, (near - wanted) ** 2)
    return policy, jnp.sum(jnp.where(taught, worse, 0.0)) / taught.sum()


def by_token(learn):
    return learn / learn.sum()


def by_answer(learn):
    length = np.maximum(learn.sum(axis=1, keepdims=True), 1)
    return learn / length / learn.any(axis=1).sum()


CASES = {
    "ppo": (PPO, True, surrogate.token_mean, by_token, None),
    "grpo": (GRPO, False, surrogate.sequence_mean, by_answer, None),
    "gspo": (
        GRPO,
        False,
        surrogate.sequence_mean,
        by_answer,
        surrogate.gspo_log_p_old,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_update_is_adams_step_on_the_plain_losses(name):
    estimate, critic, weights, weigh, rescale = CASES[name]
    agent = make(critic, weights=weights, rescale=rescale)
    state = away_from_start(agent)
    batch, held, targets = batch_of(state.params["actor"], estimate, critic)
    new, told = jax.jit(agent.update)(state, batch)
    nets = state.params["actor"], state.params.get("critic")
    weight = weigh(np.asarray(targets.learn))

    def plain(nets):
        losses = plain_losses(
            nets, state.frozen, held, targets, weight, rescale is not None
        )
        return sum(losses), losses  # no network is in both

    (_, losses), grads = jax.jit(jax.value_and_grad(plain, has_aux=True))(nets)
    grads = dict(zip(("actor", "critic"), grads, strict=True))
    np.testing.assert_allclose(
        told["train/policy_loss"], losses[0], rtol=1e-4, atol=1e-6
    )
    assert 0 < told["train/clip_fraction"] < 1
    if critic:
        np.testing.assert_allclose(told["critic/loss"], losses[1], rtol=1e-4)
    rates = {"actor": RATE} | ({"critic": 2 * RATE} if critic else {})
    stepping.assert_first_step(told, state.params, new.params, grads, rates)
    jax.tree.map(np.testing.assert_array_equal, new.frozen, toy.weights())


def require_eight_like_one(agent_of, batch_on):
    """Three updates on one device and on eight come to the same.

    `agent_of` makes an agent for an axis name, `batch_on` a batch for a state and a
    number of devices.
    """
    results = []
    for parallel in (devices.jit(), devices.pmap(8)):
        agent = agent_of(parallel.axis_name)

        def run(state, batch, agent=agent):
            state, told = agent.update(state, batch)
            return state, batch, told

        program = parallel.compile(run)
        state = away_from_start(agent)
        batch = batch_on(state, parallel.num_devices)
        for _ in range(3):
            state, batch, told = program(state, batch)
        results.append((state, told))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results
    )


WHOLE = texts.make(toy.CONFIG)
LORA = LoraConfig(rank=2, alpha=4.0)
ADAPTED = texts.make(toy.CONFIG, LORA)
DR_GRPO = grpo.estimate(rollouts.GROUP, groups.centred)
# What a rollout teaches, and how the agent is made: of a policy, and of a critic.
SPREAD = {
    "ppo": (PPO, {}),
    "ppo, shared trunk": (PPO, {"value": oreo.shared_trunk(WHOLE)}),
    "ppo, adapters": (PPO, {"adapter": LORA, "value": oreo.own_trunk(ADAPTED)}),
    "grpo, mean of answers": (GRPO, {"weights": surrogate.sequence_mean}),
    "grpo, fixed length": (
        DR_GRPO, {"weights": surrogate.fixed_length(rollouts.LENGTH)},
    ),
    "gspo": (
        GRPO,
        {"weights": surrogate.sequence_mean, "rescale": surrogate.gspo_log_p_old},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPREAD)
def test_eight_devices_are_one(name):
    estimate, options = SPREAD[name]
    critic = estimate is PPO

    def batch_on(state, count):
        adapted = "adapter" in options
        actor = state.frozen if adapted else state.params["actor"]
        return batch_of(actor, estimate, critic, count)[0]

    require_eight_like_one(
        lambda axis: make(critic, axis_name=axis, **options), batch_on
    )


def test_reading_and_values_are_the_models_own():
    agent = make()
    state = away_from_start(agent)
    one = rollouts.packed()
    found = jax.jit(agent.read)(state, one)
    assert agent.value is not None
    value = jax.jit(agent.value)(state, one)
    np.testing.assert_allclose(value, found.value, atol=1e-6)
    log_p, log_q = thought(state.params["actor"]), thought(state.frozen)
    hidden = toy.hidden_of(state.params["critic"]["trunk"], rollouts.LOG)
    for e, m in enumerate(np.asarray(one.line)):
        (said,) = np.nonzero(rollouts.LOG[m].action)
        row, ids = np.arange(len(said)), rollouts.LOG[m].ids[said]
        count = slice(0, len(said))
        for ours, theirs in (
            (found.log_prob, log_p[m, said - 1][row, ids]),
            (found.reference_log_prob, log_q[m, said - 1][row, ids]),
            (found.value, hidden[m, said - 1] @ state.params["critic"]["head"]),
        ):
            np.testing.assert_allclose(ours[e, count], theirs, atol=1e-4)
    assert make(critic=False).value is None


def test_a_prefix_is_read_and_never_learnt():
    # The first token that was said becomes one of a replayed prefix.
    log = []
    for episode in rollouts.LOG:
        action = episode.action.copy()
        action[np.argmax(action)] = False
        log.append(episode._replace(action=action))
    agent = make(critic=False, weights=surrogate.sequence_mean)
    state, update = away_from_start(agent), jax.jit(agent.update)
    batch, _, _ = batch_of(state.params["actor"], GRPO, False, log=log)
    new, _ = update(state, batch)
    position = np.asarray(batch.texts.position).reshape(-1)
    for e, m in enumerate(np.asarray(batch.texts.line)):
        (said,) = np.nonzero(log[m].action)
        places = np.asarray(batch.texts.at[e])[np.asarray(batch.texts.mask[e])]
        np.testing.assert_array_equal(position[places] + 1, said)
        assert not batch.learn[e, len(said) :].any()
    # What the old policy thought of places without a token moves nothing.
    junk = jnp.where(batch.learn, batch.log_p_old, jnp.nan)
    other, _ = update(
        state,
        batch._replace(
            log_p_old=junk, advantage=jnp.where(batch.learn, batch.advantage, jnp.inf)
        ),
    )
    jax.tree.map(np.testing.assert_array_equal, new.params, other.params)


def test_while_the_critic_warms_up_the_policy_stands_still():
    waiting = dataclasses.replace(
        SETTINGS, actor=dataclasses.replace(SETTINGS.actor, wait=0.2)
    )
    agent = make(config=waiting)
    state = away_from_start(agent)
    batch, *_ = batch_of(state.params["actor"], PPO)
    update = jax.jit(agent.update)
    for n in range(3):
        new, _ = update(state, batch)
        moved = optax.tree.norm(
            jax.tree.map(jnp.subtract, new.params["actor"], state.params["actor"])
        )
        assert (moved > 0) == (n >= 2)
        assert not np.array_equal(
            new.params["critic"]["head"], state.params["critic"]["head"]
        )
        state = new


def test_an_adapter_learns_beside_a_frozen_model_with_a_shared_critic():
    model = texts.make(toy.CONFIG, LoraConfig(rank=2, alpha=4.0))
    agent = token_rl.make(model, SETTINGS, oreo.shared_trunk(model))
    state = agent.init(jax.random.key(0), toy.weights())
    assert set(state.params["critic"]) == {"head"}
    batch, *_ = batch_of(toy.weights(), PPO)
    losses, update = [], jax.jit(agent.update)
    for _ in range(8):
        state, told = update(state, batch)
        losses.append(float(told["critic/loss"]))
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, state.frozen, toy.weights())


def test_a_probe_moves_no_trunk():
    probe, one = oreo.shared_trunk(WHOLE), rollouts.packed()
    head = {"head": jnp.ones(WHOLE.width)}

    def total(actor, critic):
        return probe.apply(critic, toy.weights(), actor, one).sum()

    of_actor, of_head = jax.grad(total, argnums=(0, 1))(toy.weights(), head)
    assert all(not x.any() for x in jax.tree.leaves(of_actor))
    assert of_head["head"].any()


def test_an_update_that_is_not_finite_is_skipped_and_counted():
    agent = make()
    state = away_from_start(agent)
    batch, *_ = batch_of(state.params["actor"], PPO)
    assert batch.returns is not None
    bad = batch._replace(returns=batch.returns.at[0, 0].set(jnp.nan))
    new, _ = jax.jit(agent.update)(state, bad)
    assert int(new.skipped) == int(new.updates) == 1
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)
