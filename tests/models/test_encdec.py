"""The encoder-decoder against what transformers and PyTorch said, kept in files."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import encdec, encdec_config
from rljax.models.encdec import EncDec, logits
from rljax.models.relative_bias import buckets, relative_bias
from tests.models import golden_t5

WAYS = {
    "scanned": {},
    "unrolled": {"scan_layers": False},
    "remat": {"remat": True},
    "unrolled_remat": {"scan_layers": False, "remat": True},
}


@functools.cache
def golden(kind):
    config, params = golden_t5.read(kind)
    with np.load(golden_t5.FOLDER / kind / "golden.npz") as file:
        said = {name: file[name] for name in file.files}
    return config, params, said


def causal(said):
    """Positions and mask of the decoder's texts."""
    batch, size = said["decoder_ids"].shape
    places = np.broadcast_to(np.arange(size), (batch, size))
    seen = np.tril(np.ones((size, size), bool))
    return places, np.broadcast_to(seen, (batch, size, size))


@functools.partial(jax.jit, static_argnums=(0, 7))
def hidden_of(config, params, prompt, mask, ids, places, seen, first=0):
    return EncDec(config).apply(
        {"params": params}, prompt, mask, ids, places, seen, first
    )


def logits_of(config, params, said, first=0):
    h = hidden_of(
        config, params, said["ids"], said["mask"], said["decoder_ids"], *causal(said),
        first,
    )  # fmt: skip
    return np.asarray(logits(params, h, config))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", golden_t5.KINDS)
def test_equals_transformers(kind, way):
    config, params, said = golden(kind)
    config = dataclasses.replace(config, **WAYS[way])
    assert said["logits"].std() > 1
    np.testing.assert_allclose(
        logits_of(config, params, said), said["logits"], atol=1e-4, rtol=0
    )


def test_fixtures_reach_every_bucket():
    config, _, said = golden("t5_gated")
    assert said["decoder_ids"].shape[1] > config.max_distance + 1
    assert said["ids"].shape[1] > config.max_distance + 1
    assert config.num_decoder_layers != config.num_layers


def test_the_last_layer_gives_what_is_asked_for():
    for kind in golden_t5.KINDS:
        config, params, said = golden(kind)
        part = logits_of(config, params, said, first=7)
        np.testing.assert_allclose(part, said["logits"][:, 7:], atol=1e-4, rtol=0)
