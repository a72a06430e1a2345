"""How much of a policy's probability lies on a set of tokens."""

import chex
import jax
import jax.numpy as jnp

from rljax.losses.token_logprob import CHUNK


def token_mass(
    hidden: jax.Array,
    unembedding: jax.Array,
    chosen: jax.Array,
    cap: float | None = None,
    chunk: int = CHUNK,
) -> jax.Array:
    """Probability of the chosen tokens, place by place.

        m = sum_{v chosen} softmax(l)_v,    l = cap tanh(hidden W / cap)

    Args:
      hidden: [..., D], states that predict a token.
      unembedding: [D, V]; products are summed in float32.
      chosen: bool [V], the set.
      cap: of the logits; None for none.
      chunk: logits of so many places are in memory at a time.

    Returns:
      float32 [...], in [0, 1].

    Raises:
      AssertionError: if shapes disagree.
    """
    chex.assert_rank(unembedding, 2)
    chex.assert_shape(hidden, (..., unembedding.shape[0]))
    chex.assert_shape(chosen, (unembedding.shape[1],))
    chex.assert_type(chosen, bool)

    def one(part):
        wide = jnp.promote_types(unembedding.dtype, jnp.float32)
        logits = jnp.dot(
            part.astype(unembedding.dtype), unembedding, preferred_element_type=wide
        )
        if cap is not None:
            logits = cap * jnp.tanh(logits / cap)
        return jnp.sum(jax.nn.softmax(logits, axis=-1), axis=-1, where=chosen)

    flat = hidden.reshape(-1, hidden.shape[-1])
    mass = jax.lax.map(one, flat, batch_size=min(chunk, max(len(flat), 1)))
    return mass.reshape(hidden.shape[:-1]).astype(jnp.float32)
