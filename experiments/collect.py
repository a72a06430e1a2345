"""Answers of a model to problems, judged and written down as a log.

    python -m experiments.collect --config=experiments/configs/collect.py:arithmetic \
        --workdir=runs/log --config.model.path=runs/sft/hf

The workdir holds `log.jsonl.gz`, a line for each answer with its token ids and their
log-probabilities, `summary.json` and `config.json`. What is there already is not
sampled again: a collection that was stopped goes on, and gives the same log.
"""

import pathlib
import time
from typing import Any

import numpy as np

from experiments import border, judging, reasoning, starts
from experiments.border import AT_LEAST_ONE, Limit
from rljax.data import episodes, logs
from rljax.data.record import Record
from rljax.envs.reasoning.problems import Problem
from rljax.envs.verifiers import JudgeAll
from rljax.training import files
from rljax.training import workdir as workdir_lib

LIMITS = {
    "problems": Limit(0),
    "samples": AT_LEAST_ONE,
    "temperature": Limit(0),
    "chunk": AT_LEAST_ONE,
}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    border.limits(config, LIMITS)
    border.require(
        bool(config.model.path), "model.path", config.model.path, "a model that answers"
    )
    start = starts.choose_start(config)
    task = reasoning.make_task(config, start.tokenizer)
    asked = reasoning.part(task, config.split, "split", config.problems)
    with judging.open_judge(config, task.judge.verify) as judge:
        _collect(config, pathlib.Path(workdir), start, asked, judge)


def _collect(
    config: Any,
    folder: pathlib.Path,
    start: starts.Start,
    asked: list[Problem],
    judge: JudgeAll,
) -> None:
    """Asks what is not there yet, and joins all parts to a log."""
    answerer = reasoning.make_answerer(
        start.config, start.tokenizer, judge, config.eval, start.eos_ids
    )
    parts = workdir_lib.own(folder, config.to_dict()) / "parts"
    parts.mkdir(exist_ok=True)
    params, began = start.weights(), time.monotonic()
    names = []
    for first in range(0, len(asked), config.chunk):
        names.append(parts / f"{first:07}.jsonl.gz")
        if names[-1].exists():
            continue
        some = asked[first : first + config.chunk]
        # A seed of its own, so that a part does not depend on those before it.
        seed = int(np.random.default_rng([config.seed, first]).integers(2**31))
        found = answerer.ask(params, some, config.samples, config.temperature, seed)
        logs.write(names[-1], _records(config, start, answerer, some, found))
        done = min(first + config.chunk, len(asked))
        print(
            f"{done:,} of {len(asked):,} problems, {found.right.mean():.3f} right, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    joined = folder / "log.jsonl.gz"
    records = [record for name in names for record in logs.read(name)]
    logs.write(joined, records)
    rewards = np.array([record.reward for record in records])
    by_task = rewards.reshape(-1, config.samples).mean(axis=1)
    summary = {
        "problems": len(asked),
        "answers": len(records),
        "right": float(rewards.mean()),
        "all_right": float((by_task == 1).mean()),
        "all_wrong": float((by_task == 0).mean()),
        "cut_short": float(np.mean([record.truncated for record in records])),
        "tokens": sum(
            len(np.asarray(r.prompt_ids)) + len(np.asarray(r.response_ids))
            for r in records
        ),
    }
    files.write_json(folder / "summary.json", summary)
    for name, value in summary.items():
        print(f"{name:>10} {value:,}" if value >= 1 else f"{name:>10} {value:.3f}")
    print(f"log: {joined}")


def _records(config, start: starts.Start, answerer, some, found) -> list[Record]:
    records = []
    for n, ids in enumerate(found.ids):
        problem = some[n // config.samples]
        records.append(
            Record(
                line=n + 1,
                prompt=problem.prompt,
                response=answerer.text(ids),
                prompt_ids=episodes.prompt_ids(start.tokenizer, problem.prompt),
                response_ids=ids,
                log_probs=found.log_probs[n],
                reward=float(found.right[n]),
                task=problem.task,
                source=config.source,
                truncated=not bool(found.stopped[n]),
            )
        )
    return records


if __name__ == "__main__":
    border.run(main, __doc__)
