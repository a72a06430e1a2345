"""Relabelled items against an environment asked what it would have given."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.replay import hindsight, ring, strategies, transitions
from rljax.types import TimeStep
from tests.replay.relabelling import Goal, Item, Step, check_relabelled

# A world of two counters and a flag. Actions: 0 and 1 count, 2 turns the flag.
GOALS = [
    lambda a, b, flag: a >= 1,
    lambda a, b, flag: a >= 2,
    lambda a, b, flag: b >= 1,
    lambda a, b, flag: b >= 3,
    lambda a, b, flag: flag == 1,
    lambda a, b, flag: flag == 0 and a >= 1,  # a test goal
    lambda a, b, flag: a + b == 3,  # passes
]
LIMIT, NUM_ACTIONS, GAMMA = 7, 4, 0.9
TRAIN = np.array([1, 1, 1, 1, 1, 0, 1], bool)
ALLOWED = np.zeros((7, 7), bool)
ALLOWED[1, [0, 2, 3, 4, 6]] = True
ALLOWED[4, [0, 1, 3, 4, 6]] = True
KIND = np.array([0, 0, 0, 0, 1, 1, 0])
SEQUENCE_KIND = np.where(KIND[None] == 0, 2, 3) * np.ones((7, 1), int)
EVERY_GOAL = [(int(g), -1) for g in np.flatnonzero(TRAIN)] + [
    (int(a), int(b)) for a, b in np.argwhere(ALLOWED)
]
TABLE = strategies.goal_table(TRAIN, ALLOWED, KIND, SEQUENCE_KIND)


class World:
    """One environment, its goal given; ends on success or at the limit."""

    def __init__(self, episode: int, goal: Goal):
        self.episode, self.goal = episode, goal
        self.state, self.time, self.first_done = [0, 0, 0], 0, False

    def observe(self) -> tuple:
        return (self.episode, *self.state, *self.goal)

    def step(self, action: int) -> tuple[Step, bool, list[bool]]:
        left = self.observe()
        if action < 2:
            self.state[action] += 1
        elif action == 2:
            self.state[2] = 1 - self.state[2]
        self.time += 1
        held = [bool(goal(*self.state)) for goal in GOALS]
        first, second = self.goal
        self.first_done |= held[first]
        success = self.first_done if second < 0 else self.first_done and held[second]
        step = Step(left, action, float(success), success, self.observe())
        return step, not success and self.time == LIMIT, held


def replay_world(episode: int, actions: list[int], goal: Goal) -> list[Step]:
    world, steps = World(episode, goal), []
    for action in actions:
        steps.append(world.step(action)[0])
        if steps[-1].terminated:
            break
    return steps


def observation(rows) -> dict[str, Any]:
    rows = rows if isinstance(rows, jax.Array) else np.asarray(rows)
    return {
        "episode": rows[..., 0].astype(np.int32),
        "state": rows[..., 1:4].astype(np.int8),
        "goal": rows[..., 4:].astype(np.int16),
    }


def plain(obs, index) -> tuple:
    parts = [obs["episode"][index][None], obs["state"][index], obs["goal"][index]]
    return tuple(np.concatenate(parts).tolist())


def with_goal(obs, goal):
    return {**obs, "goal": goal.astype(jnp.int16)}


def settings(strategy, her_k=3, chunk=2, num_steps=3) -> hindsight.Hindsight:
    choice = strategies.uniform
    return hindsight.Hindsight(
        TABLE, with_goal, strategy, choice, her_k, num_steps, GAMMA, chunk
    )


@functools.cache
def compiled_relabel(strategy, her_k, chunk):
    how = settings(strategy, her_k, chunk)
    return jax.jit(
        functools.partial(hindsight.relabel, how=how), donate_argnames=("relabelled",)
    )


def empty_ring(capacity: int = 1 << 14) -> ring.RingState:
    obs = observation(np.zeros(6, np.int32))
    scalar = jnp.float32(0)
    item = transitions.Transition(obs, jnp.int32(0), scalar, scalar, obs)
    return ring.init(item, capacity)


def play(relabel: Callable, seed: int, num_envs: int = 5, num_steps: int = 25):
    """Random play, relabelled as it goes.

    Returns:
      The ring, the counts, and of each finished episode its goal and actions.
    """
    rng = np.random.default_rng(seed)
    write, clear = jax.jit(transitions.write), jax.jit(transitions.clear)
    example = observation(np.zeros(6, np.int32))
    episodes = transitions.init(example, num_envs, LIMIT, len(GOALS))
    relabelled, counts = empty_ring(), strategies.zero_counts(TABLE)

    def new_world(number):
        return World(number, EVERY_GOAL[rng.integers(len(EVERY_GOAL))])

    worlds = [new_world(e) for e in range(num_envs)]
    actions = collections.defaultdict(list)
    finished, number = {}, num_envs
    for t in range(num_steps):
        left = [w.observe() for w in worlds]
        own = np.array([w.goal for w in worlds])
        action = rng.integers(0, NUM_ACTIONS, num_envs)
        took = [w.step(int(a)) for w, a in zip(worlds, action, strict=True)]
        ended = np.array([step.terminated or cut for step, cut, _ in took])
        for e, world in enumerate(worlds):
            actions[world.episode].append(int(action[e]))
            if ended[e]:
                finished[world.episode] = (world.goal, actions[world.episode])
                worlds[e] = new_world(number)
                number += 1
        step = TimeStep(
            obs=observation([w.observe() for w in worlds]),
            reached=observation([step.reached for step, _, _ in took]),
            reward=jnp.array([step.reward for step, _, _ in took], jnp.float32),
            terminated=jnp.array([step.terminated for step, _, _ in took]),
            truncated=jnp.array([cut for _, cut, _ in took]),
            achieved=jnp.array([held for _, _, held in took]),
        )
        episodes = write(episodes, observation(left), action.astype(np.int32), step)
        key = jax.random.fold_in(jax.random.key(seed), t)
        relabelled, counts = relabel(key, episodes, ended, own, relabelled, counts)
        episodes = clear(episodes, ended)
    return relabelled, counts, finished


def by_episode(relabelled: ring.RingState) -> dict[int, list[tuple[Goal, Item]]]:
    data = jax.tree.map(np.asarray, relabelled.data)
    found = collections.defaultdict(list)
    for i in range(int(relabelled.size)):
        obs, reached = plain(data.obs, i), plain(data.reached, i)
        numbers = (data.action[i], data.reward[i], data.discount[i])
        action, reward, discount = (x.item() for x in numbers)
        found[obs[0]].append((obs[4:], Item(obs, action, reward, discount, reached)))
    return found


def hit_steps(episode: int, actions: list[int], own: Goal) -> dict[Goal, int]:
    """Step of success under each training goal but its own, len(actions) if none."""
    hits = {}
    for goal in EVERY_GOAL:
        steps = replay_world(episode, actions, goal)
        if goal != own:
            hits[goal] = len(steps) - 1 if steps[-1].terminated else len(actions)
    return hits


def expected_steps(name: str, hits: dict, actions: list[int], episode: int) -> set:
    """(goal, step) that a strategy tells again when it may take every candidate."""
    length, out = len(actions), set()
    for goal, hit in hits.items():
        if name == "random":
            out |= {(goal, t) for t in range(min(hit + 1, length))}
        elif name == "final":
            world = World(episode, goal)
            held = [world.step(a)[2] for a in actions][-1]
            if hit < length and held[goal[0] if goal[1] < 0 else goal[1]]:
                out |= {(goal, t) for t in range(hit + 1)}
        elif hit < length:
            out |= {(goal, t) for t in range(hit + 1)}
    return out


STRATEGIES = [
    strategies.achieved,
    strategies.final,
    strategies.future,
    strategies.episode,
    strategies.random,
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.__name__)
def test_every_item_is_what_the_environment_would_have_given(strategy):
    """As many goals as there are: each candidate once, for every step it is for."""
    assert len(EVERY_GOAL) == 16
    relabelled, counts, finished = play(compiled_relabel(strategy, 16, 2), seed=1)
    told = by_episode(relabelled)
    assert len(finished) > 15 and set(told) <= set(finished)
    number = collections.Counter()
    for episode, (own, actions) in finished.items():
        replay = functools.partial(replay_world, episode, actions)
        found = check_relabelled(told[episode], replay, 3, GAMMA)
        hits = hit_steps(episode, actions, own)
        # No test goal, not its own, not a step too many, not one left out.
        assert set(found) == expected_steps(strategy.__name__, hits, actions, episode)
        assert not found or max(found.values()) == 1
        number.update(goal for goal, _ in told[episode])
    assert any(goal[1] >= 0 for goal in number)
    for goal in EVERY_GOAL:
        first, second = goal
        had = counts.single[first]
        if second >= 0:
            had = counts.pair[TABLE.row[first], second]
        assert had == number[goal]


@pytest.mark.parametrize("strategy", [strategies.achieved, strategies.random])
def test_some_goals_for_all_the_steps_that_led_to_them(strategy):
    relabelled, _, finished = play(compiled_relabel(strategy, 3, 2), seed=2)
    told, most = by_episode(relabelled), 0
    for episode, (own, actions) in finished.items():
        replay = functools.partial(replay_world, episode, actions)
        found = check_relabelled(told[episode], replay, 3, GAMMA)
        hits = hit_steps(episode, actions, own)
        possible = expected_steps(strategy.__name__, hits, actions, episode)
        goals = {goal for goal, _ in found}
        assert len(goals) == min(3, len({goal for goal, _ in possible}))
        assert set(found) == {(g, t) for g, t in possible if g in goals}
        most = max(most, len({goal for goal, _ in possible}))
    assert most > 3


def test_future_gives_each_step_goals_still_ahead_of_it():
    relabelled, _, finished = play(compiled_relabel(strategies.future, 3, 2), seed=2)
    told = by_episode(relabelled)
    for episode, (own, actions) in finished.items():
        replay = functools.partial(replay_world, episode, actions)
        found = check_relabelled(told[episode], replay, 3, GAMMA)
        ahead = hit_steps(episode, actions, own).values()
        for t in range(len(actions)):
            number = sum(t <= hit < len(actions) for hit in ahead)
            assert sum(step == t for _, step in found) == min(3, number)


@pytest.mark.parametrize("chunk", [1, 8])
def test_how_many_at_a_time_changes_nothing(chunk):
    one, counts, _ = play(compiled_relabel(strategies.achieved, 3, 2), seed=3)
    other, others, _ = play(compiled_relabel(strategies.achieved, 3, chunk), seed=3)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    jax.tree.map(np.testing.assert_array_equal, counts, others)
    assert one.size > 100


def test_first_hits_by_hand():
    # Steps of three goals; the last row is past the end of the episode.
    held = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    goals = np.array(
        [[0, -1], [1, -1], [2, -1], [0, 1], [1, 0], [0, 0], [1, 1], [2, 0], [0, 2]]
    )
    hits = jax.jit(hindsight.first_hits)(held, jnp.int32(3), goals)
    # "0 then 1": 1 held at step 0, but counts only from step 1 on, so step 2.
    # "0 then 0" and "1 then 1": the same step does for both.
    assert hits.tolist() == [1, 0, 4, 2, 1, 1, 0, 4, 4]


def test_first_hits_is_the_plain_loop():
    rng = np.random.default_rng(0)
    hits_of = jax.jit(jax.vmap(hindsight.first_hits))
    held = rng.random((40, 9, 6)) < 0.15
    length = rng.integers(1, 10, 40)
    goals = rng.integers(0, 6, (40, 20, 2))
    goals[:, ::3, 1] = -1
    hits = hits_of(held, length, goals)
    for i in range(40):
        for k, (first, second) in enumerate(goals[i]):
            done, answer = False, 9
            for t in range(length[i]):
                done |= held[i, t, first]
                if done and (second < 0 or held[i, t, second]):
                    answer = t
                    break
            assert hits[i, k] == answer


def test_writes_the_ring_in_place():
    how = settings(strategies.achieved, her_k=2, chunk=2)
    example = observation(np.zeros(6, np.int32))
    episodes = transitions.init(example, 8, LIMIT, len(GOALS))

    def loop(episodes, relabelled, counts):
        def body(carry, i):
            episodes, relabelled, counts = carry
            ids = jnp.arange(8)
            obs = observation(jnp.stack([ids + i] * 6, axis=-1) % 4)
            ended = (ids + i) % LIMIT == 0
            held = (ids[:, None] + jnp.arange(7) + i) % 5 == 0
            zero = jnp.zeros(8)
            step = TimeStep(obs, obs, zero, ended, ended, held)
            episodes = transitions.write(episodes, obs, ids, step)
            relabelled, counts = hindsight.relabel(
                jax.random.key(i), episodes, ended, obs["goal"], relabelled, counts, how
            )
            drawn = ring.sample(relabelled, jax.random.key(i), 4)
            episodes = transitions.clear(episodes, ended)
            return (episodes, relabelled, counts), drawn.reward

        return jax.lax.scan(body, (episodes, relabelled, counts), jnp.arange(9))

    carry = (episodes, empty_ring(100_000), strategies.zero_counts(TABLE))
    compiled = jax.jit(loop, donate_argnums=(0, 1, 2)).lower(*carry).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    # The smallest leaf of the ring is 400 kB, and none of them is copied.
    assert memory.temp_size_in_bytes < 100_000
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(carry[1].data)]
    (_, relabelled, _), _ = compiled(*carry)
    after = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(relabelled.data)]
    assert pointers == after
    assert relabelled.size > 50


@pytest.mark.parametrize(
    "her_k, chunk, num_steps, message",
    [
        (0, 2, 3, "her_k and chunk must be at least 1, got 0 and 2"),
        (3, 2, 8, "num_steps must be between 1 and the episode limit 7, got 8"),
    ],
)
def test_rejects_what_cannot_be(her_k, chunk, num_steps, message):
    how = settings(strategies.achieved, her_k, chunk, num_steps)
    with pytest.raises(ValueError, match=message):
        play(functools.partial(hindsight.relabel, how=how), seed=0, num_steps=1)
