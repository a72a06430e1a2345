"""PPO on problems with a verifier: token by token, with a critic.

    python -m experiments.ppo --config=experiments/configs/ppo.py:arithmetic \
        --workdir=runs/ppo --config.model.path=runs/sft/hf
"""

import dataclasses
from typing import Any

from experiments import border, online, starts
from experiments import critic as critic_lib
from experiments.border import AT_LEAST_ONE, POSITIVE, SHARE, ConfigError, Limit, pick
from rljax.agents import oreo, token_rl
from rljax.agents import ppo as agents
from rljax.models import lora
from rljax.policy import texts

LIMITS = {
    "ppo.warmup": Limit(0),
    "ppo.gamma": SHARE,
    "ppo.lambda_": SHARE,
    "ppo.critic_lambda": SHARE,
    "ppo.beta": Limit(0),
    "ppo.least_deviation": Limit(0),
    "ppo.value_clip": Limit(0),
    "ppo.learning_rate": POSITIVE,
    "ppo.epsilon": POSITIVE,
    "ppo.lora_rank": AT_LEAST_ONE,
    "ppo.lora_alpha": POSITIVE,
}


def _adapter(config: Any, start: starts.Start) -> oreo.Value:
    """A LoRA critic beside the reference, whatever the policy is."""
    try:
        how = lora.of(start.config, config.ppo.lora_rank, config.ppo.lora_alpha)
    except ValueError as error:
        raise ConfigError(f"config.ppo.lora: {error}") from error
    return oreo.own_trunk(texts.make(start.config, how))


VALUES = {
    "own_trunk": lambda config, start: oreo.own_trunk(start.texts),
    "shared_trunk": lambda config, start: oreo.shared_trunk(start.texts),
    "adapter": _adapter,
}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    online.train(config, workdir, method_of(config))


def method_of(config: Any) -> online.Method:
    """The method with the settings of a config."""
    online.check(config)
    border.limits(config, LIMITS)
    border.require(
        config.ppo.warmup < config.rollout.steps, "ppo.warmup", config.ppo.warmup,
        f"below rollout.steps, {config.rollout.steps}: the policy would never learn",
    )  # fmt: skip
    value = pick(VALUES, config.ppo.value, "ppo.value")
    weights, rescale = online.weights_of(config), online.rescale_of(config)

    def make(start, settings, axis_name):
        critic = dataclasses.replace(
            settings.actor,
            learning_rate=config.ppo.learning_rate,
            epsilon=config.ppo.epsilon,
            wait=0.0,
        )
        settings = dataclasses.replace(
            settings, critic=critic, value_clip=config.ppo.value_clip or None
        )
        return token_rl.make(
            start.texts, settings, value(config, start), weights, rescale, axis_name
        )

    def extras(start, state):
        learnt = state.params["critic"]
        trunk = value(config, start).trunk(learnt, state.frozen)
        return [critic_lib.export(start, trunk, learnt["head"])]

    settings = agents.Config(
        gamma=float(config.ppo.gamma),
        lambda_=float(config.ppo.lambda_),
        critic_lambda=float(config.ppo.critic_lambda),
        beta=float(config.ppo.beta),
        least_deviation=float(config.ppo.least_deviation),
    )
    return online.Method(
        "PPO", agents.estimate(settings), make, config.ppo.warmup, extras
    )


if __name__ == "__main__":
    border.run(main, __doc__)
