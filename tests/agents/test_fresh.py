"""The one update of a rollout: what it finds, and that nothing need be read before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import token_rl
from rljax.losses import surrogate
from tests.agents import rollouts
from tests.agents.test_token_rl import (
    GRPO,
    SETTINGS,
    away_from_start,
    make,
    require_eight_like_one,
)

FRESH = dataclasses.replace(SETTINGS, fresh=True, entropy_weight=0.01)
READ = dataclasses.replace(FRESH, fresh=False)
CASES = {
    "tokens": dict(weights=surrogate.token_mean),
    "answers": dict(weights=surrogate.sequence_mean, rescale=surrogate.gspo_log_p_old),
}


def sampled(state, seed, num_devices=1, fresh=True):
    """A batch as a step makes it, and what was read for it, in the rollout's order."""
    held = rollouts.rollout(False, seed)
    many = rollouts.packed(num_devices)
    texts = rollouts.packed()
    reading = jax.jit(make(False, READ).read)(state, texts)
    log_p, entropy, kl = (
        np.full(held.mask.shape, np.nan, np.float32) for _ in range(3)
    )
    for found, x in (
        (log_p, reading.log_prob), (entropy, reading.entropy), (kl, reading.kl),
    ):  # fmt: skip
        found[np.asarray(texts.line)] = x
    mask = np.asarray(held.mask)
    sampler = np.where(mask, log_p + 0.25, np.nan)
    held = held._replace(
        log_p=jnp.asarray(sampler if fresh else log_p),
        log_p_ref=None if fresh else held.log_p_ref,
    )
    targets, _ = jax.jit(GRPO)(held)
    batch = token_rl.batch_of(many, held, targets)
    return batch, {"entropy": entropy[mask].mean(), "kl": kl[mask].mean()}


@pytest.mark.parametrize("name", CASES)
def test_it_learns_what_an_update_after_reading_learns(name):
    """Whole states after three steps; no policy is the start's, none the last one's."""
    states = []
    for config in (READ, FRESH):
        agent = make(False, config, **CASES[name])
        state, update = away_from_start(agent), jax.jit(agent.update)
        for seed in range(3):
            batch, read = sampled(state, seed, fresh=config.fresh)
            state, told = update(state, batch)
            assert told["train/log_ratio"] < 1e-5
            if config.fresh:
                assert told["train/log_ratio"] == told["train/clip_fraction"] == 0
                for key in ("entropy", "kl"):
                    found = told[f"rollout/{key}"]
                    np.testing.assert_allclose(found, read[key], rtol=1e-4)
                np.testing.assert_allclose(told["rollout/sampler_gap"], 0.25, rtol=1e-4)
        states.append(state)
    one, other = states
    assert int(one.updates) == 3 and int(one.skipped) == 0
    # Adam's first steps are signs, nearly: those of noise differ by what noise does.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), one, other
    )


def test_the_old_policy_is_nobodys_word():
    """What the sampler thought is compared, and moves nothing."""
    agent = make(False, FRESH)
    state, update = away_from_start(agent), jax.jit(agent.update)
    batch, _ = sampled(state, 0)
    new, told = update(state, batch)
    other, also = update(state, batch._replace(log_p_old=batch.log_p_old + 0.5))
    jax.tree.map(np.testing.assert_array_equal, new, other)
    gap = "rollout/sampler_gap"
    np.testing.assert_allclose(also.pop(gap), told.pop(gap) + 0.5, rtol=1e-4)
    assert told == also


def test_without_a_divergence_the_reference_is_never_read():
    config = dataclasses.replace(FRESH, kl_weight=0.0)
    agent = make(False, config)
    state = away_from_start(agent)
    batch, _ = sampled(state, 0)
    lost = dataclasses.replace(
        state, frozen=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.frozen)
    )
    new, told = jax.jit(agent.update)(lost, batch)
    assert int(new.skipped) == 0 and "rollout/kl" not in told
    reading = jax.jit(agent.read)(lost, batch.texts)
    assert np.isfinite(reading.entropy).all()
    np.testing.assert_array_equal(reading.reference_log_prob, 0)


def test_the_divergence_is_read_apart_where_no_update_tells_it():
    agent = make(False, dataclasses.replace(FRESH, kl_weight=0.0))
    assert agent.kl is not None
    state, texts = away_from_start(agent), rollouts.packed()
    theirs = jax.jit(make(False, READ).read)(state, texts).kl
    np.testing.assert_allclose(jax.jit(agent.kl)(state, texts), theirs, atol=1e-6)
    assert (np.asarray(theirs)[np.asarray(texts.mask)] > 0).all()
    assert make(False, FRESH).kl is None and make(True).kl is None


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_are_one(name):
    require_eight_like_one(
        lambda axis: make(False, FRESH, axis_name=axis, **CASES[name]),
        lambda state, count: sampled(state, 0, count)[0],
    )


def test_a_critic_is_refused():
    with pytest.raises(ValueError, match="a critic reads answers before the update"):
        make(True, FRESH)
