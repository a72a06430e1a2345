"""Runs a study: every cell of a table, with every seed, one JSON each.

    python -m experiments.evidence --out=runs/evidence --study=compare --jobs=2

A cell is a method with some settings changed. Each of its seeds is a process of its
own (`experiments.sac_glam` or `experiments.ppo_glam`), on its own cores, one at least;
so the wall time it notes is that of a single run. What is there already is left alone
and what was broken off goes on, so the same command may be given again and again.
`experiments.compare_curves` makes tables and figures of the JSONs.

A run leaves its workdir DIR/STUDY/runs/CELL-seedN, a log beside that, and
DIR/STUDY/CELL-seedN.json:

    {"study", "cell", "method", "seed", "scale", "overrides", "total_env_steps",
     "curve": [{"env_steps", "seconds", "updates",
                "success": {kind or "mean": share}, "test_success": the same}],
     "summary": summary.json of the run, "devices", "versions", "git"}
"""

import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import border, driver, study
from experiments.study import Cell, json_path, work_path
from rljax.training import metrics
from rljax.training.files import RunError, read_json, write_json


class Run(NamedTuple):
    """One seed of a cell."""

    study: str
    cell: str
    method: str  # a key of MODULES
    overrides: dict[str, Any]
    seed: int
    scale: str
    total_env_steps: int | None  # None: what the scale says


MODULES = {"ppo": "ppo_glam", "sac": "sac_glam"}
REPORTED, THREE = (1, 2, 3, 4, 5), (1, 2, 3)
TUNING = (100, 101)  # never reported


# Short runs are looked at often, without the long panels at the end.
SHORT = {"eval.every_env_steps": 6_400, "eval.final_scenes": 64}
# What a grid changes; where it found better, the configs say so by now.
BASES = {
    "ppo": {"agent.entropy_weight": 0.01},
    "sac": {"agent.alpha": 0.01, "model.read_q": "path"},
}


def _tuned(method: str, changes: dict[str, Any]) -> Cell:
    return Cell(method, BASES[method] | changes | SHORT, TUNING)


# A look at :playground, where the grids' winners turned out too random for sequences.
FIXED = {
    "ppo": {"agent.entropy_weight": 0.1, "agent.entropy_decay": 0.0},
    "sac": {"agent.alpha": 0.03, "agent.alpha_decay": 0.0},
}


def _looked_at(method: str, changes: dict[str, Any]) -> Cell:
    return Cell(method, FIXED[method] | changes | {"eval.final_scenes": 64}, (100,))


def _ablated(changes: dict[str, Any]) -> Cell:
    return Cell("sac", changes | SHORT, THREE)


# Grids of one size: a base and seven changes of one setting; then, knowing those, two
# cells more for each method.
STUDIES: dict[str, dict[str, Cell]] = {
    "compare": {
        "ppo": Cell("ppo", {}, REPORTED),
        "sac": Cell("sac", {"loop.her_ratio": 0.0}, REPORTED),
        "sac_her": Cell("sac", {}, REPORTED),
    },
    "ppo_grid": {
        "default": _tuned("ppo", {}),
        "lr_3e-4": _tuned("ppo", {"agent.learning_rate": 3e-4}),
        "lr_2e-3": _tuned("ppo", {"agent.learning_rate": 2e-3}),
        "entropy_0.001": _tuned("ppo", {"agent.entropy_weight": 0.001}),
        "entropy_0.03": _tuned("ppo", {"agent.entropy_weight": 0.03}),
        "epochs_8": _tuned("ppo", {"loop.epochs": 8}),
        "rollout_8": _tuned("ppo", {"loop.rollout_steps": 8}),
        "scale_5": _tuned("ppo", {"agent.reward_scale": 5.0}),
        "entropy_0.1": _tuned("ppo", {"agent.entropy_weight": 0.1}),
        "entropy_0.03_epochs_8_rollout_8": _tuned(
            "ppo",
            {
                "agent.entropy_weight": 0.03,
                "loop.epochs": 8,
                "loop.rollout_steps": 8,
            },
        ),
    },
    "sac_grid": {
        "default": _tuned("sac", {}),
        "lr_3e-4": _tuned("sac", {"agent.learning_rate": 3e-4}),
        "lr_2e-3": _tuned("sac", {"agent.learning_rate": 2e-3}),
        "alpha_0.03": _tuned("sac", {"agent.alpha": 0.03}),
        "target_0.03": _tuned("sac", {"agent.target_step": 0.03}),
        "updates_8": _tuned("sac", {"loop.updates_per_iteration": 8}),
        "actor_1": _tuned("sac", {"agent.actor_weight": 1.0}),
        "last_node": _tuned("sac", {"model.read_q": "last_node"}),
        "alpha_0.1": _tuned("sac", {"agent.alpha": 0.1}),
        "alpha_0.03_target_0.03": _tuned(
            "sac", {"agent.alpha": 0.03, "agent.target_step": 0.03}
        ),
    },
    "ppo_look": {
        "fixed": _looked_at("ppo", {}),
        "entropy_0.03": _looked_at("ppo", {"agent.entropy_weight": 0.03}),
        "decay": _looked_at("ppo", {"agent.entropy_decay": 5e-3}),
        "decay_epochs_8": _looked_at(
            "ppo", {"agent.entropy_decay": 2.5e-3, "loop.epochs": 8}
        ),
    },
    "sac_look": {
        "fixed": _looked_at("sac", {}),
        "decay": _looked_at("sac", {"agent.alpha_decay": 1e-3}),
        "decay_warm_start": _looked_at(
            "sac", {"agent.alpha_decay": 1e-3, "warm_start.updates": 1_000}
        ),
        "decay_updates_16": _looked_at(
            "sac",
            {
                "agent.alpha_decay": 2.5e-4,
                "loop.updates_per_iteration": 16,
                "loop.iterations_per_call": 4,
            },
        ),
    },
    # The defaults are her_ratio 0.5, n_step 3 and no warm-up.
    "ablations": {
        "default": _ablated({}),
        "her_0": _ablated({"loop.her_ratio": 0.0}),
        "her_0.25": _ablated({"loop.her_ratio": 0.25}),
        "her_0.8": _ablated({"loop.her_ratio": 0.8}),
        "n_step_1": _ablated({"loop.n_step": 1}),
        "last_node": _ablated({"model.read_q": "last_node"}),
        "squared_error": _ablated({"critic_error": "squared_error"}),
        "warmup_200": _ablated({"agent.warmup_updates": 200}),
    },
}  # fmt: skip


def runs_of(
    name: str, scale: str, total_env_steps: int | None, only: Sequence[str] = ()
) -> list[Run]:
    """The runs of a study: all cells of the first seed, then of the next.

    Raises:
      RunError: for a study or a cell there is none of.
    """
    return [
        Run(scale=scale, total_env_steps=total_env_steps, **run._asdict())
        for run in study.runs_of(STUDIES, name, only)
    ]


def is_done(out: pathlib.Path, run: Run) -> bool:
    """Whether the JSON is there.

    Raises:
      RunError: if it is of other settings.
    """
    return driver.is_recorded(json_path(out, run), run._asdict())


def command_of(out: pathlib.Path, run: Run) -> list[str]:
    """The command line of a run."""
    settings = {**run.overrides, "seed": run.seed}
    if run.total_env_steps is not None:
        settings["total_env_steps"] = run.total_env_steps
    folder = work_path(out, run)
    return study.command(MODULES[run.method], run.scale, folder, settings)


def curve_of(rows: Sequence[metrics.Row]) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl that hold an evaluation, sampled policy."""
    curve = []
    for row in rows:
        panels = metrics.panels(row)
        if "train_sampled" in panels:
            curve.append(
                {
                    "env_steps": row["env_steps"],
                    "seconds": row.get("timing_s/train", 0.0),
                    "updates": row["updates"],
                    "success": _with_mean(panels["train_sampled"]),
                    "test_success": _with_mean(panels.get("test_sampled", {})),
                }
            )
    return curve


def _with_mean(success: Mapping[str, float]) -> dict[str, float]:
    if not success:
        return {}
    return {**success, "mean": sum(success.values()) / len(success)}


def record(out: pathlib.Path, run: Run) -> None:
    """Writes the JSON of a finished run.

    Raises:
      RunError: if its curve is empty.
    """
    folder = work_path(out, run)
    curve = curve_of(metrics.read_rows(folder / "metrics.jsonl"))
    if not curve:
        raise RunError(f"{folder}/metrics.jsonl holds no evaluation")
    made = read_json(folder / "config.json")
    write_json(
        json_path(out, run),
        {
            **run._asdict(),
            "curve": curve,
            "summary": read_json(folder / "summary.json"),
            **{name: made.get(name) for name in ("devices", "versions", "git")},
        },
    )


def job_of(out: pathlib.Path, run: Run, keep_checkpoints: bool = False) -> driver.Job:
    """The process of a run, which ends with its JSON."""
    folder = work_path(out, run)

    def finish() -> None:
        record(out, run)
        if not keep_checkpoints:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    name = f"{run.study}/{run.cell} seed {run.seed}"
    return driver.Job(name, command_of(out, run), folder, finish)


def main() -> int:
    """Runs what is missing; 0 if all is done."""
    parser = border.parser(__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="DIR")
    parser.add_argument("--study", required=True, help=", ".join(STUDIES))
    parser.add_argument("--only", default="", help="cells, with commas; all if empty")
    parser.add_argument("--scale", default="playground", help="of the configs")
    parser.add_argument("--total_env_steps", type=int, help="in place of the scale's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--keep_checkpoints", action="store_true")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error(f"--jobs is {given.jobs}; it must be at least 1")
    try:
        only = [name for name in given.only.split(",") if name]
        runs = runs_of(given.study, given.scale, given.total_env_steps, only)
        missing = [run for run in runs if not is_done(given.out, run)]
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.study}: {len(runs)} runs, {len(missing)} of them to do", flush=True)
    driving = driver.Driver(given.jobs)
    driving.listen()
    failed = driving.all(
        [job_of(given.out, run, given.keep_checkpoints) for run in missing]
    )
    return 1 if failed or driving.stopped else 0


if __name__ == "__main__":
    sys.exit(main())
