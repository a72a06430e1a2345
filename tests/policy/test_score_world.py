"""Packed-trie scores of the most crowded state of a played world."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, render, worlds
from rljax.envs.playground.pieces import Layout
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder, logits, unembedding
from rljax.policy import score
from rljax.policy.sample import sample_commands
from rljax.rollout.unroll import environment_keys
from rljax.text import tokenizer, trie

OBJECTS, HANDS, ENVS = 8, 2, 64


@pytest.mark.parametrize("world", [worlds.world_a(), worlds.world_b()], ids="ab")
def test_equals_one_sequence_for_each_command_in_the_largest_state(world):
    goals = goals_lib.goals_of(world)
    tokens = tokenizer.word_level(
        render.vocabulary(world, goals, Layout(OBJECTS, HANDS, 2))
    )
    sampler = goals_lib.uniform_by_kind(goals, goals_lib.singles(goals, True))
    env = make.make(
        world, tokens, num_objects=OBJECTS, inventory=HANDS, limit=16,
        sampler=sampler, history=2,
    )  # fmt: skip
    prompt, commands = largest_state(env, sampler)
    count = int(commands.mask.sum())
    assert count == OBJECTS - HANDS + 1 + HANDS + 1  # go to, grasp, release, all

    config = ModelConfig(
        vocab_size=len(tokens), width=16, num_layers=2, num_heads=2, num_kv_heads=1,
        head_dim=8, mlp_width=16,
    )  # fmt: skip
    decoder = Decoder(config)
    p = parameters(decoder)
    logp, last = packed(decoder, p, prompt, commands, env.sizes, tokens.eos_token_id)
    text = prompt.ids[: prompt.length].tolist()
    for slot in np.flatnonzero(commands.mask):
        said = commands.ids[slot, : commands.length[slot]].tolist()
        ids = jnp.array([[*text, *said, tokens.eos_token_id]])
        size = ids.shape[1]
        causal = jnp.tril(jnp.ones((1, size, size), bool))
        hidden = decoder.apply({"params": p}, ids, jnp.arange(size)[None], causal)
        hidden = jnp.asarray(hidden)[0]
        every = jax.nn.log_softmax(hidden @ unembedding(p, config))
        expected = sum(every[i - 1, ids[0, i]] for i in range(len(text), size))
        np.testing.assert_allclose(logp[slot], expected, rtol=1e-5, atol=5e-5)
        np.testing.assert_allclose(last[slot], hidden[-2], atol=5e-5)
    assert np.all(np.isneginf(logp[~commands.mask]))


def largest_state(env, sampler):
    """Prompt and commands of the state with the most, met by random play."""

    @jax.jit
    def step(states, key):
        obs = jax.vmap(env.observe)(states)
        prompt, commands = jax.vmap(env.prompt)(obs), jax.vmap(env.commands)(obs)
        any_one = jnp.where(commands.mask, 0.0, -jnp.inf)
        drawn = sample_commands(any_one, environment_keys(key, ENVS))
        return jax.vmap(env.step)(states, drawn)[0], prompt, commands

    key = jax.random.key(0)
    goals = jax.vmap(sampler.sample)(environment_keys(key, ENVS))
    states = jax.jit(jax.vmap(env.begin))(environment_keys(key, ENVS), goals)
    best = None
    for number in range(14):
        states, prompt, commands = step(states, jax.random.fold_in(key, number))
        counts = np.asarray(commands.mask).sum(axis=1)
        if best is None or counts.max() > best[1].mask.sum():
            most = int(counts.argmax())
            best = jax.tree.map(lambda x, i=most: np.asarray(x[i]), (prompt, commands))
    assert best is not None
    return best


def parameters(decoder):
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        decoder.init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * 0.3, jnp.float32)
        for name, x in sorted(shapes["params"].items())
    }


def packed(decoder, p, prompt, commands, sizes, eos_id):
    prompt, commands = jax.tree.map(lambda x: jnp.asarray(x)[None], (prompt, commands))
    tries = jax.vmap(lambda c: trie.build(c, sizes.trie_nodes))(commands)
    hidden = score.encode(decoder, p, prompt, tries)
    found = logits(p, hidden, decoder.config)
    logp = score.command_log_probs(found, tries, eos_id)
    return np.asarray(logp)[0], np.asarray(score.command_hidden(hidden, tries))[0]
