"""OREO: a policy and a value learnt together from a log, failures included.

    python -m experiments.oreo \
        --config=experiments/configs/oreo.py:arithmetic --workdir=runs/oreo \
        --config.model.path=runs/sft/hf --config.data.path=runs/log.jsonl.gz
"""

import dataclasses
from typing import Any

from experiments import border, offline, starts
from experiments import critic as critic_lib
from experiments.border import POSITIVE, ConfigError, pick
from rljax.agents import oreo
from rljax.losses import oreo as losses
from rljax.models import lora
from rljax.policy import texts
from rljax.types import Params

LEVELS = {
    "token": losses.by_token,
    "step": losses.by_step,
    "response": losses.by_answer,
}
# Wang et al., 2024 (arXiv:2412.16145), section 6, each out of 0.01, 0.1 and 0.3.
KL_WEIGHTS = {"token": 0.01, "step": 0.1, "response": 0.3}
ACTOR_LOSSES = {
    "own_action": losses.actor_loss,
    "full_gradient": losses.full_gradient_actor_loss,
    "one_step": losses.one_step_actor_loss,
}


def _own_trunk(config: Any, start: starts.Start) -> oreo.Value:
    return oreo.own_trunk(start.texts)


def _shared_trunk(config: Any, start: starts.Start) -> oreo.Value:
    return oreo.shared_trunk(start.texts)


def _adapter(config: Any, start: starts.Start) -> oreo.Value:
    """A LoRA critic beside the reference, whatever the policy is."""
    try:
        critic = config.critic
        how = lora.of(start.config, critic.lora_rank, critic.lora_alpha)
    except ValueError as error:
        raise ConfigError(f"config.critic.lora: {error}") from error
    return oreo.own_trunk(texts.make(start.config, how))


VALUES = {"own_trunk": _own_trunk, "shared_trunk": _shared_trunk, "adapter": _adapter}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    if config.kl_weight is None:  # the run's record has the number
        config = config.copy_and_resolve_references()
        config.kl_weight = kl_weight_of(config)
        print(f"kl_weight: {config.kl_weight}, the paper's at level {config.level}")
    offline.train_on_log(config, workdir, method_of(config))


def kl_weight_of(config: Any) -> float:
    """`kl_weight`, or the paper's of the level where that is None.

    Raises:
      ConfigError: for another level, or a weight that cannot be.
    """
    given = config.kl_weight
    if given is None:
        return pick(KL_WEIGHTS, config.level, "level")
    border.require(
        isinstance(given, int | float) and given >= 0, "kl_weight", given,
        "at least 0, or None for the paper's of the level",
    )  # fmt: skip
    return float(given)


def method_of(config: Any) -> offline.Method:
    """The method with the settings of a config."""
    limits = {
        "beta": POSITIVE,
        "critic.learning_rate": POSITIVE,
    }
    border.limits(config, limits)
    kl_weight = kl_weight_of(config)
    actor = offline.optimizer_of(config.optimizer)
    critic = dataclasses.replace(
        actor, learning_rate=config.critic.learning_rate, wait=0.0
    )
    level = pick(LEVELS, config.level, "level")
    actor_loss = pick(ACTOR_LOSSES, config.actor_loss, "actor_loss")
    value = pick(VALUES, config.value, "value")

    def make(start, updates, axis_name):
        settings = oreo.Config(
            beta=config.beta,
            kl_weight=kl_weight,
            updates=updates,
            actor=actor,
            critic=critic,
        )
        return oreo.make(
            start.texts, value(config, start), settings, level, actor_loss, axis_name
        )

    def extras(start, state):
        learnt = state.params["critic"]
        trunk = value(config, start).trunk(learnt, state.frozen)
        at = "step_begins" if level is losses.by_step else "every_token"
        return [critic_lib.export(start, trunk, learnt["head"], at)]

    return offline.Method(
        offline.single, make, f"OREO, {config.level} level", extras=extras,
        begun=lambda start: _begun(config, start),
    )  # fmt: skip


def _begun(config: Any, start: starts.Start) -> dict[str, Params]:
    """The critic of an earlier run, where a config names one."""
    path = config.critic.path
    if not path:
        return {}
    for key, value, wrong in (
        ("lora.rank", config.lora.rank, bool(config.lora.rank)),
        ("value", config.value, config.value == "adapter"),
    ):
        border.require(
            not wrong, "critic.path", path,
            f"empty with {key}={value}: an adapter begins as the reference",
        )  # fmt: skip
    trunk, head = critic_lib.begin(path, start)
    fits = "shared_trunk" if trunk is None else "own_trunk"
    border.require(
        config.value == fits, "value", config.value,
        f"{fits} with critic.path={path}, as in the run that learnt it",
    )  # fmt: skip
    return {
        "critic": {"head": head} if trunk is None else {"trunk": trunk, "head": head}
    }


if __name__ == "__main__":
    border.run(main, __doc__)
