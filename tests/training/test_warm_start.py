"""Text for pretraining: prompt, command, end."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.training.warm_start import sentence
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
