"""Scoring of all commands of a state: packed trie against its alternatives.

`python -m benchmarks.scoring [--json=FILE]`. The fixed set is in commands.json: 42
commands, 204 tokens, prompts of 120 tokens, batch 8. Real states of world B stand
beside it, with their own prompts and commands. The model is the same: 4 layers of
width 256 and a vocabulary of 4,096.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from benchmarks.scoring_ways import (
    Score,
    States,
    cached_prompt,
    one_sequence_each,
    packed_trie,
)
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import render
from rljax.envs.playground.make import make
from rljax.envs.playground.pieces import Layout
from rljax.envs.playground.worlds import world_b
from rljax.models.config import ModelConfig, small
from rljax.models.decoder import Decoder
from rljax.text import tokenizer, trie
from rljax.types import Commands, Params, Tokens

FIXED = pathlib.Path(__file__).with_name("commands.json")
VOCABULARY = 4096


def fixed_states(num_commands: int = 42) -> States:
    """The committed set, or its first commands."""
    stored = json.loads(FIXED.read_text())
    rows = stored["commands"][:num_commands]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    length = np.array([len(row) for row in rows], np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    prompts = jnp.asarray(stored["prompts"], jnp.int32)
    b, p = prompts.shape
    one = Commands(jnp.asarray(ids), jnp.asarray(length), jnp.ones(len(rows), bool))
    return States(
        Tokens(prompts, jnp.full(b, p, jnp.int32)),
        jax.tree.map(lambda x: jnp.broadcast_to(x, (b, *x.shape)), one),
        trie.worst_case_nodes(ids, length, len(rows)),
        stored["eos_id"],
    )


def world_b_states(count: int = 16, steps: int = 5) -> States:
    """States of world B after random steps: single goals, 8 objects, 2 in the hand."""
    world = world_b()
    goals = goals_lib.goals_of(world)
    layout = Layout(num_objects=8, inventory=2)
    words = tokenizer.word_level(render.vocabulary(world, goals, layout))
    env = make(
        world,
        words,
        num_objects=8,
        inventory=2,
        limit=50,
        sampler=goals_lib.uniform(goals_lib.singles(goals, train=True)),
    )

    def walk(key):
        key, first = jax.random.split(key)
        state = env.reset(first)
        for key_step in jax.random.split(key, steps):
            mask = env.commands(env.observe(state)).mask
            action = jax.random.categorical(key_step, jnp.where(mask, 0.0, -jnp.inf))
            state, _ = env.step(state, action.astype(jnp.int32))
        observation = env.observe(state)
        return env.prompt(observation), env.commands(observation)

    keys = jax.random.split(jax.random.key(0), count)
    prompt, commands = jax.jit(jax.vmap(walk))(keys)
    eos = words.eos_token_id
    return States(prompt, commands, env.sizes.trie_nodes, eos)


def initial(config: ModelConfig) -> Params:
    """Random weights."""
    ids, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool)
    return jax.jit(Decoder(config).init)(jax.random.key(0), ids, ids, mask)["params"]


def forward(way: Score, params: Params, states: States):
    """A call of the compiled scores."""
    return functools.partial(jax.jit(way), params, states.prompt, states.commands)


def forward_backward(way: Score, params: Params, states: States):
    """A call of the compiled gradient of their sum."""

    def total(params, prompt, commands):
        scores = way(params, prompt, commands)
        return jnp.sum(jnp.where(commands.mask, scores, 0.0))

    run = jax.jit(jax.value_and_grad(total))
    return functools.partial(run, params, states.prompt, states.commands)


def fixed_rows(rounds: int) -> list[common.Row]:
    """The committed set."""
    many, two, config = fixed_states(), fixed_states(2), small(VOCABULARY)
    params = initial(config)
    times = common.interleave(
        {
            "trie": forward(packed_trie(many, config), params, many),
            "trie_2": forward(packed_trie(two, config), params, two),
            "rows": forward(cached_prompt(many, config), params, many),
            "whole": forward(packed_trie(many, config, False), params, many),
            "whole_2": forward(packed_trie(two, config, False), params, two),
        },
        3 * rounds,
    )
    slow = common.interleave(
        {
            "trie": forward(packed_trie(many, config), params, many),
            "each": forward(one_sequence_each(many, config), params, many),
            "skip": forward(one_sequence_each(many, config, True), params, many),
        },
        rounds,
        warm=["trie"],
    )
    learn = common.interleave(
        {
            "trie": forward_backward(packed_trie(many, config), params, many),
            "each": forward_backward(one_sequence_each(many, config), params, many),
        },
        rounds,
        warm=["trie"],
    )
    return [
        common.speedup("forward_42", slow, "trie", "each", 20),
        common.speedup("forward_backward_42", learn, "trie", "each", 20),
        common.growth("growth_42_over_2", times, "trie", "trie_2", 2),
        common.speedup("kv_rows_42", times, "trie", "rows", 1.3),
        # The last layer skips the prompt in ours: what that changes.
        common.growth("growth_42_over_2_no_skip", times, "whole", "whole_2", None),
        common.speedup("forward_42_both_skip", slow, "trie", "skip", None),
    ]


def world_b_rows(rounds: int) -> list[common.Row]:
    """Real states, for which there is no target."""
    states, config = world_b_states(), small(VOCABULARY)
    params = initial(config)
    times = common.interleave(
        {
            "trie": forward(packed_trie(states, config), params, states),
            "each": forward(one_sequence_each(states, config), params, states),
            "rows": forward(cached_prompt(states, config), params, states),
        },
        rounds,
        warm=["trie"],
    )
    learn = common.interleave(
        {
            "trie": forward_backward(packed_trie(states, config), params, states),
            "each": forward_backward(one_sequence_each(states, config), params, states),
        },
        rounds,
        warm=["trie"],
    )
    return [
        common.speedup("forward_world_b", times, "trie", "each", None),
        common.speedup("forward_backward_world_b", learn, "trie", "each", None),
        common.speedup("kv_rows_world_b", times, "trie", "rows", None),
    ]


def describe(name: str, states: States) -> str:
    """The sizes that decide the ratios, as one line."""
    real = states.commands.mask
    each = jax.vmap(lambda c: trie.build(c, states.num_nodes))(states.commands)
    tokens = jnp.sum(jnp.where(real, states.commands.length, 0), axis=1)
    return (
        f"{name}: {len(real)} states, prompts of {states.prompt.ids.shape[1]}, "
        f"{np.mean(real.sum(axis=1)):.1f} commands of {np.mean(tokens):.1f} tokens in "
        f"{np.mean(each.mask.sum(axis=1)):.1f} nodes (budget {states.num_nodes})"
    )


def main() -> None:
    """Prints sizes and table."""
    arguments = common.parse_arguments(__doc__.splitlines()[0])
    print(describe("fixed set", fixed_states()))
    print(describe("world B", world_b_states()))
    rows = fixed_rows(arguments.rounds) + world_b_rows(arguments.rounds)
    common.finish(rows, arguments.json)


if __name__ == "__main__":
    main()
