"""An encoder-decoder one token at a time: `cache` for the T5 family.

The encoder reads a prompt once. Of what it makes of it, each layer of the decoder wants
keys and values, which are computed once too and stay in the cache as they are, beside
keys and values of the tokens decoded so far. What is decoded is few columns: it begins
with the start token at position 0, whatever the length of the prompt.

Shape letters: B rows, S columns, P prompt tokens, H heads, D width.
"""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.models import encdec
from rljax.models import encdec_block as block
from rljax.models.attention import attend_one
from rljax.models.cache import apart, fit, turn
from rljax.models.encdec_config import EncDecConfig
from rljax.models.layers import rms_norm
from rljax.models.relative_bias import relative_bias
from rljax.types import Params


class Weights(NamedTuple):
    """A model's parameters laid out for one token at a time, by `arrange`."""

    encoder: Params  # what `encdec.encode` reads, as the learner has it
    once: dict[str, Any]  # the decoder's: embedding, what makes logits, bias, last norm
    layers: tuple[dict[str, Any], ...]  # of each layer of the decoder


class Cache(NamedTuple):
    """What every layer of the decoder keeps of the prompt and the positions behind."""

    keys: tuple[jax.Array, ...]  # [B, H, head_dim, S] of each layer
    values: tuple[jax.Array, ...]  # [B, H, S, head_dim]
    cross_keys: tuple[jax.Array, ...]  # [B, H, head_dim, P], of the prompt
    cross_values: tuple[jax.Array, ...]  # [B, H, P, head_dim]
    length: jax.Array  # int32 [B, 1, 1, 1], of the prompt


def arrange(params: Params, config: EncDecConfig) -> Weights:
    """Takes the decoder's layers apart; see `cache.arrange`.

    Args:
      params: the model's.
      config: its settings.
    """
    layers, table, scale = encdec.stack_of(params, "decoder")
    once = {
        "embedding": params["embedding"],
        "unembedding": turn(encdec.unembedding(params, config)),
        "relative_bias": table,
        "final_norm": scale,
    }
    encoder = {n: w for n, w in params.items() if n.startswith("encoder_")}
    encoder["embedding"] = params["embedding"]
    count, dtype = config.num_decoder_layers, config.activation_dtype
    return Weights(encoder, once, apart(layers, count, dtype))


def logits(weights: Weights, hidden: jax.Array, config: EncDecConfig) -> jax.Array:
    """Logits of hidden states; see `encdec.logits`."""
    untied = dataclasses.replace(config, tied_embedding=False)
    return encdec.logits(weights.once, hidden, untied)


def empty(rows: int, columns: int, prompt: int, config: EncDecConfig) -> Cache:
    """A cache of zeros, its prompts one token long.

    Args:
      rows: B.
      columns: S.
      prompt: P.
      config: the model's settings.
    """
    c = config

    def zeros(size):
        shape = (rows, c.num_heads, c.head_dim, size)
        return tuple(
            jnp.zeros(shape, c.activation_dtype) for _ in range(c.num_decoder_layers)
        )

    own, cross = zeros(columns), zeros(prompt)
    length = jnp.ones((rows, 1, 1, 1), jnp.int32)
    return Cache(
        own, tuple(x.mT for x in own), cross, tuple(x.mT for x in cross), length
    )


def resize(cache: Cache, columns: int) -> Cache:
    """A cache with more columns, or with the first of them."""
    return cache._replace(
        keys=tuple(fit(x, 3, columns) for x in cache.keys),
        values=tuple(fit(x, 2, columns) for x in cache.values),
    )


def prefill(
    weights: Weights, ids: jax.Array, length: jax.Array, config: EncDecConfig
) -> Cache:
    """Prompts read by the encoder, and by the decoder's layers as far as they go.

    Args:
      weights: of `arrange`.
      ids: int32 [B, P]; what stands after a prompt's end does not matter.
      length: int32 [B], of prompts, at least 1.
      config: the model's settings.

    Returns:
      A cache without any column: nothing is decoded yet.
    """
    chex.assert_rank([ids, length], [2, 1])
    real = jnp.arange(ids.shape[1]) < length[:, None]
    memory = encdec.encode(weights.encoder, ids, real, config)
    found = empty(len(ids), 0, 0, config)
    keys, values = [], []
    for layer in weights.layers:
        k, v = block.cross_keys_values(layer, memory, config)
        keys.append(k.transpose(0, 2, 3, 1))
        values.append(v.transpose(0, 2, 1, 3))
    return found._replace(
        cross_keys=tuple(keys),
        cross_values=tuple(values),
        length=length[:, None, None, None],
    )


def step(
    weights: Weights,
    cache: Cache,
    ids: jax.Array,
    positions: jax.Array,
    config: EncDecConfig,
) -> tuple[jax.Array, Cache]:
    """One more token of every row.

    Args:
      weights: of `arrange`.
      cache: holds the positions before, and the prompts; S columns.
      ids: int32 [B], the start token at position 0.
      positions: int32 [B], of these tokens; a row at S or beyond writes nothing, and
        its result means nothing.
      config: the model's settings.

    Returns:
      Hidden states float32 [B, D], and the cache with these tokens.
    """
    chex.assert_rank([ids, positions], [1, 1])
    c, once = config, weights.once
    rows, columns = jnp.arange(len(ids)), jnp.arange(cache.values[0].shape[2])
    at = positions[:, None]
    behind = columns <= at
    bias = relative_bias(
        once["relative_bias"], at, False, c.max_distance, columns[None]
    )[:, :, 0]
    prompt = jnp.arange(cache.cross_values[0].shape[2]) < cache.length[:, 0, 0]
    x = once["embedding"][ids[:, None]].astype(c.activation_dtype)
    keys, values = [], []
    for i, layer in enumerate(weights.layers):
        q, k, v = block.queries_keys_values(layer, x, 0, c)
        keys.append(cache.keys[i].at[rows, :, :, positions].set(k[:, 0], mode="drop"))
        values.append(cache.values[i].at[rows, :, positions].set(v[:, 0], mode="drop"))
        attended = attend_one(q[:, 0], keys[-1], values[-1], behind, 1.0, bias=bias)
        x = x + block.out(layer, "out", attended[:, None], c)
        q = block.cross_queries(layer, x, c)[:, 0]
        of_prompt = cache.cross_keys[i], cache.cross_values[i]
        attended = attend_one(q, *of_prompt, prompt, 1.0)
        x = x + block.out(layer, "cross_out", attended[:, None], c)
        x = block.mlp(layer, x, c)
    hidden = rms_norm(x[:, 0], once["final_norm"], c.norm_eps)
    return hidden, cache._replace(keys=tuple(keys), values=tuple(values))
