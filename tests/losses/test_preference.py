"""DPO and KTO against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import preference


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_only_what_the_policy_said_counts():
    log_prob = jnp.array([[jnp.nan, -1.0, -2.0, jnp.nan], [-0.5, jnp.nan, -0.25, -1.0]])
    reference = jnp.array([[-9.0, -1.5, -1.0, -9.0], [-1.0, -9.0, -0.5, -0.5]])
    mask = jnp.array([[0, 1, 1, 0], [1, 0, 1, 1]], bool)

    def total(log_prob):
        return jnp.sum(preference.answer_log_ratio(log_prob, reference, mask))

    rho = preference.answer_log_ratio(log_prob, reference, mask)
    np.testing.assert_allclose(rho, [0.5 - 1.0, 0.5 + 0.25 - 0.5])
    np.testing.assert_array_equal(jax.grad(total)(log_prob), mask.astype(float))


def test_dpo_by_hand():
    better, worse = jnp.array([1.0, -2.0, jnp.nan]), jnp.array([0.5, 1.0, jnp.nan])
    mask = jnp.array([True, True, False])

    def loss(better, worse):
        return preference.dpo_loss(better, worse, mask, 0.1).loss

    margins = 0.1 * np.array([0.5, -3.0])
    expected = -np.log(sigmoid(margins)).mean()
    assert float(loss(better, worse)) == pytest.approx(expected, rel=1e-6)
    grads = jax.grad(loss, argnums=(0, 1))(better, worse)
    slope = -0.1 * sigmoid(-margins) / 2
    np.testing.assert_allclose(grads[0], [*slope, 0], rtol=1e-6)
    np.testing.assert_allclose(grads[1], [*-slope, 0], rtol=1e-6)
    told = preference.dpo_loss(better, worse, mask, 0.1).metrics
    assert float(told["train/preferred"]) == 0.5
    assert float(told["train/margin"]) == pytest.approx(margins.mean(), rel=1e-6)


RHO = jnp.array([0.4, -0.3, 0.9, jnp.nan])
GOOD = jnp.array([True, False, False, True])
MASK = jnp.array([True, True, True, False])


def kto(rho, mismatched, beta=0.5):
    return preference.kto_loss(rho, mismatched, GOOD, MASK, beta, 1.0, 2.0)


@pytest.mark.parametrize(
    ("mismatched", "z"), [([0.5, -0.2, 0.6, 9.0], 0.3), ([-0.5, 0.1, -0.3, 9.0], 0.0)]
)
def test_kto_by_hand(mismatched, z):
    """z is the mean, cut at 0 after it: cut before, the second would be 0.1 / 3."""
    mismatched = jnp.array(mismatched)
    gains = 0.5 * np.array([0.4 - z, z + 0.3, z - 0.9])
    weight = np.array([1.0, 2.0, 2.0])
    expected = (weight * (1 - sigmoid(gains))).mean()
    found = kto(RHO, mismatched)
    assert float(found.loss) == pytest.approx(expected, rel=1e-6)
    assert float(found.metrics["train/kto_z"]) == pytest.approx(z, abs=1e-7)
    assert float(found.metrics["train/rho_bad"]) == pytest.approx(0.3, rel=1e-6)
    grads = jax.grad(lambda r, m: kto(r, m).loss, argnums=(0, 1))(RHO, mismatched)
    slope = weight * sigmoid(gains) * sigmoid(-gains) * 0.5 / 3
    np.testing.assert_allclose(grads[0], [*(slope * [-1, 1, 1]), 0], rtol=1e-5)
    assert not np.any(grads[1])  # z is a constant


def test_shares_of_devices_add_up_and_z_is_of_all():
    """Two answers a device; one device's mean alone is below 0."""
    mismatched = jnp.array([0.9, 0.5, -0.4, 9.0])
    whole = jax.value_and_grad(lambda r: kto(r, mismatched).loss)(RHO)

    def each(rho, mismatched, good, mask):
        def loss(rho):
            found = preference.kto_loss(
                rho, mismatched, good, mask, 0.5, 1.0, 2.0, axis_name="data"
            )
            return found.loss, found.metrics

        (value, told), grad = jax.value_and_grad(loss, has_aux=True)(rho)
        return jax.lax.psum((value, told), "data"), grad

    def halves(x):
        return x.reshape(2, 2)

    devices = jax.devices()[:2]
    dealt = map(halves, (RHO, mismatched, GOOD, MASK))
    (value, told), grad = jax.pmap(each, axis_name="data", devices=devices)(*dealt)
    np.testing.assert_allclose(value, [whole[0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(grad.ravel(), whole[1], rtol=1e-5)
    np.testing.assert_allclose(told["train/kto_z"], [1 / 3] * 2, rtol=1e-6)
