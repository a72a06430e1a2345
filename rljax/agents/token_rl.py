"""On-line learning of tokens: one agent for PPO, GRPO and replay on top of them.

    reading = agent.read(state, texts)            # of all answers, where it is wanted
    targets, told = estimate(rollout)             # `ppo.estimate` or `grpo.estimate`
    state, told = agent.update(state, batch_of(texts, rollout, targets))

What the methods differ in is passed in: how advantages are estimated, how tokens are
weighed against each other, whose ratio is clipped, and whether there is a critic. The
policy may be a whole model or an adapter, the critic a trunk of its own, the policy's,
or an adapter: see `oreo.Value`. The reference is the policy of the start, frozen.

Source: Schulman et al., 2017 (arXiv:1707.06347); Shao et al., 2024 (arXiv:2402.03300).
Shape letters: M answers of a rollout, those of a group together; E texts of a batch; L
most tokens sampled, which is the same for both.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import offline
from rljax.agents.offline import Optimizer, Reading, State
from rljax.agents.oreo import Value
from rljax.losses import surrogate
from rljax.losses.policy_gradient import ppo_value_loss
from rljax.losses.token_logprob import PerToken, chunked_loss, token_scores
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.types import Key, Metrics, Packed, Params, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What PPO and GRPO add to networks and answers."""

    updates: int = 1  # of the whole run, for the schedules
    low: float = 0.2  # of the policy's clip
    high: float = 0.2  # larger than low: clip-higher
    kl_weight: float = 0.0  # of the divergence from the reference, in the loss
    entropy_weight: float = 0.0
    value_clip: float | None = 0.2  # in units of the reward; None: no limit
    # A rollout has one update and there is no critic: what the answers' tokens were
    # drawn from is the policy that is updated, so nothing is read before.
    fresh: bool = False
    actor: Optimizer = Optimizer()
    critic: Optimizer = Optimizer()


class Rollout(NamedTuple):
    """Answers, what they earned, and what was thought of them before any update."""

    log_p: jax.Array  # float32 [M, L], under the policy that sampled
    log_p_ref: jax.Array | None  # float32 [M, L]; None where nothing was read before
    value: jax.Array | None  # float32 [M, L], V before the token; None without V
    mask: jax.Array  # bool [M, L], the token was sampled in this rollout
    reward: jax.Array  # float32 [M], of the whole answer, a replayed prefix included
    judged: jax.Array  # bool [M]; where the verifier failed nothing is learnt
    replayed: jax.Array  # bool [M], goes on from a stored state
    warming: jax.Array  # bool [], the critic warms up


class Targets(NamedTuple):
    """What a rollout teaches."""

    advantage: jax.Array  # float32 [M, L]
    learn: jax.Array  # bool [M, L], tokens that the policy learns from
    taught: jax.Array  # bool [M, L], tokens that the critic learns from
    returns: jax.Array | None  # float32 [M, L], what V should be; None without V
    score: jax.Array | None  # float32 [M, L], TD(lambda) in raw reward, without KL


Estimate = Callable[[Rollout], tuple[Targets, Metrics]]
# (log_p now, log_p_old, mask [E, L]) -> log_p_old in whose place the loss reads it:
# log_p now where the two are one, so that it is not asked then.
Rescale = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Batch(NamedTuple):
    """Packed answers with what they teach; float32 [E, L] where nothing is said."""

    texts: Packed
    log_p_old: jax.Array  # of the sampler where the agent is fresh
    advantage: jax.Array
    learn: jax.Array  # bool [E, L]
    taught: jax.Array  # bool [E, L]
    value_old: jax.Array | None
    returns: jax.Array | None


class TokenAgent(NamedTuple):
    """An agent as functions; settings are closed over.

    Attributes:
      init: (key, frozen, begun) -> State, as of `offline.OfflineAgent`.
      update: (State, Batch) -> (State, metrics); one optimiser step of each network.
      policy: State -> whole weights of the policy.
      read: (State, Packed) -> `Reading` of the texts; of a fresh agent without the
        reference.
      value: (State, Packed) -> V before each action, float32 [E, L]; None without V.
      fresh: see `Config.fresh`.
      kl: (State, Packed) -> divergence from the reference before each action, float32
        [E, L]; None where `read` or the update tells it.
    """

    init: Callable[..., State]
    update: Callable[[State, Batch], tuple[State, Metrics]]
    policy: Callable[[State], Params]
    read: Callable[[State, Packed], Reading]
    value: Callable[[State, Packed], jax.Array] | None
    fresh: bool = False
    kl: Callable[[State, Packed], jax.Array] | None = None


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    texts: Texts
    config: Config
    value: Value | None
    weights: surrogate.Weights
    rescale: Rescale | None
    per_token: PerToken  # made once: it is a static argument
    optimizer: offline.Optimizers
    axis_name: str | None


def make(
    texts: Texts,
    config: Config,
    value: Value | None = None,
    weights: surrogate.Weights = surrogate.token_mean,
    rescale: Rescale | None = None,
    axis_name: str | None = None,
) -> TokenAgent:
    """The agent's functions.

    Args:
      texts: the policy, whole or as an adapter.
      config: settings.
      value: how V is made; None for no critic.
      weights: how tokens are weighed against each other.
      rescale: `surrogate.gspo_log_p_old` for one ratio an answer; None for a ratio a
        token. It costs a second pass over the logits.
      axis_name: mapped axis that `update` sums over, if there is one.

    Raises:
      ValueError: if the config says fresh and there is a critic, whose values must be
        read before the update.
    """
    if config.fresh and value is not None:
        raise ValueError("fresh is True, but a critic reads answers before the update")
    optimizer = {"actor": offline.make_optimizer(config.actor, config.updates)}
    if value is not None:
        optimizer["critic"] = offline.make_optimizer(config.critic, config.updates)
    make_loss = surrogate.per_token_drawn if config.fresh else surrogate.per_token
    per_token = make_loss(
        config.low, config.high, config.kl_weight, config.entropy_weight
    )
    parts = _Parts(
        texts, config, value, weights, rescale, per_token, optimizer, axis_name
    )
    return TokenAgent(
        init=functools.partial(_init, parts),
        update=functools.partial(_update, parts),
        policy=lambda state: texts.join(state.frozen, state.params["actor"]),
        read=functools.partial(_read, parts),
        value=None if value is None else functools.partial(_values, parts, value),
        fresh=config.fresh,
        kl=functools.partial(_kl, parts)
        if config.fresh and not config.kl_weight
        else None,
    )


def batch_of(texts: Packed, rollout: Rollout, targets: Targets) -> Batch:
    """What is known of the answers in a packed batch, in its order. On the host.

    Args:
      texts: whose `line` is each answer's number in the rollout, -1 for none; with a
        leading axis of devices where there are several.
      rollout: the answers.
      targets: what they teach.
    """
    line = np.asarray(texts.line)
    there = (line >= 0)[..., None]

    def dealt(x):
        found = np.where(there, np.asarray(x, np.float32)[line], np.float32(0))
        return jnp.asarray(found)

    def flags(x):
        return jnp.asarray(np.asarray(x)[line] & there)

    return Batch(
        texts=texts,
        log_p_old=dealt(rollout.log_p),
        advantage=dealt(targets.advantage),
        learn=flags(targets.learn),
        taught=flags(targets.taught),
        value_old=None if rollout.value is None else dealt(rollout.value),
        returns=None if targets.returns is None else dealt(targets.returns),
    )


def _init(
    parts: _Parts, key: Key, frozen: Params, begun: Mapping[str, Params] | None = None
) -> State:
    actor_key, critic_key = jax.random.split(key)
    params = {"actor": parts.texts.init_trunk(actor_key, frozen)}
    if parts.value is not None:
        params["critic"] = parts.value.init(critic_key, frozen)
    return offline.start(params, parts.optimizer, frozen, begun)


def _update(parts: _Parts, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One optimiser step; a non-finite one is skipped and counted."""
    actor = state.params["actor"]
    of_actor = jax.value_and_grad(
        functools.partial(_policy_loss, parts, state, batch), has_aux=True
    )
    (loss, metrics), actor_grad = of_actor(actor)
    metrics = metrics | {"train/policy_loss": loss}
    grads = {"actor": actor_grad}
    if parts.value is not None:
        whole = parts.texts.join(state.frozen, actor)
        apply = functools.partial(_value_loss, parts, parts.value, state, whole, batch)
        grads["critic"], told = jax.grad(apply, has_aux=True)(state.params["critic"])
        metrics = metrics | told
    return offline.step(state, parts.optimizer, grads, metrics, parts.axis_name)


def _policy_loss(parts: _Parts, state: State, batch: Batch, actor: Params):
    texts, packed = parts.texts, batch.texts
    weights = texts.join(state.frozen, actor)
    hidden = texts.hidden(weights, packed)
    own = texts_lib.actions(texts, weights, hidden, packed)
    reference = None
    if parts.config.kl_weight:
        reference = offline.reference_of(texts, state.frozen, packed)
    old, fresh = batch.log_p_old, parts.config.fresh
    if parts.rescale is not None and not fresh:
        fixed = jax.lax.stop_gradient(own)
        now = token_scores(*fixed, packed.action, cap=texts.cap).log_prob
        old = parts.rescale(now, old, batch.learn)
    known: PyTree = surrogate.constants(
        old, batch.advantage, batch.learn, parts.weights, parts.axis_name
    )
    if fresh:
        said = surrogate.token_mean(packed.mask, parts.axis_name)
        known = surrogate.Drawn(known, said)
    return chunked_loss(
        *own, packed.action, parts.per_token, known, reference, texts.cap
    )


def _value_loss(parts: _Parts, value: Value, state, whole, batch: Batch, critic):
    v = value.apply(critic, state.frozen, whole, batch.texts)
    assert batch.value_old is not None and batch.returns is not None
    found = ppo_value_loss(
        v, batch.value_old, batch.returns, batch.taught,
        parts.config.value_clip, parts.axis_name,
    )  # fmt: skip
    return found.loss, found.metrics


def _read(parts: _Parts, state: State, batch: Packed) -> Reading:
    reference = None
    if not parts.config.fresh:
        reference = offline.reference_of(parts.texts, state.frozen, batch)
    whole = parts.texts.join(state.frozen, state.params["actor"])
    scores = offline.scores_of(parts.texts, whole, batch, reference)
    value = None if parts.value is None else _values(parts, parts.value, state, batch)
    return Reading(
        scores.log_prob, scores.entropy, scores.kl, scores.reference_log_prob, value
    )


def _kl(parts: _Parts, state: State, batch: Packed) -> jax.Array:
    reference = offline.reference_of(parts.texts, state.frozen, batch)
    whole = parts.texts.join(state.frozen, state.params["actor"])
    return offline.scores_of(parts.texts, whole, batch, reference).kl


def _values(parts: _Parts, value: Value, state: State, batch: Packed) -> jax.Array:
    whole = parts.texts.join(state.frozen, state.params["actor"])
    return value.apply(state.params["critic"], state.frozen, whole, batch)
