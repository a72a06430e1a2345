"""What every relabelled item must be: as if the environment had given it."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Goal = tuple[int, int]


class Step(NamedTuple):
    """One step as an environment gives it, its observations as plain values."""

    obs: Any
    action: int
    reward: float
    terminated: bool
    reached: Any


class Item(NamedTuple):
    obs: Any
    action: int
    reward: float
    discount: float
    reached: Any


def check_relabelled(
    items: list[tuple[Goal, Item]],
    replay: Callable[[Goal], list[Step]],
    num_steps: int,
    gamma: float,
) -> collections.Counter:
    """Asserts that each item is one that the environment itself would have given.

    Args:
      items: relabelled items of one episode, with their goals.
      replay: what the environment gives when the episode's actions are taken again
        from its start under a goal, up to success or to the last of the actions.
      num_steps: n.
      gamma: discount of one step.

    Returns:
      How often each (goal, step) was relabelled.
    """
    found = collections.Counter()
    told = {goal: replay(goal) for goal, _ in items}
    for goal, item in items:
        steps, matches = told[goal], []
        for t, start in enumerate(steps):
            span = steps[t : t + num_steps]
            total = sum(gamma**i * step.reward for i, step in enumerate(span))
            discount = 0.0 if span[-1].terminated else gamma ** len(span)
            expected = (start.obs, start.action, span[-1].reached)
            if expected == (item.obs, item.action, item.reached) and np.allclose(
                (total, discount), (item.reward, item.discount), atol=1e-6
            ):
                matches.append(t)
        assert matches, f"{goal} never gives {item}; it gives {steps}"
        # States may look alike: an item counts for the step least told so far.
        found[goal, min(matches, key=lambda t: found[goal, t])] += 1
    return found
