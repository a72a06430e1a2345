"""Tables and figures of a study that `experiments.evidence` has run.

    python -m experiments.compare_curves --dir=runs/evidence/compare --out=docs/results

Reads every JSON of the folder; runs of one cell are the seeds of one line. It prints
and writes STUDY.md and draws STUDY.svg and STUDY.png: success against environment
steps and against wall time, mean and 95 % bootstrap interval over seeds.

Every number is taken at equal budgets: up to the environment steps that all runs
have, and again up to the seconds that all runs have. Between evaluations success is
read off a straight line. A seed that never reaches a level counts with the whole
budget, so the mean is a lower bound, marked ">", with how many seeds reached it.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import border
from rljax.training.files import RunError, read_json, write_text

LEVELS = (0.5, 0.8)
AXES = {"env_steps": "environment steps", "seconds": "seconds of training"}
RESAMPLES, SEED = 10_000, 0
POINTS = 101  # of a drawn curve


class Curve(NamedTuple):
    """Success of one run along one axis."""

    x: np.ndarray  # rising from the first evaluation
    y: np.ndarray


class Estimate(NamedTuple):
    """A mean over seeds and its interval."""

    mean: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Such as "0.81 [0.78, 0.84]"."""
        mean, low, high = (f"{value:,.{digits}f}" for value in self)
        return f"{mean} [{low}, {high}]"


Runs = Mapping[str, Sequence[dict[str, Any]]]  # cell -> records, by seed


def load(folder: pathlib.Path) -> Runs:
    """The records of a folder by cell.

    Raises:
      RunError: if there are none, or they are of more than one study, scale or kind
        of device.
    """
    records = [read_json(path) for path in sorted(folder.glob("*-seed*.json"))]
    if not records:
        raise RunError(f"no CELL-seedN.json in {folder}: run experiments.evidence")
    for name in ("study", "scale", "total_env_steps", "devices"):
        found = {str(record[name]) for record in records}
        if len(found) > 1:
            raise RunError(
                f"{folder} mixes {name} {', '.join(sorted(found))}: one is the limit"
            )
    cells: dict[str, list[dict[str, Any]]] = {}
    for each in sorted(records, key=lambda record: record["seed"]):
        cells.setdefault(each["cell"], []).append(each)
    return cells


def curve(record: Mapping[str, Any], kind: str, axis: str) -> Curve:
    """Success at goals of a kind along an axis of a record."""
    points = record["curve"]
    return Curve(
        np.array([point[axis] for point in points], float),
        np.array([point["success"][kind] for point in points], float),
    )


def common_budget(runs: Runs, axis: str) -> float:
    """How far all runs reach along an axis."""
    return min(each["curve"][-1][axis] for some in runs.values() for each in some)


def first_at(line: Curve, level: float, budget: float) -> float:
    """Where success first is at `level`, on the line; inf if not within `budget`."""
    x, y = line
    above = np.flatnonzero(y >= level)
    if not len(above):
        return np.inf
    index = int(above[0])
    place = float(x[0])
    if index:
        left, right = index - 1, index
        share = (level - y[left]) / (y[right] - y[left])
        place = float(x[left] + share * (x[right] - x[left]))
    return place if place <= budget else np.inf


def value_at(line: Curve, place: float) -> float:
    """Success at a place, on the line."""
    return float(np.interp(place, line.x, line.y))


def area(line: Curve, budget: float) -> float:
    """Mean success over [0, budget]: the area under the line over its width."""
    x = np.append(line.x[line.x < budget], budget)
    y = np.interp(x, line.x, line.y)
    if x[0] > 0:  # before the first evaluation as at it
        x, y = np.append(0.0, x), np.append(y[0], y)
    return float(np.trapezoid(y, x) / budget)


def bootstrap(values: Sequence[float] | np.ndarray) -> Estimate:
    """The mean of seeds and its 95 % percentile interval; drawn alike every time."""
    low, high = band(np.asarray(values, float)[:, None])
    return Estimate(float(np.mean(values)), float(low[0]), float(high[0]))


def band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the mean of curves [seeds, points], each [points]."""
    rng = np.random.default_rng(SEED)
    seeds = len(curves)
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    # How often each seed is drawn: one product in place of all resampled curves.
    places = drawn + seeds * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape)
    means = counts @ curves / seeds
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def reach_text(places: Sequence[float], budget: float) -> str:
    """Where a level is reached: mean and interval, or a lower bound of it."""
    reached = int(np.sum(np.isfinite(places)))
    if not reached:
        return f"> {budget:,.0f} (0/{len(places)})"
    text = bootstrap(np.minimum(places, budget)).text(0)
    return text if reached == len(places) else f"> {text} ({reached}/{len(places)})"


def kinds_of(runs: Runs) -> list[str]:
    """Kinds of goal, "mean" first."""
    first = next(iter(runs.values()))[0]["curve"][0]["success"]
    return ["mean", *(kind for kind in first if kind != "mean")]


def updates_per_step(records: Sequence[dict[str, Any]]) -> float:
    """Updates a run took per environment step, all seeds together."""
    ends = [record["curve"][-1] for record in records]
    return sum(end["updates"] for end in ends) / sum(end["env_steps"] for end in ends)


def table(runs: Runs, axis: str) -> str:
    """The Markdown table at equal budgets along an axis."""
    budget, unit = common_budget(runs, axis), AXES[axis]
    levels = [f"{unit} to {level}" for level in LEVELS]
    head = ["goal kind", "cell", "seeds", *levels, "area", "final", "updates/step"]
    lines = [_row(head), _row(["---"] * len(head))]
    for kind in kinds_of(runs):
        for cell, records in runs.items():
            curves = [curve(record, kind, axis) for record in records]
            reached = [
                reach_text([first_at(c, level, budget) for c in curves], budget)
                for level in LEVELS
            ]
            lines.append(
                _row(
                    [
                        kind,
                        cell,
                        str(len(records)),
                        *reached,
                        bootstrap([area(c, budget) for c in curves]).text(),
                        bootstrap([value_at(c, budget) for c in curves]).text(),
                        f"{updates_per_step(records):.4f}",
                    ]
                )
            )
    return "\n".join(lines)


def against(runs: Runs, reference: str, axis: str) -> str:
    """How soon every cell is where the reference's mean ends, as Markdown.

    Raises:
      RunError: if there is no such cell.
    """
    if reference not in runs:
        raise RunError(f"--reference={reference}: there are {', '.join(runs)}")
    budget = common_budget(runs, axis)
    head = ["goal kind", f"final of {reference}", "cell", AXES[axis], "share of budget"]
    lines = [_row(head), _row(["---"] * len(head))]
    for kind in kinds_of(runs):
        ends = [value_at(curve(r, kind, axis), budget) for r in runs[reference]]
        level = float(np.mean(ends))
        for cell, records in runs.items():
            if cell == reference:
                continue
            places = [first_at(curve(r, kind, axis), level, budget) for r in records]
            share = np.mean(np.minimum(places, budget)) / budget
            bound = "" if np.all(np.isfinite(places)) else "> "
            lines.append(
                _row(
                    [
                        kind,
                        f"{level:.3f}",
                        cell,
                        reach_text(places, budget),
                        f"{bound}{share:.2f}",
                    ]
                )
            )
    return "\n".join(lines)


def page(runs: Runs, reference: str | None) -> str:
    """Everything as Markdown."""
    first = next(iter(runs.values()))[0]
    parts = [
        f"# {first['study']}",
        f"Scale `{first['scale']}`, device {first['devices']}. Mean and 95 % bootstrap "
        f"interval over seeds ({RESAMPLES:,} resamples); train goals, sampled policy.",
    ]
    for axis, unit in AXES.items():
        budget = common_budget(runs, axis)
        parts += [f"## Up to {budget:,.0f} {unit}", table(runs, axis)]
        if reference is not None:
            parts.append(against(runs, reference, axis))
    parts.append(f"![curves]({first['study']}.svg)")
    return "\n\n".join(parts) + "\n"


def draw(runs: Runs, paths: Sequence[pathlib.Path]) -> None:
    """Curves with their bands, a row of panels for each axis.

    Raises:
      RunError: if matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RunError("figures need matplotlib: pip install 'rljax[figures]'") from (
            error
        )
    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = kinds_of(runs)
    figure, panels = pyplot.subplots(
        len(AXES), len(kinds), figsize=(3 * len(kinds), 2.6 * len(AXES)),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for row, (axis, unit) in zip(panels, AXES.items(), strict=True):
        grid = np.linspace(0, common_budget(runs, axis), POINTS)
        for panel, kind in zip(row, kinds, strict=True):
            for cell, records in runs.items():
                lines = [curve(record, kind, axis) for record in records]
                values = np.stack([np.interp(grid, c.x, c.y) for c in lines])
                low, high = band(values)
                (line,) = panel.plot(grid, values.mean(0), label=cell)
                panel.fill_between(grid, low, high, color=line.get_color(), alpha=0.2)
            panel.set(title=kind.replace("_", " "), xlabel=unit, ylim=(0, 1))
        row[0].set_ylabel("success")
    panels[0, 0].legend(frameon=False)
    for path in paths:
        figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Reads, prints, writes."""
    parser = border.parser(__doc__)
    parser.add_argument("--dir", type=pathlib.Path, required=True, help="of a study")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--reference", help="cell the others are measured against")
    given = parser.parse_args()
    try:
        runs = load(given.dir)
        reference = given.reference or ("ppo" if "ppo" in runs else None)
        text = page(runs, reference)
        print(text)
        given.out.mkdir(parents=True, exist_ok=True)
        study = next(iter(runs.values()))[0]["study"]
        write_text(given.out / f"{study}.md", text)
        draw(runs, [given.out / f"{study}.{end}" for end in ("svg", "png")])
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
