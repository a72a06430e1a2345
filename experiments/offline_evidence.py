"""Runs a study of methods that learn from logs: cells, seeds, one JSON each.

    python -m experiments.offline_evidence --out=runs/offline --study=compare --jobs=2

First, once: a policy taught by written solutions, OUT/base. Then for each seed a log of
its answers, OUT/logs/seedN. Then every cell, a method with some settings changed, on
the log of each of its seeds, OUT/STUDY/runs/CELL-seedN, and OUT/STUDY/CELL-seedN.json:

    {"study", "cell", "method", "seed", "overrides", "split", "problems", "before",
     "after", "sampled", "tokens", "updates", "items", "train_seconds", "alarms",
     "log": summary.json of the collection, "devices", "versions", "git"}

and of rounds "by_round", the success after each.

What is there already is left alone and what was broken off goes on, so the same command
may be given again and again. `experiments.offline_tables` makes tables of the JSONs.
"""

import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import border, driver, offline_studies
from experiments.offline_studies import Cell
from rljax.training.files import RunError, read_json, write_json


class Run(NamedTuple):
    """One seed of a cell."""

    study: str
    cell: str
    method: str
    seed: int
    overrides: dict[str, Any]


def runs_of(
    study: str, only: Sequence[str] = (), seeds: Sequence[int] = ()
) -> list[Run]:
    """The runs of a study: all cells of the first seed, then of the next.

    Raises:
      RunError: for a study, a cell or a seed there is none of.
    """
    if study not in offline_studies.STUDIES:
        known = ", ".join(offline_studies.STUDIES)
        raise RunError(f"--study={study}: there are {known}")
    cells: Mapping[str, Cell] = offline_studies.STUDIES[study]
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


def json_path(out: pathlib.Path, run: Run) -> pathlib.Path:
    """Where the JSON of a run is."""
    return out / run.study / f"{run.cell}-seed{run.seed}.json"


def work_path(out: pathlib.Path, run: Run) -> pathlib.Path:
    """The workdir of a run."""
    return out / run.study / "runs" / f"{run.cell}-seed{run.seed}"


def base_path(out: pathlib.Path) -> pathlib.Path:
    """The workdir of the policy that all begin with."""
    return out / "base"


def log_path(out: pathlib.Path, seed: int) -> pathlib.Path:
    """The workdir of a collection."""
    return out / "logs" / f"seed{seed}"


def is_done(out: pathlib.Path, run: Run) -> bool:
    """Whether the JSON is there.

    Raises:
      RunError: if it is of other settings.
    """
    return driver.is_recorded(json_path(out, run), run._asdict())


def _command(method: str, folder: pathlib.Path, settings: dict) -> list[str]:
    return [
        sys.executable,
        "-m",
        f"experiments.{method}",
        f"--config=experiments/configs/{method}.py:{offline_studies.SCALE}",
        f"--workdir={folder}",
        *(f"--config.{key}={value}" for key, value in settings.items()),
    ]


def base_job(out: pathlib.Path) -> driver.Job:
    """What teaches the policy that all begin with."""
    folder = base_path(out)
    command = _command("sft", folder, offline_studies.TASK | offline_studies.BASE)
    return driver.Job("base", command, folder)


def log_job(out: pathlib.Path, seed: int) -> driver.Job:
    """What collects the log of a seed."""
    folder = log_path(out, seed)
    settings = {**offline_studies.TASK, **offline_studies.LOG, "seed": seed}
    settings |= {"model.path": base_path(out) / "hf"}
    return driver.Job(
        f"log of seed {seed}", _command("collect", folder, settings), folder
    )


def run_job(out: pathlib.Path, run: Run, keep_checkpoints: bool = False) -> driver.Job:
    """The process of a run, which ends with its JSON."""
    folder = work_path(out, run)
    settings = {**offline_studies.TASK, **run.overrides, "seed": run.seed}
    settings["model.path"] = base_path(out) / "hf"
    log = log_path(out, run.seed) / "log.jsonl.gz"
    if run.method == "iterate":
        settings["first_log"] = log
    elif run.method != "sft":  # that learns the written solutions once more
        settings["data.path"] = log

    def finish() -> None:
        record(out, run)
        if not keep_checkpoints:
            for held in folder.rglob("checkpoints"):
                shutil.rmtree(held, ignore_errors=True)

    name = f"{run.study}/{run.cell} seed {run.seed}"
    return driver.Job(name, _command(run.method, folder, settings), folder, finish)


def record(out: pathlib.Path, run: Run) -> None:
    """Writes the JSON of a finished run."""
    folder = work_path(out, run)
    summary, made = (
        read_json(folder / name) for name in ("summary.json", "config.json")
    )
    logged = log_path(out, run.seed) / "summary.json"
    found = _rounds_of if run.method == "iterate" else _end_of
    write_json(
        json_path(out, run),
        {
            **run._asdict(),
            "split": made["config"]["eval"]["split"],
            "problems": made["config"]["eval"]["problems"],
            **found(summary, made["config"]["task"]["name"]),
            "log": read_json(logged) if logged.exists() else None,
            **{name: made.get(name) for name in ("devices", "versions", "git")},
        },
    )


SUMS = ("tokens", "updates", "items", "train_seconds")


def _end_of(summary: dict[str, Any], task: str) -> dict[str, Any]:
    """What a run of one method came to."""
    return {
        "before": summary["before"].get(task),
        "after": summary["after"][task],
        "sampled": summary["after"].get(f"{task}_sampled"),
        "alarms": summary["alarms"],
        **{name: summary[name] for name in SUMS},
    }


def _rounds_of(summary: dict[str, Any], task: str) -> dict[str, Any]:
    """What rounds came to: the success after each, and sums over them."""
    del task
    rounds = summary["rounds"]
    before, *after = summary["success"]
    return {
        "before": before,
        "after": after[-1],
        "by_round": after,
        "sampled": None,
        "alarms": [alarm for one in rounds for alarm in one["alarms"]],
        **{name: sum(one[name] for one in rounds) for name in SUMS},
    }


def check_same(job: driver.Job) -> None:
    """Refuses a base or a log that was made with other settings.

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


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> int:
    """Runs what is missing; 0 if all is done."""
    parser = border.parser(__doc__)
    studies = ", ".join(offline_studies.STUDIES)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="DIR")
    parser.add_argument("--study", required=True, help=studies)
    parser.add_argument("--only", default="", help="cells, with commas; all if empty")
    parser.add_argument("--seeds", type=_numbers, default=[], help="all if empty")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--keep_checkpoints", action="store_true")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs is {given.jobs}; it must be at least 1")
    try:
        only = [name for name in given.only.split(",") if name]
        runs = runs_of(given.study, only, given.seeds)
        missing = [run for run in runs if not is_done(given.out, run)]
        logs = [log_job(given.out, seed) for seed in sorted({r.seed for r in missing})]
        first = [base_job(given.out)] if missing else []
        for job in (*first, *logs):
            check_same(job)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.study}: {len(runs)} runs, {len(missing)} of them to do", flush=True)
    driving = driver.Driver(given.jobs)
    driving.listen()
    last = [run_job(given.out, run, given.keep_checkpoints) for run in missing]
    for stage in (first, logs, last):
        due = [job for job in stage if stage is last or not job.is_done()]
        if driving.all(due) or driving.stopped:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
