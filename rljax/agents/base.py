"""What an agent is: three pure functions over one state."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.optim import optimizers
from rljax.types import Key, Metrics, Observation, Params, PyTree

# Observations [B] -> their prompts (Tokens) and the tries of their commands (Trie) [B].
# What they are made of is the networks' business, so the type says no more.
Read = Callable[[Observation], tuple[PyTree, PyTree]]


class Action(NamedTuple):
    """What an agent chose, and what it thought of it."""

    command: jax.Array  # int32 [B], slot of the action axis
    log_pi: jax.Array  # float32 [B, A], -inf rules a command out; all -inf: no command
    value: jax.Array  # float32 [B], V(s), or E_pi Q(s, .) where there is no V
    q: jax.Array | None  # float32 [B, A]; None where there is no Q


class Agent(NamedTuple):
    """An agent as functions; settings are closed over.

    Attributes:
      init: key -> State.
      act: (params, observations [B], keys [B], temperature []) -> Action. A key per
        observation, so that a choice does not depend on how a batch is split.
        Temperature 1 samples from the policy, 0 is greedy, inf uniform over the
        admissible commands.
      update: (State, batch) -> (State, metrics); one optimiser step.
      params: State -> what `act` needs.
    """

    init: Callable[[Key], PyTree]
    act: Callable[[Params, Observation, Key, jax.typing.ArrayLike], Action]
    update: Callable[[PyTree, PyTree], tuple[PyTree, Metrics]]
    params: Callable[[PyTree], Params]


NONFINITE_LIMIT = 10  # skipped updates in a row after which a run should stop


def count_update(old: PyTree, new: PyTree, finite: jax.Array) -> PyTree:
    """The state after an update, counted; the one before it where it is not finite.

    Args:
      old: state before, with the counts `updates`, `skipped` and `skipped_in_row`.
      new: state after, its counts untouched.
      finite: whether losses and gradients are, bool [], the same on every device.
    """
    kept, refused = optimizers.skip_nonfinite(old, new, finite)
    return dataclasses.replace(
        kept,
        updates=old.updates + 1,
        skipped=old.skipped + refused,
        # Once at the limit it stays, so that the host sees it after the call.
        skipped_in_row=jnp.where(
            finite & (old.skipped_in_row < NONFINITE_LIMIT),
            0,
            old.skipped_in_row + refused,
        ),
    )
