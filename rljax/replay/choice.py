"""Which states are worth keeping, and which of them to go on from.

Functions that `archive.add` and `archive.choose` are given. Shape letter: K cells of a
problem.
"""

import numpy as np

from rljax.replay.archive import View, Weigh, Worth
from rljax.replay.cells import PROMOTED


def shrunk(strength: float, low: float = 0.0, high: float = 1.0) -> Worth:
    """The chance of a right answer: what came of tries, pulled to what the score says.

        q = (solves + k v) / (tries + k),   v = (score - low) / (high - low) in [0, 1]

    A score past either reward is the critic's error, and counts as that reward.
    Specification of RRL, section 10.1.

    Args:
      strength: k, how many tries the score is worth.
      low: reward of a wrong answer.
      high: reward of a right one.

    Raises:
      ValueError: if k is not positive, or the rewards are not in order.
    """
    if strength <= 0:
        raise ValueError(f"strength must be above 0, got {strength}")
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")

    def worth(score: np.ndarray, tries: np.ndarray, solves: np.ndarray) -> np.ndarray:
        # Free cells have the score -inf; 0 then.
        v = np.clip((score - low) / (high - low), 0.0, 1.0)
        return (solves + strength * v) / (tries + strength)

    return worth


def alike(cells: View) -> np.ndarray:
    """Every state alike, float64 [K]."""
    return np.ones(len(cells.serial))


def by_visits(cells: View) -> np.ndarray:
    """States that were seldom chosen first: w = 1 / (0.5 visits + 1), float64 [K].

    The prototype's rule, from Go-Explore (Ecoffet et al., 2021, arXiv:2004.12919).
    """
    return 1.0 / (0.5 * cells.visits + 1.0)


def by_difficulty(worth: Worth, floor: float = 0.02, target: float = 0.5) -> Weigh:
    """Seldom chosen states that lead to right answers about so often.

        w = q (1 - q)^b / (0.5 visits + 1),   b = (1 - target) / target,
        q = worth in [floor, 1 - floor]

    w is highest at q = target. Specification of RRL, section 10.1, has 1/2, where an
    answer tells most; a lower target begins before the steps that are seldom right.

    Args:
      worth: the chance of a right answer, such as `shrunk` gives.
      floor: keeps states at either end from never being chosen.
      target: the share of right answers that is sought.

    Raises:
      ValueError: if the floor is not within (0, 0.5), or the target not within (0, 1).
    """
    if not 0 < floor < 0.5:
        raise ValueError(f"floor must lie in (0, 0.5), got {floor}")
    if not 0 < target < 1:
        raise ValueError(f"target must lie in (0, 1), got {target}")
    power = (1.0 - target) / target

    def weigh(cells: View) -> np.ndarray:
        q = worth(cells.score, cells.tries, cells.solves)
        q = np.clip(q, floor, 1.0 - floor)
        return q * (1.0 - q) ** power * by_visits(cells)

    return weigh


def promoted_first(weigh: Weigh, factor: float) -> Weigh:
    """Weights in which the states that people promoted count more.

    Args:
      weigh: weights without people.
      factor: what those of promoted states are multiplied by.

    Raises:
      ValueError: if the factor is below 1.
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")
    return lambda cells: weigh(cells) * np.where(cells.mark == PROMOTED, factor, 1.0)
