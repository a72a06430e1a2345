"""Steps of Playground-Text a second, with everything an agent needs.

256 environments in one compiled program that plays at random among the admissible
commands: each step renders the prompt's ids, builds the trie of the commands, tells
which goals hold (for hindsight), and starts a fresh scene where an episode ends. All
of it is summed, so that none is compiled away. `peer` is the target, 100,000 steps a
second on two CPU cores; the Python original takes 57 to 110.

`steps_per_second` is world B with 8 objects; `_world_a` the same of world A;
`_sequences` of world B with all training goals that fit, sequences included.

    python -m benchmarks.playground --json=FILE
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from rljax.envs import base
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import recipes, render, worlds
from rljax.envs.playground.make import make
from rljax.envs.playground.pieces import Layout
from rljax.text import tokenizer, trie
from rljax.types import PyTree

ENVS, STEPS, LIMIT, OBJECTS, INVENTORY = 256, 64, 16, 8, 2
TARGET = 100_000


def environment(world: worlds.World, sequences: bool) -> base.Env:
    """World and goals under a word-level tokenizer."""
    goals = goals_lib.goals_of(world)
    pairs = goals_lib.singles(goals, train=True)
    if sequences:
        pairs = goals_lib.every(goals, train=True)
        plans = recipes.recipes_of(world, goals, INVENTORY)
        pairs = pairs[recipes.needed(plans, pairs) <= OBJECTS]
    layout = Layout(OBJECTS, INVENTORY, sequences=sequences)
    return make(
        world,
        tokenizer.word_level(render.vocabulary(world, goals, layout)),
        num_objects=OBJECTS,
        inventory=INVENTORY,
        limit=LIMIT,
        sampler=goals_lib.uniform_by_kind(goals, pairs),
    )


def player(env: base.Env) -> Callable[[], jax.Array]:
    """A function that takes STEPS steps in every environment, in place."""

    def turn(carry, key):
        vec, obs, total = carry
        commands = jax.vmap(env.commands)(obs)
        prompts = jax.vmap(env.prompt)(obs)
        tries = jax.vmap(lambda c: trie.build(c, env.sizes.trie_nodes))(commands)
        # The greatest of random numbers, where a command is admissible.
        drawn = jax.random.bits(key, commands.mask.shape, jnp.uint16)
        drawn = jnp.where(commands.mask, drawn.astype(jnp.int32), -1)
        vec, step = base.advance(env, vec, jnp.argmax(drawn, 1).astype(jnp.int32))
        used = (prompts, tries, step.reached, step.reward, step.achieved)
        total += sum(jnp.sum(x.astype(jnp.int32)) for x in jax.tree.leaves(used))
        return (vec, step.obs, total), None

    def play(state: PyTree) -> PyTree:
        vec, obs, total, key = state
        key, key_play = jax.random.split(key)
        keys = jax.random.split(key_play, STEPS)
        carry, _ = jax.lax.scan(turn, (vec, obs, total), keys)
        return *carry, key

    compiled = jax.jit(play, donate_argnums=0)
    vec = jax.jit(lambda key: base.start(env, key, ENVS))(jax.random.key(0))
    obs = jax.jit(jax.vmap(env.observe))(vec.states)
    state = [(vec, obs, jnp.int32(0), jax.random.key(1))]

    def run() -> jax.Array:
        state[0] = compiled(state[0])
        return state[0][2]

    return run


def main():
    """Times the worlds in turns, prints the table, writes the JSON."""
    arguments = common.parse_arguments(__doc__ or "")
    players = {
        "steps_per_second": player(environment(worlds.world_b(), sequences=False)),
        "steps_per_second_world_a": player(
            environment(worlds.world_a(), sequences=False)
        ),
        "steps_per_second_sequences": player(
            environment(worlds.world_b(), sequences=True)
        ),
    }
    times = common.interleave(players, arguments.rounds)
    rows = []
    for name in players:
        rate = ENVS * STEPS / float(np.median(times[name]))
        target = 1.0 if name == "steps_per_second" else None
        rows.append(
            common.Row(name, rate, TARGET, "steps/s", rate / TARGET, target, "higher")
        )
    common.finish(rows, arguments.json)


if __name__ == "__main__":
    main()
