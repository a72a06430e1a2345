"""Policy-gradient losses: PPO's clipped policy and value losses, and entropy.

Source: Schulman et al., 2017 (arXiv:1707.06347); for commands of a language model,
Carta et al., 2023 (arXiv:2302.02662), whose whole loss is

    policy - 0.01 entropy + 0.5 value

with the three terms below. The policy's loss of tokens is in `surrogate.py`. Shape
letters: B batch, T tokens, A commands. In padding (mask False) all other arrays may
hold anything.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.categorical import entropy
from rljax.losses.masked import masked_mean, whiten, widen
from rljax.types import Metrics


class PPOLoss(NamedTuple):
    """A loss of the policy or of the value."""

    loss: jax.Array  # []
    metrics: Metrics


def clipped_gain(
    log_ratio: jax.Array, advantage: jax.Array, low: float, high: float
) -> jax.Array:
    """What PPO maximises of each action: no gain from moving w past the clip.

        min( w A, clip(w, 1 - low, 1 + high) A ),    w = p(a) / p_old(a)

    Args:
      log_ratio: log w, float, any shape.
      advantage: A, float, the same shape.
      low: how far below 1 a ratio may still earn.
      high: how far above 1; more than `low` is the clip-higher of DAPO
        (arXiv:2503.14476), which lets unlikely actions grow.

    Returns:
      Float, the same shape.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - low, 1.0 + high)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def ppo_policy_loss(
    log_p: jax.Array,
    log_p_old: jax.Array,
    advantage: jax.Array,
    mask: jax.Array,
    clip: float,
    whiten_advantage: bool = False,
    axis_name: str | None = None,
) -> PPOLoss:
    """The clipped surrogate: no gain from moving the ratio past 1 +- clip.

        L = - mean min( w A, clip(w, 1 - c, 1 + c) A ),    w = p(a) / p_old(a)

    Metrics, both at these parameters: `train/approx_kl`, the estimate mean [w - 1 - log
    w] of KL(old || new), which is never negative, and `train/clip_fraction`, the share
    of ratios outside the clip.

    Args:
      log_p: log-probability of the command taken, float [B].
      log_p_old: the same under the policy that acted, a constant, float [B].
      advantage: how much better the command was than expected, a constant, float [B].
      mask: whether the step is real, bool [B].
      clip: half-width of the range the ratio may earn in.
      whiten_advantage: scale this batch's advantages to mean 0 and variance 1, over all
        devices (PPO-GLAM does not).
      axis_name: see `masked_mean`.

    Returns:
      The loss and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_p, 1)
    chex.assert_equal_shape([log_p, log_p_old, advantage, mask])
    chex.assert_type([log_p, log_p_old, advantage, mask], [float, float, float, bool])
    log_p_old, advantage = jax.lax.stop_gradient((log_p_old, advantage))
    log_ratio = jnp.where(mask, widen(log_p) - widen(log_p_old), 0.0)
    ratio = jnp.exp(log_ratio)
    advantage = jnp.where(mask, widen(advantage), 0.0)
    if whiten_advantage:
        advantage = whiten(advantage, mask, axis_name)
    gain = clipped_gain(log_ratio, advantage, clip, clip)
    loss = -masked_mean(gain, mask, axis_name)
    kl = jax.lax.stop_gradient(jnp.expm1(log_ratio) - log_ratio)
    metrics = {
        "train/policy_loss": loss,
        "train/approx_kl": masked_mean(kl, mask, axis_name),
        "train/clip_fraction": masked_mean(
            jnp.abs(ratio - 1.0) > clip, mask, axis_name
        ),
    }
    return PPOLoss(loss, metrics)


def ppo_value_loss(
    v: jax.Array,
    v_old: jax.Array,
    returns: jax.Array,
    mask: jax.Array,
    clip: float | None,
    axis_name: str | None = None,
) -> PPOLoss:
    """Squared error of the value, the worse of the plain and the clipped one.

        L = mean max( (V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2 )

    No 1/2: the weight of this term (0.5 in PPO-GLAM) is the caller's. A value that
    has moved further than `clip` towards its return earns no more.

    Args:
      v: values, float [B], or [B, T] of tokens.
      v_old: values when the data were collected, a constant, float, the same shape.
      returns: targets, a constant, float, the same shape.
      mask: whether the step, or token, is real, bool, the same shape.
      clip: how far a value may move, in units of the return; None for no limit.
      axis_name: see `masked_mean`.

    Returns:
      The loss and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(v, {1, 2})
    chex.assert_equal_shape([v, v_old, returns, mask])
    chex.assert_type([v, v_old, returns, mask], [float, float, float, bool])
    v_old, returns = jax.lax.stop_gradient((v_old, returns))
    v = jnp.where(mask, widen(v), 0.0)
    v_old = jnp.where(mask, widen(v_old), 0.0)
    returns = jnp.where(mask, widen(returns), 0.0)
    error = jnp.square(v - returns)
    if clip is not None:
        clipped = v_old + jnp.clip(v - v_old, -clip, clip)
        error = jnp.maximum(error, jnp.square(clipped - returns))
    loss = masked_mean(error, mask, axis_name)
    metrics = {
        "critic/loss": loss,
        "critic/value": masked_mean(v, mask, axis_name),
        "critic/return": masked_mean(returns, mask, axis_name),
    }
    return PPOLoss(loss, metrics)


def mean_entropy(
    log_pi: jax.Array, mask: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean entropy of the policy in nats, to be added to a gain or taken off a loss.

    Args:
      log_pi: normalised log-probabilities, float [B, A]; -inf rules a command out.
      mask: whether the state is real, bool [B].
      axis_name: see `masked_mean`.

    Returns:
      Nats, float32 [].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_pi, 2)
    chex.assert_shape(mask, log_pi.shape[:1])
    chex.assert_type([log_pi, mask], [float, bool])
    return masked_mean(entropy(log_pi, mask), mask, axis_name)
