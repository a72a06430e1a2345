"""Runs on a log at scale smoke: their settings, and what they left behind."""

import json
import pathlib

from experiments import (
    border,
    collect,
    dpo,
    iterate,
    kto,
    oreo,
    reasoning,
    rejection_sampling,
    sft,
    starts,
)
from rljax.data import logs
from rljax.data.record import Record
from rljax.models import loading
from rljax.training import checkpoint

ROOT = pathlib.Path(__file__).parents[2]
MAINS = {
    "collect": collect,
    "dpo": dpo,
    "iterate": iterate,
    "kto": kto,
    "oreo": oreo,
    "rejection_sampling": rejection_sampling,
    "sft": sft,
}


def settings(method, *more):
    spec = ROOT / "experiments" / "configs" / f"{method}.py"
    few = () if method == "collect" else ("--config.eval.problems=4",)
    return border.read_command(
        [f"--config={spec}:smoke", "--workdir=x", *few, *more]
    ).config


def run(method, workdir, *more):
    MAINS[method].main(settings(method, *more), str(workdir))
    return workdir


def begin(path):
    """The workdir of sft, and a log of right and wrong answers."""
    run("sft", path / "sft")
    config = settings("sft")
    task = reasoning.make_task(config, starts.choose_start(config).tokenizer)
    records = []
    for n, problem in enumerate(task.train[:24]):
        wrong = problem.solution[:-1] + ("1" if problem.solution[-1] != "1" else "2")
        for said in (problem.solution, wrong, wrong):
            assert task.judge.verify(problem.answer, said) == (said == problem.solution)
            right = float(said == problem.solution)
            records.append(
                Record(
                    line=0, prompt=problem.prompt, response=said, reward=right,
                    task=problem.task, truncated=n % 5 == 4,
                )
            )  # fmt: skip
    logs.write(path / "log.jsonl.gz", records)
    return path


def on(begun, *more):
    return (
        f"--config.model.path={begun / 'sft' / 'hf'}",
        f"--config.data.path={begun / 'log.jsonl.gz'}",
        *more,
    )


def rows(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    clock = ("timing_s/", "perf/")
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith(clock)}
        for line in lines
    ]


def weights(path):
    params = loading.load_params(loading.open_model(path / "hf"))
    return checkpoint.digest(params)
