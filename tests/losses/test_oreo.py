"""OREO's losses against numbers of the reference implementation, and by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import oreo
from rljax.losses.token_logprob import Source, token_scores

# Two episodes with what the reference's own loss functions make of them, beta = 0.03.
# Index j is the state whose next token is j + 1; garbage stands off the actions.
LOG_PROB = [-9, -9, -9, -0.5, -1.0, -0.2, -0.7, -0.1, -0.4]
REFERENCE = [-8, -8, -8, -0.6, -0.8, -0.3, -0.9, -0.1, -0.5]
VALUE = [7, 7, 7, 0.5, 0.55, 0.6, 0.4, 0.45, 0.5]
MASK = [0, 0, 0, 1, 1, 1, 1, 1, 1]
STEP = [-1, -1, -1, 0, 0, 0, 1, 1, 1]
TURNS_MASK = [0, 0, 1, 1, 0, 0, 1, 1, 1]
TURNS_VALUE = [0.3, 0.3, 0.52, 0.5, 0.55, 0.6, 0.4, 0.45, 0.5]
BETA = 0.03


def row(values, dtype=float):
    return jnp.array([values], dtype)


def policy(loss, level, mask=MASK, value=VALUE, reward=1.0):
    """A loss of the policy and its gradient in the log-probabilities."""

    def of(log_prob):
        terms = level(
            log_prob, row(REFERENCE), row(value), row(mask, bool), row(STEP, int)
        )
        return loss(terms, jnp.array([reward]), BETA).loss

    value_, grad = jax.value_and_grad(of)(row(LOG_PROB))
    return value_, np.asarray(grad[0])


def at_actions(grad, mask=MASK):
    keep = np.array(mask, bool)
    assert not grad[~keep].any()  # garbage moves nothing
    return grad[keep]


def test_critic_as_the_reference():
    def of(value):
        terms = oreo.by_token(
            row(LOG_PROB), row(REFERENCE), value, row(MASK, bool), row(STEP, int)
        )
        return oreo.critic_loss(terms, jnp.array([1.0]), BETA).loss

    loss, grad = jax.value_and_grad(of)(row(VALUE))
    assert loss == pytest.approx(0.24737664, abs=1e-7)
    expected = [-0.163667, -0.148, -0.129333, -0.197, -0.182333, -0.165667]
    np.testing.assert_allclose(at_actions(grad[0]), expected, atol=1e-6)


GOLDEN = {
    "token": (
        oreo.actor_loss, oreo.by_token, 0.24737664,
        [-0.00491, -0.00444, -0.00388, -0.00591, -0.00547, -0.00497],
    ),
    "full_gradient": (
        oreo.full_gradient_actor_loss, oreo.by_token, 0.24737664,
        [-0.00491, -0.00935, -0.01323, -0.01914, -0.02461, -0.02958],
    ),
    "response": (oreo.actor_loss, oreo.by_answer, 0.24108100, [-0.02946] * 6),
    "step": (
        oreo.actor_loss, oreo.by_step, 0.29518098, [-0.01473] * 3 + [-0.01773] * 3
    ),
    "one_step": (
        oreo.one_step_actor_loss, oreo.by_token, 0.04966651,
        [-0.00047, -0.00056, 0.00203, -0.00044, -0.0005, -0.00497],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_policy_as_the_reference(name):
    loss, level, value, expected = GOLDEN[name]
    found, grad = policy(loss, level)
    assert found == pytest.approx(value, abs=1e-7)
    np.testing.assert_allclose(at_actions(grad), expected, atol=1e-6)


def test_critic_of_steps_as_the_reference():
    terms = oreo.by_step(
        row(LOG_PROB), row(REFERENCE), row(VALUE), row(MASK, bool), row(STEP, int)
    )
    found = oreo.critic_loss(terms, jnp.array([1.0]), BETA).loss
    assert found == pytest.approx(0.29518098, abs=1e-7)


def test_several_turns_as_the_reference():
    loss, grad = policy(
        oreo.actor_loss, oreo.by_token, TURNS_MASK, TURNS_VALUE, reward=0.0
    )
    assert loss == pytest.approx(0.22792940, abs=1e-7)
    expected = [0.006024, 0.006144, 0.004908, 0.005436, 0.006036]
    np.testing.assert_allclose(at_actions(grad, TURNS_MASK), expected, atol=1e-6)


def test_a_step_that_is_cut_by_an_observation_stays_one():
    """Steps are told apart by their numbers, wherever their tokens are."""
    mask, step = row([1, 0, 1, 1, 0, 1], bool), row([2, 9, 2, 5, 9, 5], int)
    ratio = jnp.array([[1.0, jnp.nan, 2.0, 4.0, jnp.nan, 8.0]])
    value = row([0.1, 9, 0.2, 0.3, 9, 0.4])
    terms = oreo.by_step(ratio, jnp.zeros((1, 6)), value, mask, step)
    np.testing.assert_allclose(terms.log_ratio[0, :3], [3.0, 12.0, 0.0])
    np.testing.assert_allclose(terms.value[0, :3], [0.1, 0.3, 0.0])
    assert terms.mask[0].tolist() == [True, True, False, False, False, False]


def padded_batch():
    """Three episodes of 4, 2 and no actions."""
    keys = jax.random.split(jax.random.key(1), 3)
    log_prob, reference, value = (jax.random.normal(key, (3, 5)) for key in keys)
    mask = jnp.arange(5) < jnp.array([[4], [2], [0]])
    step = jnp.where(mask, jnp.arange(5) // 2, -1)
    return log_prob, reference, value, mask, step, jnp.array([1.0, 0.0, 1.0])


@pytest.mark.parametrize("level", [oreo.by_token, oreo.by_step, oreo.by_answer])
@pytest.mark.parametrize(
    "loss",
    [
        oreo.critic_loss,
        oreo.actor_loss,
        oreo.full_gradient_actor_loss,
        oreo.one_step_actor_loss,
    ],
)
def test_padding_may_hold_anything(level, loss):
    log_prob, reference, value, mask, step, reward = padded_batch()

    def of(log_prob, value):
        terms = level(log_prob, reference, value, mask, step)
        return loss(terms, reward, 0.5).loss

    grads = jax.value_and_grad(of, argnums=(0, 1))
    clean = grads(log_prob, value)
    dirt = jnp.where(mask, 0.0, jnp.nan)
    chex.assert_trees_all_equal(grads(log_prob + dirt, value + dirt), clean)
    chex.assert_tree_all_finite(clean)


def test_an_episode_counts_once_however_long_and_one_without_actions_not_at_all():
    log_prob, reference, value, mask, step, reward = padded_batch()
    each = []
    for b in range(2):
        own = (x[b : b + 1, :5] for x in (log_prob, reference, value, mask, step))
        terms = oreo.by_token(*own)
        each.append(float(oreo.actor_loss(terms, reward[b : b + 1], 0.5).loss))
    terms = oreo.by_token(log_prob, reference, value, mask, step)
    found = float(oreo.actor_loss(terms, reward, 0.5).loss)
    assert found == pytest.approx(np.mean(each), rel=1e-6)
    kl = oreo.divergence(jnp.abs(log_prob), mask)
    by_hand = [float(jnp.abs(log_prob[b])[mask[b]].mean()) for b in range(2)]
    assert float(kl) == pytest.approx(np.mean(by_hand), rel=1e-6)


def test_the_divergence_is_that_of_the_whole_vocabulary():
    """Of two tokens, sum_v p(v) (log p(v) - log q(v)) as the specification has it."""
    logits = jnp.array([[1.0, 0.5, -0.2], [0.1, 0.0, 0.3]])
    reference = jnp.array([[0.8, 0.6, 0.0], [0.0, 0.0, 0.5]])
    hidden = jnp.eye(2)  # so that a token's logits are a row of the matrix
    scores = token_scores(hidden, logits, jnp.array([0, 2]), Source(hidden, reference))
    np.testing.assert_allclose(scores.kl, [0.0144806, 0.0083943], atol=1e-7)
    found = oreo.divergence(scores.kl[None], jnp.ones((1, 2), bool))
    assert float(found) == pytest.approx((0.0144806 + 0.0083943) / 2, abs=1e-7)


def test_shares_of_devices_add_up_to_the_whole():
    log_prob, reference, value, mask, step, reward = padded_batch()
    args = (log_prob, reference, value, mask, step)

    def loss(log_prob, axis_name, *others):
        *own, reward = others
        terms = oreo.by_token(log_prob, *own)
        return oreo.actor_loss(terms, reward, 0.5, axis_name).loss

    whole = jax.value_and_grad(loss)(log_prob, None, *args[1:], reward)
    share = functools.partial(jax.value_and_grad(loss), axis_name="data")

    def each(log_prob, *others):
        value, grad = jax.value_and_grad(loss)(log_prob, "data", *others)
        return jax.lax.psum(value, "data"), grad

    del share
    dealt = jax.tree.map(lambda x: x[:, None], (*args, reward))
    found, grads = jax.pmap(each, axis_name="data", devices=jax.devices()[:3])(*dealt)
    np.testing.assert_allclose(found, [whole[0]] * 3, rtol=1e-6)
    np.testing.assert_allclose(grads[:, 0], whole[1], rtol=1e-5, atol=1e-7)
