"""T5's relative attention bias: a learned number for each bucket of distances."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each distance in one direction.

    With n buckets of which m = n/2 are exact, distance d falls into

      d                                              where d < m
      m + floor((n - m) log(d/m) / log(max/m))       from there on, at most n - 1

    in float32: some distances lie on an edge, where models were trained with what
    float32 makes of it.

    Args:
      num_buckets: n.
      max_distance: from here on all distances share the last bucket.

    Returns:
      int32 [max_distance + 1], for distances 0, 1, ... max_distance.
    """
    exact = num_buckets // 2
    distance = np.arange(max_distance + 1)
    share = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    share = share / np.float32(math.log(max_distance / exact))
    far = exact + (share * np.float32(num_buckets - exact)).astype(np.int32)
    far = np.minimum(far, num_buckets - 1)
    return np.where(distance < exact, distance, far).astype(np.int32)


def relative_bias(
    table: jax.Array,
    positions: jax.Array,
    two_sided: bool,
    max_distance: int,
    of_keys: jax.Array | None = None,
) -> jax.Array:
    """What attention adds to its scores, by the distance from query to key.

    Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
    Text-to-Text Transformer", 2020, section 2.1, and the authors' code.

    Args:
      table: [n, H], a number for each bucket and head.
      positions: int32 [B, T], of queries.
      two_sided: half of the buckets are for keys after the query; else these share
        the bucket of distance 0.
      max_distance: see `buckets`.
      of_keys: int32 [B or 1, S], where these are others.

    Returns:
      float32 [B, H, T, S], query by key.
    """
    of_keys = positions if of_keys is None else of_keys
    ahead = of_keys[:, None] - positions[:, :, None]
    count = len(table) // 2 if two_sided else len(table)
    far = jnp.abs(ahead) if two_sided else jnp.maximum(-ahead, 0)
    of_distance = jnp.asarray(buckets(count, max_distance))
    bucket = of_distance[jnp.minimum(far, max_distance)]
    if two_sided:
        bucket = bucket + count * (ahead > 0)
    wide = jnp.promote_types(table.dtype, jnp.float32)
    return table.astype(wide)[bucket].transpose(0, 3, 1, 2)
