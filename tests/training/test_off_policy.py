"""The compiled off-policy loop on Playground-Text, asked what it did.

One program is compiled for one device and one for eight; the tests look at what they
left behind. Environments follow a rule of their user: nothing is put down by an agent
that stands on something.
"""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import playground, run
from rljax.agents import sac_glam
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render, worlds
from rljax.envs.playground.pieces import Layout
from rljax.losses import soft_bellman
from rljax.models.config import ModelConfig
from rljax.policy import networks
from rljax.replay import hindsight, ring, strategies
from rljax.text import tokenizer, trie
from rljax.training import devices, off_policy
from rljax.training.files import RunError
from tests.replay.test_hindsight import Item, Step, check_relabelled

WORLD = worlds.world_a()
GOALS = goals_lib.goals_of(WORLD)
OBJECTS, LIMIT, GAMMA, N_STEP, HER_K = 5, 7, 0.9, 3, 4
ENVS, BATCH, UPDATES_FROM, POLICY_FROM, CALLS = 8, 16, 25, 30, 60  # in calls
FORBIDDEN = int(goals_lib.singles(GOALS, False)[0, 0])  # a test goal: never met
CONFIG = off_policy.Config(
    num_envs=ENVS,
    iterations_per_call=1,
    batch_size=BATCH,
    capacity=1_024,  # holds all that happens here
    relabelled_capacity=4_096,
    min_size=ENVS * (UPDATES_FROM - N_STEP + 1),
    random_steps=ENVS * POLICY_FROM,
    n_step=N_STEP,
    gamma=GAMMA,
    her_ratio=0.5,
)


def allowed(obs):
    """The rule, bool [A]; a goal that no run draws leaves nothing to do."""
    down = jnp.arange(OBJECTS + 4) > OBJECTS
    return ~(down & jnp.any(obs.on)) & (obs.goal[0] != FORBIDDEN)


class Setting(NamedTuple):
    env: Any
    networks: networks.Networks
    read: Any
    how: hindsight.Hindsight


@pytest.fixture(scope="module")
def setting() -> Setting:
    layout = Layout(OBJECTS, 2, 1)
    tokens = tokenizer.word_level(render.vocabulary(WORLD, GOALS, layout))
    env = make.make(
        WORLD,
        tokens,
        num_objects=OBJECTS,
        inventory=2,
        limit=LIMIT,
        sampler=goals_lib.uniform_by_kind(GOALS, goals_lib.every(GOALS, True)),
        history=1,
        command_filter=allowed,
    )
    size = ModelConfig(
        vocab_size=len(tokens),
        width=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        mlp_width=16,
        scan_layers=False,
    )

    def read(obs):
        commands = jax.vmap(env.commands)(obs)
        tries = jax.vmap(lambda c: trie.build(c, env.sizes.trie_nodes))(commands)
        return jax.vmap(env.prompt)(obs), tries

    pairs = GOALS.sequence_allowed & GOALS.train[:, None]
    kind = 2 + np.broadcast_to(GOALS.kind[None], pairs.shape)
    how = hindsight.Hindsight(
        table=strategies.goal_table(GOALS.train, pairs, GOALS.kind, kind),
        with_goal=env.with_goal,
        strategy=strategies.achieved,
        weighting=strategies.uniform_by_kind,
        her_k=HER_K,
        num_steps=N_STEP,
        gamma=GAMMA,
    )
    return Setting(env, networks.make(size, tokens.eos_token_id, (16,)), read, how)


class Machine(NamedTuple):
    """The loop on so many devices; `traced` grows whenever it is traced."""

    agent: Any
    init: Any
    call: Any
    traced: list


def machine(setting: Setting, parallel: devices.Parallel) -> Machine:
    agent = sac_glam.make(
        setting.networks, setting.read, sac_glam.Config(),
        soft_bellman.sigmoid_cross_entropy, parallel.axis_name,
    )  # fmt: skip
    off_policy.check(CONFIG, parallel.num_devices)
    parts = off_policy.Parts(
        setting.env, agent, setting.how, CONFIG,
        parallel.num_devices, parallel.axis_name,
    )  # fmt: skip
    program, traced = off_policy.make(parts), []

    def counted(state, local):
        traced.append(1)
        return program(state, local)

    share = jax.jit(functools.partial(off_policy.init_local, parts))

    def init():
        local = parallel.spread(lambda index: share(jax.random.key(1), index))
        return agent.init(jax.random.key(0)), local

    return Machine(agent, init, parallel.compile(counted), traced)


@pytest.fixture(scope="module")
def one(setting):
    return machine(setting, devices.jit())


@pytest.fixture(scope="module")
def eight(setting):
    return machine(setting, devices.pmap(8))


class Episode(NamedTuple):
    start: Any  # state of the environment
    actions: list[int]
    finished: bool


class Past(NamedTuple):
    locals: list  # after 0, 1, .. calls
    states: list
    metrics: list[dict]
    episodes: list[Episode]
    taken: list  # (observation, command) of every step
    in_place: list[bool]  # of three more calls


@pytest.fixture(scope="module")
def past(one) -> Past:
    """All calls on one device, written down from outside."""
    state, local = one.init()
    found = Past([jax.device_get(local)], [jax.device_get(state)], [], [], [], [])
    running = {}
    for _ in range(CALLS):
        before = found.locals[-1]
        slot = int(before.episodes.slot)
        state, local, metrics = one.call(state, local)
        after = jax.device_get(local)
        found.locals.append(after)
        found.states.append(jax.device_get(state))
        found.metrics.append({k: float(v) for k, v in metrics.items()})
        for e in range(ENVS):
            if before.episodes.length[e] == 0:
                running[e] = (at(before.envs.states, e), [])
            action = int(after.episodes.action[e, slot])
            found.taken.append((at(before.obs, e), action))
            running[e][1].append(action)
            if after.episodes.length[e] == 0:
                found.episodes.append(Episode(*running.pop(e), finished=True))
    found.episodes.extend(Episode(*rest, finished=False) for rest in running.values())
    # What has been looked at from numpy cannot be given away; what follows can.
    state, local, _ = one.call(state, local)
    for _ in range(3):
        places = pointers(local)
        state, local, _ = one.call(state, local)
        found.in_place.append(places == pointers(local))
    return found


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def pointers(local) -> list[int]:
    rings = (local.original.data, local.relabelled.data)
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(rings)]


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


def test_a_filter_that_leaves_no_command_is_told_at_the_start():
    from experiments.configs import sac_glam as configs

    with pytest.raises(ValueError, match="no command is left of 9 slots") as raised:
        playground.make_task(
            configs.get_config("smoke"), lambda obs: jnp.zeros(9, bool)
        )
    assert "You see:" in str(raised.value)


def as_on_one(local, count: int):
    """What the environments of all devices see, do and remember, in their order."""
    length = local.episodes.length.reshape(-1)
    seen = jax.tree.map(
        lambda x: np.asarray(x).reshape(ENVS, *x.shape[1 + (count > 1) :]),
        (local.obs, local.envs.states, local.envs.next, local.episodes.action),
    )
    return seen, np.asarray(length)


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_eight_devices_do_as_one(eight, past):
    state, local = eight.init()
    names = np.asarray(local.obs.names).reshape(ENVS, -1)
    assert len({tuple(row) for row in names.tolist()}) == ENVS
    metrics = {}
    for number in range(1, 13):  # random play
        state, local, metrics = eight.call(state, local)
        assert_same(as_on_one(local, 8), as_on_one(past.locals[number], 1))
        assert metrics["env_steps"] == ENVS * number
        assert metrics["replay/original_size"] == past.locals[number].original.size
    assert metrics["updates"] == 0
    for _ in range(13, 41):
        state, local, metrics = eight.call(state, local)
    assert metrics["env_steps"] == 40 * ENVS and 5 < metrics["updates"] < 20
    assert np.isfinite(metrics["critic/loss"])
    assert np.isclose(metrics["replay/hindsight_share"], 0.5, atol=0.4)
    assert metrics["replay/original_size"] == local.original.size.sum()
    assert len({tuple(np.ravel(x)) for x in np.asarray(local.obs.names)}) == ENVS
    assert len(eight.traced) == 1


def test_goes_on_with_eight_devices(eight, past):
    """Where one device stopped; random play does not notice."""
    local = off_policy.redistribute(past.locals[12], 1, 8)
    state = jax.tree.map(jnp.asarray, past.states[12])
    for number in range(13, 19):
        state, local, _ = eight.call(state, local)
        assert_same(as_on_one(local, 8), as_on_one(past.locals[number], 1))
    assert len(eight.traced) == 1


def test_redistributed_and_back(past):
    local = past.locals[40]
    four = off_policy.redistribute(local, 1, 4)
    assert four.first_index.tolist() == [0, 2, 4, 6]
    assert four.obs.names.shape == (4, 2, OBJECTS)
    back = jax.device_get(off_policy.redistribute(four, 4, 1))
    ours, theirs = (jax.random.key_data(x.envs.keys) for x in (local, back))
    np.testing.assert_array_equal(ours, theirs)
    for name in ("obs", "episodes", "bad_batch", "env_steps", "stuck", "first_index"):
        assert_same(getattr(local, name), getattr(back, name))
    assert_same(local.envs.states, back.envs.states)
    assert_same(local.envs.pool, back.envs.pool)
    for ours, theirs in (
        (local.original, back.original),
        (local.relabelled, back.relabelled),
    ):
        size = int(ours.size)
        assert size == theirs.size > 0
        assert_same(
            jax.tree.map(lambda x, n=size: x[:n], ours.data),
            jax.tree.map(lambda x, n=size: x[:n], theirs.data),
        )


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
