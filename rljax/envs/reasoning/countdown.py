"""Countdown: given numbers, each used once, are to make a target.

    numbers 3 25 7 make 178
    25*7=175
    3+175=178
    #### 3+25*7

The first line is the prompt, the rest the solution: one operation a line, then the
whole expression. `verify` takes any expression with + - * / and parentheses that uses
each number once and is worth the target, fractions on its way included. A problem is
its numbers, in whatever order they stand, and its target.
"""

import dataclasses
import math
import random
import re
from collections.abc import Mapping

from rljax.envs import expressions, verifiers
from rljax.envs.reasoning.problems import Problem

# Says in a chat what is wanted, and how an answer ends.
SYSTEM = (
    "Make the target out of the numbers with + - * / and parentheses, each number used "
    "exactly once. Please reason step by step, and end with the expression following "
    "4 '#', like '#### 3+25*7'"
)
_ANSWER = re.compile(r"([0-9]{1,9}(?: [0-9]{1,9})*)=([0-9]{1,18})")
PATIENCE = 100_000  # draws in a row that give nothing new, before `make` gives up
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "": 3}  # what binds tighter


@dataclasses.dataclass(frozen=True)
class Config:
    """How hard problems are.

    Attributes:
      numbers: how many numbers a problem has, least and most.
      largest: largest of them; they are drawn from 1 on, and one may come twice.
      target: least and greatest target.
    """

    numbers: tuple[int, int] = (3, 4)
    largest: int = 25
    target: tuple[int, int] = (10, 200)

    def __post_init__(self) -> None:
        least, most = self.numbers
        if not 2 <= least <= most <= 8:
            raise ValueError(
                "numbers must be (least, most) with 2 <= least <= most <= 8, got "
                f"{self.numbers}"
            )
        if not 1 <= self.largest < 10**6:
            raise ValueError(f"largest must be in [1, 999999], got {self.largest}")
        least, most = self.target
        if not 1 <= least <= most < 10**9:
            raise ValueError(
                "target must be (least, greatest) with 1 <= least <= greatest <= "
                f"999999999, got {self.target}"
            )


def alphabet() -> str:
    """The characters of prompts and solutions, whatever the config."""
    return "\n #()*+-/0123456789=abekmnrsu"


def make(config: Config, seed: int, count: int) -> list[Problem]:
    """Distinct problems, a function of the config, the seed and their number.

    Each was made from an expression, so that it has a solution; there may be others.
    On the way of the written one all results are whole numbers above 0, no larger than
    a hundred times the greatest target, and nothing is multiplied or divided by 1.
    Fewer problems of the same config and seed are the first of more.

    Args:
      config: how hard they are.
      seed: of the draws; at least 0.
      count: how many.

    Raises:
      ValueError: if `seed` or `count` is negative, or there are not so many distinct
        problems. Of a space that has hardly more, it may not find the last.
    """
    if seed < 0 or count < 0:
        raise ValueError(f"seed and count must be at least 0, got {seed} and {count}")
    if count > (bound := most_problems(config)):
        raise _too_few(config, count, f"no more than {bound}")
    draws = random.Random(seed)  # of which only random() is promised never to change
    found: dict[str, Problem] = {}
    misses = 0
    size = _between(*config.numbers, draws)
    while len(found) < count:
        problem = _problem(config, size, draws)
        if problem is not None:  # else again, or long problems would be rarer
            size = _between(*config.numbers, draws)
        if problem is None or problem.task in found:
            misses += 1
            if misses == PATIENCE:
                raise _too_few(config, count, f"hardly more than {len(found)}")
            continue
        found[problem.task], misses = problem, 0
    return list(found.values())


def split(
    config: Config, seed: int, sizes: Mapping[str, int]
) -> dict[str, list[Problem]]:
    """Disjoint sets of problems: no two have one with the same numbers and target.

    A set stays the same when those named after it change their size: name the test set
    first. Sets of two seeds are not disjoint.

    Args:
      config: how hard they are.
      seed: of the draws.
      sizes: number of problems of each set.

    Raises:
      ValueError: as `make`, and if a size is negative.
    """
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"the size of {name!r} must be at least 0, got {size}")
    problems = iter(make(config, seed, sum(sizes.values())))
    return {name: [next(problems) for _ in range(size)] for name, size in sizes.items()}


def most_problems(config: Config) -> int:
    """A bound on the number of distinct problems: not all targets can be made."""
    targets = config.target[1] - config.target[0] + 1
    return targets * sum(
        math.comb(config.largest + size - 1, size)
        for size in range(config.numbers[0], config.numbers[1] + 1)
    )


def verify(answer: str, response: str) -> bool:
    """Whether the line after the last "####" makes the target out of the numbers.

    Args:
      answer: numbers and target, as in "3 25 7=178".
      response: any text.

    Raises:
      ValueError: if `answer` is no such text.
    """
    match = _ANSWER.fullmatch(answer)
    if match is None:
        raise ValueError(f"the answer {answer[:80]!r} is no '3 25 7=178'")
    said = given_in(response)
    found = None if said is None else expressions.read(said)
    if found is None or found.value != int(match[2]):
        return False
    return sorted(found.numbers) == sorted(map(int, match[1].split(" ")))


def given_in(response: str) -> str | None:
    """The line after the last "####", without spaces; None without one.

    Args:
      response: any text.
    """
    _, mark, after = response.rpartition(verifiers.MARK)
    line = after.strip(" \n").partition("\n")[0]
    return (line.replace(" ", "") or None) if mark else None


def _too_few(config: Config, count: int, there_are: str) -> ValueError:
    return ValueError(
        f"{count} distinct problems were asked for, and {config} has {there_are}: ask "
        "for fewer, or raise numbers, largest or target"
    )


def _between(least: int, most: int, draws: random.Random) -> int:
    return least + int(draws.random() * (most - least + 1))


def _problem(config: Config, size: int, draws: random.Random) -> Problem | None:
    """A problem made by joining numbers until one is left; None if it is out of bounds.

    A part is its value, how it is written, and the sign that was applied last.
    """
    numbers = [_between(1, config.largest, draws) for _ in range(size)]
    parts, lines = [(number, str(number), "") for number in numbers], []
    while len(parts) > 1:
        left = parts.pop(_between(1, len(parts), draws) - 1)
        right = parts.pop(_between(1, len(parts), draws) - 1)
        sign = "+-*/"[_between(0, 3, draws)]
        value = _joined(left[0], sign, right[0], 100 * config.target[1])
        if value is None:
            return None
        lines.append(f"{left[0]}{sign}{right[0]}={value}")
        parts.append((value, _written(left, sign, right), sign))
    target, expression, _ = parts[0]
    if not config.target[0] <= target <= config.target[1]:
        return None
    in_order = " ".join(map(str, sorted(numbers)))
    given = " ".join(map(str, numbers))
    return Problem(
        task=f"countdown/{in_order}={target}",
        prompt=f"numbers {given} make {target}\n",
        answer=f"{given}={target}",
        solution="\n".join([*lines, f"#### {expression}"]),
    )


def _joined(left: int, sign: str, right: int, most: int) -> int | None:
    """A whole result in 1..most of an operation that does something; or None."""
    if sign in "*/" and 1 in (left, right):
        return None
    if sign == "/" and left % right:
        return None
    value = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
    value = left // right if value is None else value
    return value if 1 <= value <= most else None


def _written(left: tuple[int, str, str], sign: str, right: tuple[int, str, str]) -> str:
    """Two parts joined, in parentheses only where they are needed."""
    first = left[1] if _RANK[left[2]] >= _RANK[sign] else f"({left[1]})"
    gap = _RANK[right[2]] - _RANK[sign]
    bare = gap > 0 or (gap == 0 and sign in "+*")  # a+(b-c) is a+b-c
    return f"{first}{sign}{right[1] if bare else f'({right[1]})'}"
