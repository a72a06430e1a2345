"""One layer of a decoder: what becomes of the residual stream.

A layer's weights are a dict without the leading axis of layers; an adapter's may lie
among them (`lora.attach`). The decoder scans these functions, and decoding with a
cache calls them between reading and writing keys and values.
"""

import jax
import jax.numpy as jnp

from rljax.models import lora
from rljax.models.attention import attend, attend_in_order
from rljax.models.config import ModelConfig
from rljax.models.layers import layer_norm, project, rms_norm, rotate

Angles = tuple[jax.Array, jax.Array]  # cosine and sine, of `rope_angles`
Layer = dict[str, jax.Array]


def block(
    layer: Layer,
    x: jax.Array,
    angles: Angles | None,
    mask: jax.Array,
    first_output: int,
    config: ModelConfig,
    in_order: bool = False,
) -> jax.Array:
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
      layer: this layer's weights, without the leading axis.
      x: [B, T, D], the residual stream.
      angles: cosine and sine of `rope_angles`; None where positions are learned.
      mask: bool [B, T, T].
      first_output: first position whose result is wanted.
      config: the decoder's settings.
      in_order: the mask shows nobody a later column, and the work for these is saved.

    Returns:
      [B, T - first_output, D].
    """
    q, k, v = queries_keys_values(layer, x, angles, first_output, config)
    seen = mask[:, first_output:]
    see = attend_in_order if in_order else attend
    attended = see(q, k, v, seen, config.query_scale, config.attention_softcap)
    return finish(layer, x[:, first_output:], attended, config)


def queries_keys_values(
    layer: Layer,
    x: jax.Array,
    angles: Angles | None,
    first_output: int,
    config: ModelConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three projections of a layer, turned by position.

    Args:
      layer: this layer's weights.
      x: [B, T, D].
      angles: of all T positions; None where nothing is turned.
      first_output: queries start here; keys and values cover all positions.
      config: the decoder's settings.

    Returns:
      q [B, T - first_output, H, head_dim], k and v [B, T, K, head_dim].
    """
    c, dtype = config, config.activation_dtype
    h = normalize(layer, "attention_norm", x, c).astype(dtype)
    split = c.num_heads * c.head_dim
    weight, bias = layer["qkv"], layer.get("qkv_bias")
    if first_output:
        q = project(h[:, first_output:], weight[:, :split], dtype)
        kv = project(h, weight[:, split:], dtype)
    else:
        q, kv = jnp.split(project(h, weight, dtype), [split], axis=-1)
    q = lora.add(layer, ("q_proj",), h[:, first_output:], q)
    kv = lora.add(layer, ("k_proj", "v_proj"), h, kv)
    if bias is not None:
        q, kv = q + bias[:split].astype(dtype), kv + bias[split:].astype(dtype)
    q = q.reshape(*q.shape[:2], c.num_heads, c.head_dim)
    k, v = jnp.split(kv.reshape(*kv.shape[:2], -1, c.head_dim), 2, axis=2)
    if c.qk_norm:
        q = normalize(layer, "q_norm", q, c).astype(dtype)
        k = normalize(layer, "k_norm", k, c).astype(dtype)
    if angles is None:
        return q, k, v
    cos, sin = angles
    return (
        rotate(q, cos[:, first_output:], sin[:, first_output:]),
        rotate(k, *angles),
        v,
    )


def finish(
    layer: Layer,
    x: jax.Array,
    attended: jax.Array,
    config: ModelConfig,
) -> jax.Array:
    """The rest of a layer after its attention.

    Args:
      layer: this layer's weights.
      x: [B, T, D], the residual stream the layer was given.
      attended: [B, T, H * head_dim].
      config: the decoder's settings.

    Returns:
      [B, T, D].
    """
    dtype = config.activation_dtype
    added = _project(layer, "out", attended, config)
    if config.post_norms:
        added = normalize(layer, "attention_post_norm", added, config).astype(dtype)
    x = x + added
    added = _mlp(layer, normalize(layer, "mlp_norm", x, config), config)
    if config.post_norms:
        added = normalize(layer, "mlp_post_norm", added, config).astype(dtype)
    return x + added


def _mlp(layer: Layer, h: jax.Array, config: ModelConfig) -> jax.Array:
    """gate(x W_gate) * x W_up, or gate(x W_up), then W_down."""
    if config.gated_mlp:
        gates, up = jnp.split(_project(layer, "gate_up", h, config), 2, axis=-1)
        inner = config.gate(gates) * up
    else:
        inner = config.gate(_project(layer, "up", h, config))
    return _project(layer, "down", inner, config)


# Parts of adapters that are columns of our matrices.
_PARTS = {
    "out": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "up": ("up_proj",),
    "down": ("down_proj",),
}


def _project(layer: Layer, name: str, x: jax.Array, config: ModelConfig) -> jax.Array:
    """x W, what an adapter adds, and the bias where there is one."""
    dtype = config.activation_dtype
    found = lora.add(layer, _PARTS[name], x, project(x, layer[name], dtype))
    bias = layer.get(f"{name}_bias")
    return found if bias is None else found + bias.astype(dtype)


def normalize(params: Layer, name: str, x: jax.Array, config: ModelConfig) -> jax.Array:
    """The norm of that name.

    Args:
      params: weights among which its scale and bias are.
      name: of the scale.
      x: [..., D].
      config: the decoder's settings.

    Returns:
      [..., D], float32 or wider.
    """
    scale = params[name]
    if config.norm_offset:  # in float32: 1 + w has few of w's bits in a narrow type
        wide = jnp.promote_types(scale.dtype, jnp.float32)
        scale = scale.astype(wide) + config.norm_offset
    if config.layer_norm:
        return layer_norm(x, scale, params[f"{name}_bias"], config.norm_eps)
    return rms_norm(x, scale, config.norm_eps)
