"""Tables of the JSONs that `experiments.online_evidence` wrote.

    python -m experiments.online_tables --dir=runs/online/compare --baseline=ppo

Prints, and with --out writes OUT/rrl_STUDY.md: what cells came to after as many tokens
as each sampled, and what they had come to after as many answers as the run with the
fewest, which are as many updates. Means over seeds with 95 % intervals by Student's t;
beside a baseline, differences paired by seed. Cells of other studies of the same task
come in by --beside=DIR/CELL, as often as there are such cells.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments import border
from experiments.offline_tables import Estimate, estimate
from rljax.training.files import RunError, read_json, write_text

_READ = ("study", "cell", "seed", "split", "after", "pass", "curve", "trained_on")
_ALIKE: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "split": lambda record: record["split"],
    "the number of problems": lambda record: record["trained_on"],
    "pass@k": lambda record: sorted(record["pass"]),
}
SMOOTH = 10  # steps that a share of right answers is the mean of

Record = dict[str, Any]
Runs = Mapping[str, Mapping[int, Record]]  # cell -> seed -> record
Column = Callable[[Record], float]


def load(folder: pathlib.Path) -> Runs:
    """The records of a folder by cell and seed.

    Raises:
      RunError: if there are none, one is no such record, or they are of more than one
        study or split.
    """
    cells: dict[str, dict[int, Record]] = {}
    kinds = set()
    for path in sorted(folder.glob("*-seed*.json")):
        try:
            found = read_json(path)
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        missing = [name for name in _READ if name not in found]
        if missing:
            raise RunError(
                f"{path} has no {', '.join(missing)}: it is no record of "
                "online_evidence"
            )
        kinds.add((found["study"], found["split"]))
        cells.setdefault(found["cell"], {})[found["seed"]] = found
    if not cells:
        raise RunError(f"no CELL-seedN.json in {folder}: run online_evidence")
    if len(kinds) > 1:
        raise RunError(f"{folder} mixes {sorted(kinds)}")
    return cells


def beside(runs: Runs, other: Runs, cell: str) -> Runs:
    """The records with a cell of another study.

    Args:
      runs: as `load` gives them.
      other: of the other study, likewise.
      cell: of the other.

    Raises:
      RunError: if it is not there, the first has one of that name, or the splits, the
        problems or the numbers of answers for pass@k are not the same.
    """
    if cell not in other or cell in runs:
        raise RunError(
            f"the cell {cell} must be one of {', '.join(other)}, and none of "
            f"{', '.join(runs)}"
        )
    (ours, *_), (theirs, *_) = (
        r.values() for r in (next(iter(runs.values())), other[cell])
    )
    for name, of in _ALIKE.items():
        if of(ours) != of(theirs):
            raise RunError(
                f"{name} of {cell} is {of(theirs)}, of the others {of(ours)}"
            )
    return {**runs, cell: other[cell]}


def at_the_end(runs: Runs) -> dict[str, Column]:
    """What is told of whole runs, by the heads of columns."""
    some = next(iter(next(iter(runs.values())).values()))
    passes = {f"pass@{k}": _pass(k) for k in some["pass"]}
    return {
        "greedy": lambda record: record["after"],
        **passes,
        "ever solved": lambda record: record["ever_solved"] / record["trained_on"],
        "from the bare problem": lambda record: (
            record["ever_solved_bare"] / record["trained_on"]
        ),
    }


def _pass(k: str) -> Column:
    return lambda record: record["pass"][k]


def after_answers(count: int) -> dict[str, Column]:
    """What is told of runs after so many answers.

    Args:
      count: of answers.
    """
    return {
        "tokens": lambda record: record["curve"]["tokens"][_step(record, count)],
        "updates": lambda record: record["curve"]["updates"][_step(record, count)],
        "ever solved": lambda record: record["curve"]["ever_solved"][
            _step(record, count)
        ],
        "right of bare answers": lambda record: _recent(
            record["curve"]["right_bare"][: _step(record, count) + 1]
        ),
    }


def _step(record: Record, answers: int) -> int:
    """The last step with at most so many answers."""
    return int(np.searchsorted(record["curve"]["answers"], answers, side="right")) - 1


def _recent(values: list[float | None]) -> float:
    """The mean of the last steps; those that asked no bare problem say nothing."""
    last = np.array(values[-SMOOTH:], float)
    return float(np.nanmean(last)) if np.isfinite(last).any() else float("nan")


def table(runs: Runs, columns: Mapping[str, Column], baseline: str = "") -> str:
    """Markdown: a cell a line, as they are named.

    Args:
      runs: as `load` gives them.
      columns: head -> what it says of a record.
      baseline: a cell that the others are compared with; none if empty.

    Raises:
      RunError: if there is no such cell.
    """
    if baseline and baseline not in runs:
        raise RunError(f"--baseline={baseline}: there are {', '.join(runs)}")
    lines = [
        "| cell | seeds | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for cell, seeds in runs.items():
        row = [cell, " ".join(str(seed) for seed in sorted(seeds))]
        for column in columns.values():
            found = _text(estimate([column(seeds[s]) for s in sorted(seeds)]))
            both = sorted(seeds.keys() & runs[baseline].keys()) if baseline else []
            if both and cell != baseline:
                apart = [column(seeds[s]) - column(runs[baseline][s]) for s in both]
                found += f"; {_text(estimate(apart), sign=True)}"
            row.append(found)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _text(found: Estimate, sign: bool = False) -> str:
    """Shares with their interval, counts without."""
    return f"{found.mean:,.0f}" if abs(found.mean) > 1 else found.text(sign)


def both(runs: Runs, baseline: str = "") -> str:
    """The two tables, each with a line of what it is.

    Args:
      runs: as `load` gives them.
      baseline: as of `table`.
    """
    every = [record for seeds in runs.values() for record in seeds.values()]
    fewest = min(record["curve"]["answers"][-1] for record in every)
    tokens = [record["curve"]["tokens"][-1] for record in every]
    return (
        f"After {min(tokens):,} to {max(tokens):,} tokens:\n\n"
        + table(runs, at_the_end(runs), baseline)
        + f"\nAfter {fewest:,} answers:\n\n"
        + table(runs, after_answers(fewest), baseline)
    )


def main() -> int:
    """Writes the tables of a study."""
    parser = border.parser(__doc__)
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="of the JSONs")
    parser.add_argument(
        "--beside", type=pathlib.Path, action="append", default=[], help="DIR/CELL"
    )
    parser.add_argument("--out", type=pathlib.Path, help="DIR; none: print alone")
    parser.add_argument("--baseline", default="", help="a cell to compare with")
    given = parser.parse_args()
    try:
        runs = load(given.dir)
        for one in given.beside:
            runs = beside(runs, load(one.parent), one.name)
        text = both(runs, given.baseline)
    except ValueError as error:  # more seeds than the table of t has, too
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    if given.out:
        study = next(iter(next(iter(runs.values())).values()))["study"]
        given.out.mkdir(parents=True, exist_ok=True)
        write_text(given.out / f"rrl_{study}.md", f"# {study}\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
