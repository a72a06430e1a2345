"""Runs a study of methods that learn from their own answers: cells, seeds, JSONs.

    python -m experiments.online_evidence --out=runs/online --study=compare --jobs=2

First, once: a policy taught by written solutions, OUT/base. Then every cell, a method
with some settings changed, for each of its seeds in OUT/STUDY/runs/CELL-seedN, and
OUT/STUDY/CELL-seedN.json:

    {"study", "cell", "method", "seed", "overrides", "split", "problems", "after",
     "pass": {k: pass@k}, "tokens", "answers", "steps", "updates", "trained_on",
     "ever_solved", "ever_solved_bare", "train_seconds",
     "curve": {name: a value of each step}, "devices", "versions", "git"}

What is there already is left alone and what was broken off goes on, so the same command
may be given again and again. `experiments.online_tables` makes tables of the JSONs.
"""

import json
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from experiments import driver, online_studies, study
from experiments.study import Asked, Run, json_path, work_path
from rljax.training.files import read_json, write_json

# Of every step, for comparisons at equal answers and updates.
CURVE = {
    "tokens": "tokens",
    "updates": "updates",
    "answers": "rollout/answers",
    "ever_solved": "rollout/ever_solved",
    "ever_solved_bare": "rollout/ever_solved_bare",
    "right_bare": "rollout/right_bare",
    "right_replayed": "rollout/right_replayed",
    "entropy": "rollout/entropy",
    "new_solved_per_1k": "rollout/new_solved_per_1k",
    "distinct_right": "rollout/distinct_right",
    "replay_share": "replay/share",
    "redundant": "replay/states_redundant",
}
SUMS = ("tokens", "answers", "steps", "updates", "train_seconds")


def base_job(out: pathlib.Path) -> driver.Job:
    """What teaches the policy that all begin with."""
    folder = out / "base"
    settings = online_studies.TASK | online_studies.BASE
    return driver.Job(
        "base", study.command("sft", online_studies.SCALE, folder, settings), folder
    )


def run_job(out: pathlib.Path, run: Run, keep_checkpoints: bool = False) -> driver.Job:
    """The process of a run, which ends with its JSON."""
    folder = work_path(out, run)
    settings = {**online_studies.TASK, **run.overrides, "seed": run.seed}
    settings["model.path"] = out / "base" / "hf"

    def finish() -> None:
        record(out, run)
        if not keep_checkpoints:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    command = study.command(run.method, online_studies.SCALE, folder, settings)
    name = f"{run.study}/{run.cell} seed {run.seed}"
    return driver.Job(name, command, folder, finish)


def record(out: pathlib.Path, run: Run) -> None:
    """Writes the JSON of a finished run."""
    folder = work_path(out, run)
    summary, made = (
        read_json(folder / name) for name in ("summary.json", "config.json")
    )
    asked, after = made["config"]["eval"], summary["after"]
    task = made["config"]["task"]["name"]
    write_json(
        json_path(out, run),
        {
            **run._asdict(),
            "split": asked["split"],
            "problems": asked["problems"],
            "after": after[task],
            "pass": {k: after[f"{task}_pass_{k}"] for k in asked["pass_k"]},
            "trained_on": summary["problems"],
            **{name: summary[name] for name in ("ever_solved", "ever_solved_bare")},
            **{name: summary[name] for name in SUMS},
            "curve": _curve(folder / "metrics.jsonl"),
            **{name: made.get(name) for name in ("devices", "versions", "git")},
        },
    )


def _curve(path: pathlib.Path) -> dict[str, list[Any]]:
    """The rows of steps, by what they say; those of evaluations are none."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [row for row in rows if "rollout/answers" in row]
    return {name: [row.get(key) for row in steps] for name, key in CURVE.items()}


def _before(asked: Asked) -> Iterator[list[driver.Job]]:
    yield [base_job(asked.out)] if asked.missing else []


def main() -> int:
    """Runs what is missing; 0 if all is done."""
    return study.main(
        __doc__,
        online_studies.STUDIES,
        _before,
        lambda asked, run: run_job(asked.out, run, asked.keep_checkpoints),
    )


if __name__ == "__main__":
    sys.exit(main())
