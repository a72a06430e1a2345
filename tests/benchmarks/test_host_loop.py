"""The host's Playground-Text is the compiled one, step by step."""

import random

import jax
import numpy as np
import pytest

from benchmarks import host_loop
from benchmarks.host_playground import Environment, Rules
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import render, scenes, worlds
from rljax.envs.playground.dynamics import dynamics
from rljax.envs.playground.pieces import Layout
from rljax.training import off_policy

OBJECTS, INVENTORY, LIMIT, EPISODES = 6, 2, 18, 20
WORLD = worlds.world_a()
GOALS = goals_lib.goals_of(WORLD)


@pytest.fixture(scope="module")
def rules():
    return Rules(WORLD, GOALS)


def test_episodes_are_those_of_the_compiled_dynamics(rules):
    moves = dynamics(WORLD, GOALS, INVENTORY, LIMIT)
    step, observe = jax.jit(moves.step), jax.jit(moves.observe)
    layout, rng = Layout(OBJECTS, INVENTORY), random.Random(0)
    successes = 0
    for seed in range(EPISODES):
        env = Environment(rules, OBJECTS, INVENTORY, LIMIT, seed)
        seen = env.begin()
        things = [
            scenes.Thing(t.kind, t.name.split()[0], (t.x, t.y), t.size)
            for t in env.things
        ]
        goal = np.array([env.goal, -1], np.int16)
        state = scenes.given_scene(WORLD, things, goal, OBJECTS)
        while True:
            observation = jax.device_get(observe(state))
            text = f"Goal: {GOALS.texts[env.goal]}\n{seen.body}"
            assert text == render.describe(WORLD, GOALS, layout, observation)
            slots = render.command_texts(WORLD, observation)
            assert [c.text for c in seen.commands] == [t for t in slots if t]
            command = rng.choice(seen.commands)
            result = env.step(command)
            state, outcome = step(state, np.int32(slots.index(command.text)))
            assert result.success == bool(outcome.terminated)
            assert result.truncated == bool(outcome.truncated)
            holds = np.flatnonzero(np.asarray(outcome.achieved))
            assert sorted(set(result.achieved)) == holds.tolist()
            if result.success or result.truncated:
                successes += result.success
                break
            seen = env.see()
    assert 0 < successes < EPISODES


def test_every_goal_of_a_new_scene_can_be_reached(rules):
    env = Environment(rules, OBJECTS, INVENTORY, LIMIT, 0)
    kinds = set()
    for _ in range(50):
        env.begin()
        kinds.add(int(GOALS.kind[env.goal]))
        assert GOALS.train[env.goal]
        table = rules.grew if GOALS.kind[env.goal] else rules.grasped
        targets = [t for t in env.things if env.goal in table[t.name]]
        assert targets
        if GOALS.kind[env.goal]:
            supplies = {t.kind for t in env.things}
            assert any(rules.feeds[t.kind] & supplies for t in targets)
    assert kinds == {0, 1}


def test_stored_items_are_n_step_returns():
    loop = host_loop.HostLoop.__new__(host_loop.HostLoop)
    loop.rules = Rules(WORLD, GOALS)
    loop.config = off_policy.Config(n_step=3, gamma=0.5)
    episode = host_loop.Episode.__new__(host_loop.Episode)
    episode.bodies = ["s0", "s1", "s2", "s3", "s4"]
    episode.rows = [np.full(4, i) for i in range(5)]
    episode.actions = [0, 1, 2, 3]
    ring = host_loop.Ring(3, 4)
    # Success at the fourth step: items of 3, 3, 2 and 1 steps, of which the ring
    # keeps the last three, in slots 1, 2, 0.
    loop._store(ring, episode, 0, 3, True)
    assert ring.columns.reward.tolist() == [1.0, 0.25, 0.5]
    assert ring.columns.discount.tolist() == [0.0, 0.0, 0.0]
    assert [p.split("\n")[1] for p in ring.columns.prompt] == ["s3", "s1", "s2"]
    assert [p.split("\n")[1] for p in ring.columns.reached_prompt] == ["s4"] * 3
    # Cut off: the same items bootstrap from where they lead.
    loop._store(ring, episode, 0, 3, False)
    assert ring.columns.reward.tolist() == [0.0, 0.0, 0.0]
    assert sorted(ring.columns.discount.tolist()) == [0.125, 0.25, 0.5]
    # Told again with a goal reached at the second step.
    loop._store(ring, episode, 1, 1, True)
    newest = (ring.head - 1) % 3
    assert ring.columns.reward[newest] == 1.0
    assert ring.columns.reached_prompt[newest] == f"Goal: {GOALS.texts[1]}\ns2"
