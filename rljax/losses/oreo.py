"""OREO: a policy and a value learnt together from logs by the soft Bellman equation.

An episode has T actions and one reward R at its end. With the log-ratio of action t,
l_t = log pi(a_t|s_t) - log pi_ref(a_t|s_t), and S_t = sum_{i>=t} l_i, the optimum of
E[R - beta sum_t l_t] is where every residual is zero:

    delta_t = V(s_t) - R + beta S_t

The value is trained on all of them with the policy held, the policy with the value and
the actions to come held. What an action is differs: a token, a step of reasoning, or
the whole answer. `by_token`, `by_step` and `by_answer` make `Terms` of arrays of
tokens; the losses take terms.

Source: Wang et al., 2024 (arXiv:2412.16145), equations 3 and 7-10.
Shape letters: B episodes, T tokens of an episode, M actions of an episode. Padding
(mask False), prompts and observations may hold anything.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import masked_mean, widen
from rljax.types import Metrics


class Terms(NamedTuple):
    """Actions of episodes, in order and without gaps."""

    log_ratio: jax.Array  # float32 [B, M], sum of the log-ratios of its tokens
    value: jax.Array  # float32 [B, M], V of the state it is taken in
    mask: jax.Array  # bool [B, M]


class OreoLoss(NamedTuple):
    """A loss of the policy or of the value."""

    loss: jax.Array  # []
    metrics: Metrics


# (log_prob, reference, value [B, T], mask, step [B, T]) -> terms.
Level = Callable[[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], Terms]
# (terms, reward [B], beta, axis_name) -> loss of the policy.
ActorLoss = Callable[..., OreoLoss]


def by_token(log_prob, reference, value, mask, step) -> Terms:
    """An action is a token; arguments as in `by_step`, `step` is not read."""
    del step
    return _group(log_prob, reference, value, mask, jnp.cumsum(mask, axis=1) - 1, mask)


def by_step(
    log_prob: jax.Array,
    reference: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    step: jax.Array,
) -> Terms:
    """An action is a step: its log-ratio is the sum over its tokens, its state their
    first.

    Args:
      log_prob: log pi(token), float [B, T].
      reference: log pi_ref(token), float [B, T].
      value: V of the state before each token, float [B, T].
      mask: whether the token is an action's, bool [B, T].
      step: int [B, T], number of the step; where it changes another one begins.

    Returns:
      Terms [B, M] with M = T.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_type(step, int)
    # The number of the last masked token before, whatever lies between.
    known = jnp.where(mask, step, jnp.iinfo(step.dtype).min)
    before = jax.lax.cummax(known, axis=1)
    before = jnp.pad(before[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    begun = jnp.cumsum(mask, axis=1) > 1
    first = mask & (~begun | (step != before))
    return _group(
        log_prob, reference, value, mask, jnp.cumsum(first, axis=1) - 1, first
    )


def by_answer(log_prob, reference, value, mask, step) -> Terms:
    """One action, the whole answer; arguments as in `by_step`, `step` is not read."""
    del step
    first = mask & (jnp.cumsum(mask, axis=1) == 1)
    return _group(log_prob, reference, value, mask, jnp.zeros(mask.shape, int), first)


def _group(log_prob, reference, value, mask, group, first) -> Terms:
    """Sums the log-ratios of a group and takes the value at its first token."""
    chex.assert_rank(log_prob, 2)
    chex.assert_equal_shape([log_prob, reference, value, mask, group])
    chex.assert_type([log_prob, reference, value], float)
    chex.assert_type(mask, bool)
    ratio = widen(log_prob) - jax.lax.stop_gradient(widen(reference))
    rows, size = jnp.arange(len(mask))[:, None], mask.shape[1]

    def total(x, where):
        out = jnp.zeros(x.shape, x.dtype)
        at = jnp.where(where, group, size)
        return out.at[rows, at].add(jnp.where(where, x, 0), mode="drop")

    there = total(jnp.ones(mask.shape, jnp.int32), first) > 0
    return Terms(total(ratio, mask), total(widen(value), first), there)


def critic_loss(
    terms: Terms, reward: jax.Array, beta: float, axis_name: str | None = None
) -> OreoLoss:
    """The value's squared residuals.

        L = mean_b 1/M sum_t (V(s_t) - R + beta sg[S_t])^2

    Source: equation 8. Metrics: `critic/value`, the mean V, `critic/residual`, the mean
    delta, with the loss as `critic/loss`.

    Args:
      terms: [B, M]; no gradient reaches the log-ratios.
      reward: R of each episode, float [B].
      beta: weight of the divergence from the reference.
      axis_name: see `masked_mean`.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    suffix = jax.lax.stop_gradient(_suffix(terms.log_ratio))
    residual = _residual(terms.value, reward, beta, suffix)
    metrics = {
        "critic/value": _mean(terms.value, terms.mask, axis_name),
        "critic/residual": _mean(residual, terms.mask, axis_name),
    }
    loss = _mean(jnp.square(residual), terms.mask, axis_name)
    return OreoLoss(loss, metrics | {"critic/loss": loss})


def actor_loss(
    terms: Terms, reward: jax.Array, beta: float, axis_name: str | None = None
) -> OreoLoss:
    """The policy's squared residuals, each through its own action alone.

        L = mean_b 1/M sum_t (sg[V(s_t)] - R + beta l_t + beta sg[S_{t+1}])^2

    Its gradient is 2 beta delta_t grad log pi(a_t|s_t): an action is made likelier by
    as much as the episode turned out better than its state was worth.

    Source: equation 9; with `by_answer` equation 10. The divergence they add is
    `divergence`. Args and Raises as in `critic_loss`; no gradient reaches the values.
    """
    later = jax.lax.stop_gradient(_after(_suffix(terms.log_ratio)))
    return _actor(terms, reward, beta, terms.log_ratio + later, axis_name)


def full_gradient_actor_loss(
    terms: Terms, reward: jax.Array, beta: float, axis_name: str | None = None
) -> OreoLoss:
    """As `actor_loss`, but each residual moves all actions to come.

    Early residuals then weigh on every later action. Without the divergence this is
    what the paper (appendix C) takes DQO to be, without importance weights and
    lambda-returns.
    """
    return _actor(terms, reward, beta, _suffix(terms.log_ratio), axis_name)


def one_step_actor_loss(
    terms: Terms, reward: jax.Array, beta: float, axis_name: str | None = None
) -> OreoLoss:
    """The policy's one-step residuals: the reward comes through the next state's value.

        L = mean_b 1/M sum_t (sg[V(s_t)] - r_t - sg[V(s_{t+1})] + beta l_t)^2

    r_t is R at the last action and 0 before; V after the last is 0. In the reference
    code, not in the paper. Args and Raises as in `critic_loss`.
    """
    value = jax.lax.stop_gradient(terms.value)
    follows = _after(terms.mask)
    target = jnp.where(follows, _after(value), widen(reward)[:, None])
    residual = value - target + beta * terms.log_ratio
    return _told(residual, terms.mask, axis_name)


def divergence(
    kl: jax.Array, mask: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """mean_b 1/T sum_t KL(pi || pi_ref) over the tokens of actions.

    Args:
      kl: of the whole vocabulary, float [B, T], as `token_logprob.token_scores` gives.
      mask: bool [B, T].
      axis_name: see `masked_mean`.
    """
    chex.assert_equal_shape([kl, mask])
    return _mean(widen(kl), mask, axis_name)


def _actor(terms, reward, beta, suffix, axis_name) -> OreoLoss:
    value = jax.lax.stop_gradient(terms.value)
    return _told(_residual(value, reward, beta, suffix), terms.mask, axis_name)


def _told(residual, mask, axis_name) -> OreoLoss:
    loss = _mean(jnp.square(residual), mask, axis_name)
    return OreoLoss(loss, {"train/policy_loss": loss})


def _residual(value, reward, beta, suffix) -> jax.Array:
    chex.assert_rank([value, reward], [2, 1])
    chex.assert_equal(len(value), len(reward))
    return value - widen(reward)[:, None] + beta * suffix


def _suffix(x: jax.Array) -> jax.Array:
    """S_t = sum_{i>=t} x_i; padding is 0 in terms."""
    return jnp.flip(jnp.cumsum(jnp.flip(x, 1), axis=1), 1)


def _after(x: jax.Array) -> jax.Array:
    """x_{t+1}, 0 after the last."""
    return jnp.pad(x[:, 1:], ((0, 0), (0, 1)))


def _mean(x: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over episodes that have actions of the mean over their actions."""
    count = jnp.sum(mask, axis=1)
    each = jnp.sum(x, axis=1, where=mask) / jnp.maximum(count, 1)
    return masked_mean(each, count > 0, axis_name)
