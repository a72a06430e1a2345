"""A causal decoder whose positions and mask are given, not assumed.

Weights of all layers are stacked on a leading axis, and query, key and value (and
gate and up) are one matrix. So a scan over layers, a loop over them, and a later
decoding loop all read the same parameters.
"""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.models.attention import attend
from rljax.models.config import ModelConfig
from rljax.models.layers import (
    gated_mlp,
    product,
    project,
    rms_norm,
    rope_angles,
    rope_frequencies,
    rotate,
    softcap,
)
from rljax.types import Params


class Decoder(nn.Module):
    """Token ids to hidden states; `unembedding` turns these into logits."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        first_output: int = 0,
    ) -> jax.Array:
        """Hidden states after the last norm.

        A row of `mask` sees only what it is told to, so a packed trie is as good an
        input as a text. Only keys and values are computed in the last layer for the
        positions before `first_output`, since nothing else of them is read.

        Args:
          ids: int32 [B, T].
          positions: int32 [B, T], what RoPE counts; a node's depth, not its place.
          mask: bool [B, T, T], row sees column.
          first_output: first position whose hidden state is wanted.

        Returns:
          float32 [B, T - first_output, D].
        """
        config = self.config
        chex.assert_rank([ids, positions, mask], [2, 2, 3])
        embedding, layers, scale = self._weights()
        x = embed({"embedding": embedding}, ids, config)
        # For layers that see all, and, if there are any, for those with a window.
        seen = views(positions, positions, mask, config)
        step = functools.partial(block, config=config)
        if config.remat:
            step = jax.checkpoint(step, static_argnums=4, prevent_cse=False)
        last = config.num_layers - 1
        if config.scan_layers:
            below = {name: weight[:last] for name, weight in layers.items()}
            slides = jnp.array([i in config.window_layers for i in range(last)], bool)

            def body(x, layer_slides):
                layer, slides = layer_slides
                view = seen[0]
                if seen[1:]:
                    view = jax.tree.map(lambda a, b: jnp.where(slides, b, a), *seen)
                return step(layer, x, *view, 0), None

            x, _ = jax.lax.scan(body, x, (below, slides))
        else:
            for i in range(last):
                layer = {name: weight[i] for name, weight in layers.items()}
                x = step(layer, x, *seen[i in config.window_layers], 0)
        layer = {name: weight[last] for name, weight in layers.items()}
        view = seen[last in config.window_layers]
        x = step(layer, x, *view, first_output)
        return final_norm({"final_norm": scale}, x, config)

    def _weights(self) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
        """Embedding, stacked layers, and the last norm's scale."""
        c = self.config
        dtype = jnp.dtype(c.param_dtype)
        attended, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        # Each layer adds twice to the stream, whose variance should not grow.
        residual = (2 * c.num_layers) ** -0.5
        one = nn.initializers.constant(1.0 - c.norm_offset)
        shapes: dict[str, tuple[Callable[..., jax.Array], tuple[int, ...]]] = {
            "attention_norm": (one, (c.width,)),
            "qkv": (_normal(c.width**-0.5), (c.width, attended + 2 * kv)),
            "out": (_normal(residual * attended**-0.5), (attended, c.width)),
            "mlp_norm": (one, (c.width,)),
            "gate_up": (_normal(c.width**-0.5), (c.width, 2 * c.mlp_width)),
            "down": (_normal(residual * c.mlp_width**-0.5), (c.mlp_width, c.width)),
        }
        if c.qkv_bias:
            shapes["qkv_bias"] = (nn.initializers.zeros, (attended + 2 * kv,))
        if c.qk_norm:
            shapes["q_norm"] = shapes["k_norm"] = (one, (c.head_dim,))
        if c.post_norms:
            shapes["attention_post_norm"] = shapes["mlp_post_norm"] = (one, (c.width,))
        layers = {
            name: self.param(name, init, (c.num_layers, *shape), dtype)
            for name, (init, shape) in shapes.items()
        }
        size = (c.vocab_size, c.width)
        # Tied logits of a normalised state then have variance 1; untied ones start
        # near 0, which is near the uniform distribution.
        std = c.width**-0.5 if c.tied_embedding else 1.0
        embedding = self.param("embedding", _normal(std), size, dtype)
        if not c.tied_embedding:
            init = _normal(0.1 * c.width**-0.5)
            self.param("unembedding", init, size[::-1], dtype)
        final = self.param("final_norm", one, (c.width,), dtype)
        return embedding, layers, final


def layers_of(params: Params) -> dict[str, jax.Array]:
    """The parameters that every layer has a part of, on their leading axis."""
    return {name: weight for name, weight in params.items() if name not in _ONCE}


# What is not a layer's: a scan over layers, or a loop, leaves these alone.
_ONCE = frozenset({"embedding", "unembedding", "final_norm"})


def embed(params: Params, ids: jax.Array, config: ModelConfig) -> jax.Array:
    """The residual stream where it begins.

    Args:
      params: the decoder's parameters, or those of them that are not a layer's.
      ids: int32 [B, T].
      config: its settings.

    Returns:
      [B, T, D] in the type of activations.
    """
    x = params["embedding"][ids].astype(config.activation_dtype)
    return x * jnp.asarray(config.embedding_scale, x.dtype)


def final_norm(params: Params, x: jax.Array, config: ModelConfig) -> jax.Array:
    """Hidden states of the residual stream where it ends, [..., D] in float32."""
    return _norm(x, params["final_norm"], config)


def logits(params: Params, hidden: jax.Array, config: ModelConfig) -> jax.Array:
    """Logits of hidden states.

    Args:
      params: the decoder's parameters.
      hidden: [..., D].
      config: its settings.

    Returns:
      [..., V], float32 at least.
    """
    matrix = unembedding(params, config)
    found = product(hidden, matrix, jax.tree.leaves(matrix)[0].dtype)
    return softcap(found, config.logit_softcap)


def unembedding(params: Params, config: ModelConfig) -> jax.Array:
    """The matrix that turns hidden states into logits, before any cap.

    Args:
      params: the decoder's parameters.
      config: its settings.

    Returns:
      [D, V], in the type of the parameters.
    """
    return params["embedding"].T if config.tied_embedding else params["unembedding"]


def block(
    layer: dict[str, jax.Array],
    x: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    first_output: int,
    config: ModelConfig,
) -> jax.Array:
    """One layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
      layer: this layer's weights, without the leading axis.
      x: [B, T, D], the residual stream.
      angles: cosine and sine of `rope_angles`.
      mask: bool [B, T, T].
      first_output: first position whose result is wanted.
      config: the decoder's settings.

    Returns:
      [B, T - first_output, D].
    """
    q, k, v = queries_keys_values(layer, x, angles, first_output, config)
    seen = mask[:, first_output:]
    attended = attend(q, k, v, seen, config.query_scale, config.attention_softcap)
    return finish(layer, x[:, first_output:], attended, config)


def views(
    positions: jax.Array, of_keys: jax.Array, mask: jax.Array, config: ModelConfig
) -> tuple[tuple[tuple[jax.Array, jax.Array], jax.Array], ...]:
    """Angles and mask of layers that see all, and, if there are any, of the others.

    Distance is that of positions, so a trie's node counts from its depth.

    Args:
      positions: int32 [B, T], of queries; the angles are theirs.
      of_keys: int32 [B, S].
      mask: bool [B, T, S].
      config: the decoder's settings.

    Returns:
      One or two pairs of angles and mask.
    """
    c = config
    turns = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    angles = rope_angles(positions, turns)
    if c.window is None:
        return ((angles, mask),)
    near = mask & (positions[:, :, None] - of_keys[:, None] < c.window)
    if c.local_rope_theta is None:
        return (angles, mask), (angles, near)
    local = rope_angles(positions, rope_frequencies(c.head_dim, c.local_rope_theta))
    return (angles, mask), (local, near)


def queries_keys_values(
    layer: dict[str, jax.Array],
    x: jax.Array,
    angles: tuple[jax.Array, jax.Array],
    first_output: int,
    config: ModelConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three projections of a layer, turned by position.

    Args:
      layer: this layer's weights.
      x: [B, T, D].
      angles: of all T positions.
      first_output: queries start here; keys and values cover all positions.
      config: the decoder's settings.

    Returns:
      q [B, T - first_output, H, head_dim], k and v [B, T, K, head_dim].
    """
    c, dtype = config, config.activation_dtype
    h = _norm(x, layer["attention_norm"], c).astype(dtype)
    split = c.num_heads * c.head_dim
    weight, bias = layer["qkv"], layer.get("qkv_bias")
    if first_output:
        q = project(h[:, first_output:], weight[:, :split], dtype)
        kv = project(h, weight[:, split:], dtype)
    else:
        q, kv = jnp.split(project(h, weight, dtype), [split], axis=-1)
    if bias is not None:
        q, kv = q + bias[:split].astype(dtype), kv + bias[split:].astype(dtype)
    q = q.reshape(*q.shape[:2], c.num_heads, c.head_dim)
    k, v = jnp.split(kv.reshape(*kv.shape[:2], -1, c.head_dim), 2, axis=2)
    if c.qk_norm:
        q = _norm(q, layer["q_norm"], c).astype(dtype)
        k = _norm(k, layer["k_norm"], c).astype(dtype)
    cos, sin = angles
    return (
        rotate(q, cos[:, first_output:], sin[:, first_output:]),
        rotate(k, *angles),
        v,
    )


def finish(
    layer: dict[str, jax.Array],
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
    added = project(attended, layer["out"], dtype)
    if config.post_norms:
        added = _norm(added, layer["attention_post_norm"], config).astype(dtype)
    x = x + added
    h = _norm(x, layer["mlp_norm"], config)
    added = gated_mlp(h, layer["gate_up"], layer["down"], dtype, config.gate)
    if config.post_norms:
        added = _norm(added, layer["mlp_post_norm"], config).astype(dtype)
    return x + added


def _norm(x: jax.Array, scale: jax.Array, config: ModelConfig) -> jax.Array:
    return rms_norm(x, scale + config.norm_offset, config.norm_eps)


def _normal(std: float) -> Callable[..., jax.Array]:
    return nn.initializers.normal(std)
