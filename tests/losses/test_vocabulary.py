"""Parts of a vocabulary joined, against all of it in float64, on awkward logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import vocabulary

T = 5  # columns of a part
V = 3 * T


def scores(logits, ids, reference=None):
    """Of logits [N, V], read in three parts."""

    def part(start):
        these = slice(start, start + T)
        other = None if reference is None else jnp.asarray(reference[:, these])
        return vocabulary.read(jnp.asarray(logits[:, these]), other, ids - start)

    parts = [part(start) for start in range(0, V, T)]
    return vocabulary.join(jax.tree.map(lambda *x: jnp.stack(x), *parts)).scores


def log_softmax(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def drawn(seed, rows=4):
    return np.random.default_rng(seed).normal(size=(rows, V)).astype(np.float32)


def by_hand(logits, ids, reference):
    """log p(a), entropy and divergence by their definitions."""
    p, q = log_softmax(logits), log_softmax(reference)
    weight = np.exp(p)
    entropy = -(weight * p).sum(-1)
    return p[np.arange(len(ids)), ids], entropy, (weight * (p - q)).sum(-1)


@pytest.mark.parametrize("at", [0, T - 1, T, V - 1])
def test_a_token_is_found_in_whatever_part_it_is(at):
    logits, reference = drawn(0), drawn(1)
    ids = np.full(4, at, np.int32)
    said, entropy, kl = by_hand(logits, ids, reference)
    found = scores(logits, ids, reference)
    np.testing.assert_allclose(found.log_prob, said, rtol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5)
    heard = log_softmax(reference)[np.arange(4), at]
    np.testing.assert_allclose(found.reference_log_prob, heard, rtol=1e-5)


def test_parts_of_very_different_height():
    logits, reference = drawn(2), drawn(3)
    logits[:, T:] += np.linspace(-300, 300, 4, dtype=np.float32)[:, None]
    reference[:, :T] += np.linspace(-20, 20, 4, dtype=np.float32)[:, None]
    ids = np.array([0, T, 2 * T, V - 1], np.int32)
    said, entropy, kl = by_hand(logits, ids, reference)
    found = scores(logits, ids, reference)
    np.testing.assert_allclose(found.log_prob, said, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5, atol=1e-5)


def test_a_nearly_sure_token_keeps_its_digits_far_from_zero():
    logits = np.full((1, V), 4096.0 - 12.0, np.float32)
    logits[0, T + 5] = 4096.0
    ids = np.array([T + 5], np.int32)
    # 1 - p = 14 exp(-12) = 8.6e-5; a float32 at 4096 is only good to 5e-4.
    found = scores(logits, ids)
    p = log_softmax(logits)
    np.testing.assert_allclose(found.log_prob, p[0, ids], rtol=2e-3)
    np.testing.assert_allclose(found.entropy, [-(np.exp(p) * p).sum()], rtol=2e-3)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_part_that_is_ruled_out_counts_for_nothing(part):
    logits, reference = drawn(4), drawn(5)
    out = slice(part * T, (part + 1) * T)
    logits[:, out] = reference[:, out] = -np.inf
    kept = np.isfinite(logits[0])
    ids = np.arange(4, dtype=np.int32)  # of what is kept
    said, entropy, kl = by_hand(logits[:, kept], ids, reference[:, kept])
    found = scores(logits, np.flatnonzero(kept)[ids].astype(np.int32), reference)
    np.testing.assert_allclose(found.log_prob, said, rtol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(found.kl, kl, rtol=1e-5)


def test_divergence_from_a_reference_that_rules_tokens_out():
    logits, reference = drawn(6, rows=2), drawn(7, rows=2)
    reference[:, :T] = -np.inf
    logits[1, :T] -= 300.0  # so little that float32 has none of it
    found = scores(logits, np.full(2, V - 1, np.int32), reference)
    assert found.kl[0] == np.inf
    expected = by_hand(logits[1:, T:], [0], reference[1:, T:])[2]
    np.testing.assert_allclose(found.kl[1:], expected, rtol=1e-5)
