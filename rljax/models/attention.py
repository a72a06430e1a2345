"""Masked attention with grouped query heads."""

import chex
import jax
import jax.numpy as jnp


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(head_dim)) v over the positions the mask allows.

    Each key head serves H / K query heads in a row (Ainslie et al., "GQA", 2023).
    The softmax is in float32. A query that may see nothing gets some mean of the
    values: finite, and for padding only.

    Args:
      q: [B, T, H, head_dim].
      k: [B, S, K, head_dim].
      v: as `k`.
      mask: bool [B, T, S], query t sees key s.

    Returns:
      [B, T, H * head_dim], of `q`'s type.
    """
    chex.assert_rank([q, k, v, mask], [4, 4, 4, 3])
    b, t, h, d = q.shape
    s, num_kv = k.shape[1:3]
    chex.assert_shape(mask, (b, t, s))
    wide = jnp.promote_types(q.dtype, jnp.float32)
    grouped = q.reshape(b, t, num_kv, h // num_kv, d)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k, preferred_element_type=wide)
    lowest = jnp.finfo(wide).min  # finite: a row of -inf has no gradient but NaN
    scores = jnp.where(mask[:, None, None], scores * d**-0.5, lowest)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", weights, v).reshape(b, t, h * d)
