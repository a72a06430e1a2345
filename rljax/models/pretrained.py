"""Weights of a Hugging Face folder, put into our parameters one tensor at a time.

Our layers are stacked and some of their matrices fused, so a tensor of the file is a
part of one of ours: a layer of it, some of its columns, turned round (the files hold
[outputs, inputs]). `Place` says which. Who wants them elsewhere than on the first
device passes a `place` of their own.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from rljax.models.config import ModelConfig


class Place(NamedTuple):
    """Where a tensor of a file goes in our parameters."""

    name: str  # parameter
    layer: int | None  # of the leading axis; None where it has none
    columns: tuple[int, int]  # of the last axis
    turned: bool  # the file holds the transpose


Put = Callable[[Place, np.ndarray], None]


def places(config: ModelConfig) -> dict[str, Place]:
    """Where each tensor of a file goes.

    Args:
      config: of the model.

    Returns:
      Name in the file -> place.
    """
    c = config
    if c.learned_positions:
        return _gpt2_places(c)
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    spans = {"q": (0, q), "k": (q, q + kv), "v": (q + kv, q + 2 * kv)}
    found = {
        "model.embed_tokens.weight": Place("embedding", None, (0, c.width), False),
        "model.norm.weight": Place("final_norm", None, (0, c.width), False),
    }
    if not c.tied_embedding:
        found["lm_head.weight"] = Place("unembedding", None, (0, c.vocab_size), True)
    for i in range(c.num_layers):
        ours = {
            "input_layernorm.weight": ("attention_norm", (0, c.width), False),
            "self_attn.o_proj.weight": ("out", (0, c.width), True),
            "mlp.gate_proj.weight": ("gate_up", (0, c.mlp_width), True),
            "mlp.up_proj.weight": ("gate_up", (c.mlp_width, 2 * c.mlp_width), True),
            "mlp.down_proj.weight": ("down", (0, c.width), True),
        }
        norms = {"post_attention_layernorm": "mlp_norm"}
        if c.post_norms:
            norms = {
                "post_attention_layernorm": "attention_post_norm",
                "pre_feedforward_layernorm": "mlp_norm",
                "post_feedforward_layernorm": "mlp_post_norm",
            }
        for theirs, name in norms.items():
            ours[f"{theirs}.weight"] = (name, (0, c.width), False)
        for letter, span in spans.items():
            ours[f"self_attn.{letter}_proj.weight"] = ("qkv", span, True)
            if c.qkv_bias:
                ours[f"self_attn.{letter}_proj.bias"] = ("qkv_bias", span, False)
        if c.qk_norm:
            for letter in "qk":
                name = f"self_attn.{letter}_norm.weight"
                ours[name] = (f"{letter}_norm", (0, c.head_dim), False)
        for name, (target, span, turned) in ours.items():
            found[f"model.layers.{i}.{name}"] = Place(target, i, span, turned)
    return found


def _gpt2_places(c: ModelConfig) -> dict[str, Place]:
    """GPT-2's names; its files hold [inputs, outputs], and q, k, v in one."""
    wide = c.num_heads * c.head_dim
    found = {
        "transformer.wte.weight": Place("embedding", None, (0, c.width), False),
        "transformer.wpe.weight": Place(
            "position_embedding", None, (0, c.width), False
        ),
        "transformer.ln_f.weight": Place("final_norm", None, (0, c.width), False),
        "transformer.ln_f.bias": Place("final_norm_bias", None, (0, c.width), False),
    }
    if not c.tied_embedding:
        found["lm_head.weight"] = Place("unembedding", None, (0, c.vocab_size), True)
    sizes = {
        "ln_1": ("attention_norm", c.width),
        "attn.c_attn": ("qkv", 3 * wide),
        "attn.c_proj": ("out", c.width),
        "ln_2": ("mlp_norm", c.width),
        "mlp.c_fc": ("up", c.mlp_width),
        "mlp.c_proj": ("down", c.width),
    }
    for i in range(c.num_layers):
        for name, (ours, size) in sizes.items():
            stem = f"transformer.h.{i}.{name}"
            found[f"{stem}.weight"] = Place(ours, i, (0, size), False)
            found[f"{stem}.bias"] = Place(f"{ours}_bias", i, (0, size), False)
    return found


def copies(config: ModelConfig) -> dict[str, str]:
    """Tensors a Llama-like file may hold beside the one they must equal.

    Args:
      config: of the model.

    Returns:
      Name in the file -> name of the tensor it copies.
    """
    if not config.tied_embedding:
        return {}
    gpt2 = config.learned_positions
    stem = "transformer.wte" if gpt2 else "model.embed_tokens"
    return {"lm_head.weight": f"{stem}.weight"}


# Tensors some files hold that compute nothing of their own: tables of RoPE, GPT-2's
# triangular masks.
_DERIVED = re.compile(r".*(rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$")


def load(
    tensors: Iterable[tuple[str, np.ndarray]],
    wanted: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    put: Put,
    same_as: Mapping[str, str] | None = None,
    unused: Collection[str] = (),
) -> None:
    """Puts every tensor where it belongs.

    Args:
      tensors: names and arrays, as `safetensors_files.tensors` gives them.
      wanted: where each goes, as `places` says; all must be there.
      shapes: of our parameters, by name.
      put: takes each part, turned our way.
      same_as: tensors that may be there, and which of the wanted they must equal.
      unused: tensors that may be there and compute nothing.

    Raises:
      ValueError: listing tensors that are missing, not expected, misshapen, or not
        the copies they should be.
    """
    same_as = same_as or {}
    missing = set(wanted)
    faults = []
    held: dict[str, np.ndarray] = {}  # copies, and what they copy
    for name, array in tensors:
        if _DERIVED.match(name) or name in unused:
            continue
        if name in same_as or name in same_as.values():
            held[name] = array
        if name in same_as:
            continue
        if name not in wanted:
            faults.append(f"{name} {array.shape} is not a part of this model")
            continue
        place = wanted[name]
        shape = _shape(place, shapes)
        found = array.shape[::-1] if place.turned else array.shape
        if found != shape:
            expected = shape[::-1] if place.turned else shape
            faults.append(f"{name} has shape {array.shape}, expected {expected}")
        elif not faults:
            put(place, array.T if place.turned else array)
        missing.discard(name)
    faults += [f"{name} is missing" for name in sorted(missing)]
    faults += [
        f"{name} differs from {same_as[name]}, which config.json says it equals"
        for name in sorted(set(held) & set(same_as))
        if same_as[name] in held and not np.array_equal(held[name], held[same_as[name]])
    ]
    if faults:
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(
            "the weights do not fit the model:\n  " + "\n  ".join(faults[:20]) + more
        )


def _shape(place: Place, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    whole = shapes[place.name][1:] if place.layer is not None else shapes[place.name]
    return (*whole[:-1], place.columns[1] - place.columns[0])
