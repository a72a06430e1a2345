"""SAC-GLAM: soft actor-critic over the commands an environment admits.

Source: Gaven et al., 2024 (arXiv:2410.12481). The policy is the language model: the
probability of a command is its tokens' probability, renormalised over the admissible
commands. The critic gives one scalar per command, read from the hidden states of the
command's tokens (`policy.score` has how). With pi and Q over the admissible commands
A(s),

    y        = scale * R + discount * V(s')
    V(s')    = sum_a' pi(a'|s') [Q'(s', a') - c alpha log pi(a'|s')]
    L_critic = error(Q(s, a), y)
    L_actor  = sum_a pi(a|s) [alpha log pi(a|s) - Q(s, a)] + kl KL(pi || pi_0)

where Q' is a Polyak average of Q (with `policy_from_target` the pi of V(s') is that
of the same average, which lags a little and saves a forward pass) and c is
`entropy_in_target`, 0 by default: success ends the entropy bonus, so a soft target can
pay for never succeeding.

Gradient routing. L_critic trains the Q head and the trunk Q reads from; L_actor trains
the language model only, with Q held constant. With `shared_trunk` both meet in one
trunk, and one optimiser steps their sum (two optimisers over the same weights, as in
the authors' later code, have no advantage known to us). Without, the critic owns a
second trunk that starts equal to the first. While `warmup_updates` last, only the
critic's head (and its own trunk, if it has one) trains: the language model, and so the
policy, does not move by a bit.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rljax.agents.base import Action, Agent, Read, count_update, with_frozen
from rljax.losses import sac, soft_bellman
from rljax.losses.masked import masked_mean
from rljax.optim import optimizers
from rljax.policy.networks import Networks
from rljax.policy.sample import sample_commands
from rljax.types import Key, Metrics, Observation, Params, PyTree, Transition


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What SAC-GLAM adds to networks and data."""

    learning_rate: float = 1e-3
    max_grad_norm: float | None = 1.0  # of both losses' summed gradient; None: no clip
    alpha: float = 0.01  # temperature, in units of scaled reward; where it starts
    alpha_target_ratio: float = 0.0  # > 0: hold the entropy at this share of log |A|
    alpha_learning_rate: float = 1e-3
    alpha_decay: float = 0.0  # fall of log alpha per update; 0 keeps it fixed
    entropy_in_target: float = 0.0  # 1 is the textbook soft target
    target_step: float = 0.01  # Polyak step of the slow copy, per update
    policy_from_target: bool = False  # in V(s'), pi from the slow copy: a forward less
    shared_trunk: bool = True
    warmup_updates: int = 0  # critic only
    actor_weight: float = 1.0
    reward_scale: float = 1.0
    kl_weight: float = 0.0  # pull towards the initial policy


@flax.struct.dataclass
class State:
    """What SAC-GLAM carries.

    Attributes:
      params: {"actor": trunk, "q": head}, and "critic": a trunk, if it is not shared.
      target: slow copy of `params`.
      opt_state: of the one optimiser over `params`.
      log_alpha: float32 [].
      alpha_opt_state: of the optimiser over `log_alpha`.
      reference: the initial actor trunk, or () where it is not needed.
      updates: int32 [], updates taken, skipped ones included.
      skipped: int32 [], updates skipped because a loss or gradient was not finite.
      skipped_in_row: int32 [], the present run of those.
      frozen: the weights beside which trunks are adapters, once for all of them and
        never changed; None where trunks are whole.
    """

    params: Params
    target: Params
    opt_state: optax.OptState
    log_alpha: jax.Array
    alpha_opt_state: optax.OptState
    reference: PyTree
    updates: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array
    frozen: Params | None = None


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    networks: Networks
    read: Read
    config: Config
    error: soft_bellman.QError
    axis_name: str | None
    optimizer: optax.GradientTransformation
    alpha_optimizer: optax.GradientTransformation


def make(
    networks: Networks,
    read: Read,
    config: Config,
    error: soft_bellman.QError = soft_bellman.sigmoid_cross_entropy,
    axis_name: str | None = None,
    trainable: PyTree = None,
) -> Agent:
    """The agent's functions.

    Args:
      networks: trunk and heads as pure functions.
      read: observations [B] -> prompts and tries.
      config: settings.
      error: how the critic's output is read and compared; cross-entropy wants
        targets in [0, 1], so a reward scale of 1 and no entropy in the target.
      axis_name: mapped axis that `update` sums over, if there is one.
      trainable: which of `State.params` learn, as `optimizers.only` takes it; None for
        all of them.

    Raises:
      ValueError: for a temperature that is not positive.
    """
    if config.alpha <= 0:
        raise ValueError(f"alpha must be above 0, got {config.alpha}")
    optimizer = optimizers.adam(config.learning_rate, config.max_grad_norm)
    if trainable is not None:
        optimizer = optimizers.only(optimizer, trainable)
    parts = _Parts(
        networks, read, config, error, axis_name,
        optimizer, optax.adam(config.alpha_learning_rate),
    )  # fmt: skip
    return Agent(
        init=functools.partial(_init, parts),
        act=functools.partial(_act, parts),
        update=functools.partial(_update, parts),
        params=lambda state: with_frozen(state.params, state.frozen),
    )


def _init(
    parts: _Parts,
    key: Key,
    frozen: Params | None = None,
    trunk: Params | None = None,
) -> State:
    networks, config = parts.networks, parts.config
    trunk_key, q_key = jax.random.split(key)
    trunk = networks.init_trunk(trunk_key) if trunk is None else trunk
    params = {"actor": trunk, "q": networks.init_q(q_key)}
    if not config.shared_trunk:
        params["critic"] = optimizers.hard_copy(trunk)
    log_alpha = jnp.float32(math.log(config.alpha))
    return State(
        params=params,
        target=optimizers.slow_copy(params),
        opt_state=parts.optimizer.init(params),
        log_alpha=log_alpha,
        alpha_opt_state=parts.alpha_optimizer.init(log_alpha),
        reference=optimizers.hard_copy(trunk) if config.kl_weight else (),
        updates=jnp.int32(0),
        skipped=jnp.int32(0),
        skipped_in_row=jnp.int32(0),
        frozen=frozen,
    )


def _evaluate(
    parts: _Parts,
    frozen: Params | None,
    actor: Params,
    critic: Params,
    head: Params,
    obs: Observation,
    gate: jax.typing.ArrayLike = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """log pi and raw Q, [B, A] each.

    One trunk given twice is run once; `gate` then scales the critic's gradient into
    it, without touching a value.
    """
    prompt, trie = parts.read(obs)
    log_pi, hidden = _policy(parts, frozen, actor, prompt, trie)
    if critic is actor:
        still = jax.lax.stop_gradient(hidden)
        features = still + gate * (hidden - still)
    else:
        weights = parts.networks.join(frozen, critic)
        features = parts.networks.encode(weights, prompt, trie)
    return log_pi, parts.networks.q(head, features, trie)


def _policy(
    parts: _Parts, frozen: Params | None, trunk: Params, prompt: PyTree, trie: PyTree
) -> tuple[jax.Array, jax.Array]:
    """log pi [B, A], and the hidden states it is read from."""
    weights = parts.networks.join(frozen, trunk)
    hidden = parts.networks.encode(weights, prompt, trie)
    return parts.networks.log_policy(weights, hidden, trie), hidden


def _critic_trunk(config: Config, params: Params) -> Params:
    return params["actor" if config.shared_trunk else "critic"]


def _act(
    parts: _Parts,
    params: Params,
    obs: Observation,
    keys: Key,
    temperature: jax.typing.ArrayLike = 1.0,
) -> Action:
    trunk = _critic_trunk(parts.config, params)
    log_pi, raw = _evaluate(
        parts, params.get("frozen"), params["actor"], trunk, params["q"], obs
    )
    command = sample_commands(log_pi, keys, temperature)
    q = parts.error.to_q(raw)
    return Action(command, log_pi, soft_bellman.soft_value(q, log_pi, 0.0), q)


def _target_value(parts: _Parts, state: State, reached: Observation) -> jax.Array:
    """V(s') of the target, [B]."""
    config, target = parts.config, state.target
    actor = (target if config.policy_from_target else state.params)["actor"]
    trunk = _critic_trunk(config, target)
    log_pi, raw = _evaluate(parts, state.frozen, actor, trunk, target["q"], reached)
    bonus = config.entropy_in_target * jnp.exp(state.log_alpha)
    value = soft_bellman.soft_value(parts.error.to_q(raw), log_pi, bonus)
    return jax.lax.stop_gradient(value)


def _loss(
    params: Params, parts: _Parts, state: State, batch: Transition, v_t: jax.Array
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """Both losses; on several devices, this one's share of them."""
    config, axis_name = parts.config, parts.axis_name
    mask = jnp.ones(batch.action.shape, bool)
    warm = _is_warm(config, state)
    trunk = _critic_trunk(config, params)
    log_pi, raw = _evaluate(
        parts, state.frozen, params["actor"], trunk, params["q"], batch.obs, gate=warm
    )
    q = parts.error.to_q(raw)
    bellman = soft_bellman.soft_bellman_loss(
        raw, batch.action, config.reward_scale * batch.reward, batch.discount,
        v_t, mask, error=parts.error, axis_name=axis_name,
    )  # fmt: skip
    actor = sac.policy_loss(log_pi, q, jnp.exp(state.log_alpha), mask, axis_name)
    value = soft_bellman.soft_value(q, log_pi, 0.0)
    metrics = bellman.metrics | actor.metrics
    metrics["critic/value"] = masked_mean(value, mask, axis_name)
    total = bellman.loss + warm * config.actor_weight * actor.loss
    if config.kl_weight:
        prompt, trie = parts.read(batch.obs)
        log_pi_0, _ = _policy(parts, state.frozen, state.reference, prompt, trie)
        kl = sac.kl_to_reference(log_pi, log_pi_0, mask, axis_name)
        metrics["train/kl_to_initial"] = kl
        total = total + warm * config.kl_weight * kl
    return total, (metrics, log_pi)


def _is_warm(config: Config, state: State) -> jax.Array:
    """1 once the critic-only warm-up is over, 0 while it lasts."""
    return (state.updates >= config.warmup_updates).astype(jnp.float32)


def _step_alpha(
    parts: _Parts, state: State, log_pi: jax.Array
) -> tuple[jax.Array, optax.OptState]:
    """log alpha of the next update, and the state of the optimiser behind it."""
    config, warm = parts.config, _is_warm(parts.config, state)
    if not config.alpha_target_ratio:
        return state.log_alpha - warm * config.alpha_decay, state.alpha_opt_state
    mask = jnp.ones(log_pi.shape[:1], bool)

    def loss(log_alpha):
        ratio = config.alpha_target_ratio
        return sac.alpha_loss(log_alpha, log_pi, ratio, mask, parts.axis_name).loss

    grad = jax.grad(loss)(state.log_alpha)
    if parts.axis_name is not None:
        grad = jax.lax.psum(grad, parts.axis_name)
    step, opt_state = parts.alpha_optimizer.update(warm * grad, state.alpha_opt_state)
    return jnp.asarray(optax.apply_updates(state.log_alpha, step)), opt_state


def _update(parts: _Parts, state: State, batch: Transition) -> tuple[State, Metrics]:
    """One optimiser step on both losses; a non-finite one is skipped and counted."""
    v_t = _target_value(parts, state, batch.reached)
    grads, (metrics, log_pi) = jax.grad(_loss, has_aux=True)(
        state.params, parts, state, batch, v_t
    )
    if parts.axis_name is not None:
        grads, metrics = jax.lax.psum((grads, metrics), parts.axis_name)
    grad_norm = optax.tree.norm(grads)
    losses = metrics["critic/loss"] + metrics["train/policy_loss"]
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(losses)

    step, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, step)
    log_alpha, alpha_opt_state = _step_alpha(parts, state, log_pi)
    moved = dataclasses.replace(
        state,
        params=params,
        target=optimizers.polyak(state.target, params, parts.config.target_step),
        opt_state=opt_state,
        log_alpha=log_alpha,
        alpha_opt_state=alpha_opt_state,
    )
    metrics |= {"train/alpha": jnp.exp(state.log_alpha), "train/grad_norm": grad_norm}
    return count_update(state, moved, finite), metrics
