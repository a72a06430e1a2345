"""The best of several turns or answers by V, and the vote of the majority.

Turns of a policy that acts (ALFWorld): at each turn K whole turns are sampled, and the
one of the highest V is played. With whole answers in place of turns it is best of N.
Source: Wang et al., 2024 (arXiv:2412.16145), section 4.4, and its code.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from rljax.search.beam import step_keys
from rljax.search.cost import Cost
from rljax.search.steps import Sample, Steps
from rljax.search.values import Value
from rljax.types import Key

T = TypeVar("T")


class Turns(NamedTuple):
    """K turns of each of several texts, and which are the best.

    Shape letters: E texts; row = text * K + number of the turn.
    """

    steps: Steps  # of all rows
    values: np.ndarray  # float32 [E, K]
    best: np.ndarray  # int32 [E], number of the turn; -1 where none finished
    states: tuple[Any, Any]  # of all rows, to go on from
    cost: list[Cost]  # of each text, without what stood there before


def best_of_k(
    sample: Sample, value: Value, start: tuple[Any, Any], keys: Key, k: int
) -> Turns:
    """Samples K turns after each of several texts, and finds the best.

    Args:
      sample: draws turns up to their end tokens: a sampler without delimiters.
      value: V at their ends.
      start: states of both with a row for each text, in order.
      keys: typed PRNG keys [E]; another one at each turn.
      k: K.

    Raises:
      ValueError: if `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    rows = np.repeat(np.arange(len(keys), dtype=np.int32), k)
    drawn = step_keys(keys, 0, rows, np.tile(np.arange(k), len(keys)))
    prefixes, steps = sample(start[0], rows, drawn)
    judged, values = value(start[1], rows, steps)
    values = np.asarray(values).reshape(-1, k)
    cost = [Cost()] * len(keys)
    for row, text in enumerate(rows):
        said, lost = len(steps.ids[row]), int(steps.dropped[row])
        cost[text] = cost[text].plus(Cost(said, said + lost, said))
    chosen = highest(values, steps.finished.reshape(-1, k))
    return Turns(steps, values, chosen, (prefixes, judged), cost)


def highest(values: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The column of the highest value among those allowed, the first of equals.

    Args:
      values: float [E, K].
      allowed: bool [E, K].

    Returns:
      int32 [E]; -1 where nothing is allowed.
    """
    found = np.where(allowed, values, -np.inf).argmax(axis=1)
    return np.where(allowed.any(axis=1), found, -1).astype(np.int32)


def majority(
    finals: Sequence[T | None], same: Callable[[T, T], bool] = operator.eq
) -> int:
    """The vote over final answers.

    Args:
      finals: what each text says in the end; None has no vote.
      same: whether two of them are one answer. Each joins the first that it equals.

    Returns:
      Index of the first text that gives the answer with the most votes, the first of
      equals; -1 if there is no vote.
    """
    groups: list[tuple[int, T, int]] = []  # first index, its answer, votes
    for index, final in enumerate(finals):
        if final is None:
            continue
        for place, (first, known, votes) in enumerate(groups):
            if same(known, final):
                groups[place] = (first, known, votes + 1)
                break
        else:
            groups.append((index, final, 1))
    return max(groups, key=lambda group: group[2], default=(-1, None, 0))[0]
