"""Advantages from groups of answers to one start, without a critic.

All answers of a group begin from the same state: the bare problem, or one replayed
prefix. A prefix is worth more than the problem alone, so that in a mixed group bare
answers would be blamed for it.

Shape letters: N groups, all of a group on one device; G answers each. An answer that is
not there (mask False), because its verifier failed or the group is short, may hold
anything and has advantage 0.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import widen

# (reward [N, G], mask [N, G]) -> advantage, float32 [N, G].
GroupAdvantage = Callable[[jax.Array, jax.Array], jax.Array]


def centred(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """A_i = R_i - mean of the group.

    Dr.GRPO: Liu et al., 2025 (arXiv:2503.20783), section 3.2. A group that is nearly
    always right, or wrong, has no more weight than others.

    Args:
      reward: R, float [N, G].
      mask: whether there is an answer, bool [N, G].

    Returns:
      float32 [N, G].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _check(reward, mask)
    return jnp.where(mask, widen(reward) - group_mean(reward, mask)[:, None], 0.0)


def standardised(
    reward: jax.Array, mask: jax.Array, epsilon: float = 1e-6
) -> jax.Array:
    """A_i = (R_i - mean of the group) / (std of the group + epsilon).

    GRPO: Shao et al., 2024 (arXiv:2402.03300), section 4.1.2. The variance is the mean
    square, divided by the number of answers and not by one less.

    Args:
      reward: R, float [N, G].
      mask: whether there is an answer, bool [N, G].
      epsilon: keeps groups of equal rewards from being divided by 0.

    Returns:
      float32 [N, G]; 0 where all rewards of a group are equal.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    # A mean of equal numbers may differ from them in the last bit.
    apart = jnp.where(varied(reward, mask)[:, None], centred(reward, mask), 0.0)
    variance = _mean(jnp.square(apart), mask)
    return apart / (jnp.sqrt(variance)[:, None] + epsilon)


def varied(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """Which groups hold two different rewards: the others teach nothing.

    To drop the others, as DAPO does (arXiv:2503.14476, section 3.2), mask their tokens:
    they then count in no mean.

    Args:
      reward: R, float [N, G].
      mask: whether there is an answer, bool [N, G].

    Returns:
      bool [N].

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _check(reward, mask)
    least = jnp.min(reward, axis=1, where=mask, initial=jnp.inf)
    return jnp.max(reward, axis=1, where=mask, initial=-jnp.inf) > least


def group_mean(reward: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean reward of each group: what the state it began from is worth.

    Args:
      reward: R, float [N, G].
      mask: whether there is an answer, bool [N, G].

    Returns:
      float32 [N]; 0 for a group without answers.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    _check(reward, mask)
    return _mean(widen(reward), mask)


def _mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    count = jnp.maximum(jnp.sum(mask, axis=1, dtype=jnp.float32), 1.0)
    return jnp.sum(x, axis=1, where=mask) / count


def _check(reward, mask) -> None:
    chex.assert_rank(reward, 2)
    chex.assert_equal_shape([reward, mask])
    chex.assert_type([reward, mask], [float, bool])
