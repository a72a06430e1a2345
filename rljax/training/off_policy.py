"""Act, store, relabel, sample, update: many iterations in one compiled program.

Shapes: E environments of this device, K iterations a call. Nothing leaves the device
inside a call but metrics at its end.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rljax.agents.base import Agent
from rljax.envs import base
from rljax.replay import hindsight, ring, strategies, transitions
from rljax.rollout.unroll import environment_keys
from rljax.training import devices, tally
from rljax.training.evaluate import RANDOM, SAMPLED
from rljax.types import Key, Metrics, Observation, PyTree, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The loop's sizes; counts are over all devices."""

    num_envs: int = 64
    steps_per_iteration: int = 1  # vector steps between updates
    updates_per_iteration: int = 1
    iterations_per_call: int = 100
    batch_size: int = 64
    capacity: int = 131_072  # items of the original ring
    relabelled_capacity: int = 131_072
    min_size: int = 1_024  # items stored before the first update
    random_steps: int = 2_048  # environment steps before the policy acts
    n_step: int = 3
    gamma: float = 0.9
    her_ratio: float = 0.5  # of a batch, drawn from the relabelled ring


@flax.struct.dataclass
class Local:
    """A device's own state.

    Attributes:
      envs: environments and their pool of fresh scenes.
      obs: where they stand, [E, ...].
      episodes: what their present episodes have seen so far.
      original: ring of n-step items as they happened.
      relabelled: ring of n-step items under goals reached in hindsight.
      counts: what the choice of goals remembers.
      key: the same on every device; what differs is folded in.
      first_index: int32 [], global index of the first environment.
      env_steps: int32 [], steps taken on all devices.
      bad_batch: the last batch whose update was skipped.
      stuck: int32 [], states met that admit no command.
      stuck_obs: the first of them.
    """

    envs: base.VecState
    obs: Observation
    episodes: transitions.Episodes
    original: ring.RingState
    relabelled: ring.RingState
    counts: PyTree
    key: Key
    first_index: jax.Array
    env_steps: jax.Array
    bad_batch: Transition
    stuck: jax.Array
    stuck_obs: Observation


class Parts(NamedTuple):
    """What the loop is made of.

    Attributes:
      env: one environment.
      agent: made with the `axis_name` below.
      hindsight: how finished episodes are told again; None leaves that out.
      config: sizes.
      num_devices: over which the counts of `config` are shared.
      axis_name: mapped axis, None on one device.
    """

    env: base.Env
    agent: Agent
    hindsight: hindsight.Hindsight | None
    config: Config
    num_devices: int
    axis_name: str | None


def check(config: Config, num_devices: int) -> None:
    """Refuses sizes that cannot work.

    Raises:
      ValueError: naming the key, the value and the limit.
    """
    c = config
    for name in (
        "num_envs", "steps_per_iteration", "iterations_per_call",
        "batch_size", "capacity", "relabelled_capacity", "min_size", "n_step",
    ):  # fmt: skip
        if getattr(c, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(c, name)}")
    for name in ("updates_per_iteration", "random_steps"):
        if getattr(c, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(c, name)}")
    for name in ("her_ratio", "gamma"):
        if not 0 <= getattr(c, name) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {getattr(c, name)}")
    for name in ("num_envs", "batch_size", "capacity", "relabelled_capacity"):
        if getattr(c, name) % num_devices:
            raise ValueError(
                f"{name} is {getattr(c, name)}, which {num_devices} devices cannot "
                "share evenly"
            )
    if c.batch_size > c.capacity:
        raise ValueError(
            f"batch_size is {c.batch_size}, larger than the ring: capacity {c.capacity}"
        )
    if c.min_size > c.capacity:
        raise ValueError(
            f"min_size is {c.min_size}, more than the ring ever holds: capacity "
            f"{c.capacity}"
        )


def least(config: Config, num_devices: int) -> int:
    """Items a device's ring must hold before the first update; one at least."""
    return -(-config.min_size // num_devices)


def init_local(parts: Parts, key: Key, device: int) -> Local:
    """The state of one device before the first step."""
    config, env = parts.config, parts.env
    share = config.num_envs // parts.num_devices
    env_key, run_key = jax.random.split(key)
    envs = base.start(env, env_key, share, first_index=device * share)
    obs = jax.vmap(env.observe)(envs.states)
    one = jax.tree.map(lambda x: x[0], obs)
    zero = jnp.float32(0)
    item = Transition(one, jnp.int32(0), zero, zero, one)
    how = parts.hindsight
    batch = config.batch_size // parts.num_devices
    return Local(
        envs=envs,
        obs=obs,
        episodes=transitions.init(one, share, env.sizes.limit, env.sizes.goals),
        original=ring.init(item, config.capacity // parts.num_devices),
        relabelled=ring.init(item, config.relabelled_capacity // parts.num_devices),
        counts=() if how is None else strategies.zero_counts(how.table),
        key=run_key,
        first_index=jnp.int32(device * share),
        env_steps=jnp.int32(0),
        bad_batch=jax.tree.map(lambda x: jnp.zeros((batch, *x.shape), x.dtype), item),
        stuck=jnp.int32(0),
        stuck_obs=one,
    )


def redistribute(local: Local, saved: int, num_devices: int) -> Local:
    """Deals a local state of `saved` devices to `num_devices`, on the host.

    Every environment, running episode and replay item is kept; rings keep their
    order. The counts behind the choice of goals are shared out as whole numbers.
    """
    old = devices.stacked(jax.device_get(local), saved)
    num_envs = old.first_index.shape[0] * old.envs.next.shape[1]
    total = jax.tree.map(lambda x: jnp.sum(x, axis=0), old.counts)
    new = jax.tree.map(lambda x: devices.deal(x, num_devices), (
        old.envs, old.obs, old.bad_batch,
    ))  # fmt: skip
    rings = [
        ring.split_rings(ring.gather_rings(x), num_devices)
        for x in (old.original, old.relabelled)
    ]
    everywhere = jax.tree.map(
        lambda x: jnp.repeat(x[:1], num_devices, axis=0),
        (old.key, old.env_steps, old.stuck_obs),
    )
    first = jnp.arange(num_devices) == 0
    moved = Local(
        envs=new[0],
        obs=new[1],
        episodes=transitions.regroup(old.episodes, num_devices),
        original=rings[0],
        relabelled=rings[1],
        counts=jax.tree.map(
            lambda x: jnp.stack([x // num_devices] * num_devices), total
        ),
        key=everywhere[0],
        first_index=jnp.arange(num_devices, dtype=jnp.int32)
        * (num_envs // num_devices),
        env_steps=everywhere[1],
        bad_batch=new[2],
        stuck=jnp.where(first, jnp.sum(old.stuck), 0).astype(jnp.int32),
        stuck_obs=everywhere[2],
    )
    return jax.tree.map(jnp.asarray, devices.unstacked(moved, num_devices))


def make(parts: Parts) -> Callable[[PyTree, Local], tuple[PyTree, Local, Metrics]]:
    """The program of K iterations, `(agent state, local) -> (same, same, metrics)`."""
    config = parts.config

    def iteration(carry, _):
        state, local, episodes, sums, count = carry
        (local, episodes), _ = jax.lax.scan(
            lambda held, _: (_step(parts, state, *held), None),
            (local, episodes),
            length=config.steps_per_iteration,
        )

        # Only what learning changes passes through the branches: the rings are read.
        def learn(state, key, bad_batch):
            return _learn(parts, state, local, key, bad_batch)

        def wait(state, key, bad_batch):
            nothing = jax.tree.map(jnp.zeros_like, sums)
            return state, key, bad_batch, nothing, jnp.int32(0)

        ready = ring.can_sample(local.original, least(config, parts.num_devices))
        if parts.axis_name is not None:  # all devices learn, or none
            ready = jax.lax.pmin(ready.astype(jnp.int32), parts.axis_name) > 0
        state, key, bad_batch, metrics, taken = jax.lax.cond(
            ready, learn, wait, state, local.key, local.bad_batch
        )
        local = dataclasses.replace(local, key=key, bad_batch=bad_batch)
        sums = jax.tree.map(jnp.add, sums, metrics)
        return (state, local, episodes, sums, count + taken), None

    def program(state, local):
        shapes = jax.eval_shape(
            lambda s, x: _learn(parts, s, x, x.key, x.bad_batch)[3], state, local
        )
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        episodes = tally.no_episodes(len(parts.env.goal_kinds))
        start = (state, local, episodes, sums, jnp.int32(0))
        (state, local, episodes, sums, count), _ = jax.lax.scan(
            iteration, start, length=config.iterations_per_call
        )
        return state, local, _metrics(parts, state, local, episodes, sums, count)

    return program


def _step(
    parts: Parts, state: PyTree, local: Local, episodes: tally.Episodes
) -> tuple[Local, tally.Episodes]:
    """One step of every environment, into the rings."""
    config, env = parts.config, parts.env
    key, act_key, relabel_key = jax.random.split(local.key, 3)
    share = config.num_envs // parts.num_devices
    keys = environment_keys(act_key, share, local.first_index)
    exploring = local.env_steps < config.random_steps
    temperature = jnp.where(exploring, RANDOM, SAMPLED)
    action = parts.agent.act(parts.agent.params(state), local.obs, keys, temperature)
    envs, step = base.advance(env, local.envs, action.command)

    ended = step.terminated | step.truncated
    seen = transitions.write(local.episodes, local.obs, action.command, step)
    items, real = transitions.emit(seen, step, config.n_step, config.gamma)
    original = ring.add_masked(local.original, items, real)
    relabelled, counts = local.relabelled, local.counts
    if parts.hindsight is not None:
        if parts.axis_name is not None:
            device = jax.lax.axis_index(parts.axis_name)
            relabel_key = jax.random.fold_in(relabel_key, device)
        relabelled, counts = hindsight.relabel(
            relabel_key, seen, ended, step.reached.goal, relabelled, counts,
            parts.hindsight,
        )  # fmt: skip
    kind = jax.vmap(env.goal_kind)(step.reached.goal)
    episodes = tally.count_episodes(episodes, step, kind, seen.length)

    local = dataclasses.replace(
        tally.note_stuck(local, action.log_pi, local.obs),
        envs=envs,
        obs=step.obs,
        episodes=transitions.clear(seen, ended),
        original=original,
        relabelled=relabelled,
        counts=counts,
        key=key,
        env_steps=local.env_steps + config.num_envs,
    )
    return local, episodes


def _learn(
    parts: Parts, state: PyTree, local: Local, key: Key, bad_batch: Transition
) -> tuple[PyTree, Key, Transition, Metrics, jax.Array]:
    """The updates of an iteration; metrics summed over them, and their number."""
    config = parts.config
    batch_size = config.batch_size // parts.num_devices

    def one(carry, _):
        state, key, bad = carry
        key, draw_key = jax.random.split(key)
        if parts.axis_name is not None:
            device = jax.lax.axis_index(parts.axis_name)
            draw_key = jax.random.fold_in(draw_key, device)
        batch, in_hindsight = ring.sample_two(
            local.original, local.relabelled, draw_key, batch_size, config.her_ratio
        )
        new, metrics = parts.agent.update(state, batch)
        skipped = new.skipped > state.skipped
        bad = jax.tree.map(lambda b, x: jnp.where(skipped, x, b), bad, batch)
        share = jnp.mean(in_hindsight.astype(jnp.float32))
        if parts.axis_name is not None:
            share = jax.lax.pmean(share, parts.axis_name)
        return (new, key, bad), metrics | {"replay/hindsight_share": share}

    (state, key, bad_batch), metrics = jax.lax.scan(
        one, (state, key, bad_batch), length=config.updates_per_iteration
    )
    sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
    return state, key, bad_batch, sums, jnp.int32(config.updates_per_iteration)


def _metrics(parts, state, local: Local, episodes, sums, count) -> Metrics:
    metrics = tally.mean_over_updates(sums, count)
    metrics |= tally.episode_metrics(episodes, parts.env.goal_kinds, parts.axis_name)
    sizes = jnp.stack([local.original.size, local.relabelled.size, local.stuck])
    if parts.axis_name is not None:
        sizes = jax.lax.psum(sizes, parts.axis_name)
    return metrics | {
        "replay/original_size": sizes[0],
        "replay/relabelled_size": sizes[1],
        "rollout/stuck": sizes[2],
        "train/skipped": state.skipped,
        "train/skipped_in_row": state.skipped_in_row,
        "updates": state.updates,
        "env_steps": local.env_steps,
    }
