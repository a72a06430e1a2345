"""Rewards, advantages and returns of the tokens of answers, for PPO with a critic.

Index t of a row is the state *before* token t: `value[b, t]` is V of what the policy
had read when it chose token t. After the last token the value is 0, also where an
answer was cut off at the most tokens allowed: the limit is part of the problem. A mask
says which tokens were sampled in this rollout; those of a prompt, of a replayed prefix,
or of somebody else between two turns are none, and what stands there is not read.

Shape letters: B answers, T tokens. Padding (mask False) may hold anything.
"""

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import masked_mean, whiten, widen


def suffix_mask(length: jax.Array, begin: jax.Array, size: int) -> jax.Array:
    """Which tokens were sampled in this rollout: those after the replayed prefix.

    Args:
      length: int [B], tokens of prefix and suffix together.
      begin: int [B], tokens of the prefix; 0 for a bare start.
      size: T.

    Returns:
      bool [B, T].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank([length, begin], 1)
    chex.assert_equal_shape([length, begin])
    chex.assert_type([length, begin], int)
    place = jnp.arange(size)[None]
    return (place >= begin[:, None]) & (place < length[:, None])


def reward_at_end(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """R on the last token of each answer, 0 on the others.

    Args:
      reward: R of whole answers, replayed prefixes included, float [B].
      mask: bool [B, T].

    Returns:
      float32 [B, T].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank([reward, mask], [1, 2])
    chex.assert_equal(len(reward), len(mask))
    chex.assert_type([reward, mask], [float, bool])
    behind = jnp.flip(jnp.cumsum(jnp.flip(mask, 1), axis=1), 1)  # itself included
    return jnp.where(mask & (behind == 1), widen(reward)[:, None], 0.0)


def kl_reward(
    log_p: jax.Array, log_p_ref: jax.Array, mask: jax.Array, beta: float
) -> jax.Array:
    """What each token costs for being likelier than under the reference.

        r_t = - beta (log p_old(a_t) - log p_ref(a_t))

    To be added to `reward_at_end`. Source: Ouyang et al., 2022 (arXiv:2203.02155),
    equation 2, token by token.

    Args:
      log_p: of the tokens, under the policy that sampled, float [B, T].
      log_p_ref: the same under the reference, float [B, T].
      mask: bool [B, T].
      beta: weight of the divergence.

    Returns:
      float32 [B, T], a constant.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(log_p, 2)
    chex.assert_equal_shape([log_p, log_p_ref, mask])
    chex.assert_type([log_p, log_p_ref, mask], [float, float, bool])
    cost = -beta * (widen(log_p) - widen(log_p_ref))
    return jax.lax.stop_gradient(jnp.where(mask, cost, 0.0))


def token_gae(
    reward: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    gamma: float = 1.0,
    lambda_: float = 0.95,
) -> jax.Array:
    """Generalised advantages of tokens.

        delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
        A_t = delta_t + gamma lambda A_{t+1}

    t + 1 is the next token of the mask, whatever lies between. The TD(lambda) return,
    the target of the critic, is G_t = A_t + V(s_t). Source: Schulman et al., 2016
    (arXiv:1506.02438), equation 16. `returns.gae` is for environments that reset
    themselves.

    Args:
      reward: r of each token, float [B, T].
      value: V of the state before each token, float [B, T].
      mask: bool [B, T].
      gamma: discount.
      lambda_: trace decay; 1 makes G the sum of the rewards to come.

    Returns:
      A, float32 [B, T]; 0 where masked.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, value, mask])
    chex.assert_type([reward, value, mask], [float, float, bool])
    reward = jnp.where(mask, widen(reward), 0.0)
    value = jnp.where(mask, widen(value), 0.0)

    def back(later, token):
        advantage, following = later
        reward, value, real = token
        found = reward + gamma * following - value + gamma * lambda_ * advantage
        now = jnp.where(real, found, advantage), jnp.where(real, value, following)
        return now, jnp.where(real, found, 0.0)

    nothing = jnp.zeros_like(reward[:, 0])
    tokens = (reward.T, value.T, mask.T)
    return jax.lax.scan(back, (nothing, nothing), tokens, reverse=True)[1].T


def whiten_apart(
    advantage: jax.Array,
    mask: jax.Array,
    replayed: jax.Array,
    axis_name: str | None = None,
    least: float = 0.0,
) -> jax.Array:
    """Advantages of bare and of replayed answers, each kind scaled by itself.

    Where nothing is replayed this is `masked.whiten`, and its other half is 0.

    Args:
      advantage: float [B, T].
      mask: bool [B, T].
      replayed: whether the answer goes on from a stored state, bool [B].
      axis_name: mapped axis to share the moments of each kind over, if there is one.
      least: standard deviation below which a kind is not scaled up any further.

    Returns:
      float32 [B, T]; 0 where masked.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank([advantage, replayed], [2, 1])
    chex.assert_equal(len(advantage), len(replayed))
    chex.assert_type([advantage, replayed], [float, bool])
    again = replayed[:, None]
    bare, other = (
        whiten(advantage, mask & some, axis_name, least=least)
        for some in (~again, again)
    )
    return jnp.where(again, other, bare)


def explained_variance(
    value: jax.Array,
    returns: jax.Array,
    mask: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """How much of the returns' variance the critic explains: at most 1.

        1 - Var(G - V) / Var(G)

    0 is what a constant explains; a critic that is worse has less. While it is low,
    V says nothing of which states are promising.

    Args:
      value: V of the state before each token, float [B, T].
      returns: what followed, float [B, T]; sums of rewards, since a TD(lambda) return
        holds V itself.
      mask: bool [B, T].
      axis_name: mapped axis to share the moments over, if there is one.

    Returns:
      This device's share, to be summed by `psum` as all metrics, float32 []; 0 where
      the returns do not vary.

    Raises:
      AssertionError: if the shapes differ or `mask` is not bool.
    """
    chex.assert_equal_shape([value, returns, mask])

    def mean(y):
        share = masked_mean(y, mask, axis_name)
        return share if axis_name is None else jax.lax.psum(share, axis_name)

    def variance(x):
        return mean(jnp.square(x - mean(x)))

    value = jnp.where(mask, widen(value), 0.0)
    returns = jnp.where(mask, widen(returns), 0.0)
    total, left = variance(returns), variance(returns - value)
    # Equal returns differ from their mean by its rounding.
    varies = total > 1e-12 * mean(jnp.square(returns))
    found = jnp.where(varies, 1.0 - left / jnp.where(varies, total, 1.0), 0.0)
    return found if axis_name is None else found / jax.lax.psum(1, axis_name)
