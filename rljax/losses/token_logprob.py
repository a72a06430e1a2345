"""Log-probabilities of tokens from hidden states, without logits of all tokens.

A vocabulary of 150,000 makes logits the largest array of a language model's update,
and naive code holds three of their size. Here a part of the logits is made, used and
dropped, and made again where a gradient is wanted.

* `token_scores` gives log-probability, entropy and KL of each token, for losses that
  first need all of them (sums over an answer). Its parts are columns of the vocabulary.
* `chunked_loss` is told the loss of one token; it takes the gradient of a chunk of
  tokens while their logits are there, so they are made once.

Either does without what its loss does not use: entropy and KL cost passes over the
logits, and so do their gradients.

Shape letters: N tokens, D width, V vocabulary, C tokens of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import custom_vjp_primal_tree_values

from rljax.losses.masked import widen
from rljax.losses.vocabulary import (
    Found,
    Scores,
    Source,
    into_product,
    join,
    logits_of,
    product_of,
    pull_back,
    read,
    scores_of,
)
from rljax.types import PyTree

CHUNK = 256  # tokens: 150 MB of float32 logits where the vocabulary is 150,000
LANES = 128  # columns at a time are a multiple of it: fewer, and overhead is the cost

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
      chunk: C; so many tokens' worth of logits, C V, is in memory at a time, or 128 for
        each token where that is more.

    Returns:
      Scores [...].

    Raises:
      AssertionError: if shapes disagree.
    """
    _check(hidden, unembedding, ids, reference, chunk)
    shape = ids.shape
    hidden, ids, reference = _flattened(hidden, ids, reference)
    policy = Source(hidden, unembedding)
    scores = _token_scores(cap, chunk, policy, ids, reference)
    return Scores(*(x.reshape(shape) for x in scores))


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
      chunk: C tokens are taken together.

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
    aux = jax.tree.map(lambda x: x.reshape(ids.size, *x.shape[ids.ndim :]), aux)
    hidden, ids, reference = _flattened(hidden, ids, reference)
    return _chunked_loss(static, Source(hidden, unembedding), ids, aux, reference)


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


def _flattened(hidden, ids, reference):
    """Hidden states [N, D], tokens [N], and the reference of as many."""
    if reference is not None:
        other = reference.hidden
        reference = reference._replace(hidden=other.reshape(-1, other.shape[-1]))
    return hidden.reshape(-1, hidden.shape[-1]), ids.reshape(-1), reference


def _by_columns(step: Callable, carry: Any, size: tuple[int, int], chunk: int):
    """Runs `step` over columns of the logits [N, V] of all tokens, few at a time.

    Parts of the vocabulary rather than of the tokens: a column of the unembedding's
    gradient is then written once, and not added up over parts, each of which would
    read and write all of it; and what is in memory is as much.

    Args:
      step: (carry, first column, count of columns) -> (carry, out). The last part may
        have fewer columns than the others, so it is traced for both.
      carry: what the first step is given.
      size: (N, V).
      chunk: C; a part's logits and exponentials are about C V numbers, or those of
        LANES columns if they are more.

    Returns:
      The last carry, and outs stacked.
    """
    tokens, columns = size
    parts = max(-(-2 * tokens // chunk), 1)
    width = min(-(-columns // (parts * LANES)) * LANES, columns)
    whole, rest = divmod(columns, width)

    def one(carry, start):
        return step(carry, start, width)

    carry, out = jax.lax.scan(one, carry, width * jnp.arange(whole))
    if rest:
        carry, last = step(carry, whole * width, rest)
        out = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), out, last)
    return carry, out


def _columns(source: Source, start: jax.Array | int, width: int) -> Source:
    """The source of some columns of the logits."""
    matrix = source.unembedding
    found = jax.lax.dynamic_slice_in_dim(matrix, start, width, axis=1)
    return source._replace(unembedding=found)


def _find(
    cap: float | None, chunk: int, policy: Source, ids, reference: Source | None
) -> Found:
    """Scores of tokens [N]."""

    def one(_, start, width):
        of_policy = logits_of(_columns(policy, start, width), cap)
        other = None
        if reference is not None:
            other = logits_of(_columns(reference, start, width), cap)
        return None, read(of_policy, other, ids - start)

    size = len(ids), policy.unembedding.shape[1]
    _, parts = _by_columns(one, None, size, chunk)
    return join(parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _token_scores(cap, chunk, policy, ids, reference):
    return _find(cap, chunk, policy, ids, reference).scores


def _token_scores_forward(cap, chunk, policy, ids, reference):
    kept = custom_vjp_primal_tree_values((policy, ids, reference))
    found = _find(cap, chunk, *kept)
    return found.scores, (*kept, found)


def _token_scores_backward(cap, chunk, kept, ct):
    policy, ids, reference, found = kept
    matrix = policy.unembedding

    def one(carry, start, width):
        of_hidden, of_matrix = carry
        part = _columns(policy, start, width)
        other = None
        if reference is not None:
            other = logits_of(_columns(reference, start, width), cap)
        own = logits_of(part, cap)
        of_product = into_product(own, other, ids - start, found, ct, cap)
        more, of_columns = pull_back(of_product, part)
        of_matrix = jax.lax.dynamic_update_slice_in_dim(
            of_matrix, of_columns.astype(of_matrix.dtype), start, axis=1
        )
        return (of_hidden + more, of_matrix), None

    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    carry = jnp.zeros(policy.hidden.shape, wide), jnp.zeros_like(matrix)
    size = len(ids), matrix.shape[1]
    (of_hidden, of_matrix), _ = _by_columns(one, carry, size, chunk)
    return Source(of_hidden.astype(policy.hidden.dtype), of_matrix), None, None


_token_scores.defvjp(_token_scores_forward, _token_scores_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_loss(static, policy, ids, aux, reference):
    per_token, cap, chunk = static
    scores = _find(cap, chunk, policy, ids, reference).scores
    return _sums(per_token(scores, aux), jnp.ones(ids.shape, bool))


def _chunked_loss_forward(static, policy, ids, aux, reference):
    per_token, cap, chunk = static
    hidden, matrix = policy
    other = None if reference is None else reference.hidden
    real = jnp.ones(ids.shape, bool)
    parts = _cut((hidden, ids, other, aux, real), chunk)

    def one(total, part):
        hidden, ids, other, aux, real = part
        if reference is not None:
            other = logits_of(reference._replace(hidden=other), cap)

        def loss(product):
            # Through autodiff, which knows what scores `per_token` leaves unused.
            scores = scores_of(cap, product, ids, other)
            return _sums(per_token(scores, aux), real)

        part = Source(hidden, matrix)
        summed, pull, beside = jax.vjp(loss, product_of(*part), has_aux=True)
        (of_product,) = pull(jnp.ones_like(summed))
        of_hidden, of_matrix = pull_back(of_product, part)
        return total + of_matrix, (of_hidden.astype(hidden.dtype), (summed, beside))

    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    total, (of_hidden, sums) = jax.lax.scan(one, jnp.zeros(matrix.shape, wide), parts)
    out = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
    of_hidden = of_hidden.reshape(-1, hidden.shape[1])[: len(ids)]
    return out, Source(of_hidden, total.astype(matrix.dtype))


def _chunked_loss_backward(static, kept, ct):
    factor, _ = ct  # what is summed beside the loss is a constant
    scaled = jax.tree.map(lambda x: (factor * x).astype(x.dtype), kept)
    return scaled, None, None, None


_chunked_loss.defvjp(_chunked_loss_forward, _chunked_loss_backward)


def _cut(tree: PyTree, chunk: int) -> PyTree:
    """Leaves [N, *] as chunks [N / C, C, *], filled up with zeros."""

    def one(x):
        size = min(chunk, max(len(x), 1))
        pad = [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, pad).reshape(-1, size, *x.shape[1:])

    return jax.tree.map(one, tree)


def _sums(found: tuple[jax.Array, PyTree], real: jax.Array) -> tuple[jax.Array, Any]:
    loss, beside = found

    def total(x):
        return jnp.sum(widen(x), where=real)

    return total(loss), jax.tree.map(total, jax.lax.stop_gradient(beside))
