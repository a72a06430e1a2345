"""DPO and KTO on logged answers.

A batch of DPO holds pairs, better then worse; one of KTO each answer and the answer of
the next one after its own prompt. Both are two texts of a comparison: rows 2 i and
2 i + 1 of the actions. Shapes: E = 2 B texts, L actions; see `types.Packed`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from rljax.agents import offline
from rljax.agents.offline import OfflineAgent, Optimizer, Reading, State
from rljax.losses import preference
from rljax.losses.masked import masked_mean
from rljax.policy.texts import Texts
from rljax.types import GOOD, Key, Metrics, Packed, Params

# (rho of first [B] and second [B] texts, rewards of the first [B], mask [B], axis)
Loss = Callable[..., preference.PreferenceLoss]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of learning by preference."""

    updates: int = 1  # of the whole run, for the schedule
    actor: Optimizer = Optimizer(learning_rate=5e-7)


def dpo(beta: float) -> Loss:
    """Pairs: the first text is the better one."""

    def loss(first, second, reward, mask, axis_name):
        del reward
        return preference.dpo_loss(first, second, mask, beta, axis_name)

    return loss


def kto(beta: float, good_weight: float = 1.0, bad_weight: float = 1.0) -> Loss:
    """Answers: the second text is a mismatched one."""

    def loss(first, second, reward, mask, axis_name):
        return preference.kto_loss(
            first, second, reward > GOOD, mask, beta, good_weight, bad_weight, axis_name
        )

    return loss


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    texts: Texts
    loss: Loss
    optimizer: offline.Optimizers
    axis_name: str | None


def make(
    texts: Texts, loss: Loss, config: Config, axis_name: str | None = None
) -> OfflineAgent:
    """The agent's functions.

    Args:
      texts: the policy, whole or as an adapter.
      loss: `dpo(...)` or `kto(...)`.
      config: settings.
      axis_name: mapped axis that `update` sums over, if there is one.
    """
    optimizer = {"actor": offline.make_optimizer(config.actor, config.updates)}
    parts = _Parts(texts, loss, optimizer, axis_name)
    return OfflineAgent(
        init=functools.partial(_init, parts),
        update=functools.partial(_update, parts),
        policy=lambda state: texts.join(state.frozen, state.params["actor"]),
        read=functools.partial(_read, parts),
    )


def _init(
    parts: _Parts, key: Key, frozen: Params, begun: Mapping[str, Params] | None = None
) -> State:
    params = {"actor": parts.texts.init_trunk(key, frozen)}
    return offline.start(params, parts.optimizer, frozen, begun)


def _update(parts: _Parts, state: State, batch: Packed) -> tuple[State, Metrics]:
    """One optimiser step; a non-finite one is skipped and counted."""
    texts, axis_name = parts.texts, parts.axis_name
    reference = offline.reference_of(texts, state.frozen, batch)
    mask = batch.mask.any(axis=1)[::2]

    def of_actor(actor):
        weights = texts.join(state.frozen, actor)
        scores = offline.scores_of(texts, weights, batch, reference)
        rho = preference.answer_log_ratio(
            scores.log_prob, scores.reference_log_prob, batch.mask
        )
        found = parts.loss(rho[::2], rho[1::2], batch.reward[::2], mask, axis_name)
        told = {
            "train/entropy": masked_mean(scores.entropy, batch.mask, axis_name),
            "train/kl": masked_mean(scores.kl, batch.mask, axis_name),
        }
        return found.loss, found.metrics | told

    grad, metrics = jax.grad(of_actor, has_aux=True)(state.params["actor"])
    return offline.step(state, parts.optimizer, {"actor": grad}, metrics, axis_name)


def _read(parts: _Parts, state: State, batch: Packed) -> Reading:
    reference = offline.reference_of(parts.texts, state.frozen, batch)
    whole = parts.texts.join(state.frozen, state.params["actor"])
    scores = offline.scores_of(parts.texts, whole, batch, reference)
    return Reading(
        scores.log_prob, scores.entropy, scores.kl, scores.reference_log_prob, None
    )
