"""What logits of a part of the vocabulary say of tokens, and gradients through them.

The parts' numbers are joined into those of the whole vocabulary. Nothing here knows
how `token_logprob` cuts tokens or vocabulary into parts.

Shape letters: N tokens, D width, V vocabulary, T its columns that are at hand, K parts.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

FLOOR = -1e30  # below any logit; a part with -inf alone must not come to inf - inf


class Scores(NamedTuple):
    """What is known of each token; float32 [...], one number a token."""

    log_prob: jax.Array  # log p(a)
    entropy: jax.Array  # - sum_v p(v) log p(v)
    kl: jax.Array  # sum_v p(v) (log p(v) - log q(v)); 0 without a reference
    reference_log_prob: jax.Array  # log q(a), a constant; 0 without a reference


class Source(NamedTuple):
    """Where logits come from: softcap(hidden W)."""

    hidden: jax.Array  # [..., D]
    unembedding: jax.Array  # [D, V]


class Mass(NamedTuple):
    """Logits of some columns, of each token; [N], or [K, N] for K such parts."""

    top: jax.Array  # max_v l
    total: jax.Array  # sum_v exp(l - top)
    picked: jax.Array  # l of the token; 0 where it is in another part


class Part(NamedTuple):
    """The same beside a reference's, which are primed; without one two are None."""

    own: Mass
    spread: jax.Array  # sum_v exp(l - top) (l - top)
    other: Mass | None
    gap: jax.Array | None  # sum_v exp(l - top) ((l - top) - (l' - top'))


class Norm(NamedTuple):
    """log p = (l - top) - log_total, in this order: top may be far from 0."""

    top: jax.Array  # [N]
    log_total: jax.Array  # [N]; of all columns, relative to their top

    def log_p(self, logits: jax.Array) -> jax.Array:
        return (logits - self.top[:, None]) - self.log_total[:, None]


class Found(NamedTuple):
    """Scores of tokens, and what a gradient needs beside them."""

    scores: Scores
    own: Norm
    other: Norm | None


def product_of(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
    """Of the matrix's type, summed in float32."""
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    return jnp.matmul(hidden.astype(matrix.dtype), matrix, preferred_element_type=wide)


def logits_of(source: Source, cap: float | None) -> jax.Array:
    """Of all tokens of the source, [N, V]."""
    product = product_of(*source)
    return product if cap is None else cap * jnp.tanh(product / cap)


def read(logits: jax.Array, other: jax.Array | None, ids: jax.Array) -> Part:
    """What logits [N, T] hold; `ids` count from their first column."""
    own, below, odds = _mass(logits, ids)
    # A token that a policy rules out has p = 0 and log p = -inf; p log p is 0 there.
    spread = jnp.sum(odds * jnp.where(odds > 0, below, 0.0), axis=-1)
    if other is None:
        return Part(own, spread, None, None)
    its, beside, _ = _mass(other, ids)
    gap = jnp.sum(odds * jnp.where(odds > 0, below - beside, 0.0), axis=-1)
    return Part(own, spread, its, gap)


def _mass(logits: jax.Array, ids: jax.Array) -> tuple[Mass, jax.Array, jax.Array]:
    """Sums of columns, the logits below their top, and exponentials of these."""
    top = jnp.maximum(jnp.max(logits, axis=-1), FLOOR)
    below = logits - top[:, None]
    odds = jnp.exp(below)
    inside = (ids >= 0) & (ids < logits.shape[1])
    said = jnp.take_along_axis(logits, ids[:, None], axis=-1, mode="clip")[:, 0]
    found = Mass(top, jnp.sum(odds, axis=-1), jnp.where(inside, said, 0.0))
    return found, below, odds


def join(parts: Part) -> Found:
    """Scores of tokens from all parts [K, N] of the vocabulary."""
    own, share, log_prob = _joined(parts.own)
    shift = parts.own.top - own.top

    def mean(sums, shift):
        """Over the vocabulary; a part that has underflowed may hold an infinity."""
        of_all = share * (sums + shift * parts.own.total)
        return jnp.sum(of_all, axis=0, where=share > 0)

    entropy = own.log_total - mean(parts.spread, shift)
    if parts.other is None or parts.gap is None:
        zero = jnp.zeros_like(entropy)
        return Found(Scores(log_prob, entropy, zero, zero), own, None)
    other, _, reference = _joined(parts.other)
    gap = mean(parts.gap, shift - (parts.other.top - other.top))
    kl = gap - own.log_total + other.log_total
    return Found(Scores(log_prob, entropy, kl, reference), own, other)


def _joined(parts: Mass) -> tuple[Norm, jax.Array, jax.Array]:
    """The norm, what a part's exponentials [K, N] count for, and log p of the token."""
    top = jnp.max(parts.top, axis=0)
    weight = jnp.exp(parts.top - top)
    total = jnp.sum(weight * parts.total, axis=0)
    found = Norm(top, jnp.log(total))
    picked = (jnp.sum(parts.picked, axis=0) - top) - found.log_total
    return found, weight / total, picked


def into_product(
    logits: jax.Array,
    other: jax.Array | None,
    ids: jax.Array,
    found: Found,
    ct: Scores,
    cap: float | None,
) -> jax.Array:
    """Cotangent of the product hidden W that `logits` [N, T] came from.

    Each output that no loss uses saves its terms: its cotangent is a SymbolicZero.
    """
    log_p = found.own.log_p(logits)
    p = jnp.exp(log_p)
    own = jnp.where(p > 0, log_p, 0.0)
    inner = jnp.zeros((len(ids), 1), p.dtype)
    if _used(ct.log_prob):
        inner += ct.log_prob[:, None]
    if _used(ct.entropy):
        inner += ct.entropy[:, None] * (own + found.scores.entropy[:, None])
    if other is not None and found.other is not None and _used(ct.kl):
        log_q = jnp.where(p > 0, found.other.log_p(other), 0.0)
        inner -= ct.kl[:, None] * (own - log_q - found.scores.kl[:, None])
    of_logits = -p * inner
    if _used(ct.log_prob):
        # A comparison, not a scatter, which would be a pass of its own.
        here = jnp.arange(logits.shape[1]) == ids[:, None]
        of_logits += jnp.where(here, ct.log_prob[:, None], 0.0)
    if cap is not None:
        of_logits *= 1.0 - jnp.square(logits / cap)
    return of_logits


def _used(cotangent: Any) -> bool:
    return not isinstance(cotangent, SymbolicZero)


def pull_back(of_product: jax.Array, policy: Source) -> tuple[jax.Array, jax.Array]:
    """Cotangents of hidden [N, D] and of the unembedding [D, T], not yet narrowed."""
    narrow = of_product.astype(policy.unembedding.dtype)
    of_hidden = product_of(narrow, policy.unembedding.T)
    return of_hidden, product_of(policy.hidden.T, narrow)
