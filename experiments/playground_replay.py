"""Replays episodes recorded from the reference Playground-Text, action by action.

python -m experiments.playground_replay --traces=FILE

At every step the observation, the admissible commands, the hindsight goals and the
reward must equal the recorded ones (lists are compared sorted, without duplicates).
Prints how much was compared; at the first difference prints it and exits with 1.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import reference, render, scenes, worlds
from rljax.envs.playground.dynamics import dynamics
from rljax.envs.playground.pieces import Layout

TRACES = flags.DEFINE_string("traces", None, "Recorded episodes, .jsonl.gz.")

INVENTORY, LIMIT = 2, 64  # the reference's


class DifferenceError(Exception):
    """A step that differs from the recorded one."""


def replay(path: str) -> tuple[int, int]:
    """Replays every episode of a file.

    Args:
      path: gzipped lines of JSON, one episode each.

    Returns:
      Episodes and steps compared.

    Raises:
      DifferenceError: at the first difference, naming episode, step and both sides.
    """
    world = worlds.world_b()
    goals = goals_lib.goals_of(world)
    moves = dynamics(world, goals, INVENTORY, LIMIT)
    step, observe = jax.jit(moves.step), jax.jit(moves.observe)
    episodes = steps = 0
    for number, row in enumerate(_rows(path), start=1):
        objects = [_thing(thing) for thing in row["objects"]]
        layout = Layout(len(objects), INVENTORY)
        goal = goals.parse(row["goal"])
        agent = tuple(row["agent_pos"])
        state = scenes.given_scene(world, objects, goal, len(objects), agent=agent)
        report = reference.no_report(goals)
        observation = jax.device_get(observe(state))
        commands = render.command_texts(world, observation)
        _compare(
            f"{path}:{number} before the first step",
            _shown(world, goals, layout, observation, commands, [], 0.0),
            (row["obs0"], row["actions0"], row["hindsight0"], 0.0),
        )
        for index, recorded in enumerate(row["steps"], start=1):
            action = recorded["action"]
            closes = action == "Grasp" and not bool(state.closed)
            state, outcome = step(state, np.int32(commands.index(action)))
            observation, outcome = jax.device_get((observe(state), outcome))
            achieved = np.asarray(outcome.achieved)
            report, hindsight = reference.report(goals, report, achieved, closes)
            commands = render.command_texts(world, observation)
            reward = float(outcome.reward)
            _compare(
                f"{path}:{number} step {index}, {action!r}, goal {row['goal']!r}",
                _shown(world, goals, layout, observation, commands, hindsight, reward),
                (
                    recorded["obs"],
                    recorded["possible_actions"],
                    recorded["hindsight"],
                    recorded["reward"],
                ),
            )
            steps += 1
        episodes += 1
    return episodes, steps


def _rows(path: str) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


def _thing(recorded: dict[str, Any]) -> scenes.Thing:
    return scenes.Thing(
        kind=recorded["type"],
        colour=recorded["color"],
        position=tuple(recorded["pos"]),
        size=recorded["size"],
        grown=recorded["grown"],
        held=recorded["grasped"],
    )


def _shown(world, goals, layout, observation, commands, hindsight, reward):
    """What the reference records of a step: the prompt less goal and "Action:"."""
    prompt = render.describe(world, goals, layout, observation)
    text = prompt.split("\n", 1)[1].rsplit("\n", 1)[0]
    return text, [command for command in commands if command], hindsight, reward


def _compare(where: str, ours: tuple, theirs: tuple) -> None:
    names = ("observation", "commands", "hindsight", "reward")
    for name, mine, recorded in zip(names, ours, theirs, strict=True):
        if isinstance(mine, list):
            mine, recorded = sorted(set(mine)), sorted(set(recorded))
        if mine != recorded:
            raise DifferenceError(
                f"{where}: {name} differs\nours     {mine!r}\nrecorded {recorded!r}"
            )


def run(path: str) -> int:
    """Replays a file, prints what came of it, and returns the exit code."""
    try:
        episodes, steps = replay(path)
    except DifferenceError as difference:
        print(difference)
        return 1
    print(f"{episodes} episodes, {steps} steps: all equal")
    return 0


def main(argv):
    """Replays the file named by the flag."""
    del argv
    if TRACES.value is None:
        raise app.UsageError("--traces is missing: the recorded episodes, .jsonl.gz")
    raise SystemExit(run(TRACES.value))


if __name__ == "__main__":
    app.run(main)
