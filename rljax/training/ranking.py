"""Does a value rank right and wrong steps better than the policy's own log-ratios?

For a step from state s_i to state s_j there are two advantages,

    explicit  A_phi   = V(s_j) - V(s_i)
    implicit  A_theta = sum of beta log(pi / pi_ref) over its tokens,

which at the optimum of OREO are one. Where the first wrong step of an answer is known,
each is asked how well it tells such steps from right ones: by the area under the ROC
curve, and by how often the lowest step of an answer is its first wrong one. Source:
Wang et al., 2024 (arXiv:2412.16145), figure 1, which shows means of single answers.

No step is told the reward: the last one ends before the token that ends the answer,
which leads to R and not to a value. That token is left out of its log-ratio too, so
that both speak of the same tokens. Intervals are of the bootstrap over problems, since
answers to one problem are alike. Shapes: M actions, S steps, K numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

RIGHT, FIRST_WRONG, LATER = 0, 1, 2  # kinds of steps; later ones follow a wrong one
KINDS = {"right": RIGHT, "first wrong": FIRST_WRONG}


class Steps(NamedTuple):
    """Steps of many answers, those of an answer next to each other and in order."""

    problem: np.ndarray  # int [S]
    answer: np.ndarray  # int [S]
    kind: np.ndarray  # int [S], one of those above
    final: np.ndarray  # bool [S], a line that states the answer
    before: np.ndarray  # float [S], V of the state that the step begins in
    after: np.ndarray  # float [S], V of the state that it ends in
    log_ratio: np.ndarray  # float [S], sum over its tokens


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Separation(NamedTuple):
    """How well right steps and first wrong ones are told apart."""

    name: str  # of the steps that are looked at
    right: int  # steps
    wrong: int
    explicit: Estimate | None  # area under the curve; None without both kinds
    implicit: Estimate | None
    value: Estimate | None  # of V after the step, by itself
    difference: Estimate | None  # explicit - implicit


class Location(NamedTuple):
    """How often the lowest step of a wrong answer is its first wrong one."""

    answers: int
    explicit: Estimate | None  # None without wrong answers
    implicit: Estimate | None
    difference: Estimate | None
    chance: float | None  # of a step drawn at random


def of_answer(
    number: np.ndarray, value: np.ndarray, log_ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each step of an answer is measured by.

    Args:
      number: int [M], step of each action, never falling. The last action is left out.
      value: float [M], V before each action.
      log_ratio: float [M].

    Returns:
      V before, V after and the log-ratio of each step, float64 [S].

    Raises:
      ValueError: if shapes disagree or a number falls.
    """
    if not number.shape == value.shape == log_ratio.shape or np.any(
        np.diff(number) < 0
    ):
        raise ValueError(
            f"steps {number.shape}, values {value.shape} and log-ratios "
            f"{log_ratio.shape} must all be [M], and steps may not fall"
        )
    first = np.flatnonzero(np.diff(number, prepend=number[:1] - 1))
    end = np.append(first[1:], len(number) - 1)
    value = value.astype(np.float64)
    so_far = np.append(0.0, np.cumsum(log_ratio, dtype=np.float64))
    return value[first], value[end], so_far[end] - so_far[first]


def auc(
    score: np.ndarray, wrong: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """Area under the ROC curve of low scores as a sign of wrong steps.

        P(score of a wrong step < score of a right one) + P(equal) / 2

    the statistic of Mann and Whitney, for steps that count `weight` times.

    Args:
      score: float [S].
      wrong: bool [S].
      weight: float [S], at least 0; 1 unless given.

    Returns:
      Within [0, 1]; NaN where one of both kinds has no weight.
    """
    weight = np.ones(len(score)) if weight is None else weight
    _, place = np.unique(score, return_inverse=True)
    return _area(place, wrong, weight)


def separate(
    name: str, steps: Steps, beta: float, resamples: int, seed: int
) -> Separation:
    """Tells right steps from first wrong ones, by three scores.

    Args:
      name: of these steps.
      steps: later ones are not looked at.
      beta: of the implicit advantage.
      resamples: of the bootstrap, at least 1.
      seed: of the bootstrap.
    """
    steps = Steps(*(x[steps.kind != LATER] for x in steps))
    wrong = steps.kind == FIRST_WRONG
    count = int(np.sum(~wrong)), int(np.sum(wrong))
    if not all(count):
        return Separation(name, *count, None, None, None, None)
    scores = steps.after - steps.before, beta * steps.log_ratio, steps.after
    places = [np.unique(score, return_inverse=True)[1] for score in scores]

    def measure(weight):
        found = [_area(place, wrong, weight) for place in places]
        return np.array([*found, found[0] - found[1]])

    return Separation(
        name, *count, *_bootstrap(measure, steps.problem, resamples, seed)
    )


def locate(steps: Steps, resamples: int, seed: int) -> Location:
    """Looks for the first wrong step of each answer that has one.

    All steps of the answer are candidates, those after the wrong one included. Of k
    lowest steps that are equal each is taken as one k-th.

    Args:
      steps: of whole answers.
      resamples: of the bootstrap, at least 1.
      seed: of the bootstrap.
    """
    has = np.isin(steps.answer, steps.answer[steps.kind == FIRST_WRONG])
    steps = Steps(*(x[has] for x in steps))
    if not len(steps.answer):
        return Location(0, None, None, None, None)
    wrong = steps.kind == FIRST_WRONG
    _, answer = np.unique(steps.answer, return_inverse=True)
    explicit = _lowest(steps.after - steps.before, answer)[wrong]
    implicit = _lowest(steps.log_ratio, answer)[wrong]
    shares = np.stack([explicit, implicit, explicit - implicit])

    def measure(weight):
        return shares @ weight / np.sum(weight)

    one, other, between = _bootstrap(measure, steps.problem[wrong], resamples, seed)
    chance = float(np.mean(1 / np.bincount(answer)))
    return Location(int(np.sum(wrong)), one, other, between, chance)


def means(steps: Steps, beta: float) -> dict[str, dict[str, float]]:
    """Means over the steps of each kind, as in the paper's figure 1.

    Args:
      steps: any; kinds that they lack are left out.
      beta: of the implicit advantage.
    """
    columns = {
        "explicit": steps.after - steps.before,
        "implicit": beta * steps.log_ratio,
        "before": steps.before,
        "after": steps.after,
    }
    return {
        name: {key: float(np.mean(x[steps.kind == kind])) for key, x in columns.items()}
        for name, kind in KINDS.items()
        if np.any(steps.kind == kind)
    }


def _area(place: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> float:
    """`auc` of scores that are given by their places, equal ones by the same."""
    size = int(place.max()) + 1
    low = np.bincount(place, weight * wrong, size)
    high = np.bincount(place, weight * ~wrong, size)
    pairs = np.sum(low) * np.sum(high)
    if not pairs:
        return float("nan")
    above = np.sum(high) - np.cumsum(high)
    return float(np.sum(low * (above + high / 2)) / pairs)


def _lowest(score: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """1 / k for each of the k lowest steps of an answer, 0 for the others, [S]."""
    least = np.full(int(answer.max()) + 1, np.inf)
    np.minimum.at(least, answer, score)
    lowest = score == least[answer]
    return lowest / np.bincount(answer, lowest)[answer]


def _bootstrap(
    measure: Callable[[np.ndarray], np.ndarray],
    problem: np.ndarray,
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """K numbers of weighted steps, with intervals over problems drawn anew.

    A resample that lacks one kind of steps gives NaN and says nothing.
    """
    _, problem = np.unique(problem, return_inverse=True)
    count = int(problem.max()) + 1
    draws = np.random.default_rng(seed)
    whole = measure(np.ones(len(problem)))
    found = []
    for _ in range(resamples):
        times = np.bincount(draws.integers(count, size=count), minlength=count)
        found.append(measure(times[problem].astype(np.float64)))
    ends = np.array([x for x in found if np.all(np.isfinite(x))] or [whole])
    low, high = np.quantile(ends, [0.025, 0.975], axis=0)
    return [Estimate(*map(float, row)) for row in zip(whole, low, high, strict=True)]
