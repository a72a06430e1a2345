"""Tables of the JSONs that `experiments.offline_evidence` wrote.

    python -m experiments.offline_tables --dir=runs/offline/compare --out=docs/results

Prints and writes OUT/oreo_STUDY.md: for every cell the share of problems that greedy
answers get right, its mean over seeds with a 95 % interval (Student's t over seeds);
beside a baseline, the paired difference seed by seed with its interval; and the same of
answers sampled at temperature 1, where there are any.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import border
from rljax.training.files import RunError, read_json, write_text

# What is read of a record.
_READ = (
    *("study", "cell", "seed", "split", "problems"),
    *("after", "tokens", "updates", "items", "alarms"),
)

# Two-sided 95 % points of Student's t by degrees of freedom, from any table of it.
T95 = (np.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Estimate(NamedTuple):
    """A mean over seeds and its 95 % interval; that of one seed is unknown."""

    mean: float
    low: float
    high: float

    def text(self, sign: bool = False) -> str:
        """Such as "0.812 [0.790, 0.834]"."""
        mean = f"{self.mean:{'+' if sign else ''}.3f}"
        if np.isnan(self.low):
            return mean
        return f"{mean} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % interval by Student's t.

        mean +- t_{n-1} s / sqrt(n),  s^2 = sum (x - mean)^2 / (n - 1)

    Args:
      values: one of each seed.

    Raises:
      ValueError: for none, or more than the table of t has.
    """
    count = len(values)
    if not 1 <= count <= len(T95):
        raise ValueError(f"{count} seeds; an interval is made of 1 to {len(T95)}")
    mean = float(np.mean(values))
    if count == 1:
        return Estimate(mean, np.nan, np.nan)
    half = T95[count - 1] * float(np.std(values, ddof=1)) / count**0.5
    return Estimate(mean, mean - half, mean + half)


Runs = Mapping[str, Mapping[int, dict[str, Any]]]  # cell -> seed -> record


def load(folder: pathlib.Path) -> Runs:
    """The records of a folder by cell and seed.

    Raises:
      RunError: if there are none, one is no such record, or they are of more than one
        study or split.
    """
    records = [_record(path) for path in sorted(folder.glob("*-seed*.json"))]
    if not records:
        raise RunError(f"no CELL-seedN.json in {folder}: run offline_evidence")
    for name in ("study", "split", "problems"):
        found = {str(record[name]) for record in records}
        if len(found) > 1:
            raise RunError(f"{folder} mixes {name} {', '.join(sorted(found))}")
    cells: dict[str, dict[int, dict[str, Any]]] = {}
    for each in sorted(records, key=lambda record: record["seed"]):
        cells.setdefault(each["cell"], {})[each["seed"]] = each
    return cells


def _record(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    missing = [name for name in _READ if name not in found]
    if missing:
        raise RunError(
            f"{path} has no {', '.join(missing)}: it is no record of offline_evidence"
        )
    return found


def table(runs: Runs, baseline: str = "") -> str:
    """Markdown: cells by what they reach, best first.

    Args:
      runs: as `load` gives them.
      baseline: a cell that the others are compared with; none if empty.

    Raises:
      RunError: if there is no such cell.
    """
    if baseline and baseline not in runs:
        raise RunError(f"--baseline={baseline}: there are {', '.join(runs)}")
    means = {
        cell: estimate([r["after"] for r in seeds.values()])
        for cell, seeds in runs.items()
    }
    heads = ["cell", "seeds", "right", "sampled", "tokens", "updates", "epochs' items"]
    heads.append("alarms")
    if baseline:
        heads.insert(3, f"less {baseline}")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for cell in sorted(runs, key=lambda cell: -means[cell].mean):
        records = list(runs[cell].values())
        row = [
            cell,
            " ".join(str(seed) for seed in runs[cell]),
            means[cell].text(),
            _sampled(records),
            *(
                f"{np.mean([r[name] for r in records]):,.0f}"
                for name in ("tokens", "updates", "items")
            ),
            str(sum(bool(r["alarms"]) for r in records)),
        ]
        if baseline:
            row.insert(3, _difference(runs, cell, baseline))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _sampled(records: Sequence[dict[str, Any]]) -> str:
    """Right answers at temperature 1, where all seeds were asked for them."""
    found = [x for record in records if (x := record.get("sampled")) is not None]
    return estimate(found).text() if len(found) == len(records) else ""


def _difference(runs: Runs, cell: str, baseline: str) -> str:
    if cell == baseline:
        return ""
    both = sorted(runs[cell].keys() & runs[baseline].keys())
    if not both:
        return "no seed in common"
    found = [runs[cell][s]["after"] - runs[baseline][s]["after"] for s in both]
    return estimate(found).text(sign=True)


def main() -> int:
    """Writes the table of a study."""
    parser = border.parser(__doc__)
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="of the JSONs")
    parser.add_argument("--out", type=pathlib.Path, help="DIR; none: print alone")
    parser.add_argument("--baseline", default="", help="a cell to compare with")
    given = parser.parse_args()
    try:
        runs = load(given.dir)
        text = table(runs, given.baseline)
    except ValueError as error:  # more seeds than the table of t has, too
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    if given.out:
        study, split = (
            next(iter(next(iter(runs.values())).values()))[name]
            for name in ("study", "split")
        )
        given.out.mkdir(parents=True, exist_ok=True)
        title = f"# {study}\n\nGreedy answers to the {split} problems.\n\n"
        write_text(given.out / f"oreo_{study}.md", title + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
