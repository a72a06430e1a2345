"""Success of a policy in parts: by kind of problem, and by length of its answers."""

import re
from collections.abc import Sequence

import numpy as np

from experiments.reasoning import Outcomes
from rljax.envs import verifiers
from rljax.envs.reasoning.problems import Problem
from rljax.training import drift

_MANY = 8  # steps; problems with more of them are one kind


def kind_of(problem: Problem) -> str:
    """The kind a problem is counted under: steps of its solution, or its source.

    Args:
      problem: any.
    """
    lines = [line for line in problem.solution.splitlines() if line.strip()]
    if lines and lines[-1].startswith(verifiers.MARK):
        steps = len(lines) - 1
        if steps >= _MANY:
            return f"{_MANY} steps or more"
        return f"{steps} step{'s' * (steps != 1)}"
    return problem.task.partition("/")[0]


def success(
    panel: str,
    task: str,
    asked: Sequence[Problem],
    found: Outcomes,
    bounds: tuple[float, float],
) -> dict[str, float]:
    """Share of right answers by kind and by length, and how long the answers are.

    Lengths are thirds of the answers in the log that is learnt from, so they are the
    same at every evaluation: where the policy's own answers grow, `share` tells it. A
    part without answers has no success; one kind alone is no part.

    Args:
      panel: what is asked, such as dev.
      task: its name.
      asked: N problems.
      found: an answer to each.
      bounds: of lengths, as of `drift.thirds`.

    Returns:
      `eval/<panel>_by_kind/<task>_<kind>`, `eval/<panel>_by_length/<task>_<third>`, and
      `drift/share/length_<third>` of all answers.
    """
    told = {}

    def tell(part: str, name: str, inside: np.ndarray) -> None:
        if inside.any():
            share = float(found.right[inside].mean())
            told[f"eval/{panel}_by_{part}/{task}_{name}"] = share

    kinds = np.array([_name(kind_of(problem)) for problem in asked], object)
    if len(set(kinds)) > 1:
        for kind in sorted(set(kinds)):
            tell("kind", kind, kinds == kind)
    for name, inside in drift.third_of(found.length, bounds).items():
        tell("length", name, inside)
        told[f"drift/share/length_{name}"] = float(inside.mean())
    return told


def _name(kind: str) -> str:
    """A kind as part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", kind)
