"""SAC-GLAM with hindsight learns a small world in the time a test may take."""

import time
from typing import Any

import jax
import numpy as np
import pytest

from rljax.agents import sac_glam
from rljax.envs import base
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render, worlds
from rljax.envs.playground.pieces import Layout
from rljax.models.config import ModelConfig
from rljax.policy import networks
from rljax.replay import hindsight, strategies
from rljax.text import tokenizer
from rljax.training import devices, off_policy

# Cats grow when given water. 9 Grasp goals and 5 Grow goals to learn.
FARM = worlds.World(
    name="farm",
    colours=("red", "blue"),
    categories=(("animal", ("cat",)), ("other", ("door", "water"))),
    growths=(worlds.Growth("animal", by="water"),),
    young=(),
    sizes=(0.2, 0.3),
    grows_in_hand=True,
    supply_consumed=False,
    release_drops=True,
    put_down_by_growth=(),
    test_phrases=("animal", "other", "thing"),
)
OBJECTS, LIMIT = 3, 4
CONFIG = off_policy.Config(
    num_envs=32,
    iterations_per_call=50,
    batch_size=64,
    capacity=16_384,
    relabelled_capacity=16_384,
    min_size=512,
    random_steps=32 * 50,  # the first call
    n_step=2,
    gamma=0.8,
    her_ratio=0.5,
)
MOST_CALLS = 30


@pytest.fixture(scope="module")
def learner():
    """The compiled program, its first state, and how often it was traced."""
    goals = goals_lib.goals_of(FARM)
    layout = Layout(OBJECTS, 2, 0, sequences=False)
    tokens = tokenizer.word_level(render.vocabulary(FARM, goals, layout))
    training = goals_lib.singles(goals, True)
    env = make.make(
        FARM,
        tokens,
        num_objects=OBJECTS,
        inventory=2,
        limit=LIMIT,
        sampler=goals_lib.uniform_by_kind(goals, training),
    )
    size = ModelConfig(
        vocab_size=len(tokens),
        width=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        mlp_width=64,
        scan_layers=False,
    )

    settings = sac_glam.Config(learning_rate=2e-3, policy_from_target=True)
    policy = networks.make(size, tokens.eos_token_id, (32, 32))
    agent = sac_glam.make(policy, base.reader(env), settings)
    how = hindsight.Hindsight(
        table=strategies.goal_table(goals.train, None, goals.kind),
        with_goal=env.with_goal,
        strategy=strategies.achieved,
        weighting=strategies.uniform_by_kind,
        her_k=4,
        num_steps=CONFIG.n_step,
        gamma=CONFIG.gamma,
    )
    parts = off_policy.Parts(env, agent, how, CONFIG, 1, None)
    program, traced = off_policy.make(parts), []

    def counted(state, local):
        traced.append(1)
        return program(state, local)

    local = jax.jit(lambda key: off_policy.init_local(parts, key, 0))(jax.random.key(1))
    state = agent.init(jax.random.key(0))
    return devices.jit().compile(counted), state, local, traced


def success_of(metrics: Any) -> np.ndarray:
    """By kind, of the sampled policy, on scenes it meets once."""
    kinds = ("grasp", "grow")
    return np.array([float(metrics[f"rollout/success_{kind}"]) for kind in kinds])


def test_sac_glam_learns_a_small_world(learner):
    call, state, local, traced = learner
    curve = []
    start = time.process_time()
    for _ in range(MOST_CALLS):
        state, local, metrics = call(state, local)
        curve.append(success_of(metrics))
        if len(curve) > 2 and np.mean(curve[-2:], axis=0).min() > 0.85:
            break
    seconds = time.process_time() - start
    told = np.round(curve, 2).tolist()
    assert curve[0].mean() < 0.3, told  # random play
    assert np.mean(curve[-2:], axis=0).min() > 0.8, (told, seconds)
    assert metrics["train/skipped"] == 0 and metrics["rollout/stuck"] == 0
    assert len(traced) == 1
    print(f"{len(curve)} calls, {seconds:.0f} CPU seconds with compiling: {told}")
