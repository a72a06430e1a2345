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
from collections.abc import Iterator
from typing import Any

from experiments import driver, offline_studies, study
from experiments.study import Asked, Run, json_path, work_path
from rljax.training.files import read_json, write_json


def base_path(out: pathlib.Path) -> pathlib.Path:
    """The workdir of the policy that all begin with."""
    return out / "base"


def log_path(out: pathlib.Path, seed: int) -> pathlib.Path:
    """The workdir of a collection."""
    return out / "logs" / f"seed{seed}"


def _command(method: str, folder: pathlib.Path, settings: dict) -> list[str]:
    return study.command(method, offline_studies.SCALE, folder, settings)


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


def _before(asked: Asked) -> Iterator[list[driver.Job]]:
    """The policy that all begin with, then its logs."""
    yield [base_job(asked.out)] if asked.missing else []
    yield [log_job(asked.out, seed) for seed in sorted({r.seed for r in asked.missing})]


def main() -> int:
    """Runs what is missing; 0 if all is done."""
    return study.main(
        __doc__,
        offline_studies.STUDIES,
        _before,
        lambda asked, run: run_job(asked.out, run, asked.keep_checkpoints),
    )


if __name__ == "__main__":
    sys.exit(main())
