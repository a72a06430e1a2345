"""Playground-Text, world A, as one would write it in plain Python.

An object per thing and an object per environment, floats and strings. The rules are
those of `rljax.envs.playground`, and the tests hold the two to the same episodes;
goals are single ones, drawn uniformly by kind.
"""

import dataclasses
import random
from typing import NamedTuple

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground.worlds import World

AGENT_SIZE, GROWTH, APART = 0.05, 0.04, 0.3


@dataclasses.dataclass(slots=True)
class Thing:
    """An object of a scene."""

    kind: str
    name: str  # "red cat"
    x: float
    y: float
    size: float
    grown: bool = False
    held: bool = False
    on: bool = False


class Command(NamedTuple):
    """What can be done: a text, and what it does."""

    text: str
    verb: str  # "grasp", "go", "release", "all"
    target: Thing | None = None


class Seen(NamedTuple):
    """A state as text, but for the goal."""

    body: str  # the prompt after its first line
    commands: list[Command]


class Result(NamedTuple):
    """What came of a step."""

    success: bool
    truncated: bool
    achieved: list[int]  # single goals that hold


class Rules:
    """What a world's tables say, as dictionaries."""

    def __init__(self, world: World, goals: goals_lib.Goals):
        """Reads the tables; `goals` are the world's."""
        self.world, self.goals = world, goals
        self.feeds: dict[str, frozenset[str]] = {
            kind: frozenset() for kind in world.types
        }
        for growth in world.growths:
            for kind in world.members(growth.grows):
                self.feeds[kind] |= world.members(growth.by)
        self.grasped: dict[str, list[int]] = {}
        self.grew: dict[str, list[int]] = {}
        self.fitting: list[list[tuple[str, str]]] = [[] for _ in goals.texts]
        for kind in world.types:
            for colour in world.colours:
                row = goals.match[world.name_id(kind, colour)]
                fits = [goal for goal in range(goals.size) if row[goal]]
                grow = goals.kind == goals_lib.GROW
                name = f"{colour} {kind}"
                self.grasped[name] = [goal for goal in fits if not grow[goal]]
                self.grew[name] = [goal for goal in fits if grow[goal]]
                for goal in fits:
                    if not grow[goal] or self.feeds[kind]:
                        self.fitting[goal].append((kind, colour))
        self.by_kind = [
            [int(goal) for goal, _ in goals_lib.singles(goals, True, kind)]
            for kind in goals_lib.KINDS[:2]
        ]


class Environment:
    """One environment; `begin` before the first step and after the last."""

    def __init__(
        self, rules: Rules, num_objects: int, inventory: int, limit: int, seed: int
    ):
        """Sizes as those of `make`."""
        self.rules, self.inventory, self.limit = rules, inventory, limit
        self.num_objects = num_objects
        self.rng = random.Random(seed)

    def begin(self) -> Seen:
        """A new episode in a scene in which its goal can be reached."""
        rng, rules = self.rng, self.rules
        goal = rng.choice(rng.choice(rules.by_kind))
        kind, colour = rng.choice(rules.fitting[goal])
        wanted = [(kind, colour)]
        if rules.goals.kind[goal] == goals_lib.GROW:
            feed = rng.choice(sorted(rules.feeds[kind]))
            wanted.append((feed, rng.choice(rules.world.colours)))
        while len(wanted) < self.num_objects:
            _, kinds = rng.choice(rules.world.categories)
            wanted.append((rng.choice(kinds), rng.choice(rules.world.colours)))
        rng.shuffle(wanted)
        things: list[Thing] = []
        for kind, colour in wanted:
            x, y = self._free_place(things)
            size = rng.uniform(*rules.world.sizes)
            things.append(Thing(kind, f"{colour} {kind}", x, y, size))
        return self.put(things, goal)

    def put(self, things: list[Thing], goal: int) -> Seen:
        """A new episode in a scene given."""
        self.things, self.goal = things, goal
        self.x = self.y = 0.0
        self.steps = 0
        self._stand()
        return self.see()

    def step(self, command: Command) -> Result:
        """Carries out a command of the last `Seen`."""
        lying = [thing for thing in self.things if not thing.held]
        held = [thing for thing in self.things if thing.held]
        released: list[Thing] = []
        if command.target is not None and command.verb == "go":
            name = command.target.name
            target = next(thing for thing in lying if thing.name.startswith(name))
            self.x, self.y = target.x, target.y
        elif command.verb == "grasp":
            reach = [thing for thing in lying if self._near(thing)]
            for thing in reach[: self.inventory - len(held)]:
                thing.held = True
        elif command.verb == "release" and command.target is not None:
            released = [command.target]
        elif command.verb == "all":
            released = held
        for thing in self.things:
            if thing.held:
                thing.x, thing.y = self.x, self.y
        grew = [thing for thing in self.things if self._grows(thing)]
        for thing in released:
            thing.held = False
        self._stand(grew)
        achieved: list[int] = []
        for thing in self.things:
            if thing.held:
                achieved += self.rules.grasped[thing.name]
        for thing in grew:
            thing.grown = True
            achieved += self.rules.grew[thing.name]
        self.steps += 1
        success = self.goal in achieved
        return Result(success, not success and self.steps >= self.limit, achieved)

    def see(self) -> Seen:
        """The state as text, with the commands it admits."""
        seen = [thing for thing in self.things if not thing.held]
        held = [thing for thing in self.things if thing.held]
        on = [thing for thing in seen if thing.on]
        body = (
            f"You see: {_listed(seen, 'nothing')}\n"
            f"You are on: {_listed(on, 'nothing')}\n"
            f"Inventory ({len(held)}/{self.inventory}): {_listed(held, 'empty')}\n"
            "Action:"
        )
        commands = {"Grasp": Command("Grasp", "grasp")}
        for verb, what, things in (("Go to", "go", seen), ("Release", "release", held)):
            for thing in things:
                text = f"{verb} {thing.name}"
                commands.setdefault(text, Command(text, what, thing))
        if len(held) >= 2:
            commands["Release all"] = Command("Release all", "all")
        return Seen(body, list(commands.values()))

    def _free_place(self, things: list[Thing]) -> tuple[float, float]:
        while True:
            x, y = self.rng.uniform(-1, 1), self.rng.uniform(-1, 1)
            if all((x - t.x) ** 2 + (y - t.y) ** 2 >= APART**2 for t in things):
                return x, y

    def _near(self, thing: Thing, extra: float = 0.0) -> bool:
        reach = (thing.size + extra + AGENT_SIZE) / 2
        return (thing.x - self.x) ** 2 + (thing.y - self.y) ** 2 < reach**2

    def _grows(self, thing: Thing) -> bool:
        feeds = self.rules.feeds[thing.kind]
        if thing.grown or not feeds:
            return False
        for other in self.things:
            if other.kind in feeds and other is not thing:
                reach = (thing.size + other.size) / 2
                gap = (thing.x - other.x) ** 2 + (thing.y - other.y) ** 2
                if gap < reach**2:
                    return True
        return False

    def _stand(self, grew: list[Thing] | None = None) -> None:
        for thing in self.things:
            extra = GROWTH if grew and any(thing is other for other in grew) else 0.0
            thing.on = not thing.held and self._near(thing, extra)


def _listed(things: list[Thing], nothing: str) -> str:
    return ", ".join([thing.name for thing in things]) or nothing
