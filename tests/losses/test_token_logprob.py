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

# 21 tokens, no multiple of a chunk of 4, and 300 columns, taken 128 at a time.
D, V, SHAPE = 5, 300, (3, 7)


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


USES = {
    "log_prob": lambda s: jnp.sin(s.log_prob),
    "entropy": lambda s: s.entropy**2,
    "kl": lambda s: 3 * s.kl,
    "log_prob, entropy": lambda s: s.log_prob * s.entropy,
    "entropy, kl": lambda s: s.entropy * s.kl,
    "all": lambda s: s.log_prob + s.entropy * s.kl,
    "none": lambda s: s.reference_log_prob,
}


@pytest.mark.parametrize("way", ["jit", "remat", "scan", "vmap"])
@pytest.mark.parametrize("use", USES)
def test_gradients_of_a_loss_that_uses_some_scores(use, way):
    hidden, matrix, ids, reference = drawn()

    def rows(score, hidden, matrix):
        """The loss of each text by itself, and their sum."""

        def row(hidden, ids, other):
            beside = reference._replace(hidden=other)
            return jnp.sum(USES[use](score(hidden, matrix, ids, beside)))

        of_all = hidden, ids, reference.hidden
        if way == "vmap":
            return jnp.sum(jax.vmap(row)(*of_all))
        if way == "scan":
            return jnp.sum(jax.lax.map(lambda of_one: row(*of_one), of_all))
        return (jax.checkpoint(row) if way == "remat" else row)(*of_all)

    def grads(score):
        of = jax.grad(functools.partial(rows, score), argnums=(0, 1))
        return jax.jit(of)(hidden, matrix)

    ours = functools.partial(token_logprob.token_scores, chunk=4)
    chex.assert_trees_all_close(grads(ours), grads(naive), rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("use", USES)
def test_gradients_of_a_chunked_loss_that_uses_some_scores(use):
    hidden, matrix, ids, reference = drawn()

    def ours(hidden, matrix):
        def per_token(scores, _):
            return USES[use](scores), scores.entropy

        return token_logprob.chunked_loss(
            hidden, matrix, ids, per_token, (), reference, chunk=4
        )[0]

    def theirs(hidden, matrix):
        return jnp.sum(USES[use](naive(hidden, matrix, ids, reference)))

    def grads(loss):
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(hidden, matrix)

    chex.assert_trees_all_close(grads(ours), grads(theirs), rtol=2e-5, atol=1e-4)


def whole_loss(use):
    def loss(hidden, matrix, ids, reference):
        scores = token_logprob.token_scores(hidden, matrix, ids, reference, chunk=4)
        return jnp.sum(use(scores))

    return loss


def loss_by_chunks(use):
    def loss(hidden, matrix, ids, reference):
        def per_token(scores, _):
            return use(scores), ()

        return token_logprob.chunked_loss(
            hidden, matrix, ids, per_token, (), reference, chunk=4
        )[0]

    return loss


@pytest.mark.parametrize("loss", [whole_loss, loss_by_chunks])
def test_scores_that_go_unused_cost_nothing(loss):
    hidden, matrix, ids, reference = drawn()

    def work(use, beside):
        grad = jax.jit(jax.grad(loss(use), argnums=(0, 1)))
        analysis: Any = grad.lower(hidden, matrix, ids, beside).compile()
        return analysis.cost_analysis()["flops"]

    lean = work(lambda s: s.log_prob, None)
    tokens, columns = 4, 128  # what is in a loop's body at least
    assert lean + tokens * columns < work(lambda s: s.log_prob + s.entropy, None)
    # Three products with the policy, and the reference is not even read.
    assert lean == pytest.approx(work(lambda s: s.log_prob, reference), rel=0.02)


def scored(hidden, matrix, ids, reference):
    scores = token_logprob.token_scores(hidden, matrix, ids, reference, chunk=4)
    return mixed(scores), scores


def chunked(hidden, matrix, ids, reference):
    aux = {"weight": jnp.ones(SHAPE), "target": -jnp.ones(SHAPE)}
    return token_logprob.chunked_loss(
        hidden, matrix, ids, per_token, aux, reference, chunk=4
    )


def scored_plainly(hidden, matrix, ids, reference):
    scores = naive(hidden, matrix, ids, reference)
    return mixed(scores), scores


def chunked_plainly(hidden, matrix, ids, reference):
    aux = {"weight": 1.0, "target": -1.0}
    found = per_token(naive(hidden, matrix, ids, reference), aux)
    return jax.tree.map(jnp.sum, found)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(scored, scored_plainly), (chunked, chunked_plainly)]
)
def test_under_pmap_each_device_has_its_own_tokens(ours, theirs):
    """Values and both gradients: the matrix is of all devices, hidden states of one."""
    count = len(jax.devices())
    hidden, matrix, ids, reference = drawn()
    many = jnp.stack([hidden * (1 + 0.1 * i) for i in range(count)])
    said = jnp.stack([(ids + 7 * i) % V for i in range(count)])

    def of(loss, hidden, ids):
        def one(hidden, matrix):
            return loss(hidden, matrix, ids, reference)

        return jax.value_and_grad(one, argnums=(0, 1), has_aux=True)(hidden, matrix)

    def device(hidden, ids):
        (loss, more), (of_hidden, of_matrix) = of(ours, hidden, ids)
        return loss, more, of_hidden, jax.lax.psum(of_matrix, "data")

    spread = jax.pmap(device, axis_name="data", out_axes=(0, 0, 0, None))
    found = spread(many, said)
    (loss, more), (of_hidden, of_matrix) = jax.jit(
        jax.vmap(functools.partial(of, theirs))
    )(many, said)
    chex.assert_trees_all_close(found[:2], (loss, more), rtol=2e-5, atol=2e-6)
    chex.assert_trees_all_close(
        found[2:], (of_hidden, of_matrix.sum(axis=0)), rtol=2e-5, atol=2e-4
    )


@pytest.mark.parametrize("loss", [whole_loss, loss_by_chunks])
def test_gradients_of_bfloat16_weights_are_summed_in_float32(loss):
    hidden, matrix, ids, _ = drawn(jnp.bfloat16)
    # 420 tokens and 12,000 columns: sums over either in bfloat16 would lose digits.
    hidden, ids = (jnp.tile(x, (20, 1, 1)[: x.ndim]) for x in (hidden, ids))
    matrix = jnp.tile(matrix, (1, 40))
    grad = jax.jit(jax.grad(loss(lambda s: s.log_prob), argnums=(0, 1)))
    of_hidden, of_matrix = grad(hidden, matrix, ids, None)
    assert of_hidden.dtype == of_matrix.dtype == jnp.bfloat16

    def exact(hidden, matrix):
        return jnp.sum(naive(hidden, matrix, ids).log_prob)

    wide = (x.astype(jnp.float32) for x in (hidden, matrix))
    in_hidden, in_matrix = jax.grad(exact, argnums=(0, 1))(*wide)
    for mine, other in ((of_hidden, in_hidden), (of_matrix, in_matrix)):
        error = jnp.abs(mine.astype(jnp.float32) - other)
        assert jnp.max(error) < 3e-3 * jnp.max(jnp.abs(other))


def test_a_token_that_is_ruled_out_leaves_entropy_and_gradient_finite():
    hidden = jnp.ones((1, 1))
    matrix = jnp.array([[0.0, 1.0, -jnp.inf]])
    ids = jnp.array([1])

    def entropy(hidden):
        return token_logprob.token_scores(hidden, matrix, ids).entropy[0]

    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    np.testing.assert_allclose(entropy(hidden), -(p * np.log(p)).sum(), rtol=1e-6)


def test_no_array_of_all_logits_is_made():
    tokens, width, vocabulary = 64, 8, 8000
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
