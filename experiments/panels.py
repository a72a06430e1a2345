"""Policies of runs and of folders, asked on a fixed panel, problem by problem."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import config_dict

from experiments import (
    border,
    judging,
    parts,
    playground,
    ppo_glam,
    prompts,
    reasoning,
    sac_glam,
    starts,
)
from experiments.configs import offline
from experiments.configs import playground as playground_configs
from rljax.agents import ppo_glam as ppo_agent
from rljax.agents import sac_glam as sac_agent
from rljax.agents.base import Agent, with_frozen
from rljax.envs import verifiers
from rljax.envs.reasoning.problems import Problem
from rljax.text.tokenizer import Tokenizer
from rljax.training import checkpoint, evaluate, workdir
from rljax.training.files import RunError, read_json
from rljax.types import PyTree

# Settings of a task that say who judges: the first run's judge both.
_JUDGING = ("reading", "verifier", "verifier_workers", "verifier_seconds")


class Policy(NamedTuple):
    """A workdir of a run, or any model."""

    path: str
    config: dict[str, Any] | None  # of the run; None for a model
    frozen: str | None = None  # digest of the weights beside which it learnt


class How(NamedTuple):
    """What a panel is, and how a policy is asked."""

    panel: str  # train, dev, test, or a file of problems
    problems: int  # of the panel, or of each kind of goal; 0: all, or as the run has it
    temperature: float  # 0: greedy
    seed: int  # of scenes and of what is sampled


class Outcomes(NamedTuple):
    """What came of each problem of a panel."""

    names: list[str]
    kinds: list[str]
    right: np.ndarray  # bool [N]


def open_policy(where: str) -> Policy:
    """Looks what a path is.

    Args:
      where: a workdir, or what `loading.open_model` opens.

    Raises:
      RunError: for a workdir whose config cannot be read.
    """
    path = pathlib.Path(where).expanduser() / "config.json"
    if not path.is_file():
        return Policy(where, None)
    try:
        record = read_json(path)
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not {"config", "versions"} <= record.keys():
        return Policy(where, None)  # a Hugging Face folder has one, too
    config = dict(record["config"])
    return Policy(where, config, config.pop("frozen", None))


def both(first: Policy, second: Policy, how: How) -> tuple[Outcomes, Outcomes]:
    """Asks two policies the same.

    Args:
      first: a policy.
      second: another; one of them at least is a workdir, which names the task.
      how: the panel.

    Raises:
      RunError: if they are not of one task, or one of them cannot be read.
      ValueError: the same.
    """
    home = first.config or second.config
    if home is None:
        raise RunError(
            f"neither {first.path} nor {second.path} is the workdir of a run: one of "
            "them has to say what the task is"
        )
    goals = "env" in home
    part = "env" if goals else "task"
    for policy in (first, second):
        _require_same(home, policy, part)
    if goals:
        return _both_played(home, first, second, how)
    one, other = (_answered(home, policy, how) for policy in (first, second))
    return one, other


def _require_same(home: dict[str, Any], policy: Policy, part: str) -> None:
    """Refuses runs of two tasks: a panel of one may be what the other learnt from."""
    if policy.config is None:
        return
    if part not in home or part not in policy.config:
        raise RunError(
            f"{policy.path} is not a run of the same kind as the other: compare runs "
            "that learn reasoning, or runs on Playground-Text"
        )
    here, there = (
        {
            key: value
            for key, value in workdir.flatten(_config(x).to_dict()[part]).items()
            if key not in _JUDGING
        }
        for x in (home, policy.config)
    )
    wrong = sorted(
        f"{part}.{key} is {there.get(key)!r} there, {here.get(key)!r} here"
        for key in here.keys() | there.keys()
        if here.get(key) != there.get(key)
    )
    if wrong:
        raise RunError(
            f"{policy.path} is of another task: {'; '.join(wrong[:4])}. Only policies "
            "of one task have a panel that neither has learnt from"
        )


def _panel(
    home: dict[str, Any], how: How, tokens: Tokenizer
) -> tuple[list[Problem], verifiers.Verify]:
    """The problems, put as `home` says in the words of a policy's tokenizer."""
    task = reasoning.make_task(_config(home), tokens)
    splits = {"train": task.train, "dev": task.dev, "test": task.test}
    if how.panel in splits:
        asked = splits[how.panel]
    else:
        path, name = pathlib.Path(how.panel).expanduser(), home["task"]["name"]
        has_files = reasoning.TASKS[name].file is not None
        if not path.is_file() or not has_files:
            files = f", or a file of {name}'s form" if has_files else ""
            raise RunError(
                f"--panel={how.panel}: it must be one of {', '.join(splits)}{files}"
            )
        asked = reasoning.read_file(_config(home), tokens, str(path))
    asked = asked[: how.problems or None]
    if not asked:
        raise RunError(f"--panel={how.panel} has no problem")
    return asked, task.judge.verify


def _answered(home, policy: Policy, how: How) -> Outcomes:
    """What a policy gets right; both get the room for answers that `home` gives."""
    config = _config(policy.config or home)
    config.model.path = policy.path
    if policy.config is not None:
        config.model.path = str(pathlib.Path(policy.path).expanduser() / "hf")
        if not pathlib.Path(config.model.path).is_dir():
            raise RunError(
                f"{policy.path} has no hf/: a run writes its policy there at its end"
            )
    config.lora.rank = 0  # a folder holds the whole policy
    start = starts.choose_start(config)
    asked, verify = _panel(home, how, start.tokenizer)
    params, right = start.weights(), []
    with judging.open_judge(_config(home), verify) as judge:
        answerer = reasoning.make_answerer(
            start.config, start.tokenizer, judge, _config(home).eval, start.eos_ids
        )
        for first in range(0, len(asked), reasoning.CHUNK):
            some = asked[first : first + reasoning.CHUNK]
            seed = int(np.random.default_rng([how.seed, first]).integers(2**31))
            found = answerer.ask(params, some, temperature=how.temperature, seed=seed)
            right.append(found.right)
    kinds = [parts.kind_of(problem) for problem in asked]
    return Outcomes([p.task for p in asked], kinds, np.concatenate(right))


class _Player(NamedTuple):
    """A policy on Playground-Text."""

    task: playground.Task
    agent: Agent
    params: PyTree


def _both_played(home, first: Policy, second: Policy, how: How):
    players = [_player(home, policy) for policy in (first, second)]
    if how.panel not in players[0].task.splits:
        known = ", ".join(players[0].task.splits)
        raise RunError(f"--panel={how.panel}: it must be one of {known}")
    scenes = how.problems or home["eval"]["final_scenes"]
    plays = [evaluate.evaluator(p.task.env, p.agent.act) for p in players]
    names, kinds = [], []
    right: list[list[np.ndarray]] = [[], []]
    for index, kind in enumerate(playground.kinds_of(players[0].task)):
        seed = how.seed + index
        panels = [
            playground.panel(p.task, how.panel, kind, seed, scenes) for p in players
        ]
        _require_same_scenes(panels[0], panels[1])
        for n, (player, play) in enumerate(zip(players, plays, strict=True)):
            won = playground.played(
                player.task, play, player.params, panels[n],
                scenes, seed, how.temperature,
            )  # fmt: skip
            right[n].append(won)
        names += [f"{kind}/{i}" for i in range(scenes)]
        kinds += [kind] * scenes
    one, other = (Outcomes(names, kinds, np.concatenate(won)) for won in right)
    return one, other


def _require_same_scenes(first: PyTree, second: PyTree) -> None:
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        if not np.array_equal(one, other):
            raise RunError(
                "the two policies do not meet the same scenes: their worlds differ "
                "though their settings do not"
            )


def _player(home: dict[str, Any], policy: Policy) -> _Player:
    """The newest checkpoint of a run, or a model in the world of `home`."""
    config = _config(policy.config or home)
    if policy.config is None:
        config.model.path, config.model.tokenizer = policy.path, ""
        config.lora.rank = config.warm_start.updates = 0
        config.model.param_dtype = ""
        task = playground.make_task(config)
        agent = _agent(config, task)
        begin: Callable[[], PyTree] = task.start or (lambda: None)
        state = agent.init(jax.random.key(0), trunk=begin())
        return _Player(task, agent, agent.params(state))
    folder = pathlib.Path(policy.path).expanduser() / "checkpoints"
    update = checkpoint.latest(folder)
    if update is None:
        raise RunError(f"{policy.path} has no checkpoint yet")
    task = playground.make_task(config)
    params = checkpoint.read_params(folder, update)
    frozen = task.frozen() if task.frozen is not None else None
    if frozen is not None and checkpoint.digest(frozen) != policy.frozen:
        raise RunError(
            f"{policy.path} learnt beside other weights than {config.model.path} now "
            "has: give that model back its files"
        )
    return _Player(task, _agent(config, task), with_frozen(params, frozen))


def _agent(config: Any, task: playground.Task) -> Agent:
    if "critic_error" in config:
        settings = border.typed(
            config.agent, sac_agent.Config, sac_glam.AGENT_LIMITS, "agent"
        )
        error = border.pick(sac_glam.ERRORS, config.critic_error, "critic_error")
        return sac_agent.make(task.networks, task.read, settings, error)
    settings = border.typed(
        config.agent, ppo_agent.Config, ppo_glam.AGENT_LIMITS, "agent"
    )
    return ppo_agent.make(task.networks, task.read, settings)


# As all were asked and judged before there were such settings.
_BEFORE = {"prompt": "line", "reading": prompts.FORM}


def _config(values: dict[str, Any]) -> config_dict.ConfigDict:
    """Settings of a run, as its record has them; what it does not have, as by default.

    A setting that came later has the default with which a run does what it did before.
    """
    config = config_dict.ConfigDict(values)
    if "task" in config:
        known = offline.shared("arithmetic")
        known.task.update(_BEFORE)
        groups = ("task", "model", "eval", "lora")
    else:
        known = playground_configs.shared("quickstart")
        groups = ("env", "model", "lora", "warm_start", "eval")
    for group in groups:
        _fill(config, group, known[group])
    return config


def _fill(config: Any, group: str, known: Any) -> None:
    """Takes the settings of a group that are missing from what is known."""
    if group not in config:
        config[group] = known
    for key in known:
        if key not in config[group]:
            config[group][key] = known[key]
