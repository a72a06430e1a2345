"""What agents that learn from logs have in common: state, optimisers, one update.

Shapes: E texts, L actions of a text; see `types.Packed`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rljax.agents.base import count_update
from rljax.losses.token_logprob import Scores, Source, token_scores
from rljax.optim import optimizers
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.types import Metrics, Packed, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam with a cosine fall to 0 after a linear rise; each network has its own.

    With `wait` above 0 the network stands still for that share of the updates first,
    as a policy may whose value has yet to learn something.
    """

    learning_rate: float = 5e-6
    warmup: float = 0.03  # share of the updates in which the rate rises
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    wait: float = 0.0  # share of the updates in which nothing moves


@flax.struct.dataclass
class State:
    """What such an agent carries.

    Attributes:
      params: a tree for each network, {"actor": trunk, ...}.
      opt_state: of each network, under the same names.
      updates: int32 [], updates taken, skipped ones included.
      skipped: int32 [], updates skipped because a loss or gradient was not finite.
      skipped_in_row: int32 [], the present run of those.
      frozen: weights that never change: the reference policy, and the base of
        adapters; None where there is neither.
    """

    params: dict[str, Params]
    opt_state: dict[str, optax.OptState]
    updates: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array
    frozen: Params | None = None


class OfflineAgent(NamedTuple):
    """An agent as functions; settings are closed over.

    Attributes:
      init: (key, frozen, begun) -> State. `frozen` are the weights it starts from;
        `begun`, which may be left out, are trees of networks that start elsewhere.
      update: (State, Packed) -> (State, metrics); one optimiser step.
      policy: State -> whole weights of the policy.
      read: (State, Packed) -> `Reading` of the texts, for people.
      reference: whether it knows a reference policy, which `read` then tells of.
    """

    init: Callable[..., State]
    update: Callable[[State, Packed], tuple[State, Metrics]]
    policy: Callable[[State], Params]
    read: Callable[[State, Packed], "Reading"]
    reference: bool = True


class Reading(NamedTuple):
    """What an agent thinks of the actions in texts."""

    log_prob: jax.Array  # float32 [E, L]
    entropy: jax.Array  # float32 [E, L]
    kl: jax.Array  # float32 [E, L], to the reference; 0 without one
    reference_log_prob: jax.Array  # float32 [E, L]; 0 without a reference
    value: jax.Array | None  # float32 [E, L], V before the action; None without V


Optimizers = dict[str, optax.GradientTransformation]


def make_optimizer(config: Optimizer, updates: int) -> optax.GradientTransformation:
    """The optimiser of one network.

    Args:
      config: its settings.
      updates: of the whole run, after which the rate is 0.
    """
    still = min(round(config.wait * updates), updates - 1)
    moving = updates - still
    rise = min(round(config.warmup * moving), moving - 1)
    if rise:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, config.learning_rate, rise, moving
        )
    else:
        rate = optax.cosine_decay_schedule(config.learning_rate, moving)
    if still:
        rate = optax.join_schedules([optax.constant_schedule(0.0), rate], [still])
    return optimizers.adam(
        rate, config.max_grad_norm, config.weight_decay,
        config.b1, config.b2, config.epsilon,
    )  # fmt: skip


def start(
    params: dict[str, Params],
    optimizer: Optimizers,
    frozen: Params | None,
    begun: Mapping[str, Params] | None = None,
) -> State:
    """The state before the first update.

    Args:
      params: of each network, as `frozen` has it begin.
      optimizer: of each network.
      frozen: weights that never change.
      begun: for some networks, what they begin as instead. It is copied.

    Raises:
      ValueError: if that is of no network, or not of its shapes and types.
    """
    for name, tree in (begun or {}).items():
        if name not in params:
            raise ValueError(f"{name!r} is no network; there are {sorted(params)}")
        _require_alike(name, params[name], tree)
    params = params | jax.tree.map(jnp.copy, dict(begun or {}))
    return State(
        params=params,
        opt_state={name: optimizer[name].init(params[name]) for name in params},
        updates=jnp.int32(0),  # three buffers: the same one cannot be donated twice
        skipped=jnp.int32(0),
        skipped_in_row=jnp.int32(0),
        frozen=frozen,
    )


def _require_alike(name: str, wanted: Params, given: Params) -> None:
    there, here = (
        {
            jax.tree_util.keystr(where): f"{leaf.dtype}{list(leaf.shape)}"
            for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (given, wanted)
    )
    wrong = [
        f"{key} is {there.get(key, 'absent')}, expected {here.get(key, 'none')}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    if wrong:
        raise ValueError(f"{name} cannot begin as this: {'; '.join(wrong[:4])}")


def step(
    state: State,
    optimizer: Optimizers,
    grads: dict[str, Params],
    metrics: Metrics,
    axis_name: str | None,
) -> tuple[State, Metrics]:
    """One step of every network, or none where something is not finite.

    Args:
      state: before.
      optimizer: of each network.
      grads: shares of this device, under the same names.
      metrics: shares of this device.
      axis_name: mapped axis to sum over, if there is one.
    """
    if axis_name is not None:
        grads, metrics = jax.lax.psum((grads, metrics), axis_name)
    norms = {name: optax.tree.norm(grad) for name, grad in grads.items()}
    finite = jnp.isfinite(sum(norms.values()))
    for value in metrics.values():
        finite &= jnp.isfinite(value)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for name, grad in grads.items():
        change, opt_state[name] = optimizer[name].update(
            grad, state.opt_state[name], state.params[name]
        )
        params[name] = optax.apply_updates(state.params[name], change)
    moved = dataclasses.replace(state, params=params, opt_state=opt_state)
    groups = {"actor": "train", "critic": "critic"}
    metrics = metrics | {f"{groups[k]}/grad_norm": v for k, v in norms.items()}
    return count_update(state, moved, finite), metrics


def reference_of(texts: Texts, frozen: Params, batch: Packed) -> Source:
    """The reference policy's states and matrix, constants."""
    hidden = texts.hidden(frozen, batch)
    return jax.lax.stop_gradient(texts_lib.actions(texts, frozen, hidden, batch))


def scores_of(
    texts: Texts, weights: Params, batch: Packed, reference: Source | None
) -> Scores:
    """Scores of all actions under whole weights, [E, L]."""
    own = texts_lib.actions(texts, weights, texts.hidden(weights, batch), batch)
    return token_scores(*own, batch.action, reference, texts.cap)
