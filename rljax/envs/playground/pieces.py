"""The pieces of text a Playground prompt is made from, and which of them a state has.

A piece begins with the separator before it (" red cat", ", red cat", "\nYou see:"),
where tokenizers cut anyway, and holds a whole object name, goal or command. Shapes:
O object slots, I inventory places, K objects stood on, H commands remembered,
S pieces of a prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.playground.types import Observation

GRASP, RELEASE_ALL, GO_TO = 0, 1, 2  # command ids; "Release" follows the names
_ABSENT = -1


class Layout(NamedTuple):
    """How much a prompt holds.

    Attributes:
      num_objects: O.
      inventory: I.
      history: earlier commands shown, at most the H of the observation.
      max_on: K, the most objects the agent can stand on at once; O unless the
        dynamics prove fewer. More than K raise in `describe`, and the device shows
        the first K.
      sequences: whether a goal can be a sequence. Where not, one raises in
        `describe`, and the device shows its first half.
    """

    num_objects: int
    inventory: int
    history: int = 0
    max_on: int | None = None
    sequences: bool = True

    @property
    def on(self) -> int:
        return self.num_objects if self.max_on is None else self.max_on


class Rows(NamedTuple):
    """Where the pieces of each kind begin in the table.

    Goals, objects and commands count on from there by id, the inventory line by the
    number of objects held.
    """

    goal: int  # "Goal: Grow red cat"
    then: int  # " then grasp blue door"
    see: int
    on: int
    inventory: int  # "\nInventory (1/2):"
    nothing: int
    empty: int
    first: int  # " red cat"
    more: int  # ", red cat"
    past: int
    first_command: int  # " Go to red cat"
    more_command: int  # ", Go to red cat"
    action: int


class Pieces(NamedTuple):
    """Every piece, with a text it can come after in a prompt."""

    texts: list[str]
    after: list[str]
    rows: Rows


def command_names(names: Sequence[str]) -> list[str]:
    """The text of every command id; see `Observation.history`."""
    go_to = [f"Go to {name}" for name in names]
    return ["Grasp", "Release all", *go_to, *(f"Release {name}" for name in names)]


def build(names: Sequence[str], goals: Sequence[str], layout: Layout) -> Pieces:
    """All pieces of a world.

    Args:
      names: text of every name id.
      goals: text of every single goal.
      layout: sizes; without history or sequences their pieces are left out.
    """
    commands = command_names(names) if layout.history else []
    then = goals if layout.sequences else []
    held = range(layout.inventory + 1)
    blocks = {
        "goal": ("", [f"Goal: {goal}" for goal in goals]),
        "then": ("nothing", [f" then {goal[0].lower()}{goal[1:]}" for goal in then]),
        "see": ("nothing", ["\nYou see:"]),
        "on": ("nothing", ["\nYou are on:"]),
        "inventory": (
            "nothing",
            [f"\nInventory ({n}/{layout.inventory}):" for n in held],
        ),
        "nothing": ("You see:", [" nothing"]),
        "empty": ("You see:", [" empty"]),
        "first": ("You see:", [f" {name}" for name in names]),
        "more": ("nothing", [f", {name}" for name in names]),
        "past": ("nothing", ["\nPast:"] if layout.history else []),
        "first_command": ("Past:", [f" {command}" for command in commands]),
        "more_command": ("nothing", [f", {command}" for command in commands]),
        "action": ("nothing", ["\nAction:"]),
    }
    rows, texts, after = {}, [], []
    for kind, (before, block) in blocks.items():
        rows[kind] = len(texts)
        texts += block
        after += [before] * len(block)
    return Pieces(texts, after, Rows(**rows))


def visible(observation: Observation) -> jax.Array:
    """Which slots hold an object that is not in the inventory, bool [O]."""
    slots = jnp.arange(len(observation.names), dtype=jnp.int32)
    held = jnp.any(observation.held.astype(jnp.int32)[:, None] == slots, axis=0)
    return (observation.names >= 0) & ~held


def held_names(observation: Observation) -> jax.Array:
    """Name id of the object in each place, -1 for none, int32 [I]."""
    held = observation.held.astype(jnp.int32)
    names = observation.names.astype(jnp.int32)[jnp.maximum(held, 0)]
    return jnp.where(held >= 0, names, _ABSENT)


def earlier(mask: jax.Array) -> jax.Array:
    """How many entries hold before each one, int32 [N]."""
    index = jnp.arange(len(mask))
    return jnp.sum(mask & (index < index[:, None]), axis=1, dtype=jnp.int32)


def of_state(rows: Rows, layout: Layout, observation: Observation) -> jax.Array:
    """The pieces of a state's prompt in order, int32 [S], -1 for none."""
    names = observation.names.astype(jnp.int32)
    seen = visible(observation)
    on = seen & observation.on
    place = jnp.where(on, earlier(on), _ABSENT)
    chosen = place == jnp.arange(layout.on)[:, None]  # [K, O]
    stood = jnp.max(jnp.where(chosen, names, _ABSENT), axis=1)
    held = held_names(observation)
    goal = observation.goal.astype(jnp.int32)
    first = goal[:1] + rows.goal
    parts = [
        first,
        _if(goal[1:] >= 0, goal[1:] + rows.then) if layout.sequences else first[:0],
        jnp.array([rows.see]),
        _list(rows, jnp.where(seen, names, _ABSENT), rows.nothing),
        jnp.array([rows.on]),
        _list(rows, stood, rows.nothing),
        jnp.sum(held >= 0, dtype=jnp.int32)[None] + rows.inventory,
        _list(rows, held, rows.empty),
        _past(rows, layout, observation),
        jnp.array([rows.action]),
    ]
    return jnp.concatenate([part.astype(jnp.int32) for part in parts])


def longest(rows: Rows, layout: Layout, length: np.ndarray) -> int:
    """The most tokens a prompt can have.

    Every part is taken at its longest on its own, but that a held object is not
    seen nor stood on: the count is a bound for any state, and reached whenever the
    longest name is also that of enough objects.

    Args:
      rows: where the pieces begin.
      layout: sizes.
      length: int [n], tokens of each piece.
    """
    ends = [*rows[1:], len(length)]  # kinds stand in the order of the fields
    blocks = zip(rows._fields, rows, ends, strict=True)
    most = {kind: int(max(length[a:b], default=0)) for kind, a, b in blocks}

    def listed(count: int, nothing: str) -> int:
        some = [most["first"] + most["more"] * (n - 1) for n in range(1, count + 1)]
        return max([most[nothing], *some])

    def objects(held: int) -> int:
        seen = layout.num_objects - held
        inventory = length[rows.inventory + held] + listed(held, "empty")
        on = listed(min(seen, layout.on), "nothing")
        return int(listed(seen, "nothing") + on + inventory)

    past = most["past"] + most["first_command"]
    past += most["more_command"] * (layout.history - 1)
    return (
        sum(most[kind] for kind in ("goal", "then", "see", "on", "action"))
        + max(objects(n) for n in range(min(layout.inventory, layout.num_objects) + 1))
        + (past if layout.history else 0)
    )


def _if(condition: jax.Array, rows: jax.Array | int) -> jax.Array:
    return jnp.where(condition, rows, _ABSENT)


def _list(rows: Rows, names: jax.Array, nothing: int) -> jax.Array:
    """Pieces of "a, b, c", or of "nothing" where every name is -1."""
    present = names >= 0
    lead = jnp.where(earlier(present) == 0, rows.first, rows.more)
    some = jnp.any(present)
    return jnp.append(_if(~some, nothing), _if(present, names + lead))


def _past(rows: Rows, layout: Layout, observation: Observation) -> jax.Array:
    """Pieces of "Past: a, b"; none before the first command."""
    remembered = len(observation.history)
    if layout.history > remembered:
        raise ValueError(
            f"history is {layout.history}, the observation remembers {remembered}"
        )
    if not layout.history:
        return jnp.zeros(0, jnp.int32)
    commands = observation.history[remembered - layout.history :].astype(jnp.int32)
    present = commands >= 0
    lead = jnp.where(earlier(present) == 0, rows.first_command, rows.more_command)
    label = _if(jnp.any(present), rows.past)
    return jnp.append(label, _if(present, commands + lead))
