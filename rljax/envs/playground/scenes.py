"""Scenes: random ones in which the goal can be reached, and ones given by hand.

Shapes: O object slots, I inventory places, H commands remembered, T types, C colours.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.playground.dynamics import AGENT_SIZE, State, near
from rljax.envs.playground.recipes import Recipes
from rljax.envs.playground.worlds import World
from rljax.types import Key

APART = 0.3  # least distance between the centres of two objects of a new scene
_TRIES = 16  # places drawn for an object; see `_positions`


class Thing(NamedTuple):
    """An object of a scene given by hand."""

    kind: str
    colour: str
    position: tuple[float, float]
    size: float | None = None  # the middle of the world's sizes
    grown: bool = False
    held: bool = False


def random_scene(
    world: World, recipes: Recipes, num_objects: int, history: int = 0
) -> Callable[[Key, jax.Array], State]:
    """A function that draws scenes.

    The objects of a plan for the goal come first, then others at random: a category,
    a type of it, a colour, each uniformly. Slots are then shuffled (the reference
    lists the goal's object first, which gives it away). Places are uniform among
    those at least `APART` from the objects already there; the agent starts at (0, 0).

    Args:
      world: its table.
      recipes: the plans of its goals.
      num_objects: O.
      history: H.

    Returns:
      (key, goal [2]) -> State. The goal must fit, see `recipes.check_fit`.

    Raises:
      ValueError: if more objects are asked for than surely fit the plane.
    """
    if num_objects < 1 or _side(num_objects) * APART > 2:
        raise ValueError(
            f"num_objects must be between 1 and {int(2 / APART) ** 2}, "
            f"got {num_objects}"
        )
    fill = len(recipes.counts) - len(world.categories)
    least, most = world.sizes

    def scene(key: Key, goal: jax.Array) -> State:
        # One call for all, since every call of the generator takes long to compile.
        draws = jax.random.uniform(key, (2 + num_objects * (5 + 2 * _TRIES + 2),))
        by_slot, by_place = jnp.split(draws[2:], [5 * num_objects])
        by_category, by_type, by_colour, by_order, by_size = by_slot.reshape(5, -1)
        wants, colours = _wants(recipes, goal.astype(jnp.int32), draws, num_objects)
        category = fill + _below(by_category, len(world.categories))
        row = jnp.where(wants < 0, category, wants)
        which = _below(by_type, jnp.asarray(recipes.counts)[row])
        types = jnp.asarray(recipes.members)[row, which].astype(jnp.int32)
        any_colour = _below(by_colour, len(world.colours))
        colour = jnp.where(colours < 0, any_colour, colours)
        kind = types * len(world.colours) + colour
        return _start(
            kind=kind[_permutation(by_order)],
            position=_positions(by_place.reshape(num_objects, -1, 2) * 2 - 1),
            size=least + (most - least) * by_size,
            goal=goal,
            history=history,
        )

    return scene


def given_scene(
    world: World,
    things: Sequence[Thing],
    goal: np.ndarray,
    num_objects: int,
    history: int = 0,
    agent: tuple[float, float] = (0.0, 0.0),
) -> State:
    """A scene given by hand (host).

    Args:
      world: its table.
      things: the objects, one per slot in this order.
      goal: int16 [2], see `Goals.parse`.
      num_objects: O, slots; those left are empty.
      history: H.
      agent: where the agent starts.

    Returns:
      The state before the first step.

    Raises:
      ValueError: if there are more objects than slots, or one that the world lacks.
    """
    if len(things) > num_objects:
        raise ValueError(
            f"a scene of {len(things)} objects does not fit num_objects {num_objects}"
        )
    for thing in things:
        if thing.kind not in world.types or thing.colour not in world.colours:
            raise ValueError(
                f"world {world.name} has no {thing.colour!r} {thing.kind!r}"
            )
    middle = sum(world.sizes) / 2
    kind = np.full(num_objects, -1)
    position = np.full((num_objects, 2), 9.0, np.float32)
    size = np.full(num_objects, middle, np.float32)
    grown, held = np.zeros(num_objects, bool), np.zeros(num_objects, bool)
    for slot, thing in enumerate(things):
        kind[slot] = world.name_id(thing.kind, thing.colour) // 2
        position[slot] = agent if thing.held else thing.position
        size[slot] = middle if thing.size is None else thing.size
        grown[slot], held[slot] = thing.grown, thing.held
    return _start(
        kind=jnp.asarray(kind),
        position=jnp.asarray(position),
        size=jnp.asarray(size),
        goal=jnp.asarray(goal),
        history=history,
        agent=agent,
        grown=jnp.asarray(grown),
        held=jnp.asarray(held),
    )


def _start(
    kind, position, size, goal, history, agent=(0.0, 0.0), grown=None, held=None
) -> State:
    none = jnp.zeros(kind.shape, bool)
    held = none if held is None else held
    place = jnp.asarray(agent, jnp.float32)
    return State(
        kind=kind.astype(jnp.int16),
        grown=none if grown is None else grown,
        held=held,
        on=(kind >= 0) & ~held & near(position, place, size, AGENT_SIZE),
        position=position,
        size=size,
        agent=place,
        closed=jnp.bool_(False),
        goal=goal.astype(jnp.int16),
        first_reached=jnp.bool_(False),
        steps=jnp.int32(0),
        history=jnp.full(history, -1, jnp.int16),
    )


def _wants(recipes: Recipes, goal, draws, num_objects) -> tuple[jax.Array, jax.Array]:
    """The set of types and the colour wanted in each slot, -1 for any: int32 [O] x 2.

    A plan is drawn for each half of the goal, among those that leave room for the
    shortest of the other half's.
    """
    length, types = jnp.asarray(recipes.length), jnp.asarray(recipes.types)
    colour = jnp.asarray(recipes.colour)
    first, second = goal[0], jnp.maximum(goal[1], 0)
    reserve = jnp.where(goal[1] < 0, 0, jnp.asarray(recipes.least)[second])
    plan = _draw(recipes, first, num_objects - reserve, draws[0])
    taken = length[first, plan]
    plan_2 = _draw(recipes, second, num_objects - taken, draws[1])
    extra = jnp.where(goal[1] < 0, 0, length[second, plan_2])

    slots = jnp.arange(num_objects)
    last = types.shape[2] - 1
    wants = jnp.where(
        slots < taken,
        types[first, plan][jnp.minimum(slots, last)],
        jnp.where(
            slots < taken + extra,
            types[second, plan_2][jnp.clip(slots - taken, 0, last)],
            -1,
        ),
    )
    at_second = (slots == taken) & (extra > 0)
    colours = jnp.where(slots == 0, colour[first], -1)
    return wants.astype(jnp.int32), jnp.where(at_second, colour[second], colours)


def _draw(recipes: Recipes, goal, room, draw) -> jax.Array:
    fits = jnp.asarray(recipes.length)[goal] <= room
    total = jnp.cumsum(jnp.where(fits, jnp.asarray(recipes.weight)[goal], 0))
    return jnp.sum(draw * total[-1] >= total)


def _below(draw: jax.Array, count) -> jax.Array:
    return jnp.floor(draw * count).astype(jnp.int32)


def _permutation(draws: jax.Array) -> jax.Array:
    """The rank of each draw; equal draws keep their order."""
    slots = jnp.arange(draws.shape[0])
    less = draws < draws[:, None]
    tied = (draws == draws[:, None]) & (slots < slots[:, None])
    return jnp.sum(less | tied, 1)


def _positions(draws: jax.Array) -> jax.Array:
    """Places at least `APART` from one another, float32 [O, 2].

    Each object takes the first of a few places drawn that is free. Should none be
    (once in 60,000 scenes of 8 objects), the whole scene is laid on a grid with room
    to stray, so that nothing is drawn until it fits.

    Args:
      draws: float32 [O, tries + 1, 2], uniform in [-1, 1); the last is for the grid.
    """
    num_objects, tries = draws.shape[0], draws.shape[1] - 1
    side = _side(num_objects)
    index = jnp.arange(tries)
    placed, fits = draws[:1, 0], jnp.bool_(True)
    for places in draws[1:, :tries]:
        gap = places[:, None] - placed[None]
        free = jnp.all(jnp.sum(gap**2, -1) >= APART**2, 1)
        first = jnp.min(jnp.where(free, index, tries))
        chosen = jnp.sum(jnp.where((index == first)[:, None], places, 0), 0)
        placed = jnp.concatenate([placed, chosen[None]])
        fits &= first < tries
    cell = 2 / side
    centre = jnp.stack(jnp.divmod(jnp.arange(num_objects), side), -1) + 0.5
    strayed = draws[:, tries] * (cell - APART) / 2
    return jnp.where(fits, placed, centre * cell - 1 + strayed)


def _side(num_objects: int) -> int:
    return math.ceil(math.sqrt(num_objects))
