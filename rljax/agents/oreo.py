"""OREO: policy and value learnt together from logged attempts, failures included.

    critic  L_V  = mean_b 1/M sum_t (V(s_t) - R + beta sg[S_t])^2
    actor   L_pi = mean_b 1/M sum_t (sg[V(s_t)] - R + beta l_t + beta sg[S_{t+1}])^2
                   + alpha mean_b 1/T sum_t KL(pi(.|s_t) || pi_ref(.|s_t))

Both gradients are taken at the parameters before the update: the value that the actor
sees is the one before the critic's step. The divergence is that of the whole
vocabulary. Source: Wang et al., 2024 (arXiv:2412.16145); see `losses.oreo`.
Shapes: E texts, L actions; see `types.Packed`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.agents import offline
from rljax.agents.offline import OfflineAgent, Optimizer, Reading, State
from rljax.losses import oreo
from rljax.losses.masked import masked_mean
from rljax.policy.texts import Texts
from rljax.types import GOOD, Key, Metrics, Packed, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What OREO adds to networks and data."""

    beta: float = 0.03  # weight of the divergence in what is optimal
    kl_weight: float = 0.01  # alpha; 0.1 for steps, 0.3 for whole answers
    updates: int = 1  # of the whole run, for the schedules
    actor: Optimizer = Optimizer()
    critic: Optimizer = Optimizer()


class Value(NamedTuple):
    """How V is made of the model; `own_trunk`, `shared_trunk` make it.

    Attributes:
      init: (key, frozen) -> the critic's parameters.
      apply: (critic, frozen, actor's weights, batch) -> V before each action [E, L].
      trunk: (critic, frozen) -> whole weights of its trunk; None where it is the
        policy's. The critic's "head", [D], reads their hidden states.
    """

    init: Callable[[Key, Params], Params]
    apply: Callable[[Params, Params, Params, Packed], jax.Array]
    trunk: Callable[[Params, Params], Params | None]


def own_trunk(texts: Texts) -> Value:
    """A trunk of its own, which starts as the reference, and a linear head of zeros.

    With an adapter in `texts` the trunk is the reference and what is learnt beside it.
    The head has no bias and works in float32.
    """

    def init(key, frozen):
        return {"trunk": texts.init_trunk(key, frozen), "head": jnp.zeros(texts.width)}

    def apply(critic, frozen, actor, batch):
        del actor
        weights = texts.join(frozen, critic["trunk"])
        return _linear(texts, weights, critic["head"], batch)

    return Value(
        init, apply, lambda critic, frozen: texts.join(frozen, critic["trunk"])
    )


def shared_trunk(texts: Texts) -> Value:
    """A linear head of zeros on the policy's hidden states, which it does not move.

    A third of the cost in time and a head's in memory; the head sees what the policy
    happens to know.
    """

    def init(key, frozen):
        del key, frozen
        return {"head": jnp.zeros(texts.width)}

    def apply(critic, frozen, actor, batch):
        del frozen
        actor = jax.lax.stop_gradient(actor)
        return _linear(texts, actor, critic["head"], batch)

    return Value(init, apply, lambda critic, frozen: None)


def _linear(texts: Texts, weights: Params, head: jax.Array, batch: Packed):
    hidden = texts.hidden(weights, batch).reshape(-1, texts.width)
    values = jnp.dot(hidden.astype(head.dtype), head)  # of every token: cheaper
    return values[batch.at]


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    texts: Texts
    value: Value
    level: oreo.Level
    actor_loss: oreo.ActorLoss
    critic_level: oreo.Level
    config: Config
    optimizer: offline.Optimizers
    axis_name: str | None


def make(
    texts: Texts,
    value: Value,
    config: Config,
    level: oreo.Level = oreo.by_token,
    actor_loss: oreo.ActorLoss = oreo.actor_loss,
    axis_name: str | None = None,
) -> OfflineAgent:
    """The agent's functions.

    Args:
      texts: the policy, whole or as an adapter.
      value: how V is made.
      config: settings.
      level: what an action of the policy's loss is. The critic learns the value of
        every token, or with steps that of their beginnings, as in the reference code.
      actor_loss: `losses.oreo.actor_loss` or one of its variants.
      axis_name: mapped axis that `update` sums over, if there is one.
    """
    optimizer = {
        "actor": offline.make_optimizer(config.actor, config.updates),
        "critic": offline.make_optimizer(config.critic, config.updates),
    }
    critic_level = oreo.by_step if level is oreo.by_step else oreo.by_token
    parts = _Parts(
        texts, value, level, actor_loss, critic_level, config, optimizer, axis_name
    )
    return OfflineAgent(
        init=functools.partial(_init, parts),
        update=functools.partial(_update, parts),
        policy=lambda state: texts.join(state.frozen, state.params["actor"]),
        read=functools.partial(_read, parts),
    )


def _init(
    parts: _Parts, key: Key, frozen: Params, begun: Mapping[str, Params] | None = None
) -> State:
    actor_key, critic_key = jax.random.split(key)
    params = {
        "actor": parts.texts.init_trunk(actor_key, frozen),
        "critic": parts.value.init(critic_key, frozen),
    }
    return offline.start(params, parts.optimizer, frozen, begun)


def _update(parts: _Parts, state: State, batch: Packed) -> tuple[State, Metrics]:
    """One optimiser step of both; a non-finite one is skipped and counted."""
    texts, config, axis_name = parts.texts, parts.config, parts.axis_name
    reference = offline.reference_of(texts, state.frozen, batch)
    whole = texts.join(state.frozen, state.params["actor"])
    value, pull = jax.vjp(
        lambda critic: parts.value.apply(critic, state.frozen, whole, batch),
        state.params["critic"],
    )

    def of_actor(actor):
        weights = texts.join(state.frozen, actor)
        scores = offline.scores_of(texts, weights, batch, reference)
        terms = _terms(parts.level, scores, value, batch)
        found = parts.actor_loss(terms, batch.reward, config.beta, axis_name)
        kl = oreo.divergence(scores.kl, batch.mask, axis_name)
        told = found.metrics | {"train/kl": kl}
        return found.loss + config.kl_weight * kl, (scores, told)

    actor_grad, (scores, told) = jax.grad(of_actor, has_aux=True)(state.params["actor"])

    def of_critic(value):
        terms = _terms(parts.critic_level, scores, value, batch)
        found = oreo.critic_loss(terms, batch.reward, config.beta, axis_name)
        return found.loss, found.metrics

    of_value, more = jax.grad(of_critic, has_aux=True)(value)
    (critic_grad,) = pull(of_value.astype(value.dtype))
    metrics = told | more | _told(scores, value, batch, axis_name)
    grads = {"actor": actor_grad, "critic": critic_grad}
    return offline.step(state, parts.optimizer, grads, metrics, axis_name)


def _terms(level: oreo.Level, scores, value, batch: Packed) -> oreo.Terms:
    return level(
        scores.log_prob, scores.reference_log_prob, value, batch.mask, batch.step
    )


def _told(scores, value, batch: Packed, axis_name) -> Metrics:
    """Entropy, and log-ratios and V of good and bad answers, means over tokens."""
    good = batch.mask & (batch.reward > GOOD)[:, None]
    bad = batch.mask & ~(batch.reward > GOOD)[:, None]
    ratio = scores.log_prob - scores.reference_log_prob
    return {
        "train/entropy": masked_mean(scores.entropy, batch.mask, axis_name),
        "train/log_ratio_good": masked_mean(ratio, good, axis_name),
        "train/log_ratio_bad": masked_mean(ratio, bad, axis_name),
        "critic/value_good": masked_mean(value, good, axis_name),
        "critic/value_bad": masked_mean(value, bad, axis_name),
    }


def _read(parts: _Parts, state: State, batch: Packed) -> Reading:
    reference = offline.reference_of(parts.texts, state.frozen, batch)
    whole = parts.texts.join(state.frozen, state.params["actor"])
    scores = offline.scores_of(parts.texts, whole, batch, reference)
    value = parts.value.apply(state.params["critic"], state.frozen, whole, batch)
    return Reading(
        scores.log_prob, scores.entropy, scores.kl, scores.reference_log_prob, value
    )
