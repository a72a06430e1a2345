"""Playground-Text as an environment: a world, its goals, scenes and text in one."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.base import Env, Sizes
from rljax.envs.playground import render, scenes
from rljax.envs.playground.dynamics import dynamics
from rljax.envs.playground.goals import KINDS, GoalSampler, goals_of, kind_of
from rljax.envs.playground.pieces import GO_TO, GRASP, RELEASE_ALL, Layout
from rljax.envs.playground.recipes import check_fit, recipes_of
from rljax.envs.playground.types import Observation
from rljax.envs.playground.worlds import World
from rljax.text import trie
from rljax.text.prompt import PieceTable
from rljax.text.rendering import Frame, framed
from rljax.text.tokenizer import Tokenizer
from rljax.types import Commands, Key

CommandFilter = Callable[[Observation], jax.Array]


def make(
    world: World,
    tokenizer: Tokenizer,
    *,
    num_objects: int,
    inventory: int,
    limit: int,
    sampler: GoalSampler,
    history: int = 0,
    sequences: bool | None = None,
    command_filter: CommandFilter | None = None,
    frame: Frame | None = None,
) -> Env:
    """One Playground-Text environment.

    Args:
      world: what there is and what grows what.
      tokenizer: a Hugging Face tokenizer that knows the world's words.
      num_objects: O, objects of a scene.
      inventory: I, objects that can be held. Feasible scenes of "grow then grow"
        goals count on 2 at least.
      limit: steps of an episode without success.
      sampler: where goals come from.
      history: H, earlier commands shown in the prompt.
      sequences: whether prompts have room for a sequence; as the sampler's goals
        need it unless given. Relabelling with sequences needs it too.
      command_filter: a pure function from an observation, its goal left unread
        (hindsight changes that afterwards), to bool [A], False for commands to rule
        out on top of the inadmissible ones. It holds wherever commands do: in acting,
        in targets, in evaluation. It must leave a command in every state;
        `base.check_commands` names one where it does not.
      frame: text around every prompt, such as `text.chat.frame` makes of a chat
        template; none unless given.

    Returns:
      The environment.

    Raises:
      ValueError: if a goal of the sampler does not fit `num_objects`, or a size is
        out of range.
    """
    goals = goals_of(world)
    recipes = recipes_of(world, goals, inventory)
    check_fit(goals, recipes, sampler.goals, num_objects)
    moves = dynamics(world, goals, inventory, limit)
    scene = scenes.random_scene(world, recipes, num_objects, history)
    if sequences is None:
        sequences = bool(np.any(sampler.goals[:, 1] >= 0))
    layout = Layout(num_objects, inventory, history, sequences=sequences)
    renderer = render.make(world, goals, tokenizer, layout)
    if frame is not None:
        renderer = framed(tokenizer, renderer, frame)

    def reset(key: Key):
        key_goal, key_scene = jax.random.split(key)
        return scene(key_scene, sampler.sample(key_goal))

    def commands(observation: Observation) -> Commands:
        found = renderer.commands(observation)
        if command_filter is None:
            return found
        return found._replace(mask=found.mask & command_filter(observation))

    def command_texts(observation: Observation) -> list[str]:
        texts = renderer.command_texts(observation)
        if command_filter is None:
            return texts
        kept = np.asarray(command_filter(observation))
        return [text if keep else "" for text, keep in zip(texts, kept, strict=True)]

    def with_goal(observation: Observation, goal: jax.Array) -> Observation:
        return dataclasses.replace(observation, goal=goal.astype(jnp.int16))

    return Env(
        reset=reset,
        begin=scene,
        step=moves.step,
        observe=moves.observe,
        prompt=renderer.prompt,
        commands=commands,
        with_goal=with_goal,
        goal_kind=lambda goal: kind_of(goals, goal),
        describe=renderer.describe,
        command_texts=command_texts,
        goal_kinds=KINDS,
        sizes=Sizes(
            commands=num_objects + inventory + 2,
            prompt_tokens=renderer.prompt_tokens,
            command_tokens=renderer.command_tokens,
            trie_nodes=trie_nodes(
                world, renderer.command_table, num_objects, inventory
            ),
            goals=goals.size,
            limit=limit,
        ),
    )


def trie_nodes(
    world: World, table: PieceTable, num_objects: int, inventory: int
) -> int:
    """The largest trie of a state's commands.

    A state has "Grasp", a command for each object, "Release" for the held ones and
    "Go to" for the others, and "Release all" once two are held.

    Args:
      world: its names.
      table: tokens of every command id.
      num_objects: O.
      inventory: I.

    Returns:
      A bound no state exceeds.
    """
    ids, length = np.asarray(table.ids), np.asarray(table.length)
    release = GO_TO + world.num_names
    everything = np.arange(len(ids))

    def most(rows: np.ndarray, count: int) -> int:
        return trie.worst_case_nodes(ids[rows], length[rows], count) if count else 0

    def held(count: int) -> int:
        going = most(everything[GO_TO:release], num_objects - count)
        if count < 2:
            return going + most(everything[release:], count)
        with_all = np.append(everything[release:], RELEASE_ALL)
        return going + most(with_all, count + 1)

    places = range(min(inventory, num_objects) + 1)
    return int(length[GRASP]) + max(held(count) for count in places)
