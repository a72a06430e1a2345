"""An encoder-decoder of the T5 family whose decoder's positions and mask are given.

The encoder reads the prompt once, every position seeing all others. The decoder is
causal only as far as its mask says so, and its distances are those of the positions
it is given: a packed trie is as good an input as a text. Attention is not scaled; it
adds a learned number for each head and bucket of distances, which the layers of a
stack share.

Weights of all layers of a stack are stacked on a leading axis, and query, key and
value (and gate and up) are one matrix, as in `models.decoder`.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified
Text-to-Text Transformer", 2020; gated MLPs as in its version 1.1 and in Flan-T5.

Shapes: B batch, S prompt tokens, T decoded tokens, D width, H heads, V vocabulary.
"""

import functools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.models import lora
from rljax.models.encdec_block import Layer, attention, cross_attention, mlp
from rljax.models.encdec_config import EncDecConfig
from rljax.models.layers import product, rms_norm
from rljax.models.relative_bias import relative_bias
from rljax.types import Params

# Name -> initialiser and shape.
Shapes = dict[str, tuple[Callable[..., jax.Array], tuple[int, ...]]]


class EncDec(nn.Module):
    """Prompts and decoded ids to hidden states; `logits` goes on from these."""

    config: EncDecConfig

    @nn.compact
    def __call__(
        self,
        prompt: jax.Array,
        prompt_mask: jax.Array,
        ids: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        first_output: int = 0,
    ) -> jax.Array:
        """The decoder's hidden states after its last norm.

        Args:
          prompt: int32 [B, S].
          prompt_mask: bool [B, S], False for padding, wherever it stands.
          ids: int32 [B, T], the start token among them.
          positions: int32 [B, T]; 0 for the start token, a node's depth + 1.
          mask: bool [B, T, T], row sees column.
          first_output: first position whose hidden state is wanted.

        Returns:
          float32 [B, T - first_output, D].
        """
        params, config = self._weights(), self.config
        memory = encode(params, prompt, prompt_mask, config)
        return decode(
            params, memory, prompt_mask, ids, positions, mask, first_output, config
        )

    def _weights(self) -> Params:
        """All weights, by name, an adapter's among them; those of layers stacked."""
        c, dtype = self.config, jnp.dtype(self.config.param_dtype)
        # Tied logits that are not scaled down need a small embedding.
        std = c.width**-0.5 if c.tied_embedding and not c.scale_logits else 1.0
        size = (c.vocab_size, c.width)
        params = {"embedding": self.param("embedding", _normal(std), size, dtype)}
        if not c.tied_embedding:
            # Near 0, which is near the uniform distribution.
            init = _normal(0.1 * c.width**-0.5)
            params["unembedding"] = self.param("unembedding", init, size[::-1], dtype)
        for stack, count in (
            ("encoder", c.num_layers),
            ("decoder", c.num_decoder_layers),
        ):
            of_stack: Shapes = {
                "relative_bias": (_normal(c.width**-0.5), (c.num_buckets, c.num_heads)),
                "final_norm": (nn.initializers.ones, (c.width,)),
            }
            for name, (init, shape) in _layer_shapes(c, stack == "decoder").items():
                of_stack[name] = (init, (count, *shape))
            for name, (init, shape) in of_stack.items():
                name = f"{stack}_{name}"
                params[name] = self.param(name, init, shape, dtype)
        beside = [name for name in lora.names() if self.has_variable("params", name)]
        return params | {name: self.get_variable("params", name) for name in beside}


def encode(
    params: Params, ids: jax.Array, mask: jax.Array, config: EncDecConfig
) -> jax.Array:
    """What the encoder makes of prompts.

    Args:
      params: the model's parameters.
      ids: int32 [B, S].
      mask: bool [B, S], False for padding, wherever it stands.
      config: the model's settings.

    Returns:
      [B, S, D] in `config.dtype`; anything where there is padding.
    """
    chex.assert_rank([ids, mask], [2, 2])
    dtype = config.activation_dtype
    layers, table, scale = stack_of(params, "encoder")
    places = jnp.arange(ids.shape[1])[None]
    bias = relative_bias(table, places, True, config.max_distance)
    seen = jnp.broadcast_to(mask[:, None], (*ids.shape, ids.shape[1]))

    def step(layer, x):
        return mlp(layer, attention(layer, x, bias, seen, 0, config), config)

    x = _run(step, layers, params["embedding"][ids].astype(dtype), config)
    return rms_norm(x, scale, config.norm_eps).astype(dtype)


def decode(
    params: Params,
    memory: jax.Array,
    memory_mask: jax.Array,
    ids: jax.Array,
    positions: jax.Array,
    mask: jax.Array,
    first_output: int,
    config: EncDecConfig,
) -> jax.Array:
    """The decoder's hidden states after its last norm.

    For positions before `first_output` the last layer computes keys and values only,
    since nothing else of them is read.

    Args:
      params: the model's parameters.
      memory: [B, S, D], from `encode`.
      memory_mask: bool [B, S], as `encode` got it.
      ids: int32 [B, T].
      positions: int32 [B, T], whose differences are the distances.
      mask: bool [B, T, T], row sees column.
      first_output: first position whose hidden state is wanted.
      config: the model's settings.

    Returns:
      float32 [B, T - first_output, D].
    """
    chex.assert_rank([memory, memory_mask, ids, positions, mask], [3, 2, 2, 2, 3])
    layers, table, scale = stack_of(params, "decoder")
    bias = relative_bias(table, positions, False, config.max_distance)

    def step(layer, x, first=0):
        x = attention(layer, x, bias, mask, first, config)
        x = cross_attention(layer, x, memory, memory_mask, config)
        return mlp(layer, x, config)

    x = params["embedding"][ids].astype(config.activation_dtype)
    if set(params) & set(lora.names()):
        # To take the last layer for itself copies the weights of the others, most of
        # what is in memory beside an adapter; see `decoder`.
        x = _run(step, layers, x, config)[:, first_output:]
        return rms_norm(x, scale, config.norm_eps)
    last = config.num_decoder_layers - 1
    x = _run(step, {name: weight[:last] for name, weight in layers.items()}, x, config)
    layer = {name: weight[last] for name, weight in layers.items()}
    final = functools.partial(step, first=first_output)
    if config.remat:
        final = jax.checkpoint(final, prevent_cse=False)
    return rms_norm(final(layer, x), scale, config.norm_eps)


def logits(params: Params, hidden: jax.Array, config: EncDecConfig) -> jax.Array:
    """Logits of the decoder's hidden states.

    Args:
      params: the model's parameters.
      hidden: [..., D].
      config: its settings.

    Returns:
      [..., V], float32 at least.
    """
    matrix = unembedding(params, config)
    if config.scale_logits:
        hidden = hidden * config.width**-0.5
    return product(hidden, matrix, jax.tree.leaves(matrix)[0].dtype)


def unembedding(params: Params, config: EncDecConfig) -> jax.Array:
    """The matrix that turns hidden states into logits.

    Args:
      params: the model's parameters.
      config: its settings.

    Returns:
      [D, V], in the type of the parameters.
    """
    return params["embedding"].T if config.tied_embedding else params["unembedding"]


def stack_of(params: Params, stack: str) -> tuple[Layer, jax.Array, jax.Array]:
    """What belongs to one of the two stacks.

    Args:
      params: the model's parameters.
      stack: "encoder" or "decoder".

    Returns:
      Weights of its layers, stacked; its table of relative bias; its last norm's scale.
    """
    start = f"{stack}_"
    own = {n.removeprefix(start): w for n, w in params.items() if n.startswith(start)}
    return own, own.pop("relative_bias"), own.pop("final_norm")


def _layer_shapes(c: EncDecConfig, crossed: bool) -> Shapes:
    """Initialiser and shape of each of a layer's weights."""
    inner, one = c.num_heads * c.head_dim, nn.initializers.ones
    into, out = _normal(c.width**-0.5), _normal(inner**-0.5)
    # Queries make up for attention that is not scaled.
    query = _normal((c.width * c.head_dim) ** -0.5)

    def qkv(key, shape, dtype):
        keys = jax.random.split(key)
        sizes = ((*shape[:-1], inner), (*shape[:-1], 2 * inner))
        parts = (query(keys[0], sizes[0], dtype), into(keys[1], sizes[1], dtype))
        return jnp.concatenate(parts, axis=-1)

    up, columns = ("gate_up", 2) if c.gated else ("up", 1)
    shapes: Shapes = {
        "attention_norm": (one, (c.width,)),
        "qkv": (qkv, (c.width, 3 * inner)),
        "out": (out, (inner, c.width)),
        "mlp_norm": (one, (c.width,)),
        up: (into, (c.width, columns * c.mlp_width)),
        "down": (_normal(c.mlp_width**-0.5), (c.mlp_width, c.width)),
    }
    if crossed:
        shapes |= {
            "cross_norm": (one, (c.width,)),
            "cross_q": (query, (c.width, inner)),
            "cross_kv": (into, (c.width, 2 * inner)),
            "cross_out": (out, (inner, c.width)),
        }
    return shapes


def _run(
    step: Callable[[Layer, jax.Array], jax.Array],
    layers: Layer,
    x: jax.Array,
    config: EncDecConfig,
) -> jax.Array:
    """The layers one after another, scanned or not."""
    if config.remat:
        step = jax.checkpoint(step, prevent_cse=False)
    if config.scan_layers:
        return jax.lax.scan(lambda x, layer: (step(layer, x), None), x, layers)[0]
    for i in range(len(layers["qkv"])):
        x = step({name: weight[i] for name, weight in layers.items()}, x)
    return x


def _normal(std: float) -> Callable[..., jax.Array]:
    return nn.initializers.normal(std)
