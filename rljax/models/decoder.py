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
import numpy as np

from rljax.models import lora
from rljax.models.block import Angles, block, normalize
from rljax.models.config import ModelConfig
from rljax.models.layers import product, rope_angles, rope_frequencies, softcap
from rljax.types import Params

View = tuple[Angles | None, jax.Array]  # what a layer turns by, and its mask


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
        in_order: bool = False,
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
          in_order: no row of `mask` sees a column after its own; attention then leaves
            out most of those, see `attention.attend_in_order`.

        Returns:
          float32 [B, T - first_output, D].
        """
        config = self.config
        chex.assert_rank([ids, positions, mask], [2, 2, 3])
        top, layers = self._weights()
        beside = [name for name in lora.names() if self.has_variable("params", name)]
        layers |= {name: self.get_variable("params", name) for name in beside}
        x = embed(top, ids, positions, config)
        # For layers that see all, and, if there are any, for those with a window.
        seen = views(positions, positions, mask, config)
        step = functools.partial(block, config=config, in_order=in_order)
        if config.remat:
            step = jax.checkpoint(step, static_argnums=4, prevent_cse=False)
        last = config.num_layers - 1
        if config.scan_layers:
            # To scan all but the last copies their weights. Beside an adapter that
            # would be most of what is in memory; the last layer is scanned too then.
            count = last + bool(beside)
            below = {name: weight[:count] for name, weight in layers.items()}
            slides = jnp.array([i in config.window_layers for i in range(count)], bool)

            def body(x, layer_slides):
                layer, slides = layer_slides
                view: View = seen[0]
                if seen[1:]:
                    view = jax.tree.map(lambda a, b: jnp.where(slides, b, a), *seen)
                return step(layer, x, view[0], view[1], 0), None

            x, _ = jax.lax.scan(body, x, (below, slides))
        else:
            count = last
            for i in range(last):
                layer = {name: weight[i] for name, weight in layers.items()}
                x = step(layer, x, *seen[i in config.window_layers], 0)
        if count == last:
            layer = {name: weight[last] for name, weight in layers.items()}
            view = seen[last in config.window_layers]
            x = step(layer, x, *view, first_output)
        else:
            x = x[:, first_output:]
        return normalize(top, "final_norm", x, config)

    def _weights(self) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """What there is once, and the stacked layers."""
        c = self.config
        dtype = jnp.dtype(c.param_dtype)
        attended, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        # Each layer adds twice to the stream, whose variance should not grow.
        residual = (2 * c.num_layers) ** -0.5
        one = nn.initializers.constant(1.0 - c.norm_offset)
        into, zero = _normal(c.width**-0.5), nn.initializers.zeros
        shapes: dict[str, tuple[Callable[..., jax.Array], tuple[int, ...]]] = {
            "attention_norm": (one, (c.width,)),
            "qkv": (into, (c.width, attended + 2 * kv)),
            "out": (_normal(residual * attended**-0.5), (attended, c.width)),
            "mlp_norm": (one, (c.width,)),
        }
        up, columns = ("gate_up", 2) if c.gated_mlp else ("up", 1)
        shapes[up] = (into, (c.width, columns * c.mlp_width))
        down = _normal(residual * c.mlp_width**-0.5)
        shapes["down"] = (down, (c.mlp_width, c.width))
        if c.qkv_bias:
            shapes["qkv_bias"] = (zero, (attended + 2 * kv,))
        if c.output_biases:
            shapes["out_bias"] = shapes["down_bias"] = (zero, (c.width,))
            shapes[f"{up}_bias"] = (zero, shapes[up][1][1:])
        if c.layer_norm:
            shapes["attention_norm_bias"] = (zero, (c.width,))
            shapes["mlp_norm_bias"] = (zero, (c.width,))
        if c.qk_norm:
            shapes["q_norm"] = shapes["k_norm"] = (one, (c.head_dim,))
        if c.post_norms:
            shapes["attention_post_norm"] = shapes["mlp_post_norm"] = (one, (c.width,))
        layers = {
            name: self.param(name, init, (c.num_layers, *shape), dtype)
            for name, (init, shape) in shapes.items()
        }
        return self._top(one, dtype), layers

    def _top(
        self, one: Callable[..., jax.Array], dtype: jnp.dtype
    ) -> dict[str, jax.Array]:
        """Embeddings and the last norm."""
        c = self.config
        size = (c.vocab_size, c.width)
        # Tied logits of a normalised state then have variance 1; untied ones start
        # near 0, which is near the uniform distribution.
        std = c.width**-0.5 if c.tied_embedding else 1.0
        top = {"embedding": self.param("embedding", _normal(std), size, dtype)}
        if c.learned_positions:
            shape, init = (c.max_positions, c.width), _normal(0.1 * std)
            top["position_embedding"] = self.param(
                "position_embedding", init, shape, dtype
            )
        if not c.tied_embedding:
            init = _normal(0.1 * c.width**-0.5)
            self.param("unembedding", init, size[::-1], dtype)
        top["final_norm"] = self.param("final_norm", one, (c.width,), dtype)
        if c.layer_norm:
            zero = nn.initializers.zeros
            top["final_norm_bias"] = self.param(
                "final_norm_bias", zero, (c.width,), dtype
            )
        return top


# What is not a layer's: a scan over layers, or a loop, leaves these alone.
_ONCE = frozenset(
    """
    embedding position_embedding unembedding final_norm final_norm_bias
    """.split()
)


def layers_of(params: Params) -> dict[str, jax.Array]:
    """The parameters that every layer has a part of, on their leading axis."""
    return {name: weight for name, weight in params.items() if name not in _ONCE}


def embed(
    params: Params, ids: jax.Array, positions: jax.Array, config: ModelConfig
) -> jax.Array:
    """Where the residual stream begins.

    Args:
      params: the decoder's parameters.
      ids: int32 [B, T].
      positions: int32 [B, T], below `max_positions` where positions are learned: a
        later one would give NaN.
      config: the decoder's settings.

    Returns:
      [B, T, D], of the activations' type.
    """
    x = params["embedding"][ids].astype(config.activation_dtype)
    x = x * jnp.asarray(config.embedding_scale, x.dtype)
    if config.learned_positions:
        table = params["position_embedding"]
        of_place = jnp.take(table, positions, axis=0, mode="fill", fill_value=jnp.nan)
        x = x + of_place.astype(x.dtype)
    return x


def last_layers(config: ModelConfig, count: int) -> dict[str, bool | np.ndarray]:
    """Which parameters belong to the last layers: a mask for `optimizers.only`.

    Args:
      config: of the decoder.
      count: how many layers, the last norm with them; 0 trains nothing of the decoder.

    Returns:
      Name -> bool [L, 1, ..] for stacked weights, True or False for others.

    Raises:
      ValueError: for a count that is not within the layers there are.
    """
    if not 0 <= count <= config.num_layers:
        raise ValueError(f"count is {count}; there are {config.num_layers} layers")
    one = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        Decoder(config).init, jax.random.key(0), one, one, one[None] == 0
    )["params"]
    kept = np.arange(config.num_layers) >= config.num_layers - count
    outer = {"embedding": False, "position_embedding": False, "unembedding": False}
    outer |= {"final_norm": count > 0, "final_norm_bias": count > 0}
    return {
        name: outer[name]
        if name in outer
        else kept.reshape(-1, *[1] * (len(shape.shape) - 1))
        for name, shape in shapes.items()
    }


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


def views(
    positions: jax.Array, of_keys: jax.Array, mask: jax.Array, config: ModelConfig
) -> tuple[View, ...]:
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
    if c.learned_positions and c.window is None:
        return ((None, mask),)
    turns = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    angles = rope_angles(positions, turns)
    if c.window is None:
        return ((angles, mask),)
    near = mask & (positions[:, :, None] - of_keys[:, None] < c.window)
    if c.local_rope_theta is None:
        return (angles, mask), (angles, near)
    local = rope_angles(positions, rope_frequencies(c.head_dim, c.local_rope_theta))
    return (angles, mask), (local, near)


def _normal(std: float) -> Callable[..., jax.Array]:
    """Draws in float32 and rounds: the same start at any precision."""

    def draw(key, shape, dtype):
        wide = jnp.promote_types(dtype, jnp.float32)
        return nn.initializers.normal(std)(key, shape, wide).astype(dtype)

    return draw
