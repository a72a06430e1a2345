"""Hugging Face `config.json` files as settings of our decoder.

A family is a table of what its files may say (`family`). Old spellings (`rope_theta`,
`rope_scaling`) and new ones (`rope_parameters`) are both understood. A field that a
file leaves out has the value that the family's class in transformers gives it; one
that is null is None.

Source: the configuration classes of transformers 5.23.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from rljax.models.config import ModelConfig, RopeScaling
from rljax.models.family import Family, Fields, check

# One object, so that two readings of a file are equal settings.
GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)


def config_of(values: Mapping[str, Any]) -> ModelConfig:
    """Settings of the decoder that a `config.json` describes.

    Args:
      values: the file, parsed.

    Raises:
      ValueError: for a model type, a field or a value that is not implemented, or a
        field that is missing; it names it and what would do.
    """
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(
            f"model_type {name!r} is not implemented; there are "
            f"{', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[name]
    check(values, family.read, family.fixed)
    return family.build(Fields({**family.defaults, **values}))


def _llama(fields: Fields, **more: Any) -> ModelConfig:
    """What Llama and its descendants share."""
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
        tied_embedding=fields.get("tie_word_embeddings", False),
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


def _gemma(fields: Fields, **more: Any) -> ModelConfig:
    """What Gemma 2 and 3 share: norms after as well as before, scales 1 + w."""
    width = fields.need("hidden_size")
    every = fields.need("sliding_window_pattern")
    return _llama(
        fields,
        norm_offset=1.0,
        post_norms=True,
        gate=GELU_TANH,
        embedding_scale=width**0.5,
        query_scale=fields.need("query_pre_attn_scalar") ** -0.5,
        attention_softcap=fields.get("attn_logit_softcapping"),
        logit_softcap=fields.get("final_logit_softcapping"),
        **_layer_types(fields, lambda i: bool((i + 1) % every)),
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
        gate=GELU_TANH,
        gated_mlp=False,
        tied_embedding=fields.get("tie_word_embeddings", True),
        qkv_bias=True,
        output_biases=True,
    )


def _gemma2(fields: Fields) -> ModelConfig:
    window = fields.need("sliding_window")
    twin = fields.get("sliding_window_size", window)  # of the first files; never read
    if twin != window:
        raise ValueError(
            f"config.json has sliding_window_size = {twin}, but sliding_window is "
            f"{window}"
        )
    return _gemma(fields, **_rope(fields))


def _gemma3(fields: Fields) -> ModelConfig:
    parameters = fields.get("rope_parameters", {})
    kinds = {"full_attention", "sliding_attention"}
    if set(parameters) - kinds:
        raise ValueError(
            f"config.json has {sorted(set(parameters) - kinds)} in rope_parameters, "
            f"expected {sorted(kinds)}"
        )
    # The old spelling has both bases beside the scaling, which is for full attention.
    far = {
        "rope_theta": fields.get("rope_theta"),
        "max_position_embeddings": fields.get("max_position_embeddings"),
        "rope_parameters": {
            **Fields(parameters).get("full_attention", {}),
            **fields.get("rope_scaling", {}),
        },
    }
    near = _rope(
        Fields(
            {
                "rope_theta": fields.get("rope_local_base_freq"),
                "rope_parameters": Fields(parameters).get("sliding_attention"),
            }
        )
    )
    if near["rope_scaling"] is not None:
        raise ValueError("config.json scales RoPE in layers with a window")
    local = {"local_rope_theta": near["rope_theta"]}
    return _gemma(fields, qk_norm=True, **_rope(Fields(far)), **local)


def _window(fields: Fields) -> dict[str, Any]:
    """Which layers see a window only, and how wide it is."""
    window, count = fields.get("sliding_window"), fields.need("num_hidden_layers")
    _check_kinds(fields.get("layer_types"), count)
    if not fields.get("use_sliding_window", False) or window is None:
        if "sliding_attention" in fields.get("layer_types", ()):
            raise ValueError(
                "config.json has sliding_attention in layer_types, but no window: "
                f"use_sliding_window is {fields.get('use_sliding_window')}, "
                f"sliding_window {window}"
            )
        return {}
    first = fields.need("max_window_layers")
    return _layer_types(fields, lambda i: i >= first)


def _layer_types(fields: Fields, slides: Callable[[int], bool]) -> dict[str, Any]:
    """The layers with a window; `slides` says which where the file does not."""
    count, window = fields.need("num_hidden_layers"), fields.need("sliding_window")
    kinds = fields.get("layer_types")
    if kinds is None:
        names = ("full_attention", "sliding_attention")
        kinds = [names[slides(i)] for i in range(count)]
    _check_kinds(kinds, count)
    layers = [i for i, kind in enumerate(kinds) if kind == "sliding_attention"]
    return {"window": window, "window_layers": tuple(layers)} if layers else {}


def _check_kinds(kinds: Sequence[str] | None, count: int) -> None:
    """There must be one of each layer, and each of a kind there is."""
    known = {"full_attention", "sliding_attention"}
    if kinds is not None and (len(kinds) != count or set(kinds) - known):
        raise ValueError(
            f"config.json has layer_types {kinds}: there must be {count} of "
            f"{', '.join(sorted(known))}"
        )


def _rope(fields: Fields) -> dict[str, Any]:
    """Base of the wavelengths, and how they are stretched."""
    parameters = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    said = Fields(parameters)
    theta = said.get("rope_theta", fields.get("rope_theta", 10_000.0))
    kind = said.get("rope_type", said.get("type", "default"))
    if kind == "llama3" and "original_max_position_embeddings" not in parameters:
        context = fields.need("max_position_embeddings")
        parameters = {**parameters, "original_max_position_embeddings": context}
        said = Fields(parameters)
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
            factor=said.need("factor"),
            low_freq_factor=said.get("low_freq_factor"),
            high_freq_factor=said.get("high_freq_factor"),
            original_positions=said.get("original_max_position_embeddings"),
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


def _defaults(*sizes: int, **more: Any) -> Mapping[str, Any]:
    """Width, MLP width, layers, heads, key-value heads, vocabulary, context; others."""
    names = (
        *("hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "vocab_size"),
        "max_position_embeddings",
    )
    return {**dict(zip(names, sizes, strict=True)), "rms_norm_eps": 1e-6, **more}


_LLAMA_DEFAULTS = {
    **_defaults(4096, 11008, 32, 32, 0, 32_000, 2048),
    "num_key_value_heads": None,
}
_MISTRAL_DEFAULTS = _defaults(
    *(4096, 14336, 32, 32, 8, 32_000, 131_072), sliding_window=4096
)
_QWEN2_DEFAULTS = _defaults(
    *(4096, 22016, 32, 32, 32, 151_936, 32_768),
    sliding_window=4096,
    max_window_layers=28,
)
_QWEN3_DEFAULTS = {**_QWEN2_DEFAULTS, "head_dim": 128}
_GEMMA2_DEFAULTS = _defaults(
    *(2304, 9216, 26, 8, 4, 256_000, 8192),
    head_dim=256,
    query_pre_attn_scalar=256,
    sliding_window=4096,
    sliding_window_pattern=2,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    tie_word_embeddings=True,
)
_GEMMA3_DEFAULTS = {
    **_GEMMA2_DEFAULTS,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "sliding_window_pattern": 6,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "rope_theta": 1_000_000.0,
}

_SILU = {"hidden_act": "silu", "is_encoder_decoder": False}
_NO_BIAS = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1}

_GEMMA_READ = _LLAMA_READ | frozenset(
    """
    query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping sliding_window
    layer_types
    """.split()
)
# The one with an underscore is not read by transformers either.
_GEMMA3_READ = _GEMMA_READ | frozenset(
    "sliding_window_pattern _sliding_window_pattern rope_local_base_freq".split()
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
    "is_encoder_decoder": False, "n_special": 0,
}  # fmt: skip
# Of training, of a classifier's head, of the order of a product, and what the first
# programs noted down.
_GPT2_NOTES = frozenset(
    """
    resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout reorder_and_upcast_attn
    predict_special_tokens output_past _num_labels
    """.split()
)

FAMILIES: dict[str, Family] = {
    "gemma2": Family(
        _gemma2,
        _GEMMA_READ | {"sliding_window_size"},
        {**_GEMMA, "sliding_window_pattern": 2},
        _GEMMA2_DEFAULTS,
    ),
    "gemma3_text": Family(_gemma3, _GEMMA3_READ, _GEMMA, _GEMMA3_DEFAULTS),
    "gpt2": Family(_gpt2, _GPT2_READ | _GPT2_NOTES, _GPT2),
    "llama": Family(_llama, _LLAMA_READ, {**_SILU, **_NO_BIAS}, _LLAMA_DEFAULTS),
    "mistral": Family(
        _mistral,
        _LLAMA_READ | {"sliding_window"},
        {**_SILU, "attention_bias": False},
        _MISTRAL_DEFAULTS,
    ),
    # Qwen2's biases of queries, keys and values are there whatever a file says.
    "qwen2": Family(
        _qwen2,
        _LLAMA_READ | _WINDOW_READ,
        {**_SILU, "attention_bias": False, "use_mrope": False},
        _QWEN2_DEFAULTS,
    ),
    "qwen3": Family(
        _qwen3,
        _LLAMA_READ | _WINDOW_READ,
        {**_SILU, "attention_bias": False},
        _QWEN3_DEFAULTS,
    ),
}
