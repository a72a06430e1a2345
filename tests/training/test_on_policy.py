"""The compiled on-policy loop on a toy world whose values are a table."""

import collections
import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import ppo_glam
from rljax.envs import base
from rljax.policy import score
from rljax.policy.networks import Networks
from rljax.training import devices, on_policy
from rljax.types import Outcome

# A walk over four places to a goal; three steps, so that episodes are cut off.
PLACES, LIMIT, COMMANDS, WIDTH = 4, 3, 3, 6
ENVS, STEPS, GAMMA, LAMBDA, SCALE = 8, 8, 0.9, 0.8, 2.0
CONFIG = on_policy.Config(
    num_envs=ENVS, rollout_steps=STEPS, epochs=2, minibatch_size=ENVS * STEPS,
    rollouts_per_call=1,
)  # fmt: skip
AGENT = ppo_glam.Config(
    gamma=GAMMA, gae_lambda=LAMBDA, reward_scale=SCALE, learning_rate=1e-2
)


@flax.struct.dataclass
class Walk:
    episode: jax.Array  # uint32 [], tells episodes apart
    place: jax.Array
    goal: jax.Array  # int32 [2]
    steps: jax.Array


def toy_env() -> base.Env:
    def begin(key, goal):
        return Walk(jax.random.bits(key), jnp.int32(0), goal, jnp.int32(0))

    def reset(key):
        end = jax.random.randint(key, (), 1, PLACES)
        return begin(key, jnp.stack([end, jnp.int32(-1)]))

    def step(state, action):
        place = jnp.clip(state.place + action - 1, 0, PLACES - 1)
        won = place == state.goal[0]
        steps = state.steps + 1
        outcome = Outcome(
            reward=won.astype(jnp.float32),
            terminated=won,
            truncated=~won & (steps >= LIMIT),
            achieved=jnp.arange(PLACES) == place,
        )
        return dataclasses.replace(state, place=place, steps=steps), outcome

    def unused(*_) -> Any:
        raise AssertionError("the toy policy reads observations itself")

    return base.Env(
        reset=reset, begin=begin, step=step,
        observe=lambda state: jax.tree.map(jnp.copy, state),
        prompt=unused, commands=unused, with_goal=unused,
        goal_kind=lambda goal: (goal[0] > 1).astype(jnp.int32),
        describe=str, command_texts=unused, goal_kinds=("near", "far"),
        sizes=base.Sizes(COMMANDS, 1, 1, 1, PLACES, LIMIT),
    )  # fmt: skip


def place_of(obs):
    """Index of (goal, place, steps)."""
    return (obs.goal[..., 0] * PLACES + obs.place) * (LIMIT + 1) + obs.steps


ROWS = PLACES * PLACES * (LIMIT + 1)


def toy_networks() -> Networks:
    def init_trunk(key):
        keys = jax.random.split(key)
        return {
            "features": jax.random.normal(keys[0], (ROWS, WIDTH)),
            "out": jax.random.normal(keys[1], (WIDTH, COMMANDS)),
        }

    def log_policy(trunk, hidden, trie):
        return score.log_policy(hidden @ trunk["out"], trie)

    return Networks(
        init_trunk=init_trunk,
        init_q=lambda key: (),
        init_v=lambda key: jax.random.normal(key, (WIDTH,)),
        encode=lambda trunk, prompt, trie: trunk["features"][prompt],
        log_policy=log_policy,
        logits=lambda trunk, tokens: tokens.ids,  # not asked for
        q=lambda head, hidden, trie: hidden,
        v=lambda head, hidden: hidden @ head,
    )


def read(obs):
    """No step left from the first place; standing still is always possible."""
    return place_of(obs), (jnp.arange(COMMANDS) > 0) | (obs.place > 0)[:, None]


@flax.struct.dataclass
class Spy:
    """An agent's state that keeps the batch it was given."""

    params: Any
    batch: ppo_glam.Batch
    updates: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array
    frozen: Any = None


class Machine(NamedTuple):
    agent: Any
    init: Any
    call: Any
    traced: list


def machine(
    parallel: devices.Parallel, spy: bool = False, config: on_policy.Config = CONFIG,
    settings: ppo_glam.Config = AGENT,
) -> Machine:  # fmt: skip
    agent = ppo_glam.make(toy_networks(), read, settings, parallel.axis_name)
    if spy:
        agent = agent._replace(
            update=lambda state, batch: (
                dataclasses.replace(state, batch=batch),
                {
                    "train/approx_kl": jnp.float32(0),
                    "offpolicy/logprob_abs_diff": jnp.float32(0),
                },
            )
        )
    on_policy.check(config, parallel.num_devices)
    parts = on_policy.Parts(
        toy_env(), agent, settings, config, parallel.num_devices, parallel.axis_name
    )
    program, traced = on_policy.make(parts), []

    def counted(state, local):
        traced.append(1)
        return program(state, local)

    share = jax.jit(
        lambda device: on_policy.init_local(parts, jax.random.key(3), device)
    )

    def init():
        return jax.jit(agent.init)(jax.random.key(0)), parallel.spread(share)

    return Machine(agent, init, parallel.compile(counted), traced)


@pytest.fixture(scope="module")
def one():
    return machine(devices.jit())


@pytest.fixture(scope="module")
def eight():
    return machine(devices.pmap(8))


def step_by_hand(row: dict, action: int) -> tuple[dict, bool, bool]:
    place = min(max(row["place"] + action - 1, 0), PLACES - 1)
    after = {**row, "place": place, "steps": row["steps"] + 1}
    won = place == row["goal"]
    return after, won, not won and after["steps"] == LIMIT


def advantages_by_hand(batch, value_of) -> tuple[np.ndarray, collections.Counter]:
    """GAE of every row, episode by episode, V(reached) asked of the table."""
    obs = batch.obs
    episodes = collections.defaultdict(list)
    for i in range(len(batch.action)):
        episodes[int(obs.episode[i])].append((int(obs.steps[i]), i))
    found, ends = np.zeros(len(batch.action)), collections.Counter()
    for rows in episodes.values():
        rows.sort()
        assert [t for t, _ in rows] == list(range(rows[0][0], rows[0][0] + len(rows)))
        later, is_last = 0.0, True
        for _, i in reversed(rows):
            row = {
                "place": int(obs.place[i]), "goal": int(obs.goal[i, 0]),
                "steps": int(obs.steps[i]),
            }  # fmt: skip
            after, won, cut = step_by_hand(row, int(batch.action[i]))
            ahead = 0.0 if won else GAMMA * value_of(after)
            delta = SCALE * won + ahead - value_of(row)
            later = delta + (0.0 if is_last else GAMMA * LAMBDA * later)
            if is_last:
                ends["won" if won else "cut" if cut else "rollout"] += 1
            found[i], is_last = later, False
    return found, ends


def test_advantages_bootstrap_from_the_state_reached():
    """Where episodes are cut off and where the rollout ends, from V of that state."""
    settings = dataclasses.replace(AGENT, normalise_advantages=False)
    config = dataclasses.replace(CONFIG, epochs=1)
    spy = machine(devices.jit(), True, config, settings)
    learner, local = spy.init()
    batch = jax.tree.map(
        lambda x: jnp.zeros((ENVS * STEPS, *x.shape[1:]), x.dtype), local.bad_batch
    )
    params = jax.device_get(learner.params)
    zero = [jnp.int32(0) for _ in range(3)]
    state = Spy(learner.params, batch, *zero)
    table = params["actor"]["features"] @ params["v"]

    def value_of(row):
        place = row["goal"] * PLACES + row["place"]
        return float(table[place * (LIMIT + 1) + row["steps"]])

    ends = collections.Counter()
    for _ in range(3):
        state, local, _ = spy.call(state, local)
        batch = jax.device_get(state.batch)
        expected, seen = advantages_by_hand(batch, value_of)
        ends += seen
        np.testing.assert_allclose(batch.advantage, expected, atol=1e-5)
        np.testing.assert_allclose(batch.target, expected + batch.value, atol=1e-5)
        np.testing.assert_allclose(batch.value, table[place_of(batch.obs)], atol=1e-6)
        scores = params["actor"]["features"][place_of(batch.obs)]
        scores = scores @ params["actor"]["out"]
        scores[batch.obs.place == 0, 0] = -np.inf
        log_pi = scores - np.log(np.sum(np.exp(scores), -1, keepdims=True))
        taken = log_pi[np.arange(ENVS * STEPS), batch.action]
        np.testing.assert_allclose(batch.log_pi, taken, atol=1e-5)
    assert min(ends["won"], ends["cut"], ends["rollout"]) > 3
    assert len(spy.traced) == 1


def test_eight_devices_do_as_one(one, eight):
    """With a minibatch of all there is, up to rounding; environments exactly."""
    state, local = one.init()
    states, locals_ = eight.init()
    assert len(set(np.ravel(locals_.obs.episode).tolist())) == ENVS
    for number in (1, 2):
        state, local, told = one.call(state, local)
        states, locals_, all_told = eight.call(states, locals_)
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(
                np.reshape(x, np.shape(y)), y
            ),
            (locals_.obs, locals_.length, locals_.envs.next),
            (local.obs, local.length, local.envs.next),
        )  # fmt: skip
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5),
            states.params, state.params,
        )  # fmt: skip
        assert told["env_steps"] == all_told["env_steps"] == number * ENVS * STEPS
        assert told["updates"] == all_told["updates"] == number * CONFIG.epochs
        for name in ("rollout/episodes", "rollout/success", "critic/loss"):
            np.testing.assert_allclose(told[name], all_told[name], rtol=1e-4)
        assert told["rollout/stuck"] == all_told["rollout/stuck"] == 0
    assert len(one.traced) == len(eight.traced) == 1


def test_redistributed_and_back(one, eight):
    state, local = one.init()
    state, local, _ = one.call(state, local)
    kept = jax.device_get(local)
    dealt = on_policy.redistribute(kept, 1, 8)
    assert dealt.first_index.tolist() == list(range(8))
    back = on_policy.redistribute(dealt, 8, 1)
    for left, right in zip(jax.tree.leaves(kept), jax.tree.leaves(back), strict=True):
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = jax.random.key_data(left), jax.random.key_data(right)
        np.testing.assert_array_equal(left, right)
    state, local, _ = one.call(state, local)
    states, _ = eight.init()
    states, dealt, metrics = eight.call(states, dealt)
    assert metrics["env_steps"] == 2 * ENVS * STEPS


def test_a_state_without_a_command_is_counted_and_kept():
    parallel, agent_of = devices.jit(), ppo_glam.make

    def nothing_at_two(obs):
        prompt, mask = read(obs)
        return prompt, mask & (obs.place != 2)[:, None]

    agent = agent_of(toy_networks(), nothing_at_two, AGENT)
    parts = on_policy.Parts(toy_env(), agent, AGENT, CONFIG, 1, None)
    local = on_policy.init_local(parts, jax.random.key(3), 0)
    state = agent.init(jax.random.key(0))
    _, local, metrics = parallel.compile(on_policy.make(parts))(state, local)
    assert metrics["rollout/stuck"] > 0
    assert local.stuck_obs.place == 2


@pytest.mark.parametrize(
    "changes, count, message",
    [
        ({"num_envs": 0}, 1, "num_envs must be at least 1, got 0"),
        ({"epochs": 0}, 1, "epochs must be at least 1, got 0"),
        ({"rollouts_per_call": -1}, 1, "rollouts_per_call must be at least 1, got -1"),
        ({"num_envs": 12}, 8, "num_envs is 12, which 8 devices cannot share evenly"),
        ({"minibatch_size": 4}, 8, "minibatch_size is 4, which 8 devices cannot share"),
        (
            {"minibatch_size": 24},
            1,
            "minibatch_size is 24, which does not divide a rollout of 8 x 8 = 64 steps",
        ),
    ],
)
def test_refuses_what_cannot_work(changes, count, message):
    with pytest.raises(ValueError, match=message):
        on_policy.check(dataclasses.replace(CONFIG, **changes), count)
