"""Our settings as a Hugging Face `config.json`: the inverse of `families`.

A decoder's features say which family computes the same function. What comes out is
read by `families` again and compared, so that a combination no family has is an
error that names it, and never a file that means another model.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rljax.models import families, families_t5
from rljax.models.config import ModelConfig
from rljax.models.encdec_config import EncDecConfig

# Fields that say how we run a model, not what it computes.
RUN_FIELDS = ("scan_layers", "remat", "param_dtype", "dtype")
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


def values_of(config: ModelConfig) -> dict[str, Any]:
    """A `config.json` of the family that has the features of a decoder.

    Args:
      config: the decoder's settings.

    Returns:
      What to write, without the tokens' ids and the type of the weights.

    Raises:
      ValueError: if no family has them all; it names those the nearest one lacks.
    """
    family = _family(config)
    values = _values(config, family)
    differing = differences(values, config)
    if differing:
        raise ValueError(
            "no Hugging Face family has all features of this decoder; the nearest, "
            f"{family}, differs in\n  " + "\n  ".join(differing)
        )
    return values


def differences(
    values: Mapping[str, Any],
    config: ModelConfig | EncDecConfig,
    names: Sequence[str] = (),
) -> list[str]:
    """Where a `config.json` describes another function than a model's.

    Args:
      values: the file, parsed.
      config: the model's settings.
      names: of the tensors beside the file, which T5's settings depend on.

    Returns:
      A line for each field that differs; how a model is run does not count.

    Raises:
      ValueError: if the file cannot be read.
    """
    there: Any
    if isinstance(config, EncDecConfig):
        there = families_t5.config_of(values, names)
    else:
        there = families.config_of(values)
        if config.max_positions is None:  # ours has no limit; a file always has one
            there = dataclasses.replace(there, max_positions=None)
    return [
        f"{field.name}: {ours!r} in the model, {theirs!r} in config.json"
        for field in dataclasses.fields(config)
        if field.name not in RUN_FIELDS
        and (ours := getattr(config, field.name))
        != (theirs := getattr(there, field.name))
    ]


def _family(c: ModelConfig) -> str:
    if c.learned_positions:
        return "gpt2"
    if c.post_norms:
        return "gemma3_text" if c.qk_norm else "gemma2"
    if c.qkv_bias:
        return "qwen2"
    if c.qk_norm:
        return "qwen3"
    return "mistral" if c.window else "llama"


def _values(c: ModelConfig, family: str) -> dict[str, Any]:
    """The file of a family; what it cannot say is found by reading it again."""
    if family == "gpt2":
        return _gpt2_values(c)
    rope = _rope(c)
    values: dict[str, Any] = {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "hidden_size": c.width,
        "intermediate_size": c.mlp_width,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": c.tied_embedding,
        "vocab_size": c.vocab_size,
    }
    # Qwen2 knows no head_dim of its own in some programs: said where it must be.
    if family != "qwen2" or c.head_dim * c.num_heads != c.width:
        values["head_dim"] = c.head_dim
    if c.max_positions is not None:
        values["max_position_embeddings"] = c.max_positions
    if family.startswith("gemma"):
        scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
        values |= {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": _whole(scale**-2),
            "attn_logit_softcapping": c.attention_softcap,
            "final_logit_softcapping": c.logit_softcap,
        }
    else:
        values["hidden_act"] = "silu"
    if family == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": c.local_rope_theta or 10_000.0}
        values["rope_parameters"] = {
            "full_attention": rope,
            "sliding_attention": local,
        }
    if family == "mistral":
        values["sliding_window"] = c.window
    elif family != "llama":
        values |= _windows(c, family)
    return values


def _gpt2_values(c: ModelConfig) -> dict[str, Any]:
    """GPT-2's file, which has names of its own."""
    return {
        "activation_function": "gelu_new",
        "architectures": [_CLASSES["gpt2"]],
        "layer_norm_epsilon": c.norm_eps,
        "model_type": "gpt2",
        "n_embd": c.width,
        "n_head": c.num_heads,
        "n_inner": c.mlp_width,
        "n_layer": c.num_layers,
        "n_positions": c.max_positions,
        "tie_word_embeddings": c.tied_embedding,
        "vocab_size": c.vocab_size,
    }


def _windows(c: ModelConfig, family: str) -> dict[str, Any]:
    """Which layers see a window, and how wide it is."""
    kinds = ("full_attention", "sliding_attention")
    layers = [kinds[i in c.window_layers] for i in range(c.num_layers)]
    found: dict[str, Any] = {"layer_types": layers, "sliding_window": c.window}
    if family.startswith("qwen"):
        found["use_sliding_window"] = c.window is not None
    elif c.window is None:
        found["sliding_window"] = c.max_positions or 4_096  # of no layer
    return found


def _rope(c: ModelConfig) -> dict[str, Any]:
    """RoPE's settings in the newer spelling."""
    scaling = c.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": c.rope_theta}
    found = {"rope_theta": c.rope_theta, "factor": scaling.factor}
    if scaling.original_positions is None:
        return {"rope_type": "linear", **found}
    return {
        "rope_type": "llama3",
        **found,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_positions,
    }


def _whole(x: float) -> float | int:
    """`x`, or the integer that rounding has moved it off."""
    return round(x) if abs(x - round(x)) < 1e-6 * abs(x) else x
