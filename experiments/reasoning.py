"""Problems with a verifier, and how a policy is asked and judged on them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import border, judging, prompts
from experiments.border import AT_LEAST_ONE, ConfigError, Limit, pick, require
from experiments.prompts import PROMPTS, Judge, Prompt
from rljax.data import episodes
from rljax.envs import verifiers
from rljax.envs.reasoning import arithmetic, countdown, problems
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
    "task.drills": Limit(0),
    "task.seed": Limit(0),
    "eval.batch": AT_LEAST_ONE,
    "eval.prompt_tokens": AT_LEAST_ONE,
    "eval.max_tokens": AT_LEAST_ONE,
}
Put = Callable[[Problem], Problem]  # a question as a policy is asked it
CHUNK = 256  # problems between two looks for a signal


class Task(NamedTuple):
    """Problems in four parts, no one of which is in two."""

    solved: list[Problem]  # with written solutions, to begin from
    train: list[Problem]  # with answers alone, to learn from by trying
    dev: list[Problem]
    test: list[Problem]
    judge: Judge


class Answers(NamedTuple):
    """What a policy said to problems, sample by sample."""

    ids: list[np.ndarray]  # int32 [tokens], the end token among them
    log_probs: list[np.ndarray]  # float32 [tokens]
    stopped: np.ndarray  # bool [N], it ended by itself
    right: np.ndarray  # bool [N]; an answer that did not end is wrong


class Kind(NamedTuple):
    """Where problems are from.

    Attributes:
      parts: (`config.task`, what puts a problem) -> solved, train, dev and test.
      file: the problems of a file, their prompts the questions alone; None where there
        are no files.
      system: says in a chat how an answer ends.
      judge: of answers.
      verifiers: what `task.verifier` may be.
    """

    parts: Callable[[Any, Put], tuple[list[Problem], ...]]
    file: Callable[[str], list[Problem]] | None
    system: str
    judge: Judge
    verifiers: tuple[str, ...] = (judging.EXACT,)


def make_task(config: Any, tokens: Tokenizer) -> Task:
    """The problems that a config names, as `task.prompt` puts them.

    Args:
      config: with `task` and room for answers, `eval`.
      tokens: tokenizer of the policy that is asked; its template is that of a chat.

    Raises:
      ConfigError: for an impossible setting, a file that cannot be read, or a chat
        with a tokenizer that knows none.
    """
    border.limits(config, LIMITS)
    kind = pick(TASKS, config.task.name, "task.name")
    verifier = judging.verifier_of(config.task)
    require(
        verifier in kind.verifiers, "task.verifier", verifier,
        f"{' or '.join(kind.verifiers)} for task {config.task.name}",
    )  # fmt: skip
    prompt = _prompt(config, tokens)
    solved, train, dev, test = kind.parts(
        config.task, lambda problem: prompts.put(prompt, problem)
    )
    judge = prompt.judge or kind.judge
    answered = judging.ANSWERED.get(verifier, judge.answered)
    return Task(solved, train, dev, test, judge._replace(answered=answered))


def read_file(config: Any, tokens: Tokenizer, path: str) -> list[Problem]:
    """Problems of a file of the task's form, put as the task's are.

    Raises:
      ConfigError: as `make_task`; or if the task has no files.
      ValueError: for a line that is no problem.
    """
    read = pick(TASKS, config.task.name, "task.name").file
    require(read is not None, "task.name", config.task.name, "a task that has files")
    prompt = _prompt(config, tokens)
    return [prompts.put(prompt, problem) for problem in read(path)]


def _prompt(config: Any, tokens: Tokenizer) -> Prompt:
    make = pick(PROMPTS, config.task.prompt, "task.prompt")
    return make(tokens, TASKS[config.task.name].system)


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
_MATH = (judging.EXACT, "math_verify")
TASKS = {
    "arithmetic": Kind(_arithmetic, None, problems.GSM8K_SYSTEM, prompts.NUMBER),
    "countdown": Kind(_countdown, None, countdown.SYSTEM, prompts.EXPRESSION),
    "gsm8k": Kind(
        _of_file(_gsm8k), _gsm8k, problems.GSM8K_SYSTEM, prompts.NUMBER, _MATH
    ),
    "gym": Kind(_gym, None, problems.GSM8K_SYSTEM, prompts.NUMBER, ("gym",)),
    "math": Kind(_of_file(_math), _math, problems.MATH_SYSTEM, prompts.BOX, _MATH),
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
    judge: verifiers.JudgeAll,
    settings: Any,
    eos_ids: Sequence[int],
) -> Answerer:
    """Generation and verification for one model.

    Args:
      config: the decoder's.
      tokens: its tokenizer.
      judge: says what is right; where it fails, an answer is none.
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
        keys = jax.random.split(jax.random.key(seed), max(len(asked), 1))[: len(asked)]
        try:
            given = [episodes.prompt_ids(tokens, problem.prompt) for problem in asked]
            found = made.generate(
                params, given, keys, samples=samples, temperature=temperature
            )
        except ValueError as error:
            raise ConfigError(f"config.eval: {error}") from error
        ids = [row[said] for row, said in zip(found.ids, found.sampled, strict=True)]
        right = _right(
            judge,
            [(asked[n // samples].answer, text(ids[n])) for n in range(len(ids))],
            found.stopped,
        )
        return Answers(
            ids,
            [
                row[said]
                for row, said in zip(found.log_probs, found.sampled, strict=True)
            ],
            found.stopped,
            right,
        )

    return Answerer(ask, text)


def _right(
    judge: verifiers.JudgeAll, pairs: Sequence[tuple[str, str]], stopped: np.ndarray
) -> np.ndarray:
    """Which answers are right; those that did not end are not judged."""
    ended = np.flatnonzero(stopped).tolist()
    found = judge([pairs[n] for n in ended])
    failures = [one for one in found if isinstance(one, verifiers.Failure)]
    if failures:
        print(
            f"the verifier failed at {len(failures)} of {len(pairs)} answers, which "
            f"count as wrong; first: {failures[0].reason}",
            flush=True,
        )
    right = np.zeros(len(pairs), bool)
    right[ended] = [one is True for one in found]
    return right


class Outcomes(NamedTuple):
    """What came of answers, those to one problem next to each other."""

    right: np.ndarray  # bool [N]
    length: np.ndarray  # int [N], tokens of the answer


def outcomes(
    answerer: Answerer,
    params: Params,
    asked: Sequence[Problem],
    pause: Callable[[], None] = lambda: None,
    samples: int = 0,
) -> Outcomes:
    """Greedy answers judged, or `samples` of each problem.

    Sampled ones are drawn at temperature 1, with the same keys at every call.
    """
    right, length, warmth = [], [], float(samples > 0)
    for first in range(0, len(asked), CHUNK):
        pause()
        some = asked[first : first + CHUNK]
        found = answerer.ask(params, some, max(samples, 1), warmth, seed=first)
        right.append(found.right)
        length += [len(ids) for ids in found.ids]
    return Outcomes(np.concatenate([np.zeros(0, bool), *right]), np.array(length, int))


def accuracy(answerer: Answerer, params: Params, asked, *how, **more) -> float:
    """Share of right answers; arguments as of `outcomes`."""
    right = outcomes(answerer, params, asked, *how, **more).right
    return int(right.sum()) / max(len(right), 1)


def _buckets(longest: int) -> tuple[int, ...]:
    """Lengths of prompts: what is asked for, and its half where that is much."""
    return (longest,) if longest < 128 else (longest // 2, longest)
