"""Masked attention with grouped query heads."""

import chex
import jax
import jax.numpy as jnp

from rljax.models.layers import softcap

_MOST_PARTS, _LEAST_QUERIES = 4, 64  # of queries in order


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    scale: float | None = None,
    cap: float | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(head_dim)) v over the positions the mask allows.

    Each key head serves H / K query heads in a row (Ainslie et al., "GQA", 2023).
    The softmax is in float32. A query that may see nothing gets some mean of the
    values: finite, and for padding only.

    Args:
      q: [B, T, H, head_dim].
      k: [B, S, K, head_dim].
      v: as `k`.
      mask: bool [B, T, S], query t sees key s.
      scale: of the queries, in place of head_dim^-1/2.
      cap: c, for scores c tanh(score / c).
      bias: float [B or 1, H, T, S], added to the scores.

    Returns:
      [B, T, H * head_dim], of `q`'s type.
    """
    chex.assert_rank([q, k, v, mask], [4, 4, 4, 3])
    b, t, h, d = q.shape
    scale = d**-0.5 if scale is None else scale
    s, num_kv = k.shape[1:3]
    chex.assert_shape(mask, (b, t, s))
    wide = jnp.promote_types(q.dtype, jnp.float32)
    # Heads go to the front by hand and weights are normalised after the last
    # product: on CPU a third faster than einsums around a softmax.
    q = q.reshape(b, t, num_kv, h // num_kv, d).transpose(0, 2, 3, 1, 4)
    q = q.reshape(b * num_kv, -1, d) * jnp.asarray(scale, q.dtype)
    k, v = (x.transpose(0, 2, 1, 3).reshape(b * num_kv, s, d) for x in (k, v))
    scores = softcap(jnp.matmul(q, k.mT, preferred_element_type=wide), cap)
    # Finite: a row of -inf has no gradient but NaN.
    allowed = jnp.where(mask, jnp.zeros((), wide), -1e30)[:, None, None]
    scores = scores.reshape(b, num_kv, -1, t, s) + allowed
    if bias is not None:
        scores = scores + bias.astype(wide).reshape(len(bias), num_kv, -1, t, s)
    highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - highest).reshape(b * num_kv, -1, s)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=wide) / total
    out = out.astype(v.dtype).reshape(b, num_kv, -1, t, d)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h * d)


def attend_in_order(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    scale: float | None = None,
    cap: float | None = None,
) -> jax.Array:
    """`attend` of queries that see no key after their own.

    Queries are the last T of S positions. Up to four parts of them, of no less than 64,
    each multiply the keys up to their own end and no others: of 4 equal parts of S = T
    five eighths of all products are left.

    Args:
      q: with the others as of `attend`, T <= S.
      k: see `attend`.
      v: see `attend`.
      mask: see `attend`; nowhere True above S - T + t for query t.
      scale: see `attend`.
      cap: see `attend`.

    Returns:
      [B, T, H * head_dim], of `q`'s type.
    """
    chex.assert_rank([q, k, v, mask], [4, 4, 4, 3])
    count, before = q.shape[1], k.shape[1] - q.shape[1]
    parts = max(1, min(_MOST_PARTS, count // _LEAST_QUERIES))
    ends = [-(-count * (i + 1) // parts) for i in range(parts)]
    found = [
        attend(
            q[:, begin:end], k[:, : before + end], v[:, : before + end],
            mask[:, begin:end, : before + end], scale, cap,
        )
        for begin, end in zip([0, *ends], ends, strict=False)
    ]  # fmt: skip
    return found[0] if parts == 1 else jnp.concatenate(found, axis=1)


def attend_one(
    q: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    scale: float | None = None,
    cap: float | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """`attend` of one query a row, which must see something.

    Keys lie with positions last: on CPU their product with one query takes two thirds
    of the time that it takes the other way round.

    Args:
      q: [B, H, head_dim].
      keys: [B, K, head_dim, S].
      values: [B, K, S, head_dim].
      mask: bool [B, S].
      scale: see `attend`.
      cap: see `attend`.
      bias: float [B or 1, H, S].

    Returns:
      [B, H * head_dim], of `q`'s type.
    """
    b, heads, d = q.shape
    num_kv = keys.shape[1]
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scale = d**-0.5 if scale is None else scale
    q = q.reshape(b, num_kv, -1, d) * jnp.asarray(scale, q.dtype)
    scores = softcap(jnp.matmul(q, keys, preferred_element_type=wide), cap)
    if bias is not None:
        scores = scores + bias.astype(wide).reshape(
            len(bias), num_kv, heads // num_kv, -1
        )
    scores = jnp.where(mask[:, None, None], scores, -jnp.inf)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = jnp.matmul(weights.astype(q.dtype), values, preferred_element_type=wide)
    return (out / total).astype(q.dtype).reshape(b, heads * d)
