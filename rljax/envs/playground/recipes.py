"""What a scene must hold so that a goal can be reached, worked out from the tables.

A want is a set of types and perhaps a colour; a plan is the wants that make a goal
feasible, its target first: to grow a red cow takes a red cow, a plant, and water for
the plant. Host code, run once.

Shapes: G single goals, R plans of a goal, L wants of a plan, U sets of types.
"""

import dataclasses
import itertools

import numpy as np

from rljax.envs.playground.goals import Goals
from rljax.envs.playground.worlds import World

Plan = tuple[frozenset[str], ...]


@dataclasses.dataclass(frozen=True)
class Recipes:
    """The plans of every single goal, as arrays.

    Attributes:
      members: int16 [U, T], types of each set, padded; the last K sets are the
        world's categories.
      counts: int32 [U], how many.
      weight: float32 [G, R], how often a plan is drawn; 0 where there is none.
      length: int32 [G, R], wants of the plan.
      types: int16 [G, R, L], set of types of each want; -1 for any object.
      colour: int16 [G], the target's colour, -1 for any.
      least: int32 [G], wants of the shortest plan; 0 if the goal has none.
    """

    members: np.ndarray
    counts: np.ndarray
    weight: np.ndarray
    length: np.ndarray
    types: np.ndarray
    colour: np.ndarray
    least: np.ndarray


def recipes_of(world: World, goals: Goals, inventory: int) -> Recipes:
    """The plans of every single goal of a world.

    Ways to grow the target are drawn so: first uniformly among the kinds of growing
    things the goal allows (plant, small herbivore, ...), then uniformly among the
    ways to grow that kind.

    Args:
      world: its table.
      goals: its goals.
      inventory: I; with one place, growths that need two things in hand are out.

    Returns:
      The plans.
    """
    plans = [_goal_plans(world, text, inventory) for text in goals.texts]
    everything = frozenset(world.types)
    sets = sorted(
        {want for ways in plans for _, plan in ways for want in plan} - {everything},
        key=sorted,
    )
    rows = [*sets, *(frozenset(types) for _, types in world.categories)]
    members = np.zeros((len(rows), len(world.types)), np.int16)
    for row, types in zip(members, rows, strict=True):
        row[: len(types)] = sorted(world.types.index(kind) for kind in types)
    most = max(len(ways) for ways in plans)
    longest = max(len(plan) for ways in plans for _, plan in ways)
    weight = np.zeros((goals.size, most), np.float32)
    length = np.zeros((goals.size, most), np.int32)
    types = np.full((goals.size, most, longest), -1, np.int16)
    for goal, ways in enumerate(plans):
        for i, (share, plan) in enumerate(ways):
            weight[goal, i], length[goal, i] = share, len(plan)
            for j, want in enumerate(plan):
                types[goal, i, j] = -1 if want == everything else sets.index(want)
    return Recipes(
        members=members,
        counts=np.array([len(types) for types in rows], np.int32),
        weight=weight,
        length=length,
        types=types,
        colour=np.array([_colour(world, text) for text in goals.texts], np.int16),
        least=np.array(
            [min((len(plan) for _, plan in ways), default=0) for ways in plans],
            np.int32,
        ),
    )


def check_fit(
    goals: Goals, recipes: Recipes, pairs: np.ndarray, num_objects: int
) -> None:
    """Raises unless every goal of `pairs` fits a scene.

    Args:
      goals: the world's goals.
      recipes: their plans.
      pairs: int16 [M, 2].
      num_objects: O.

    Raises:
      ValueError: for the goal that needs most, naming it and what it needs.
    """
    least = recipes.least
    cannot = (least[pairs[:, 0]] == 0) | (
        (pairs[:, 1] >= 0) & (least[pairs[:, 1]] == 0)
    )
    if cannot.any():
        text = goals.text(pairs[np.argmax(cannot)])
        raise ValueError(f"goal {text!r} takes two things in hand; inventory is 1")
    needs = needed(recipes, pairs)
    if needs.max() > num_objects:
        raise ValueError(
            f"goal {goals.text(pairs[np.argmax(needs)])!r} needs {needs.max()} "
            f"objects, but num_objects is {num_objects}"
        )


def needed(recipes: Recipes, pairs: np.ndarray) -> np.ndarray:
    """The objects each goal of `pairs` [M, 2] needs at the least, int32 [M]."""
    second = np.where(pairs[:, 1] < 0, 0, recipes.least[pairs[:, 1]])
    return recipes.least[pairs[:, 0]] + second


def _goal_plans(world: World, text: str, inventory: int) -> list[tuple[float, Plan]]:
    verb, *_, noun = text.split(" ")
    types = world.members(noun)
    if verb == "Grasp":
        return [(1.0, (types,))]
    groups = _ways(world, types & world.growable, inventory, depth=0)
    kinds = {plan[0] for plan in groups}
    share = {kind: sum(plan[0] == kind for plan in groups) for kind in kinds}
    return [(1 / len(kinds) / share[plan[0]], plan) for plan in groups]


def _ways(
    world: World, types: frozenset[str], inventory: int, depth: int
) -> list[Plan]:
    """The plans that give a grown thing of one of `types`."""
    if depth > len(world.categories):
        raise ValueError(f"world {world.name}: its growths go in a circle")
    by_rows: dict[tuple[int, ...], list[str]] = {}
    for kind in sorted(types & world.growable):
        rows = tuple(
            i for i, g in enumerate(world.growths) if kind in world.members(g.grows)
        )
        by_rows.setdefault(rows, []).append(kind)
    two_hands = not (world.grows_in_hand and world.release_drops)
    plans: list[Plan] = []
    for rows, kinds in by_rows.items():
        for row in rows:
            growth = world.growths[row]
            if growth.count == 2 and inventory < 2 and two_hands:
                continue
            feed = world.members(growth.by)
            once = [(feed,)]
            if growth.grown:
                once = _ways(world, feed, inventory, depth + 1)
            for some in itertools.combinations_with_replacement(once, growth.count):
                plans.append((frozenset(kinds), *itertools.chain(*some)))
    return plans


def _colour(world: World, text: str) -> int:
    found = [word for word in text.split(" ")[1:] if word in world.colours]
    return world.colours.index(found[0]) if found else -1
