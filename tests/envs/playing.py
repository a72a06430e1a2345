"""Scenes given by hand, in which commands are carried out by their text."""

import functools
from typing import Any

import jax
import numpy as np

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import render, worlds
from rljax.envs.playground.dynamics import dynamics
from rljax.envs.playground.scenes import Thing, given_scene

SLOTS, INVENTORY = 8, 2
# Places at least 0.6 apart, none near the agent's start at (0, 0).
PLACES = [(-0.8, y) for y in (-0.6, 0.0, 0.6)] + [(0.8, y) for y in (-0.6, 0.0, 0.6)]


@functools.cache
def moves(world, limit=64):
    goals = goals_lib.goals_of(world)
    functions = dynamics(world, goals, INVENTORY, limit)
    return goals, jax.jit(functions.step), jax.jit(functions.observe)


class Play:
    """A scene in which commands are carried out by their text."""

    def __init__(self, world, things, goal, limit=64, history=0):
        self.world = world
        self.goals, self.step, self.observe = moves(world, limit)
        placed = []
        for thing, place in zip(things, PLACES, strict=False):
            if isinstance(thing, str):
                *grown, colour, kind = thing.split()
                thing = Thing(kind, colour, place, grown=bool(grown))
            placed.append(thing)
        goal = self.goals.parse(goal)
        self.state = given_scene(world, placed, goal, SLOTS, history)
        self.outcome: Any = None

    @property
    def observation(self):
        return jax.device_get(self.observe(self.state))

    @property
    def commands(self):
        return render.command_texts(self.world, self.observation)

    @property
    def seen(self):
        return [c[6:] for c in self.commands if c.startswith("Go to")]

    @property
    def held(self):
        seen = self.observation
        return [self.world.names[seen.names[s]] for s in seen.held if s >= 0]

    def do(self, *commands):
        """Carries out commands, all but the last without reward; the last reward."""
        for i, command in enumerate(commands):
            action = np.int32(self.commands.index(command))
            self.state, self.outcome = self.step(self.state, action)
            if i < len(commands) - 1:
                assert not self.outcome.reward, f"reward at {command}"
        return float(self.outcome.reward)

    def fits(self, text):
        return bool(self.outcome.achieved[self.goals.texts.index(text)])


A, B = worlds.world_a(), worlds.world_b()
