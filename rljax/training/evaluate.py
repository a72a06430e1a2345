"""Success on fixed panels of scenes, in one compiled program.

A panel is a batch of environment states made from a seed, so that every evaluation
and every method meets the same scenes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.agents.base import Action
from rljax.envs.base import Env
from rljax.rollout.unroll import environment_keys
from rljax.types import Key, Params, PyTree

Act = Callable[[Params, PyTree, Key, jax.typing.ArrayLike], Action]

SAMPLED, GREEDY, RANDOM = 1.0, 0.0, float("inf")  # temperatures


class Panel(NamedTuple):
    """Scenes of one kind of goal."""

    name: str
    states: PyTree  # [M, ...]


class Outcomes(NamedTuple):
    """What came of each scene."""

    success: jax.Array  # bool [M]
    length: jax.Array  # int32 [M], steps taken


def make_panel(env: Env, name: str, seed: int, size: int) -> Panel:
    """`size` scenes of `env`, each from its own index under `seed`."""
    keys = environment_keys(jax.random.key(seed), size)
    return Panel(name, jax.jit(jax.vmap(env.reset))(keys))


def evaluator(env: Env, act: Act) -> Callable[..., Outcomes]:
    """A compiled `(params, states [M], key, temperature) -> Outcomes`.

    Runs every scene to its end or to the step limit; stops early when all have ended.
    """

    def evaluate(params, states, key, temperature):
        count = jax.tree.leaves(states)[0].shape[0]

        def running(carry):
            _, _, ended, _, step = carry
            return ~jnp.all(ended) & (step < env.sizes.limit)

        def body(carry):
            states, success, ended, length, step = carry
            keys = environment_keys(jax.random.fold_in(key, step), count)
            obs = jax.vmap(env.observe)(states)
            command = act(params, obs, keys, temperature).command
            states, outcome = jax.vmap(env.step)(states, command)
            success |= outcome.terminated & ~ended
            length += (~ended).astype(jnp.int32)
            ended |= outcome.terminated | outcome.truncated
            return states, success, ended, length, step + 1

        no = jnp.zeros(count, bool)
        start = (states, no, no, jnp.zeros(count, jnp.int32), jnp.int32(0))
        _, success, _, length, _ = jax.lax.while_loop(running, body, start)
        return Outcomes(success, length)

    return jax.jit(evaluate)
