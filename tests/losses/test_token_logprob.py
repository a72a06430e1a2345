"""Scores of tokens and the chunked loss, against logits of all tokens and autodiff."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import token_logprob
from rljax.losses.token_logprob import Scores, Source

D, V, SHAPE = 5, 13, (3, 7)  # 21 tokens: no multiple of a chunk of 4


def drawn(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 5)
    hidden = jax.random.normal(keys[0], (*SHAPE, D), dtype)
    matrix = jax.random.normal(keys[1], (D, V), dtype)
    ids = jax.random.randint(keys[2], SHAPE, 0, V)
    other = jax.random.normal(keys[3], (*SHAPE, D + 1), dtype)
    reference = Source(other, jax.random.normal(keys[4], (D + 1, V), dtype))
    return hidden, matrix, ids, reference


def naive(hidden, matrix, ids, reference=None, cap=None):
    """All logits at once, gradients by autodiff."""

    def log_p(hidden, matrix):
        logits = hidden.astype(matrix.dtype) @ matrix
        logits = logits.astype(jnp.float32)
        return jax.nn.log_softmax(
            logits if cap is None else cap * jnp.tanh(logits / cap)
        )

    p = log_p(hidden, matrix)
    said = jnp.take_along_axis(p, ids[..., None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(p) * p, -1)
    if reference is None:
        return Scores(said, entropy, jnp.zeros(ids.shape), jnp.zeros(ids.shape))
    q = jax.lax.stop_gradient(log_p(*reference))
    kl = jnp.sum(jnp.exp(p) * (p - q), -1)
    return Scores(said, entropy, kl, jnp.take_along_axis(q, ids[..., None], -1)[..., 0])


def mixed(scores):
    """A number to which every score adds in its own way."""
    weights = jnp.arange(1.0, 22.0).reshape(SHAPE) / 7
    parts = jnp.sin(scores.log_prob) + 2 * scores.entropy**2 - 3 * scores.kl
    return jnp.sum(weights * parts)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_scores_and_their_gradients_are_those_of_all_logits(cap, with_reference, chunk):
    hidden, matrix, ids, reference = drawn()
    reference = reference if with_reference else None
    ours = functools.partial(
        token_logprob.token_scores, ids=ids, reference=reference, cap=cap, chunk=chunk
    )
    theirs = functools.partial(naive, ids=ids, reference=reference, cap=cap)
    chex.assert_trees_all_close(ours(hidden, matrix), theirs(hidden, matrix), atol=2e-6)

    def grads(scores):
        of = jax.grad(lambda h, w: mixed(scores(h, w)), argnums=(0, 1))
        return jax.jit(of)(hidden, matrix)

    chex.assert_trees_all_close(grads(ours), grads(theirs), rtol=2e-5, atol=2e-5)


def per_token(scores, aux):
    loss = aux["weight"] * (jnp.square(scores.log_prob - aux["target"]) + scores.kl)
    return loss, {"entropy": scores.entropy * aux["weight"]}


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_the_chunked_loss_is_the_sum_over_tokens(chunk):
    hidden, matrix, ids, reference = drawn()
    aux = {
        "weight": jax.random.uniform(jax.random.key(8), SHAPE),
        "target": jax.random.normal(jax.random.key(9), SHAPE),
    }

    def ours(hidden, matrix):
        return token_logprob.chunked_loss(
            hidden, matrix, ids, per_token, aux, reference, 3.0, chunk
        )

    def theirs(hidden, matrix):
        found = per_token(naive(hidden, matrix, ids, reference, 3.0), aux)
        return jax.tree.map(jnp.sum, found)

    chex.assert_trees_all_close(
        ours(hidden, matrix), theirs(hidden, matrix), rtol=2e-6, atol=2e-6
    )

    def grads(loss):
        # The loss goes on through a function, so its cotangent is not 1.
        of = jax.grad(lambda h, w: 3.0 * loss(h, w)[0] ** 2, argnums=(0, 1))
        return jax.jit(of)(hidden, matrix)

    chex.assert_trees_all_close(grads(ours), grads(theirs), rtol=3e-5, atol=2e-4)


def test_under_pmap_each_device_has_its_own_tokens():
    count = len(jax.devices())
    hidden, matrix, ids, reference = drawn()
    many = jnp.stack([hidden * (1 + 0.1 * i) for i in range(count)])

    def grad(hidden):
        def loss(matrix):
            found = token_logprob.token_scores(hidden, matrix, ids, reference, chunk=4)
            return mixed(found)

        return jax.lax.psum(jax.grad(loss)(matrix), "data")

    found = jax.pmap(grad, axis_name="data", out_axes=None)(many)
    whole = sum(
        jax.grad(lambda w, h=h: mixed(naive(h, w, ids, reference)))(matrix)
        for h in many
    )
    np.testing.assert_allclose(found, whole, rtol=2e-5, atol=2e-4)


def test_gradients_of_bfloat16_weights_are_summed_in_float32():
    hidden, matrix, ids, _ = drawn(jnp.bfloat16)

    def grad(chunk):
        def loss(matrix):
            scores = token_logprob.token_scores(hidden, matrix, ids, chunk=chunk)
            return jnp.sum(scores.log_prob)

        return jax.grad(loss)(matrix)

    assert grad(1).dtype == jnp.bfloat16
    # One token at a time: a sum in bfloat16 would lose most of its 8 bits.
    np.testing.assert_allclose(
        grad(1).astype(jnp.float32), grad(21).astype(jnp.float32), rtol=1e-2, atol=1e-2
    )


def test_a_token_that_is_ruled_out_leaves_entropy_and_gradient_finite():
    hidden = jnp.ones((1, 1))
    matrix = jnp.array([[0.0, 1.0, -jnp.inf]])
    ids = jnp.array([1])

    def entropy(hidden):
        return token_logprob.token_scores(hidden, matrix, ids).entropy[0]

    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    np.testing.assert_allclose(entropy(hidden), -(p * np.log(p)).sum(), rtol=1e-6)


def test_no_array_of_all_logits_is_made():
    tokens, width, vocabulary = 64, 8, 1000
    hidden, matrix = jnp.ones((tokens, width)), jnp.ones((width, vocabulary))
    ids = jnp.zeros(tokens, jnp.int32)

    def temporaries(scores):
        def loss(hidden, matrix):
            return jnp.sum(scores(hidden, matrix, ids).log_prob)

        grad = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, matrix)
        analysis: Any = grad.compile().memory_analysis()
        return analysis.temp_size_in_bytes

    chunked = functools.partial(token_logprob.token_scores, chunk=4)
    whole = tokens * vocabulary * 4
    assert temporaries(naive) >= whole
    assert temporaries(chunked) < whole / 4


def test_shapes_that_disagree_are_refused():
    hidden, matrix, ids, reference = drawn()
    with pytest.raises(AssertionError):
        token_logprob.token_scores(hidden[:, :-1], matrix, ids)
    with pytest.raises(AssertionError):
        token_logprob.token_scores(
            hidden, matrix, ids, reference._replace(unembedding=matrix)
        )
    with pytest.raises(ValueError, match="chunk is 0"):
        token_logprob.token_scores(hidden, matrix, ids, chunk=0)
