"""Soft Bellman losses: cases by hand, a plain loop in numpy, rlax, eight devices."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from absl.testing import parameterized

from rljax.losses.soft_bellman import (
    sigmoid_cross_entropy,
    soft_bellman_loss,
    soft_value,
    squared_error,
)

B, A = 16, 3
ERRORS = {"squared": squared_error, "cross_entropy": sigmoid_cross_entropy}
both_errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


def reference_loss(error, q_tm1, a_tm1, r_t, discount_t, v_t, mask):
    """The definition, one transition at a time, in float64."""
    losses = []
    for i in np.flatnonzero(mask):
        raw = float(q_tm1[i, a_tm1[i]])
        y = float(r_t[i]) + float(discount_t[i]) * float(v_t[i])
        if error is squared_error:
            losses.append((y - raw) ** 2)
        else:
            p = 1 / (1 + np.exp(-raw))
            losses.append(-y * np.log(p) - (1 - y) * np.log(1 - p))
    return np.mean(losses)


def random_batch(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)  # not jax.random, whose bits may change

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    # Rows of two on eight devices: both, one or none of them real.
    chance = np.repeat([0.9, 0.5, 0.1, 0.0, 1.0, 0.5, 0.9, 0.5], 2)
    return {
        "q_tm1": normal(B, A),
        "a_tm1": rng.integers(A, size=B, dtype=np.int32),
        "r_t": normal(B),
        "discount_t": rng.choice([0.0, 0.9], size=B).astype(np.float32),
        "v_t": normal(B),
        "mask": rng.random(B) < chance,
    }


def with_junk(batch) -> dict[str, Any]:
    """The same, with NaN and impossible commands in the padding."""
    mask = batch["mask"]
    junk = {
        k: np.where(mask if v.ndim == 1 else mask[:, None], v, np.nan)
        for k, v in batch.items()
        if k not in ("mask", "a_tm1")
    }
    real = mask | (np.arange(B) % 2 == 0)  # a real command with a Q of NaN, too
    return {**junk, "a_tm1": np.where(real, batch["a_tm1"], A + 5), "mask": mask}


class SoftValueTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(
        # pi = (1/2, 1/2): mean(1, 3) + 2 * entropy, and the entropy is log 2.
        ("uniform", [1.0, 3.0], [0.5, 0.5], 2.0, 2.0 + 2.0 * np.log(2.0)),
        # A certain command has no entropy: V = Q(a).
        ("certain", [1.0, 3.0], [0.0, 1.0], 2.0, 3.0),
        ("no_bonus", [1.0, 3.0], [0.25, 0.75], 0.0, 2.5),
        ("no_command", [1.0, 3.0], [0.0, 0.0], 1.0, 0.0),
    )
    def test_by_hand(self, q, pi, entropy_coef, expected):
        with np.errstate(divide="ignore"):
            log_pi = jnp.asarray(np.log(pi), jnp.float32)
        value = self.variant(soft_value)(jnp.array(q), log_pi, entropy_coef)
        np.testing.assert_allclose(value, expected, rtol=1e-6)

    def test_at_its_optimum_it_is_the_soft_maximum(self):
        q = jnp.asarray(np.random.default_rng(0).normal(size=(4, A)), jnp.float32)
        log_pi = jax.nn.log_softmax(q / 0.3)
        expected = 0.3 * jax.nn.logsumexp(q / 0.3, axis=-1)
        np.testing.assert_allclose(soft_value(q, log_pi, 0.3), expected, rtol=1e-5)

    def test_gradient_survives_a_ruled_out_command(self):
        def value(logits, q):
            return soft_value(q, jax.nn.log_softmax(logits), 0.5)

        grads = jax.grad(value, argnums=(0, 1))(
            jnp.array([0.0, 1.0, -jnp.inf]), jnp.array([0.0, 1.0, jnp.nan])
        )
        chex.assert_tree_all_finite(grads)
        for grad in grads:
            self.assertEqual(grad[2], 0.0)


@both_errors
@pytest.mark.parametrize("wrap", [jax.jit, lambda f, **_: f], ids=["jit", "plain"])
def test_loss_matches_the_loop(error, wrap):
    loss = wrap(soft_bellman_loss, static_argnames="error")
    for seed in range(3):
        batch = random_batch(seed)
        expected = reference_loss(error, **batch)
        np.testing.assert_allclose(loss(**batch, error=error).loss, expected, rtol=1e-5)


def test_error_matches_rlaxs_expected_sarsa():
    """With no entropy in the target this is Expected SARSA."""
    rng = np.random.default_rng(4)
    batch = random_batch(4)
    q_t = jnp.asarray(rng.standard_normal((B, A)), jnp.float32)
    log_pi = jax.nn.log_softmax(jnp.asarray(rng.standard_normal((B, A)), jnp.float32))
    batch["v_t"] = np.asarray(soft_value(q_t, log_pi, 0.0))
    expected = jax.vmap(rlax.expected_sarsa)(
        batch["q_tm1"], batch["a_tm1"], batch["r_t"], batch["discount_t"],
        q_t, jnp.exp(log_pi),
    )  # fmt: skip
    actual = soft_bellman_loss(**batch).td_error
    np.testing.assert_allclose(
        actual, np.where(batch["mask"], expected, 0.0), rtol=1e-4, atol=1e-6
    )


def test_gradient_of_the_cross_entropy_is_the_error():
    """dL/draw = (sigmoid(raw) - y) / count for any target, inside [0, 1] or not."""
    batch = random_batch(0)
    rest = {k: v for k, v in batch.items() if k != "q_tm1"}
    grad = jax.grad(
        lambda q: soft_bellman_loss(q, **rest, error=sigmoid_cross_entropy).loss
    )(batch["q_tm1"])
    expected = np.zeros((B, A))
    for i in np.flatnonzero(batch["mask"]):
        y = batch["r_t"][i] + batch["discount_t"][i] * batch["v_t"][i]
        a = batch["a_tm1"][i]
        expected[i, a] = 1 / (1 + np.exp(-batch["q_tm1"][i, a])) - y
    np.testing.assert_allclose(grad, expected / batch["mask"].sum(), atol=1e-6)


def test_targets_outside_are_counted_and_not_clamped():
    q = jnp.zeros((4, A))
    r_t = jnp.array([1.5, -0.1, 1.0, 9.0])
    rest = (jnp.zeros(4, int), r_t, jnp.zeros(4), jnp.zeros(4), jnp.arange(4) < 3)
    out = soft_bellman_loss(q, *rest, error=sigmoid_cross_entropy)
    np.testing.assert_allclose(out.metrics["critic/outside"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(out.td_error, [1.0, -0.6, 0.5, 0.0], rtol=1e-6)
    assert soft_bellman_loss(q, *rest).metrics["critic/outside"] == 0.0


def test_cross_entropy_is_stable_far_out():
    raw = jnp.array([[100.0], [-100.0]])
    args = (
        jnp.zeros(2, int),
        jnp.ones(2),
        jnp.zeros(2),
        jnp.zeros(2),
        jnp.ones(2, bool),
    )
    loss = lambda q: soft_bellman_loss(q, *args, error=sigmoid_cross_entropy).loss  # noqa: E731
    value, grad = jax.value_and_grad(loss)(raw)
    # Targets 1: no loss at +100, a loss of 100 at -100; mean 50.
    np.testing.assert_allclose(value, 50.0)
    np.testing.assert_allclose(grad, [[0.0], [-0.5]], atol=1e-6)


@both_errors
def test_eight_devices_equal_one(error):
    batch = with_junk(random_batch(0))

    def value_and_grad(batch, axis_name=None):
        rest = {k: v for k, v in batch.items() if k != "q_tm1"}

        def loss(q):
            out = soft_bellman_loss(q, **rest, error=error, axis_name=axis_name)
            return out.loss, out.metrics

        grad, metrics = jax.grad(loss, has_aux=True)(batch["q_tm1"])
        return grad, metrics if axis_name is None else jax.lax.psum(metrics, axis_name)

    shards = jax.tree.map(lambda x: x.reshape(8, B // 8, *x.shape[1:]), batch)
    step = jax.pmap(lambda b: value_and_grad(b, "data"), axis_name="data")
    grad, metrics = step(shards)
    expected_grad, expected = jax.jit(value_and_grad)(batch)
    np.testing.assert_allclose(grad.reshape(B, A), expected_grad, rtol=1e-5, atol=1e-7)
    for name in expected:
        np.testing.assert_allclose(metrics[name], np.full(8, expected[name]), rtol=1e-5)


@both_errors
def test_padding_may_hold_anything(error):
    batch = random_batch(0)
    junk = with_junk(batch)
    np.testing.assert_array_equal(
        np.asarray(soft_bellman_loss(**junk, error=error).td_error)[~batch["mask"]], 0.0
    )
    grad = jax.value_and_grad(
        lambda q, b: soft_bellman_loss(**{**b, "q_tm1": q}, error=error).loss
    )
    chex.assert_trees_all_equal(grad(batch["q_tm1"], batch), grad(junk["q_tm1"], junk))


def test_commands_not_taken_may_hold_anything():
    batch = random_batch(0)
    taken = np.eye(A, dtype=bool)[batch["a_tm1"]]
    junk = {**batch, "q_tm1": np.where(taken, batch["q_tm1"], np.nan)}
    grad = jax.grad(lambda q, b: soft_bellman_loss(**{**b, "q_tm1": q}).loss)
    np.testing.assert_array_equal(
        grad(batch["q_tm1"], batch), grad(junk["q_tm1"], junk)
    )


def test_a_command_that_does_not_exist_is_seen():
    batch = random_batch(0)
    batch["a_tm1"] = np.where(batch["mask"], A, 0).astype(np.int32)
    assert jnp.isnan(soft_bellman_loss(**batch).loss)


def test_no_real_transition_gives_zero():
    batch = random_batch(0)
    batch["mask"] = np.zeros(B, bool)
    assert soft_bellman_loss(**batch).loss == 0.0


def test_target_is_a_constant():
    batch = random_batch(0)
    v_t = batch.pop("v_t")
    grad = jax.grad(lambda v: soft_bellman_loss(**batch, v_t=v).loss)(v_t)
    np.testing.assert_array_equal(grad, np.zeros(B))


def test_bfloat16_is_widened():
    batch = random_batch(0)
    low = batch["q_tm1"].astype(jnp.bfloat16)
    loss = soft_bellman_loss(**{**batch, "q_tm1": low}).loss
    assert loss.dtype == jnp.float32
    batch["q_tm1"] = low.astype(np.float32)
    np.testing.assert_allclose(loss, soft_bellman_loss(**batch).loss, rtol=1e-6)


def test_rejects_action_values_as_state_values():
    batch = random_batch(0)
    batch["v_t"] = batch["q_tm1"]  # the easy mistake
    with pytest.raises(AssertionError, match=r"shape \(16, 3\)"):
        soft_bellman_loss(**batch)
