"""States as text, twice: token ids from tables on the device, strings for people.

`check_rendering` asks at the start of a run whether the two agree under the
tokenizer at hand. Shapes: A commands, L tokens of a command, P prompt tokens.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import chex
import jax
import numpy as np

from rljax.text import tokenizer as tokenizer_lib
from rljax.text.prompt import PieceTable
from rljax.types import Commands, Observation, Tokens


class Renderer(NamedTuple):
    """How one (unbatched) observation becomes text."""

    prompt: Callable[[Observation], Tokens]  # pure, ids [prompt_tokens]
    commands: Callable[[Observation], Commands]  # pure, ids [A, command_tokens]
    describe: Callable[[Observation], str]  # host: the text of the prompt
    command_texts: Callable[[Observation], list[str]]  # host: [A], "" where masked
    prompt_tokens: int  # P, proven to hold any prompt
    command_tokens: int  # L
    command_table: PieceTable  # every command there can be


class Rendered(Protocol):
    """What has the four functions of a `Renderer`; an environment has, too."""

    @property
    def prompt(self) -> Callable[[Observation], Tokens]: ...
    @property
    def commands(self) -> Callable[[Observation], Commands]: ...
    @property
    def describe(self) -> Callable[[Observation], str]: ...
    @property
    def command_texts(self) -> Callable[[Observation], list[str]]: ...


def check_rendering(
    tokenizer: tokenizer_lib.Tokenizer, renderer: Rendered, observations: Observation
) -> None:
    """Compares the tables with the tokenizer on sampled states.

    A prompt must be the tokens of its whole text, and a command the tokens that its
    text adds to the prompt's, after a space. It fails for a tokenizer that joins
    characters across the pieces the tables are made from.

    Args:
      tokenizer: the one the renderer was made with.
      renderer: what to check, a `Renderer` or an environment.
      observations: sampled states, each leaf [N, ...].

    Raises:
      ValueError: at the first difference, with the text and both lists of ids.
    """
    chex.assert_equal_shape_prefix(jax.tree.leaves(observations), 1)
    prompts = jax.device_get(jax.jit(jax.vmap(renderer.prompt))(observations))
    commands = jax.device_get(jax.jit(jax.vmap(renderer.commands))(observations))
    observations = jax.device_get(observations)
    for i in range(len(prompts.length)):
        observation, prompt, command = jax.tree.map(
            lambda x, i=i: x[i], (observations, prompts, commands)
        )
        text = renderer.describe(observation)
        (ids,) = tokenizer_lib.encode(tokenizer, [text])
        _compare(tokenizer, repr(text), prompt, ids)
        texts = renderer.command_texts(observation)
        _check_masks(text, texts, command.mask)
        slots = np.flatnonzero(command.mask)
        words = [f" {texts[slot]}" for slot in slots]
        rows = tokenizer_lib.encode(tokenizer, words, after=[text] * len(slots))
        for slot, word, ids in zip(slots, words, rows, strict=True):
            what = f"{word!r} after {text!r}"
            table = Tokens(command.ids[slot], command.length[slot])
            _compare(tokenizer, what, table, ids)


def _check_masks(text: str, commands: list[str], masks: jax.Array) -> None:
    for slot, (command, mask) in enumerate(zip(commands, masks, strict=True)):
        if mask != bool(command):
            state = "admissible" if mask else "not admissible"
            raise ValueError(
                f"command slot {slot} is {state} on the device, but its text is "
                f"{command!r}, in the state {text!r}"
            )


def _compare(
    tokenizer: tokenizer_lib.Tokenizer, what: str, table: Tokens, ids: np.ndarray
) -> None:
    rendered = np.asarray(table.ids)[: int(table.length)]
    if not np.array_equal(rendered, ids):
        raise ValueError(
            f"tables and tokenizer disagree on {what}:\n"
            f"tables    {tokenizer_lib.show(tokenizer, rendered)}\n"
            f"tokenizer {tokenizer_lib.show(tokenizer, ids)}"
        )
