"""LoRA: small corrections of a frozen model's matrices.

    y = x W + (alpha / rank) (x A) B

W stays as it was loaded; A and B, of `rank` columns and rows, are learnt. An adapter is
a tree of its own, {"q_proj": {"a": [L, I, r], "b": [L, r, O]}, ..}, small enough to be
had several times beside one base (policy, critic, slow copy). `attach` puts an adapter
beside base weights, for the model; `merge` gives ordinary weights that compute the
same. The factor alpha / rank goes into B in both, and both take the `LoraConfig`, so it
can be neither forgotten nor applied twice.

Targets bear the names that PEFT and Hugging Face use. An adapter has a pair for each
site of them: `lora_targets` says which there are and where they lie in fused matrices.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
Shape letters: L layers, I inputs and O outputs of a site, r rank.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rljax.models.layers import project
from rljax.models.lora_targets import (
    KNOWN,
    LLAMA,
    SITES,
    Config,
    Span,
    modules,
    sites_of,
    spans,
    targets,
    targets_of,
)
from rljax.types import Key, Params


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Settings of an adapter; `of` makes them for a model.

    Raises:
      ValueError: for a rank or alpha that is not positive, or a target that is unknown,
        named twice, or missing.
    """

    rank: int = 16
    alpha: float = 32.0  # the correction is times alpha / rank
    targets: tuple[str, ...] = LLAMA  # kept in the order of KNOWN

    def __post_init__(self) -> None:
        for field in ("rank", "alpha"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be > 0")
        wrong = [name for name in self.targets if name not in KNOWN]
        if wrong or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(
                f"targets is {self.targets}; it must be one or more of "
                f"{', '.join(KNOWN)}, each once"
            )
        kept = tuple(name for name in KNOWN if name in self.targets)
        object.__setattr__(self, "targets", kept)

    @property
    def scale(self) -> float:
        """What the product of A and B is multiplied with."""
        return self.alpha / self.rank


def of(
    config: Config, rank: int, alpha: float, wanted: Sequence[str] = ()
) -> LoraConfig:
    """Settings of an adapter for a model.

    Args:
      config: of the model.
      rank: r.
      alpha: the correction is times alpha / rank.
      wanted: targets; none are all that the model has.

    Raises:
      ValueError: as `LoraConfig`, or for a target that the model has not.
    """
    lora = LoraConfig(rank, alpha, tuple(wanted) or targets(config))
    _check_targets(config, lora)
    return lora


def init(key: Key, config: Config, lora: LoraConfig) -> Params:
    """A fresh adapter, which changes nothing: A uniform in +-1/sqrt(I), B zero.

    float32 whatever the base is, so that small steps and slow copies are not rounded
    away. As PEFT draws it.

    Args:
      key: consumed.
      config: of the model.
      lora: of the adapter.

    Returns:
      {site: {"a": float32 [L, I, r], "b": float32 [L, r, O]}}.

    Raises:
      ValueError: for a target that the model has not.
    """
    _check_targets(config, lora)
    there = modules(config)
    sites = [site for site in sites_of(lora.targets) if site in there]
    adapter = {}
    keys = jax.random.split(key, len(sites))
    for key, site in zip(keys, sites, strict=True):
        parts = [spans(config)[part] for part in SITES[site].parts]
        layers, inputs = there[site][1], parts[0].inputs
        edge = inputs**-0.5
        a = jax.random.uniform(
            key, (layers, inputs, lora.rank), minval=-edge, maxval=edge
        )
        b = jnp.zeros((layers, lora.rank, sum(part.outputs for part in parts)))
        adapter[site] = {"a": a, "b": b}
    return adapter


def attach(base: Params, adapter: Params, lora: LoraConfig) -> Params:
    """Base weights with an adapter beside them, as the model reads them.

    No weight of the base is copied or changed; the correction is computed from x, and
    W + A B never is. Gradients go to whichever of the two they are asked for.

    Args:
      base: the model's parameters.
      adapter: as `init` gives it.
      lora: its settings.

    Returns:
      `base` and, for each part of a site, `<part>.a` and `<part>.b`, stacked over
      layers like all weights of layers.

    Raises:
      ValueError: if `adapter` is not one of `lora`, `base` is of another family than
        the adapter, or has one already.
    """
    _check(base, adapter, lora)
    beside = {}
    for site, pair in adapter.items():
        for part, b in _parts(site, pair["b"]).items():
            beside[f"{part}.a"] = pair["a"]
            beside[f"{part}.b"] = lora.scale * b
    return {**base, **beside}


def merge(base: Params, adapter: Params, config: Config, lora: LoraConfig) -> Params:
    """Ordinary weights W + (alpha / rank) A B.

    Summed in float32 at least and rounded to the base's type, so with a bfloat16 base
    the function is equal up to that rounding only.

    Args:
      base: the model's parameters.
      adapter: as `init` gives it.
      config: of the model.
      lora: of the adapter.

    Returns:
      Parameters with the names, shapes and types of `base`.

    Raises:
      ValueError: as `attach`.
    """
    _check(base, adapter, lora)
    merged = dict(base)
    for site, pair in adapter.items():
        for part, b in _parts(site, pair["b"]).items():
            _put(merged, spans(config)[part], pair["a"], b, lora.scale)
    return merged


def fold(whole: Params, config: Config) -> Params:
    """What `attach` put beside weights, added to them; as they are without it.

    A folder of a model has no place for adapters that stand beside its weights.

    Args:
      whole: base weights, with or without an adapter beside them.
      config: of the model.

    Returns:
      Parameters with the names, shapes and types of the base.
    """
    beside = set(names())
    folded = {name: weight for name, weight in whole.items() if name not in beside}
    for part in [name[:-2] for name in whole if name in beside and name[-1] == "a"]:
        _put(folded, spans(config)[part], whole[f"{part}.a"], whole[f"{part}.b"], 1.0)
    return folded


def names() -> tuple[str, ...]:
    """Names under which `attach` may put something beside the base."""
    parts = dict.fromkeys(part for site in SITES.values() for part in site.parts)
    return tuple(f"{part}.{letter}" for part in parts for letter in "ab")


def add(
    layer: dict[str, jax.Array], parts: Sequence[str], x: jax.Array, out: jax.Array
) -> jax.Array:
    """What a layer's adapters add to a product; `out` itself where there are none.

    Args:
      layer: a layer's weights, `<part>.a` [I, r] and `<part>.b` [r, O] among them for
        parts that have an adapter.
      parts: those that `out` holds side by side, of equal width.
      x: [..., I], what was multiplied.
      out: [..., len(parts) * O], in the type of the activations.

    Returns:
      Like `out`.
    """
    if not any(f"{part}.a" in layer for part in parts):
        return out
    columns = jnp.split(out, len(parts), axis=-1)
    for i, part in enumerate(parts):
        if f"{part}.a" in layer:
            inner = project(x, layer[f"{part}.a"], out.dtype)
            columns[i] = columns[i] + project(inner, layer[f"{part}.b"], out.dtype)
    return jnp.concatenate(columns, axis=-1)


def _parts(site: str, b: jax.Array) -> dict[str, jax.Array]:
    """B of a site cut into those of its parts, which are of equal width."""
    parts = SITES[site].parts
    return dict(zip(parts, jnp.split(b, len(parts), axis=-1), strict=True))


def _put(params: Params, span: Span, a: jax.Array, b: jax.Array, scale: float) -> None:
    """Adds scale A B to its columns of a matrix, in float32 at least."""
    weight = params[span.name]
    wide = jnp.promote_types(weight.dtype, jnp.float32)
    product = jnp.matmul(a.astype(wide), b.astype(wide), precision="highest")
    where = (..., slice(span.first, span.first + span.outputs))
    part = (weight[where].astype(wide) + scale * product).astype(weight.dtype)
    params[span.name] = weight.at[where].set(part)


def _check_targets(config: Config, lora: LoraConfig) -> None:
    """Whether the model has all targets of the settings."""
    there = targets(config)
    wrong = [name for name in lora.targets if name not in there]
    if wrong:
        raise ValueError(
            f"targets is {lora.targets}; this model has no {', '.join(wrong)}, but "
            f"{', '.join(there)}"
        )


def _check(base: Params, adapter: Params, lora: LoraConfig) -> None:
    """Whether these three belong together."""
    if any(name in base for name in names()):
        raise ValueError("the base has an adapter already: merge that one first")
    found = {SITES[site].target for site in adapter if site in SITES}
    if found != set(lora.targets) or not adapter.keys() <= SITES.keys():
        raise ValueError(
            f"the adapter has targets {sorted(found) or sorted(adapter)}, its settings "
            f"{sorted(lora.targets)}"
        )
    sites = sites_of(lora.targets)
    if set(sites) != adapter.keys():
        raise ValueError(
            f"the adapter has pairs for {sorted(adapter)}; its targets are "
            f"{sorted(sites)}"
        )
    there = targets_of(base.keys())
    wrong = [name for name in lora.targets if name not in there]
    if wrong:
        raise ValueError(
            f"the adapter has targets {sorted(found)}, and the base has no "
            f"{', '.join(wrong)}, but {', '.join(there)}: it was made for a model of "
            "another family"
        )
    for site, pair in adapter.items():
        ranks = pair["a"].shape[-1], pair["b"].shape[-2]
        if ranks != (lora.rank, lora.rank):
            raise ValueError(
                f"{site} of the adapter has rank {ranks[0]} (A) and {ranks[1]} (B), "
                f"its settings {lora.rank}"
            )
