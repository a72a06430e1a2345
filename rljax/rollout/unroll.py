"""Acting in environments that reset themselves, inside one compiled program.

Shapes: S steps, E environments. Trajectories are time-major, [S, E, ...].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.types import Key, Observation, PyTree, TimeStep

Advance = Callable[[PyTree, jax.Array], tuple[PyTree, TimeStep]]


class Trajectory(NamedTuple):
    """Steps in the order they were taken."""

    obs: Observation  # [S, E, ...], where the step was taken
    action: Any  # what `act` returned, each leaf [S, E, ...]
    step: TimeStep  # [S, E, ...]


def environment_keys(key: Key, num_envs: int, first_index: jax.typing.ArrayLike = 0):
    """A key per environment, folded from its global index.

    So what an environment does is the same however environments are dealt out to
    devices.
    """
    indices = first_index + jnp.arange(num_envs)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def unroll(
    act: Callable[[Observation, Key], Any],
    command: Callable[[Any], jax.Array],
    advance: Advance,
    envs: PyTree,
    obs: Observation,
    key: Key,
    num_steps: int,
    first_index: jax.typing.ArrayLike = 0,
) -> tuple[PyTree, Observation, Trajectory]:
    """Takes `num_steps` steps in every environment.

    Args:
      act: (observations [E], keys [E]) -> whatever is to be recorded of the choice.
      command: that record -> command slots, int32 [E].
      advance: steps all environments, resetting the finished ones.
      envs: their state.
      obs: where they stand, [E, ...].
      key: consumed.
      num_steps: S, static.
      first_index: global index of the first environment.

    Returns:
      The environments' state, where they stand now, and the trajectory.
    """
    num_envs = jax.tree.leaves(obs)[0].shape[0]

    def body(carry, step_key):
        envs, obs = carry
        action = act(obs, environment_keys(step_key, num_envs, first_index))
        envs, step = advance(envs, command(action))
        return (envs, step.obs), Trajectory(obs, action, step)

    keys = jax.random.split(key, num_steps)
    (envs, obs), trajectory = jax.lax.scan(body, (envs, obs), keys)
    return envs, obs, trajectory


def merge_leading(tree: PyTree) -> PyTree:
    """Merges the two leading axes, [S, E, ...] to [S * E, ...]; leaves may be empty."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), tree
    )


def map_selected(
    function: Callable[[PyTree], jax.Array],
    items: PyTree,
    selected: jax.Array,
    chunk: int,
) -> jax.Array:
    """Applies `function` to the selected items only, in chunks; zero elsewhere.

    For work that few of many items need, such as the value of the states in which
    episodes were cut off: the cost follows the number selected, not M.

    Args:
      function: [chunk, ...] -> float32 [chunk].
      items: pytree, each leaf [M, ...].
      selected: bool [M].
      chunk: items a call, static.

    Returns:
      float32 [M].
    """
    total = selected.shape[0]
    # Selected items first, in order; the rest of a last chunk falls off the end.
    order = jnp.argsort(~selected, stable=True)
    count = jnp.sum(selected)

    def body(carry):
        start, out = carry
        place = start + jnp.arange(chunk)
        index = order[jnp.minimum(place, total - 1)]
        values = function(jax.tree.map(lambda x: x[index], items))
        index = jnp.where(place < count, index, total)
        return start + chunk, out.at[index].set(values, mode="drop")

    start = (jnp.int32(0), jnp.zeros(total, jnp.float32))
    return jax.lax.while_loop(lambda carry: carry[0] < count, body, start)[1]
