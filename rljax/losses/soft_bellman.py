"""Soft (maximum-entropy) Bellman backups over the commands of a state.

A transition leaves state `tm1` and reaches state `t`; its reward and discount are
known on arrival, so they carry `_t`. Shape letters: B batch, A commands.

What the critic's raw output means, and which error it is trained with, is one
`QError`: `squared_error` (raw is Q) or `sigmoid_cross_entropy` (Q = sigmoid(raw)).

Why the second learns where the first does not, at rewards in {0, 1}. Both gradients in
`raw` are the error Q - y (times 2 for the square), so neither sees a clearer signal.
What differs is how Q moves: dQ = Q (1 - Q) draw. (1) `raw` near 0 means Q = 1/2, above
almost every early target: a command that was tried and failed sinks below those that
were not, so the policy explores. With raw = Q it starts at 0, where a failure teaches
nothing. (2) An Adam step moves `raw` by about the same amount whatever the loss; in Q
that is 4 times less, or more near 0 and 1, where sparse targets lie. So the error of
approximation stays small beside alpha, and the policy, which follows differences of Q
over alpha, does not commit itself to noise. (3) Q stays within [0, 1], so neither the
bootstrap nor the policy follows a value that no return can have.
In a small trial (1) and (2) each made part of the difference and the cross-entropy
itself little: the square of sigmoid(raw) - y did nearly as well from Q = 1/2. Its
gradient has the factor Q (1 - Q), though, which fades where Q is confidently wrong, and
from a low start it did no better than raw = Q; the cross-entropy's has not, and did.
With `squared_error`, starting Q above what is expected of an unknown state and a larger
alpha each close part of the gap; a smaller weight of the loss widens it.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.categorical import admit, expectation
from rljax.losses.masked import masked_mean, widen
from rljax.types import Metrics


class QError(NamedTuple):
    """How a critic's raw output is read as Q and compared with a target."""

    to_q: Callable[[jax.Array], jax.Array]  # raw -> Q, any shape
    loss: Callable[[jax.Array, jax.Array], jax.Array]  # (raw, target) -> loss, [B]
    low: float  # the least Q it can express
    high: float  # and the largest


class CriticLoss(NamedTuple):
    """The critic's loss, and how far each row is from its target."""

    loss: jax.Array  # []
    td_error: jax.Array  # [B], target - Q; zero where masked
    metrics: Metrics


def _square(raw: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.square(target - raw)


def _cross_entropy(raw: jax.Array, target: jax.Array) -> jax.Array:
    # -y log sigmoid(x) - (1 - y) log(1 - sigmoid(x)), stable for large |x|.
    return jax.nn.softplus(raw) - target * raw


squared_error = QError(lambda raw: raw, _square, -jnp.inf, jnp.inf)
sigmoid_cross_entropy = QError(jax.nn.sigmoid, _cross_entropy, 0.0, 1.0)


def soft_value(
    q: jax.Array, log_pi: jax.Array, entropy_coef: jax.typing.ArrayLike
) -> jax.Array:
    """Value of a state under `pi`, with what a nat of entropy is worth.

        V = sum_a pi(a) [Q(a) - entropy_coef log pi(a)]

    Source: Christodoulou, 2019 (arXiv:1910.07207): SAC's state value, the expectation
    taken exactly instead of sampled. There the coefficient is the temperature alpha. It
    is a separate argument because the target need not hold what the policy's loss
    holds: with alpha here, an episode's end costs the entropy of all steps after it,
    and an agent may be paid more for never succeeding than for success (see
    `sac.never_succeeding_worth`). With 0 this is the plain expectation of Q.

    Args:
      q: action values (not raw outputs), float [..., A]. May be anything where ruled
        out.
      log_pi: normalised log-probabilities, float [..., A]; -inf rules a command out.
      entropy_coef: worth of one nat, float scalar.

    Returns:
      State values, float32 [...]; 0 for a row that admits no command.

    Raises:
      AssertionError: if the shapes differ or a dtype is not float.
    """
    chex.assert_equal_shape([q, log_pi])
    chex.assert_type([q, log_pi], float)
    admitted, log_pi = admit(log_pi)
    return expectation(widen(q) - entropy_coef * log_pi, log_pi, admitted)


def soft_bellman_loss(
    q_tm1: jax.Array,
    a_tm1: jax.Array,
    r_t: jax.Array,
    discount_t: jax.Array,
    v_t: jax.Array,
    mask: jax.Array,
    error: QError = squared_error,
    axis_name: str | None = None,
) -> CriticLoss:
    """Error between Q(s, a) and its (n-step) soft backup.

        y = R + discount V(s'),    loss = mean error(Q(s, a), y)

    No 1/2, no clipping, no importance weights. For an n-step item of m real steps, R
    sums gamma^i r over them and `discount_t` is gamma^m: 0 where the last of them
    terminated the episode; a truncated one keeps its discount and bootstraps. The
    target is a constant: no gradient reaches `v_t`.

    A target outside [error.low, error.high] is used as it is, not clamped: the gradient
    of the cross-entropy in its raw output is sigmoid(raw) - y for any y, so that Q
    settles on the *mean* of the targets, and clamping the noisy ones would shift it. If
    the mean itself lies outside, Q goes to the border and `raw` grows without end. The
    share of such targets is the metric `critic/outside`; it is 0 with rewards in
    {0, 1}, one success an episode, and no entropy in the target.

    Args:
      q_tm1: raw outputs of the critic where the transition starts, float [B, A]. May be
        anything in commands not taken.
      a_tm1: commands taken, int [B], each in [0, A).
      r_t: rewards, float [B].
      discount_t: discounts, float [B].
      v_t: values where it ends (see `soft_value`), float [B].
      mask: whether the transition is real, bool [B]. All else may be anything where it
        is not.
      error: `squared_error` or `sigmoid_cross_entropy`.
      axis_name: see `masked_mean`.

    Returns:
      The loss, the error of each transition, and scalar metrics.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(q_tm1, 2)
    chex.assert_shape([a_tm1, r_t, discount_t, v_t, mask], q_tm1.shape[:1])
    chex.assert_type(
        [q_tm1, a_tm1, r_t, discount_t, v_t, mask],
        [float, int, float, float, float, bool],
    )
    raw = jnp.take_along_axis(q_tm1, a_tm1[:, None], axis=-1)[:, 0]
    raw = jnp.where(mask, widen(raw), 0.0)
    target = widen(r_t) + widen(discount_t) * widen(v_t)
    target = jax.lax.stop_gradient(jnp.where(mask, target, 0.0))
    q = error.to_q(raw)
    td_error = jnp.where(mask, target - q, 0.0)
    loss = masked_mean(error.loss(raw, target), mask, axis_name)
    outside = (target < error.low) | (target > error.high)
    metrics = {
        "critic/loss": loss,
        "critic/q": masked_mean(q, mask, axis_name),
        "critic/target": masked_mean(target, mask, axis_name),
        "critic/td_abs": masked_mean(jnp.abs(td_error), mask, axis_name),
        "critic/outside": masked_mean(outside, mask, axis_name),
    }
    return CriticLoss(loss, td_error, metrics)
