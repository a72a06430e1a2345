"""What an environment is, and many of them stepping together.

An environment is a bundle of pure functions over one (unbatched) state. `advance`
steps E of them and puts a fresh scene where an episode ended. Scenes wait in a pool,
because under vmap a scene built "if done" is built at every step: the pool is filled
anew, in one batch, when some environment has used up its share.

Shapes: E environments, M scenes waiting for each, A commands, P prompt tokens, L
tokens of a command, G single goals.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp

from rljax.text import trie
from rljax.types import (
    Commands,
    Key,
    Observation,
    Outcome,
    PyTree,
    TimeStep,
    Tokens,
    Trie,
)

POOL = 8  # scenes waiting for each environment


class Sizes(NamedTuple):
    """The static sizes of an environment's arrays."""

    commands: int  # A
    prompt_tokens: int  # P
    command_tokens: int  # L
    trie_nodes: int  # N, proven to hold the trie of any state
    goals: int  # G
    limit: int  # most steps of an episode


class Env(NamedTuple):
    """One environment. All functions are pure and unbatched.

    Those marked host work on one observation of numpy arrays and return text.
    """

    reset: Callable[[Key], PyTree]  # a new episode; consumes the key
    begin: Callable[[Key, jax.Array], PyTree]  # a new episode for a goal [2]
    step: Callable[[PyTree, jax.Array], tuple[PyTree, Outcome]]  # never resets
    observe: Callable[[PyTree], Observation]
    prompt: Callable[[Observation], Tokens]  # ids [P]
    commands: Callable[[Observation], Commands]  # ids [A, L]
    with_goal: Callable[[Observation, jax.Array], Observation]
    goal_kind: Callable[[jax.Array], jax.Array]  # goal [2] -> index of goal_kinds
    describe: Callable[[Observation], str]  # host: the prompt
    command_texts: Callable[[Observation], list[str]]  # host: "" where ruled out
    goal_kinds: tuple[str, ...]
    sizes: Sizes


@flax.struct.dataclass
class VecState:
    """E environments and the scenes that wait for them.

    Scene k of an environment is a function of the key, its index and k alone, so it
    does not matter when the pool is filled or which device owns the environment.

    Attributes:
      states: pytree, each leaf [E, ...].
      pool: pytree, each leaf [E, M, ...], scenes `filled` to `filled + M - 1`.
      filled: int32 [E], number of the first scene in the pool.
      next: int32 [E], number of the scene the next reset takes.
      keys: keys [E].
    """

    states: PyTree
    pool: PyTree
    filled: jax.Array
    next: jax.Array
    keys: Key


def start(
    env: Env,
    key: Key,
    num_envs: int,
    pool_size: int = POOL,
    first_index: jax.typing.ArrayLike = 0,
) -> VecState:
    """E environments, each in its first scene.

    Args:
      env: what to run.
      key: consumed.
      num_envs: E, static.
      pool_size: M, static.
      first_index: index of the first among all environments of all devices.

    Returns:
      The environments. Where they stand is `vmap(env.observe)(vec.states)`.

    Raises:
      ValueError: if `num_envs` or `pool_size` is below 1.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs must be at least 1, got {num_envs}")
    if pool_size < 1:
        raise ValueError(f"pool_size must be at least 1 scene, got {pool_size}")
    indices = first_index + jnp.arange(num_envs)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    zeros = jnp.zeros(num_envs, jnp.int32)
    states = jax.vmap(lambda key: env.reset(jax.random.fold_in(key, 0)))(keys)
    pool = _scenes(env, keys, zeros + 1, pool_size)
    return VecState(
        states=states, pool=pool, filled=zeros + 1, next=zeros + 1, keys=keys
    )


def advance(env: Env, vec: VecState, actions: jax.Array) -> tuple[VecState, TimeStep]:
    """Steps every environment; those whose episode ended start their next one.

    Args:
      env: what is run.
      vec: the environments; donate them.
      actions: int32 [E], command slots, each admissible.

    Returns:
      The environments and what happened, [E, ...].
    """
    chex.assert_shape(actions, vec.next.shape)
    states, outcome = jax.vmap(env.step)(vec.states, actions)
    done = outcome.terminated | outcome.truncated
    reached = jax.vmap(env.observe)(states)
    fresh = jax.vmap(lambda pool, slot: jax.tree.map(lambda x: x[slot], pool))(
        vec.pool, vec.next - vec.filled
    )
    states = jax.tree.map(lambda new, old: _where(done, new, old), fresh, states)
    vec = dataclasses.replace(vec, states=states, next=vec.next + done)
    step = TimeStep(
        obs=jax.vmap(env.observe)(states),
        reached=reached,
        reward=outcome.reward,
        terminated=outcome.terminated,
        truncated=outcome.truncated,
        achieved=outcome.achieved,
    )
    return _refill(env, vec), step


def reader(env: Env) -> Callable[[Observation], tuple[Tokens, Trie]]:
    """What turns observations [B] into what a policy reads: prompts, and tries [B].

    Args:
      env: renders prompts, and says which commands are admissible.
    """

    def read(obs: Observation) -> tuple[Tokens, Trie]:
        commands = jax.vmap(env.commands)(obs)
        tries = jax.vmap(lambda c: trie.build(c, env.sizes.trie_nodes))(commands)
        return jax.vmap(env.prompt)(obs), tries

    return read


def check_commands(env: Env, observations: Observation) -> None:
    """Raises if some state has no admissible command (host).

    Compiled code cannot raise: it counts such states, and this names one.

    Args:
      env: with the command filter, if there is one.
      observations: each leaf [N, ...].

    Raises:
      ValueError: for the first state without a command, with its prompt.
    """
    masks = jax.device_get(jax.jit(jax.vmap(env.commands))(observations).mask)
    for i, mask in enumerate(masks):
        if not mask.any():
            state = jax.device_get(jax.tree.map(lambda x, i=i: x[i], observations))
            raise ValueError(
                f"no command is left of {mask.size} slots in the state\n"
                f"{env.describe(state)}"
            )


def _refill(env: Env, vec: VecState) -> VecState:
    """Fills the pool when some environment has no scene left.

    A loop of at most one turn, not a cond: its carry stays in place, and under vmap
    it costs nothing while no pool is empty.
    """
    pool_size = jax.tree.leaves(vec.pool)[0].shape[1]

    def empty(carry):
        _, filled = carry
        return jnp.any(vec.next - filled >= pool_size)

    def fill(carry):
        # Counted on from the carry: made from loop invariants alone, the scenes
        # would be lifted out of the loop by XLA, and built at every step.
        first = carry[1] + (vec.next - vec.filled)
        return _scenes(env, vec.keys, first, pool_size), first

    pool, filled = jax.lax.while_loop(empty, fill, (vec.pool, vec.filled))
    return dataclasses.replace(vec, pool=pool, filled=filled)


def _scenes(env: Env, keys: Key, first: jax.Array, pool_size: int) -> PyTree:
    def scene(key, number):
        return env.reset(jax.random.fold_in(key, number))

    numbers = first[:, None] + jnp.arange(pool_size)
    return jax.vmap(jax.vmap(scene, (None, 0)))(keys, numbers)


def _where(done: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(done.reshape(done.shape + (1,) * (old.ndim - 1)), new, old)
