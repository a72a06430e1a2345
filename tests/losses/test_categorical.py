"""Entropy, divergence and count over ragged command sets."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from rljax.losses.categorical import entropy, kl_divergence, num_admitted

INF = jnp.inf
old_rlax_names = pytest.mark.filterwarnings("ignore:Rlax:PendingDeprecationWarning")


def ragged(seed, rows=6, columns=5):
    """Scores [B, A] with -inf where not admitted; each row admits at least one."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, columns)).astype(np.float32)
    admitted = np.arange(columns) < rng.integers(1, columns + 1, rows)[:, None]
    admitted = rng.permuted(admitted, axis=1)
    return np.where(admitted, scores, -np.inf).astype(np.float32)


def test_entropy_by_hand():
    log_pi = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]]))
    # Two equal ones: log 2. A certain one: 0. 1/4, 1/4, 1/2: 2/4 + 2/4 + 1/2 bits.
    np.testing.assert_allclose(
        entropy(log_pi), [np.log(2), 0.0, 1.5 * np.log(2)], rtol=1e-6
    )
    np.testing.assert_array_equal(num_admitted(log_pi), [2, 1, 3])


@old_rlax_names
def test_entropy_is_rlaxs_where_every_command_is_admitted():
    scores = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    # rlax: minus the mean entropy.
    expected = rlax.entropy_loss(jnp.asarray(scores), jnp.ones(4))
    np.testing.assert_allclose(
        -entropy(jax.nn.log_softmax(scores)).mean(), expected, rtol=1e-5
    )


@old_rlax_names
def test_divergence_is_rlaxs_where_every_command_is_admitted():
    p, q = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
    expected = rlax.categorical_kl_divergence(jnp.asarray(p), jnp.asarray(q))
    actual = kl_divergence(jax.nn.log_softmax(p), jax.nn.log_softmax(q))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_divergence_by_hand():
    p = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    q = jnp.log(jnp.array([0.25, 0.75, 0.0]))
    # 1/2 log 2 + 1/2 log (2/3)
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    np.testing.assert_allclose(kl_divergence(p, q), expected, rtol=1e-6)


def test_a_command_the_reference_rules_out_is_infinitely_far():
    assert kl_divergence(jnp.log(jnp.array([0.5, 0.5])), jnp.array([0.0, -INF])) == INF


def kl_to_nan_where_ruled_out(log_pi, mask):
    return kl_divergence(log_pi, 0.0 * jax.lax.stop_gradient(log_pi) - 2.0, mask)


@pytest.mark.parametrize("function", [entropy, kl_to_nan_where_ruled_out])
def test_ruled_out_commands_and_padding_rows_send_no_nan(function):
    scores = ragged(2)
    real = np.array([True] * 5 + [False])

    def total(scores):
        log_pi = jnp.where(scores == -INF, -INF, scores)
        return function(log_pi, real).sum()

    junk = jnp.asarray(scores).at[5].set(jnp.nan)
    grad = jax.grad(total)(junk)
    chex.assert_tree_all_finite(grad)
    np.testing.assert_array_equal(grad[5], 0.0)
    np.testing.assert_array_equal(np.asarray(grad)[scores == -np.inf], 0.0)
    nothing = jnp.full_like(junk, -INF)
    assert total(nothing) == 0.0


def test_nan_in_a_real_row_is_seen():
    assert jnp.isnan(entropy(jnp.array([jnp.nan, 0.0])))
