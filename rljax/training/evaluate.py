"""Success on fixed panels of scenes, in one compiled program.

A panel is a batch of environment states, the same for every evaluation and every
method.
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


class Outcomes(NamedTuple):
    """What came of each scene."""

    success: jax.Array  # bool [M]
    length: jax.Array  # int32 [M], steps taken
    stuck: jax.Array  # bool [M], a state admitted no command
    stuck_obs: PyTree  # that state where `stuck`, [M, ...]


def evaluator(env: Env, act: Act) -> Callable[..., Outcomes]:
    """A compiled `(params, states [M], key, temperature) -> Outcomes`.

    Runs every scene to its end or to the step limit; stops early when all have ended.
    """

    def evaluate(params, states, key, temperature):
        count = jax.tree.leaves(states)[0].shape[0]

        def running(carry):
            _, done, _, step = carry
            return ~jnp.all(done.ended) & (step < env.sizes.limit)

        def body(carry):
            states, done, stuck_obs, step = carry
            keys = environment_keys(jax.random.fold_in(key, step), count)
            obs = jax.vmap(env.observe)(states)
            action = act(params, obs, keys, temperature)
            states, outcome = jax.vmap(env.step)(states, action.command)
            live = ~done.ended
            stuck = live & jnp.all(action.log_pi == -jnp.inf, axis=-1)
            stuck_obs = jax.tree.map(
                lambda new, old: _where(stuck, new, old), obs, stuck_obs
            )
            ended = outcome.terminated | outcome.truncated
            done = _Done(
                success=done.success | (live & outcome.terminated),
                ended=done.ended | ended,
                length=done.length + live,
                stuck=done.stuck | stuck,
            )
            return states, done, stuck_obs, step + 1

        no = jnp.zeros(count, bool)
        done = _Done(no, no, jnp.zeros(count, jnp.int32), no)
        start = (states, done, jax.vmap(env.observe)(states), jnp.int32(0))
        _, done, stuck_obs, _ = jax.lax.while_loop(running, body, start)
        return Outcomes(done.success, done.length, done.stuck, stuck_obs)

    return jax.jit(evaluate)


class _Done(NamedTuple):
    """What is known of each scene so far, [M]."""

    success: jax.Array
    ended: jax.Array
    length: jax.Array
    stuck: jax.Array


def _where(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
