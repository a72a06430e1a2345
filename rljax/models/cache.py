"""Keys and values of the tokens behind, so that a token costs one position.

A cache has a row for each text and a column for each position: column t holds what
position t left, whatever row it is in, so nothing but a row's own position says what
of it is seen. The layers' mathematics is `decoder`'s; what is here is where keys and
values go, and attention of one query over them.

Shape letters: B rows, S columns, P prompt tokens, K key heads, D width, V vocabulary.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.models import block, decoder
from rljax.models.attention import attend, attend_one
from rljax.models.config import ModelConfig
from rljax.models.layers import Turned
from rljax.types import Params


class Weights(NamedTuple):
    """A decoder's parameters laid out for one token at a time, by `arrange`."""

    once: dict[str, Any]  # embedding, what makes logits, the last norm
    layers: tuple[dict[str, Any], ...]  # of each layer, without the layer axis


class Cache(NamedTuple):
    """What every layer keeps of the positions behind."""

    keys: tuple[jax.Array, ...]  # [B, K, head_dim, S] of each layer
    values: tuple[jax.Array, ...]  # [B, K, S, head_dim] of each layer


# What `layers.project` multiplies with, casting it to the type of activations.
_MATRICES = frozenset(["qkv", "out", "gate_up", "up", "down", "cross_q", "cross_out"])


def arrange(params: Params, config: ModelConfig) -> Weights:
    """Takes the layers apart, casts and turns what every token would again.

    A slice of stacked weights inside a loop is copied in every turn of it. One copy
    before the loop costs as much as one turn, and memory for a second model.

    Args:
      params: the decoder's.
      config: its settings.
    """
    layers = decoder.layers_of(params)
    once: dict[str, Any] = {n: w for n, w in params.items() if n not in layers}
    once["unembedding"] = turn(decoder.unembedding(params, config))
    return Weights(once, apart(layers, config.num_layers, config.activation_dtype))


def apart(
    layers: dict[str, jax.Array], count: int, dtype: jnp.dtype
) -> tuple[dict[str, Any], ...]:
    """Each layer's own weights, its matrices cast and turned.

    Args:
      layers: stacked weights by name.
      count: how many layers there are.
      dtype: of activations.

    Raises:
      ValueError: for weights that have not a part for each layer.
    """
    laid: dict[str, Any] = dict(layers)
    for name, weight in layers.items():
        if len(weight) != count:
            raise ValueError(
                f"{name} has a leading axis of {len(weight)}; a part for each of the "
                f"{count} layers was expected"
            )
        if name in _MATRICES:
            laid[name] = turn(weight.astype(dtype))
    return tuple(
        jax.tree.map(lambda weight, i=i: weight[i], laid) for i in range(count)
    )


def turn(weight: jax.Array) -> Any:
    """A matrix, or a stack of them, as products of few rows want it here."""
    return Turned(weight.mT) if jax.default_backend() == "cpu" else weight


def logits(weights: Weights, hidden: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits of hidden states; see `decoder.logits`."""
    untied = dataclasses.replace(config, tied_embedding=False)
    return decoder.logits(weights.once, hidden, untied)


def empty(rows: int, columns: int, config: ModelConfig) -> Cache:
    """A cache of zeros."""
    c, dtype = config, config.activation_dtype
    key = jnp.zeros((rows, c.num_kv_heads, c.head_dim, columns), dtype)
    keys = tuple(jnp.copy(key) for _ in range(c.num_layers))
    return Cache(keys, tuple(key.mT for key in keys))


def resize(cache: Cache, columns: int) -> Cache:
    """A cache with more columns, or with the first of them."""
    return Cache(
        tuple(fit(x, 3, columns) for x in cache.keys),
        tuple(fit(x, 2, columns) for x in cache.values),
    )


def fit(x: jax.Array, axis: int, size: int) -> jax.Array:
    """An array with one axis cut or filled up with zeros to a size."""
    if x.shape[axis] >= size:
        return jax.lax.slice_in_dim(x, 0, size, axis=axis)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths)


def prefill(weights: Weights, ids: jax.Array, config: ModelConfig) -> Cache:
    """Keys and values of prompts.

    Nothing else: the first token after a prompt comes of a `step` with the prompt's
    last one. So the last layer's attention and MLP, and all logits, are spared.

    Args:
      weights: of `arrange`.
      ids: int32 [B, P]; what stands after a prompt's end does not matter.
      config: the decoder's settings.

    Returns:
      A cache of P columns.
    """
    chex.assert_rank(ids, 2)
    b, p = ids.shape
    positions = jnp.broadcast_to(jnp.arange(p), (b, p))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((p, p), bool)), (b, p, p))
    seen = decoder.views(positions, positions, mask, config)
    x = decoder.embed(weights.once, ids, positions, config)
    keys, values = [], []
    for i, layer in enumerate(weights.layers):
        angles, near = seen[i in config.window_layers]
        q, k, v = block.queries_keys_values(layer, x, angles, 0, config)
        keys.append(k.transpose(0, 2, 3, 1))
        values.append(v.transpose(0, 2, 1, 3))
        if i + 1 < len(weights.layers):
            attended = attend(
                q, k, v, near, config.query_scale, config.attention_softcap
            )
            x = block.finish(layer, x, attended, config)
    return Cache(tuple(keys), tuple(values))


def step(
    weights: Weights,
    cache: Cache,
    ids: jax.Array,
    positions: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Cache]:
    """One more token of every row.

    Args:
      weights: of `arrange`.
      cache: holds the positions before; S columns.
      ids: int32 [B].
      positions: int32 [B], of these tokens; a row at S or beyond writes nothing, and
        its result means nothing.
      config: the decoder's settings.

    Returns:
      Hidden states float32 [B, D], and the cache with these tokens.
    """
    chex.assert_rank([ids, positions], [1, 1])
    rows, columns = jnp.arange(len(ids)), jnp.arange(cache.values[0].shape[2])
    at = positions[:, None]
    behind = (columns <= at)[:, None]  # [B, 1, S]
    seen = decoder.views(at, columns[None], behind, config)
    x = decoder.embed(weights.once, ids[:, None], at, config)
    keys, values = [], []
    for i, layer in enumerate(weights.layers):
        angles, near = seen[i in config.window_layers]
        q, k, v = block.queries_keys_values(layer, x, angles, 0, config)
        keys.append(cache.keys[i].at[rows, :, :, positions].set(k[:, 0], mode="drop"))
        values.append(cache.values[i].at[rows, :, positions].set(v[:, 0], mode="drop"))
        attended = attend_one(
            q[:, 0], keys[-1], values[-1], near[:, 0],
            config.query_scale, config.attention_softcap,
        )  # fmt: skip
        x = block.finish(layer, x, attended[:, None], config)
    hidden = block.normalize(weights.once, "final_norm", x[:, 0], config)
    return hidden, Cache(tuple(keys), tuple(values))


def extend(
    weights: Weights,
    cache: Cache,
    ids: jax.Array,
    first: jax.Array,
    config: ModelConfig,
) -> tuple[jax.Array, Cache]:
    """Some more tokens of every row, which are all known, in one pass.

    A row may have fewer than C: those after its last are computed too, and what they
    leave in the cache is overwritten by whoever comes to their positions.

    Args:
      weights: of `arrange`.
      cache: holds the positions before; S columns.
      ids: int32 [B, C].
      first: int32 [B], position of the first of them; what would be at S or beyond is
        not written, and its result means nothing.
      config: the decoder's settings.

    Returns:
      Hidden states float32 [B, C, D], and the cache with these tokens.
    """
    chex.assert_rank([ids, first], [2, 1])
    rows, columns = jnp.arange(len(ids)), jnp.arange(cache.values[0].shape[2])
    at = first[:, None] + jnp.arange(ids.shape[1])
    behind = columns <= at[:, :, None]  # [B, C, S]
    seen = decoder.views(at, columns[None], behind, config)
    x = decoder.embed(weights.once, ids, at, config)
    keys, values = [], []
    into, whole = rows[:, None], slice(None)
    for i, layer in enumerate(weights.layers):
        angles, near = seen[i in config.window_layers]
        q, k, v = block.queries_keys_values(layer, x, angles, 0, config)
        keys.append(cache.keys[i].at[into, whole, whole, at].set(k, mode="drop"))
        values.append(cache.values[i].at[into, whole, at].set(v, mode="drop"))
        attended = attend(
            q, keys[-1].transpose(0, 3, 1, 2), values[-1].transpose(0, 2, 1, 3),
            near, config.query_scale, config.attention_softcap,
        )  # fmt: skip
        x = block.finish(layer, x, attended, config)
    hidden = block.normalize(weights.once, "final_norm", x, config)
    return hidden, Cache(tuple(keys), tuple(values))
