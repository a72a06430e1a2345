"""LoRA: small corrections of a frozen decoder's matrices.

    y = x W + (alpha / rank) (x A) B

W stays as it was loaded; A and B, of `rank` columns and rows, are learnt. An adapter is
a tree of its own, {"q_proj": {"a": [L, I, r], "b": [L, r, O]}, ..}, small enough to be
had several times beside one base (policy, critic, slow copy). `attach` puts an adapter
beside base weights, for the decoder; `merge` gives ordinary weights that compute the
same. The factor alpha / rank goes into B in both, and both take the `LoraConfig`, so it
can be neither forgotten nor applied twice.

Targets bear the names that PEFT and Hugging Face use; of our fused matrices, q_proj,
k_proj and v_proj are columns of `qkv`, gate_proj and up_proj of `gate_up`.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
Shape letters: L layers, I inputs and O outputs of a target, r rank.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.config import ModelConfig
from rljax.models.layers import project
from rljax.types import Key, Params

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGETS = ATTENTION + MLP


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Settings of an adapter.

    Raises:
      ValueError: for a rank or alpha that is not positive, or a target that is unknown,
        named twice, or missing.
    """

    rank: int = 16
    alpha: float = 32.0  # the correction is times alpha / rank
    targets: tuple[str, ...] = TARGETS  # kept in the order of TARGETS

    def __post_init__(self) -> None:
        for field in ("rank", "alpha"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be > 0")
        wrong = [name for name in self.targets if name not in TARGETS]
        if wrong or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"targets is {self.targets}; it must be one or more of "
                f"{', '.join(TARGETS)}, each once"
            )
        kept = tuple(name for name in TARGETS if name in self.targets)
        object.__setattr__(self, "targets", kept)

    @property
    def scale(self) -> float:
        """What the product of A and B is multiplied with."""
        return self.alpha / self.rank


class Span(NamedTuple):
    """Where a target lies in the decoder's parameters."""

    name: str  # parameter
    first: int  # column of it
    inputs: int  # I
    outputs: int  # O


def spans(config: ModelConfig) -> dict[str, Span]:
    """Where each target lies.

    Args:
      config: of the decoder.

    Returns:
      Target -> span.

    Raises:
      ValueError: for a decoder whose MLP has no gate, such as GPT-2.
    """
    c = config
    if not c.gated_mlp:
        raise ValueError("adapters beside an MLP without a gate are not implemented")
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {
        "q_proj": Span("qkv", 0, c.width, q),
        "k_proj": Span("qkv", q, c.width, kv),
        "v_proj": Span("qkv", q + kv, c.width, kv),
        "o_proj": Span("out", 0, q, c.width),
        "gate_proj": Span("gate_up", 0, c.width, c.mlp_width),
        "up_proj": Span("gate_up", c.mlp_width, c.width, c.mlp_width),
        "down_proj": Span("down", 0, c.mlp_width, c.width),
    }


def init(key: Key, config: ModelConfig, lora: LoraConfig) -> Params:
    """A fresh adapter, which changes nothing: A uniform in +-1/sqrt(I), B zero.

    float32 whatever the base is, so that small steps and slow copies are not rounded
    away. As PEFT draws it.

    Args:
      key: consumed.
      config: of the decoder.
      lora: of the adapter.

    Returns:
      {target: {"a": float32 [L, I, r], "b": float32 [L, r, O]}}.
    """
    layers, rank = config.num_layers, lora.rank
    keys = jax.random.split(key, len(lora.targets))
    adapter = {}
    for key, target in zip(keys, lora.targets, strict=True):
        span = spans(config)[target]
        edge = span.inputs**-0.5
        a = jax.random.uniform(
            key, (layers, span.inputs, rank), minval=-edge, maxval=edge
        )
        adapter[target] = {"a": a, "b": jnp.zeros((layers, rank, span.outputs))}
    return adapter


def attach(base: Params, adapter: Params, lora: LoraConfig) -> Params:
    """Base weights with an adapter beside them, as the decoder reads them.

    No weight of the base is copied or changed; the correction is computed from x, and
    W + A B never is. Gradients go to whichever of the two they are asked for.

    Args:
      base: the decoder's parameters.
      adapter: as `init` gives it.
      lora: its settings.

    Returns:
      `base` and, for each target, `<target>.a` and `<target>.b`, stacked over layers
      like all weights of layers.

    Raises:
      ValueError: if `adapter` is not one of `lora`, or `base` has an adapter already.
    """
    _check(base, adapter, lora)
    beside = {}
    for target, pair in adapter.items():
        beside[f"{target}.a"] = pair["a"]
        beside[f"{target}.b"] = lora.scale * pair["b"]
    return {**base, **beside}


def merge(
    base: Params, adapter: Params, config: ModelConfig, lora: LoraConfig
) -> Params:
    """Ordinary weights W + (alpha / rank) A B.

    Summed in float32 at least and rounded to the base's type, so with a bfloat16 base
    the function is equal up to that rounding only.

    Args:
      base: the decoder's parameters.
      adapter: as `init` gives it.
      config: of the decoder.
      lora: of the adapter.

    Returns:
      Parameters with the names, shapes and types of `base`.

    Raises:
      ValueError: as `attach`.
    """
    _check(base, adapter, lora)
    merged = dict(base)
    for target, pair in adapter.items():
        span, weight = spans(config)[target], merged[spans(config)[target].name]
        wide = jnp.promote_types(weight.dtype, jnp.float32)
        more = lora.scale * jnp.matmul(
            pair["a"].astype(wide), pair["b"].astype(wide), precision="highest"
        )
        where = (..., slice(span.first, span.first + span.outputs))
        part = (weight[where].astype(wide) + more).astype(weight.dtype)
        merged[span.name] = weight.at[where].set(part)
    return merged


def fold(whole: Params, config: ModelConfig) -> Params:
    """What `attach` put beside weights, added to them; as they are without it.

    A folder of a model has no place for adapters that stand beside its weights.

    Args:
      whole: base weights, with or without an adapter beside them.
      config: of the decoder.

    Returns:
      Parameters with the names, shapes and types of the base.
    """
    beside = set(names())
    folded = {name: weight for name, weight in whole.items() if name not in beside}
    for target in [name[:-2] for name in whole if name in beside and name[-1] == "a"]:
        span = spans(config)[target]
        weight = folded[span.name]
        wide = jnp.promote_types(weight.dtype, jnp.float32)
        a, b = (whole[f"{target}.{part}"].astype(wide) for part in "ab")
        where = (..., slice(span.first, span.first + span.outputs))
        more = jnp.matmul(a, b, precision="highest")
        part = (weight[where].astype(wide) + more).astype(weight.dtype)
        folded[span.name] = weight.at[where].set(part)
    return folded


def names() -> tuple[str, ...]:
    """Names under which `attach` may put something beside the base."""
    return tuple(f"{target}.{part}" for target in TARGETS for part in "ab")


def add(
    layer: dict[str, jax.Array], targets: Sequence[str], x: jax.Array, out: jax.Array
) -> jax.Array:
    """What a layer's adapters add to a product; `out` itself where there are none.

    Args:
      layer: a layer's weights, `<target>.a` [I, r] and `<target>.b` [r, O] among them
        for targets that have an adapter.
      targets: those that `out` holds side by side, of equal width.
      x: [..., I], what was multiplied.
      out: [..., len(targets) * O], in the type of the activations.

    Returns:
      Like `out`.
    """
    if not any(f"{target}.a" in layer for target in targets):
        return out
    parts = jnp.split(out, len(targets), axis=-1)
    for i, target in enumerate(targets):
        if f"{target}.a" in layer:
            inner = project(x, layer[f"{target}.a"], out.dtype)
            parts[i] = parts[i] + project(inner, layer[f"{target}.b"], out.dtype)
    return jnp.concatenate(parts, axis=-1)


def _check(base: Params, adapter: Params, lora: LoraConfig) -> None:
    """Whether these three belong together."""
    if any(name in base for name in names()):
        raise ValueError("the base has an adapter already: merge that one first")
    if set(adapter) != set(lora.targets):
        raise ValueError(
            f"the adapter has targets {sorted(adapter)}, its settings "
            f"{sorted(lora.targets)}"
        )
    for target, pair in adapter.items():
        ranks = pair["a"].shape[-1], pair["b"].shape[-2]
        if ranks != (lora.rank, lora.rank):
            raise ValueError(
                f"{target} of the adapter has rank {ranks[0]} (A) and {ranks[1]} (B), "
                f"its settings {lora.rank}"
            )
