"""How answers do where careless writers go wrong: products that come after a sum.

    python -m experiments.habits --data=runs/log/log.jsonl.gz

Of a log of arithmetic it counts answers to problems that are worth the same from left
to right, and to those that are not: how many are right, how many begin with another
operation than the first, as they should, and how many of these are right.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments import border
from rljax.data import logs
from rljax.data.record import Record
from rljax.envs.reasoning import arithmetic
from rljax.training.files import RunError
from rljax.types import GOOD

_TASK = re.compile(r"arithmetic/(\d+(?:[-+*]\d+)+)")


class Count(NamedTuple):
    """Answers to problems of one kind."""

    answers: int
    right: int
    begun: int  # begin with another operation than the expression's first
    begun_right: int

    def text(self) -> str:
        """Shares; "-" of nothing."""
        shares = (
            f"{part / whole:>8.3f}" if whole else f"{'-':>8}"
            for part, whole in (
                (self.right, self.answers),
                (self.begun, self.answers),
                (self.begun_right, self.begun),
            )
        )
        return f"{self.answers:>8,}" + "".join(shares)


def count(records: Iterable[Record]) -> dict[str, Count]:
    """Answers by whether their problem is worth the same from left to right.

    Args:
      records: of a log of arithmetic.

    Returns:
      "plain" and "misread" -> counts.

    Raises:
      ValueError: for a record of another task, with its line.
    """
    kinds: dict[str, list[tuple[bool, bool]]] = {"plain": [], "misread": []}
    for one in records:
        named = _TASK.fullmatch(one.task or "")
        if named is None or one.response is None:
            raise ValueError(
                f"line {one.line} is no answer to arithmetic: {one.task!r}"
            )
        parts = re.findall(r"\d+|[-+*]", named[1])
        said = one.response.split("\n")[0].split("=")[0]
        same = arithmetic.left_to_right(parts) == arithmetic.value(parts)
        kinds["plain" if same else "misread"].append(
            (one.reward > GOOD, said != "".join(parts[:3]))
        )
    return {name: _summed(found) for name, found in kinds.items()}


def _summed(found: Sequence[tuple[bool, bool]]) -> Count:
    return Count(
        len(found),
        sum(right for right, _ in found),
        sum(begun for _, begun in found),
        sum(right and begun for right, begun in found),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Prints the table; 0 if the log could be read."""
    parser = border.parser(__doc__)
    parser.add_argument("--data", required=True, help="a log: plain, .gz or .xz")
    given = parser.parse_args(words)
    try:
        found = count(logs.read(given.data))
    except (OSError, ValueError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'problems':<9} answers   right   begun  right of begun")
    for name, one in found.items():
        print(f"{name:<9}{one.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
