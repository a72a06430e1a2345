"""Supervised learning of logged answers: SFT, and with good answers alone, rejection
sampling.

    L = - sum over actions of log pi(a_t|s_t) / number of actions

All tokens of a batch weigh the same. Shapes: see `types.Packed`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax

from rljax.agents import offline
from rljax.agents.offline import OfflineAgent, Optimizer, Reading, State
from rljax.losses.masked import masked_count
from rljax.losses.token_logprob import Scores, chunked_loss
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.types import Key, Metrics, Packed, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of imitation."""

    updates: int = 1  # of the whole run, for the schedule
    actor: Optimizer = Optimizer(learning_rate=2e-5)


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    texts: Texts
    optimizer: offline.Optimizers
    keep: bool  # the weights it starts from, for an adapter needs them
    axis_name: str | None


def make(
    texts: Texts, config: Config, adapter: bool = False, axis_name: str | None = None
) -> OfflineAgent:
    """The agent's functions.

    Args:
      texts: the policy, whole or as an adapter.
      config: settings.
      adapter: whether it is an adapter, whose frozen weights the state keeps.
      axis_name: mapped axis that `update` sums over, if there is one.
    """
    optimizer = {"actor": offline.make_optimizer(config.actor, config.updates)}
    parts = _Parts(texts, optimizer, adapter, axis_name)
    return OfflineAgent(
        init=functools.partial(_init, parts),
        update=functools.partial(_update, parts),
        policy=lambda state: texts.join(state.frozen, state.params["actor"]),
        read=functools.partial(_read, parts),
        reference=False,
    )


def _init(
    parts: _Parts, key: Key, frozen: Params, begun: Mapping[str, Params] | None = None
) -> State:
    params = {"actor": parts.texts.init_trunk(key, frozen)}
    kept = frozen if parts.keep else None
    return offline.start(params, parts.optimizer, kept, begun)


def _per_token(scores: Scores, weight: jax.Array):
    told = {
        "train/entropy": weight * scores.entropy,
        "train/log_prob": weight * scores.log_prob,
    }
    return -weight * scores.log_prob, told


def _update(parts: _Parts, state: State, batch: Packed) -> tuple[State, Metrics]:
    """One optimiser step; a non-finite one is skipped and counted."""
    texts = parts.texts
    weight = batch.mask / masked_count(batch.mask, parts.axis_name)

    def loss(actor):
        weights = texts.join(state.frozen, actor)
        own = texts_lib.actions(texts, weights, texts.hidden(weights, batch), batch)
        return chunked_loss(*own, batch.action, _per_token, weight, cap=texts.cap)

    (value, told), grad = jax.value_and_grad(loss, has_aux=True)(state.params["actor"])
    metrics = told | {"train/policy_loss": value}
    return offline.step(
        state, parts.optimizer, {"actor": grad}, metrics, parts.axis_name
    )


def _read(parts: _Parts, state: State, batch: Packed) -> Reading:
    whole = parts.texts.join(state.frozen, state.params["actor"])
    scores = offline.scores_of(parts.texts, whole, batch, None)
    return Reading(
        scores.log_prob, scores.entropy, scores.kl, scores.reference_log_prob, None
    )
