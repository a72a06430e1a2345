"""SAC's losses: by hand, the gradient's formula, ragged sets, eight devices."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rljax.losses import sac

B, A = 16, 5


def ragged(seed) -> Any:
    """Scores [B, A] with -inf where not admitted, Q [B, A], mask [B]."""
    rng = np.random.default_rng(seed)
    scores, q = rng.normal(size=(2, B, A)).astype(np.float32)
    admitted = np.arange(A) < rng.integers(1, A + 1, B)[:, None]
    admitted = rng.permuted(admitted, axis=1)
    chance = np.repeat([0.9, 0.5, 0.1, 0.0, 1.0, 0.5, 0.9, 0.5], 2)
    scores = np.where(admitted, scores, -np.inf).astype(np.float32)
    return scores, q, rng.random(B) < chance


def reference_loss(scores, q, mask, alpha):
    """The definition, one command at a time, in float64."""
    losses = []
    for i in np.flatnonzero(mask):
        admitted = np.flatnonzero(np.isfinite(scores[i]))
        weight = np.exp(scores[i, admitted].astype(np.float64))
        pi = weight / weight.sum()
        losses.append(np.sum(pi * (alpha * np.log(pi) - q[i, admitted])))
    return np.mean(losses)


def loss_of_scores(scores, q, mask, alpha, axis_name=None):
    out = sac.policy_loss(jax.nn.log_softmax(scores), q, alpha, mask, axis_name)
    return out.loss, out.metrics


def test_policy_loss_by_hand():
    log_pi = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    q = jnp.array([[1.0, 3.0, jnp.nan], [5.0, jnp.nan, 0.0]])
    out = sac.policy_loss(log_pi, q, 2.0, jnp.ones(2, bool))
    # -(2 + 2 log 2) and -5.
    np.testing.assert_allclose(out.loss, -(7 + 2 * np.log(2)) / 2, rtol=1e-6)
    np.testing.assert_allclose(out.metrics["train/entropy"], np.log(2) / 2, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_policy_loss_matches_the_loop(seed):
    scores, q, mask = ragged(seed)
    loss, _ = jax.jit(loss_of_scores)(scores, q, mask, 0.3)
    np.testing.assert_allclose(loss, reference_loss(scores, q, mask, 0.3), rtol=1e-4)


def test_gradient_is_the_formula():
    """dL/dS_k = pi_k { [alpha log pi_k - Q_k] - sum_b pi_b [alpha log pi_b - Q_b] }."""
    scores, q, mask = ragged(0)
    alpha = 0.3
    grad = jax.jit(jax.grad(lambda s: loss_of_scores(s, q, mask, alpha)[0]))(scores)
    expected = np.zeros((B, A))
    for i in np.flatnonzero(mask):
        k = np.flatnonzero(np.isfinite(scores[i]))
        pi = np.exp(scores[i, k]) / np.exp(scores[i, k]).sum()
        cost = alpha * np.log(pi) - q[i, k]
        expected[i, k] = pi * (cost - np.sum(pi * cost)) / mask.sum()
    np.testing.assert_allclose(grad, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Rlax:PendingDeprecationWarning")
def test_gradient_is_rlaxs_where_every_command_is_admitted():
    scores, q = np.random.default_rng(3).normal(size=(2, B, A)).astype(np.float32)
    ours = jax.grad(lambda s: loss_of_scores(s, q, np.ones(B, bool), 0.3)[0])(scores)
    peer = jax.grad(
        lambda s: (
            rlax.qpg_loss(s, jnp.asarray(q)) + 0.3 * rlax.entropy_loss(s, jnp.ones(B))
        )
    )(jnp.asarray(scores))
    np.testing.assert_allclose(ours, peer, rtol=1e-4, atol=1e-6)


def test_the_best_policy_is_the_softmax_of_q_over_alpha():
    _, q, _ = ragged(1)
    mask = np.ones(B, bool)
    grad = jax.grad(lambda s: loss_of_scores(s, q, mask, 0.3)[0])(q / 0.3)
    np.testing.assert_allclose(grad, np.zeros((B, A)), atol=1e-6)


def test_padding_and_ruled_out_commands_may_hold_anything():
    scores, q, mask = ragged(2)
    step = jax.jit(jax.value_and_grad(loss_of_scores, has_aux=True))
    (loss, _), grad = step(scores, q, mask, 0.3)
    chex.assert_tree_all_finite((loss, grad))
    junk_q = np.where(np.isfinite(scores) & mask[:, None], q, np.nan)
    (junk_loss, _), junk_grad = step(scores, junk_q.astype(np.float32), mask, 0.3)
    np.testing.assert_array_equal(grad, junk_grad)
    assert loss == junk_loss


@pytest.mark.parametrize("junk", [np.nan, -np.inf], ids=["nan", "no_command"])
def test_padding_rows_send_no_gradient(junk):
    scores, q, mask = ragged(2)
    log_pi = jax.nn.log_softmax(scores)
    expected = sac.policy_loss(log_pi, q, 0.3, mask).loss
    log_pi = jnp.where(mask[:, None], log_pi, junk)
    step = jax.value_and_grad(lambda x: sac.policy_loss(x, q, 0.3, mask).loss)
    loss, grad = step(log_pi)
    assert loss == expected
    chex.assert_tree_all_finite(grad)
    np.testing.assert_array_equal(np.asarray(grad)[~mask], 0.0)
    kl = jax.grad(lambda x: sac.kl_to_reference(x, log_pi, mask))
    chex.assert_tree_all_finite(kl(log_pi))


def test_q_and_alpha_are_constants():
    scores, q, mask = ragged(0)
    grads = jax.grad(lambda *a: loss_of_scores(scores, a[0], mask, a[1])[0], (0, 1))(
        q, 0.3
    )
    np.testing.assert_array_equal(grads[0], np.zeros((B, A)))
    assert grads[1] == 0.0


def losses_together(scores, reference, q, mask, log_alpha, axis_name=None):
    """Every loss of the actor, so that one pmap compiles for all."""
    log_pi = jax.nn.log_softmax(scores)
    actor = sac.policy_loss(log_pi, q, jnp.exp(log_alpha), mask, axis_name)
    alpha = sac.alpha_loss(log_alpha, log_pi, 0.7, mask, axis_name)
    kl = sac.kl_to_reference(log_pi, jax.nn.log_softmax(reference), mask, axis_name)
    metrics = {**actor.metrics, **alpha.metrics, "kl": kl}
    return actor.loss + alpha.loss + 0.1 * kl, metrics


def test_eight_devices_equal_one():
    scores, q, mask = ragged(0)
    reference = np.where(np.isfinite(scores), q[::-1], -np.inf).astype(np.float32)
    q = np.where(np.isfinite(scores) & mask[:, None], q, np.nan).astype(np.float32)
    log_alpha = jnp.float32(-1.0)

    def step(axis_name, log_alpha, *batch):
        grads, metrics = jax.grad(losses_together, (0, 4), has_aux=True)(
            *batch, log_alpha, axis_name
        )
        if axis_name is None:
            return grads, metrics
        summed, metrics = jax.lax.psum((grads[1], metrics), axis_name)
        return (grads[0], summed), metrics

    batch = (scores, reference, q, mask)
    shards = [x.reshape(8, B // 8, *x.shape[1:]) for x in batch]
    sharded, metrics = jax.pmap(
        lambda *a: step("data", *a), axis_name="data", in_axes=(None, 0, 0, 0, 0)
    )(log_alpha, *shards)
    whole, expected = jax.jit(lambda *a: step(None, *a))(log_alpha, *batch)
    np.testing.assert_allclose(sharded[0].reshape(B, A), whole[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(sharded[1], np.full(8, whole[1]), rtol=1e-5)
    for name in expected:
        np.testing.assert_allclose(metrics[name], np.full(8, expected[name]), rtol=1e-5)


def test_target_entropy_is_a_share_of_the_largest():
    log_pi = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]))
    np.testing.assert_allclose(
        sac.target_entropy(log_pi, 0.5),
        [0.5 * np.log(2), 0.0, 0.5 * np.log(3)],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "pi, grad",
    [
        # Uniform over 2: H = log 2, target 0.98 log 2: alpha falls, by a little.
        ([0.5, 0.5, 0.0], 0.05 * 0.02 * np.log(2)),
        # Certain: H = 0: alpha rises.
        ([1.0 - 1e-9, 1e-9, 0.0], -0.05 * 0.98 * np.log(2)),
    ],
)
def test_alpha_moves_towards_the_target(pi, grad):
    with np.errstate(divide="ignore"):
        log_pi = jnp.asarray(np.log([pi]), jnp.float32)
    args = (log_pi, 0.98, jnp.ones(1, bool))
    loss, slope = jax.value_and_grad(lambda x: sac.alpha_loss(x, *args).loss)(
        jnp.log(jnp.float32(0.05))
    )
    np.testing.assert_allclose(slope, grad, rtol=1e-3)
    np.testing.assert_allclose(loss, grad, rtol=1e-3)


def test_alpha_loss_leaves_the_policy_alone():
    scores, _, mask = ragged(0)
    log_pi = jax.nn.log_softmax(scores)
    grad = jax.grad(lambda x: sac.alpha_loss(jnp.float32(0.0), x, 0.5, mask).loss)
    np.testing.assert_array_equal(grad(log_pi), np.zeros((B, A)))


def test_kl_by_hand():
    log_pi = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [jnp.nan] * 3]))
    reference = jnp.log(jnp.array([[0.25, 0.75, 0.0], [0.5, 0.5, 0.0], [0.1] * 3]))
    mask = jnp.array([True, True, False])
    # (1/2 log 2 + 1/2 log 2/3 + 0) / 2
    expected = (0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2
    np.testing.assert_allclose(
        sac.kl_to_reference(log_pi, reference, mask), expected, rtol=1e-5
    )


def test_worth_of_never_succeeding():
    # 0.05 * log 9 / 0.01 = 10.99
    np.testing.assert_allclose(
        sac.never_succeeding_worth(0.05, 1.0, 9, 0.99), 5 * np.log(9)
    )
    assert sac.never_succeeding_worth(0.05, 0.0, 9, 0.99) == 0.0
    assert sac.never_succeeding_worth(0.05, 1.0, 1, 1.0) == 0.0
    assert sac.never_succeeding_worth(0.05, 1.0, 9, 1.0) == math.inf


@pytest.mark.parametrize(
    "args, message",
    [
        ((-0.1, 1.0, 9, 0.9), "alpha is -0.1, must be at least 0"),
        ((0.1, 2.0, 9, 0.9), r"entropy_share is 2.0, must be within \[0, 1\]"),
        ((0.1, 1.0, 0, 0.9), "num_commands is 0, must be at least 1"),
        ((0.1, 1.0, 9, 1.9), r"gamma is 1.9, must be within \[0, 1\]"),
    ],
)
def test_worth_names_what_is_out_of_range(args, message):
    with pytest.raises(ValueError, match=message):
        sac.never_succeeding_worth(*args)
