"""Problems of the package reasoning-gym, and its scorers, from the extra `gym`.

A dataset draws problems of a kind and scores answers in [0, 1]; here only a score of 1
is right. A scorer needs more than the true answer, so that `Problem.answer` is the
whole entry as JSON. Scorers are somebody else's: ask `verify` in a `verifier_pool`.
"""

import json
from collections.abc import Mapping
from typing import Any

import reasoning_gym
from reasoning_gym import factory

from rljax.envs import verifiers
from rljax.envs.reasoning.problems import Problem

_TRIED = 20  # problems whose own answers are scored
_DRAWN = 4  # as many problems are drawn as are wanted, at most


def make(name: str, seed: int, count: int) -> list[Problem]:
    """Distinct problems of a dataset at its own settings, without written solutions.

    Args:
      name: of the dataset, such as "chain_sum".
      seed: of the draws; at least 0.
      count: how many.

    Returns:
      Problems named gym/NAME/PLACE; fewer ones are the first of more.

    Raises:
      ValueError: if there is no such dataset, it has not so many distinct questions, or
        it cannot be used: what its scorer needs is no JSON, or its own answers score
        less than 1.
    """
    if name not in factory.DATASETS:
        raise ValueError(
            f"reasoning-gym has no dataset {name!r}, only "
            f"{', '.join(sorted(factory.DATASETS))}"
        )
    if seed < 0 or count < 0:
        raise ValueError(f"seed and count must be at least 0, got {seed} and {count}")
    drawn = reasoning_gym.create_dataset(name, size=_DRAWN * count + 1, seed=seed)
    found: dict[str, Problem] = {}
    for place in range(_DRAWN * count):
        if len(found) == count:
            break
        entry = drawn[place]
        if entry["question"] not in found:
            found[entry["question"]] = _problem(name, place, entry)
    if len(found) < count:
        raise ValueError(
            f"{count} distinct problems of {name} were asked for, and of "
            f"{_DRAWN * count} drawn only {len(found)} are distinct"
        )
    problems = list(found.values())
    for problem in problems[:_TRIED]:
        answer = json.loads(problem.answer)["answer"]
        if not verify(problem.answer, f"{verifiers.MARK} {answer}"):
            raise ValueError(
                f"{problem.task}: its own answer {answer!r:.80} scores less than 1"
            )
    return problems


def split(name: str, seed: int, sizes: Mapping[str, int]) -> dict[str, list[Problem]]:
    """Disjoint sets of problems: no question is in two.

    Args:
      name: of the dataset.
      seed: of the draws.
      sizes: number of problems of each set; those named after a set do not change it.

    Raises:
      ValueError: as `make`.
    """
    problems = iter(make(name, seed, sum(sizes.values())))
    return {part: [next(problems) for _ in range(size)] for part, size in sizes.items()}


def verify(answer: str, response: str) -> bool:
    """Whether what stands after the last "####" has a score of 1.

    Args:
      answer: an entry of a dataset, as JSON.
      response: any text; without the mark it is wrong.

    Raises:
      Exception: whatever the scorer raises; KeyError or ValueError if `answer` is no
        entry.
    """
    entry = json.loads(answer)
    score = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
    _, mark, said = response.rpartition(verifiers.MARK)
    return bool(mark) and float(score(answer=said.strip(), entry=entry)) >= 1


def _problem(name: str, place: int, entry: dict[str, Any]) -> Problem:
    task = f"gym/{name}/{place}"
    try:
        kept = json.dumps(entry)
    except TypeError as error:
        raise ValueError(f"{task}: what its scorer needs is no JSON: {error}") from None
    return Problem(task, entry["question"] + "\n", kept)
