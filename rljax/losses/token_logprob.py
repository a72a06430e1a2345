"""Log-probabilities of tokens from hidden states, without logits of all tokens.

A vocabulary of 150,000 makes logits the largest array of a language model's update,
and naive code holds three of their size. Here a part of the logits is made, used and
dropped, and made again where a gradient is wanted.

* `token_scores` gives log-probability, entropy and KL of each token, for losses that
  first need all of them (sums over an answer). Its parts are columns of the vocabulary,
  each of whose gradient is written once; with parts of the tokens it would be read and
  written for each part.
* `chunked_loss` is told the loss of one token; it takes the gradient of a chunk of
  tokens while their logits are there, so they are made once.

Either does without what its loss does not use: entropy and KL cost passes over the
logits, and so do their gradients.

Shape letters: N tokens, D width, V vocabulary, C tokens of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import custom_vjp_primal_tree_values

from rljax.losses.masked import widen
from rljax.losses.vocabulary import (
    Scores,
    Source,
    into_product,
    join,
    logits_of,
    pull_back,
    read,
)
from rljax.types import PyTree

CHUNK = 256  # tokens: 150 MB of float32 logits where the vocabulary is 150,000
LANES = 128  # columns at a time are a multiple of it: fewer, and overhead is the cost
PARTS = 8  # of the logits of a chunk of tokens: the fastest of 1 to 32 on a CPU

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
    how = _remaking(cap, chunk, unembedding)
    scores = _token_scores(how, policy, ids, reference)
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


class _How(NamedTuple):
    """What is static about scores."""

    cap: float | None
    numbers: int  # logits of a part of the vocabulary, about
    keep: bool  # whether logits are kept for the gradient, or made again


def _remaking(cap: float | None, chunk: int, unembedding: jax.Array) -> _How:
    """Half of what C tokens' logits take, as exponentials stand beside logits."""
    return _How(cap, max(chunk * unembedding.shape[1] // 2, 1), keep=False)


def _by_columns(
    step: Callable, carry: Any, size: tuple[int, int], numbers: int, given=(None, None)
):
    """Runs `step` over columns of the logits [N, V] of all tokens, few at a time.

    Args:
      step: (carry, first column, count of columns, given) -> (carry, out). The last
        part may have fewer columns than the others, so it is traced for both.
      carry: what the first step is given.
      size: (N, V).
      numbers: logits of a part; it has at least LANES columns.
      given: outs of an earlier run, of which each step gets its own.

    Returns:
      The last carry; and outs, stacked but for that of a last part with fewer columns,
      which stands behind and is None where there is no such part.
    """
    tokens, columns = size
    parts = max(-(-tokens * columns // numbers), 1)
    width = min(-(-columns // (parts * LANES)) * LANES, columns)
    whole, rest = divmod(columns, width)

    def one(carry, part):
        start, given = part
        return step(carry, start, width, given)

    carry, out = jax.lax.scan(one, carry, (width * jnp.arange(whole), given[0]))
    if not rest:
        return carry, (out, None)
    carry, last = step(carry, whole * width, rest, given[1])
    return carry, (out, last)


def _logits(how, start, width, policy, reference):
    """Logits of some columns, and the reference's."""

    def of(source):
        matrix = source.unembedding
        columns = jax.lax.dynamic_slice_in_dim(matrix, start, width, axis=1)
        return logits_of(source._replace(unembedding=columns), how.cap)

    return of(policy), None if reference is None else of(reference)


def _find(how: _How, policy: Source, ids: jax.Array, reference: Source | None):
    """Scores of tokens [N] and what is behind them, and logits if they are kept."""

    def one(_, start, width, _given):
        made = own, other = _logits(how, start, width, policy, reference)
        return None, (read(own, other, ids - start), made if how.keep else None)

    size = len(ids), policy.unembedding.shape[1]
    _, (out, last) = _by_columns(one, None, size, how.numbers)
    parts, made = out
    if last is None:
        return join(parts), (made, None)
    parts = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), parts, last[0])
    return join(parts), (made, last[1])


def _add_gradient(how: _How, kept: tuple, total: jax.Array, ct: Scores):
    """The gradient of hidden states, and `total` with the unembedding's added.

    Columns are added in place: an array of the unembedding's size for what is to be
    added would be written and read again.
    """
    policy, ids, reference, found, given = kept

    def one(carry, start, width, made):
        of_hidden, total = carry
        if made is None:
            made = _logits(how, start, width, policy, reference)
        own, other = made
        of_product = into_product(own, other, ids - start, found, ct, how.cap)
        matrix = policy.unembedding
        columns = jax.lax.dynamic_slice_in_dim(matrix, start, width, axis=1)
        more, of_columns = pull_back(of_product, Source(policy.hidden, columns))
        of_columns += jax.lax.dynamic_slice_in_dim(total, start, width, axis=1)
        total = jax.lax.dynamic_update_slice_in_dim(
            total, of_columns.astype(total.dtype), start, axis=1
        )
        return (of_hidden + more, total), None

    wide = jnp.promote_types(total.dtype, jnp.float32)
    carry = jnp.zeros(policy.hidden.shape, wide), total
    size = len(ids), total.shape[1]
    (of_hidden, total), _ = _by_columns(one, carry, size, how.numbers, given)
    return of_hidden.astype(policy.hidden.dtype), total


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_scores(how, policy, ids, reference):
    return _find(how, policy, ids, reference)[0].scores


def _token_scores_forward(how, policy, ids, reference):
    kept = custom_vjp_primal_tree_values((policy, ids, reference))
    found, made = _find(how, *kept)
    return found.scores, (*kept, found, made)


def _token_scores_backward(how, kept, ct):
    total = jnp.zeros_like(kept[0].unembedding)
    return Source(*_add_gradient(how, kept, total, ct)), None, None


_token_scores.defvjp(_token_scores_forward, _token_scores_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summing_scores(how, hidden, total, matrix, ids, reference):
    """Scores of a chunk of tokens, as autodiff is to see them.

    What it finds as the cotangent of `total` is `total` with this chunk's gradient of
    the matrix added. Through autodiff because that knows which scores a loss uses.
    """
    del total
    return _find(how, Source(hidden, matrix), ids, reference)[0].scores


def _summing_scores_forward(how, *arguments):
    values = custom_vjp_primal_tree_values(arguments)
    hidden, total, matrix, ids, reference = values
    policy = Source(hidden, matrix)
    found, made = _find(how, policy, ids, reference)
    return found.scores, ((policy, ids, reference, found, made), total)


def _summing_scores_backward(how, kept, ct):
    of_scores, total = kept
    of_hidden, total = _add_gradient(how, of_scores, total, ct)
    return of_hidden, total, None, None, None


_summing_scores.defvjp(
    _summing_scores_forward, _summing_scores_backward, symbolic_zeros=True
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked_loss(static, policy, ids, aux, reference):
    per_token, cap, chunk = static
    how = _remaking(cap, chunk, policy.unembedding)
    scores = _find(how, policy, ids, reference)[0].scores
    return _sums(per_token(scores, aux), jnp.ones(ids.shape, bool))


def _chunked_loss_forward(static, policy, ids, aux, reference):
    per_token, cap, chunk = static
    hidden, matrix = policy
    how = _How(cap, max(chunk * matrix.shape[1] // PARTS, 1), keep=True)
    other = None if reference is None else reference.hidden
    real = jnp.ones(ids.shape, bool)
    parts = _cut((hidden, ids, other, aux, real), chunk)

    def one(total, part):
        hidden, ids, other, aux, real = part
        beside = reference and reference._replace(hidden=other)

        def loss(hidden, total):
            scores = _summing_scores(how, hidden, total, matrix, ids, beside)
            return _sums(per_token(scores, aux), real)

        summed, pull, out = jax.vjp(loss, hidden, total, has_aux=True)
        of_hidden, total = pull(jnp.ones_like(summed))
        return total, (of_hidden, (summed, out))

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
