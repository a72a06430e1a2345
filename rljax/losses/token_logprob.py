"""Log-probabilities of tokens from hidden states, without logits of all tokens.

A vocabulary of 150,000 makes logits the largest array of a language model's update,
and naive code holds three of their size. Here hidden states are taken in chunks: a
chunk's logits are made, used and dropped, and made again where a gradient is wanted.

* `token_scores` gives log-probability, entropy and KL of each token, for losses that
  first need all of them (sums over an answer).
* `chunked_loss` is told the loss of one token; it takes the gradient of a chunk while
  its logits are there, so they are made once.

Shape letters: N tokens, D width, V vocabulary, C tokens of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.losses.masked import widen
from rljax.types import PyTree

CHUNK = 256  # tokens: 150 MB of float32 logits where the vocabulary is 150,000


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


# (scores of C tokens, aux of C tokens) -> loss of each [C], and what is to be summed
# up beside it, a tree of float [C].
PerToken = Callable[[Scores, PyTree], tuple[jax.Array, PyTree]]


def token_scores(
    hidden: jax.Array,
    unembedding: jax.Array,
    ids: jax.Array,
    reference: Source | None = None,
    cap: float | None = None,
    chunk: int = CHUNK,
) -> Scores:
    """Scores of tokens, differentiable once in `hidden` and `unembedding`.

        l = cap tanh(hidden W / cap),  log p = l - logsumexp l

    The gradient of each output in l is written out: 1_a - p for the log-probability,
    -p (log p + H) for the entropy H, p (log p - log q - KL) for the divergence. The
    reference is a constant.

    Args:
      hidden: [..., D], the states that predict the tokens.
      unembedding: [D, V]. Products are of its type and summed in float32, as in
        `models.decoder.logits`.
      ids: int [...], the tokens.
      reference: hidden states [..., D'] and unembedding [D', V] of another policy.
      cap: of the logits, the reference's too; None for none.
      chunk: C; logits of so many tokens are in memory at a time.

    Returns:
      Scores [...]. Entropy, too, costs a pass over the logits; where it goes unused
      the compiler drops it.

    Raises:
      AssertionError: if shapes disagree.
    """
    _check(hidden, unembedding, ids, reference, chunk)
    return _token_scores(cap, chunk, hidden, unembedding, ids, reference)


def chunked_loss(
    hidden: jax.Array,
    unembedding: jax.Array,
    ids: jax.Array,
    per_token: PerToken,
    aux: PyTree,
    reference: Source | None = None,
    cap: float | None = None,
    chunk: int = CHUNK,
) -> tuple[jax.Array, PyTree]:
    """Sum of a loss that each token has by itself, and its gradient in one pass.

        L = sum_t per_token(scores_t, aux_t)

    The gradient is found as a chunk's loss is: three products of logits' size in all,
    where recomputing takes four. Without a gradient asked for it costs the first alone.

    Args:
      hidden: [..., D].
      unembedding: [D, V].
      ids: int [...].
      per_token: the loss of tokens, weights and masks included. What it needs beside
        the scores comes in `aux`: a traced array it closed over would be an error.
      aux: a tree of arrays [..., *]; constants.
      reference: see `token_scores`.
      cap: see `token_scores`.
      chunk: C.

    Returns:
      The loss, float32 [], and the sums over tokens of what `per_token` gives beside
      it, constants.

    Raises:
      AssertionError: if shapes disagree.
    """
    _check(hidden, unembedding, ids, reference, chunk)
    for leaf in jax.tree.leaves(aux):
        chex.assert_shape(leaf, (*ids.shape, ...))
    static = (per_token, cap, chunk)
    return _chunked_loss(static, hidden, unembedding, ids, aux, reference)


def _check(hidden, unembedding, ids, reference, chunk) -> None:
    chex.assert_rank(unembedding, 2)
    chex.assert_shape(hidden, (*ids.shape, unembedding.shape[0]))
    chex.assert_type(ids, int)
    if reference is not None:
        chex.assert_shape(
            reference.hidden, (*ids.shape, reference.unembedding.shape[0])
        )
        chex.assert_equal(reference.unembedding.shape[1], unembedding.shape[1])
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")


class _Chunk(NamedTuple):
    """What a chunk's logits hold."""

    logits: jax.Array  # float32 [C, V]
    log_p: jax.Array  # float32 [C, V]
    log_q: jax.Array | None  # float32 [C, V]


def _product(hidden: jax.Array, matrix: jax.Array) -> jax.Array:
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    return jnp.matmul(hidden.astype(matrix.dtype), matrix, preferred_element_type=wide)


def _logits(source: Source, cap: float | None) -> jax.Array:
    found = _product(*source)
    return found if cap is None else cap * jnp.tanh(found / cap)


def _read(policy: Source, reference: Source | None, cap: float | None) -> _Chunk:
    """Log-probabilities of all tokens of the vocabulary, for a chunk."""
    logits = _logits(policy, cap)
    log_q = None if reference is None else jax.nn.log_softmax(_logits(reference, cap))
    return _Chunk(logits, jax.nn.log_softmax(logits), log_q)


def _scores(found: _Chunk, ids: jax.Array) -> Scores:
    """The numbers of each token of a chunk."""

    def picked(of_all):
        return jnp.take_along_axis(of_all, ids[:, None], axis=-1)[:, 0]

    p = jnp.exp(found.log_p)
    # A token that a policy rules out has p = 0 and log p = -inf; p log p is 0 there.
    own = jnp.where(p > 0, found.log_p, 0.0)
    entropy = -jnp.sum(p * own, axis=-1)
    if found.log_q is None:
        zero = jnp.zeros_like(entropy)
        return Scores(picked(found.log_p), entropy, zero, zero)
    other = jnp.where(p > 0, found.log_q, 0.0)
    kl = jnp.sum(p * (own - other), axis=-1)
    return Scores(picked(found.log_p), entropy, kl, picked(found.log_q))


def _into_logits(
    found: _Chunk, scores: Scores, ids: jax.Array, ct: Scores, cap: float | None
) -> jax.Array:
    """Cotangent of the product hidden W, float32 [C, V]."""
    p = jnp.exp(found.log_p)
    own = jnp.where(p > 0, found.log_p, 0.0)
    inner = ct.log_prob[:, None] + ct.entropy[:, None] * (own + scores.entropy[:, None])
    if found.log_q is not None:
        other = jnp.where(p > 0, found.log_q, 0.0)
        inner -= ct.kl[:, None] * (own - other - scores.kl[:, None])
    rows = jnp.arange(len(ids))
    of_logits = (-p * inner).at[rows, ids].add(ct.log_prob)
    if cap is not None:
        of_logits = of_logits * (1.0 - jnp.square(found.logits / cap))
    return of_logits


def _pull_back(of_logits: jax.Array, policy: Source) -> tuple[jax.Array, jax.Array]:
    """Cotangents of hidden [C, D] and, in float32, of the unembedding [D, V]."""
    narrow = of_logits.astype(policy.unembedding.dtype)
    of_hidden = _product(narrow, policy.unembedding.T)
    of_matrix = _product(policy.hidden.T, narrow)
    return of_hidden.astype(policy.hidden.dtype), of_matrix


def _cut(tree: PyTree, shape: tuple[int, ...], chunk: int) -> PyTree:
    """Leaves [..., *] as chunks [N / C, C, *], filled up with zeros."""
    total = 1
    for size in shape:
        total *= size
    size = min(chunk, max(total, 1))

    def one(x):
        flat = x.reshape(total, *x.shape[len(shape) :])
        pad = [(0, -total % size)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, pad).reshape(-1, size, *flat.shape[1:])

    return jax.tree.map(one, tree)


def _glue(tree: PyTree, shape: tuple[int, ...]) -> PyTree:
    """The inverse of `_cut`."""

    def one(x):
        flat = x.reshape(-1, *x.shape[2:])
        total = 1
        for size in shape:
            total *= size
        return flat[:total].reshape(*shape, *flat.shape[1:])

    return jax.tree.map(one, tree)


def _parts(hidden, ids, reference, chunk):
    """Chunks of hidden states, tokens, and the reference's hidden states."""
    other = None if reference is None else reference.hidden
    return _cut((hidden, ids, other), ids.shape, chunk)


def _beside(reference: Source | None, other: jax.Array | None) -> Source | None:
    if reference is None or other is None:
        return None
    return Source(other, reference.unembedding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_scores(cap, chunk, hidden, unembedding, ids, reference):
    def one(part):
        hidden, ids, other = part
        found = _read(Source(hidden, unembedding), _beside(reference, other), cap)
        return _scores(found, ids)

    scores = jax.lax.map(one, _parts(hidden, ids, reference, chunk))
    return _glue(scores, ids.shape)


def _token_scores_forward(cap, chunk, hidden, unembedding, ids, reference):
    scores = _token_scores(cap, chunk, hidden, unembedding, ids, reference)
    return scores, (hidden, unembedding, ids, reference)


def _token_scores_backward(cap, chunk, kept, ct):
    hidden, unembedding, ids, reference = kept
    parts = (_parts(hidden, ids, reference, chunk), _cut(ct, ids.shape, chunk))

    def one(total, part):
        (hidden, ids, other), ct = part
        policy = Source(hidden, unembedding)
        found = _read(policy, _beside(reference, other), cap)
        of_logits = _into_logits(found, _scores(found, ids), ids, ct, cap)
        of_hidden, of_matrix = _pull_back(of_logits, policy)
        return total + of_matrix, of_hidden

    wide = jnp.promote_types(unembedding.dtype, jnp.float32)
    total, of_hidden = jax.lax.scan(one, jnp.zeros(unembedding.shape, wide), parts)
    of_hidden = _glue(of_hidden, ids.shape)
    return of_hidden, total.astype(unembedding.dtype), None, None


_token_scores.defvjp(_token_scores_forward, _token_scores_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_loss(static, hidden, unembedding, ids, aux, reference):
    per_token, cap, chunk = static
    parts = (_parts(hidden, ids, reference, chunk), _real(ids, chunk))
    parts = (*parts, _cut(aux, ids.shape, chunk))

    def one(part):
        (hidden, ids, other), real, aux = part
        found = _read(Source(hidden, unembedding), _beside(reference, other), cap)
        return _sums(per_token(_scores(found, ids), aux), real)

    return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.lax.map(one, parts))


def _chunked_loss_forward(static, hidden, unembedding, ids, aux, reference):
    per_token, cap, chunk = static
    parts = (_parts(hidden, ids, reference, chunk), _real(ids, chunk))
    parts = (*parts, _cut(aux, ids.shape, chunk))

    def one(total, part):
        (hidden, ids, other), real, aux = part
        policy = Source(hidden, unembedding)
        found = _read(policy, _beside(reference, other), cap)
        scores = _scores(found, ids)

        def loss(scores):
            return _sums(per_token(scores, aux), real)

        summed, pull, beside = jax.vjp(loss, scores, has_aux=True)
        (ct,) = pull(jnp.ones_like(summed))
        of_logits = _into_logits(found, scores, ids, ct, cap)
        of_hidden, of_matrix = _pull_back(of_logits, policy)
        return total + of_matrix, (of_hidden, (summed, beside))

    wide = jnp.promote_types(unembedding.dtype, jnp.float32)
    total, (of_hidden, sums) = jax.lax.scan(
        one, jnp.zeros(unembedding.shape, wide), parts
    )
    out = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
    of_hidden = _glue(of_hidden, ids.shape)
    return out, (of_hidden, total.astype(unembedding.dtype))


def _chunked_loss_backward(static, kept, ct):
    of_hidden, of_matrix = kept
    factor, _ = ct  # what is summed beside the loss is a constant
    scaled = (factor * of_hidden).astype(of_hidden.dtype)
    of_matrix = (factor * of_matrix).astype(of_matrix.dtype)
    return scaled, of_matrix, None, None, None


_chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def _real(ids: jax.Array, chunk: int) -> jax.Array:
    """Which tokens of the chunks are no filling, bool [N / C, C]."""
    return _cut(jnp.ones(ids.shape, bool), ids.shape, chunk)


def _sums(found: tuple[jax.Array, PyTree], real: jax.Array) -> tuple[jax.Array, Any]:
    loss, beside = found

    def total(x):
        return jnp.sum(widen(x), where=real)

    return total(loss), jax.tree.map(total, jax.lax.stop_gradient(beside))
