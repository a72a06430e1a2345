"""What the reference environment reports as hindsight, to compare with (host).

It is narrower than what has been achieved: training goals only; Grasp goals only on a
step that closes an open gripper; every goal once an episode; a sequence when its
second goal is reported after a step that reported its first. (Facts of
flowersteam/WorldLLM, commit f2c1029.) Agents do not use it: they relabel from
`Outcome.achieved`.
"""

import dataclasses

import numpy as np

from rljax.envs.playground.goals import GRASP, Goals


@dataclasses.dataclass(frozen=True)
class Report:
    """What has been reported in an episode so far.

    Attributes:
      earlier: bool [G], single goals of earlier steps.
      told: every goal reported, as text.
    """

    earlier: np.ndarray
    told: frozenset[str]


def no_report(goals: Goals) -> Report:
    """The start of an episode."""
    return Report(np.zeros(goals.size, bool), frozenset())


def report(
    goals: Goals, before: Report, achieved: np.ndarray, closes: bool
) -> tuple[Report, list[str]]:
    """The report of one step.

    Args:
      goals: the world's goals.
      before: what earlier steps reported.
      achieved: bool [G], single goals that hold after the step.
      closes: whether the command was "Grasp" and the gripper open before it.

    Returns:
      What has been reported with this step, and this step's goals, sorted.
    """
    now = achieved & goals.train & ((goals.kind != GRASP) | closes)
    sequences = goals.sequence_allowed & before.earlier[:, None] & now[None]
    texts = {goals.texts[goal] for goal in np.flatnonzero(now)}
    texts |= {goals.text(pair) for pair in np.argwhere(sequences)}
    fresh = texts - before.told
    return Report(before.earlier | now, before.told | fresh), sorted(fresh)
