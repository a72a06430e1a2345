"""What the experiments on Playground-Text share: world, policy, evaluation."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import language_model
from experiments.border import (
    AT_LEAST_ONE,
    POSITIVE,
    SEED,
    ConfigError,
    Limit,
    pick,
    require,
)
from rljax.agents.base import Agent, Read
from rljax.envs.base import Env, check_commands, reader
from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import make, pieces, recipes, render, worlds
from rljax.policy import networks
from rljax.rollout.unroll import environment_keys
from rljax.text import rendering, tokenizer
from rljax.training import evaluate
from rljax.types import Key, PyTree

# What a flag may name, and the function it stands for.
WORLDS = {"a": worlds.world_a, "b": worlds.world_b}
SHARED_LIMITS = {
    "seed": SEED,
    "num_devices": Limit(0),
    "total_env_steps": AT_LEAST_ONE,
    "env.num_objects": AT_LEAST_ONE,
    "env.inventory": AT_LEAST_ONE,
    "env.limit": AT_LEAST_ONE,
    "env.history": Limit(0),
    "model.head_width": AT_LEAST_ONE,
    "model.head_std": POSITIVE,
    "eval.every_env_steps": AT_LEAST_ONE,
    "eval.scenes": AT_LEAST_ONE,
    "eval.final_scenes": AT_LEAST_ONE,
    "eval.seed": SEED,
    "eval.episodes_shown": Limit(0),
    "log.checkpoint_every_updates": AT_LEAST_ONE,
    "log.keep_checkpoints": AT_LEAST_ONE,
}
CHUNK = 125  # scenes evaluated at a time: one program serves every panel
CHECKED_STATES = 64  # rendered both ways before a run starts


class Task(NamedTuple):
    """A world with its text and goals, and a policy that can act in it."""

    env: Env
    goals: goals_lib.Goals
    tokenizer: Any
    networks: networks.Networks
    read: Read
    splits: dict[str, np.ndarray]  # "train", "test" -> goals, int16 [M, 2]
    begin: Callable[[Key, jax.Array], PyTree]  # keys, goals [M, 2] -> states [M, ...]
    # () -> the weights beside which trunks are adapters, loaded anew at each call; the
    # same bits whenever the config is the same. None where trunks are whole.
    frozen: Callable[[], PyTree] | None = None
    # () -> the weights a whole trunk starts from; None where they are drawn.
    start: Callable[[], PyTree] | None = None
    model: language_model.LanguageModel | None = None


def make_task(config: Any, command_filter: make.CommandFilter | None = None) -> Task:
    """Builds the task of a config and checks that its two renderings agree.

    Args:
      config: as `experiments.configs.playground.shared` gives it.
      command_filter: a pure function from an observation to the commands it allows.

    Raises:
      ConfigError: for a setting out of range, a goal that does not fit the scene, a
        tokenizer that cannot say what the world says, or a filter that leaves no
        command.
    """
    for key, limit in SHARED_LIMITS.items():
        value = config
        for name in key.split("."):
            value = value[name]
        require(value is not None and limit.holds(value), key, value, str(limit))
    world = pick(WORLDS, config.env.world, "env.world")()
    goals = goals_lib.goals_of(world)
    layout = pieces.Layout(
        config.env.num_objects,
        config.env.inventory,
        config.env.history,
        sequences=config.env.sequences,
    )
    model = language_model.choose(
        config, lambda: render.vocabulary(world, goals, layout)
    )
    tokens = model.tokenizer
    kind = goals_lib.every if config.env.sequences else goals_lib.singles
    splits = {"train": kind(goals, True), "test": kind(goals, False)}
    try:
        known = recipes.recipes_of(world, goals, config.env.inventory)
        for pairs in splits.values():
            recipes.check_fit(goals, known, pairs, config.env.num_objects)
        env = make.make(
            world,
            tokens,
            num_objects=config.env.num_objects,
            inventory=config.env.inventory,
            limit=config.env.limit,
            sampler=goals_lib.uniform_by_kind(goals, splits["train"]),
            history=config.env.history,
            sequences=config.env.sequences,
            command_filter=command_filter,
            frame=model.frame,
        )
    except tokenizer.UnknownWordError as error:
        raise ConfigError(f"config.model.tokenizer: {error}") from error
    except ValueError as error:
        raise ConfigError(f"config.env: {error}") from error
    begin = jax.jit(jax.vmap(env.begin))
    frozen, start = model.weights, None
    if model.adapter is None:
        frozen, start = None, model.weights
    task = Task(
        env, goals, tokens, language_model.make_networks(config, model, env),
        reader(env), splits, begin, frozen, start, model,
    )  # fmt: skip
    _check(task)
    return task


def _check(task: Task) -> None:
    """Compares both renderings, and asks for a command, in sampled states.

    Raises:
      ConfigError: if they differ, or a state leaves none.
    """
    states = panel(task, "train", None, 0, CHECKED_STATES)
    observations = jax.jit(jax.vmap(task.env.observe))(states)
    try:
        check_commands(task.env, observations)
    except ValueError as error:  # the filter's doing
        raise ConfigError(str(error)) from error
    try:
        rendering.check_rendering(task.tokenizer, task.env, observations)
    except ValueError as error:
        raise ConfigError(f"config.model.tokenizer: {error}") from error


def panel(task: Task, split: str, kind: str | None, seed: int, size: int) -> PyTree:
    """Scenes for the goals of a split, of one kind or of all kinds alike.

    Scene i depends on the seed and on i alone.

    Returns:
      States of the environment, each leaf [size, ...].
    """
    pairs = task.splits[split]
    kinds = kinds_of(task) if kind is None else [kind]
    groups = [goals_lib.of_kind(task.goals, pairs, kind) for kind in kinds]
    rng = np.random.default_rng(seed)
    draws = rng.random((size, 2))
    rows = [groups[int(a * len(groups))] for a, _ in draws]
    goals = np.stack(
        [g[int(b * len(g))] for g, (_, b) in zip(rows, draws, strict=True)]
    )
    # In chunks of one size, so that one program builds every panel.
    missing = -size % CHUNK
    goals = np.concatenate([goals, np.broadcast_to(goals[:1], (missing, 2))])
    keys = environment_keys(jax.random.key(seed), len(goals))
    parts = [
        task.begin(keys[i : i + CHUNK], jnp.asarray(goals[i : i + CHUNK]))
        for i in range(0, len(goals), CHUNK)
    ]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs)[:size], *parts)


def kinds_of(task: Task) -> list[str]:
    """Kinds of goal the task has, in their order."""
    return [
        kind
        for kind in goals_lib.KINDS
        if len(goals_lib.of_kind(task.goals, task.splits["train"], kind))
    ]


class Evaluation(NamedTuple):
    """Success by panel and kind: `eval/<split>_<how>/<kind>`."""

    policy: Callable[..., dict[str, float]]  # (params, scenes per kind, pause)
    random: Callable[..., dict[str, float]]  # the same


def make_evaluation(task: Task, agent: Agent, seed: int, most: int) -> Evaluation:
    """Panels of up to `most` scenes a kind, and how to play them.

    Scenes come from `seed` alone, so every method and every run meets the same ones;
    a shorter panel is the beginning of a longer one. `pause` is called between chunks
    of scenes, and may raise.
    """
    panels = {
        (split, kind): panel(task, split, kind, seed + index, most)
        for index, (split, kind) in enumerate(
            (split, kind) for split in task.splits for kind in kinds_of(task)
        )
    }
    play = evaluate.evaluator(task.env, agent.act)

    def success(params, states, scenes, temperature, pause) -> float:
        won = played(task, play, params, states, scenes, seed, temperature, pause)
        return float(np.mean(won))

    def by_panel(ways, params, scenes, pause=lambda: None) -> dict[str, float]:
        return {
            f"eval/{split}_{how}/{kind}": success(params, states, scenes, heat, pause)
            for how, heat in ways.items()
            for (split, kind), states in panels.items()
        }

    ways = {"sampled": evaluate.SAMPLED, "greedy": evaluate.GREEDY}
    return Evaluation(
        policy=functools.partial(by_panel, ways),
        random=functools.partial(by_panel, {"sampled": evaluate.RANDOM}),
    )


def played(
    task: Task,
    play: Callable[..., evaluate.Outcomes],
    params: PyTree,
    states: PyTree,
    scenes: int,
    seed: int,
    temperature: float,
    pause: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Plays the first scenes of a panel.

    Args:
      task: whose scenes they are.
      play: of `evaluate.evaluator`.
      params: what its agent acts with.
      states: the panel, leaves [M, ...].
      scenes: how many are played, at most M.
      seed: of what is sampled.
      temperature: see `Agent.act`.
      pause: called between chunks of scenes; may raise.

    Returns:
      Which scenes succeeded, bool [scenes].

    Raises:
      ConfigError: if a state leaves no command.
    """
    most = jax.tree.leaves(states)[0].shape[0]
    chunk, won = min(CHUNK, most), []
    for start in range(0, scenes, chunk):
        pause()
        # A last chunk that is short starts earlier; what it repeats is left out.
        first = min(start, most - chunk)
        part = jax.tree.map(lambda x, i=first: x[i : i + chunk], states)
        outcome = play(params, part, jax.random.key(seed + first), temperature)
        if np.any(np.asarray(outcome.stuck)):
            where = int(np.argmax(np.asarray(outcome.stuck)))
            obs = jax.tree.map(lambda x, i=where: x[i], outcome.stuck_obs)
            text = task.env.describe(jax.device_get(obs))
            raise ConfigError(f"no command is left in the state\n{text}")
        won.append(np.asarray(outcome.success)[start - first :][: scenes - start])
    return np.concatenate(won)


def flat(metrics: dict[str, float]) -> dict[str, float]:
    """Success by kind for people: grasp, grasp_greedy, test_grasp, and so on."""
    named = {}
    for name, value in metrics.items():
        _, panel_name, kind = name.split("/")
        split, how = panel_name.split("_")
        prefix = "" if split == "train" else f"{split}_"
        suffix = "" if how == "sampled" else f"_{how}"
        named[f"{prefix}{kind}{suffix}"] = value
    return named


def save_tokenizer(task: Task, folder: pathlib.Path) -> None:
    """Writes the tokenizer as an ordinary Hugging Face folder."""
    task.tokenizer.save_pretrained(folder)
