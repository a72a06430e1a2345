"""What a rollout teaches, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import grpo, ppo
from rljax.losses import groups
from tests.agents import rollouts


def plain_gae(rewards, values, lambda_):
    found, later = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        after = values[t + 1] if t + 1 < len(values) else 0.0
        later = rewards[t] + after - values[t] + lambda_ * later
        found[t] = later
    return found


@pytest.mark.parametrize("warming", [False, True])
def test_ppo(warming):
    settings = ppo.Config(lambda_=0.9, critic_lambda=0.8, beta=0.1)
    held = rollouts.rollout()._replace(warming=jnp.array(warming))
    targets, told = jax.jit(ppo.estimate(settings))(held)
    raw, wanted, score, gone = {}, {}, {}, []
    assert held.value is not None
    for m in range(len(held.reward)):
        count = int(held.mask[m].sum())
        if not held.judged[m]:
            gone.append(m)
            continue
        values = np.asarray(held.value[m, :count], np.float64)
        bare = np.zeros(count)
        bare[-1] = held.reward[m]
        assert held.log_p_ref is not None
        cost = -0.1 * np.asarray(held.log_p - held.log_p_ref)[m, :count]
        raw[m] = plain_gae(bare + cost, values, 0.9)
        wanted[m] = plain_gae(bare, values, 1.0 if warming else 0.8) + values
        score[m] = plain_gae(bare, values, 0.9) + values
    for kind in (False, True):
        some = [m for m in raw if bool(held.replayed[m]) == kind]
        every = np.concatenate([raw[m] for m in some])
        for m in some:
            count = len(raw[m])
            expected = (raw[m] - every.mean()) / every.std()
            np.testing.assert_allclose(
                targets.advantage[m, :count], expected, atol=1e-4
            )
            np.testing.assert_allclose(targets.returns[m, :count], wanted[m], atol=1e-5)
            np.testing.assert_allclose(targets.score[m, :count], score[m], atol=1e-5)
    assert gone == [5]
    expected = np.asarray(held.mask).copy()
    expected[gone] = False
    for mask in (targets.learn, targets.taught):
        np.testing.assert_array_equal(mask, expected)
    for array in targets:  # nothing of the junk is left
        assert np.isfinite(np.asarray(array)).all()
    to_come = np.concatenate([np.full(len(x), held.reward[m]) for m, x in raw.items()])
    values = np.concatenate([held.value[m, : len(x)] for m, x in raw.items()])
    explained = 1 - np.var(to_come - values) / np.var(to_come)
    np.testing.assert_allclose(told["critic/explained_variance"], explained, rtol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 0.3])
def test_equal_answers_leave_nothing_to_explain(reward):
    held = rollouts.rollout()
    held = held._replace(reward=jnp.full_like(held.reward, reward))
    _, told = jax.jit(ppo.estimate(ppo.Config()))(held)
    assert told["critic/explained_variance"] == 0.0


def test_advantages_that_hardly_vary_are_not_blown_up():
    held = rollouts.rollout()
    held = held._replace(reward=jnp.zeros_like(held.reward))
    whole, floored, free = (
        ppo.estimate(ppo.Config(least_deviation=least))(held)[0].advantage
        for least in (0.0, 1e3, 1e-6)
    )
    np.testing.assert_array_equal(whole, free)
    # Nothing was right: what varies is the critic's error, and it is whitened to 1.
    kind = np.asarray(held.replayed)[:, None] & np.asarray(held.mask)
    kind &= np.asarray(held.judged)[:, None]
    assert np.std(np.asarray(whole)[kind]) == pytest.approx(1, abs=1e-3)
    deviation = np.asarray(floored)[kind] / np.asarray(whole)[kind] * 1e3
    assert np.ptp(deviation) < 1e-3 and 0.01 < deviation.mean() < 10


@pytest.mark.parametrize("drop", [False, True])
def test_grpo(drop):
    held = rollouts.rollout(value=False)
    estimate = grpo.estimate(rollouts.GROUP, groups.centred, drop_level=drop)
    targets, told = jax.jit(estimate)(held)
    level = 0
    for m in range(0, len(held.reward), 2):
        rewards = [float(held.reward[i]) for i in (m, m + 1) if held.judged[i]]
        level += len(set(rewards)) < 2
        for i in (m, m + 1):
            learnt = bool(held.judged[i]) and not (drop and len(set(rewards)) < 2)
            assert np.asarray(targets.learn[i]).any() == learnt
            own = float(held.reward[i]) - np.mean(rewards) if learnt else 0.0
            mask = np.asarray(held.mask[i]) & learnt
            np.testing.assert_allclose(
                targets.advantage[i], np.where(mask, own, 0.0), atol=1e-6
            )
    assert level == 2  # the equal pair, and the one with a failed verifier
    np.testing.assert_allclose(told["train/varied_groups"], 1 - level / 8)
    assert targets.returns is None and targets.score is None


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        grpo.estimate(1)
