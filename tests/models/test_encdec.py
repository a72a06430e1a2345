"""The encoder-decoder against what transformers and PyTorch said, kept in files."""

import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import encdec_config
from rljax.models.encdec import EncDec, logits
from rljax.models.relative_bias import buckets, relative_bias
from tests.models import golden_t5

WAYS: dict[str, dict[str, Any]] = {
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


def bucket_by_hand(distance, count, longest):
    """In exact arithmetic: (distance / exact)^(far) against (longest / exact)^k."""
    exact = count // 2
    if distance < exact:
        return distance
    far = count - exact
    reached = [
        k for k in range(far)
        if distance**far * exact**k >= longest**k * exact**far
    ]  # fmt: skip
    return exact + max(reached)


@pytest.mark.parametrize(("count", "longest"), [(32, 128), (16, 128), (8, 12), (4, 9)])
def test_buckets_by_hand(count, longest):
    expected = [bucket_by_hand(d, count, longest) for d in range(longest + 1)]
    np.testing.assert_array_equal(buckets(count, longest), expected)
    assert sorted({*expected}) == [*range(count)]


def test_bias_by_hand():
    count, longest, heads = 8, 6, 2
    table = np.random.default_rng(0).standard_normal((count, heads)).astype(np.float32)
    positions = np.array([[0, 1, 4, 30, 2], [3, 3, 5, 0, 11]])
    for two_sided in (True, False):
        bias = relative_bias(jnp.asarray(table), jnp.asarray(positions), two_sided, 6)
        for b, h, t, s in np.ndindex(2, heads, 5, 5):
            ahead = positions[b, s] - positions[b, t]
            if two_sided:
                row = bucket_by_hand(min(abs(ahead), longest), count // 2, longest)
                row += count // 2 * (ahead > 0)
            else:
                row = bucket_by_hand(min(max(-ahead, 0), longest), count, longest)
            assert bias[b, h, t, s] == table[row, h]


def test_padding_of_the_prompt_is_not_read():
    config, params, said = golden("t5_gated")
    other = dict(said, ids=np.where(said["mask"], said["ids"], 79 - said["ids"]))
    np.testing.assert_array_equal(
        logits_of(config, params, said), logits_of(config, params, other)
    )


def test_initial_logits_are_near_uniform():
    config = dataclasses.replace(encdec_config.tiny(50), scan_layers=True)
    tied = dataclasses.replace(config, tied_embedding=True)
    ids = np.random.default_rng(0).integers(0, 50, (2, 6))
    seen = np.broadcast_to(np.tril(np.ones((6, 6), bool)), (2, 6, 6))
    row = (ids, ids >= 0, ids, np.broadcast_to(np.arange(6), (2, 6)), seen)

    def spread(c):
        params = EncDec(c).init(jax.random.key(0), *row)["params"]
        hidden = jnp.asarray(EncDec(c).apply({"params": params}, *row))
        return jnp.std(logits(params, hidden, c))

    @jax.jit
    def spreads():
        scaled = dataclasses.replace(tied, scale_logits=True)
        return spread(config), spread(tied), spread(scaled)

    plain, of_tied, of_scaled = map(float, spreads())
    assert plain < 0.2
    assert 0.5 < of_tied < 2
    assert 0.5 < of_scaled < 2


def test_gradients_reach_every_weight_and_are_the_same_in_every_way():
    config, params, said = golden("t5_relu")
    places = causal(said)

    def loss(params, config):
        model = EncDec(config)
        args = (said["ids"], said["mask"], said["decoder_ids"], *places)
        h = model.apply({"params": params}, *args)
        return jnp.mean(jnp.square(logits(params, jnp.asarray(h), config)))

    grads = [
        jax.jit(jax.grad(functools.partial(loss, config=c)))(params)
        for c in (
            config,
            dataclasses.replace(config, scan_layers=False, remat=True),
        )
    ]
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(grads[0]))
    chex.assert_trees_all_close(*grads, rtol=1e-3, atol=1e-5)


def test_bfloat16_follows_float32():
    config, params, said = golden("t5_gated")
    half = dataclasses.replace(config, dtype="bfloat16")
    found = logits_of(half, params, said)
    assert found.dtype == np.float32
    error = np.abs(found - said["logits"])
    assert 1e-4 < error.mean() < 0.05 * said["logits"].std()


def test_refuses_a_wrong_config():
    cases: dict[str, dict[str, Any]] = {
        "dtype is 'int8'": {"dtype": "int8"},
        "mlp_width is 0": {"mlp_width": 0},
    }
    for told, change in cases.items():
        with pytest.raises(ValueError, match=told):
            dataclasses.replace(encdec_config.tiny(9), **change)
