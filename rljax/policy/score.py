"""Log-probabilities and hidden states of all admissible commands in one pass.

The prompt and the trie of the commands form one packed sequence: the prompt, then
the trie's nodes, each at position prompt length + depth, each seeing the prompt,
its ancestors and itself. So a node's hidden state is what the command's own text
would have given, at the cost of one sequence instead of one for each command.

Shape letters of `rljax.types`: B batch, P prompt tokens, N nodes, A commands,
L tokens of a command, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp

from rljax.types import Params, Tokens, Trie


class Decoder(Protocol):
    """What `encode` asks of a model: `rljax.models.decoder.Decoder` has it."""

    def apply(self, variables: Any, /, *args: Any) -> Any:
        """Hidden states of (ids, positions, mask, first output)."""
        ...


def encode(decoder: Decoder, params: Params, prompt: Tokens, trie: Trie) -> jax.Array:
    """Hidden states after the prompt and after every node of the trie.

    Prompts are moved to the right, so that all end at the same place and the last
    layer can skip what is before it; positions still count from the prompt's first
    token.

    Args:
      decoder: a causal decoder that takes positions and mask.
      params: its parameters.
      prompt: ids int32 [B, P], length int32 [B], at least 1.
      trie: a batch of tries; fields as in `rljax.types.Trie` with B in front.

    Returns:
      [B, 1 + N, D]: the last prompt token, then the nodes.
    """
    ids, positions, mask = pack(prompt, trie)
    first = prompt.ids.shape[1] - 1
    return decoder.apply({"params": params}, ids, positions, mask, first)


def pack(prompt: Tokens, trie: Trie) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The packed sequence: prompt ending at P - 1, nodes from P on.

    Args:
      prompt: ids int32 [B, P], length int32 [B].
      trie: a batch of tries.

    Returns:
      ids int32 [B, P + N], positions int32 [B, P + N], mask bool [B, P + N, P + N].
    """
    chex.assert_rank([prompt.ids, prompt.length, trie.ids], [2, 1, 2])
    chex.assert_equal_shape_prefix([prompt.ids, prompt.length, trie.ids], 1)
    p = prompt.ids.shape[1]
    place = jnp.arange(p) - (p - prompt.length[:, None])  # in the prompt; < 0: padding
    real = place >= 0
    moved = jnp.take_along_axis(prompt.ids, jnp.maximum(place, 0), axis=1)
    ids = jnp.concatenate([jnp.where(real, moved, 0), trie.ids], axis=1)
    depth = prompt.length[:, None] + trie.depth
    positions = jnp.concatenate([jnp.maximum(place, 0), depth], axis=1)
    causal = jnp.tril(jnp.ones((p, p), bool))
    over_prompt = real[:, None] & causal
    no_nodes = jnp.zeros((*real.shape, trie.ids.shape[1]), bool)
    under_prompt = jnp.broadcast_to(real[:, None], no_nodes.mT.shape)
    mask = jnp.concatenate(
        [
            jnp.concatenate([over_prompt, no_nodes], axis=2),
            jnp.concatenate([under_prompt, trie.ancestors], axis=2),
        ],
        axis=1,
    )
    return ids, positions, mask


def command_log_probs(logits: jax.Array, trie: Trie, eos_id: int) -> jax.Array:
    """Log-probability of each command's tokens and of the end after them.

      S(a) = sum_j log p(c_j | prompt, c_<j) + log p(EOS | prompt, c)

    A node's term is read at its parent, the end's at the command's last node, so
    "Go to red beet" and "Go to red beet seed" are different events. Sums in
    float32.

    Args:
      logits: [B, 1 + N, V], of the hidden states from `encode`.
      trie: a batch of tries.
      eos_id: token that ends a command.

    Returns:
      float32 [B, A]; -inf where there is no command, and NaN for a command that
      did not fit into the trie's nodes.
    """
    chex.assert_rank([logits, trie.ids], [3, 2])
    normalizer = jax.nn.logsumexp(logits, axis=-1)  # [B, 1 + N]
    source = trie.parent + 1  # the prompt's hidden state is first
    batch = jnp.arange(len(logits))[:, None]
    node = logits[batch, source, trie.ids] - normalizer[batch, source]  # [B, N]
    end = logits[..., eos_id] - normalizer  # [B, 1 + N]
    of_end = jnp.take_along_axis(end[:, 1:], _safe_last(trie), axis=1)
    total = _over_path(node, trie) + of_end
    return jnp.where(trie.command_mask, total, -jnp.inf)


def log_policy(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """log pi(a) = S(a) - logsumexp over the admissible commands of S.

    Args:
      scores: float32 [..., A]; anything where `mask` is False.
      mask: bool [..., A]; False rules a command out.

    Returns:
      [..., A], with -inf for what is ruled out, where the gradient is 0. A row that
      allows nothing is all -inf.
    """
    chex.assert_equal_shape([scores, mask])
    # A finite stand-in before the softmax, -inf after: the gradient of -inf is NaN.
    safe = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(mask, jax.nn.log_softmax(safe, axis=-1), -jnp.inf)


def command_hidden(hidden: jax.Array, trie: Trie) -> jax.Array:
    """The hidden state at each command's last node, for Q(s, a).

    Args:
      hidden: [B, 1 + N, D], from `encode`.
      trie: a batch of tries.

    Returns:
      [B, A, D]; that of some node where there is no command.
    """
    chex.assert_rank([hidden, trie.last], [3, 2])
    return jnp.take_along_axis(hidden[:, 1:], _safe_last(trie)[..., None], axis=1)


def q_of_last_node(
    head: Callable[[jax.Array], jax.Array], hidden: jax.Array, trie: Trie
) -> jax.Array:
    """Q(s, a) = head(h at the last token of a).

    As in the authors' later code (Gaven et al., 2025, arXiv:2502.07709), which reads
    one scalar from one hidden state.

    Args:
      head: [..., D] -> [...].
      hidden: [B, 1 + N, D], from `encode`.
      trie: a batch of tries.

    Returns:
      [B, A]; anything where there is no command.
    """
    return head(command_hidden(hidden, trie))


def q_of_path(
    head: Callable[[jax.Array], jax.Array], hidden: jax.Array, trie: Trie
) -> jax.Array:
    """Q(s, a) = sum_j head(h at token j of a): each token of a command adds its share.

    Built like the policy's score, a sum over the tokens: "red" is judged where "red"
    is read, so what was learnt of it in "Go to red cat" may serve "Go to red door".
    docs/results/sac_glam.md has the two ways side by side.

    Args:
      head: see `q_of_last_node`.
      hidden: see `q_of_last_node`.
      trie: see `q_of_last_node`.

    Returns:
      [B, A]; 0 where there is no command, NaN for one that did not fit into the
      trie's nodes.
    """
    return _over_path(head(hidden[:, 1:]), trie)


def _over_path(terms: jax.Array, trie: Trie) -> jax.Array:
    """Sums what the nodes [B, N] say over each command's path, [B, A]."""
    terms = jnp.where(trie.mask, terms, 0.0)
    zero = jnp.zeros_like(terms[:, :1])
    # A node beyond the budget is N + 1: past the zero at N, so it reads as NaN.
    terms = jnp.concatenate([terms, zero, zero + jnp.nan], axis=1)
    return jnp.sum(jnp.take_along_axis(terms[:, None], trie.path, axis=2), axis=-1)


def _safe_last(trie: Trie) -> jax.Array:
    return jnp.minimum(trie.last, trie.ids.shape[1] - 1)
