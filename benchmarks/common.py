"""Timing of alternatives in one process, a table, and JSON.

Alternatives take turns, so that a busy minute of the machine falls on all of them,
and a ratio is the median over turns of the ratio within a turn.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Times = dict[str, np.ndarray]  # seconds of each turn, by name of the alternative


class Row(NamedTuple):
    """One line of a benchmark's table, as it goes to JSON."""

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    target: float | None  # None where the row only informs
    better: str  # which way the ratio should go: "higher" or "lower"

    @property
    def reached(self) -> bool:
        """Whether the target is met; a row without one always is."""
        if self.target is None:
            return True
        higher = self.better == "higher"
        return self.ratio >= self.target if higher else self.ratio <= self.target


def interleave(
    alternatives: Mapping[str, Callable[[], Any]],
    rounds: int = 11,
    max_seconds: float = 60.0,
    warm: Collection[str] = (),
) -> Times:
    """Times alternatives in turns, after one call each that compiles.

    Args:
      alternatives: functions without arguments; what they return is waited for.
      rounds: turns, at most.
      max_seconds: no new turn starts after this, but three are always taken.
      warm: alternatives that get a call that is not timed first in every turn. One
        that follows a peer of gigabytes would else pay for fetching back the pages
        that the peer's freed memory has cost it: 0.6 s in one case.

    Returns:
      Seconds of each turn, by name; their medians also go to stderr at once.
    """
    for run in alternatives.values():
        jax.block_until_ready(run())
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    begin = time.perf_counter()
    for i in range(rounds):
        if i >= 3 and time.perf_counter() - begin > max_seconds:
            break
        for name, run in alternatives.items():
            if name in warm:
                jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken[name].append(time.perf_counter() - start)
    for name, seconds in taken.items():
        median = 1e3 * np.median(seconds)
        print(f"{name}: {median:.4g} ms, {len(seconds)} turns", file=sys.stderr)
    return {name: np.array(seconds) for name, seconds in taken.items()}


def speedup(name: str, times: Times, ours: str, peer: str, target: float | None) -> Row:
    """A row that says how many times faster ours is."""
    ratio = float(np.median(times[peer] / times[ours]))
    return _milliseconds(name, times, ours, peer, ratio, target, "higher")


def growth(name: str, times: Times, ours: str, peer: str, target: float | None) -> Row:
    """A row that says how many times longer ours takes."""
    ratio = float(np.median(times[ours] / times[peer]))
    return _milliseconds(name, times, ours, peer, ratio, target, "lower")


def parse_arguments(description: str) -> argparse.Namespace:
    """The flags every benchmark has: --json=FILE and --rounds=N."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """A parser of these flags, for a benchmark that has more."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--json", type=pathlib.Path, help="write the rows to this file")
    found.add_argument("--rounds", type=_rounds, default=11, help="turns of each row")
    return found


def _rounds(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 1")
    return int(text)


def finish(rows: Sequence[Row], json_path: pathlib.Path | None) -> None:
    """Prints the table, and writes the JSON if there is a path for it."""
    print(table(rows))
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps([row._asdict() for row in rows], indent=1))


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    cells = [("name", "ours", "peer", "unit", "ratio", "target", "")]
    for row in rows:
        bound = ">=" if row.better == "higher" else "<="
        target = "" if row.target is None else f"{bound} {row.target:g}"
        numbers = (f"{row.ours:.4g}", f"{row.peer:.4g}", row.unit, f"{row.ratio:.3g}")
        cells.append((row.name, *numbers, target, "" if row.reached else "MISSED"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        padded = [c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def _milliseconds(
    name: str,
    times: Times,
    ours: str,
    peer: str,
    ratio: float,
    target: float | None,
    better: str,
) -> Row:
    mine, other = (1e3 * float(np.median(times[key])) for key in (ours, peer))
    return Row(name, mine, other, "ms", ratio, target, better)
