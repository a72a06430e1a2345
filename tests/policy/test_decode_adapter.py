"""Texts of a model with an adapter beside it, against the learner's forward pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import lora
from rljax.policy import decode
from rljax.policy.desk import Settings
from tests.models.test_lora import random_adapter
from tests.policy.test_decode import (
    PLAIN,
    expected_log_probs,
    keys,
    learner,
    random_params,
)

CONFIG = dataclasses.replace(PLAIN, num_layers=2, qkv_bias=True)
SETTINGS = Settings(slots=3, prompts=(9,), longest=8, prefill=3, free=2, desks=1)
PROMPTS = [[5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [9, 8, 7], [4] * 4]
ADAPTERS = [
    lora.LoraConfig(rank=2, alpha=6.0),
    lora.LoraConfig(rank=3, alpha=4.5, targets=("v_proj", "up_proj")),
]


@pytest.fixture(scope="module")
def run():
    return learner(CONFIG)


def generate(c, params):
    return decode.make(c, SETTINGS).generate(params, PROMPTS, keys(4), samples=2)


@pytest.mark.parametrize("settings", ADAPTERS, ids=["all", "two targets"])
def test_equals_the_learner_beside_the_adapter_and_merged(run, settings):
    base, adapter = random_params(CONFIG), random_adapter(CONFIG, settings)
    beside = lora.attach(base, adapter, settings)
    found = generate(CONFIG, beside)
    assert found.sampled.sum() == 4 * 2 * 8
    for params in (beside, lora.merge(base, adapter, CONFIG, settings)):
        expected = expected_log_probs(run, params, found)
        np.testing.assert_allclose(found.log_probs[:, 1:], expected, atol=1e-4)
    plain = expected_log_probs(run, base, found)
    assert np.abs(found.log_probs[:, 1:] - plain).max() > 0.5  # it does something


def test_a_bfloat16_base_with_a_float32_adapter(run):
    c = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    base = {k: x.astype(jnp.bfloat16) for k, x in random_params(CONFIG).items()}
    adapter = jax.tree.map(lambda x: x / 3, random_adapter(c, ADAPTERS[0]))
    found = generate(c, lora.attach(base, adapter, ADAPTERS[0]))
    wide = {name: x.astype(jnp.float32) for name, x in base.items()}
    exact = expected_log_probs(run, lora.attach(wide, adapter, ADAPTERS[0]), found)
    plain = expected_log_probs(run, wide, found)
    # Rounding is small beside what the adapter does.
    np.testing.assert_allclose(found.log_probs[:, 1:], exact, atol=0.2)
    gap = np.abs(found.log_probs[:, 1:] - exact).max()
    assert 5 * gap < np.abs(found.log_probs[:, 1:] - plain).max()
    assert found.log_probs.dtype == np.float32
