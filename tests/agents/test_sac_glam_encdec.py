"""SAC-GLAM on Playground-Text with an encoder-decoder of random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import sac_glam
from rljax.envs import base
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render, worlds
from rljax.envs.playground.pieces import Layout
from rljax.models.encdec import EncDec, logits
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import networks
from rljax.text import tokenizer
from rljax.training import warm_start
from rljax.types import Transition

ENVS, UPDATES = 4, 4


@functools.cache
def setting():
    world = worlds.world_a()
    goals = goals_lib.goals_of(world)
    words = tokenizer.word_level(render.vocabulary(world, goals, Layout(4, 2, 1)))
    env = make.make(
        world, words, num_objects=4, inventory=2, limit=7, history=1,
        sampler=goals_lib.uniform_by_kind(goals, goals_lib.every(goals, True)),
    )  # fmt: skip
    config = EncDecConfig(
        vocab_size=len(words), width=16, num_layers=1, num_decoder_layers=2,
        num_heads=2, head_dim=8, mlp_width=16, scan_layers=False,
    )  # fmt: skip
    return env, words, config


def said_alone(config, trunk, prompt, commands, end_id):
    """log p of each command of a state, decoded alone after its prompt alone."""
    text = np.append(prompt.ids[: int(prompt.length)], end_id)
    count, size = commands.ids.shape
    ids = np.pad(commands.ids, ((0, 0), (1, 0)), constant_values=config.start_id)
    texts = np.broadcast_to(text, (count, len(text)))
    places = np.broadcast_to(np.arange(size + 1), ids.shape)
    seen = np.tril(np.ones((size + 1, size + 1), bool))
    seen = np.broadcast_to(seen, (count, size + 1, size + 1))

    @jax.jit
    def run(trunk):
        row = (texts, texts >= 0, ids, places, seen)
        hidden = jnp.asarray(EncDec(config).apply({"params": trunk}, *row))
        return jax.nn.log_softmax(logits(trunk, hidden, config))

    logp = np.asarray(run(trunk))
    found = np.full(count, -np.inf)
    for a in np.flatnonzero(commands.mask):
        tokens = [*commands.ids[a, : commands.length[a]].tolist(), end_id]
        found[a] = sum(logp[a, i, token] for i, token in enumerate(tokens))
    return found


def test_learns_from_what_it_did_and_scores_it_as_a_fresh_pass_does():
    env, words, config = setting()
    policy = networks.make_encdec(config, words.eos_token_id, (16,))
    agent = sac_glam.make(policy, base.reader(env), sac_glam.Config(learning_rate=1e-2))
    start = jax.jit(agent.init)(jax.random.key(0))
    envs = jax.jit(lambda key: base.start(env, key, ENVS))(jax.random.key(1))
    obs = jax.jit(jax.vmap(env.observe))(envs.states)

    @jax.jit
    def turn(state, envs, obs, key):
        keys = jax.random.split(key, ENVS)
        action = agent.act(agent.params(state), obs, keys, 1.0)
        envs, step = base.advance(env, envs, action.command)
        discount = 0.9 * ~step.terminated
        batch = Transition(obs, action.command, step.reward, discount, step.reached)
        state, metrics = agent.update(state, batch)
        return state, envs, step.obs, action, metrics

    state, key = start, jax.random.key(2)
    for i in range(UPDATES):
        step_key = jax.random.fold_in(key, i)
        state, envs, obs, _, metrics = turn(state, envs, obs, step_key)
        assert all(np.isfinite(x) for x in jax.tree.leaves(metrics)), metrics
    assert (int(state.updates), int(state.skipped)) == (UPDATES, 0)
    moved = jax.tree.map(
        lambda a, b: float(jnp.abs(a - b).max()), start.params, state.params
    )
    assert min(jax.tree.leaves(moved)) > 0, moved

    action = jax.jit(agent.act)(
        agent.params(state), obs, jax.random.split(key, ENVS), 1.0
    )
    prompts, commands = jax.device_get(
        jax.jit(lambda x: (jax.vmap(env.prompt)(x), jax.vmap(env.commands)(x)))(obs)
    )
    for i in range(2):
        prompt, of_state = jax.tree.map(lambda x, i=i: x[i], (prompts, commands))
        trunk = state.params["actor"]
        scores = said_alone(config, trunk, prompt, of_state, words.eos_token_id)
        log_pi = scores - np.logaddexp.reduce(scores)
        np.testing.assert_allclose(action.log_pi[i], log_pi, rtol=1e-5, atol=5e-5)
        assert np.isfinite(log_pi[int(action.command[i])])


def test_a_warm_start_is_refused():
    env, words, config = setting()
    policy = networks.make_encdec(config, words.eos_token_id, (16,))
    none = warm_start.Config(updates=0)
    assert warm_start.warm_start(policy, env, words.eos_token_id, none) is policy
    with pytest.raises(ValueError, match="warm start of 3 updates .* encoder-decoder"):
        warm_start.warm_start(
            policy, env, words.eos_token_id, warm_start.Config(updates=3)
        )
