"""Two policies on the same problems: how much better one is, and how sure that is.

Each problem gives a pair of outcomes, right or wrong. Only pairs that differ tell the
policies apart: with x of them for the second policy and y for the first, out of n,

    d = (x - y) / n

and its interval are the differences D that the score test of Tango (1998) does not
reject,

    |x - y - n D| <= z sqrt(n (2 q + D (1 - D))),

where q is the likeliest probability of a pair for the first policy if the difference
were D. Unlike the usual interval it does not shrink to a point where no pair differs.
Source: Tango, 1998, Statistics in Medicine 17:891-908.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054  # 95 %, both sides


class Paired(NamedTuple):
    """What pairs of outcomes say of one group of problems."""

    name: str
    count: int  # problems
    first: float  # share that the first policy gets right
    second: float
    gained: int  # problems that only the second gets right
    lost: int  # problems that only the first gets right
    difference: float  # second - first
    low: float  # of the 95 % interval of the difference
    high: float


def difference(gained: int, lost: int, count: int) -> tuple[float, float, float]:
    """Difference of two shares on the same problems, and its 95 % interval.

    Args:
      gained: problems that only the second policy gets right.
      lost: problems that only the first gets right.
      count: all problems.

    Returns:
      The difference and the ends of its interval, in [-1, 1].

    Raises:
      ValueError: if there is no problem, or more pairs differ than there are.
    """
    if count < 1 or min(gained, lost) < 0 or gained + lost > count:
        raise ValueError(
            f"of {count} problems {gained} were gained and {lost} lost; there must be "
            "one at least, and no more gained and lost than there are"
        )
    middle = (gained - lost) / count
    low = _end(gained, lost, count, middle, -1.0)
    high = _end(gained, lost, count, middle, 1.0)
    return middle, low, high


def compare(name: str, first: np.ndarray, second: np.ndarray) -> Paired:
    """Sums up the outcomes of one group of problems.

    Args:
      name: of the group.
      first: bool [N], which problems the first policy gets right.
      second: bool [N], the second policy on the same problems.

    Raises:
      ValueError: if there is none, or not as many of both.
    """
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"outcomes have shapes {first.shape} and {second.shape}; both must be [N], "
            "of the same problems"
        )
    first, second = first.astype(bool), second.astype(bool)
    gained, lost = int(np.sum(second & ~first)), int(np.sum(first & ~second))
    middle, low, high = difference(gained, lost, len(first))
    return Paired(
        name, len(first), float(first.mean()), float(second.mean()),
        gained, lost, middle, low, high,
    )  # fmt: skip


def by_kind(
    kinds: Sequence[str], first: np.ndarray, second: np.ndarray
) -> list[Paired]:
    """Each kind of problem by itself, what was lost most first.

    Args:
      kinds: of each problem, N of them.
      first: bool [N].
      second: bool [N].

    Returns:
      A comparison for each kind, its difference rising: regressions come first.
    """
    if len(kinds) != len(first):
        raise ValueError(f"{len(kinds)} kinds are given for {len(first)} outcomes")
    named = np.array(kinds, object)
    found = [
        compare(kind, first[named == kind], second[named == kind])
        for kind in dict.fromkeys(kinds)
    ]
    return sorted(found, key=lambda one: (one.difference, one.low))


def _end(gained: int, lost: int, count: int, middle: float, far: float) -> float:
    """The difference, between `middle` and `far`, at which the test begins to reject.

    The statistic is monotone in D, so halving finds it; 60 halvings are all of a
    float's digits.
    """
    near = middle
    for _ in range(60):
        point = (near + far) / 2
        if _score(gained, lost, count, point) <= _Z:
            near = point
        else:
            far = point
    return near


def _score(gained: int, lost: int, count: int, at: float) -> float:
    """How many standard errors the observed difference is from `at`."""
    away = abs(gained - lost - count * at)
    spread = count * (2 * _likeliest(gained, lost, count, at) + at * (1 - at))
    if spread <= 0:
        return 0.0 if away == 0 else math.inf
    return away / math.sqrt(spread)


def _likeliest(gained: int, lost: int, count: int, at: float) -> float:
    """The likeliest chance of a lost problem where the difference is `at`.

    The greater root of 2 n q^2 + b q - y D (1 - D) = 0 with
    b = -x - y + (2 n - x + y) D.
    """
    slope = -gained - lost + (2 * count - gained + lost) * at
    inside = slope * slope + 8 * count * lost * at * (1 - at)
    return (math.sqrt(max(inside, 0.0)) - slope) / (4 * count)
