"""Truncation and drawing against plain numpy, on numbers that are exact in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.policy import truncate
from rljax.policy.truncate import Truncation

# Probabilities are powers of two, so that sums of them are exact; 3 and 5 have equals.
P = np.array([1 / 8, 1 / 4, 1 / 16, 1 / 8, 1 / 4, 1 / 16, 1 / 16, 1 / 16])


def reference(logits, temperature, t):
    """The definition, token by token, in float64."""
    w = np.exp((logits - logits.max()) / temperature)
    w = w / w.sum()
    if t.top_k is not None:
        w = np.array([x if np.sum(w > x) < t.top_k else 0.0 for x in w])
    if t.top_p is not None and t.top_p < 1:
        mass = t.top_p * w.sum()
        w = np.array([x if np.sum(w[w > x]) < mass else 0.0 for x in w])
    if t.min_p is not None:
        w = np.where(w >= t.min_p * w.max(), w, 0.0)
    return w / w.max()


def weights(logits, temperature=1.0, **settings):
    run = jax.jit(truncate.weights, static_argnums=2)
    rows = jnp.asarray(np.atleast_2d(logits), jnp.float32)
    return np.asarray(run(rows, jnp.float32(temperature), Truncation(**settings)))


CASES = [
    {},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 100},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 1.0},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 5, "top_p": 0.6},
    {"top_k": 6, "top_p": 0.8, "min_p": 0.3},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_keeps_what_the_definition_keeps(settings, temperature):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20, 33)) * 2
    actual = weights(logits, temperature, **settings)
    t = Truncation(**settings)
    expected = [reference(row, temperature, t) for row in logits.astype(np.float32)]
    np.testing.assert_array_equal(actual > 0, np.array(expected) > 0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, kept",
    [
        ({"top_k": 1}, [1, 4]),  # equals stand together
        ({"top_k": 2}, [1, 4]),
        ({"top_k": 3}, [0, 1, 3, 4]),
        ({"top_k": 5}, range(8)),
        ({"top_p": 0.01}, [1, 4]),
        ({"top_p": 0.5}, [1, 4]),  # they hold exactly that
        ({"top_p": 0.51}, [0, 1, 3, 4]),
        ({"top_p": 0.75}, [0, 1, 3, 4]),
        ({"top_p": 0.76}, range(8)),
        ({"min_p": 0.5}, [0, 1, 3, 4]),  # at the bound is in
        ({"min_p": 0.51}, [1, 4]),
        ({"top_k": 4, "top_p": 0.6}, [1, 4]),  # of 3/4 they hold 2/3
    ],
)
def test_equals_stand_or_fall_together(settings, kept):
    kept_weights = weights(np.log(P), **settings)[0]
    assert np.flatnonzero(kept_weights).tolist() == list(kept)


def test_all_but_one_may_be_cut():
    logits = np.array([[0.0, -1.0, 30.0, 5.0], [100.0, -np.inf, 0.0, 0.0]])
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        w = weights(logits, **settings)
        np.testing.assert_array_equal(w, [[0, 0, 1, 0], [1, 0, 0, 0]])
        for uniform in (0.0, 0.5, 1 - 2**-23):
            drawn = truncate.draw(jnp.asarray(w), jnp.full(2, uniform, jnp.float32))
            assert drawn.tolist() == [2, 0]
    # Logits far apart, at a temperature near 0, are neither NaN nor inf.
    assert np.isfinite(weights(1e4 * logits[:1], 1e-6)).all()


@pytest.mark.parametrize("vocabulary", [1, 7, 128, 129, 1000])
def test_draws_by_inverse_cdf(vocabulary):
    rng = np.random.default_rng(vocabulary)
    # Whole numbers, whose sums are exact; half of them 0.
    w = rng.integers(1, 5, (200, vocabulary)) * (rng.random((200, vocabulary)) < 0.5)
    w[:, rng.integers(vocabulary)] = 1
    uniform = rng.integers(0, 2**10, 200) / 2**10
    uniform[:2] = 0, 1 - 2**-23
    expected = [
        np.searchsorted(np.cumsum(row), u * row.sum(), side="right")
        for row, u in zip(w, uniform.astype(np.float32), strict=True)
    ]
    run = jax.jit(truncate.draw)
    drawn = run(jnp.asarray(w, jnp.float32), jnp.asarray(uniform, jnp.float32))
    np.testing.assert_array_equal(drawn, expected)


def test_a_draw_at_a_boundary_is_of_the_next_token():
    uniform = jnp.arange(256) / 256  # exact
    drawn = jax.jit(truncate.draw)(jnp.ones((256, 256)), uniform)
    np.testing.assert_array_equal(drawn, np.arange(256))


def test_never_draws_what_has_no_weight():
    # Targets at the ends of tokens, where sums that are rounded disagree.
    rng = np.random.default_rng(0)
    size = 4000, 300
    w = rng.random(size).astype(np.float32) * (rng.random(size) < 0.3)
    w[:, 150] = 1e-8
    share = np.cumsum(w.astype(np.float64), axis=1) / w.sum(axis=1, keepdims=True)
    uniform = share[np.arange(4000), rng.integers(0, 300, 4000)].astype(np.float32)
    uniform = np.minimum(uniform, 1 - 2**-23).astype(np.float32)
    for u in (uniform, np.nextafter(uniform, np.float32(0)), 0 * uniform):
        drawn = np.asarray(jax.jit(truncate.draw)(jnp.asarray(w), jnp.asarray(u)))
        assert (np.take_along_axis(w, drawn[:, None], 1) > 0).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"top_k": 0}, "top_k is 0; it must be at least 1"),
        ({"top_p": 0.0}, r"top_p is 0.0; it must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"top_p is 1.5; it must be in \(0, 1\]"),
        ({"min_p": -0.1}, r"min_p is -0.1; it must be in \[0, 1\]"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Truncation(**settings)
