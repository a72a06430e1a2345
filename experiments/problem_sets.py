"""Where problems are from: drawn, or out of files; and how each kind is judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments import judging, prompts
from experiments.border import ConfigError, require
from experiments.prompts import Judge
from rljax.data import steps
from rljax.envs.reasoning import arithmetic, countdown, problems
from rljax.envs.reasoning.problems import Problem

Put = Callable[[Problem], Problem]  # a question as a policy is asked it


class Kind(NamedTuple):
    """Where problems are from.

    Attributes:
      parts: (`config.task`, what puts a problem) -> solved, train, dev and test.
      file: the problems of a file, their prompts the questions alone; None where there
        are no files.
      system: says in a chat how an answer ends.
      judge: of answers in the form that the task asks for.
      verifiers: what `task.verifier` may be.
      readings: what `task.reading` may be; where it is empty, it is the first.
      delimiters: texts that end a step, where `data.delimiters` is empty.
    """

    parts: Callable[[Any, Put], tuple[list[Problem], ...]]
    file: Callable[[str], list[Problem]] | None
    system: str
    judge: Judge
    verifiers: tuple[str, ...] = (judging.EXACT,)
    readings: tuple[str, ...] = (prompts.FORM,)
    delimiters: tuple[str, ...] = steps.LINES


def _arithmetic(task: Any, put: Put) -> tuple[list[Problem], ...]:
    def split(sizes: dict[str, int]) -> dict[str, list[Problem]]:
        settings = arithmetic.Config(
            operations=tuple(task.operations),
            largest=task.largest,
            factor=task.factor,
            merged=task.merged,
            careless=task.careless,
            hasty=task.hasty,
            modulus=task.modulus,
            products=task.products,
            signs=task.signs,
        )
        sets = arithmetic.split(settings, task.seed, sizes)
        drills = arithmetic.drills(settings, task.seed, task.drills)
        return sets | {"solved": sets["solved"] + drills}

    return _made(task, put, split)


def _countdown(task: Any, put: Put) -> tuple[list[Problem], ...]:
    def split(sizes: dict[str, int]) -> dict[str, list[Problem]]:
        settings = countdown.Config(
            numbers=tuple(task.numbers),
            largest=task.largest,
            target=tuple(task.target),
        )
        return countdown.split(settings, task.seed, sizes)

    return _made(task, put, split)


def _gym(task: Any, put: Put) -> tuple[list[Problem], ...]:
    gym = judging.imported("task.name", "gym", "gym", _import_gym)
    return _made(task, put, lambda sizes: gym.split(task.gym, task.seed, sizes))


def _import_gym() -> Any:
    from rljax.envs.reasoning import gym

    return gym


def _made(
    task: Any, put: Put, split: Callable[[dict[str, int]], dict[str, list[Problem]]]
) -> tuple[list[Problem], ...]:
    """Parts of problems that are drawn, their prompts a line each."""
    sizes = {
        "test": task.test_size,
        "dev": task.dev_size,
        "solved": task.solved_size,
        "train": task.train_size,
    }
    try:
        sets = split(sizes)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.task: {error}") from error
    return tuple(
        [put(one._replace(prompt=one.prompt.removesuffix("\n"))) for one in sets[name]]
        for name in ("solved", "train", "dev", "test")
    )


def _of_file(
    read: Callable[[str], list[Problem]],
) -> Callable[[Any, Put], tuple[list[Problem], ...]]:
    def make(task, put):
        require(bool(task.train), "task.train", task.train, "the path of a file")
        try:
            found = read(task.train)
            held = read(task.test) if task.test else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"config.task: {error}") from error
        found, held = map(put, found), None if held is None else [*map(put, held)]
        found = list(found)
        # Dealt by the seed, so that no part is one end of the file.
        order = np.random.default_rng(task.seed).permutation(len(found))
        found = [found[i] for i in order]
        if held is None:
            held, found = found[: task.test_size], found[task.test_size :]
        elif 0 < task.test_size < len(held):
            print(
                f"{task.test}: the first {task.test_size:,} of {len(held):,} problems "
                "are the test set; test_size=0 takes all"
            )
            held = held[: task.test_size]
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
        return solved, train, dev, held

    return make


def _gsm8k(path: str) -> list[Problem]:
    return problems.read_gsm8k(path, prompt=problems.question_only)


def _math(path: str) -> list[Problem]:
    return problems.read_math(path, problems.question_only)


# Answers to arithmetic end as GSM8K's do.
_VERIFIERS = (judging.EXACT, "math_verify")
_READINGS = ("stated", prompts.FORM)
TASKS = {
    "arithmetic": Kind(_arithmetic, None, problems.GSM8K_SYSTEM, prompts.NUMBER),
    "countdown": Kind(_countdown, None, countdown.SYSTEM, prompts.EXPRESSION),
    "gsm8k": Kind(
        _of_file(_gsm8k),
        _gsm8k,
        problems.GSM8K_SYSTEM,
        prompts.NUMBER,
        _VERIFIERS,
        _READINGS,
    ),
    "gym": Kind(_gym, None, problems.GSM8K_SYSTEM, prompts.NUMBER, ("gym",)),
    "math": Kind(
        _of_file(_math),
        _math,
        problems.MATH_SYSTEM,
        prompts.BOX,
        _VERIFIERS,
        _READINGS,
        steps.SENTENCES,
    ),
}
