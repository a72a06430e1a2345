"""The head against its formula in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.heads import Head


def run(head: Head, params, hidden) -> jax.Array:
    return jnp.asarray(jax.jit(head.apply)(params, hidden))


@pytest.mark.parametrize("widths", [(), (5,), (5, 7)])
def test_matches_numpy(widths):
    head = Head(widths)
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((2, 3, 4)).astype(np.float32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), hidden)
    params = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(np.float32), shapes
    )["params"]
    x = hidden.astype(np.float64)
    for i in range(len(widths) + 1):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < len(widths) else x
    values = run(head, {"params": params}, hidden)
    assert values.shape == (2, 3)
    np.testing.assert_allclose(values, x[..., 0], rtol=1e-4)


def test_starts_near_zero_and_learns_from_there():
    head = Head((64, 64))
    hidden = np.random.default_rng(0).standard_normal((200, 32)).astype(np.float32)
    params = jax.jit(head.init)(jax.random.key(0), hidden)
    values = run(head, params, hidden)
    assert 0 < np.abs(values).max() < 0.2
    grad = jax.grad(lambda p: jnp.sum(jnp.square(run(head, p, hidden) - 1)))(params)
    chex.assert_tree_all_finite(grad)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grad))
    assert run(head, params, hidden.astype(jnp.bfloat16)).dtype == jnp.float32
