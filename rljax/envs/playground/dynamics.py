"""What a command does: moving, grasping, releasing, growing, in a plane.

Everything here is pure and unbatched, made of comparisons between the few objects of
a scene, so that it is cheap under vmap. Facts of the reference's behaviour are those
of flowersteam/WorldLLM, commit f2c1029; departures are said where they happen.

Shapes: O object slots, I inventory places, H commands remembered, W name ids, C
colours, G single goals. Command slots: 0 "Grasp", 1..O "Go to" the object of a slot,
O + 1..O + I "Release" what is in a place, O + I + 1 "Release all".
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.playground.goals import GROW, Goals
from rljax.envs.playground.types import Observation
from rljax.envs.playground.worlds import World
from rljax.types import Outcome

AGENT_SIZE = 0.05
GROWTH = 0.04  # what a thing's size gains while the step in which it grew lasts
_BEGINS, _FEEDS_ALONE, _FEEDS_IN_PAIRS = 1, 2, 4  # bits of the relation table


@flax.struct.dataclass
class State:
    """A scene in play.

    Attributes:
      kind: int16 [O], `type * C + colour`, -1 for a slot empty or eaten.
      grown: bool [O].
      held: bool [O].
      on: bool [O], the agent stands on it; never a held one.
      position: float32 [O, 2]; what is held is where the agent is.
      size: float32 [O], diameters.
      agent: float32 [2].
      closed: bool [], whether the last command left the gripper closed.
      goal: int16 [2].
      first_reached: bool [], the first goal of a sequence has been reached.
      steps: int32 [], steps taken.
      history: int16 [H], command ids as in `Observation`.
    """

    kind: jax.Array
    grown: jax.Array
    held: jax.Array
    on: jax.Array
    position: jax.Array
    size: jax.Array
    agent: jax.Array
    closed: jax.Array
    goal: jax.Array
    first_reached: jax.Array
    steps: jax.Array
    history: jax.Array


class Dynamics(NamedTuple):
    """The pure functions of a world."""

    step: Callable[[State, jax.Array], tuple[State, Outcome]]
    observe: Callable[[State], Observation]


class _Tables(NamedTuple):
    """A world by name id; goals as bits."""

    relation: np.ndarray  # uint8 [W, W]
    put_down: np.ndarray  # bool [W]
    fitting: np.ndarray  # uint32 [W, ceil(G / 32)], goals each object fits
    grow_goals: np.ndarray  # uint32 [ceil(G / 32)], which of them are Grow goals


def dynamics(world: World, goals: Goals, inventory: int, limit: int) -> Dynamics:
    """How a world moves.

    Args:
      world: its table.
      goals: its single goals.
      inventory: I, how many objects can be held.
      limit: steps of an episode without success.

    Returns:
      `step` and `observe`.

    Raises:
      ValueError: if `inventory` or `limit` is below 1, or if a category grows by
        pairs in more than one way.
    """
    if inventory < 1:
        raise ValueError(f"inventory must be at least 1, got {inventory}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1 step, got {limit}")
    tables = _Tables(
        relation=_relations(world),
        put_down=_put_down(world),
        fitting=_pack(goals.match),
        grow_goals=_pack((goals.kind == GROW)[None])[0],
    )

    def step(state: State, action: jax.Array) -> tuple[State, Outcome]:
        chex.assert_rank(action, 0)
        names = jnp.maximum(_names(state), 0).astype(jnp.int32)
        reached, grew = _act(world, tables, inventory, state, names, action)
        words = _achieved(tables, names, reached.held, grew)
        first = state.first_reached | _holds(words, state.goal[0])
        second = (state.goal[1] < 0) | _holds(words, jnp.maximum(state.goal[1], 0))
        success = first & second
        steps = state.steps + 1
        outcome = Outcome(
            reward=success.astype(jnp.float32),
            terminated=success,
            truncated=~success & (steps >= limit),
            achieved=_unpack(words, goals.size),
        )
        return dataclasses.replace(reached, first_reached=first, steps=steps), outcome

    def observe(state: State) -> Observation:
        rank, _ = _rank(state.held)
        slots = jnp.arange(1, state.held.shape[0] + 1)
        here = state.held & (rank == jnp.arange(inventory)[:, None])
        held = jnp.sum(jnp.where(here, slots, 0), 1) - 1
        # Copies, so that a state can be donated while its observation lives on.
        return Observation(
            names=_names(state),
            held=held.astype(jnp.int8),
            on=jnp.copy(state.on),
            goal=jnp.copy(state.goal),
            history=jnp.copy(state.history),
        )

    return Dynamics(step, observe)


def _act(
    world: World, tables: _Tables, inventory: int, state: State, names, action
) -> tuple[State, jax.Array]:
    """Carries out a command: the scene after it, and what grew, bool [O]."""
    slots = state.kind.shape[0]
    relation = jnp.asarray(tables.relation)[names[:, None], names[None]]
    present = state.kind >= 0
    lying = present & ~state.held
    place = action - slots - 1
    rank, count = _rank(state.held)
    released = state.held & jnp.where(
        place == inventory, count > 1, (place >= 0) & (rank == place)
    )
    asked = lying & (jnp.arange(slots) == action - 1)
    agent = _go(relation, lying, asked, state)

    # Grasp: what is in reach, by slots, while there is a place.
    grasping = (action == 0) & (count < inventory)
    reach = lying & grasping & near(state.position, agent, state.size, AGENT_SIZE)
    held = state.held | (reach & (_rank(reach)[0] + count < inventory))
    position = jnp.where(held[:, None], agent, state.position)

    sizes = state.size[:, None], state.size[None]
    touching = near(position[:, None], position[None], *sizes)
    touching &= present[:, None] & present[None] & ~jnp.eye(slots, dtype=bool)
    grew, eaten = _growth(world, relation, touching, held, released)
    if world.release_drops:
        held &= ~released
    if world.put_down_by_growth:
        held &= ~(grew & jnp.asarray(tables.put_down)[names])
    held &= ~eaten
    size = state.size + jnp.where(grew, GROWTH, 0)
    reached = dataclasses.replace(
        state,
        kind=jnp.where(eaten, -1, state.kind).astype(state.kind.dtype),
        grown=state.grown | grew,
        held=held,
        on=present & ~eaten & ~held & near(position, agent, size, AGENT_SIZE),
        position=position,
        agent=agent,
        closed=grasping & ~jnp.any(eaten),
        history=_remember(state, names, rank, action, inventory, world.num_names),
    )
    return reached, grew


def _go(relation, lying, asked, state: State) -> jax.Array:
    """Where the agent goes: to the first thing lying whose name begins as asked."""
    begins = asked[:, None] & ((relation & _BEGINS) > 0)
    target = _first(lying & jnp.any(begins, 0))
    there = jnp.sum(jnp.where(target[:, None], state.position, 0), 0)
    return jnp.where(jnp.any(target), there, state.agent)


def _growth(world, relation, touching, held, released):
    """Which slots grow, and which are eaten by that: bool [O], bool [O].

    Where supplies are eaten, one thing grows in a step, that of the first slot, so
    that nothing is eaten twice; others that touch food lying about grow in the steps
    that follow. (The reference lets each look in turn.)
    """
    alone = touching & ((relation & _FEEDS_ALONE) > 0)
    pairs = touching & ((relation & _FEEDS_IN_PAIRS) > 0)
    has_pairs = any(growth.count == 2 for growth in world.growths)
    by_two = jnp.zeros_like(held)
    if world.grows_in_hand:
        if has_pairs:
            by_two = jnp.sum(pairs, 1) >= 2
        eaten_by_two = pairs & (_rank(pairs)[0] < 2)
    else:
        count = jnp.sum(released)
        free = ~held | (released & (count == 1))
        alone &= free[:, None] & free[None]
        given = pairs & released
        lying = _first(pairs & ~held)
        if has_pairs:
            both_given = ~held & (jnp.sum(given, 1) == 2)
            with_it = released & jnp.any(given, 1) & jnp.any(lying, 1)
            by_two = (count == 2) & (both_given | with_it)
        eaten_by_two = given | (released[:, None] & lying)
    grew = by_two | jnp.any(alone, 1)
    if not world.supply_consumed:
        return grew, jnp.zeros_like(held)
    grew = _first(grew)
    eats = jnp.where(by_two[:, None], eaten_by_two, _first(alone))
    return grew, jnp.any(grew[:, None] & eats, 0)


def _names(state: State) -> jax.Array:
    names = state.kind * 2 + state.grown
    return jnp.where(state.kind < 0, -1, names).astype(jnp.int16)


def near(a, b, size_a, size_b) -> jax.Array:
    """Whether discs of two sizes at two places [..., 2] overlap, bool [...]."""
    gap = a - b
    reach = (size_a + size_b) / 2
    return gap[..., 0] ** 2 + gap[..., 1] ** 2 < reach**2


def _rank(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many are chosen before each slot, [..., O], and in all, [...]."""
    slots = np.arange(chosen.shape[-1])
    before = chosen[..., None, :] & (slots[None] < slots[:, None])
    return jnp.sum(before, -1), jnp.sum(chosen, -1)


def _first(chosen: jax.Array) -> jax.Array:
    """The first chosen slot alone, bool [..., O]."""
    slots = np.arange(chosen.shape[-1])
    before = chosen[..., None, :] & (slots[None] < slots[:, None])
    return chosen & ~jnp.any(before, -1)


def _achieved(tables: _Tables, names, held, grew) -> jax.Array:
    """Goals that hold, as bits: uint32 [ceil(G / 32)]."""
    grow_goals = tables.grow_goals
    held, grew = held[:, None], grew[:, None]
    counts = jnp.where(held, ~grow_goals, 0) | jnp.where(grew, grow_goals, 0)
    fitting = jnp.asarray(tables.fitting)[names]
    return jax.lax.reduce(fitting & counts, np.uint32(0), jax.lax.bitwise_or, (0,))


def _holds(words: jax.Array, goal: jax.Array) -> jax.Array:
    goal = goal.astype(jnp.int32)
    return (words[goal // 32] >> (goal % 32).astype(jnp.uint32)) & 1 > 0


def _remember(state, names, rank, action, inventory, num_names) -> jax.Array:
    if state.history.shape[0] == 0:
        return state.history
    slots = names.shape[0]
    gone_to = jnp.sum(jnp.where(jnp.arange(slots) == action - 1, names, 0))
    place = action - slots - 1
    let_go = jnp.sum(jnp.where(state.held & (rank == place), names, 0))
    command = jnp.where(
        action <= slots,
        jnp.where(action == 0, 0, 2 + gone_to),
        jnp.where(place == inventory, 1, 2 + num_names + let_go),
    )
    return jnp.append(state.history[1:], command.astype(jnp.int16))


def _relations(world: World) -> np.ndarray:
    """uint8 [W, W]: the row's name begins the column's; the column makes it grow."""
    colours = len(world.colours)
    kinds = [world.types[name // 2 // colours] for name in range(world.num_names)]
    grown = np.arange(world.num_names) % 2 == 1
    table = world.starts_with.astype(np.uint8) * _BEGINS
    in_pairs = [growth.grows for growth in world.growths if growth.count == 2]
    for category in in_pairs:
        if in_pairs.count(category) > 1:
            raise ValueError(
                f"world {world.name}: {category!r} grows by pairs in "
                f"{in_pairs.count(category)} ways; the limit is 1"
            )
    for growth in world.growths:
        grows = np.array([kind in world.members(growth.grows) for kind in kinds])
        feeds = np.array([kind in world.members(growth.by) for kind in kinds])
        if growth.grown:
            feeds &= grown
        bit = _FEEDS_ALONE if growth.count == 1 else _FEEDS_IN_PAIRS
        table |= np.outer(grows & ~grown, feeds).astype(np.uint8) * bit
    return table.astype(np.uint8)


def _put_down(world: World) -> np.ndarray:
    colours = len(world.colours)
    kinds = [world.types[name // 2 // colours] for name in range(world.num_names)]
    leaving = [world.members(category) for category in world.put_down_by_growth]
    return np.array([any(kind in types for types in leaving) for kind in kinds])


def _pack(table: np.ndarray) -> np.ndarray:
    """bool [..., G] as bits, uint32 [..., ceil(G / 32)]."""
    size = -(-table.shape[-1] // 32) * 32
    padded = np.zeros((*table.shape[:-1], size), np.uint32)
    padded[..., : table.shape[-1]] = table
    bits = padded.reshape(*table.shape[:-1], -1, 32) << np.arange(32, dtype=np.uint32)
    return np.bitwise_or.reduce(bits, -1)


def _unpack(words: jax.Array, size: int) -> jax.Array:
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    return bits.reshape(-1)[:size] > 0
