"""Trunk and heads as pure functions, bundled for the agents."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from rljax.types import Key, Params, Tokens, Trie


class Networks(NamedTuple):
    """What an agent calls. Shapes: N trie nodes, A commands, D width.

    Attributes:
      init_trunk: key -> weights of the language model.
      init_q, init_v: key -> weights of a head.
      encode: (trunk, prompts [B], tries [B]) -> hidden [B, 1 + N, D].
      log_policy: (trunk, hidden, tries) -> log pi [B, A], -inf rules a command out.
      q: (head, hidden, tries) -> raw Q [B, A], from each command's last node.
      v: (head, hidden) -> V [B], from the prompt's last token.
    """

    init_trunk: Callable[[Key], Params]
    init_q: Callable[[Key], Params]
    init_v: Callable[[Key], Params]
    encode: Callable[[Params, Tokens, Trie], jax.Array]
    log_policy: Callable[[Params, jax.Array, Trie], jax.Array]
    q: Callable[[Params, jax.Array, Trie], jax.Array]
    v: Callable[[Params, jax.Array], jax.Array]
