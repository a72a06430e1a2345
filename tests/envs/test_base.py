"""Environments that reset themselves, on Playground-Text with few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs import base
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import render, worlds
from rljax.envs.playground.make import make
from rljax.envs.playground.pieces import Layout
from rljax.text import tokenizer as tokenizer_lib
from rljax.text import trie

WORLD = worlds.world_a()
GOALS = goals_lib.goals_of(WORLD)
ENVS, POOL, LIMIT = 4, 2, 3


@pytest.fixture(scope="module")
def tokenizer():
    layout = Layout(5, 2, 0)
    return tokenizer_lib.word_level(render.vocabulary(WORLD, GOALS, layout))


@pytest.fixture(scope="module")
def build(tokenizer):
    train = goals_lib.uniform(goals_lib.singles(GOALS, True))

    def build(num_objects=5, sampler=train, command_filter=None):
        return make(
            WORLD,
            tokenizer,
            num_objects=num_objects,
            inventory=2,
            limit=LIMIT,
            sampler=sampler,
            command_filter=command_filter,
        )

    return build


@pytest.fixture(scope="module")
def env(build):
    return build()


@pytest.fixture(scope="module")
def functions(env):
    start = jax.jit(
        lambda key, first: base.start(env, key, ENVS, POOL, first_index=first)
    )
    advance = jax.jit(lambda vec, actions: base.advance(env, vec, actions))
    return start, advance


def random_actions(steps, envs=ENVS):
    """Mostly "Go to" and "Grasp", all legal or without effect."""
    return np.random.default_rng(0).integers(0, 6, (steps, envs)).astype(np.int32)


def test_an_episode_that_ends_is_followed_by_a_fresh_scene(env, functions):
    start, advance = functions
    key = jax.random.key(3)
    vec = start(key, 0)
    reset, observe = jax.jit(env.reset), jax.jit(env.observe)
    step = jax.jit(env.step)
    keys = [jax.random.fold_in(key, i) for i in range(ENVS)]
    scene = [0] * ENVS
    states = [reset(jax.random.fold_in(keys[i], 0)) for i in range(ENVS)]
    ends = 0
    for actions in random_actions(12):
        vec, time_step = advance(vec, actions)
        for i in range(ENVS):
            # What a loop over single environments gives: the state reached, and
            # then, where the episode is over, the next scene of that environment.
            states[i], outcome = step(states[i], actions[i])
            reached = observe(states[i])
            if outcome.terminated or outcome.truncated:
                ends += 1
                scene[i] += 1
                states[i] = reset(jax.random.fold_in(keys[i], scene[i]))
            expected = (
                observe(states[i]),
                reached,
                outcome.reward,
                outcome.terminated,
                outcome.truncated,
                outcome.achieved,
            )
            ours = jax.tree.map(lambda x, i=i: x[i], tuple(time_step))
            jax.tree.map(np.testing.assert_array_equal, ours, expected)
    assert ends >= 3 * ENVS  # so the pool of 2 was filled again


def test_an_environment_does_not_depend_on_who_owns_it(functions):
    start, advance = functions
    key = jax.random.key(0)
    low, high = start(key, 0), start(key, 2)  # environments 0..3 and 2..5
    for actions in random_actions(9):
        low, left = advance(low, actions)
        high, right = advance(high, np.concatenate([actions[2:], actions[:2]]))
        same = (
            jax.tree.map(lambda x: x[2:], left),
            jax.tree.map(lambda x: x[:2], right),
        )
        jax.tree.map(np.testing.assert_array_equal, *same)
    assert not np.array_equal(left.obs.names[0], left.obs.names[1])


def test_under_vmap_each_seed_fills_its_own_pool(env, functions):
    start, advance = functions
    keys = jax.random.split(jax.random.key(1), 2)
    many = jax.vmap(start, (0, None))(keys, 0)
    each = [start(key, 0) for key in keys]
    actions = random_actions(9, 2 * ENVS).reshape(9, 2, ENVS)
    advance_many = jax.jit(jax.vmap(lambda v, a: base.advance(env, v, a)))
    for action in actions:
        many, step = advance_many(many, action)
        for i in range(2):
            each[i], single = advance(each[i], action[i])
            ours = jax.tree.map(lambda x, i=i: x[i], step)
            jax.tree.map(np.testing.assert_array_equal, ours, single)


def test_states_can_be_donated_while_their_observations_live(env, functions):
    start, _ = functions
    vec = start(jax.random.key(0), 0)
    obs = jax.jit(jax.vmap(env.observe))(vec.states)

    def turn(vec, obs):
        vec, step = base.advance(env, vec, jnp.zeros(ENVS, jnp.int32))
        return vec, step.obs

    turn = jax.jit(turn, donate_argnums=(0, 1))
    for _ in range(3):
        vec, obs = turn(vec, obs)
    assert obs.names.shape == (ENVS, 5)


def test_sizes_hold_what_states_need(env, functions):
    start, advance = functions
    assert env.sizes.commands == 5 + 2 + 2
    assert env.sizes.goals == 246 and env.sizes.limit == LIMIT
    vec = start(jax.random.key(0), 0)
    build_tries = jax.jit(
        jax.vmap(lambda obs: trie.build(env.commands(obs), env.sizes.trie_nodes))
    )
    for actions in random_actions(12):
        vec, step = advance(vec, actions)
        tries = build_tries(step.reached)
        assert (tries.path <= env.sizes.trie_nodes).all()
    prompts = jax.vmap(env.prompt)(jax.vmap(env.observe)(vec.states))
    assert prompts.ids.shape == (ENVS, env.sizes.prompt_tokens)
    assert (prompts.length <= env.sizes.prompt_tokens).all()


def test_goals_are_of_the_sampler_and_can_be_replaced(env):
    state = jax.jit(env.reset)(jax.random.key(0))
    obs = env.observe(state)
    assert GOALS.train[obs.goal[0]] and obs.goal[1] == -1
    assert env.goal_kind(obs.goal) == GOALS.kind[obs.goal[0]]
    goal = GOALS.parse("Grow red cat")
    other = jax.device_get(env.with_goal(obs, jnp.asarray(goal)))
    assert other.goal.dtype == obs.goal.dtype
    assert env.describe(other).startswith("Goal: Grow red cat\nYou see: ")
    begun = jax.jit(env.begin)(jax.random.key(0), goal)
    np.testing.assert_array_equal(begun.goal, goal)
    names = np.asarray(env.observe(begun).names)
    assert WORLD.name_id("cat", "red") in names


def test_a_command_filter_holds_wherever_commands_do(build):
    no_release = np.ones(9, bool)
    no_release[6:] = False
    env = build(command_filter=lambda observation: jnp.asarray(no_release))
    state = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for action in (1, 0):  # go to the first object, take it
        state, _ = step(state, np.int32(action))
    obs = jax.device_get(env.observe(state))
    assert obs.held[0] >= 0
    assert not env.commands(obs).mask[6:].any()
    assert env.commands(obs).mask[0]
    texts = env.command_texts(obs)
    assert texts[0] == "Grasp" and texts[6:] == ["", "", ""]


def test_a_filter_that_leaves_no_command_is_named_with_the_state(build):
    def only_while_empty_handed(observation):
        return jnp.broadcast_to(observation.held[0] < 0, (9,))

    env = build(command_filter=only_while_empty_handed)
    state = jax.jit(env.reset)(jax.random.key(0))
    states = [state]
    for action in (1, 0):
        state, _ = jax.jit(env.step)(state, np.int32(action))
        states.append(state)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    observations = jax.vmap(env.observe)(stacked)
    base.check_commands(env, jax.tree.map(lambda x: x[:2], observations))
    with pytest.raises(ValueError, match=r"no command is left of 9 slots in the state"):
        base.check_commands(env, observations)
    with pytest.raises(ValueError, match=r"Inventory \(1/2\)"):
        base.check_commands(env, observations)


def test_wrong_sizes_are_errors(env, build):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        base.start(env, key, 0)
    with pytest.raises(ValueError, match="pool_size must be at least 1 scene, got 0"):
        base.start(env, key, 1, 0)
    sequences = goals_lib.uniform(goals_lib.sequences(GOALS, True, "grow_then_grow"))
    with pytest.raises(ValueError, match="needs 4 objects, but num_objects is 3"):
        build(sampler=sequences, num_objects=3)
