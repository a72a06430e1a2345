"""Losses of a language model that learns to say what was said."""

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import masked_mean, widen


def next_token_loss(
    logits: jax.Array, ids: jax.Array, mask: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean negative log-probability of each token after the ones before it.

        L = - mean_{b,t} log p(ids_t | ids_<t),    t >= 1

    Args:
      logits: float [B, T, V], at t for the token at t + 1; the last is not read.
      ids: tokens, int [B, T].
      mask: whether a token is real, bool [B, T].
      axis_name: see `masked_mean`.

    Returns:
      float32 [], in nats a token.

    Raises:
      AssertionError: on any other rank, shape or dtype.
    """
    chex.assert_rank(logits, 3)
    chex.assert_shape([ids, mask], logits.shape[:2])
    chex.assert_type([logits, ids, mask], [float, int, bool])
    real = mask[:, 1:]
    logits = widen(jnp.where(real[..., None], logits[:, :-1], 0.0))
    said = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
    log_p = said - jax.nn.logsumexp(logits, axis=-1)
    return -masked_mean(log_p, real, axis_name)
