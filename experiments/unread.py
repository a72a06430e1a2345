"""Settings that a run would not read are refused where it begins.

A setting that differs from its default and has no effect is a mistake: what it asks for
is not done, and nobody says so.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from experiments import border, judging
from experiments.configs import online as scales
from experiments.configs import rrl as configs


class Rule(NamedTuple):
    """Settings that are not read, and when.

    Attributes:
      holds: config -> whether they are not.
      keys: of them.
      why: they are not.
    """

    holds: Callable[[Any], bool]
    keys: tuple[str, ...]
    why: str


def _exact(config: Any) -> bool:
    return judging.verifier_of(config.task) == judging.EXACT


def _by_token(config: Any) -> bool:
    return "ppo" in config and config.get("base", "ppo") == "ppo"


def _replay(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda config: "replay" in config and holds(config)


RULES = (
    Rule(
        _exact,
        ("task.verifier_workers", "task.verifier_seconds"),
        "task.verifier=exact judges in this process, without a limit of time",
    ),
    Rule(
        _by_token,
        ("loss.ratio",),
        "an advantage of PPO is one token's, and the ratio of a whole answer has no "
        "meaning beside it",
    ),
    Rule(
        _replay(lambda config: config.base == "grpo"),
        ("replay.explained", "replay.rescore"),
        "base=grpo has no critic",
    ),
    Rule(
        _replay(lambda config: config.replay.proven > 0),
        ("replay.where", "replay.score", "replay.explained"),
        "replay.proven above 0 cuts right answers evenly, and asks nobody",
    ),
    Rule(
        _replay(lambda config: config.replay.choice != "difficulty"),
        ("replay.target",),
        "replay.choice=difficulty alone seeks one",
    ),
    Rule(
        _replay(lambda config: config.replay.choice != "bandit"),
        ("replay.explore",),
        "replay.choice=bandit alone explores",
    ),
)


def refuse(config: Any) -> None:
    """Refuses settings that are not read and not as some scale has them.

    Args:
      config: of PPO, GRPO or replay on top of them.

    Raises:
      ConfigError: naming the key, the value, its default and why it is not read.
    """
    given = border.keys(config)
    for rule in RULES:
        if not rule.holds(config):
            continue
        for key in rule.keys:
            usual = _usual(key)
            border.require(
                given[key] in usual, key, given[key], f"{usual[0]!r}: {rule.why}"
            )


@functools.cache
def _usual(key: str) -> list[Any]:
    """The defaults of a setting, one for each scale; smoke's odd ones come last."""
    names = reversed(scales.SCALES)
    return [border.keys(configs.get_config(scale))[key] for scale in names]
