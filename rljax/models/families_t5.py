"""T5's `config.json` and tensor names, as our encoder-decoder.

Source: the configuration and the model of transformers 5.23, whose files and those of
version 4 are both understood.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax

from rljax.models import family
from rljax.models.encdec_config import EncDecConfig, gelu_tanh
from rljax.models.pretrained import Place

# `dense_act_fn` of a file.
ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": gelu_tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
_READ = frozenset(
    """
    d_model d_kv d_ff num_layers num_decoder_layers num_heads vocab_size
    relative_attention_num_buckets relative_attention_max_distance layer_norm_epsilon
    feed_forward_proj dense_act_fn is_gated_act tie_word_embeddings
    scale_decoder_outputs decoder_start_token_id pad_token_id
    """.split()
)
# Dropout, initial weights, and how others called the model.
_NOTES = frozenset(
    """
    dropout_rate classifier_dropout initializer_factor n_positions output_past
    gradient_checkpointing
    """.split()
)
_FIXED = {"is_encoder_decoder": True, "is_decoder": False}
# Some files hold a bias of the first cross-attention, which no code reads.
UNUSED = frozenset(
    ["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]
)


def config_of(values: Mapping[str, Any], names: Collection[str] = ()) -> EncDecConfig:
    """Settings of the encoder-decoder that a `config.json` describes.

    Files of transformers 4 say by `tie_word_embeddings` both whether logits come of
    the embedding and whether they are scaled. Those of version 5 say by
    `scale_decoder_outputs` whether they are scaled, always say that they are tied,
    and hold `lm_head.weight` where they are not.

    Args:
      values: the file, parsed.
      names: of the tensors beside it.

    Raises:
      ValueError: for a model type, a field or a value that is not implemented, or a
        field that is missing; it names it and what would do.
    """
    if values.get("model_type") != "t5":
        raise ValueError(f"model_type is {values.get('model_type')!r}, expected 't5'")
    family.check(values, _READ | _NOTES, _FIXED)
    fields = family.Fields(values)
    gated, activation = _mlp(fields)
    tied = fields.get("tie_word_embeddings", True)
    scaled = fields.get("scale_decoder_outputs", tied)
    if fields.get("scale_decoder_outputs") is not None and "lm_head.weight" in names:
        tied = False
    layers = fields.need("num_layers")
    return EncDecConfig(
        vocab_size=fields.need("vocab_size"),
        width=fields.need("d_model"),
        num_layers=layers,
        num_decoder_layers=fields.get("num_decoder_layers", layers),
        num_heads=fields.need("num_heads"),
        head_dim=fields.need("d_kv"),
        mlp_width=fields.need("d_ff"),
        gated=gated,
        activation=ACTIVATIONS[activation],
        num_buckets=fields.need("relative_attention_num_buckets"),
        max_distance=fields.get("relative_attention_max_distance", 128),
        norm_eps=fields.get("layer_norm_epsilon", 1e-6),
        tied_embedding=tied,
        scale_logits=scaled,
        start_id=fields.get("decoder_start_token_id", fields.get("pad_token_id", 0)),
    )


def places(config: EncDecConfig) -> dict[str, Place]:
    """Where each tensor of a T5 file goes, for `pretrained.load`.

    Args:
      config: of the model.

    Returns:
      Name in the file -> place.
    """
    c = config
    width, heads = (0, c.width), (0, c.num_heads)
    found = {"shared.weight": Place("embedding", None, width, False)}
    if not c.tied_embedding:
        found["lm_head.weight"] = Place("unembedding", None, (0, c.vocab_size), True)
    for stack, count in (("encoder", c.num_layers), ("decoder", c.num_decoder_layers)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found[bias] = Place(f"{stack}_relative_bias", None, heads, False)
        norm = f"{stack}.final_layer_norm.weight"
        found[norm] = Place(f"{stack}_final_norm", None, width, False)
        of_layer = _layer_places(c, stack == "decoder")
        for i in range(count):
            for theirs, (name, span, turned) in of_layer.items():
                place = Place(f"{stack}_{name}", i, span, turned)
                found[f"{stack}.block.{i}.layer.{theirs}.weight"] = place
    return found


def copies(config: EncDecConfig) -> dict[str, str]:
    """Tensors a T5 file may hold beside the one they must equal.

    Args:
      config: of the model.

    Returns:
      Name in the file -> name of the tensor it copies.
    """
    names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if config.tied_embedding:
        names.append("lm_head.weight")
    return dict.fromkeys(names, "shared.weight")


def _mlp(fields: family.Fields) -> tuple[bool, str]:
    """Whether the MLP is gated, and the name of its activation."""
    kind = fields.get("feed_forward_proj", "relu")
    gate, _, activation = kind.rpartition("-")
    if kind == "gated-gelu":
        activation = "gelu_new"  # what the name has always meant
    if gate not in ("", "gated") or activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json has feed_forward_proj = {kind!r}; there are "
            f"{', '.join(ACTIVATIONS)}, and each with 'gated-' before it"
        )
    for field, meant in (
        ("dense_act_fn", activation),
        ("is_gated_act", gate == "gated"),
    ):
        if fields.get(field, meant) != meant:
            raise ValueError(
                f"config.json has {field} = {fields.get(field)!r}, but "
                f"feed_forward_proj {kind!r} means {meant!r}"
            )
    return gate == "gated", activation


def _layer_places(
    c: EncDecConfig, crossed: bool
) -> dict[str, tuple[str, tuple[int, int], bool]]:
    """Their name in a layer -> ours, columns, whether turned."""
    inner, width = c.num_heads * c.head_dim, (0, c.width)
    found = {
        "0.layer_norm": ("attention_norm", width, False),
        "0.SelfAttention.o": ("out", width, True),
    }
    for i, letter in enumerate("qkv"):
        span = (i * inner, (i + 1) * inner)
        found[f"0.SelfAttention.{letter}"] = ("qkv", span, True)
    if crossed:
        found |= {
            "1.layer_norm": ("cross_norm", width, False),
            "1.EncDecAttention.q": ("cross_q", (0, inner), True),
            "1.EncDecAttention.k": ("cross_kv", (0, inner), True),
            "1.EncDecAttention.v": ("cross_kv", (inner, 2 * inner), True),
            "1.EncDecAttention.o": ("cross_out", width, True),
        }
    mlp = f"{2 if crossed else 1}.DenseReluDense"
    found[f"{mlp[0]}.layer_norm"] = ("mlp_norm", width, False)
    found[f"{mlp}.wo"] = ("down", width, True)
    if c.gated:
        found[f"{mlp}.wi_0"] = ("gate_up", (0, c.mlp_width), True)
        found[f"{mlp}.wi_1"] = ("gate_up", (c.mlp_width, 2 * c.mlp_width), True)
    else:
        found[f"{mlp}.wi"] = ("up", (0, c.mlp_width), True)
    return found
