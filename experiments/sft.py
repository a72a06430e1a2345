"""Supervised fine-tuning: learns to say what solutions or a log say.

    python -m experiments.sft \
        --config=experiments/configs/sft.py:arithmetic --workdir=runs/sft

Without `data.path` it learns the written solutions of the task's training problems;
with it every episode of the log, whatever its reward.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import border, offline, reasoning, starts
from rljax.agents import imitation
from rljax.agents import offline as agents
from rljax.data import episodes
from rljax.data.record import Record
from rljax.types import Episode


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""

    def log_of(
        start: starts.Start, task: reasoning.Task, folder: pathlib.Path
    ) -> list[Episode]:
        if config.data.path:
            return offline.read_log(config, start, folder)
        border.require(
            not config.data.flip, "data.flip", config.data.flip,
            "0 without data.path: written solutions have no reward",
        )  # fmt: skip
        return solutions(start, task)

    offline.train(config, workdir, method_of(config), log_of)


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""
    return offline.Method(offline.single, agent_of(config), "supervised fine-tuning")


def agent_of(
    config: Any,
) -> Callable[[starts.Start, int, str | None], agents.OfflineAgent]:
    """What imitates, whichever episodes it is given; see `offline.Method`."""
    optimizer = offline.optimizer_of(config.optimizer)

    def make(start, updates, axis_name):
        return imitation.make(
            start.texts,
            imitation.Config(updates=updates, actor=optimizer),
            start.adapter is not None,
            axis_name,
        )

    return make


def solutions(start: starts.Start, task: reasoning.Task) -> list[Episode]:
    """The task's written solutions as episodes.

    Raises:
      ConfigError: if the task has none.
    """
    written = [problem for problem in task.solved if problem.solution]
    border.require(
        bool(written), "data.path", "", "a log: the task has no written solutions"
    )
    found = []
    for line, problem in enumerate(written, 1):
        record = Record(
            line=line, prompt=problem.prompt, response=problem.solution, reward=1.0
        )
        try:
            found.append(
                episodes.tokenise(record, start.tokenizer, end_id=start.eos_ids[0])
            )
        except ValueError as error:
            raise border.ConfigError(f"config.task: {problem.task} {error}") from error
    assert all(np.any(episode.action) for episode in found)
    return found


if __name__ == "__main__":
    border.run(main, __doc__)
