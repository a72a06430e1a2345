"""Playground-Text as text: prompts and commands.

    Goal: Grow red beet
    You see: red beet seed, green water
    You are on: nothing
    Inventory (0/2): empty
    Action:

Before the last line comes `Past: Go to green water, Grasp` where earlier commands
are asked for and there are some. A command comes after a space (" Grasp"), which is
part of it. The format is the reference's (flowersteam/playground-text); "nothing"
after "You see:", for when every object is held or gone, is ours. Texts for people
are written straight from the state and the device's from tables of pieces, so that
the one checks the other.

Shapes: O object slots, I inventory places, H commands remembered, A = O + I + 2
command slots: 0 "Grasp", 1..O "Go to" the object of a slot, O + 1..O + I "Release"
what is in a place, O + I + 1 "Release all".
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.playground import pieces as pieces_lib
from rljax.envs.playground.goals import Goals
from rljax.envs.playground.pieces import GO_TO, GRASP, RELEASE_ALL, Layout
from rljax.envs.playground.types import Observation
from rljax.envs.playground.worlds import World
from rljax.text.prompt import pack, piece_table
from rljax.text.rendering import Renderer
from rljax.text.tokenizer import Tokenizer
from rljax.types import Commands, Tokens

PHRASES = ("Goal:", "You see:", "You are on:", "Action:", "nothing", "empty")
VERBS = ("Grasp", "Go to", "Release", "Release all")


def make(
    world: World,
    goals: Goals,
    tokenizer: Tokenizer,
    layout: Layout,
    prompt_tokens: int | None = None,
) -> Renderer:
    """The text of a world under a tokenizer.

    Args:
      world: names of objects.
      goals: texts of single goals.
      tokenizer: any Hugging Face tokenizer that knows the words of `vocabulary`.
      layout: what a prompt holds.
      prompt_tokens: size of the prompts; the longest there can be unless given.

    Raises:
      ValueError: if a count of the layout is out of range, the longest prompt does
        not fit `prompt_tokens`, or the tokenizer does not know a word.
    """
    _check_layout(layout)
    pieces = pieces_lib.build(world.names, goals.texts, layout)
    table = piece_table(tokenizer, pieces.texts, pieces.after)
    needed = pieces_lib.longest(pieces.rows, layout, np.asarray(table.length))
    size = needed if prompt_tokens is None else prompt_tokens
    if size < needed:
        raise ValueError(f"prompt_tokens is {size}, the longest prompt has {needed}")
    texts = [f" {text}" for text in pieces_lib.command_names(world.names)]
    command_table = piece_table(tokenizer, texts, ["Action:"] * len(texts))
    same = jnp.asarray(world.same_name, jnp.int32)

    def prompt(observation: Observation) -> Tokens:
        rows = pieces_lib.of_state(pieces.rows, layout, observation)
        return pack(table, rows, size)

    def commands(observation: Observation) -> Commands:
        ids, mask = slot_commands(same, observation)
        row = jnp.where(mask, ids, 0)
        tokens = jnp.where(mask[:, None], command_table.ids[row], 0)
        return Commands(tokens, jnp.where(mask, command_table.length[row], 0), mask)

    return Renderer(
        prompt=prompt,
        commands=commands,
        describe=lambda observation: describe(world, goals, layout, observation),
        command_texts=lambda observation: command_texts(world, observation),
        prompt_tokens=size,
        command_tokens=command_table.ids.shape[1],
        command_table=command_table,
    )


def slot_commands(
    same: jax.Array, observation: Observation
) -> tuple[jax.Array, jax.Array]:
    """Command id of every slot, and whether it is admissible.

    Objects that look alike share a command: the first of them keeps it.

    Args:
      same: int32 [W], first name id with the same text, as `World.same_name`.
      observation: one state.

    Returns:
      ids int32 [A], as in `Observation.history`, -1 for an empty slot, and the mask
      bool [A].
    """
    chex.assert_rank([observation.names, observation.held], 1)
    seen = pieces_lib.visible(observation)
    held = pieces_lib.held_names(observation)
    names = same[jnp.maximum(observation.names.astype(jnp.int32), 0)]
    names = jnp.where(seen, names, -1)
    held = jnp.where(held >= 0, same[jnp.maximum(held, 0)], -1)
    ids = [
        jnp.array([GRASP]),
        jnp.where(names >= 0, names + GO_TO, -1),
        jnp.where(held >= 0, held + GO_TO + len(same), -1),
        jnp.array([RELEASE_ALL]),
    ]
    mask = [
        jnp.array([True]),
        _first_of_its_kind(names),
        _first_of_its_kind(held),
        jnp.sum(held >= 0)[None] >= 2,
    ]
    return jnp.concatenate(ids).astype(jnp.int32), jnp.concatenate(mask)


def describe(
    world: World, goals: Goals, layout: Layout, observation: Observation
) -> str:
    """The prompt of a state as text.

    Raises:
      ValueError: if the state does not fit the layout.
    """
    seen, held = _seen_and_held(observation)
    on = [slot for slot in seen if observation.on[slot]]
    if len(on) > layout.on:
        raise ValueError(
            f"the agent stands on {len(on)} objects, the layout has max_on {layout.on}"
        )
    goal = goals.text(observation.goal)
    if observation.goal[1] >= 0 and not layout.sequences:
        raise ValueError(f"{goal!r} is a sequence, which the layout leaves out")

    def listed(slots: list[int], nothing: str) -> str:
        names = [world.names[observation.names[slot]] for slot in slots]
        return ", ".join(names) or nothing

    past = _past(world, layout, observation)
    return (
        f"Goal: {goal}\n"
        f"You see: {listed(seen, 'nothing')}\n"
        f"You are on: {listed(on, 'nothing')}\n"
        f"Inventory ({len(held)}/{layout.inventory}): {listed(held, 'empty')}\n"
        + (f"Past: {', '.join(past)}\n" if past else "")
        + "Action:"
    )


def command_texts(world: World, observation: Observation) -> list[str]:
    """The command of each slot as text, "" where it has none of its own; [A]."""
    seen, held = _seen_and_held(observation)
    texts = ["Grasp"]
    for verb, slots, places in (
        ("Go to", seen, range(len(observation.names))),
        ("Release", held, [int(slot) for slot in observation.held]),
    ):
        for slot in places:
            text = ""
            if slot in slots:
                text = f"{verb} {world.names[observation.names[slot]]}"
            texts.append("" if text in texts else text)
    return [*texts, "Release all" if len(held) >= 2 else ""]


def vocabulary(world: World, goals: Goals, layout: Layout) -> list[str]:
    """Words and fixed phrases of all a world can render, for `word_level`."""
    words = [*PHRASES, *VERBS, *(["Past:"] if layout.history else [])]
    words += [
        f"Inventory ({n}/{layout.inventory}):" for n in range(layout.inventory + 1)
    ]
    texts = [*world.names, *goals.texts]
    if layout.sequences:
        texts += ["then", *(goal.lower() for goal in goals.texts)]
    return list(
        dict.fromkeys(words + [word for text in texts for word in text.split()])
    )


def _seen_and_held(observation: Observation) -> tuple[list[int], list[int]]:
    held = [int(slot) for slot in observation.held if slot >= 0]
    slots = range(len(observation.names))
    return [s for s in slots if observation.names[s] >= 0 and s not in held], held


def _past(world: World, layout: Layout, observation: Observation) -> list[str]:
    if not layout.history:
        return []
    texts = pieces_lib.command_names(world.names)
    shown = [int(i) for i in observation.history][-layout.history :]
    return [texts[i] for i in shown if i >= 0]


def _first_of_its_kind(names: jax.Array) -> jax.Array:
    """Whether an entry is not -1 and equals none before it, bool [N]."""
    index = jnp.arange(len(names))
    repeated = (names == names[:, None]) & (index < index[:, None])
    return (names >= 0) & ~jnp.any(repeated, axis=1)


def _check_layout(layout: Layout) -> None:
    if layout.num_objects < 1:
        raise ValueError(f"num_objects must be at least 1, got {layout.num_objects}")
    if layout.inventory < 1:
        raise ValueError(f"inventory must be at least 1, got {layout.inventory}")
    if layout.history < 0:
        raise ValueError(f"history must not be negative, got {layout.history}")
    if not 1 <= layout.on <= layout.num_objects:
        raise ValueError(
            f"max_on must lie in [1, {layout.num_objects}], got {layout.on}"
        )
