"""Direct preference optimisation on pairs of good and bad answers of a log.

    python -m experiments.dpo \
        --config=experiments/configs/dpo.py:arithmetic --workdir=runs/dpo \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz
"""

import functools
from typing import Any

from experiments import border, offline
from experiments.border import AT_LEAST_ONE, POSITIVE
from rljax.agents import preference
from rljax.data import pairs


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    offline.train_on_log(config, workdir, method_of(config))


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""
    border.limits(config, {"beta": POSITIVE, "pairs_per_task": AT_LEAST_ONE})
    optimizer = offline.optimizer_of(config.optimizer)

    def make(start, updates, axis_name):
        return preference.make(
            start.texts,
            preference.dpo(config.beta),
            preference.Config(updates=updates, actor=optimizer),
            axis_name,
        )

    items = functools.partial(pairs.better_and_worse, most=config.pairs_per_task)
    return offline.Method(items, make, "DPO")


if __name__ == "__main__":
    border.run(main, __doc__)
