"""PPO's losses: by hand, against rlax, with junk in the padding, on eight devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rljax.losses.policy_gradient import mean_entropy, ppo_policy_loss, ppo_value_loss

B = 16
ALL = jnp.ones(3, bool)


def random_batch(seed) -> Any:
    rng = np.random.default_rng(seed)
    chance = np.repeat([0.9, 0.5, 0.1, 0.0, 1.0, 0.5, 0.9, 0.5], 2)
    log_p, log_p_old = -rng.gamma(2.0, 0.3, size=(2, B)).astype(np.float32)
    advantage = rng.normal(1.0, 2.0, size=B).astype(np.float32)
    return log_p, log_p_old, advantage, rng.random(B) < chance


def with_junk(*arrays, mask):
    return (*(np.where(mask, x, np.nan).astype(np.float32) for x in arrays), mask)


def test_policy_loss_by_hand():
    log_p = jnp.log(jnp.array([0.6, 0.6, 0.25]))
    log_p_old = jnp.log(jnp.array([0.5, 0.5, 0.5]))
    advantage = jnp.array([1.0, -1.0, -2.0])
    out = ppo_policy_loss(log_p, log_p_old, advantage, ALL, clip=0.1)
    # Ratios 1.2, 1.2, 0.5. Gains min(1.2, 1.1), min(-1.2, -1.1), min(-1.0, -1.8).
    np.testing.assert_allclose(out.loss, -(1.1 - 1.2 - 1.8) / 3, rtol=1e-6)
    assert out.metrics["train/clip_fraction"] == 1.0
    # w - 1 - log w: 0.2 - log 1.2 twice, -0.5 + log 2.
    kl = (2 * (0.2 - np.log(1.2)) - 0.5 + np.log(2)) / 3
    np.testing.assert_allclose(out.metrics["train/approx_kl"], kl, rtol=1e-4)


def test_no_gradient_past_the_clip():
    grad = jax.grad(lambda x: ppo_policy_loss(x, jnp.zeros(3), adv, ALL, 0.1).loss)
    adv = jnp.array([1.0, -1.0, 1.0])
    # Ratio 2: a gain is cut off, a loss is not. Ratio 1: the plain policy gradient.
    np.testing.assert_allclose(
        grad(jnp.log(jnp.array([2.0, 2.0, 1.0]))), [0.0, 2 / 3, -1 / 3], rtol=1e-6
    )


def test_policy_loss_and_gradient_are_rlaxs():
    log_p, log_p_old, advantage, _ = random_batch(0)
    ours = jax.value_and_grad(
        lambda x: ppo_policy_loss(x, log_p_old, advantage, jnp.ones(B, bool), 0.2).loss
    )
    peer = jax.value_and_grad(
        lambda x: rlax.clipped_surrogate_pg_loss(
            jnp.exp(x - log_p_old), jnp.asarray(advantage), 0.2
        )
    )
    for a, b in zip(ours(log_p), peer(log_p), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_whitened_advantages_forget_shift_and_scale():
    log_p, log_p_old, advantage, mask = random_batch(0)
    loss = lambda a: ppo_policy_loss(log_p, log_p_old, a, mask, 0.2, True).loss  # noqa: E731
    np.testing.assert_allclose(loss(advantage), loss(3 * advantage + 5), rtol=1e-4)


def test_value_loss_by_hand():
    v, v_old = jnp.array([2.0, 0.1, 2.0]), jnp.array([1.0, 0.0, 1.0])
    returns = jnp.array([3.0, 1.0, 0.0])
    # Moved by 1, 0.1, 1 where 0.5 is allowed: clipped values 1.5, 0.1, 1.5.
    # max(1, 2.25) + max(0.81, 0.81) + max(4, 2.25), no 1/2.
    loss = ppo_value_loss(v, v_old, returns, ALL, clip=0.5).loss
    np.testing.assert_allclose(loss, (2.25 + 0.81 + 4.0) / 3, rtol=1e-6)
    plain = ppo_value_loss(v, v_old, returns, ALL, clip=None).loss
    np.testing.assert_allclose(plain, (1 + 0.81 + 4) / 3, rtol=1e-6)
    grad = jax.grad(lambda v: ppo_value_loss(v, v_old, returns, ALL, 0.5).loss)(v)
    # Past the clip and better for it: no gradient. Else 2 (V - R) / 3.
    np.testing.assert_allclose(grad, [0.0, -1.8 / 3, 4 / 3], rtol=1e-6)


def test_mean_entropy_by_hand():
    log_pi = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [jnp.nan] * 3]))
    mask = jnp.array([True, True, False])
    np.testing.assert_allclose(mean_entropy(log_pi, mask), np.log(2) / 2, rtol=1e-6)


CASES = {
    "policy": lambda *a, axis_name=None: ppo_policy_loss(
        *a, clip=0.2, whiten_advantage=True, axis_name=axis_name
    ),
    "value": lambda *a, axis_name=None: ppo_value_loss(
        *a, clip=0.2, axis_name=axis_name
    ),
}


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_padding_may_hold_anything(loss):
    *arrays, mask = random_batch(1)
    step = jax.value_and_grad(lambda *a: loss(*a).loss)
    clean, junk = step(*arrays, mask), step(*with_junk(*arrays, mask=mask))
    np.testing.assert_array_equal(clean[0], junk[0])
    np.testing.assert_array_equal(clean[1], junk[1])


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_constants_get_no_gradient(loss):
    *arrays, mask = random_batch(1)
    grads = jax.grad(lambda *a: loss(*a, mask).loss, argnums=(1, 2))(*arrays)
    for grad in grads:
        np.testing.assert_array_equal(grad, np.zeros(B))


@pytest.mark.parametrize("loss", CASES.values(), ids=CASES)
def test_eight_devices_equal_one(loss):
    *arrays, mask = random_batch(2)
    batch = with_junk(*arrays, mask=mask)

    def grad(axis_name, *batch):
        def share(x, *rest):
            out = loss(x, *rest, axis_name=axis_name)
            return out.loss, out.metrics

        grad, metrics = jax.grad(share, has_aux=True)(*batch)
        return grad, metrics if axis_name is None else jax.lax.psum(metrics, axis_name)

    shards = [x.reshape(8, B // 8) for x in batch]
    sharded = jax.pmap(lambda *b: grad("data", *b), axis_name="data")(*shards)
    expected, metrics = jax.jit(lambda *b: grad(None, *b))(*batch)
    np.testing.assert_allclose(sharded[0].reshape(B), expected, rtol=1e-4, atol=1e-7)
    for name in metrics:
        np.testing.assert_allclose(
            sharded[1][name], np.full(8, metrics[name]), rtol=1e-4
        )
