"""What a search costs, so that searches are compared at equal cost.

    FLOPs = 2 * parameters * tokens, of policy and critic

A token is counted once for each time a model reads it. Attention, padding and idle rows
are not counted: these are the model's operations, not the machine's.
"""

from typing import NamedTuple

import jax

from rljax.models.config import ModelConfig
from rljax.types import Params


class Cost(NamedTuple):
    """Tokens."""

    generated: int = 0  # that are in candidates, whether they were kept or not
    policy: int = 0  # that the policy read or sampled, prompts and dropped ones too
    critic: int = 0  # that the critic read

    def plus(self, other: "Cost") -> "Cost":
        """Both."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


def multiplied(params: Params, config: ModelConfig, logits: bool) -> int:
    """Parameters that a token is multiplied with: all but tables it is looked up in.

    Args:
      params: the decoder's.
      config: its settings.
      logits: whether logits are computed; a critic has none.
    """
    tables = {"embedding", "position_embedding", "unembedding"}
    count = sum(
        leaf.size
        for name, part in params.items()
        if name not in tables
        for leaf in jax.tree.leaves(part)
    )
    return count + (config.width * config.vocab_size if logits else 0)


def flops(cost: Cost, policy: int, critic: int) -> float:
    """Operations of a cost.

    Args:
      cost: tokens.
      policy: parameters that a token of the policy is multiplied with.
      critic: the same of the critic.
    """
    return 2.0 * (policy * cost.policy + critic * cost.critic)
