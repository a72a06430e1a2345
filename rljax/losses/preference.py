"""Losses that compare answers: DPO of pairs, KTO of single answers.

Both read what a policy makes of a whole answer against a reference,

    rho = sum_t log pi(a_t|s_t) - log pi_ref(a_t|s_t),

over the policy's own tokens, the end token included. Shape letters: B pairs or answers.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import masked_mean, widen
from rljax.types import Metrics


class PreferenceLoss(NamedTuple):
    """A loss of the policy."""

    loss: jax.Array  # []
    metrics: Metrics


def answer_log_ratio(
    log_prob: jax.Array, reference: jax.Array, mask: jax.Array
) -> jax.Array:
    """rho of each answer, float32 [B].

    Args:
      log_prob: log pi of each token, float [B, T].
      reference: log pi_ref of each token, a constant, float [B, T].
      mask: whether the policy said the token, bool [B, T].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_prob, 2)
    chex.assert_equal_shape([log_prob, reference, mask])
    chex.assert_type([log_prob, reference, mask], [float, float, bool])
    ratio = widen(log_prob) - jax.lax.stop_gradient(widen(reference))
    return jnp.sum(ratio, axis=1, where=mask)


def dpo_loss(
    better: jax.Array,
    worse: jax.Array,
    mask: jax.Array,
    beta: float,
    axis_name: str | None = None,
) -> PreferenceLoss:
    """Direct preference optimisation.

        L = - mean log sigmoid(beta (rho_better - rho_worse))

    Source: Rafailov et al., 2023 (arXiv:2305.18290), equation 7. Metrics:
    `train/preferred`, the share of pairs that the policy orders as the log does, and
    `train/margin`, the mean of what is in the sigmoid.

    Args:
      better: rho of the better answers, float [B].
      worse: rho of the worse ones, float [B].
      mask: whether there is a pair, bool [B].
      beta: weight of the divergence from the reference.
      axis_name: see `masked_mean`.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(better, 1)
    chex.assert_equal_shape([better, worse, mask])
    chex.assert_type([better, worse, mask], [float, float, bool])
    margin = beta * jnp.where(mask, widen(better) - widen(worse), 0.0)
    loss = masked_mean(jax.nn.softplus(-margin), mask, axis_name)
    metrics = {
        "train/policy_loss": loss,
        "train/preferred": masked_mean(margin > 0, mask, axis_name),
        "train/margin": masked_mean(margin, mask, axis_name),
    }
    return PreferenceLoss(loss, metrics)


def kto_loss(
    rho: jax.Array,
    mismatched: jax.Array,
    good: jax.Array,
    mask: jax.Array,
    beta: float,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
    axis_name: str | None = None,
) -> PreferenceLoss:
    """Kahneman-Tversky optimisation.

        L = mean_i  w_good (1 - sigmoid(beta (rho_i - z)))   of a good answer
                    w_bad  (1 - sigmoid(beta (z - rho_i)))   of a bad one
        z = max(0, mean_j rho'_j),    a constant

    rho' are of answers put after the prompts of others, x_j with y_{j+1}: z so
    estimates the divergence from the reference. Its mean is over all devices, and only
    then is it cut at 0.

    Source: Ethayarajh et al., 2024 (arXiv:2402.01306), equations 7 and 8.
    Metrics: `train/kto_z` and the mean rho of good and of bad answers.

    Args:
      rho: of the answers, float [B].
      mismatched: rho', float [B], read where `mask` holds.
      good: whether the answer is one to say more often, bool [B].
      mask: whether there is an answer, bool [B].
      beta: weight of the divergence from the reference.
      good_weight: of good answers.
      bad_weight: of bad ones.
      axis_name: see `masked_mean`.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(rho, 1)
    chex.assert_equal_shape([rho, mismatched, good, mask])
    chex.assert_type([rho, mismatched, good, mask], [float, float, bool, bool])
    rho = jnp.where(mask, widen(rho), 0.0)
    mean = masked_mean(widen(mismatched), mask, axis_name)
    if axis_name is not None:
        mean = jax.lax.psum(mean, axis_name)
    z = jax.lax.stop_gradient(jnp.maximum(mean, 0.0))
    gain = beta * jnp.where(good, rho - z, z - rho)
    weight = jnp.where(good, good_weight, bad_weight)
    loss = masked_mean(weight * jax.nn.sigmoid(-gain), mask, axis_name)
    share = 1.0 if axis_name is None else 1.0 / jax.lax.psum(1, axis_name)
    metrics = {
        "train/policy_loss": loss,
        "train/kto_z": z * share,
        "train/rho_good": masked_mean(rho, mask & good, axis_name),
        "train/rho_bad": masked_mean(rho, mask & ~good, axis_name),
    }
    return PreferenceLoss(loss, metrics)
