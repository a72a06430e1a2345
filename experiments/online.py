"""What PPO, GRPO and replay on top of them do around their update."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import (
    border,
    judging,
    networks,
    offline,
    online_end,
    reasoning,
    run,
    starts,
    unread,
)
from experiments.border import AT_LEAST_ONE, POSITIVE, ConfigError, Limit, pick
from experiments.starts import Start
from rljax.agents import offline as agents
from rljax.agents import rrl, token_rl
from rljax.agents.base import NONFINITE_LIMIT
from rljax.agents.offline import Optimizer
from rljax.agents.token_rl import Estimate, TokenAgent
from rljax.data import episodes, steps
from rljax.envs import verifiers
from rljax.envs.verifiers import JudgeAll
from rljax.losses import surrogate
from rljax.models import hf_folder
from rljax.policy import decode
from rljax.replay import cells
from rljax.replay.cells import States
from rljax.training import (
    annotations,
    checkpoint,
    devices,
    loop,
    online,
    online_parts,
    pass_at_k,
    workdir,
)
from rljax.training.files import human_bytes
from rljax.training.online_parts import Parts, Sizes
from rljax.types import PyTree

LIMITS = {
    **{key: offline.LIMITS[key] for key in offline.LIMITS if key[:5] != "data."},
    "rollout.steps": AT_LEAST_ONE,
    "rollout.groups": AT_LEAST_ONE,
    "rollout.samples": AT_LEAST_ONE,
    "rollout.tokens": Limit(0),
    "rollout.temperature": POSITIVE,
    "rollout.slots": AT_LEAST_ONE,
    "rollout.prompt_tokens": AT_LEAST_ONE,
    "rollout.max_tokens": Limit(2),
    "rollout.window": AT_LEAST_ONE,
    "loss.epochs": AT_LEAST_ONE,
    "loss.batch_groups": AT_LEAST_ONE,
    "loss.low": Limit(0, 1, above=True),
    "loss.high": POSITIVE,
    "loss.kl_weight": Limit(0),
    "loss.entropy_weight": Limit(0),
    "log.kl_every_steps": Limit(0),
}
WEIGHTS = {
    "token": lambda longest: surrogate.token_mean,
    "sequence": lambda longest: surrogate.sequence_mean,
    "fixed": surrogate.fixed_length,
}
RATIOS = {"token": None, "answer": surrogate.gspo_log_p_old}


class Method(NamedTuple):
    """How a method learns from answers.

    Attributes:
      name: in words.
      estimate: what a rollout teaches.
      agent: (start, settings without optimisers, policy's optimiser, axis name) -> the
        agent.
      warmup: steps in which the critic learns alone.
      extras: (start, state at the end) -> what writes more into the exported folder.
      replay: start -> retrospective replay; None without it.
      seeds: (start, task, judge) -> states from written solutions; None: there are
        none.
      state_tokens: of the longest state; 0 without replay.
      refresh: steps between two looks at all states.
    """

    name: str
    estimate: Estimate
    agent: Callable[[Start, token_rl.Config, str | None], TokenAgent]
    warmup: int = 0
    extras: Callable[[Start, agents.State], list[hf_folder.Extra]] = lambda *_: []
    replay: Callable[[Start], rrl.Settings] | None = None
    seeds: Callable[[Start, reasoning.Task, JudgeAll], States] | None = None
    state_tokens: int = 0
    refresh: int = 1


def check(config: Any) -> None:
    """Refuses settings, shared by the methods, that cannot be.

    Raises:
      ConfigError: naming the key, the value and the limit.
    """
    border.limits(config, LIMITS)
    rollout, loss, asked = config.rollout, config.loss, config.eval
    border.require(
        rollout.groups % loss.batch_groups == 0, "loss.batch_groups",
        loss.batch_groups, f"a divisor of rollout.groups, {rollout.groups}",
    )  # fmt: skip
    if asked.samples:
        for k in asked.pass_k:
            border.require(
                isinstance(k, int) and 1 <= k <= asked.samples, "eval.pass_k",
                tuple(asked.pass_k), f"numbers in 1..eval.samples, {asked.samples}",
            )  # fmt: skip


def weights_of(config: Any) -> surrogate.Weights:
    """How tokens are weighed against each other."""
    make = pick(WEIGHTS, config.loss.weights, "loss.weights")
    return make(config.rollout.max_tokens)


def rescale_of(config: Any) -> token_rl.Rescale | None:
    """Whose ratio is clipped."""
    return pick(RATIOS, config.loss.ratio, "loss.ratio")


def fresh(config: Any) -> bool:
    """Whether one update learns from all answers of a step; see `token_rl.Config`."""
    loss = config.loss
    return loss.epochs == 1 and loss.batch_groups == config.rollout.groups


def optimizer_of(config: Any, warmup: int) -> Optimizer:
    """The policy's optimiser, which waits for the critic."""
    found = offline.optimizer_of(config.optimizer)
    return dataclasses.replace(found, wait=warmup / config.rollout.steps)


def sizes_of(config: Any, method: Method) -> Sizes:
    """How much a step does."""
    rollout, loss = config.rollout, config.loss
    return Sizes(
        seed=config.seed,
        steps=rollout.steps,
        groups=rollout.groups,
        samples=rollout.samples,
        longest=rollout.max_tokens,
        row_tokens=-(-(rollout.prompt_tokens + rollout.max_tokens) // 16) * 16,
        batch_groups=loss.batch_groups,
        epochs=loss.epochs,
        warmup=method.warmup,
        window=rollout.window,
        refresh=method.refresh,
        kl_every=config.log.kl_every_steps,
        temperature=rollout.temperature,
    )


def train(config: Any, folder: str, method: Method) -> None:
    """Runs a method to its end, or until a signal, and writes everything down.

    Args:
      config: as `experiments.configs.online.shared` gives it, and the method's part.
      folder: the workdir.
      method: what learns.

    Raises:
      RunError: for anything the user can mend, in words.
    """
    run.keep_compiled()
    unread.refuse(config)
    parallel = run.parallel_of(config)
    start = starts.choose_start(config)
    task = reasoning.make_task(config, start.tokenizer)
    with judging.open_judge(config, task.judge.verify) as judge:
        parts, room = _parts(config, method, task, judge, start, parallel)
        _train(config, folder, method, start, task, parts, room)


def _train(
    config: Any,
    folder: str,
    method: Method,
    start: Start,
    task: reasoning.Task,
    parts: Parts,
    room: np.ndarray,
) -> None:
    agent, evaluate = parts.agent, _evaluate(config, task, start, parts)
    policy = starts.other_weights(config, start)
    begun = {} if policy is None else {"actor": policy}
    nets = networks.make(agent, start.weights(), begun)
    del policy, begun  # held by nets until the state is made
    record = config.to_dict() | nets.digests
    host = online_parts.begin(parts, room)
    kept = (nets.thin, host)
    needed = (config.log.keep_checkpoints + 1) * checkpoint.state_bytes(kept)
    opened = workdir.open_workdir(
        folder, record, border.parse_resume(config.resume), run.MAY_DIFFER, needed
    )

    if parts.replay is not None:
        context = online_parts.context_of(parts)
        parts = parts._replace(annotate=annotations.taker(opened.path, context))

    def init() -> PyTree:
        key, _ = jax.random.split(jax.random.key(config.seed))
        return nets.init(key), online_parts.begin(parts, room)

    def restore(read: loop.Read, meta: dict) -> PyTree:
        del meta
        state, held = read(kept)
        return nets.restored(state), online_parts.on_host(held, host)

    program = loop.Program(
        init=init,
        iterate=online.make(parts),
        evaluate=evaluate,
        evaluate_random=lambda state, pause: {},
        restore=restore,
        kept=lambda state: (dataclasses.replace(state[0], frozen=None), state[1]),
        axis="tokens",
    )
    _say(config, method, parts, host)
    result = loop.train(program, _schedule(config, parts.sizes), opened)
    if result.after is not None:
        online_end.conclude(config, opened.path, method, start, agent, result)


def prepare(config: Any, method: Method) -> tuple[Parts, np.ndarray]:
    """What a run is made of but weights, on one device and judged in this process.

    Args:
      config: of the run.
      method: what learns.

    Returns:
      The parts, and int32 [N], most tokens of a state of each problem.

    Raises:
      ConfigError: for settings that cannot be.
    """
    start = starts.choose_start(config)
    task = reasoning.make_task(config, start.tokenizer)
    judge = verifiers.in_turn(task.judge.verify)
    return _parts(config, method, task, judge, start, devices.jit())


def _parts(config, method, task, judge, start, parallel) -> tuple[Parts, np.ndarray]:
    """All a step is made of, and the room that each problem has for states."""
    sizes, asked = sizes_of(config, method), task.train
    border.require(
        bool(asked), "task.train_size", config.task.train_size,
        "above 0: there is no problem to learn from",
    )  # fmt: skip
    border.require(
        sizes.batch_groups % parallel.sharers == 0, "loss.batch_groups",
        sizes.batch_groups, f"a multiple of the {parallel.sharers} devices",
    )  # fmt: skip
    settings = token_rl.Config(
        updates=sizes.updates,
        low=config.loss.low,
        high=config.loss.high,
        kl_weight=config.loss.kl_weight,
        entropy_weight=config.loss.entropy_weight,
        actor=optimizer_of(config, method.warmup),
    )
    prompts = [episodes.prompt_ids(start.tokenizer, p.prompt) for p in asked]
    most = config.rollout.prompt_tokens
    for problem, prompt in zip(asked, prompts, strict=True):
        border.require(
            len(prompt) <= most, "rollout.prompt_tokens", most,
            f"at least the {len(prompt)} tokens of problem {problem.task}",
        )  # fmt: skip
    context = start.config.max_positions
    border.require(
        context is None or most + sizes.longest <= context, "rollout.max_tokens",
        sizes.longest, f"at most the model's context of {context}, less {most}",
    )  # fmt: skip
    parts = Parts(
        agent=method.agent(start, settings, parallel.axis_name),
        parallel=parallel,
        estimate=method.estimate,
        generate=_generator(config, method, start),
        problems=asked,
        prompts=prompts,
        tokenizer=start.tokenizer,
        judge=judge,
        answered=task.judge.answered,
        split=steps.split(),
        sizes=sizes,
        replay=None if method.replay is None else method.replay(start),
        seeds=None if method.seeds is None else method.seeds(start, task, judge),
    )
    return parts, np.full(len(asked), max(method.state_tokens, 1), np.int32)


def _generator(config: Any, method: Method, start: Start) -> decode.Generate:
    rollout = config.rollout
    most = rollout.prompt_tokens
    buckets = (most, most + method.state_tokens) if method.state_tokens else (most,)
    try:
        made = decode.make(
            start.config,
            decode.Settings(
                slots=rollout.slots,
                prompts=buckets,
                longest=rollout.max_tokens,
                prefill=min(16, rollout.slots),
                free=max(1, rollout.slots // 8),
            ),
            start.eos_ids,
        )
    except ValueError as error:
        raise ConfigError(f"config.rollout: {error}") from error
    return made.generate


def _evaluate(config, task, start, parts: Parts) -> Callable[..., dict]:
    """Greedy answers to bare problems of a split; pass@k before and after the run."""
    answerer = reasoning.make_answerer(
        start.config, start.tokenizer, parts.judge, config.eval, start.eos_ids
    )
    asked = reasoning.part(task, config.eval.split, "eval.split", config.eval.problems)
    samples, name = config.eval.samples, f"eval/{config.eval.split}/{config.task.name}"

    def evaluate(state: PyTree, final: bool, pause: loop.Pause) -> dict:
        if not (config.eval.before or state[1].counts[0]):
            return {}
        policy = parts.agent.policy(state[0])
        found = {name: reasoning.accuracy(answerer, policy, asked, pause)}
        if not (samples and final):
            return found
        right = []
        for first in range(0, len(asked), reasoning.CHUNK):
            pause()
            some = asked[first : first + reasoning.CHUNK]
            answers = answerer.ask(policy, some, samples, 1.0, seed=first)
            right.append(answers.right.reshape(-1, samples).sum(axis=1))
        counts = np.concatenate(right)
        return found | {
            f"{name}_pass_{k}": pass_at_k.pass_at_k(counts, samples, k)
            for k in config.eval.pass_k
        }

    return evaluate


def _schedule(config: Any, sizes: Sizes) -> loop.Schedule:
    a_step = sizes.updates // sizes.steps
    every, most = config.eval.every_updates, config.rollout.tokens
    all_there_are = sizes.steps * sizes.groups * sizes.samples * sizes.longest
    return loop.Schedule(
        calls=sizes.steps,
        total_steps=min(most or all_there_are, all_there_are),
        most=most,
        eval_every=max(1, round(every / a_step)) if every else 0,
        save_every=max(1, config.log.checkpoint_every_updates // a_step),
        keep=config.log.keep_checkpoints,
        nonfinite_limit=NONFINITE_LIMIT,
    )


def _say(config: Any, method: Method, parts: Parts, host: online_parts.Host) -> None:
    sizes = parts.sizes
    print(
        f"{method.name}: {len(parts.problems):,} problems, {sizes.steps:,} steps of "
        f"{sizes.groups} x {sizes.samples} answers, {sizes.updates:,} updates; rows of "
        f"{sizes.row_tokens} tokens, in up to 5 sizes of a batch"
    )
    if host.memory is not None:
        need = cells.bytes_needed(
            len(parts.problems), config.replay.cells, config.replay.state_tokens
        )
        print(f"archive: {human_bytes(need)}, part of every checkpoint")
    if parts.seeds is not None:
        print(
            f"{len(parts.seeds.problem):,} states come from written solutions: what "
            "is found so is not what replay alone would find"
        )
