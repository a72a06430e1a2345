"""Reductions over padded arrays, exact on one device and on many.

Padding may hold anything, NaN included. A mean over a mask divides by the count
over *all* devices, so that each device returns its share and `psum` of the shares
(and of their gradients) is the mean. A mean of per-device means is another number.
"""

import chex
import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """`x` in float32, or as it is if wider: reductions never run in bfloat16.

    Args:
      x: float or bool, any shape.

    Returns:
      Float, the shape of `x`.
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def masked_count(mask: jax.Array, axis_name: str | None = None) -> jax.Array:
    """How many entries of `mask` hold, over all devices, as a float32 scalar.

    Args:
      mask: bool, any shape.
      axis_name: mapped axis to share the count over, if there is one.

    Returns:
      The count, float32 [].
    """
    count = jnp.sum(mask, dtype=jnp.float32)
    return count if axis_name is None else jax.lax.psum(count, axis_name)


def masked_mean(
    x: jax.Array, mask: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean of `x` where `mask` holds; zero if it never does.

        sum_i mask_i x_i / sum_over_devices sum_i mask_i

    With `axis_name` this is one device's share of the mean, to be summed by `psum`.

    Args:
      x: float or bool, any shape. May be anything where masked; but the function that
        made `x` must be finite there too, or its gradient is 0 * inf = NaN.
      mask: bool, the shape of `x`.
      axis_name: mapped axis to share the count over, if there is one.

    Returns:
      The mean or this device's share of it, float32 (or wider) [].

    Raises:
      AssertionError: if the shapes differ or `mask` is not bool.
    """
    chex.assert_equal_shape([x, mask])
    chex.assert_type(mask, bool)
    total = jnp.sum(widen(x), where=mask)
    count = masked_count(mask, axis_name)
    return total / jnp.where(count > 0, count, 1.0)


def whiten(
    x: jax.Array,
    mask: jax.Array,
    axis_name: str | None = None,
    epsilon: float = 1e-8,
    least: float = 0.0,
) -> jax.Array:
    """`x` shifted and scaled to mean 0 and variance 1 where `mask` holds.

        (x - mean) / (max(std, least) + epsilon),    std^2 = mean (x - mean)^2

    Mean and variance are those of all devices' entries together. Equal entries, a
    single one among them, become 0.

    Args:
      x: float, any shape. May be anything where masked.
      mask: bool, the shape of `x`.
      axis_name: mapped axis to share the moments over, if there is one.
      epsilon: keeps equal entries from being divided by 0.
      least: entries that vary by less are not blown up to variance 1.

    Returns:
      Float32 (or wider), the shape of `x`; 0 where masked.

    Raises:
      AssertionError: if the shapes differ or `mask` is not bool.
    """

    def mean(y):
        share = masked_mean(y, mask, axis_name)
        return share if axis_name is None else jax.lax.psum(share, axis_name)

    centred = jnp.where(mask, widen(x) - mean(x), 0.0)
    # sqrt has no derivative at 0, and advantages are constants anyway.
    std = jax.lax.stop_gradient(jnp.sqrt(mean(jnp.square(centred))))
    return centred / (jnp.maximum(std, least) + epsilon)
