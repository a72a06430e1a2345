"""Soft actor-critic over the commands of a state: policy, temperature, limits.

Shape letters: B batch, A commands. Sources: Haarnoja et al., 2018 (arXiv:1812.05905);
Christodoulou, 2019 (arXiv:1910.07207) for the discrete form.
"""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.categorical import entropy, kl_divergence, num_admitted
from rljax.losses.masked import masked_mean, widen
from rljax.losses.soft_bellman import soft_value
from rljax.types import Metrics


class ActorLoss(NamedTuple):
    """A loss of the policy, or of its temperature."""

    loss: jax.Array  # []
    metrics: Metrics


def policy_loss(
    log_pi: jax.Array,
    q: jax.Array,
    alpha: jax.typing.ArrayLike,
    mask: jax.Array,
    axis_name: str | None = None,
) -> ActorLoss:
    """Moves the policy towards softmax(Q / alpha), exactly over the commands.

        L = mean_x sum_a pi(a|x) [alpha log pi(a|x) - Q(x, a)]

    Q and alpha are constants. With pi = softmax(S), the gradient in a score is

        dL/dS_k = pi_k { [alpha log pi_k - Q_k] - sum_b pi_b [alpha log pi_b - Q_b] }

    so adding a constant to a state's Q changes nothing; what counts is how large the
    *differences* of Q between commands are beside alpha.

    Args:
      log_pi: normalised log-probabilities, float [B, A]; -inf rules a command out.
      q: action values (not raw outputs), float [B, A]. May be anything where ruled out.
      alpha: temperature, float scalar.
      mask: whether the state is real, bool [B]. All else may be anything where it is
        not.
      axis_name: see `masked_mean`.

    Returns:
      The loss and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_pi, 2)
    chex.assert_equal_shape([log_pi, q])
    chex.assert_shape(mask, log_pi.shape[:1])
    chex.assert_type([log_pi, q, mask], [float, float, bool])
    log_pi = jnp.where(mask[:, None], log_pi, -jnp.inf)
    q, alpha = jax.lax.stop_gradient((q, alpha))
    loss = -masked_mean(soft_value(q, log_pi, alpha), mask, axis_name)
    h = jax.lax.stop_gradient(entropy(log_pi))
    metrics = {
        "train/policy_loss": loss,
        "train/entropy": masked_mean(h, mask, axis_name),
    }
    return ActorLoss(loss, metrics)


def target_entropy(
    log_pi: jax.Array, ratio: float, mask: jax.Array | None = None
) -> jax.Array:
    """Entropy to hold, a share of the largest one: Hbar(x) = ratio log |A(x)|.

    Source: Christodoulou, 2019, with ratio 0.98. That is too much for a policy that
    should commit itself: alpha then grows without end. 0.3 to 0.8 are usual.

    Args:
      log_pi: see `policy_loss`, float [..., A]; only its -inf entries matter.
      ratio: share of log |A|, within [0, 1].
      mask: whether the state is real, bool [...].

    Returns:
      Nats, float32 [...]; 0 where masked or where one command or none is admitted.
    """
    return ratio * jnp.log(jnp.maximum(num_admitted(log_pi, mask), 1.0))


def alpha_loss(
    log_alpha: jax.Array,
    log_pi: jax.Array,
    ratio: float,
    mask: jax.Array,
    axis_name: str | None = None,
) -> ActorLoss:
    """Lowers alpha while the policy's entropy is above its target, else raises it.

        L = mean_x alpha [H(pi(.|x)) - Hbar(x)],    dL/dlog alpha = L

    The policy is a constant; Hbar as in `target_entropy`. (A known slip, Hbar = -log
    |A|, makes this gradient positive for every policy; that is a decay,
    which the MAGELLAN code, arXiv:2502.07709, has for an automatic temperature.)

    Args:
      log_alpha: float [], the parameter.
      log_pi: see `policy_loss`, float [B, A].
      ratio: share of log |A| to hold, within [0, 1].
      mask: whether the state is real, bool [B].
      axis_name: see `masked_mean`.

    Returns:
      The loss and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank([log_alpha, log_pi], [0, 2])
    chex.assert_shape(mask, log_pi.shape[:1])
    chex.assert_type([log_alpha, log_pi, mask], [float, float, bool])
    log_pi = jax.lax.stop_gradient(jnp.where(mask[:, None], log_pi, -jnp.inf))
    excess = entropy(log_pi) - target_entropy(log_pi, ratio)
    loss = jnp.exp(widen(log_alpha)) * masked_mean(excess, mask, axis_name)
    metrics = {
        "train/alpha_loss": loss,
        "train/entropy_excess": masked_mean(excess, mask, axis_name),
    }
    return ActorLoss(loss, metrics)


def kl_to_reference(
    log_pi: jax.Array,
    log_reference: jax.Array,
    mask: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """Mean KL of the policy to a fixed one, such as the initial language model.

        mean_x sum_a pi(a|x) [log pi(a|x) - log ref(a|x)]

    Args:
      log_pi: see `policy_loss`, float [B, A].
      log_reference: the same commands under the reference, float [B, A]; a constant.
      mask: whether the state is real, bool [B].
      axis_name: see `masked_mean`.

    Returns:
      Nats, float32 [].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_pi, 2)
    chex.assert_shape(mask, log_pi.shape[:1])
    chex.assert_type([log_pi, log_reference, mask], [float, float, bool])
    log_reference = jax.lax.stop_gradient(log_reference)
    return masked_mean(kl_divergence(log_pi, log_reference, mask), mask, axis_name)


def never_succeeding_worth(
    alpha: float, entropy_share: float, num_commands: int, gamma: float
) -> float:
    """What the target pays a policy that acts at random and never succeeds.

        V = share alpha log |A| + gamma V  =>  V = share alpha log |A| / (1 - gamma)

    Success ends the episode and with it this income: where it exceeds the (scaled)
    reward of success, the better policy never succeeds. With 9 commands, gamma 0.99
    and alpha 0.05 it is 11, against a reward of 1. Only the bootstrap of a target is
    soft, so items of n steps earn one bonus in n steps and about an n-th of this; but
    items shorter than n, at the end of an episode, earn it as often as single steps.

    Args:
      alpha: temperature.
      entropy_share: share of alpha that enters the target, 0 for none, 1 for all.
      num_commands: |A|, the largest number of admissible commands.
      gamma: discount of one step.

    Returns:
      The worth, in units of the (scaled) reward.

    Raises:
      ValueError: if an argument is outside its range.
    """
    if alpha < 0:
        raise ValueError(f"alpha is {alpha}, must be at least 0")
    if not 0 <= entropy_share <= 1:
        raise ValueError(f"entropy_share is {entropy_share}, must be within [0, 1]")
    if num_commands < 1:
        raise ValueError(f"num_commands is {num_commands}, must be at least 1")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is {gamma}, must be within [0, 1]")
    bonus = entropy_share * alpha * math.log(num_commands)
    if bonus == 0:
        return 0.0
    return bonus / (1 - gamma) if gamma < 1 else math.inf
