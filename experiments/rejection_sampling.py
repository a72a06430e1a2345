"""Rejection sampling: supervised fine-tuning on the good episodes of a log.

    python -m experiments.rejection_sampling \
        --config=experiments/configs/rejection_sampling.py:arithmetic --workdir=runs/r \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz
"""

from typing import Any

from experiments import border, offline
from rljax.agents import imitation
from rljax.data import pairs


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    offline.train_on_log(config, workdir, method_of(config))


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""
    optimizer = offline.optimizer_of(config.optimizer)

    def make(start, updates, axis_name):
        return imitation.make(
            start.texts,
            imitation.Config(updates=updates, actor=optimizer),
            start.adapter is not None,
            axis_name,
        )

    def items(log, seed):
        del seed
        return pairs.good_only(log)

    return offline.Method(items, make, "rejection sampling")


if __name__ == "__main__":
    border.run(main, __doc__)
