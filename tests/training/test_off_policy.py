"""The compiled off-policy loop on Playground-Text, asked what it did."""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run
from rljax.envs.playground import goals as goals_lib
from rljax.replay import ring
from rljax.training import devices, off_policy
from rljax.training.files import RunError
from rljax.training.files import plain as keyless
from tests.replay.relabelling import Item, Step, check_relabelled
from tests.training.off_policy_run import (
    CALLS,
    CONFIG,
    ENVS,
    FORBIDDEN,
    GAMMA,
    GOALS,
    HER_K,
    LIMIT,
    N_STEP,
    Episode,
    allowed,
    at,
    machine,
)  # fmt: skip


def plain(obs) -> tuple:
    return tuple(int(x) for leaf in jax.tree.leaves(obs) for x in np.ravel(leaf))


def by_scene(items: ring.RingState) -> dict:
    """The items of a ring by the things in their scene, with their goals."""
    found = collections.defaultdict(list)
    for i in range(int(items.size)):
        item = at(items.data, i)
        goal = (int(item.obs.goal[0]), int(item.obs.goal[1]))
        told = Item(
            plain(item.obs), int(item.action), float(item.reward),
            float(item.discount), plain(item.reached),
        )  # fmt: skip
        found[scene_of(item.obs.names)].append((goal, told))
    return found


def scene_of(names) -> tuple[int, ...]:
    """What growing does not change."""
    return tuple(int(name) // 2 for name in names)


@pytest.fixture(scope="module")
def replay(setting):
    """(episode, goal) -> its steps, the actions taken again under that goal."""
    env = setting.env

    @jax.jit
    def play(state, actions):
        def body(state, action):
            after, outcome = env.step(state, action)
            return after, (env.observe(state), outcome, env.observe(after))

        return jax.lax.scan(body, state, actions)[1]

    def steps(episode: Episode, goal) -> list[Step]:
        state = dataclasses.replace(episode.start, goal=np.array(goal, np.int16))
        actions = np.zeros(LIMIT, np.int32)
        actions[: len(episode.actions)] = episode.actions
        left, outcome, reached = jax.device_get(play(state, actions))
        told = []
        for t, action in enumerate(episode.actions):
            won = bool(outcome.terminated[t])
            told.append(
                Step(
                    plain(at(left, t)),
                    action,
                    float(outcome.reward[t]),
                    won,
                    plain(at(reached, t)),
                )  # fmt: skip
            )
            if won:
                break
        return told

    return steps


def test_every_original_item_is_what_the_environment_gave(past, replay):
    told = by_scene(past.locals[-1].original)
    assert len({scene_of(o.names) for o, _ in past.taken}) == len(past.episodes)
    for episode in past.episodes:
        own = tuple(int(g) for g in episode.start.goal)
        scene = scene_of(episode.start.kind * 2)
        again = functools.partial(replay, episode)
        found = check_relabelled(told.pop(scene, []), again, N_STEP, GAMMA)
        length = len(episode.actions)
        known = length if episode.finished else max(0, length - N_STEP + 1)
        assert found == {(own, t): 1 for t in range(known)}
    assert not told


def test_every_relabelled_item_is_what_the_environment_would_have_given(past, replay):
    told = by_scene(past.locals[-1].relabelled)
    kinds = collections.Counter()
    for episode in past.episodes:
        items = told.pop(scene_of(episode.start.kind * 2), [])
        assert episode.finished or not items
        own = tuple(int(g) for g in episode.start.goal)
        again = functools.partial(replay, episode)
        found = check_relabelled(items, again, N_STEP, GAMMA)
        goals = {goal for goal, _ in found}
        assert own not in goals and len(goals) <= HER_K
        for first, second in goals:
            steps = again((first, second))
            assert steps[-1].terminated  # achieved, and told up to there, once each
            assert {t: found[(first, second), t] for t in range(len(steps))} == {
                t: 1 for t in range(len(steps))
            }
            assert GOALS.train[first]
            assert second < 0 or GOALS.sequence_allowed[first, second]
            kinds[int(goals_lib.kind_of(GOALS, jnp.array([first, second])))] += 1
    assert not told
    assert kinds[0] > 20 and kinds[1] > 0 and kinds[2] > 0


def test_the_target_sees_the_commands_of_the_next_state(setting, one, past):
    """Against V of the states reached, and against V under the commands of the left."""
    state, items = past.states[0], past.locals[-1].original.data
    size = int(past.locals[-1].original.size)
    left, reached = (
        np.asarray(jax.vmap(setting.env.commands)(obs).mask)
        for obs in (items.obs, items.reached)
    )
    differ = np.any(left != reached, axis=-1) & (items.discount > 0)
    index = np.flatnonzero(differ[:size])[:64]
    assert len(index) == 64
    batch = jax.tree.map(lambda x: x[index], items)

    @jax.jit
    def values(params, state, batch):
        keys = jax.random.split(jax.random.key(0), len(index))
        prompt, tries = setting.read(batch.reached)
        _, wrong = setting.read(batch.obs)
        told = []
        for each in (tries, wrong):
            hidden = setting.networks.encode(params["actor"], prompt, each)
            log_pi = setting.networks.log_policy(params["actor"], hidden, each)
            q = jax.nn.sigmoid(setting.networks.q(params["q"], hidden, each))
            # log_pi is -inf where a command is ruled out, and its share 0.
            told.append(jnp.sum(jnp.exp(log_pi) * q, axis=-1))
        action = one.agent.act(params, batch.obs, keys, 1.0)
        loss = one.agent.update(state, batch)[1]["critic/loss"]
        return *told, action.q, loss

    # Weights that say something, and a slow copy equal to them. Fresh ones nearly
    # always choose "Grasp", the shortest text, which every state admits.
    rng = np.random.default_rng(0)
    params = {
        name: jax.tree.map(
            lambda x, n=noise: x + rng.normal(0, n, x.shape).astype(x.dtype),
            state.params[name],
        )
        for name, noise in (("actor", 1.5), ("q", 0.2))
    }
    state = dataclasses.replace(state, params=params, target=params)
    right, wrong, q, loss = (np.asarray(x) for x in values(params, state, batch))
    q = q[np.arange(len(index)), batch.action]

    def loss_with(value):
        y = batch.reward + batch.discount * value
        return -np.mean(y * np.log(q) + (1 - y) * np.log(1 - q))

    np.testing.assert_allclose(loss, loss_with(right), rtol=1e-4)
    # The test can tell: they differ by twenty times the tolerance above.
    assert abs(loss - loss_with(wrong)) > 20 * 1e-4 * loss


def test_the_rings_stay_in_place(past):
    assert past.in_place == [True] * 3


def test_several_steps_before_an_update_are_as_many_calls_of_one(setting, past):
    config = dataclasses.replace(CONFIG, steps_per_iteration=3)
    several = machine(setting, devices.jit(), config)
    state, local = several.init()
    _, local, _ = several.call(state, local)
    assert int(local.env_steps) == 3 * ENVS
    ours, theirs = (jax.tree.leaves(x) for x in (local, past.locals[3]))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(np.asarray(keyless(a)), np.asarray(keyless(b)))


def test_compiled_once(past, one):
    assert len(one.traced) == 1


def test_counts(past):
    env_steps = [row["env_steps"] for row in past.metrics]
    assert env_steps == [ENVS * (i + 1) for i in range(CALLS)]
    updates = np.array([row["updates"] for row in past.metrics])
    stored = np.array([row["replay/original_size"] for row in past.metrics])
    np.testing.assert_array_equal(
        np.diff(updates, prepend=0), stored >= CONFIG.min_size
    )
    assert 20 < updates[-1] < CALLS
    shares = [row["replay/hindsight_share"] for row in past.metrics[-30:]]
    assert abs(np.mean(shares) - 0.5) < 0.1
    ended = sum(row["rollout/episodes"] for row in past.metrics)
    assert ended == sum(episode.finished for episode in past.episodes)
    assert past.metrics[-1]["train/skipped"] == 0
    assert past.metrics[-1]["rollout/stuck"] == 0


def test_a_command_filter_holds_in_acting_and_in_both_rings(past):
    last = past.locals[-1]
    bites = 0
    for obs, action in past.taken:
        assert np.asarray(allowed(obs))[action]
        bites += bool(obs.on.any() and obs.held[0] >= 0)
    assert bites > 10  # commands that the world admits were ruled out
    for items in (last.original, last.relabelled):
        size = int(items.size)
        rules = np.asarray(jax.vmap(allowed)(items.data.obs))[:size]
        assert rules[np.arange(size), items.data.action[:size]].all()


def test_a_filter_that_leaves_no_command_is_told_with_the_state(setting, one, past):
    states = past.locals[0].envs.states
    goal = states.goal.copy()
    goal[5] = FORBIDDEN, -1
    states = dataclasses.replace(states, goal=goal)
    local = dataclasses.replace(
        past.locals[0],
        envs=dataclasses.replace(past.locals[0].envs, states=states),
        obs=jax.vmap(setting.env.observe)(states),
    )
    state = jax.tree.map(jnp.asarray, past.states[0])
    state, local, metrics = one.call(state, jax.tree.map(jnp.asarray, local))
    assert metrics["rollout/stuck"] == 1
    task: Any = Task(setting.env)
    row = {"rollout/stuck": float(metrics["rollout/stuck"])}
    with pytest.raises(RunError, match="1 states admitted no command") as raised:
        run._check_stuck(task, 1, (state, local), row)
    told = str(raised.value)
    assert f"Goal: {GOALS.texts[FORBIDDEN]}\n" in told
    assert setting.env.describe(jax.device_get(local.stuck_obs)) in told


class Task(NamedTuple):
    """As much of a task as naming a state takes."""

    env: Any


def test_no_device_learns_from_an_empty_ring():
    for size, each in ((1, 1), (8, 1), (9, 2), (184, 23)):
        config = dataclasses.replace(CONFIG, min_size=size)
        assert off_policy.least(config, 8) == each


@pytest.mark.parametrize(
    "changes, count, message",
    [
        ({"num_envs": 0}, 1, "num_envs must be at least 1, got 0"),
        ({"n_step": 0}, 1, "n_step must be at least 1, got 0"),
        ({"random_steps": -1}, 1, "random_steps must not be negative, got -1"),
        ({"her_ratio": 1.5}, 1, r"her_ratio must lie in \[0, 1\], got 1.5"),
        ({"gamma": -0.1}, 1, r"gamma must lie in \[0, 1\], got -0.1"),
        ({"num_envs": 12}, 8, "num_envs is 12, which 8 devices cannot share evenly"),
        ({"capacity": 1_020}, 8, "capacity is 1020, which 8 devices cannot share"),
        (
            {"batch_size": 2_048},
            1,
            "batch_size is 2048, larger than the ring: capacity 1024",
        ),
        (
            {"min_size": 1_025},
            1,
            "min_size is 1025, more than the ring ever holds: capacity 1024",
        ),
    ],
)
def test_refuses_what_cannot_work(changes, count, message):
    with pytest.raises(ValueError, match=message):
        off_policy.check(dataclasses.replace(CONFIG, **changes), count)
