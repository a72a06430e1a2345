"""Hugging Face `config.json` files as settings of our decoder.

A family is a table of what its files may say. A field is *read*, or must have the one
value we implement, or says nothing about the function computed (dropout, special
tokens, the library's own notes). Anything else is an error that names it, so that no
model is ever run approximately. Old spellings (`rope_theta`, `rope_scaling`) and new
ones (`rope_parameters`) are both understood.

Source: the configuration classes of transformers 5.23.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax

from rljax.models.config import ModelConfig, RopeScaling

# One object, so that two readings of a file are equal settings.
GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)

# Of every family: says nothing about the function that is computed.
NOTES = frozenset(
    """
    _name_or_path architectures attention_dropout auto_map bos_token_id
    cache_implementation chunk_size_feed_forward dtype eos_token_id id2label
    initializer_range
    is_llama_config label2id model_type output_attentions output_hidden_states
    pad_token_id
    problem_type return_dict rope_interleaved torch_dtype transformers.js_config
    transformers_version unk_token_id use_cache
    """.split()
)


class Family(NamedTuple):
    """How the files of a model type are read.

    Attributes:
      build: (fields that are there) -> settings.
      read: fields that `build` looks at.
      fixed: fields that must have this value where they are there.
    """

    build: Callable[["Fields"], ModelConfig]
    read: frozenset[str]
    fixed: Mapping[str, Any]


class Fields:
    """The fields of a file; asking for one that is missing says so."""

    def __init__(self, values: Mapping[str, Any]):
        """Keeps them."""
        self._values = values

    def get(self, name: str, default: Any = None) -> Any:
        """A field that may be missing or null."""
        value = self._values.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        """A field that must be there.

        Raises:
          ValueError: naming it.
        """
        if self._values.get(name) is None:
            raise ValueError(f"config.json has no {name}")
        return self._values[name]


def config_of(values: Mapping[str, Any]) -> ModelConfig:
    """Settings of the decoder that a `config.json` describes.

    Args:
      values: the file, parsed.

    Raises:
      ValueError: for a model type, a field or a value that is not implemented, or a
        field that is missing; it names it and what would do.
    """
    name = values.get("model_type")
    if name not in FAMILIES:
        raise ValueError(
            f"model_type {name!r} is not implemented; there are "
            f"{', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[name]
    check(values, family.read, family.fixed)
    return family.build(Fields(values))


def check(
    values: Mapping[str, Any], read: Collection[str], fixed: Mapping[str, Any]
) -> None:
    """Refuses what a family does not implement.

    Args:
      values: the file, parsed.
      read: fields that are looked at elsewhere, beside `NOTES`.
      fixed: fields that must have this value where they are there.

    Raises:
      ValueError: for another field, or another value; it names it.
    """
    name = values.get("model_type")
    for field, value in values.items():
        if field in NOTES or field in read or value is None:
            continue
        if field not in fixed:
            raise ValueError(
                f"config.json of a {name} has {field} = {value!r}, which is not "
                "implemented"
            )
        if value != fixed[field]:
            raise ValueError(
                f"config.json of a {name} has {field} = {value!r}; only "
                f"{fixed[field]!r} is implemented"
            )


def _llama(fields: Fields, tied: bool = False, **more: Any) -> ModelConfig:
    """What Llama and its descendants share; `tied` where the file does not say."""
    width, heads = fields.need("hidden_size"), fields.need("num_attention_heads")
    if "rope_theta" not in more:
        more |= _rope(fields)
    return ModelConfig(
        vocab_size=fields.need("vocab_size"),
        width=width,
        num_layers=fields.need("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.get("num_key_value_heads", heads),
        head_dim=fields.get("head_dim", width // heads),
        mlp_width=fields.need("intermediate_size"),
        norm_eps=fields.need("rms_norm_eps"),
        tied_embedding=fields.get("tie_word_embeddings", tied),
        max_positions=fields.get("max_position_embeddings"),
        **more,
    )


def _qwen2(fields: Fields) -> ModelConfig:
    return _llama(fields, qkv_bias=True, **_window(fields))


def _qwen3(fields: Fields) -> ModelConfig:
    return _llama(fields, qk_norm=True, **_window(fields))


def _mistral(fields: Fields) -> ModelConfig:
    window = fields.get("sliding_window")
    layers = range(fields.need("num_hidden_layers")) if window else ()
    return _llama(fields, window=window, window_layers=tuple(layers))


def _gemma(fields: Fields, every: int, **more: Any) -> ModelConfig:
    """What Gemma 2 and 3 share: norms after as well as before, scales 1 + w.

    One layer in `every` sees all, where the file does not say which.
    """
    width = fields.need("hidden_size")
    every = fields.get(
        "sliding_window_pattern", fields.get("_sliding_window_pattern", every)
    )
    window = _layer_types(fields, lambda i: bool((i + 1) % every))
    return _llama(
        fields,
        tied=True,
        norm_offset=1.0,
        post_norms=True,
        gate=GELU_TANH,
        embedding_scale=width**0.5,
        query_scale=fields.need("query_pre_attn_scalar") ** -0.5,
        attention_softcap=fields.get("attn_logit_softcapping"),
        logit_softcap=fields.get("final_logit_softcapping"),
        **window,
        **more,
    )


def _gpt2(fields: Fields) -> ModelConfig:
    width, heads = fields.get("n_embd", 768), fields.get("n_head", 12)
    return ModelConfig(
        vocab_size=fields.get("vocab_size", 50_257),
        width=width,
        num_layers=fields.get("n_layer", 12),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        mlp_width=fields.get("n_inner", 4 * width),
        learned_positions=True,
        max_positions=fields.get("n_positions", 1024),
        layer_norm=True,
        norm_eps=fields.get("layer_norm_epsilon", 1e-5),
        gate=functools.partial(jax.nn.gelu, approximate=True),
        gated_mlp=False,
        tied_embedding=fields.get("tie_word_embeddings", True),
        qkv_bias=True,
        output_biases=True,
    )


def _gemma2(fields: Fields) -> ModelConfig:
    return _gemma(fields, 2, **_rope(fields))


def _gemma3(fields: Fields) -> ModelConfig:
    parameters = fields.get("rope_parameters")
    if parameters is None:  # the old spelling
        local = {"local_rope_theta": fields.get("rope_local_base_freq", 10_000.0)}
        return _gemma(fields, 6, qk_norm=True, **_rope(fields), **local)
    ours = {"rope_parameters": parameters["full_attention"]}
    near = _rope(Fields({"rope_parameters": parameters["sliding_attention"]}))
    if near["rope_scaling"] is not None:
        raise ValueError("config.json scales RoPE in layers with a window")
    local = {"local_rope_theta": near["rope_theta"]}
    return _gemma(fields, 6, qk_norm=True, **_rope(Fields(ours)), **local)


def _window(fields: Fields) -> dict[str, Any]:
    """Which layers see a window only, and how wide it is."""
    window = fields.get("sliding_window")
    if not fields.get("use_sliding_window", False) or window is None:
        return {}
    count = fields.need("num_hidden_layers")
    first = fields.get("max_window_layers", count)
    return _layer_types(fields, lambda i: i >= first)


def _layer_types(fields: Fields, slides: Callable[[int], bool]) -> dict[str, Any]:
    """The layers with a window; `slides` says which where the file does not."""
    count, window = fields.need("num_hidden_layers"), fields.need("sliding_window")
    kinds = fields.get("layer_types")
    if kinds is None:
        names = ("full_attention", "sliding_attention")
        kinds = [names[slides(i)] for i in range(count)]
    known = {"full_attention", "sliding_attention"}
    if len(kinds) != count or set(kinds) - known:
        raise ValueError(
            f"config.json has layer_types {kinds}: there must be {count} of "
            f"{', '.join(sorted(known))}"
        )
    layers = [i for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    return {"window": window, "window_layers": tuple(layers)} if layers else {}


def _rope(fields: Fields) -> dict[str, Any]:
    """Base of the wavelengths, and how they are stretched."""
    parameters = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = parameters.get("rope_theta", fields.get("rope_theta", 10_000.0))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    rest = set(parameters) - {"rope_theta", "rope_type", "type"}
    known = {
        "default": set(),
        "linear": {"factor"},
        "llama3": {
            "factor", "low_freq_factor", "high_freq_factor",
            "original_max_position_embeddings",
        },
    }  # fmt: skip
    if kind not in known:
        raise ValueError(
            f"config.json has rope type {kind!r}, which is not implemented; there are "
            f"{', '.join(known)}"
        )
    if rest != known[kind]:
        raise ValueError(
            f"config.json has {sorted(rest)} with rope type {kind!r}, expected "
            f"{sorted(known[kind])}"
        )
    scaling = None
    if kind != "default":
        scaling = RopeScaling(
            factor=parameters["factor"],
            low_freq_factor=parameters.get("low_freq_factor"),
            high_freq_factor=parameters.get("high_freq_factor"),
            original_positions=parameters.get("original_max_position_embeddings"),
        )
    return {"rope_theta": float(theta), "rope_scaling": scaling}


_LLAMA_READ = frozenset(
    """
    hidden_size num_attention_heads num_key_value_heads head_dim intermediate_size
    vocab_size num_hidden_layers rms_norm_eps tie_word_embeddings rope_theta
    rope_scaling rope_parameters max_position_embeddings
    """.split()
)
_WINDOW_READ = frozenset(
    "use_sliding_window sliding_window max_window_layers layer_types".split()
)
_SILU = {"hidden_act": "silu", "is_encoder_decoder": False}
_NO_BIAS = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}

_GEMMA_READ = _LLAMA_READ | frozenset(
    """
    query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping sliding_window
    layer_types sliding_window_pattern _sliding_window_pattern rope_local_base_freq
    """.split()
)
_GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
    "attention_bias": False, "is_encoder_decoder": False,
    "use_bidirectional_attention": False,
}  # fmt: skip

_GPT2_READ = frozenset(
    """
    vocab_size n_positions n_embd n_layer n_head n_inner layer_norm_epsilon
    tie_word_embeddings n_ctx
    """.split()
)
_GPT2 = {
    "activation_function": "gelu_new", "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False,
    "is_encoder_decoder": False,
}  # fmt: skip
# Of training, of a classifier's head, and of the order of a product.
_GPT2_NOTES = frozenset(
    """
    resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn
    """.split()
)

FAMILIES: dict[str, Family] = {
    "gemma2": Family(_gemma2, _GEMMA_READ, _GEMMA),
    "gemma3_text": Family(_gemma3, _GEMMA_READ, _GEMMA),
    "gpt2": Family(_gpt2, _GPT2_READ | _GPT2_NOTES, _GPT2),
    "llama": Family(_llama, _LLAMA_READ, {**_SILU, **_NO_BIAS}),
    "mistral": Family(_mistral, _LLAMA_READ | {"sliding_window"}, _SILU),
    "qwen2": Family(_qwen2, _LLAMA_READ | _WINDOW_READ, _SILU),
    "qwen3": Family(
        _qwen3, _LLAMA_READ | _WINDOW_READ, {**_SILU, "attention_bias": False}
    ),
}
