"""Kahneman-Tversky optimisation on the good and bad answers of a log.

    python -m experiments.kto \
        --config=experiments/configs/kto.py:arithmetic --workdir=runs/kto \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz
"""

from typing import Any

from experiments import border, offline
from experiments.border import POSITIVE, Limit
from rljax.agents import preference
from rljax.data import pairs


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    offline.train_on_log(config, workdir, method_of(config))


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""
    limits = {"beta": POSITIVE, "good_weight": Limit(0), "bad_weight": Limit(0)}
    border.limits(config, limits)
    optimizer = offline.optimizer_of(config.optimizer)
    loss = preference.kto(config.beta, config.good_weight, config.bad_weight)

    def make(start, updates, axis_name):
        return preference.make(
            start.texts,
            loss,
            preference.Config(updates=updates, actor=optimizer),
            axis_name,
        )

    return offline.Method(
        offline.single, make, "KTO", pairs.with_mismatched,
        longest=pairs.longest_mismatched,
    )  # fmt: skip


if __name__ == "__main__":
    border.run(main, __doc__)
