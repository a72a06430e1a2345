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
      init: (key, frozen=None, trunk=None) -> State. `frozen`, the weights beside which
        the networks learn an adapter, stays in the state as it is; `trunk` is where the
        trunks start, drawn by the networks unless given. Pass them as arguments where
        this is jitted: closed over they become constants of the program.
      act: (params, observations [B], keys [B], temperature []) -> Action. A key per
        observation, so that a choice does not depend on how a batch is split.
        Temperature 1 samples from the policy, 0 is greedy, inf uniform over the
        admissible commands.
      update: (State, batch) -> (State, metrics); one optimiser step.
      params: State -> what `act` needs.
    """

    init: Callable[..., PyTree]
    act: Callable[[Params, Observation, Key, jax.typing.ArrayLike], Action]
    update: Callable[[PyTree, PyTree], tuple[PyTree, Metrics]]
    params: Callable[[PyTree], Params]


NONFINITE_LIMIT = 10  # skipped updates in a row after which a run should stop


def with_frozen(params: Params, frozen: Params | None) -> Params:
    """What `act` needs: what is learnt, and the frozen weights where there are any."""
    return params if frozen is None else {**params, "frozen": frozen}


def count_update(old: PyTree, new: PyTree, finite: jax.Array) -> PyTree:
    """The state after an update, counted; the one before it where it is not finite.

    Args:
      old: state before, with the counts `updates`, `skipped` and `skipped_in_row`, and
        `frozen`.
      new: state after, its counts untouched.
      finite: whether losses and gradients are, bool [], the same on every device.
    """
    # What is frozen is handed on and never chosen between: that could copy it.
    kept, refused = optimizers.skip_nonfinite(
        dataclasses.replace(old, frozen=None),
        dataclasses.replace(new, frozen=None),
        finite,
    )
    return dataclasses.replace(
        kept,
        frozen=old.frozen,
        updates=old.updates + 1,
        skipped=old.skipped + refused,
        # Once at the limit it stays, so that the host sees it after the call.
        skipped_in_row=jnp.where(
            finite & (old.skipped_in_row < NONFINITE_LIMIT),
            0,
            old.skipped_in_row + refused,
        ),
    )
