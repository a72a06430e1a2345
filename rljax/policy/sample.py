"""Choosing a command from a policy."""

import chex
import jax
import jax.numpy as jnp

from rljax.types import Key


def sample_commands(
    log_pi: jax.Array, keys: Key, temperature: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    """Draws one command a state from the policy, sharpened or flattened.

        a ~ pi(a)^(1/temperature) / Z

    Zero takes the likeliest command (the first of equals), infinity draws uniformly
    from the admissible ones. The temperature is traced, so one program serves all.

    Args:
      log_pi: float [B, A], -inf rules a command out.
      keys: typed PRNG keys [B], consumed.
      temperature: scalar, not negative.

    Returns:
      Command slots, int32 [B].
    """
    chex.assert_rank(log_pi, 2)
    admissible = jnp.isfinite(log_pi)
    temperature = jnp.asarray(temperature, log_pi.dtype)
    # 0 and inf are limits: their quotients would be NaN, so `where` picks them out
    # and the divisor stays harmless.
    scale = jnp.where(temperature > 0, temperature, 1.0)
    logits = jnp.where(jnp.isinf(temperature), 0.0, log_pi / scale)
    logits = jnp.where(admissible, logits, -jnp.inf)
    drawn = jax.vmap(jax.random.categorical)(keys, logits)
    greedy = jnp.argmax(logits, axis=-1)
    return jnp.where(temperature > 0, drawn, greedy).astype(jnp.int32)
