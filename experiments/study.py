"""Studies: cells of settings, run with some seeds, one JSON each."""

import pathlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from experiments import border, driver
from rljax.training.files import RunError, read_json


class Cell(NamedTuple):
    """A method with settings changed, and the seeds it is run with."""

    method: str  # a module of experiments
    overrides: dict[str, Any]  # dotted key of the config -> value
    seeds: tuple[int, ...]


class Run(NamedTuple):
    """One seed of a cell."""

    study: str
    cell: str
    method: str
    seed: int
    overrides: dict[str, Any]


class Named(Protocol):
    """What a run is known by."""

    @property
    def study(self) -> str: ...
    @property
    def cell(self) -> str: ...
    @property
    def seed(self) -> int: ...


class Asked(NamedTuple):
    """What a command line asks for."""

    out: pathlib.Path
    runs: list[Run]
    missing: list[Run]  # those of them without a JSON
    jobs: int
    keep_checkpoints: bool


Studies = Mapping[str, Mapping[str, Cell]]


def runs_of(
    studies: Studies, study: str, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Run]:
    """The runs of a study: all cells of the first seed, then of the next.

    Args:
      studies: those there are.
      study: the name of one.
      only: cells; all if empty.
      seeds: all if empty.

    Raises:
      RunError: for a study, a cell or a seed there is none of.
    """
    if study not in studies:
        raise RunError(f"--study={study}: there are {', '.join(studies)}")
    cells = studies[study]
    for name in only:
        if name not in cells:
            raise RunError(f"--only={name}: {study} has {', '.join(cells)}")
    every = sorted({seed for cell in cells.values() for seed in cell.seeds})
    for seed in seeds:
        if seed not in every:
            raise RunError(f"--seeds={seed}: {study} has {every}")
    return [
        Run(study, name, cell.method, seed, cell.overrides)
        for seed in dict.fromkeys(seeds or every)  # a workdir is one process's
        for name, cell in cells.items()
        if name in (only or cells) and seed in cell.seeds
    ]


def json_path(out: pathlib.Path, run: Named) -> pathlib.Path:
    """Where the JSON of a run is."""
    return out / run.study / f"{run.cell}-seed{run.seed}.json"


def work_path(out: pathlib.Path, run: Named) -> pathlib.Path:
    """The workdir of a run."""
    return out / run.study / "runs" / f"{run.cell}-seed{run.seed}"


def is_done(out: pathlib.Path, run: Run) -> bool:
    """Whether the JSON is there.

    Raises:
      RunError: if it is of other settings.
    """
    return driver.is_recorded(json_path(out, run), run._asdict())


def command(
    method: str, scale: str, folder: pathlib.Path, settings: Mapping[str, Any]
) -> list[str]:
    """The words that run a method in a folder."""
    return [
        sys.executable,
        "-m",
        f"experiments.{method}",
        f"--config=experiments/configs/{method}.py:{scale}",
        f"--workdir={folder}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def check_same(job: driver.Job) -> None:
    """Refuses a folder that was made with other settings.

    Raises:
      RunError: naming the first of them.
    """
    path = job.folder / "config.json"
    if not path.exists():
        return
    made = read_json(path)["config"]
    for word in job.command:
        if not word.startswith("--config."):
            continue
        key, asked = word.removeprefix("--config.").split("=", 1)
        found = made
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        found = tuple(found) if isinstance(found, list) else found
        if str(found) != asked:
            raise RunError(
                f"{job.folder} was made with {key}={found}, asked is {asked}: take "
                "another --out, or remove the folder and all that came of it"
            )


def read_words(doc: str | None, studies: Studies) -> Asked:
    """What the command line says.

    Args:
      doc: the text of --help.
      studies: those there are.

    Raises:
      RunError: for what there is not, or a JSON of other settings.
    """
    parser = border.parser(doc)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="DIR")
    parser.add_argument("--study", required=True, help=", ".join(studies))
    parser.add_argument("--only", default="", help="cells, with commas; all if empty")
    parser.add_argument("--seeds", type=_numbers, default=[], help="all if empty")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--keep_checkpoints", action="store_true")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs is {given.jobs}; it must be at least 1")
    only = [name for name in given.only.split(",") if name]
    runs = runs_of(studies, given.study, only, given.seeds)
    missing = [run for run in runs if not is_done(given.out, run)]
    return Asked(given.out, runs, missing, given.jobs, given.keep_checkpoints)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main(
    doc: str | None,
    studies: Studies,
    before: Callable[[Asked], Iterable[Sequence[driver.Job]]],
    job_of: Callable[[Asked, Run], driver.Job],
) -> int:
    """Runs what is missing; 0 if all is done, 1 if not, 2 for what can be mended.

    Args:
      doc: the text of --help.
      studies: those there are.
      before: what is asked -> stages of jobs that all runs begin with.
      job_of: what is asked, a run -> its process.
    """
    try:
        asked = read_words(doc, studies)
        stages = [list(jobs) for jobs in before(asked)]
        for jobs in stages:
            for job in jobs:
                check_same(job)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    study, count = asked.runs[0].study, len(asked.missing)
    print(f"{study}: {len(asked.runs)} runs, {count} of them to do", flush=True)
    driving = driver.Driver(asked.jobs)
    driving.listen()
    last = [job_of(asked, run) for run in asked.missing]
    for stage in (*stages, last):
        due = [job for job in stage if stage is last or not job.is_done()]
        if driving.all(due) or driving.stopped:
            return 1
    return 0
