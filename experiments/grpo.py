"""GRPO on problems with a verifier: answers in groups, without a critic.

    python -m experiments.grpo --config=experiments/configs/grpo.py:arithmetic \
        --workdir=runs/grpo --config.model.path=runs/sft/hf

Dr.GRPO is `--config.grpo.advantage=centred --config.loss.weights=fixed`, clip-higher
`--config.loss.high=0.28`, GSPO `--config.loss.ratio=answer` with
`--config.loss.weights=sequence --config.loss.low=3e-4 --config.loss.high=4e-4`.
"""

import dataclasses
from typing import Any

from experiments import border, online
from experiments.border import Limit, pick
from rljax.agents import grpo as agents
from rljax.agents import token_rl
from rljax.losses import groups

ADVANTAGES = {"standardised": groups.standardised, "centred": groups.centred}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    online.train(config, workdir, method_of(config))


def method_of(config: Any) -> online.Method:
    """The method with the settings of a config."""
    online.check(config)
    border.limits(config, {"rollout.samples": Limit(2)})
    weights, rescale = online.weights_of(config), online.rescale_of(config)
    advantage = pick(ADVANTAGES, config.grpo.advantage, "grpo.advantage")
    estimate = agents.estimate(
        config.rollout.samples, advantage, bool(config.grpo.drop_level)
    )

    def make(start, settings, axis_name):
        settings = dataclasses.replace(settings, fresh=online.fresh(config))
        return token_rl.make(start.texts, settings, None, weights, rescale, axis_name)

    return online.Method("GRPO", estimate, make)


if __name__ == "__main__":
    border.run(main, __doc__)
