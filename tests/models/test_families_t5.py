"""T5's config.json and tensor names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import families_t5
from tests.models import golden_t5

# As released with Flan-T5 and the first T5, apart from sizes.
FLAN = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64,
    "d_model": 512, "decoder_start_token_id": 0, "dropout_rate": 0.1,
    "eos_token_id": 1, "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5",
    "n_positions": 512, "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8,
    "output_past": True, "pad_token_id": 0, "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32, "tie_word_embeddings": False,
    "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
FIRST = {
    "architectures": ["T5WithLMHeadModel"], "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1,
    "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06,
    "model_type": "t5", "n_positions": 512, "num_heads": 8, "num_layers": 6,
    "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"prefix": "summarize: "}},
    "vocab_size": 32128,
}  # fmt: skip


def test_flan_t5_as_released():
    c = families_t5.config_of(FLAN)
    assert (c.width, c.head_dim, c.num_heads, c.mlp_width) == (512, 64, 6, 1024)
    assert (c.num_layers, c.num_decoder_layers, c.vocab_size) == (8, 8, 32128)
    assert (c.num_buckets, c.max_distance, c.norm_eps) == (32, 128, 1e-6)
    assert (c.gated, c.tied_embedding, c.scale_logits) == (True, False, False)
    x = np.linspace(-3, 3, 7).astype(np.float32)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    found = c.activation(jnp.asarray(x))
    np.testing.assert_allclose(found, x * (1 + np.tanh(inner)) / 2, atol=1e-6)


def test_the_first_t5_as_released():
    c = families_t5.config_of(FIRST)
    assert (c.gated, c.tied_embedding, c.scale_logits) == (False, True, True)
    assert (c.num_decoder_layers, c.max_distance) == (6, 128)
    assert c.activation is jax.nn.relu


def test_what_transformers_5_writes():
    # tie_word_embeddings, scale_decoder_outputs, a matrix in the file: tied, scaled.
    cases = {
        (True, None, False): (True, True), (True, None, True): (True, True),
        (False, None, True): (False, False), (True, True, False): (True, True),
        (True, True, True): (False, True), (True, False, True): (False, False),
        (True, False, False): (True, False),
    }  # fmt: skip
    for (tie, scale, matrix), expected in cases.items():
        values = FLAN | {"tie_word_embeddings": tie, "scale_decoder_outputs": scale}
        c = families_t5.config_of(values, ["lm_head.weight"] if matrix else [])
        assert (c.tied_embedding, c.scale_logits) == expected, (tie, scale, matrix)


def test_the_start_token():
    assert families_t5.config_of(FLAN | {"decoder_start_token_id": 7}).start_id == 7
    values = FLAN | {"decoder_start_token_id": None, "pad_token_id": 5}
    assert families_t5.config_of(values).start_id == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model_type": "umt5"}, "model_type is 'umt5'"),
        ({"sliding_window": 4}, "sliding_window = 4, which is not implemented"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder = False; only True"),
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj = 'gated-tanh'"),
        ({"feed_forward_proj": "wide-relu"}, "feed_forward_proj = 'wide-relu'"),
        ({"dense_act_fn": "relu"}, "dense_act_fn = 'relu', but .* means 'gelu_new'"),
        ({"is_gated_act": False}, "is_gated_act = False, but"),
        ({"d_model": None}, "has null for d_model"),
        ({"relative_attention_num_buckets": 30}, "num_buckets is 30; .* multiple of 4"),
        ({"relative_attention_max_distance": 16}, "max_distance is 16; .* above half"),
        ({"decoder_start_token_id": 32128}, "start_id is 32128; there are 32128"),
        ({"num_heads": 0}, "num_heads = 0; it must be a whole number above 0"),
        ({"feed_forward_proj": 3}, "feed_forward_proj = 3; it must be a text"),
        ({"pad_token_id": "0", "decoder_start_token_id": None}, "pad_token_id = '0'"),
    ],
)
def test_refuses(change, told):
    with pytest.raises(ValueError, match=told):
        families_t5.config_of(FLAN | change)


@pytest.mark.parametrize("kind", golden_t5.KINDS)
def test_the_places_cover_every_number_once(kind):
    config, _ = golden_t5.read(kind)
    counts = {n: np.zeros(s) for n, s in golden_t5.shapes_of(config).items()}
    for place in families_t5.places(config).values():
        whole = counts[place.name]
        part = whole if place.layer is None else whole[place.layer]
        part[..., slice(*place.columns)] += 1
    assert all((count == 1).all() for count in counts.values())


def test_copies_are_compared():
    values, tensors = golden_t5.file_of("t5_relu")
    config = families_t5.config_of(values, tensors)
    names = ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    shared = tensors["shared.weight"]
    plain = golden_t5.fill(config, tensors)
    copied = {**{f"{name}.weight": shared for name in names}, **tensors}
    copied[next(iter(families_t5.UNUSED))] = np.ones((8, 4), np.float32)
    for name, array in golden_t5.fill(config, copied).items():
        np.testing.assert_array_equal(array, plain[name])
    for name in names:
        wrong = {f"{name}.weight": shared + 1e-3, **tensors}
        # Whichever comes first in the file is what the other differs from.
        told = f"shared.weight differs from {name}.weight"
        with pytest.raises(ValueError, match=told):
            golden_t5.fill(config, wrong)


def test_what_does_not_fit_is_listed():
    values, tensors = golden_t5.file_of("t5_gated")
    config = families_t5.config_of(values, tensors)
    cross = "decoder.block.2.layer.1.EncDecAttention.k.weight"
    inner = "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"
    wrong = {n: x for n, x in tensors.items() if n != cross}
    wrong[inner] = wrong[inner][:-1]
    wrong["encoder.block.2.layer.0.SelfAttention.q.weight"] = wrong["shared.weight"]
    with pytest.raises(ValueError) as raised:
        golden_t5.fill(config, wrong)
    told = str(raised.value)
    assert f"{cross} is missing" in told
    assert f"{inner} has shape (39, 32), expected (40, 32)" in told
    assert "encoder.block.2.layer.0.SelfAttention.q.weight (80, 32) is not" in told
    # An own matrix for the logits that the file lacks.
    del tensors["lm_head.weight"]
    with pytest.raises(ValueError, match="lm_head.weight is missing"):
        golden_t5.fill(config, tensors)
