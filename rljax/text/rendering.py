"""States as text, twice: token ids from tables on the device, strings for people.

`check_rendering` asks at the start of a run whether the two agree under the
tokenizer at hand. Shapes: A commands, L tokens of a command, P prompt tokens.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.text import tokenizer as tokenizer_lib
from rljax.text.prompt import PieceTable, pack
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


class Frame(NamedTuple):
    """Text around a prompt, such as a chat template's."""

    before: str  # up to the prompt
    after: str  # from its end to where the command begins
    drops: str = ""  # what the prompt ends with alone, and not in the frame


def framed(
    tokenizer: tokenizer_lib.Tokenizer,
    renderer: Renderer,
    frame: Frame,
    inside: str = "nothing",
) -> Renderer:
    """A renderer whose prompts stand in a frame.

    The frame is tokenized once. Whether its tokens beside the prompt's are those of
    the whole text depends on the tokenizer: `check_rendering` tells.

    Args:
      tokenizer: the one the renderer was made with.
      renderer: what to put in a frame.
      frame: the text around it; `chat.frame` makes one of a template.
      inside: a text that a prompt can end with before `drops`.

    Returns:
      The renderer; its prompts have as many tokens more as the frame has.

    Raises:
      ValueError: if a word of the frame is unknown to the tokenizer. `describe`
        raises for a prompt that does not end with `drops`.
    """
    before, after, dropped = tokenizer_lib.encode(
        tokenizer, [frame.before, frame.after, frame.drops], ["", inside, inside]
    )
    size = renderer.prompt_tokens - len(dropped) + len(before) + len(after)
    width = max(renderer.prompt_tokens, len(before), len(after))
    ends = np.zeros((2, width), np.int32)
    ends[0, : len(before)], ends[1, : len(after)] = before, after

    def prompt(observation: Observation) -> Tokens:
        body = renderer.prompt(observation)
        ids = jnp.pad(body.ids, (0, width - renderer.prompt_tokens))
        table = PieceTable(
            jnp.concatenate([jnp.asarray(ends), ids[None]]),
            jnp.stack([len(before), len(after), body.length - len(dropped)]),
        )
        return pack(table, jnp.array([0, 2, 1], jnp.int32), size)

    def describe(observation: Observation) -> str:
        text = renderer.describe(observation)
        if not text.endswith(frame.drops):
            raise ValueError(f"the prompt does not end with {frame.drops!r}: {text!r}")
        return frame.before + text.removesuffix(frame.drops) + frame.after

    return renderer._replace(prompt=prompt, describe=describe, prompt_tokens=size)


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
