"""What generation refuses, and other types of numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import cache
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.policy import decode
from rljax.policy.desk import Settings

CONFIG = ModelConfig(
    vocab_size=9,
    width=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=12,
    max_positions=20,
)
SETTINGS = Settings(slots=8, prompts=(4, 12), longest=14)


def initial(c):
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    return jax.jit(Decoder(c).init)(jax.random.key(0), ids, ids, mask)["params"]


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([[1] * 13], {"limits": [2]}, "prompt 0 has 13 tokens; the largest bucket"),
        ([[1], [1] * 8], {}, "prompt 1 has 8 tokens.* 14 more.* 22; the model's.* 20"),
        ([[]], {}, r"prompt 0 has shape \(0,\); it needs some tokens"),
        ([[1, 9]], {}, "prompt 0 holds token 9; the model has 9"),
        ([[1]], {"limits": [15]}, "limit of 15 tokens; it must be from 1 to 14"),
        ([[1]], {"limits": [0]}, "limit of 0 tokens"),
        ([[1]], {"limits": [1, 2]}, "1 prompts have 1 keys and 2 limits"),
        ([[1], [2]], {"count": 3}, "2 prompts have 3 keys and 2 limits"),
        ([[1]], {"samples": 0}, "samples is 0; it must be >= 1"),
        ([[1]], {"temperature": -1.0}, "temperature is -1.0; it must be finite"),
        ([[1]], {"temperature": float("nan")}, "temperature is nan"),
        ([[1]], {"stop_strings": [""]}, "stop string '' is empty"),
        ([[1]], {"stop_strings": ["x"]}, "stop strings need `text`"),
        ([[1], [1.7, 2.2]], {}, "prompt 1 holds float64; token ids are integers"),
        ([[True]], {}, "prompt 0 holds bool; token ids are integers"),
        ([np.array([1, 2**32])], {}, "prompt 0 holds token 4294967296; the model has"),
        ([[1]], {"limits": [2.5]}, "prompt 0 has a limit of 2.5; it must be an int"),
        ([[1]], {"samples": 2.0}, "samples is 2.0; it must be an int"),
    ],
)
def test_refuses(prompts, options, message):
    made = decode.make(CONFIG, SETTINGS)
    keys = jax.random.split(jax.random.key(0), options.pop("count", len(prompts)))
    with pytest.raises(ValueError, match=message):
        made.generate({}, prompts, keys, **options)
    assert not made.traces


@pytest.mark.parametrize(
    "keys, message",
    [
        (jax.random.split(jax.random.key(0, impl="rbg"), 1), "of implementation rbg"),
        (jax.random.key(0), r"keys has shape \(\); one key for each prompt"),
    ],
)
def test_refuses_keys(keys, message):
    made = decode.make(CONFIG, SETTINGS)
    with pytest.raises(ValueError, match=message):
        made.generate({}, [[1]], keys)
    assert not made.traces


def test_keys_may_differ_from_the_default():
    params, made = initial(CONFIG), decode.make(CONFIG, SETTINGS)
    keys = jax.random.split(jax.random.key(0), 1)
    expected = made.generate(params, [[1]], keys)
    with jax.default_prng_impl("rbg"):
        found = decode.make(CONFIG, SETTINGS).generate(params, [[1]], keys)
    np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize(
    "change, stop_ids, message",
    [
        ({"slots": 0}, (), "slots is 0; it must be >= 1"),
        ({"prompts": ()}, (), r"prompts is \(\); it must be lengths"),
        ({"prompts": (4, 4)}, (), r"prompts is \(4, 4\); it must be lengths"),
        ({"prompts": (21,)}, (), "prompts of up to 21 tokens .* context of 20"),
        ({}, (3, 9), "stop id 9 is not a token; there are 9"),
    ],
)
def test_refuses_sizes(change, stop_ids, message):
    with pytest.raises(ValueError, match=message):
        decode.make(CONFIG, dataclasses.replace(SETTINGS, **change), stop_ids)


def test_weights_that_are_not_finite_are_an_error():
    params = initial(CONFIG)
    params["final_norm"] = params["final_norm"].at[0].set(jnp.nan)
    made = decode.make(CONFIG, SETTINGS)
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(FloatingPointError, match="prompt 0, sample 0.* token 0 is nan"):
        made.generate(params, [[1]], keys)


def test_a_part_for_each_layer():
    params = initial(CONFIG)
    params["more"] = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="more has a leading axis of 3.* 2 layers"):
        cache.arrange(params, CONFIG)


def test_no_prompts_no_texts():
    made = decode.make(CONFIG, SETTINGS)
    found = made.generate({}, [], jax.random.split(jax.random.key(0), 0))
    assert found.ids.shape[0] == found.length.shape[0] == 0


def test_bfloat16_is_near_float32():
    c = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype="bfloat16")
    params = initial(c)
    made = decode.make(c, SETTINGS)
    keys = jax.random.split(jax.random.key(0), 2)
    found = made.generate(params, [[1, 2], [3]], keys)
    ids = jnp.asarray(found.ids)
    b, t = ids.shape
    places = jnp.broadcast_to(jnp.arange(t), (b, t))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((t, t), bool)), (b, t, t))
    exact = dataclasses.replace(c, dtype="float32", param_dtype="float32")
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    hidden = jax.jit(Decoder(exact).apply)({"params": wide}, ids, places, mask)
    every = jax.nn.log_softmax(jnp.asarray(hidden) @ wide["unembedding"])
    picked = np.take_along_axis(np.asarray(every[:, :-1]), found.ids[:, 1:, None], 2)
    expected = np.where(found.sampled[:, 1:], picked[..., 0], 0.0)
    np.testing.assert_allclose(found.log_probs[:, 1:], expected, atol=0.05)
    assert found.log_probs.dtype == np.float32


def test_sizes_of_the_cache():
    sizes = Settings(prompts=(64,), longest=512).columns
    assert sizes == (144, 288, 576)
    assert Settings(prompts=(64,), longest=64).columns == (128,)
    assert Settings(prompts=(1,), longest=1).columns == (16,)
    assert Settings(prompts=(1,), longest=1, slots=8).batches == (8, 2)


def test_programs_where_an_encoder_reads_long_prompts():
    sizes = Settings(prompts=(256, 512), longest=2048, slots=4)
    assert sizes.columns == (320, 640, 1280, 2560)
    assert sizes.decoded.columns == (64, 128, 256, 512, 1024, 2048)
    # Weights, prompts of 2 lengths, the first cache; prompts placed in 6 sizes of the
    # cache; 6 loops; moves between each two sizes.
    assert sizes.most_programs >= 1 + 2 + 1 + 2 * 6 + 6 + 6 * 5
