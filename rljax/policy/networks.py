"""Trunk and heads as pure functions, bundled for the agents."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.models import lora
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.models.decoder import logits as decoder_logits
from rljax.models.encdec import EncDec
from rljax.models.encdec import logits as encdec_logits
from rljax.models.encdec_config import EncDecConfig
from rljax.models.heads import Head
from rljax.policy import score
from rljax.policy.score_encdec import encode as encode_encdec
from rljax.types import Key, Params, Tokens, Trie

# (head [..., D] -> [...], hidden [B, 1 + N, D], tries [B]) -> raw Q [B, A].
ReadQ = Callable[[Callable[[jax.Array], jax.Array], jax.Array, Trie], jax.Array]


def whole_trunk(frozen: Params | None, trunk: Params) -> Params:
    """`join` of networks whose trunk is learnt whole: the trunk as it is.

    Raises:
      ValueError: if there are frozen weights, which would go unread.
    """
    if frozen is not None:
        raise ValueError(
            "frozen weights were given to networks that learn the whole trunk; make "
            "them with a LoraConfig, or give none"
        )
    return trunk


class Networks(NamedTuple):
    """What an agent calls. Shapes: N trie nodes, A commands, D width.

    A trunk is what is learnt of the language model: all its weights, or an adapter
    beside weights that are frozen. Where the functions below want weights they want
    whole ones, `join(frozen, trunk)`.

    Attributes:
      init_trunk: key -> a trunk.
      init_q: key -> weights of a Q head.
      init_v: key -> weights of a V head.
      encode: (weights, prompts [B], tries [B]) -> hidden [B, 1 + N, D].
      log_policy: (weights, hidden, tries) -> log pi [B, A], -inf rules a command out.
      q: (head, hidden, tries) -> raw Q [B, A], one scalar a command.
      v: (head, hidden) -> V [B], from the state that predicts the first token.
      logits: (weights, texts [B]) -> next-token logits [B, T, V]; None where the model
        has none.
      join: (frozen weights or None, trunk) -> the language model's weights. No array
        of the frozen ones is copied.
    """

    init_trunk: Callable[[Key], Params]
    init_q: Callable[[Key], Params]
    init_v: Callable[[Key], Params]
    encode: Callable[[Params, Tokens, Trie], jax.Array]
    log_policy: Callable[[Params, jax.Array, Trie], jax.Array]
    q: Callable[[Params, jax.Array, Trie], jax.Array]
    v: Callable[[Params, jax.Array], jax.Array]
    logits: Callable[[Params, Tokens], jax.Array] | None
    join: Callable[[Params | None, Params], Params] = whole_trunk


def make(
    config: ModelConfig,
    eos_id: int,
    head_widths: Sequence[int],
    head_std: float = 0.5,
    read_q: ReadQ = score.q_of_path,
    adapter: lora.LoraConfig | None = None,
) -> Networks:
    """A decoder with heads.

    Args:
      config: the decoder's settings.
      eos_id: token whose log-probability ends every command.
      head_widths: inner layers of the Q and V heads.
      head_std: of the heads' last layers at first, over sqrt(fan-in). The gradient a
        head sends into a trunk it shares is as large as these weights: where they
        start at 0.01 the critic is long drowned by the actor.
      read_q: how a command's Q comes of the Q head and the command's nodes:
        `score.q_of_path` or `score.q_of_last_node`.
      adapter: learn such a LoRA adapter in place of the whole trunk. The agent then
        wants the model's weights as `frozen`.
    """
    decoder = Decoder(config)

    def init_trunk(key):
        ids = jnp.zeros((1, 2), jnp.int32)
        mask = jnp.ones((1, 2, 2), bool)
        return decoder.init(key, ids, ids, mask)["params"]

    def logits(trunk, tokens):
        batch, length = tokens.ids.shape
        positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
        mask = jnp.tril(jnp.ones((length, length), bool))
        mask = jnp.broadcast_to(mask, (batch, length, length))
        hidden = decoder.apply({"params": trunk}, tokens.ids, positions, mask)
        return decoder_logits(trunk, jnp.asarray(hidden), config)

    def encode(trunk, prompt, trie):
        return score.encode(decoder, trunk, prompt, trie)

    def of_hidden(trunk, hidden):
        return decoder_logits(trunk, hidden, config)

    trunk = _Trunk(config.width, init_trunk, encode, of_hidden, logits)
    made = _bundle(trunk, eos_id, Head(tuple(head_widths), head_std), read_q)
    return made if adapter is None else _beside(made, config, adapter)


def make_encdec(
    config: EncDecConfig,
    eos_id: int,
    head_widths: Sequence[int],
    head_std: float = 0.5,
    read_q: ReadQ = score.q_of_path,
    close_prompt: bool = True,
    adapter: lora.LoraConfig | None = None,
) -> Networks:
    """An encoder-decoder with heads.

    It reads the prompt with its encoder and scores commands with its decoder. It has
    no next-token logits of a text, which is not one thing to it, so no warm start.

    Args:
      config: the model's settings.
      eos_id: token whose log-probability ends every command.
      head_widths: see `make`.
      head_std: see `make`.
      read_q: see `make`.
      close_prompt: whether the encoder reads `eos_id` after the prompt, as T5 was
        trained to.
      adapter: see `make`.
    """
    model = EncDec(config)

    def init_trunk(key):
        row = jnp.zeros((1, 2), jnp.int32)
        mask = jnp.ones((1, 2, 2), bool)
        return model.init(key, row, row == 0, row, row, mask)["params"]

    def encode(trunk, prompt, trie):
        end_id = eos_id if close_prompt else None
        return encode_encdec(model, trunk, prompt, trie, config.start_id, end_id)

    def of_hidden(trunk, hidden):
        return encdec_logits(trunk, hidden, config)

    trunk = _Trunk(config.width, init_trunk, encode, of_hidden, None)
    made = _bundle(trunk, eos_id, Head(tuple(head_widths), head_std), read_q)
    return made if adapter is None else _beside(made, config, adapter)


class _Trunk(NamedTuple):
    """A language model without heads; functions as in `Networks`."""

    width: int
    init: Callable[[Key], Params]
    encode: Callable[[Params, Tokens, Trie], jax.Array]
    of_hidden: Callable[[Params, jax.Array], jax.Array]  # logits
    logits: Callable[[Params, Tokens], jax.Array] | None


def _beside(
    networks: Networks, config: ModelConfig | EncDecConfig, adapter: lora.LoraConfig
) -> Networks:
    """The same with an adapter for a trunk."""

    def attach(frozen, trunk):
        if frozen is None:
            raise ValueError(
                "an adapter needs the weights it adapts: pass them to the agent, "
                "init(key, frozen)"
            )
        return lora.attach(frozen, trunk, adapter)

    init = jax.jit(lambda key: lora.init(key, config, adapter))
    return networks._replace(init_trunk=init, join=attach)


def _bundle(trunk: _Trunk, eos_id: int, head: Head, read_q: ReadQ) -> Networks:
    def init_head(key):
        return head.init(key, jnp.zeros((1, trunk.width)))["params"]

    def log_policy(params, hidden, trie):
        found = trunk.of_hidden(params, hidden)
        scores = score.command_log_probs(found, trie, eos_id)
        return score.log_policy(scores, trie.command_mask)

    def apply_head(params, hidden):
        return jnp.asarray(head.apply({"params": params}, hidden))

    return Networks(
        init_trunk=jax.jit(trunk.init),
        init_q=jax.jit(init_head),
        init_v=jax.jit(init_head),
        encode=trunk.encode,
        log_policy=log_policy,
        q=lambda params, hidden, trie: read_q(
            functools.partial(apply_head, params), hidden, trie
        ),
        v=lambda params, hidden: apply_head(params, hidden[:, 0]),
        logits=trunk.logits,
    )
