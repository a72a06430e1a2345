"""Weights of a Hugging Face folder, put into our parameters one tensor at a time.

Our layers are stacked and some of their matrices fused, so a tensor of the file is a
part of one of ours: a layer of it, some of its columns, turned round (the files hold
[outputs, inputs]). `Place` says which. Who wants them elsewhere than on the first
device passes a `place` of their own.
"""

import collections
import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
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
    """Tensors a Llama-like file may hold beside, or instead of, the one they equal.

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


def spelling(config: ModelConfig, names: Collection[str]) -> Callable[[str], str]:
    """What turns a file's names into those of `places`.

    Args:
      config: of the model.
      names: of the tensors in the file. The hub's own GPT-2 was saved without the
        `transformer.` that transformers puts before all but the unembedding.

    Returns:
      Name in the file -> name in `places`.
    """
    if not config.learned_positions or "wte.weight" not in names:
        return str
    return lambda name: name if name == "lm_head.weight" else f"transformer.{name}"


# Tensors some files hold that compute nothing of their own: tables of RoPE, GPT-2's
# triangular masks.
_DERIVED = re.compile(r".*(rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$")
_ROWS = 4096  # that are looked at together when two tensors are compared


def load(
    tensors: Iterable[tuple[str, np.ndarray]],
    wanted: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    put: Put,
    same_as: Mapping[str, str] | None = None,
    unused: Collection[str] = (),
) -> None:
    """Puts every tensor where it belongs.

    Of a tensor and its copies one is enough. If there are more they must hold the same
    values; these are compared by a digest, so that two are never in memory together.

    Args:
      tensors: names and arrays, as `safetensors_files.tensors` gives them.
      wanted: where each goes, as `places` says; all must be there.
      shapes: of our parameters, by name.
      put: takes each part, turned our way, once.
      same_as: tensors that may be there, and which of the wanted they must equal.
      unused: tensors that may be there and compute nothing.

    Raises:
      ValueError: listing tensors that are missing, not expected, misshapen, there
        twice, or not equal to what they are tied to.
    """
    same_as = same_as or {}
    wanted = {**wanted, **{copy: wanted[name] for copy, name in same_as.items()}}
    counts = collections.Counter(wanted.values())
    filled: dict[Place, tuple[str, bytes]] = {}  # by whom, and its digest if tied
    seen: set[str] = set()
    faults = []
    for name, array in tensors:
        if name in unused or _DERIVED.match(name):
            continue
        fault = _fault(name, array, wanted, shapes, seen)
        seen.add(name)
        if fault:
            faults.append(fault)
            continue
        place = wanted[name]
        digest = _digest(array) if counts[place] > 1 else b""
        if place in filled:
            first, expected = filled[place]
            if digest != expected:
                faults.append(
                    f"{name} differs from {first}, which config.json says it equals"
                )
            continue
        filled[place] = name, digest
        if not faults:
            put(place, array.T if place.turned else array)
    satisfied = {wanted[name] for name in seen if name in wanted}
    for name, place in wanted.items():
        if place not in satisfied:
            faults.append(f"{name} is missing")
            satisfied.add(place)
    if faults:
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(
            "the weights do not fit the model:\n  " + "\n  ".join(faults[:20]) + more
        )


def _fault(
    name: str,
    array: np.ndarray,
    wanted: Mapping[str, Place],
    shapes: Mapping[str, tuple[int, ...]],
    seen: set[str],
) -> str:
    """What is wrong with a tensor, taken by itself; empty if nothing."""
    if name not in wanted:
        return f"{name} {array.shape} is not a part of this model"
    if name in seen:
        return f"{name} comes twice"
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{name} has type {array.dtype}, expected floating point"
    place = wanted[name]
    shape = shape_of(place, shapes)
    expected = shape[::-1] if place.turned else shape
    if array.shape != expected:
        return f"{name} has shape {array.shape}, expected {expected}"
    return ""


def _digest(array: np.ndarray) -> bytes:
    """The same for equal values, in whichever type up to float32 they are stored."""
    state = hashlib.blake2b()
    for i in range(0, len(array), _ROWS):
        state.update(array[i : i + _ROWS].astype(np.float32).tobytes())
    return state.digest()


def shape_of(place: Place, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of the part of a parameter that a place is.

    Args:
      place: which.
      shapes: of our parameters, by name.
    """
    whole = shapes[place.name][1:] if place.layer is not None else shapes[place.name]
    return (*whole[:-1], place.columns[1] - place.columns[0])
