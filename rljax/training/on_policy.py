"""Roll out, estimate advantages, update in epochs: one compiled program.

Shapes: E environments of this device, S steps a rollout, B = S * E.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from rljax.agents import ppo_glam
from rljax.agents.base import Agent
from rljax.envs import base
from rljax.rollout.unroll import (
    Trajectory,
    environment_keys,
    map_selected,
    merge_leading,
    unroll,
)
from rljax.training import devices, tally
from rljax.training.evaluate import SAMPLED
from rljax.types import Key, Metrics, Observation, Params, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The loop's sizes; counts are over all devices."""

    num_envs: int = 32
    rollout_steps: int = 40  # S
    epochs: int = 4
    minibatch_size: int = 64
    rollouts_per_call: int = 4


@flax.struct.dataclass
class Local:
    """A device's own state.

    Attributes:
      envs: environments and their pool of fresh scenes.
      obs: where they stand, [E, ...].
      length: int32 [E], steps taken in the present episode.
      key: the same on every device; what differs is folded in.
      first_index: int32 [], global index of the first environment.
      env_steps: int32 [], steps taken on all devices.
      bad_batch: the last minibatch whose update was skipped.
      stuck: int32 [], states met that admit no command.
      stuck_obs: the first of them.
    """

    envs: base.VecState
    obs: Observation
    length: jax.Array
    key: Key
    first_index: jax.Array
    env_steps: jax.Array
    bad_batch: ppo_glam.Batch
    stuck: jax.Array
    stuck_obs: Observation


class Parts(NamedTuple):
    """What the loop is made of.

    Attributes:
      env: one environment.
      agent: made with the `axis_name` below.
      agent_config: the agent's settings, for the advantages.
      config: sizes.
      num_devices: over which the counts of `config` are shared.
      axis_name: mapped axis, None on one device.
    """

    env: base.Env
    agent: Agent
    agent_config: ppo_glam.Config
    config: Config
    num_devices: int
    axis_name: str | None


def check(config: Config, num_devices: int) -> None:
    """Refuses sizes that cannot work.

    Raises:
      ValueError: naming the key, the value and the limit.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value < 1:
            raise ValueError(f"{field.name} must be at least 1, got {value}")
    for name in ("num_envs", "minibatch_size"):
        if getattr(config, name) % num_devices:
            raise ValueError(
                f"{name} is {getattr(config, name)}, which {num_devices} devices "
                "cannot share evenly"
            )
    rollout = config.num_envs * config.rollout_steps
    if rollout % config.minibatch_size:
        raise ValueError(
            f"minibatch_size is {config.minibatch_size}, which does not divide a "
            f"rollout of {config.num_envs} x {config.rollout_steps} = {rollout} steps"
        )


def init_local(parts: Parts, key: Key, device: int) -> Local:
    """The state of one device before the first step."""
    config, env = parts.config, parts.env
    share = config.num_envs // parts.num_devices
    env_key, run_key = jax.random.split(key)
    envs = base.start(env, env_key, share, first_index=device * share)
    obs = jax.vmap(env.observe)(envs.states)
    size = config.minibatch_size // parts.num_devices
    return Local(
        envs=envs,
        obs=obs,
        length=jnp.zeros(share, jnp.int32),
        key=run_key,
        first_index=jnp.int32(device * share),
        env_steps=jnp.int32(0),
        bad_batch=ppo_glam.Batch(
            obs=jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), obs),
            action=jnp.zeros(size, jnp.int32),
            log_pi=jnp.zeros(size),
            value=jnp.zeros(size),
            advantage=jnp.zeros(size),
            target=jnp.zeros(size),
        ),
        stuck=jnp.int32(0),
        stuck_obs=jax.tree.map(lambda x: x[0], obs),
    )


def redistribute(local: Local, saved: int, num_devices: int) -> Local:
    """Deals a local state of `saved` devices to `num_devices`, on the host."""
    old = devices.stacked(jax.device_get(local), saved)
    num_envs = old.length.size
    share = num_envs // num_devices
    dealt = jax.tree.map(lambda x: devices.deal(x, num_devices), (
        old.envs, old.obs, old.length, old.bad_batch,
    ))  # fmt: skip
    key, env_steps, stuck_obs = jax.tree.map(
        lambda x: jnp.repeat(x[:1], num_devices, axis=0),
        (old.key, old.env_steps, old.stuck_obs),
    )
    first = jnp.arange(num_devices) == 0
    moved = Local(
        envs=dealt[0],
        obs=dealt[1],
        length=dealt[2],
        key=key,
        first_index=jnp.arange(num_devices, dtype=jnp.int32) * share,
        env_steps=env_steps,
        bad_batch=dealt[3],
        stuck=jnp.where(first, jnp.sum(old.stuck), 0).astype(jnp.int32),
        stuck_obs=stuck_obs,
    )
    return jax.tree.map(jnp.asarray, devices.unstacked(moved, num_devices))


def make(parts: Parts) -> Callable[[PyTree, Local], tuple[PyTree, Local, Metrics]]:
    """The program of some rollouts, `(agent state, local) -> (same, same, metrics)`."""
    config = parts.config

    def iteration(carry, _):
        state, local, episodes, sums, count = carry
        local, episodes, batch = _collect(parts, state, local, episodes)
        state, local, metrics, taken = _learn(parts, state, local, batch)
        sums = jax.tree.map(jnp.add, sums, metrics)
        return (state, local, episodes, sums, count + taken), None

    def program(state, local):
        episodes = tally.no_episodes(len(parts.env.goal_kinds))

        def metrics_of(state, local):
            local, _, batch = _collect(parts, state, local, episodes)
            return _learn(parts, state, local, batch)[2]

        shapes = jax.eval_shape(metrics_of, state, local)
        sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (state, local, told, sums, count), _ = jax.lax.scan(
            iteration,
            (state, local, episodes, sums, jnp.int32(0)),
            length=config.rollouts_per_call,
        )
        return state, local, _metrics(parts, state, local, told, sums, count)

    return program


def _reached_values(
    parts: Parts, params: Params, trajectory: Trajectory, last: Observation, key: Key
) -> jax.Array:
    """V(reached) of every step, [S, E].

    Where an episode goes on it is the value of the next step's state, known already;
    only cut-off episodes and the rollout's end cost a forward.
    """
    values = trajectory.action.value
    share = values.shape[1]

    def value(obs):
        keys = environment_keys(key, share)  # the choice is thrown away
        return parts.agent.act(params, obs, keys, SAMPLED).value

    ahead = jnp.concatenate([values[1:], value(last)[None]])
    flat = merge_leading(trajectory.step.reached)
    cut = trajectory.step.truncated
    at_cuts = map_selected(value, flat, cut.reshape(-1), share).reshape(cut.shape)
    return jnp.where(cut, at_cuts, ahead)


def _collect(
    parts: Parts, state: PyTree, local: Local, episodes: tally.Episodes
) -> tuple[Local, tally.Episodes, ppo_glam.Batch]:
    """A rollout, and what it teaches."""
    config, env = parts.config, parts.env
    params = parts.agent.params(state)
    key, unroll_key, value_key = jax.random.split(local.key, 3)
    envs, obs, trajectory = unroll(
        lambda obs, keys: parts.agent.act(params, obs, keys, SAMPLED),
        lambda action: action.command,
        lambda envs, command: base.advance(env, envs, command),
        local.envs, local.obs, unroll_key, config.rollout_steps, local.first_index,
    )  # fmt: skip
    reached = _reached_values(parts, params, trajectory, obs, value_key)
    batch = ppo_glam.to_batch(parts.agent_config, trajectory, reached, parts.axis_name)

    def count(carry, step):
        tallied, length = carry
        kind = jax.vmap(env.goal_kind)(step.reached.goal)
        tallied = tally.count_episodes(tallied, step, kind, length + 1)
        ended = step.terminated | step.truncated
        return (tallied, jnp.where(ended, 0, length + 1)), None

    (episodes, length), _ = jax.lax.scan(
        count, (episodes, local.length), trajectory.step
    )
    met = merge_leading(trajectory)
    local = dataclasses.replace(
        tally.note_stuck(local, met.action.log_pi, met.obs),
        envs=envs,
        obs=obs,
        length=length,
        key=key,
        env_steps=local.env_steps + config.num_envs * config.rollout_steps,
    )
    return local, episodes, batch


def _learn(
    parts: Parts, state: PyTree, local: Local, batch: ppo_glam.Batch
) -> tuple[PyTree, Local, Metrics, jax.Array]:
    """All epochs over a rollout; metrics summed over updates, and their number."""
    config = parts.config
    size = config.minibatch_size // parts.num_devices
    total = batch.action.shape[0]

    def minibatch(carry, index):
        state, bad = carry
        chosen = jax.tree.map(lambda x: x[index], batch)
        new, metrics = parts.agent.update(state, chosen)
        skipped = new.skipped > state.skipped
        bad = jax.tree.map(lambda b, x: jnp.where(skipped, x, b), bad, chosen)
        return (new, bad), metrics

    def epoch(carry, key):
        if parts.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(parts.axis_name))
        order = jax.random.permutation(key, total).reshape(-1, size)
        return jax.lax.scan(minibatch, carry, order)

    key, *epoch_keys = jax.random.split(local.key, config.epochs + 1)
    (state, bad), metrics = jax.lax.scan(
        epoch, (state, local.bad_batch), jnp.stack(epoch_keys)
    )
    local = dataclasses.replace(local, key=key, bad_batch=bad)
    taken = config.epochs * (total // size)
    # Nothing has moved yet, so the learner's log-probabilities should be those of the
    # policy that acted. Times `taken`, for sums become means over updates.
    first = {
        "offpolicy/first_kl": metrics["train/approx_kl"],
        "offpolicy/logprob_abs_diff": metrics["offpolicy/logprob_abs_diff"],
    }
    sums = jax.tree.map(jnp.sum, metrics)
    sums |= {name: taken * values[0, 0] for name, values in first.items()}
    return state, local, sums, jnp.int32(taken)


def _metrics(parts, state, local: Local, episodes, sums, count) -> Metrics:
    metrics = tally.mean_over_updates(sums, count)
    metrics |= tally.episode_metrics(episodes, parts.env.goal_kinds, parts.axis_name)
    stuck = local.stuck
    if parts.axis_name is not None:
        stuck = jax.lax.psum(stuck, parts.axis_name)
    return metrics | {
        "rollout/stuck": stuck,
        "train/skipped": state.skipped,
        "train/skipped_in_row": state.skipped_in_row,
        "updates": state.updates,
        "env_steps": local.env_steps,
    }
