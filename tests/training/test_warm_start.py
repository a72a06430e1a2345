"""Text for pretraining: prompt, command, end."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import sac_glam
from rljax.losses import soft_bellman
from rljax.rollout.unroll import environment_keys
from rljax.training.warm_start import Config, sentence, warm_start
from rljax.types import Commands, Tokens

EOS = 9
PROMPT = Tokens(jnp.array([5, 6, 7, 0, 0]), jnp.int32(3))
COMMANDS = Commands(
    ids=jnp.array([[1, 2], [3, 0]]),
    length=jnp.array([2, 1]),
    mask=jnp.array([True, True]),
)


def test_a_command_follows_its_prompt_and_ends():
    for slot, expected in (
        (0, [5, 6, 7, 1, 2, 9, 0, 0]),
        (1, [5, 6, 7, 3, 9, 0, 0, 0]),
    ):
        text = jax.jit(sentence)(PROMPT, COMMANDS, slot, EOS)
        np.testing.assert_array_equal(text.ids, expected)
        assert int(text.length) == expected.index(EOS) + 1


def test_the_longest_prompt_and_command_fit():
    prompt = Tokens(jnp.array([5, 6, 7, 8, 4]), jnp.int32(5))
    text = sentence(prompt, COMMANDS, jnp.int32(0), EOS)
    np.testing.assert_array_equal(text.ids, [5, 6, 7, 8, 4, 1, 2, 9])
    assert int(text.length) == 8


def test_every_copy_starts_from_a_trunk_that_knows_the_text(setting):
    given, key = setting.networks, jax.random.key(3)
    config = Config(updates=30, num_envs=8, learning_rate=3e-3)
    warm = warm_start(given, setting.env, setting.eos_id, config)
    assert warm_start(given, setting.env, setting.eos_id, Config()) is given

    # Text of scenes that training did not see.
    keys = environment_keys(jax.random.key(99), 16)
    goals = jnp.tile(jnp.array([[0, -1]], jnp.int16), (16, 1))
    states = jax.vmap(setting.env.begin)(keys, goals)
    text = jax.vmap(setting.env.prompt)(jax.vmap(setting.env.observe)(states))

    def surprise(networks) -> float:
        """Mean -log p of the tokens that are there, by a plain loop."""
        logits = jax.jit(lambda k: networks.logits(networks.init_trunk(k), text))(key)
        log_p = np.asarray(jax.nn.log_softmax(logits))
        ids, length = np.asarray(text.ids), np.asarray(text.length)
        told = [
            -log_p[i, t - 1, ids[i, t]] for i in range(16) for t in range(1, length[i])
        ]
        return float(np.mean(told))

    assert surprise(warm) < 0.9 * surprise(given)

    agent = sac_glam.make(
        warm, setting.read,
        sac_glam.Config(shared_trunk=False, kl_weight=0.1),
        soft_bellman.sigmoid_cross_entropy,
    )  # fmt: skip
    state = agent.init(jax.random.key(0))
    trunk = state.params["actor"]
    for copy in (state.params["critic"], state.target["actor"], state.reference):
        chex.assert_trees_all_equal(copy, trunk)
    trunk_key = jax.random.split(jax.random.key(0))[0]
    chex.assert_trees_all_close(trunk, warm.init_trunk(trunk_key), rtol=1e-5, atol=1e-6)
    cold = given.init_trunk(jax.random.split(trunk_key, 3)[0])
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), trunk, cold)
    assert max(jax.tree.leaves(apart)) > 0.01
