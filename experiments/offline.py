"""What every method that learns from logs does around its update."""

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import (
    border,
    drift,
    judging,
    networks,
    offline_end,
    parts,
    reasoning,
    run,
    starts,
)
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, ConfigError, Limit
from experiments.starts import Start
from rljax.agents import offline as agents
from rljax.agents.base import NONFINITE_LIMIT
from rljax.agents.offline import OfflineAgent, Optimizer
from rljax.data import episodes, logs, noise, packing, steps
from rljax.data.logs import LogError
from rljax.envs.verifiers import JudgeAll
from rljax.models import hf_folder
from rljax.text import chat
from rljax.text.template import Template
from rljax.text.tokenizer import Tokenizer
from rljax.training import checkpoint, devices, loop, workdir
from rljax.types import Episode, Params, PyTree

REJECTS = "rejects.jsonl"  # lines of the log that were skipped
LIMITS = {
    "num_devices": Limit(0),
    "data.row_tokens": Limit(0),
    "data.batch_size": AT_LEAST_ONE,
    "data.epochs": AT_LEAST_ONE,
    "data.tokens": Limit(0),
    "data.flip": Limit(0, 1),
    "eval.problems": Limit(0),
    "eval.samples": Limit(0),
    "eval.every_updates": Limit(0),
    "log.checkpoint_every_updates": AT_LEAST_ONE,
    "log.keep_checkpoints": AT_LEAST_ONE,
}
OPTIMIZER_LIMITS = {
    "learning_rate": POSITIVE,
    "warmup": Limit(0, 1),
    "max_grad_norm": POSITIVE,
    "weight_decay": Limit(0),
    "b1": SHARE,
    "b2": SHARE,
    "epsilon": POSITIVE,
    "wait": Limit(0, 1),
}


class Method(NamedTuple):
    """How a method learns from a log.

    Attributes:
      items: (the log's episodes, seed) -> what a batch is made of.
      compose: see `packing.Plan`.
      agent: (start, updates of the run, axis name) -> the agent.
      name: in words.
      extras: (start, state at the end) -> what writes more into the exported folder.
      begun: start -> trees of networks that begin elsewhere than at the reference.
      longest: the log's episodes -> most tokens of a text that `compose` makes of them;
        None where it makes none.
    """

    items: Callable[[list[Episode], int], list[packing.Item]]
    agent: Callable[[Start, int, str | None], OfflineAgent]
    name: str
    compose: packing.Compose = packing.as_they_are
    extras: Callable[[Start, agents.State], list[hf_folder.Extra]] = lambda *_: []
    begun: Callable[[Start], dict[str, Params]] = lambda start: {}
    longest: Callable[[Sequence[Episode]], int] | None = None


def single(log: list[Episode], seed: int) -> list[packing.Item]:
    """Every episode by itself."""
    del seed
    return [(episode,) for episode in log]


def optimizer_of(config: Any, prefix: str = "optimizer") -> Optimizer:
    """Settings of one network's optimiser."""
    return border.typed(config, Optimizer, OPTIMIZER_LIMITS, prefix)


def template_of(tokenizer: Tokenizer) -> Template | None:
    """How conversations of a log are written; None where the tokenizer cannot say.

    Why it cannot is printed: prompts and responses need no template.
    """
    if not tokenizer.chat_template:
        return None
    try:
        return chat.from_tokenizer(tokenizer)
    except ValueError as error:
        print(f"conversations cannot be read: {error}")
        return None


def read_log(config: Any, start: Start, folder: pathlib.Path) -> list[Episode]:
    """The log of a config as episodes, or its logs, one after the other.

    Raises:
      ConfigError: if one cannot be read, or a line of it where that stops the run.
    """
    border.pick({"stop": 0, "skip": 0}, config.data.on_error, "data.on_error")
    border.require(bool(config.data.path), "data.path", config.data.path, "a log")
    try:
        log = episodes.load(
            logs.named(config.data.path),
            start.tokenizer,
            template_of(start.tokenizer),
            steps.split(reasoning.delimiters_of(config)),
            on_error=config.data.on_error,
            rejects=folder / REJECTS,
            longest=config.data.row_tokens or None,
            end_id=start.eos_ids[0],
        )
    except (LogError, OSError, ValueError) as error:
        raise ConfigError(f"config.data.path: {error}") from error
    for line in episodes.told(log):
        print(line)
    if not config.data.flip:
        return log.episodes
    try:
        return noise.flip(log.episodes, config.data.flip, config.seed)
    except ValueError as error:
        raise ConfigError(f"config.data.flip: {error}") from error


def train_on_log(config: Any, folder: str, method: Method) -> None:
    """`train` on the log that `data.path` names, from the model of `model.path`."""
    border.require(
        bool(config.model.path), "model.path", config.model.path,
        "the model that answered, such as hf/ of an sft workdir",
    )  # fmt: skip

    def log_of(start, task, place):
        del task
        return read_log(config, start, place)

    train(config, folder, method, log_of)


def train(
    config: Any,
    folder: str,
    method: Method,
    log_of: Callable[[Start, reasoning.Task, pathlib.Path], list[Episode]],
) -> None:
    """Runs a method to its end, or until a signal, and writes everything down.

    Args:
      config: as `experiments.configs.offline.shared` gives it, and the method's part.
      folder: the workdir.
      method: what learns.
      log_of: (start, task, folder for rejects) -> the episodes.

    Raises:
      RunError: for anything the user can mend, in words.
    """
    run.keep_compiled()
    border.limits(config, LIMITS)
    parallel = run.parallel_of(config)
    start = starts.choose_start(config)
    task = reasoning.make_task(config, start.tokenizer)
    with judging.open_judge(config, task.judge.verify) as judge:
        _train(config, folder, method, log_of, parallel, start, task, judge)


def _train(
    config: Any,
    folder: str,
    method: Method,
    log_of: Callable[[Start, reasoning.Task, pathlib.Path], list[Episode]],
    parallel: devices.Parallel,
    start: Start,
    task: reasoning.Task,
    judge: JudgeAll,
) -> None:
    begun = _begun(config, start, method)
    # Into a folder of its own: the workdir may be another run's, and is opened later.
    with tempfile.TemporaryDirectory() as spare:
        log = log_of(start, task, pathlib.Path(spare))
        rejects = pathlib.Path(spare, REJECTS)
        kept = rejects.read_bytes() if rejects.exists() else None
    plan = plan_of(config, method, log, parallel)
    agent = method.agent(start, plan.updates, parallel.axis_name)
    weights = start.weights()
    watch = drift.make(
        config, start.texts, agent, log, start.config.vocab_size, weights, begun
    )
    evaluate = _evaluate(config, task, start, judge, agent, watch)
    nets = networks.make(agent, weights, begun)
    del weights, begun  # held by nets until the state is made
    record = config.to_dict() | nets.digests | {"log_digest": _digest(log)}
    needed = (config.log.keep_checkpoints + 1) * checkpoint.state_bytes(nets.thin)
    opened = workdir.open_workdir(
        folder, record, border.parse_resume(config.resume), run.MAY_DIFFER, needed
    )
    if kept is not None:
        (opened.path / REJECTS).write_bytes(kept)

    def init() -> PyTree:
        return nets.init(jax.random.key(config.seed)), np.zeros(2, np.int64)

    def restore(read: loop.Read, meta: dict) -> PyTree:
        del meta
        state, cursor = read((nets.thin, np.zeros(2, np.int64)))
        return nets.restored(state), np.asarray(cursor)

    program = loop.Program(
        init=init,
        iterate=_iterate(parallel, agent, plan),
        evaluate=evaluate,
        evaluate_random=lambda state, pause: {},
        restore=restore,
        kept=lambda state: (dataclasses.replace(state[0], frozen=None), state[1]),
        axis="tokens",
    )
    schedule = _schedule(config, plan)
    print(
        f"{method.name}: {len(plan.items):,} items of {len(log):,} episodes, "
        f"{plan.updates:,} updates, {schedule.total_steps:,} tokens; rows of "
        f"{plan.tokens} tokens, {plan.rows} a device"
    )
    result = loop.train(program, schedule, opened)
    if result.after is not None:
        offline_end.conclude(
            config, opened.path, method, start, agent, result, plan, watch
        )


def _begun(config: Any, start: Start, method: Method) -> dict[str, Params]:
    """Trees of the networks that begin elsewhere than at the reference."""
    policy = starts.other_weights(config, start)
    return ({} if policy is None else {"actor": policy}) | method.begun(start)


def _iterate(
    parallel: devices.Parallel, agent: OfflineAgent, plan: packing.Plan
) -> Callable[[PyTree], tuple[PyTree, dict]]:
    """One update; the state is the agent's and (updates, tokens) read so far."""
    update = parallel.compile(lambda state, batch: _as_program(agent, state, batch))

    def iterate(state):
        held, (number, tokens) = state
        items = packing.batch_of(plan, int(number))
        held, _, told = update(held, packing.pack(plan, items))
        tokens = int(tokens) + packing.num_tokens(items)
        told = told | {
            "updates": held.updates,
            "tokens": tokens,
            "train/epoch": (int(number) + 1) / plan.updates_per_epoch,
            "train/skipped": held.skipped,
            "train/skipped_in_row": held.skipped_in_row,
        }
        return (held, np.array([number + 1, tokens], np.int64)), told

    return iterate


def _evaluate(
    config, task, start, judge: JudgeAll, agent, watch
) -> Callable[..., dict]:
    """Greedy answers to the problems of a split, and drift on the log."""
    answerer = reasoning.make_answerer(
        start.config, start.tokenizer, judge, config.eval, start.eos_ids
    )
    asked = reasoning.part(task, config.eval.split, "eval.split", config.eval.problems)

    def evaluate(state: PyTree, final: bool, pause: loop.Pause) -> dict:
        del final
        if not (config.eval.before or state[1][0]):
            return {}
        policy = agent.policy(state[0])
        name = f"eval/{config.eval.split}/{config.task.name}"
        greedy = reasoning.outcomes(answerer, policy, asked, pause)
        found = {name: float(greedy.right.mean())}
        if config.eval.samples:
            found[f"{name}_sampled"] = reasoning.accuracy(
                answerer, policy, asked, pause, config.eval.samples
            )
        found |= parts.success(
            config.eval.split, config.task.name, asked, greedy, watch.bounds
        )
        return found | watch.look(state[0])

    return evaluate


def _schedule(config, plan: packing.Plan) -> loop.Schedule:
    batches = (packing.batch_of(plan, n) for n in range(plan.updates))
    return loop.Schedule(
        calls=plan.updates,
        total_steps=sum(map(packing.num_tokens, batches)),
        log_every=max(1, plan.updates // 500),
        eval_every=config.eval.every_updates,
        save_every=config.log.checkpoint_every_updates,
        keep=config.log.keep_checkpoints,
        nonfinite_limit=NONFINITE_LIMIT,
    )


def _as_program(agent: OfflineAgent, state, batch):
    """An update in the form that `devices` spreads: the batch is what is local."""
    state, told = agent.update(state, batch)
    return state, batch, told


def plan_of(
    config: Any, method: Method, log: list[Episode], parallel: devices.Parallel
) -> packing.Plan:
    """How a run reads its log.

    Args:
      config: its settings.
      method: what learns.
      log: the episodes.
      parallel: how a batch is shared.

    Raises:
      ConfigError: if there is nothing to learn from, or sizes do not fit.
    """
    data = config.data
    if method.longest is not None and data.row_tokens:  # not as the seed will have it
        needed = method.longest(log)
        border.require(
            needed <= data.row_tokens, "data.row_tokens", data.row_tokens,
            f"0, or at least {needed}: {method.name} reads any answer of the log after "
            "any prompt, and the longest of each have so many tokens together",
        )  # fmt: skip
    border.require(
        data.batch_size % parallel.sharers == 0, "data.batch_size", data.batch_size,
        f"a multiple of the {parallel.sharers} devices",
    )  # fmt: skip
    try:
        plan = packing.make_plan(
            method.items(log, config.seed), data.batch_size, data.epochs, config.seed,
            parallel.num_devices, data.row_tokens or None, method.compose, data.tokens,
            data.by_task,
        )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error
    return plan._replace(rows=devices.rounded(plan.rows, parallel))


def _digest(log: Sequence[Episode]) -> str:
    """Of what is learnt from: a resume from another log is refused."""
    names = json.dumps([episode.task for episode in log]).encode()
    return checkpoint.digest(
        {
            "ids": np.concatenate([episode.ids for episode in log]),
            "tokens": np.array([len(episode.ids) for episode in log]),
            "step": np.concatenate([episode.step for episode in log]),
            "task": np.frombuffer(names, np.uint8),
            "action": np.concatenate([episode.action for episode in log]),
            "reward": np.array([episode.reward for episode in log], np.float32),
        }
    )
