"""Which method that learns from a log a config is of."""

from typing import Any

from experiments import dpo, kto, offline, oreo, rejection_sampling, sft


def method_of(config: Any, name: str = "") -> offline.Method:
    """The method that settings are of.

    Args:
      config: of a run that learnt, or will learn, from a log.
      name: of the config's file, if that is known: settings of rejection sampling are
        those of imitation, whose agent it has.
    """
    if name == "rejection_sampling":
        return rejection_sampling.method_of(config)
    for key, module in (
        ("critic", oreo),
        ("pairs_per_task", dpo),
        ("good_weight", kto),
    ):
        if key in config:
            return module.method_of(config)
    return sft.method_of(config)
