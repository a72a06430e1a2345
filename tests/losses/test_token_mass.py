"""Mass on tokens against a softmax of all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses.token_mass import token_mass


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_is_the_sum_of_a_softmax(cap, chunk):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(3, 5, 4)).astype(np.float32)
    matrix = rng.normal(size=(4, 9)).astype(np.float32) * 3
    chosen = np.arange(9) % 3 == 1
    logits = hidden.astype(np.float64) @ matrix
    if cap is not None:
        logits = cap * np.tanh(logits / cap)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    expected = odds[..., chosen].sum(-1) / odds.sum(-1)
    found = jax.jit(
        lambda h: token_mass(h, jnp.array(matrix), jnp.array(chosen), cap, chunk)
    )
    np.testing.assert_allclose(found(hidden), expected, rtol=2e-5)


def test_no_token_and_every_token():
    hidden, matrix = jnp.ones((2, 3)), jnp.ones((3, 4), jnp.bfloat16)
    none, all_ = jnp.zeros(4, bool), jnp.ones(4, bool)
    np.testing.assert_array_equal(token_mass(hidden, matrix, none), [0, 0])
    found = token_mass(hidden, matrix, all_)
    np.testing.assert_allclose(found, [1, 1], rtol=1e-6)
    assert found.dtype == jnp.float32


def test_a_set_of_another_vocabulary_is_refused():
    with pytest.raises(AssertionError):
        token_mass(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(5, bool))
