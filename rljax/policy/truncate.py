"""Which tokens may be drawn, and drawing one of them.

Truncation is defined by values alone, so equals stand or fall together and no order
of the vocabulary matters; it never sorts the vocabulary. Shape letters: B rows, V
vocabulary.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp

_BLOCK = 128  # tokens; a draw looks at sums of blocks first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncation:
    """What of a distribution is kept; by default all.

    Raises:
      ValueError: a setting is out of its range; it names both.
    """

    top_k: int | None = None  # the k likeliest, and the equals of the last of them
    top_p: float | None = None  # the fewest likeliest that hold this mass
    min_p: float | None = None  # those at least this times as likely as the likeliest

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be in (0, 1]")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must be in [0, 1]")


def weights(
    logits: jax.Array, temperature: jax.Array, truncation: Truncation
) -> jax.Array:
    """The tempered distribution, not normalised, with 0 for what is cut.

      w_i = exp((l_i - max l) / temperature) where i is kept
      top_k keeps i if fewer than k tokens are likelier,
      top_p if the likelier ones of what top_k kept hold less than this mass of it,
      min_p if w_i >= min_p.

    So the likeliest token is always kept. The mass is found by bisection over the
    float32 numbers themselves, which is exact: 31 sums in place of a sort.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020
    (top-p); Minh et al., "Turning Up the Heat: Min-p Sampling", 2024.

    Args:
      logits: float32 [B, V].
      temperature: scalar, > 0.
      truncation: what is kept.

    Returns:
      float32 [B, V]; the largest is 1.
    """
    chex.assert_rank(logits, 2)
    t = truncation
    highest = jnp.max(logits, axis=-1, keepdims=True)
    w = jnp.exp((logits - highest) / temperature)
    if t.top_k is not None and t.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, t.top_k)[0][:, -1:]
        w = jnp.where(logits >= kth, w, 0.0)
    if t.top_p is not None and t.top_p < 1:
        bound = t.top_p * jnp.sum(w, axis=-1, keepdims=True)
        w = jnp.where(w >= _least_kept(w, bound), w, 0.0)
    if t.min_p is not None:
        w = jnp.where(w >= t.min_p, w, 0.0)
    return w


def _least_kept(w: jax.Array, bound: jax.Array) -> jax.Array:
    """The least float x for which sum(w where w > x) < bound, [B, 1].

    Floats that are not negative are ordered as their bits are, as integers.
    """

    def halve(_, ends):
        low, high = ends  # high satisfies the condition, low - 1 does not
        middle = low + (high - low) // 2
        x = jax.lax.bitcast_convert_type(middle, jnp.float32)
        fits = jnp.sum(jnp.where(w > x, w, 0.0), axis=-1, keepdims=True) < bound
        return jnp.where(fits, low, middle + 1), jnp.where(fits, middle, high)

    one = jax.lax.bitcast_convert_type(jnp.float32(1.0), jnp.int32)
    ends = jnp.zeros_like(bound, jnp.int32), jnp.full_like(bound, one, jnp.int32)
    steps = 0x3F800000.bit_length()  # the bits of 1.0
    _, high = jax.lax.fori_loop(0, steps, halve, ends)
    return jax.lax.bitcast_convert_type(high, jnp.float32)


def draw(w: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Inverse CDF: the first token at which the running sum exceeds u times the total.

    Sums of blocks first, then inside one block, so a draw costs one pass over the
    vocabulary. A token of weight 0 is never drawn, whatever rounding does.

    Source: Devroye, "Non-Uniform Random Variate Generation", 1986, chapter III.

    Args:
      w: float32 [B, V], not negative, with a positive one in each row.
      uniforms: float32 [B], in [0, 1).

    Returns:
      int32 [B].
    """
    chex.assert_rank([w, uniforms], [2, 1])
    size, vocabulary = w.shape
    blocks = jnp.pad(w, ((0, 0), (0, -vocabulary % _BLOCK))).reshape(size, -1, _BLOCK)
    sums = jnp.sum(blocks, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    target = uniforms[:, None] * ends[:, -1:]
    block = _first_beyond(ends, sums, target)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    before = jnp.take_along_axis(ends - sums, block[:, None], axis=1)
    found = _first_beyond(before + jnp.cumsum(inside, axis=-1), inside, target)
    return (block * _BLOCK + found).astype(jnp.int32)


def _first_beyond(ends: jax.Array, w: jax.Array, target: jax.Array) -> jax.Array:
    """First of positive weight that ends beyond the target, or else the last such."""
    positive = w > 0
    beyond = (ends > target) & positive
    last = w.shape[-1] - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
    return jnp.where(jnp.any(beyond, axis=-1), jnp.argmax(beyond, axis=-1), last)
