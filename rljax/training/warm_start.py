"""A language model's first words: pretraining on what random play renders.

No expert and no reward: the text is the prompts an environment shows while commands
are drawn uniformly, each followed by the command drawn. So the policy starts near
the uniform one over admissible commands; from random weights it starts at whichever
command has the fewest tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from rljax.envs import base
from rljax.losses.imitation import next_token_loss
from rljax.optim import optimizers
from rljax.policy.networks import Networks, whole_trunk
from rljax.policy.sample import sample_commands
from rljax.rollout.unroll import environment_keys
from rljax.types import Commands, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How long, on how much. No updates: no warm start."""

    updates: int = 0
    num_envs: int = 64  # texts an update, each from an environment of its own
    learning_rate: float = 1e-3


def warm_start(
    networks: Networks, env: base.Env, eos_id: int, config: Config
) -> Networks:
    """The same networks, whose trunk comes pretrained from `init_trunk`.

    Every copy an agent makes of its first trunk (target, reference, critic) then
    starts from it too.

    Args:
      networks: trunk and heads.
      env: what is played at random, and renders.
      eos_id: token that ends a command.
      config: settings.

    Raises:
      ValueError: for networks whose trunk is an adapter (warm the base instead), or
        that have no next-token logits of a text.
    """
    if config.updates == 0:
        return networks
    if networks.join is not whole_trunk:
        raise ValueError(
            f"warm start of {config.updates} updates for networks that learn an "
            "adapter: it must be 0; pretrain the weights they adapt instead"
        )
    next_logits = networks.logits
    if next_logits is None:
        raise ValueError(
            f"a warm start of {config.updates} updates wants next-token logits of a "
            "text, which an encoder-decoder does not have: set its updates to 0"
        )
    optimizer = optimizers.adam(config.learning_rate, 1.0)

    def loss(trunk, tokens: Tokens):
        mask = jnp.arange(tokens.ids.shape[1]) < tokens.length[:, None]
        return next_token_loss(next_logits(trunk, tokens), tokens.ids, mask)

    def body(_, carry):
        trunk, opt_state, envs, obs, key = carry
        key, act_key = jax.random.split(key)
        prompt, commands = jax.vmap(env.prompt)(obs), jax.vmap(env.commands)(obs)
        any_one = jnp.where(commands.mask, 0.0, -jnp.inf)
        drawn = sample_commands(any_one, environment_keys(act_key, config.num_envs))
        text = jax.vmap(sentence, (0, 0, 0, None))(prompt, commands, drawn, eos_id)
        grads = jax.grad(loss)(trunk, text)
        step, opt_state = optimizer.update(grads, opt_state, trunk)
        envs, moved = base.advance(env, envs, drawn)
        return optax.apply_updates(trunk, step), opt_state, envs, moved.obs, key

    def init_trunk(key):
        trunk_key, env_key, act_key = jax.random.split(key, 3)
        trunk = networks.init_trunk(trunk_key)
        envs = base.start(env, env_key, config.num_envs)
        obs = jax.vmap(env.observe)(envs.states)
        start = (trunk, optimizer.init(trunk), envs, obs, act_key)
        return jax.lax.fori_loop(0, config.updates, body, start)[0]

    return networks._replace(init_trunk=init_trunk)


def sentence(
    prompt: Tokens, commands: Commands, slot: jax.Array, eos_id: int
) -> Tokens:
    """A prompt, one of its commands, and the end, as one text.

    Args:
      prompt: ids int32 [P].
      commands: ids int32 [A, L].
      slot: int32 [], which of them.
      eos_id: the token at the end.

    Returns:
      Tokens, ids int32 [P + L + 1], zero past their end.
    """
    ids, length = commands.ids[slot], commands.length[slot]
    place = jnp.arange(prompt.ids.shape[0] + ids.shape[0] + 1)
    after = place - prompt.length  # place in the command
    said = jnp.where(
        after < 0,
        prompt.ids[jnp.minimum(place, prompt.ids.shape[0] - 1)],
        ids[jnp.clip(after, 0, ids.shape[0] - 1)],
    )
    said = jnp.where(after == length, eos_id, said)
    return Tokens(jnp.where(after > length, 0, said), prompt.length + length + 1)
