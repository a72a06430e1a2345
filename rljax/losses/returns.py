"""Multi-step returns over rollouts of environments that reset themselves.

Time-major, as a scan gives them. Shape letters: S steps, E environments. Step s leaves
`tm1` and reaches `t`, *before* any reset; so the state reached at the end of an episode
is not the one that step s + 1 leaves, and has a value of its own.

At either end of an episode no return goes on into the next one. A terminated step
bootstraps from nothing, a truncated one from the value of the state it reached.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import widen


class NStep(NamedTuple):
    """What follows each step, up to n steps on.

    The target of step s is `reward + discount * v` with `v` the value of the state
    reached by step `last`.
    """

    reward: jax.Array  # float32 [S, E], sum_{i<m} gamma^i r_{s+i}
    discount: jax.Array  # float32 [S, E], gamma^m; 0 where terminated within m steps
    last: jax.Array  # int32 [S, E], s + m - 1


def _assert_rollout(r_t, terminated, truncated) -> None:
    chex.assert_rank(r_t, 2)
    chex.assert_equal_shape([r_t, terminated, truncated])
    chex.assert_type([r_t, terminated, truncated], [float, bool, bool])


def gae(
    r_t: jax.Array,
    v_tm1: jax.Array,
    v_t: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float,
    lambda_: float,
) -> jax.Array:
    """Generalised advantage estimates that never cross a reset.

        delta_s = r_s + gamma [not terminated] V(reached_s) - V(left_s)
        A_s = delta_s + gamma lambda [not terminated and not truncated] A_{s+1}

    After the last step A is 0: V(reached) of that step stands for what follows. The
    target of the value function is A + V(left). Source: Schulman et al., 2016
    (arXiv:1506.02438), eq. 16.

    Args:
      r_t: rewards, float [S, E].
      v_tm1: values of the states left, float [S, E].
      v_t: values of the states reached, before any reset, float [S, E]. May be anything
        where terminated.
      terminated: whether the step ended the episode for good, bool [S, E].
      truncated: whether it ran out of time, bool [S, E].
      gamma: discount.
      lambda_: trace decay; 0 is one-step, 1 sums all rewards.

    Returns:
      Advantages, float32 [S, E].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _assert_rollout(r_t, terminated, truncated)
    chex.assert_equal_shape([r_t, v_tm1, v_t])
    chex.assert_type([v_tm1, v_t], float)
    bootstrap = jnp.where(terminated, 0.0, gamma * widen(v_t))
    delta = widen(r_t) + bootstrap - widen(v_tm1)
    decay = jnp.where(terminated | truncated, 0.0, gamma * lambda_)

    def back(advantage, step):
        delta, decay = step
        advantage = delta + decay * advantage
        return advantage, advantage

    start = jnp.zeros_like(delta[0])
    return jax.lax.scan(back, start, (delta, decay), reverse=True)[1]


def n_step(
    r_t: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: float,
    n: int,
) -> NStep:
    """Rewards and discounts of up to n steps, fewer at the end of an episode.

        m = min(n, steps to the episode's end, steps to the rollout's end)

    Args:
      r_t: rewards, float [S, E].
      terminated: whether the step ended the episode for good, bool [S, E].
      truncated: whether it ran out of time, bool [S, E].
      gamma: discount.
      n: most steps to sum.

    Returns:
      See `NStep`.

    Raises:
      AssertionError: on any other rank, shape or dtype.
      ValueError: if `n` is below 1.
    """
    _assert_rollout(r_t, terminated, truncated)
    if n < 1:
        raise ValueError(f"n is {n}, must be at least 1")
    steps = r_t.shape[0]
    index = jnp.arange(steps, dtype=jnp.int32)[:, None]
    reward = jnp.zeros_like(widen(r_t))
    discount = jnp.ones_like(reward)
    last = jnp.broadcast_to(index - 1, r_t.shape)
    going = jnp.ones_like(terminated)  # the window is still inside the episode
    for i in range(min(n, steps)):
        going &= index + i < steps
        here = jnp.minimum(index + i, steps - 1)[:, 0]
        ends, stops = terminated[here], truncated[here]
        reward = jnp.where(going, reward + gamma**i * widen(r_t)[here], reward)
        on = jnp.where(ends, 0.0, gamma ** (i + 1))
        discount = jnp.where(going, on, discount)
        last = jnp.where(going, last + 1, last)
        going &= ~(ends | stops)
    return NStep(reward, discount, last)
