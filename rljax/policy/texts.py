"""A language model on rows of packed texts, as pure functions.

Several texts stand in a row, one after the other; a token sees those of its own text
that are not after it, and positions begin anew with each text. So a batch of short and
long texts has hardly any padding, and one shape.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.losses.token_logprob import Source
from rljax.models import lora
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder, unembedding
from rljax.policy.networks import whole_trunk
from rljax.types import Key, Packed, Params


class Texts(NamedTuple):
    """What an agent calls. Shapes: R rows, T tokens of a row, D width, V vocabulary.

    A trunk is what is learnt of the language model: all its weights, or an adapter
    beside weights that are frozen. `hidden` and `unembedding` want whole ones,
    `join(frozen, trunk)`.

    Attributes:
      init_trunk: (key, frozen) -> a trunk that computes what `frozen` computes.
      hidden: (weights, batch) -> [R, T, D].
      unembedding: weights -> [D, V].
      join: (frozen, trunk) -> weights; no array of the frozen ones is copied.
      cap: of logits, None for none.
      width: D.
    """

    init_trunk: Callable[[Key, Params], Params]
    hidden: Callable[[Params, Packed], jax.Array]
    unembedding: Callable[[Params], jax.Array]
    join: Callable[[Params | None, Params], Params]
    cap: float | None
    width: int


def make(config: ModelConfig, adapter: lora.LoraConfig | None = None) -> Texts:
    """A decoder, or an adapter beside a frozen one.

    Args:
      config: the decoder's settings.
      adapter: learn such a LoRA adapter in place of the whole trunk.
    """
    decoder = Decoder(config)

    def hidden(weights, batch):
        places = jnp.arange(batch.ids.shape[1])
        seen = batch.segment[:, :, None] == batch.segment[:, None]
        if batch.begun is not None:
            # 0 is padding, which comes last: nothing before it sees it.
            seen |= batch.begun[:, :, None] == batch.segment[:, None]
        mask = seen & (places[:, None] >= places)  # padding sees padding, unread
        found = decoder.apply(
            {"params": weights}, batch.ids, batch.position, mask, in_order=True
        )
        return jnp.asarray(found)

    def init_adapter(key, frozen):
        del frozen
        assert adapter is not None
        return lora.init(key, config, adapter)

    def copied(key, frozen):
        del key
        return jax.tree.map(jnp.copy, frozen)

    def attach(frozen, trunk):
        assert adapter is not None
        return lora.attach(frozen, trunk, adapter)

    return Texts(
        init_trunk=copied if adapter is None else init_adapter,
        hidden=hidden,
        unembedding=lambda weights: unembedding(weights, config),
        # A whole trunk stands for itself, whatever is frozen beside it.
        join=(lambda frozen, trunk: whole_trunk(None, trunk))
        if adapter is None
        else attach,
        cap=config.logit_softcap,
        width=config.width,
    )


def actions(texts: Texts, weights: Params, hidden: jax.Array, batch: Packed) -> Source:
    """The states that actions were taken in, and what makes logits of them.

    Args:
      texts: the model.
      weights: whole ones.
      hidden: [R, T, D], of these weights.
      batch: says where the actions are.

    Returns:
      Hidden states [E, L, D], and [D, V].
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    return Source(flat[batch.at], texts.unembedding(weights))
