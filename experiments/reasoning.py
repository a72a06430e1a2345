"""Problems with a verifier, and how a policy is asked and judged on them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import border
from experiments.border import AT_LEAST_ONE, ConfigError, Limit, pick, require
from rljax.data import episodes
from rljax.envs import verifiers
from rljax.envs.reasoning import arithmetic, problems
from rljax.envs.reasoning.problems import Problem
from rljax.models.config import ModelConfig
from rljax.policy import decode
from rljax.text.tokenizer import Tokenizer
from rljax.types import Params

LIMITS = {
    "task.dev_size": Limit(0),
    "task.test_size": Limit(0),
    "task.train_size": Limit(0),
    "task.solved_size": Limit(0),
    "task.seed": Limit(0),
    "eval.batch": AT_LEAST_ONE,
    "eval.prompt_tokens": AT_LEAST_ONE,
    "eval.max_tokens": AT_LEAST_ONE,
}
CHUNK = 256  # problems between two looks for a signal


class Task(NamedTuple):
    """Problems in four parts, no one of which is in two."""

    solved: list[Problem]  # with written solutions, to begin from
    train: list[Problem]  # with answers alone, to learn from by trying
    dev: list[Problem]
    test: list[Problem]
    verify: verifiers.Verify


class Answers(NamedTuple):
    """What a policy said to problems, sample by sample."""

    ids: list[np.ndarray]  # int32 [tokens], the end token among them
    log_probs: list[np.ndarray]  # float32 [tokens]
    stopped: np.ndarray  # bool [N], it ended by itself
    right: np.ndarray  # bool [N]; an answer that did not end is wrong


def make_task(config: Any) -> Task:
    """The problems that a config names.

    Raises:
      ConfigError: for an impossible setting, or a file that cannot be read.
    """
    border.limits(config, LIMITS)
    return pick(TASKS, config.task.name, "task.name")(config.task)


def part(task: Task, name: str, key: str, most: int = 0) -> list[Problem]:
    """Problems of one part of a task.

    Args:
      task: all of them.
      name: of the part.
      key: the setting that names it.
      most: the first so many; 0: all.

    Raises:
      ConfigError: if there is no such part, or nothing in it.
    """
    parts = {"solved": task.solved, "train": task.train}
    found = pick(parts | {"dev": task.dev, "test": task.test}, name, key)
    require(bool(found), key, name, "a part with problems")
    return found[: most or None]


def _arithmetic(task: Any) -> Task:
    sizes = {
        "test": task.test_size,
        "dev": task.dev_size,
        "solved": task.solved_size,
        "train": task.train_size,
    }
    try:
        settings = arithmetic.Config(
            operations=tuple(task.operations),
            largest=task.largest,
            factor=task.factor,
            merged=task.merged,
            careless=task.careless,
        )
        sets = arithmetic.split(settings, task.seed, sizes)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.task: {error}") from error
    return Task(
        sets["solved"], sets["train"], sets["dev"], sets["test"], verifiers.final_number
    )


def _of_file(
    read: Callable[[str], list[Problem]], verify: verifiers.Verify
) -> Callable[[Any], Task]:
    def make(task):
        require(bool(task.train), "task.train", task.train, "the path of a file")
        try:
            found = read(task.train)
            held = read(task.test) if task.test else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"config.task: {error}") from error
        # Dealt by the seed, so that no part is one end of the file.
        order = np.random.default_rng(task.seed).permutation(len(found))
        found = [found[i] for i in order]
        if held is None:
            held, found = found[: task.test_size], found[task.test_size :]
        dev, rest = found[: task.dev_size], found[task.dev_size :]
        solved, train = rest[: task.solved_size], rest[task.solved_size :]
        train = train[: task.train_size or None]
        if not task.solved_size:  # as in the paper: all are for both
            solved = train
        require(
            bool(train), "task.train", task.train,
            "a file with more problems than dev_size, test_size and solved_size "
            f"together, {task.dev_size + task.test_size + task.solved_size}",
        )  # fmt: skip
        return Task(solved, train, dev, held[: task.test_size], verify)

    return make


TASKS = {
    "arithmetic": _arithmetic,
    "gsm8k": _of_file(problems.read_gsm8k, verifiers.final_number),
    "math": _of_file(problems.read_math, verifiers.boxed),
}


class Answerer(NamedTuple):
    """A policy that can be asked; `make_answerer` makes it.

    Attributes:
      ask: (params, problems, samples, temperature, seed) -> Answers, problem by
        problem. Sample j of problem i is a function of the seed, i and j.
      text: token ids -> text.
    """

    ask: Callable[..., Answers]
    text: Callable[[Sequence[int]], str]


def make_answerer(
    config: ModelConfig,
    tokens: Tokenizer,
    verify: verifiers.Verify,
    settings: Any,
    eos_ids: Sequence[int],
) -> Answerer:
    """Generation and verification for one model.

    Args:
      config: the decoder's.
      tokens: its tokenizer.
      verify: says what is right.
      settings: `config.eval`: batch, prompt_tokens, max_tokens.
      eos_ids: tokens that end an answer.

    Raises:
      ConfigError: if the sizes do not fit the model.
    """
    try:
        made = decode.make(
            config,
            decode.Settings(
                slots=settings.batch,
                prompts=_buckets(settings.prompt_tokens),
                longest=settings.max_tokens,
                prefill=min(16, settings.batch),
                free=max(1, settings.batch // 8),
            ),
            tuple(eos_ids),
        )
    except ValueError as error:
        raise ConfigError(f"config.eval: {error}") from error

    def text(ids: Sequence[int]) -> str:
        return tokens.decode([int(i) for i in ids], skip_special_tokens=True)

    def ask(
        params: Params,
        asked: Sequence[Problem],
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answers:
        prompts = [episodes.prompt_ids(tokens, problem.prompt) for problem in asked]
        keys = jax.random.split(jax.random.key(seed), max(len(asked), 1))[: len(asked)]
        try:
            found = made.generate(
                params, prompts, keys, samples=samples, temperature=temperature
            )
        except ValueError as error:
            raise ConfigError(f"config.eval: {error}") from error
        ids = [row[said] for row, said in zip(found.ids, found.sampled, strict=True)]
        right = [
            bool(found.stopped[n]) and verify(asked[n // samples].answer, text(ids[n]))
            for n in range(len(ids))
        ]
        return Answers(
            ids,
            [
                row[said]
                for row, said in zip(found.log_probs, found.sampled, strict=True)
            ],
            found.stopped,
            np.array(right, bool),
        )

    return Answerer(ask, text)


def accuracy(
    answerer: Answerer,
    params: Params,
    asked: Sequence[Problem],
    pause: Callable[[], None] = lambda: None,
    samples: int = 0,
) -> float:
    """Share of right answers: greedy ones, or `samples` of each problem's.

    Sampled ones are drawn at temperature 1, with the same keys at every call.
    """
    right, warmth = 0, float(samples > 0)
    for first in range(0, len(asked), CHUNK):
        pause()
        some = asked[first : first + CHUNK]
        found = answerer.ask(params, some, max(samples, 1), warmth, seed=first)
        right += int(found.right.sum())
    return right / max(len(asked) * max(samples, 1), 1)


def _buckets(longest: int) -> tuple[int, ...]:
    """Lengths of prompts: what is asked for, and its half where that is much."""
    return (longest,) if longest < 128 else (longest // 2, longest)
