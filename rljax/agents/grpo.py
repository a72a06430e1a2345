"""What GRPO learns from a rollout: answers are compared with those of their group.

A group is `size` answers to one start, bare or replayed, which stand together. There is
no critic. Source: Shao et al., 2024 (arXiv:2402.03300); see `losses.groups`.
"""

import jax.numpy as jnp

from rljax.agents.token_rl import Estimate, Rollout, Targets
from rljax.losses import groups
from rljax.types import Metrics


def estimate(
    size: int,
    advantage: groups.GroupAdvantage = groups.standardised,
    drop_level: bool = False,
) -> Estimate:
    """Advantages from groups.

    Metrics: `train/varied_groups`, the share of groups that teach anything.

    Args:
      size: answers of a group.
      advantage: `groups.standardised` or `groups.centred`.
      drop_level: groups whose rewards are all equal count in no mean, as in DAPO
        (arXiv:2503.14476); no others are sampled in their place.

    Raises:
      ValueError: if `size` is below 2, where every advantage is 0.
    """
    if size < 2:
        raise ValueError(f"size must be at least 2, got {size}: one answer is no group")

    def of(rollout: Rollout) -> tuple[Targets, Metrics]:
        reward = rollout.reward.reshape(-1, size)
        judged = rollout.judged.reshape(-1, size)
        varied = groups.varied(reward, judged)
        each = advantage(reward, judged).reshape(-1, 1)
        learn = rollout.mask & rollout.judged[:, None]
        if drop_level:
            learn &= jnp.repeat(varied, size)[:, None]
        targets = Targets(
            advantage=jnp.where(learn, each, 0.0),
            learn=learn,
            taught=learn,
            returns=None,
            score=None,
        )
        return targets, {"train/varied_groups": jnp.mean(varied.astype(jnp.float32))}

    return of
