"""The episodes under way, and the n-step items they give to the replay.

Per step, in this order: `write` it, `emit` the items it completes, relabel the
episodes it ended (`hindsight`), `clear` those. Shapes: E environments, T the longest
episode allowed, W = T + 1 slots, G single goals, n the steps of a full item.
"""

import dataclasses

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Observation, PyTree, TimeStep, Transition


@flax.struct.dataclass
class Episodes:
    """The steps so far of the episode each environment is in.

    The slots of the second axis are a ring that all environments go round together:
    one step is written to one slot of them all, so a step costs one slice per array
    and no copy. An environment's episode is the last `length` slots before `slot`.
    Slot s holds the observation a step started from, and what came of it; slot
    `slot` holds the observation reached last.

    Attributes:
      obs: pytree of observations, each leaf [E, W, ...].
      action: int32 [E, W].
      reward: float32 [E, W].
      achieved: bool [E, W, G], single goals that hold after the step.
      length: int32 [E], steps taken in the episode, at most T.
      slot: int32 [], where the next step goes.
    """

    obs: Observation
    action: jax.Array
    reward: jax.Array
    achieved: jax.Array
    length: jax.Array
    slot: jax.Array

    @property
    def limit(self) -> int:
        return self.action.shape[1] - 1


def init(
    obs_example: Observation, num_envs: int, limit: int, num_goals: int
) -> Episodes:
    """No steps yet, in E environments.

    Args:
      obs_example: one observation, no batch axis.
      num_envs: E.
      limit: T; the environment must end every episode within so many steps.
      num_goals: G.

    Raises:
      ValueError: if a count is below 1.
    """
    counts = {"num_envs": num_envs, "limit": limit, "num_goals": num_goals}
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    shape = (num_envs, limit + 1)
    return Episodes(
        obs=jax.tree.map(lambda x: jnp.zeros(shape + x.shape, x.dtype), obs_example),
        action=jnp.zeros(shape, jnp.int32),
        reward=jnp.zeros(shape, jnp.float32),
        achieved=jnp.zeros((*shape, num_goals), bool),
        length=jnp.zeros(num_envs, jnp.int32),
        slot=jnp.int32(0),
    )


def write(
    episodes: Episodes, obs: Observation, action: jax.Array, step: TimeStep
) -> Episodes:
    """Appends one step of every environment.

    Args:
      episodes: the steps before; donate or carry it.
      obs: observations the step started from, [E, ...].
      action: int32 [E].
      step: what came of it, [E, ...].
    """
    chex.assert_equal_shape([action, step.reward, episodes.length])
    here, next_slot = episodes.slot, (episodes.slot + 1) % (episodes.limit + 1)

    def put(stored, new, slot=here):
        new = jnp.expand_dims(new, 1).astype(stored.dtype)
        return jax.lax.dynamic_update_slice_in_dim(stored, new, slot, axis=1)

    left = jax.tree.map(put, episodes.obs, obs)
    return Episodes(
        # Where an episode goes on, the next step writes the same observation again.
        obs=jax.tree.map(lambda s, x: put(s, x, next_slot), left, step.reached),
        action=put(episodes.action, action),
        reward=put(episodes.reward, step.reward),
        achieved=put(episodes.achieved, step.achieved),
        length=episodes.length + 1,
        slot=next_slot,
    )


def emit(
    episodes: Episodes, step: TimeStep, num_steps: int, gamma: float
) -> tuple[Transition, jax.Array]:
    """The n-step items that the step just written completes.

    An item of m steps from t has reward sum_{i<m} gamma^i r_{t+i}, discount gamma^m
    and the observation reached at t + m. While an episode runs, a step completes the
    item of its last m = n steps, if there are so many; a step that ends it completes
    the items of its last m = n, .., 1. Where it ends by success their discount is 0;
    where it is cut off they bootstrap from where it was.

    Args:
      episodes: with the step written.
      step: that step, [E, ...].
      num_steps: n, static, at most T.
      gamma: discount of one step, in [0, 1].

    Returns:
      Transitions, each leaf [E * n, ...], and which of them are items, bool [E * n].
      Items of one environment stand together, oldest first.

    Raises:
      ValueError: if n is not in [1, T].
    """
    if not 1 <= num_steps <= episodes.limit:
        raise ValueError(
            f"num_steps must be between 1 and the episode limit {episodes.limit}, "
            f"got {num_steps}"
        )
    num_envs, num_slots = episodes.action.shape
    ages = jnp.arange(num_steps, 0, -1)  # m of each item
    slots = (episodes.slot - ages) % num_slots
    # Rewards of the last n steps; the item of m steps sums the last m of them.
    powers, totals = discounting(num_steps, gamma)
    rewards = jnp.dot(episodes.reward[:, slots], totals, precision="highest")
    ended = (step.terminated | step.truncated)[:, None]
    mask = (episodes.length[:, None] >= ages) & (ended | (ages == num_steps))
    discount = jnp.where(step.terminated[:, None], 0.0, powers[::-1])

    def flat(x):
        return x.reshape(num_envs * num_steps, *x.shape[2:])

    items = Transition(
        obs=jax.tree.map(lambda x: flat(x[:, slots]), episodes.obs),
        action=flat(episodes.action[:, slots]),
        reward=flat(rewards),
        discount=flat(discount),
        reached=jax.tree.map(lambda x: jnp.repeat(x, num_steps, axis=0), step.reached),
    )
    return items, flat(mask)


def discounting(num_steps: int, gamma: float) -> tuple[jax.Array, jax.Array]:
    """gamma^m for m = 1..n, and the matrix that sums rewards to returns.

    Returns:
      float32 [n], and float32 [n, n]: the rewards of the last n steps, oldest first,
      times it are the returns of the last m = n, .., 1 of them.
    """
    place = np.arange(num_steps)
    powers = np.asarray(gamma, np.float64) ** (place + 1)
    later = place[:, None] - place[None, :]  # of reward i after the start of item j
    totals = np.where(later >= 0, np.asarray(gamma, np.float64) ** later.clip(0), 0.0)
    return jnp.asarray(powers, jnp.float32), jnp.asarray(totals, jnp.float32)


def clear(episodes: Episodes, ended: jax.Array) -> Episodes:
    """Forgets the episodes that ended, bool [E]."""
    return dataclasses.replace(episodes, length=jnp.where(ended, 0, episodes.length))


def gather_episodes(episodes: Episodes, index: jax.Array) -> PyTree:
    """The episodes of the environments `index`, with time counted from their start.

    Returns:
      Episodes with leaves [len(index), W, ...] whose steps are 0..length - 1; what
      stands after slot `length` is of no episode. `slot` is 0 for each.
    """
    length = episodes.length[index]
    num_slots = episodes.limit + 1
    start = episodes.slot - length
    slots = (start[:, None] + jnp.arange(num_slots)) % num_slots

    def gather(x):
        return x.at[index[:, None], slots].get(mode="promise_in_bounds")

    return Episodes(
        obs=jax.tree.map(gather, episodes.obs),
        action=gather(episodes.action),
        reward=gather(episodes.reward),
        achieved=gather(episodes.achieved),
        length=length,
        slot=jnp.zeros_like(length),
    )


def regroup(episodes: Episodes, count: int) -> Episodes:
    """Deals environments to another number of devices, on the host, in their order.

    Args:
      episodes: of all devices, each leaf with a leading axis; all at the same step.
      count: devices to deal them to.

    Returns:
      Numpy arrays (`slot` aside), each leaf with a leading axis `count`.

    Raises:
      ValueError: if `count` does not divide the number of environments, or the
        devices are not at the same step.
    """
    slots = np.asarray(episodes.slot)
    total = episodes.length.size
    if count < 1 or total % count:
        raise ValueError(f"{total} environments cannot be dealt evenly to {count}")
    if (slots != slots[0]).any():
        raise ValueError(f"devices stand at different steps, slots {slots.tolist()}")

    def deal(x):
        return np.asarray(x).reshape(count, total // count, *x.shape[2:])

    dealt = jax.tree.map(deal, dataclasses.replace(episodes, slot=episodes.length))
    return dataclasses.replace(dealt, slot=jnp.full(count, slots[0], jnp.int32))
