"""The arithmetic of a layer: RMSNorm, projections, rotary positions.

Pure functions of arrays. D width, T tokens, K heads.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models.config import RopeScaling

FEW = 64  # rows up to which a turned matrix comes first in a product


class Turned(NamedTuple):
    """A matrix W kept as its transpose, for `project` of few rows."""

    rows: jax.Array  # [O, I]


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square normalisation over the last axis, in float32.

      y = x / sqrt(mean(x^2) + eps) * scale

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    Args:
      x: [..., D].
      scale: [D].
      eps: added to the mean square.

    Returns:
      [..., D], float32 or wider.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(wide)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)
    return x * inverse * scale.astype(wide)


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
    """Normalisation to mean 0 and variance 1 over the last axis, in float32.

      y = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias

    Source: Ba et al., "Layer Normalization", 2016.

    Args:
      x: [..., D].
      scale: [D].
      bias: [D].
      eps: added to the variance.

    Returns:
      [..., D], float32 or wider.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    x = x.astype(wide)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return rms_norm(centred, scale, eps) + bias.astype(wide)


def project(x: jax.Array, weight: jax.Array | Turned, dtype: jnp.dtype) -> jax.Array:
    """x W in `dtype`, summed in float32 at least; see `product`."""
    return product(x, weight, dtype).astype(dtype)


def product(x: jax.Array, weight: jax.Array | Turned, dtype: jnp.dtype) -> jax.Array:
    """x W with both factors in `dtype`, in float32 at least.

    The leading axes are merged: on CPU a product of two matrices is faster than a
    contraction of more axes.

    Args:
      x: [..., I].
      weight: [I, O]. On CPU one turned is faster where `x` has few rows: then these
        are what is packed anew for every product, and not the matrix.
      dtype: type of both factors.

    Returns:
      [..., O].
    """
    rows = x.reshape(-1, x.shape[-1]).astype(dtype)
    wide = jnp.promote_types(dtype, jnp.float32)
    if isinstance(weight, Turned) and len(rows) <= FEW:
        both_last = (((1,), (1,)), ((), ()))
        out = jax.lax.dot_general(
            weight.rows.astype(dtype), rows, both_last, preferred_element_type=wide
        )
        # Without the barrier the compiler puts the factors the other way round.
        out = jax.lax.optimization_barrier(out).T
    else:
        matrix = weight.rows.T if isinstance(weight, Turned) else weight
        out = jnp.matmul(rows, matrix.astype(dtype), preferred_element_type=wide)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def rope_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
    """Radians a position of each pair of features, f_i = theta^(-2 i / head_dim).

    `scaling.factor` alone divides them all. With Llama 3.1's other three numbers, for
    a first context of C positions and r_i = C f_i / 2 pi turns in it,

        f_i                              where r_i > high
        f_i / factor                     where r_i < low
        (1 - s) f_i / factor + s f_i     between, s = (r_i - low) / (high - low)

    Source: Su et al., "RoFormer", 2021; Dubey et al., "The Llama 3 Herd of Models",
    2024, and Meta's code for it.

    Args:
      head_dim: size of a head, even.
      theta: base of the wavelengths.
      scaling: how they are stretched.

    Returns:
      float32 [head_dim / 2].
    """
    frequency = theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return frequency.astype(np.float32)
    slow = frequency / scaling.factor
    if scaling.original_positions is None:
        return slow.astype(np.float32)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    assert low is not None and high is not None  # they come together
    turns = scaling.original_positions * frequency / (2 * np.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return ((1 - share) * slow + share * frequency).astype(np.float32)


def rope_angles(
    positions: jax.Array, frequencies: np.ndarray
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position times frequency.

    Source: Su et al., "RoFormer", 2021; pairs (i, i + head_dim / 2) as in Llama.

    Args:
      positions: int32 [B, T].
      frequencies: float32 [head_dim / 2], of `rope_frequencies`.

    Returns:
      Two float32 arrays [B, T, 1, head_dim / 2].
    """
    angle = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns each pair of features by the angle of its position.

    Args:
      x: [B, T, K, head_dim].
      cos: [B, T, 1, head_dim / 2].
      sin: as `cos`.

    Returns:
      Like `x`, turned in float32 at least.
    """
    left, right = jnp.split(x, 2, axis=-1)
    turned = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap tanh(x / cap), or `x` where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)
