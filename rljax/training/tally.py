"""Counts kept inside a compiled call, and the metrics made of them at its end."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from rljax.types import Metrics, Observation, TimeStep


@flax.struct.dataclass
class Episodes:
    """How the episodes that ended in a call went, by kind of goal [K].

    Attributes:
      ended: int32 [K].
      succeeded: int32 [K].
      steps: int32 [K], environment steps those episodes took.
    """

    ended: jax.Array
    succeeded: jax.Array
    steps: jax.Array


def no_episodes(num_kinds: int) -> Episodes:
    """Zero counts."""
    zero = jnp.zeros(num_kinds, jnp.int32)
    return Episodes(zero, zero, zero)


def count_episodes(
    tally: Episodes, step: TimeStep, kind: jax.Array, length: jax.Array
) -> Episodes:
    """Adds the episodes that ended with this step.

    Args:
      tally: counts so far.
      step: leaves [E, ...].
      kind: kind of the goal of each environment before the reset, int32 [E].
      length: steps of each episode, this one included, int32 [E].
    """
    kinds = jnp.arange(tally.ended.shape[0])
    ended = (step.terminated | step.truncated)[:, None] & (kind[:, None] == kinds)
    success = ended & step.terminated[:, None]
    return Episodes(
        tally.ended + jnp.sum(ended, axis=0, dtype=jnp.int32),
        tally.succeeded + jnp.sum(success, axis=0, dtype=jnp.int32),
        tally.steps + jnp.sum(jnp.where(ended, length[:, None], 0), axis=0),
    )


def episode_metrics(
    tally: Episodes, kinds: Sequence[str], axis_name: str | None
) -> Metrics:
    """`rollout/success_<kind>` and so on, over all devices; NaN where none ended."""
    if axis_name is not None:
        tally = jax.lax.psum(tally, axis_name)
    ended = tally.ended.astype(jnp.float32)
    metrics = {
        "rollout/episodes": jnp.sum(tally.ended),
        "rollout/success": jnp.sum(tally.succeeded) / jnp.sum(ended),
    }
    for index, kind in enumerate(kinds):
        metrics[f"rollout/success_{kind}"] = tally.succeeded[index] / ended[index]
        metrics[f"rollout/length_{kind}"] = tally.steps[index] / ended[index]
    return metrics


def note_stuck(local: Any, log_pi: jax.Array, obs: Observation) -> Any:
    """Counts the states that admit no command, and keeps the first of them.

    Args:
      local: a device's own state, a dataclass with `stuck` and `stuck_obs`.
      log_pi: -inf rules a command out, float [N, A].
      obs: leaves [N, ...].

    Returns:
      `local` with those two brought up to date.
    """
    stuck = jnp.all(log_pi == -jnp.inf, axis=-1)  # NaN is another fault
    first = jax.tree.map(lambda x: x[jnp.argmax(stuck)], obs)
    news = (local.stuck == 0) & jnp.any(stuck)
    return dataclasses.replace(
        local,
        stuck=local.stuck + jnp.sum(stuck, dtype=jnp.int32),
        stuck_obs=jax.tree.map(
            lambda new, old: jnp.where(news, new, old), first, local.stuck_obs
        ),
    )


def mean_over_updates(sums: Metrics, count: jax.Array) -> Metrics:
    """Means of summed metrics; NaN where no update was taken."""
    return {name: x / count for name, x in sums.items()}
