"""PPO-GLAM: proximal policy optimisation over the commands an environment admits.

Source: Carta et al., 2023 (arXiv:2302.02662). Policy, prompt and scoring are those of
SAC-GLAM; a value head reads the hidden state of the prompt's last token, and its
gradient flows into the trunk:

    L = L_clip - entropy_weight exp(-entropy_decay updates) H(pi) + value_weight L_value

Departures: log-probabilities are normalised over the vocabulary (the authors summed
raw logits), the head's activation is ReLU where theirs is a sigmoid, so that both
agents here have the same head, and advantages may be standardised.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from rljax.agents.base import Action, Agent, Read, count_update, with_frozen
from rljax.losses import policy_gradient, returns
from rljax.losses.masked import masked_mean, whiten
from rljax.optim import optimizers
from rljax.policy.networks import Networks
from rljax.policy.sample import sample_commands
from rljax.rollout.unroll import Trajectory, merge_leading
from rljax.types import Key, Metrics, Observation, Params, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What PPO-GLAM adds to networks and data."""

    learning_rate: float = 1e-3
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 0.5
    gamma: float = 0.99
    gae_lambda: float = 0.99
    clip: float = 0.2  # of the probability ratio, and of the value's move
    entropy_weight: float = 0.01
    entropy_decay: float = 0.0  # fall of log entropy_weight per update; 0 keeps it
    value_weight: float = 0.5
    reward_scale: float = 20.0
    normalise_advantages: bool = True  # over the whole rollout, all devices


@flax.struct.dataclass
class State:
    """What PPO-GLAM carries.

    Attributes:
      params: {"actor": trunk, "v": head}.
      opt_state: of the one optimiser over them.
      updates: int32 [], updates taken, skipped ones included.
      skipped: int32 [], updates skipped because a loss or gradient was not finite.
      skipped_in_row: int32 [], the present run of those.
      frozen: the weights beside which trunks are adapters, once for all of them and
        never changed; None where trunks are whole.
    """

    params: Params
    opt_state: optax.OptState
    updates: jax.Array
    skipped: jax.Array
    skipped_in_row: jax.Array
    frozen: Params | None = None


class Batch(NamedTuple):
    """Steps to learn from; all but `obs` as they were when they were taken."""

    obs: Observation  # [B, ...]
    action: jax.Array  # int32 [B]
    log_pi: jax.Array  # float32 [B], of the action
    value: jax.Array  # float32 [B]
    advantage: jax.Array  # float32 [B]
    target: jax.Array  # float32 [B], what the value should have been


class _Parts(NamedTuple):
    """What the agent's functions are closed over."""

    networks: Networks
    read: Read
    config: Config
    axis_name: str | None
    optimizer: optax.GradientTransformation


def make(
    networks: Networks,
    read: Read,
    config: Config,
    axis_name: str | None = None,
    trainable: PyTree = None,
) -> Agent:
    """The agent's functions; `update` takes a `Batch`, one minibatch of one epoch.

    Args:
      networks: trunk and heads as pure functions.
      read: observations [B] -> prompts and tries.
      config: settings.
      axis_name: mapped axis that `update` sums over, if there is one.
      trainable: which of `State.params` learn, as `optimizers.only` takes it; None for
        all of them.
    """
    optimizer = optimizers.adam(
        config.learning_rate, config.max_grad_norm, epsilon=config.adam_epsilon
    )
    if trainable is not None:
        optimizer = optimizers.only(optimizer, trainable)
    parts = _Parts(networks, read, config, axis_name, optimizer)
    return Agent(
        init=functools.partial(_init, parts),
        act=functools.partial(_act, parts),
        update=functools.partial(_update, parts),
        params=lambda state: with_frozen(state.params, state.frozen),
    )


def to_batch(
    config: Config,
    trajectory: Trajectory,
    reached_value: jax.Array,
    axis_name: str | None = None,
) -> Batch:
    """Advantages and value targets of a rollout, flattened to [S * E].

    Args:
      config: settings.
      trajectory: [S, E, ...], its `action` an `Action`.
      reached_value: V(reached) of every step, float [S, E]; not read where the step
        terminated.
      axis_name: mapped axis to share the mean and variance of advantages over.
    """
    action, step = trajectory.action, trajectory.step
    advantage = returns.gae(
        config.reward_scale * step.reward, action.value, reached_value,
        step.terminated, step.truncated, config.gamma, config.gae_lambda,
    )  # fmt: skip
    target = action.value + advantage
    if config.normalise_advantages:
        mask = jnp.ones(advantage.shape, bool)
        advantage = whiten(advantage, mask, axis_name)
    taken = jnp.take_along_axis(action.log_pi, action.command[..., None], -1)[..., 0]
    batch = Batch(
        trajectory.obs, action.command, taken, action.value, advantage, target
    )
    return merge_leading(batch)


def _init(
    parts: _Parts,
    key: Key,
    frozen: Params | None = None,
    trunk: Params | None = None,
) -> State:
    trunk_key, v_key = jax.random.split(key)
    if trunk is None:
        trunk = parts.networks.init_trunk(trunk_key)
    params = {"actor": trunk, "v": parts.networks.init_v(v_key)}
    return State(
        params=params,
        opt_state=parts.optimizer.init(params),
        updates=jnp.int32(0),  # three buffers: the same one cannot be donated twice
        skipped=jnp.int32(0),
        skipped_in_row=jnp.int32(0),
        frozen=frozen,
    )


def _evaluate(
    parts: _Parts, frozen: Params | None, params: Params, obs: Observation
) -> tuple[jax.Array, jax.Array]:
    """log pi [B, A] and V [B]."""
    prompt, trie = parts.read(obs)
    weights = parts.networks.join(frozen, params["actor"])
    hidden = parts.networks.encode(weights, prompt, trie)
    log_pi = parts.networks.log_policy(weights, hidden, trie)
    return log_pi, parts.networks.v(params["v"], hidden)


def _act(
    parts: _Parts,
    params: Params,
    obs: Observation,
    keys: Key,
    temperature: jax.typing.ArrayLike = 1.0,
) -> Action:
    log_pi, value = _evaluate(parts, params.get("frozen"), params, obs)
    command = sample_commands(log_pi, keys, temperature)
    return Action(command, log_pi, value, q=None)


def _loss(
    params: Params,
    parts: _Parts,
    frozen: Params | None,
    batch: Batch,
    entropy_weight: jax.Array,
) -> tuple[jax.Array, Metrics]:
    config, axis_name = parts.config, parts.axis_name
    mask = jnp.ones(batch.action.shape, bool)
    log_pi, value = _evaluate(parts, frozen, params, batch.obs)
    taken = jnp.take_along_axis(log_pi, batch.action[:, None], axis=-1)[:, 0]
    policy = policy_gradient.ppo_policy_loss(
        taken, batch.log_pi, batch.advantage, mask, config.clip, axis_name=axis_name
    )
    critic = policy_gradient.ppo_value_loss(
        value, batch.value, batch.target, mask, config.clip, axis_name=axis_name
    )
    entropy = policy_gradient.mean_entropy(log_pi, mask, axis_name)
    metrics = policy.metrics | critic.metrics
    metrics |= {
        "train/entropy": entropy,
        "critic/loss": critic.loss,
        # How far the learner is from the policy that acted; see `on_policy`.
        "offpolicy/logprob_abs_diff": masked_mean(
            jnp.abs(taken - batch.log_pi), mask, axis_name
        ),
    }
    total = policy.loss - entropy_weight * entropy
    return total + config.value_weight * critic.loss, metrics


def _update(parts: _Parts, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One optimiser step; a non-finite one is skipped and counted."""
    config = parts.config
    weight = config.entropy_weight * jnp.exp(-config.entropy_decay * state.updates)
    grads, metrics = jax.grad(_loss, has_aux=True)(
        state.params, parts, state.frozen, batch, weight
    )
    if parts.axis_name is not None:
        grads, metrics = jax.lax.psum((grads, metrics), parts.axis_name)
    grad_norm = optax.tree.norm(grads)
    losses = metrics["critic/loss"] + metrics["train/policy_loss"]
    finite = jnp.isfinite(grad_norm) & jnp.isfinite(losses)
    step, opt_state = parts.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, step)
    moved = dataclasses.replace(state, params=params, opt_state=opt_state)
    metrics |= {"train/grad_norm": grad_norm, "train/entropy_weight": weight}
    return count_update(state, moved, finite), metrics
