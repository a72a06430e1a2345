"""Norms of a layer whose weights are narrower than float32."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import block
from tests.models.test_decoder import PLAIN

X = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_one_is_added_to_a_scale_in_float32(stored, offset):
    """As Gemma's own code adds it: 1 + w in bfloat16 would lose most of a small w."""
    config = dataclasses.replace(PLAIN, norm_offset=offset)
    scale = np.random.default_rng(1).normal(0, 0.1, 64).astype(jnp.dtype(stored))
    found = block.normalize(
        {"norm": jnp.asarray(scale)}, "norm", jnp.asarray(X), config
    )
    wide = X.astype(np.float64)
    unit = wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + config.norm_eps)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, unit * (offset + scale.astype(np.float64)), 3e-6)
