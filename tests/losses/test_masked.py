"""Masked reductions: by hand, with junk in the padding, and over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses.masked import masked_count, masked_mean, whiten

DEVICES = 8


def uneven(rng, rows=DEVICES, columns=4):
    """A mask whose rows hold from none to all of their entries."""
    return (
        np.arange(columns) < rng.permutation(np.arange(rows) % (columns + 1))[:, None]
    )


def test_mean_by_hand():
    x = jnp.array([1.0, jnp.nan, 4.0, jnp.inf])
    mask = jnp.array([True, False, True, False])
    assert masked_mean(x, mask) == 2.5  # (1 + 4) / 2
    assert masked_count(mask) == 2.0


def test_mean_of_nothing_is_zero():
    mask = jnp.zeros(3, bool)
    value, grad = jax.value_and_grad(masked_mean)(jnp.full(3, jnp.nan), mask)
    assert value == 0.0
    np.testing.assert_array_equal(grad, np.zeros(3))


def test_a_sum_in_bfloat16_would_stop_at_256():
    x = jnp.ones(1000, jnp.bfloat16)
    mean = masked_mean(x, jnp.arange(1000) < 999)
    assert mean == 1.0
    assert mean.dtype == jnp.float32


def test_mean_over_devices_is_the_mean_over_all():
    rng = np.random.default_rng(0)
    mask = uneven(rng)
    x = np.where(mask, rng.normal(size=mask.shape), np.nan).astype(np.float32)
    shares = jax.pmap(lambda x, m: masked_mean(x, m, "data"), axis_name="data")(x, mask)
    np.testing.assert_allclose(np.sum(shares), x[mask].mean(), rtol=1e-5)
    means = np.array(
        [row[m].mean() if m.any() else 0 for row, m in zip(x, mask, strict=True)]
    )
    assert abs(means.mean() - x[mask].mean()) > 0.01  # what a mean of means would give


def test_whiten_by_hand():
    x = jnp.array([1.0, jnp.nan, 5.0])
    mask = jnp.array([True, False, True])
    # mean 3, variance (4 + 4) / 2 = 4, so (1 - 3) / 2 and (5 - 3) / 2.
    np.testing.assert_allclose(whiten(x, mask), [-1.0, 0.0, 1.0], rtol=1e-6)


def test_whiten_of_equal_entries_is_zero():
    np.testing.assert_array_equal(
        whiten(jnp.full(3, 7.0), jnp.ones(3, bool)), np.zeros(3)
    )


def test_whiten_over_devices_is_over_all():
    rng = np.random.default_rng(1)
    mask = uneven(rng)
    x = np.where(mask, rng.normal(size=mask.shape), np.nan).astype(np.float32)
    sharded = jax.pmap(lambda x, m: whiten(x, m, "data"), axis_name="data")(x, mask)
    real = x[mask]
    np.testing.assert_allclose(
        np.asarray(sharded)[mask],
        (real - real.mean()) / real.std(),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_array_equal(np.asarray(sharded)[~mask], 0.0)


def test_rejects_a_mask_of_another_shape():
    with pytest.raises(AssertionError, match="mask|shape"):
        masked_mean(jnp.ones((2, 3)), jnp.ones(2, bool))
