"""A run of the compiled off-policy loop on Playground-Text, written down.

One program is compiled for one device and one for eight; tests look at what they left
behind. Environments follow a rule of their user: nothing is put down by an agent that
stands on something.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import sac_glam
from rljax.envs import base
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render, worlds
from rljax.envs.playground.pieces import Layout
from rljax.losses import soft_bellman
from rljax.models.config import ModelConfig
from rljax.policy import networks
from rljax.replay import hindsight, strategies
from rljax.text import tokenizer
from rljax.training import devices, off_policy

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
    eos_id: int


def make_setting() -> Setting:
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
    end = tokens.eos_token_id
    return Setting(env, networks.make(size, end, (16,)), base.reader(env), how, end)


class Machine(NamedTuple):
    """The loop on so many devices; `traced` grows whenever it is traced."""

    agent: Any
    init: Any
    call: Any
    traced: list


def machine(
    setting: Setting, parallel: devices.Parallel, config: off_policy.Config = CONFIG
) -> Machine:
    agent = sac_glam.make(
        setting.networks, setting.read, sac_glam.Config(),
        soft_bellman.sigmoid_cross_entropy, parallel.axis_name,
    )  # fmt: skip
    off_policy.check(config, parallel.num_devices)
    parts = off_policy.Parts(
        setting.env, agent, setting.how, config,
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


def play(one: Machine) -> Past:
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
