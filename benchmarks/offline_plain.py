"""The peer of OREO's update: logits of all tokens at once, padded rows.

What one writes first: a row for each text, as long as the longest, logits [R, T, V] of
policy and reference, their log-softmax, and equations 8 and 9 on top. It shares the
decoder, the optimiser and the batch's type with the agent, and no loss.
Shapes: see `types.Packed`; V tokens of the vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.agents import offline, oreo
from rljax.agents.offline import State
from rljax.models.config import ModelConfig
from rljax.models.decoder import logits
from rljax.policy import texts
from rljax.types import Episode, Metrics, Packed


def padded(log: Sequence[Episode]) -> Packed:
    """Texts as a batch with a row for each, as long as the longest.

    Args:
      log: at least one text.
    """
    wide = max(len(one.ids) for one in log)
    deep = max(int(one.action.sum()) for one in log)
    ids, position, segment = (np.zeros((len(log), wide), np.int32) for _ in range(3))
    at, action, step = (np.zeros((len(log), deep), np.int32) for _ in range(3))
    mask = np.zeros((len(log), deep), bool)
    for row, one in enumerate(log):
        size, (said,) = len(one.ids), np.nonzero(one.action)
        ids[row, :size] = one.ids
        position[row, :size] = np.arange(size)
        segment[row, :size] = 1
        at[row, : len(said)] = row * wide + said - 1
        action[row, : len(said)] = one.ids[said]
        step[row, : len(said)] = one.step[said]
        mask[row, : len(said)] = True
    reward = np.array([one.reward for one in log], np.float32)
    line = np.array([one.line for one in log], np.int32)
    found = (ids, position, segment, at, action, mask, step, reward, line)
    return Packed(*map(jnp.asarray, found))


def make(
    size: ModelConfig, settings: oreo.Config
) -> Callable[[State, Packed], tuple[State, Metrics]]:
    """The plain update of a whole policy and a critic with a trunk of its own.

    Args:
      size: of the decoder.
      settings: as the agent's.
    """
    model = texts.make(size)
    optimizer = {
        "actor": offline.make_optimizer(settings.actor, settings.updates),
        "critic": offline.make_optimizer(settings.critic, settings.updates),
    }

    def of_all(weights, batch):  # log-probabilities [R, T, V]
        hidden = model.hidden(weights, batch)
        return jax.nn.log_softmax(logits(weights, hidden, size))

    def said(log_p, batch):  # those of the next token of each row [R, T]
        following = jnp.roll(batch.ids, -1, axis=1)
        return jnp.take_along_axis(log_p, following[..., None], axis=-1)[..., 0]

    def of_actions(of_tokens, batch):  # [R, T] -> [E, L], 0 in the padding
        return jnp.where(batch.mask, of_tokens.reshape(-1)[batch.at], 0.0)

    def mean(x, batch):  # over texts of the mean over actions
        return jnp.mean(jnp.sum(x * batch.mask, axis=1) / jnp.sum(batch.mask, axis=1))

    def update(state, batch):
        log_q = jax.lax.stop_gradient(of_all(state.frozen, batch))
        reward = batch.reward[:, None]

        def value_of(critic):
            hidden = model.hidden(critic["trunk"], batch)
            return of_actions(hidden @ critic["head"], batch)

        def of_actor(actor, value):
            log_p = of_all(actor, batch)
            ratio = of_actions(said(log_p, batch) - said(log_q, batch), batch)
            kl = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
            kl = mean(of_actions(kl, batch), batch)
            suffix = jnp.cumsum(ratio[:, ::-1], axis=1)[:, ::-1]
            later = jax.lax.stop_gradient(suffix - ratio)
            residual = value - reward + settings.beta * (ratio + later)
            loss = mean(jnp.square(residual), batch)
            return loss + settings.kl_weight * kl, (loss, kl, suffix)

        def of_critic(critic, suffix):
            residual = value_of(critic) - reward + settings.beta * suffix
            return mean(jnp.square(residual), batch)

        actor, critic = state.params["actor"], state.params["critic"]
        value = jax.lax.stop_gradient(value_of(critic))
        grads = {}
        grads["actor"], (loss, kl, suffix) = jax.grad(of_actor, has_aux=True)(
            actor, value
        )
        of_value, grads["critic"] = jax.value_and_grad(of_critic)(critic, suffix)
        told = {"train/policy_loss": loss, "train/kl": kl, "critic/loss": of_value}
        told["train/grad_norm"] = optax.tree.norm(grads["actor"])
        told["critic/grad_norm"] = optax.tree.norm(grads["critic"])
        params, opt_state = {}, {}
        for name, grad in grads.items():
            change, opt_state[name] = optimizer[name].update(
                grad, state.opt_state[name], state.params[name]
            )
            params[name] = optax.apply_updates(state.params[name], change)
        return dataclasses.replace(state, params=params, opt_state=opt_state), told

    return update
