"""Sums, differences and products, solved one operation a line.

    17+25*3-8=?
    25*3=75
    17+75=92
    92-8=84
    #### 84

The first line is the prompt, the rest the solution: products first, then from left to
right. `verifiers.final_number` checks what stands after "####". A product's second
factor is small, and no product is a factor of another, so that every line is a sum that
can be learnt by its digits.
"""

import dataclasses
import random
import re
from collections.abc import Mapping, Sequence

from rljax.envs.reasoning.problems import Problem

_WHOLE = r"(?:0|[1-9][0-9]{0,17})"  # longer ones are no number of a problem's
_LINE = re.compile(rf"(-?{_WHOLE})((?:[-+*]-?{_WHOLE})+)=(-?{_WHOLE})")
_TERM = re.compile(rf"([-+*])(-?{_WHOLE})")
_FINAL = re.compile(rf"#### (-?{_WHOLE})")
_EXPRESSION = re.compile(rf"{_WHOLE}(?:[-+*]{_WHOLE})*")
PATIENCE = 100_000  # draws in a row that give nothing new, before `make` gives up


@dataclasses.dataclass(frozen=True)
class Config:
    """How hard problems are.

    Attributes:
      operations: least and most operations of a problem: lines of its solution, but
        for the last.
      largest: largest number of a sum or difference, and first factor of a product.
        Numbers are drawn from 0 on, factors from 2 on.
      factor: largest second factor of a product.
      products: chance that an operation is a product, where one may stand: not right
        after another. Unless `signed`, expressions that fall below 0 are drawn again,
        which leaves somewhat more products.
      signs: what stands between the other numbers: "+-", "+" or "-".
      signed: intermediate results and answers may be negative.
      rewrite: a line of the solution is what is left of the expression, not the
        operation.
      merged: chance that a line, begun at the first number of what is left, takes one
        operation more, and then another: "17+25*3=92". Not with `rewrite`. Such
        solutions are shorter; the expressions stay the same.
      careless: chance that a solution takes its operations from left to right, so that
        it is wrong where a product comes after a sum. The answer stays the right one,
        and so do the expressions. Not with `merged` or `rewrite`.
      hasty: chance that a line takes the first operation of what is left, product or
        not, where a product comes after a sum. Each such line is a chance to go wrong,
        so that the more there are, the rarer a right solution is. Alone, as careless.
      modulus: results are what is left when divided by this, of numbers below it; 0:
        results as they are. With 10 a line is a fact of two digits.
    """

    operations: tuple[int, int] = (3, 5)
    largest: int = 99
    factor: int = 9
    products: float = 0.35
    signs: str = "+-"
    signed: bool = False
    rewrite: bool = False
    merged: float = 0.0
    careless: float = 0.0
    hasty: float = 0.0
    modulus: int = 0

    def __post_init__(self) -> None:
        least, most = self.operations
        if not 1 <= least <= most:
            raise ValueError(
                "operations must be (least, most) with 1 <= least <= most, got "
                f"{self.operations}"
            )
        if self.largest < 1:
            raise ValueError(f"largest must be at least 1, got {self.largest}")
        if not 0 <= self.products <= 1:
            raise ValueError(f"products must be within [0, 1], got {self.products}")
        if self.products > 0 and min(self.factor, self.largest) < 2:
            raise ValueError(
                "factors are drawn from 2 on: factor and largest must be at least 2 "
                f"where products > 0, got {self.factor} and {self.largest}"
            )
        if self.signs not in ("+-", "+", "-"):
            raise ValueError(f"signs must be '+-', '+' or '-', got {self.signs!r}")
        for name in ("merged", "careless", "hasty"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} must be within [0, 1], got {getattr(self, name)}"
                )
        if self.modulus and self.modulus <= max(self.largest, self.factor):
            raise ValueError(
                f"modulus must be above largest and factor, {self.largest} and "
                f"{self.factor}, or 0, got {self.modulus}"
            )
        ways = (self.merged > 0, self.careless > 0, self.hasty > 0, self.rewrite)
        if sum(ways) > 1:
            raise ValueError(
                "merged, careless, hasty and rewrite are ways to write a solution: "
                "take one"
            )


def alphabet() -> str:
    """The characters of prompts and solutions, whatever the config."""
    return "\n #*+-0123456789=?"


def make(config: Config, seed: int, count: int) -> list[Problem]:
    """Distinct problems, a function of the config, the seed and their number.

    Fewer problems of the same config and seed are the first of more. The name of a
    problem is its expression, so it is the same under any seed.

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
        raise ValueError(
            f"{count} distinct problems were asked for, and {config} has no more than "
            f"{bound}: ask for fewer, or raise operations or largest"
        )
    # Of all generators only this one's random() is promised never to change.
    draws = random.Random(seed)
    habits = random.Random(seed + 2**32)  # apart, so that expressions do not follow
    found: dict[str, Problem] = {}
    misses = 0
    operations = _between(*config.operations, draws)
    while len(found) < count:
        problem = _problem(_expression(config, operations, draws), config, habits)
        if problem is not None:  # else again, or long problems would be rarer
            operations = _between(*config.operations, draws)
        if problem is None or problem.prompt in found:
            misses += 1
            if misses == PATIENCE:
                raise ValueError(
                    f"{count} distinct problems were asked for; after {len(found)} of "
                    f"them {PATIENCE} draws from {config} gave no new one: ask for "
                    "fewer, or raise operations or largest"
                )
            continue
        found[problem.prompt] = problem
        misses = 0
    return list(found.values())


def split(
    config: Config, seed: int, sizes: Mapping[str, int]
) -> dict[str, list[Problem]]:
    """Disjoint sets of problems.

    A set stays the same when those named after it change their size: name the test set
    first. Sets of two seeds are not disjoint.

    Args:
      config: how hard they are.
      seed: of the draws.
      sizes: number of problems of each set, as in
        `{"test": 500, "dev": 500, "train": 4000}`.

    Raises:
      ValueError: as `make`, and if a size is negative.
    """
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"the size of {name!r} must be at least 0, got {size}")
    problems = iter(make(config, seed, sum(sizes.values())))
    return {name: [next(problems) for _ in range(size)] for name, size in sizes.items()}


def drills(config: Config, seed: int, count: int) -> list[Problem]:
    """Sums of two to four numbers as large as products are, all solved rightly.

    Who learns from them beside solutions that go wrong by habit can do the sums of the
    right way, though it has seldom seen that way.

    Args:
      config: of the problems that they are drills for, each of which has a product, so
        that no drill is one of them.
      seed: of the draws.
      count: how many.

    Raises:
      ValueError: if problems may lack a product, or as `make`.
    """
    if not count:
        return []
    if config.products < 1:
        raise ValueError(
            f"drills are sums, and with products = {config.products} a problem of the "
            "test may be one of them: take products = 1, or no drills"
        )
    sums = dataclasses.replace(
        config, operations=(1, 3), largest=config.largest * config.factor, products=0.0,
        careless=0.0, hasty=0.0, merged=0.0,
    )  # fmt: skip
    return make(sums, seed, count)


def most_problems(config: Config) -> int:
    """Number of distinct problems; a bound on it where none may fall below 0."""
    numbers, signs = config.largest + 1, len(config.signs)
    factors = (config.largest - 1) * (config.factor - 1) if config.products > 0 else 0
    least, most = config.operations
    if config.products == 1:  # each second operation is one
        return sum(
            factors ** -(-n // 2) * signs ** (n // 2) * numbers ** (1 - n % 2)
            for n in range(least, most + 1)
        )
    # Of n operations the last joins a number, or the last two join a product.
    ways = [numbers, factors + numbers * signs * numbers]
    for n in range(2, most + 1):
        ways.append(signs * (ways[n - 1] * numbers + ways[n - 2] * factors))
    return sum(ways[least : most + 1])


def first_wrong_line(problem: Problem, response: str) -> int:
    """Where a response leaves the written solution.

    Args:
      problem: with its solution.
      response: any text.

    Returns:
      The first line, from 0 on, that is not the solution's, or is not there; -1 if the
      response is the solution. Space at the ends of the text does not count.
    """
    ours, theirs = problem.solution.split("\n"), response.strip().split("\n")
    for i, line in enumerate(ours):
        if i >= len(theirs) or theirs[i] != line:
            return i
    return -1 if len(theirs) == len(ours) else len(ours)


def first_error(expression: str, lines: Sequence[str]) -> int:
    """The first line of a response that is wrong, whatever way it takes.

    An operation, or several at once, is right if the expression keeps its value where
    it is replaced by its result, and "#### n" if n is that value. So operations may
    come in any order that is right; `first_wrong_line` knows the written solution
    alone.

    Args:
      expression: what stands before "=?" of the prompt; not of a config with `rewrite`
        or `modulus`.
      lines: of the response, none of them empty.

    Returns:
      Its index, or -1 if every line is right, as in a response that breaks off.

    Raises:
      ValueError: if `expression` is none of `make`.
    """
    if not _EXPRESSION.fullmatch(expression):
        raise ValueError(
            f"{expression[:80]!r} is no expression of whole numbers and + - *"
        )
    parts = tuple(re.findall(r"\d+|[-+*]", expression))
    worth, ways = value(parts), {parts}  # more where an operation stands twice
    for i, line in enumerate(lines):
        if final := _FINAL.fullmatch(line):
            if final[1] != str(worth):
                return i
            continue
        ways = _replaced(ways, _LINE.fullmatch(line))
        ways = {way for way in ways if value(way) == worth}
        if not ways:
            return i
    return -1


def _replaced(
    ways: set[tuple[str, ...]], line: re.Match[str] | None
) -> set[tuple[str, ...]]:
    """Expressions with one occurrence of a line's left side replaced by its right."""
    if line is None:
        return set()
    terms = [line[1], *(part for term in _TERM.findall(line[2]) for part in term)]
    size = len(terms)
    return {
        (*way[:at], line[3], *way[at + size :])
        for way in ways
        for at in range(0, len(way) - size + 1, 2)
        if list(way[at : at + size]) == terms
    }


def value(parts: Sequence[str]) -> int:
    """What an expression is worth; products first, then from left to right.

    Args:
      parts: numbers and signs in turn, ["17", "+", "25", "*", "3"].
    """
    total, sign, product = 0, "+", int(parts[0])
    for mark, number in zip(parts[1::2], parts[2::2], strict=True):
        if mark == "*":
            product *= int(number)
        else:
            total, sign, product = _apply(total, sign, product), mark, int(number)
    return _apply(total, sign, product)


def left_to_right(parts: Sequence[str]) -> int:
    """What careless writers make of an expression; Args as of `value`."""
    total = int(parts[0])
    for mark, number in zip(parts[1::2], parts[2::2], strict=True):
        total = _apply(total, mark, int(number))
    return total


def _between(least: int, most: int, draws: random.Random) -> int:
    return least + int(draws.random() * (most - least + 1))


def _expression(config: Config, operations: int, draws: random.Random) -> list[str]:
    """Numbers and signs in turn: ["17", "+", "25", "*", "3"]."""

    def draw(least: int, most: int) -> str:
        return str(_between(least, most, draws))

    parts: list[str] = []
    factor = False  # the number to come is a second factor
    for _ in range(operations):
        if not factor and draws.random() < config.products:
            parts += [draw(2, config.largest), "*"]
            factor = True
        else:
            number = draw(2, config.factor) if factor else draw(0, config.largest)
            parts += [number, config.signs[_between(1, len(config.signs), draws) - 1]]
            factor = False
    return [*parts, draw(2, config.factor) if factor else draw(0, config.largest)]


def _problem(parts: list[str], config: Config, habits: random.Random) -> Problem | None:
    """An expression with its solution; None if something falls below 0 and may not."""
    if not config.signed and _falls_below_zero(parts):
        return None
    expression, lines = "".join(parts), []
    answer = str(_left(value(parts), config.modulus))
    careless = config.careless > 0 and habits.random() < config.careless
    while len(parts) > 1:
        at = parts.index("*") if "*" in parts and not careless else 1
        if at > 1 and config.hasty and habits.random() < config.hasty:
            at = 1
        first, end = at - 1, at + 2
        if config.merged and (more := _merged(parts, config.merged, habits)):
            first, end = 0, more
        result = str(_left(value(parts[first:end]), config.modulus))
        left = "".join(parts[first:end])
        parts = [*parts[:first], result, *parts[end:]]
        lines.append("".join(parts) if config.rewrite else f"{left}={result}")
    return Problem(
        task=f"arithmetic/{expression}",
        prompt=f"{expression}=?\n",
        answer=answer,
        solution="\n".join([*lines, f"#### {parts[0]}"]),
    )


def _left(number: int, modulus: int) -> int:
    return number % modulus if modulus else number


def _ends(parts: Sequence[str]) -> list[int]:
    """Where a beginning ends that is worth what it is worth by itself."""
    ends = range(3, len(parts) + 1, 2)
    return [end for end in ends if end == len(parts) or parts[end] != "*"]


def _falls_below_zero(parts: Sequence[str]) -> bool:
    return any(value(parts[:end]) < 0 for end in _ends(parts))


def _merged(parts: Sequence[str], chance: float, habits: random.Random) -> int:
    """End of a line of two operations or more from the first on, 0 for one of one."""
    found = 0
    for end in _ends(parts):
        if end > 3:
            if habits.random() >= chance:
                break
            found = end
    return found


def _apply(left: int, sign: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right}[sign]
