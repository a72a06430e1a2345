"""Multi-step returns over rollouts of environments that reset themselves.

Time-major, as a scan gives them. Shape letters: S steps, E environments. Step s leaves
`tm1` and reaches `t`, *before* any reset; so the state reached at the end of an episode
is not the one that step s + 1 leaves, and has a value of its own.

At either end of an episode no return goes on into the next one. A terminated step
bootstraps from nothing, a truncated one from the value of the state it reached.
"""

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import widen


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
