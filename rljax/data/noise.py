"""Rewards turned round, to see what errors in a log do to who learns from it."""

from collections.abc import Sequence

import numpy as np

from rljax.types import Episode


def flip(log: Sequence[Episode], share: float, seed: int) -> list[Episode]:
    """Turns round the rewards of a share of the episodes: r becomes 1 - r.

    Which ones is a function of the seed and the length of the log. Those of a smaller
    share are among those of a larger one.

    Args:
      log: episodes, each with reward 0 or 1.
      share: of the episodes, rounded to a whole number of them.
      seed: of the draw.

    Raises:
      ValueError: if `share` is not within [0, 1], or a reward is neither 0 nor 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must be within [0, 1]")
    order = np.random.default_rng(seed).permutation(len(log))
    chosen = set(order[: round(share * len(log))].tolist())
    found = []
    for n, episode in enumerate(log):
        if episode.reward not in (0, 1):
            raise ValueError(
                f"attempt {n + 1}, line {episode.line} of its log, has reward "
                f"{episode.reward}; only 0 and 1 can be turned round"
            )
        turned = 1 - episode.reward if n in chosen else episode.reward
        found.append(episode._replace(reward=turned))
    return found
