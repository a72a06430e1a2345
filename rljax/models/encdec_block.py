"""One layer of either stack of an encoder-decoder.

A layer's weights are a dict without the leading axis of layers; an adapter's may lie
among them (`lora.attach`). `encdec` runs layers over whole sequences; `cache_encdec`
calls their parts between reading and writing keys and values.

Shapes: B batch, S prompt tokens, T decoded tokens, D width, H heads.
"""

import jax
import jax.numpy as jnp

from rljax.models import lora
from rljax.models.attention import attend
from rljax.models.encdec_config import EncDecConfig
from rljax.models.layers import project, rms_norm

Layer = dict[str, jax.Array]


def attention(
    layer: Layer,
    x: jax.Array,
    bias: jax.Array,
    mask: jax.Array,
    first_output: int,
    config: EncDecConfig,
) -> jax.Array:
    """x + attention(norm(x)) of a stream to itself.

    Args:
      layer: this layer's weights, without the leading axis.
      x: [B, T, D], the residual stream.
      bias: float32 [B or 1, H, T, T], of `relative_bias`.
      mask: bool [B, T, T].
      first_output: first position whose result is wanted.
      config: the model's settings.

    Returns:
      [B, T - first_output, D].
    """
    q, k, v = queries_keys_values(layer, x, first_output, config)
    mask, bias = mask[:, first_output:], bias[:, :, first_output:]
    attended = attend(q, k, v, mask, scale=1.0, bias=bias)
    return x[:, first_output:] + out(layer, "out", attended, config)


def cross_attention(
    layer: Layer,
    x: jax.Array,
    memory: jax.Array,
    memory_mask: jax.Array,
    config: EncDecConfig,
) -> jax.Array:
    """x + attention(norm(x)) of the decoder's stream to the prompt, at any distance.

    Args:
      layer: this layer's weights.
      x: [B, T, D], the residual stream.
      memory: [B, S, D], from `encode`.
      memory_mask: bool [B, S].
      config: the model's settings.

    Returns:
      [B, T, D].
    """
    q = cross_queries(layer, x, config)
    k, v = cross_keys_values(layer, memory, config)
    seen = jnp.broadcast_to(memory_mask[:, None], (*x.shape[:2], memory.shape[1]))
    return x + out(layer, "cross_out", attend(q, k, v, seen, scale=1.0), config)


def queries_keys_values(
    layer: Layer, x: jax.Array, first_output: int, config: EncDecConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three projections of a stream that attends to itself.

    Args:
      layer: this layer's weights.
      x: [B, T, D].
      first_output: queries start here; keys and values cover all positions.
      config: the model's settings.

    Returns:
      q [B, T - first_output, H, head_dim], k and v [B, T, H, head_dim].
    """
    c, dtype = config, config.activation_dtype
    h = rms_norm(x, layer["attention_norm"], c.norm_eps).astype(dtype)
    weight, split = layer["qkv"], c.num_heads * c.head_dim
    if first_output:
        q = project(h[:, first_output:], weight[:, :split], dtype)
        kv = project(h, weight[:, split:], dtype)
    else:
        q, kv = jnp.split(project(h, weight, dtype), [split], axis=-1)
    q = lora.add(layer, ("q_proj",), h[:, first_output:], q)
    kv = lora.add(layer, ("k_proj", "v_proj"), h, kv)
    k, v = jnp.split(kv, 2, axis=-1)
    return _heads(q, c), _heads(k, c), _heads(v, c)


def cross_queries(layer: Layer, x: jax.Array, config: EncDecConfig) -> jax.Array:
    """What the decoder asks of the prompt.

    Args:
      layer: this layer's weights.
      x: [B, T, D], the residual stream.
      config: the model's settings.

    Returns:
      [B, T, H, head_dim].
    """
    h = rms_norm(x, layer["cross_norm"], config.norm_eps)
    return _heads(_project(layer, "cross_q", h, config), config)


def cross_keys_values(
    layer: Layer, memory: jax.Array, config: EncDecConfig
) -> tuple[jax.Array, jax.Array]:
    """What the prompt answers, the same for all that is decoded after it.

    Args:
      layer: this layer's weights.
      memory: [B, S, D], from `encode`.
      config: the model's settings.

    Returns:
      Two arrays [B, S, H, head_dim].
    """
    k, v = jnp.split(_project(layer, "cross_kv", memory, config), 2, axis=-1)
    return _heads(k, config), _heads(v, config)


def out(layer: Layer, name: str, x: jax.Array, config: EncDecConfig) -> jax.Array:
    """What an attention adds to the stream.

    Args:
      layer: this layer's weights.
      name: of the matrix, "out" or "cross_out".
      x: [B, T, H * head_dim].
      config: the model's settings.

    Returns:
      [B, T, D].
    """
    return _project(layer, name, x, config)


def mlp(layer: Layer, x: jax.Array, config: EncDecConfig) -> jax.Array:
    """x + mlp(norm(x)).

    Args:
      layer: this layer's weights.
      x: [B, T, D], the residual stream.
      config: the model's settings.

    Returns:
      [B, T, D].
    """
    h = rms_norm(x, layer["mlp_norm"], config.norm_eps)
    if config.gated:
        gates, up = jnp.split(_project(layer, "gate_up", h, config), 2, axis=-1)
        inner = config.activation(gates) * up
    else:
        inner = config.activation(_project(layer, "up", h, config))
    return x + _project(layer, "down", inner, config)


# Parts of adapters that are columns of our matrices.
_PARTS = {
    "out": ("o_proj",),
    "cross_q": ("cross_q_proj",),
    "cross_kv": ("cross_k_proj", "cross_v_proj"),
    "cross_out": ("cross_o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "up": ("up_proj",),
    "down": ("down_proj",),
}


def _project(layer: Layer, name: str, x: jax.Array, config: EncDecConfig) -> jax.Array:
    """x W, and what an adapter adds."""
    found = project(x, layer[name], config.activation_dtype)
    return lora.add(layer, _PARTS[name], x, found)


def _heads(x: jax.Array, config: EncDecConfig) -> jax.Array:
    return x.reshape(*x.shape[:2], config.num_heads, config.head_dim)
