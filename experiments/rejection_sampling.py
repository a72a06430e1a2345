"""Rejection sampling: supervised fine-tuning on the good episodes of a log.

    python -m experiments.rejection_sampling \
        --config=experiments/configs/rejection_sampling.py:arithmetic --workdir=runs/r \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz
"""

from typing import Any

from experiments import border, offline, sft
from rljax.data import pairs


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    offline.train_on_log(config, workdir, method_of(config))


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""

    def items(log, seed):
        del seed
        return pairs.good_only(log)

    return offline.Method(items, sft.agent_of(config), "rejection sampling")


if __name__ == "__main__":
    border.run(main, __doc__)
