"""`policy.score.encode` for an encoder-decoder: the prompt read once, the trie decoded.

The decoder's sequence is the start token, at position 0, then the trie's nodes, each
at its depth + 1, each seeing the start token, its ancestors and itself; all of them
see the encoder's states of the prompt. Distances come of these positions, never of a
node's place in the sequence. What `policy.score` does with hidden states holds as it
stands: the first of them, the start token's, predicts the first token of a command.

Shapes as in `policy.score`.
"""

from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp

from rljax.types import Params, Tokens, Trie


class EncoderDecoder(Protocol):
    """What `encode` asks of a model: `rljax.models.encdec.EncDec` has it."""

    def apply(self, variables: Any, /, *args: Any) -> Any:
        """Hidden states of (prompt, prompt mask, ids, positions, mask)."""
        ...


def encode(
    model: EncoderDecoder,
    params: Params,
    prompt: Tokens,
    trie: Trie,
    start_id: int,
    end_id: int | None = None,
) -> jax.Array:
    """Hidden states at the start token and at every node of the trie.

    Args:
      model: an encoder-decoder that takes positions and mask.
      params: its parameters.
      prompt: ids int32 [B, P], length int32 [B], at least 1.
      trie: a batch of tries; fields as in `rljax.types.Trie` with B in front.
      start_id: token that every decoded text begins with.
      end_id: token put after each prompt, which T5 was trained to read there.

    Returns:
      [B, 1 + N, D]: the start token, then the nodes.
    """
    ids, positions, mask = pack(trie, start_id)
    if end_id is not None:
        prompt = close(prompt, end_id)
    real = jnp.arange(prompt.ids.shape[1]) < prompt.length[:, None]
    text = jnp.where(real, prompt.ids, 0)
    return model.apply({"params": params}, text, real, ids, positions, mask)


def close(prompt: Tokens, end_id: int) -> Tokens:
    """Prompts with the end token after them.

    Args:
      prompt: ids int32 [B, P], length int32 [B].
      end_id: the token.

    Returns:
      ids int32 [B, P + 1], length one more.
    """
    ids = jnp.pad(prompt.ids, ((0, 0), (0, 1)))
    here = jnp.arange(ids.shape[1]) == prompt.length[:, None]
    return Tokens(jnp.where(here, end_id, ids), prompt.length + 1)


def pack(trie: Trie, start_id: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The decoder's sequence: the start token, then the nodes.

    Args:
      trie: a batch of tries.
      start_id: token that every decoded text begins with.

    Returns:
      ids int32 [B, 1 + N], positions int32 [B, 1 + N], mask bool [B, 1 + N, 1 + N].
    """
    chex.assert_rank([trie.ids, trie.depth, trie.ancestors], [2, 2, 3])
    left = ((0, 0), (1, 0))
    ids = jnp.pad(trie.ids, left, constant_values=start_id)
    positions = jnp.pad(trie.depth + 1, left)
    # Everyone sees the start token, which sees itself alone.
    mask = jnp.pad(trie.ancestors, (*left, (1, 0)))
    return ids, positions, mask.at[:, :, 0].set(True)
