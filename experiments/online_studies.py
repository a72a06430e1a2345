"""What `online_evidence` runs: tables of cells."""

from collections.abc import Mapping
from typing import Any

from experiments.study import Cell

SCALE = "arithmetic"
REPORTED = (1, 2, 3, 4, 5)
FEWER = REPORTED[:3]
TUNING = (100,)  # never reported

# Each of two products that come after a sum is passed rightly once in eight, and one in
# a hundred answers is right. Drills make the sums of the right way familiar: what is
# rare is the way, and not the arithmetic.
TASK = {
    "task.operations": (5, 5),
    "task.largest": 9,
    "task.factor": 4,
    "task.products": 1.0,
    "task.signs": "+",
    "task.hasty": 0.88,
    "task.solved_size": 5_000,
    "task.drills": 5_000,
    "task.dev_size": 200,
    "task.test_size": 1_000,
}
BASE = {
    "data.epochs": 6,
    "optimizer.learning_rate": 2e-3,
    "model.width": 128,
    "model.layers": 3,
    "model.heads": 4,
    "model.mlp_width": 384,
    "eval.split": "dev",
}

# What all runs have in common: they end when they have sampled so many tokens.
COMMON: Mapping[str, Any] = {
    "task.train_size": 256,
    "rollout.tokens": 200_000,
    "rollout.groups": 16,
    "rollout.samples": 8,
    "rollout.slots": 128,
    "rollout.max_tokens": 64,
    "loss.batch_groups": 16,
    "eval.before": False,
    "eval.split": "test",
    "eval.problems": 60,
    "eval.samples": 64,
    "eval.pass_k": (1, 8, 64),
}
# Rates fall over so many steps. More of them at a share of 0.95, whose steps are
# smaller, mean more rate in all: compare those cells with `ppo_slow` and `grpo_slow`.
STEPS = {
    0.0: 34,
    0.1: 35,
    0.25: 36,
    0.5: 38,
    0.95: 48,
}  # about as long as the tokens last
_PPO = {"optimizer.learning_rate": 4e-4, "ppo.learning_rate": 1.2e-3, "ppo.warmup": 5}
_GRPO = {"optimizer.learning_rate": 4e-4}
_RIGHT = {"task.hasty": 0.0}  # the same problems, all solutions right
_FLOOR = {"ppo.least_deviation": 0.1}


def _cell(method: str, share: float, seeds=REPORTED, **more: Any) -> Cell:
    settings = {**COMMON, "rollout.steps": STEPS[share], **more}
    return Cell(method, settings, tuple(seeds))


def _rrl(
    share: float = 0.25,
    base: str = "ppo",
    seeds=REPORTED,
    settings: Mapping[str, Any] | None = None,
    **more: Any,
) -> Cell:
    if settings is None:
        settings = _PPO if base == "ppo" else _GRPO
    named = {f"replay.{name}": value for name, value in more.items()}
    shares = {"base": base, "replay.share": share, "replay.most": max(share, 0.5)}
    shares |= {"replay.state_tokens": 40}
    return _cell("rrl", share, seeds, **settings, **shares, **named)


# The prototype's: no ramp, no fade, no problem that is done with, nothing that is dead.
_ALWAYS = {
    "ramp": 0.0, "fade": 0.0, "solved_at": 1.0, "choice": "visits",
    "proposes_below": 1.0, "refresh": 100_000, "cells": 10,
}  # fmt: skip

# Replay ends with the first right answer to the bare problem among its last eight.
_UNSOLVED = {"solved_at": 0.125}

# States of right answers alone, gone on from whatever problem they are of.
_PROVEN = {"proven": 4, "anywhere": True}


def _ablations(base: str, where: str) -> dict[str, Cell]:
    """The default with one rule changed; `where` cuts otherwise than it does."""
    right = (_PPO if base == "ppo" else _GRPO) | _RIGHT
    changes: dict[str, dict[str, Any]] = {
        f"{where}_cuts": {"where": where},
        "by_visits": {"choice": "visits"},
        "failures_alone": {"proposes_below": 0.0},
        "no_fade": {"fade": 0.0},
        "one_state": {"cells": 1},
        "ten_states": {"cells": 10},
        # From written solutions without haste, which the others never see.
        "canonical": {"settings": right, "canonical": 2},
    }
    return {
        f"{name}_{base}": _rrl(base=base, seeds=FEWER, **change)
        for name, change in changes.items()
    }


def _as_many(cell: Cell) -> Cell:
    """As many steps for every share, however few tokens that takes.

    So answers, updates and learning rates are those of their runs.
    """
    steps = {"rollout.steps": STEPS[0.0], "rollout.tokens": 0}
    return cell._replace(overrides=cell.overrides | steps)


def _rates() -> dict[str, Cell]:
    """Rates of the policy, thrice as high for the critic, and a seed of their own."""
    cells = {}
    for rate in (2e-4, 6e-4, 2e-3):
        actor = {"optimizer.learning_rate": rate, "eval.split": "dev"}
        critic = {"ppo.learning_rate": 3 * rate, "ppo.warmup": 5}
        cells |= {
            f"ppo_{rate:g}": _cell("ppo", 0.0, TUNING, **actor, **critic),
            f"proven_{rate:g}": _rrl(seeds=TUNING, settings=actor | critic, **_PROVEN),
            f"grpo_{rate:g}": _cell("grpo", 0.0, TUNING, **actor),
            f"proven_grpo_{rate:g}": _rrl(
                base="grpo", seeds=TUNING, settings=actor, **_PROVEN
            ),
        }
    return cells


def _gate() -> dict[str, Cell]:
    """When a problem's replay ends, and how much there is till then."""
    cells = {"grpo": _cell("grpo", 0.0, TUNING, **_GRPO)}
    for share in (0.25, 0.5, 0.95):
        cells |= {
            f"rrl_{share}": _rrl(share, base="grpo", seeds=TUNING),
            f"unsolved_{share}": _rrl(share, base="grpo", seeds=TUNING, **_UNSOLVED),
        }
    on_dev = {"eval.split": "dev"}
    return {
        name: _as_many(cell._replace(overrides=cell.overrides | on_dev))
        for name, cell in cells.items()
    }


STUDIES: Mapping[str, Mapping[str, Cell]] = {
    "rates": _rates(),
    "gate": _gate(),
    "compare": {
        "ppo": _cell("ppo", 0.0, **_PPO),
        # Rates that fall as slowly as with a share of 0.95, whose steps are smaller.
        "ppo_slow": _cell("ppo", 0.95, **_PPO),
        "grpo_slow": _cell("grpo", 0.95, **_GRPO),
        "rrl": _rrl(),
        "rrl_half": _rrl(0.5),
        "rrl_prototype": _rrl(0.95, **_ALWAYS),
        "random_cuts": _rrl(where="random"),
        "bandit": _rrl(choice="bandit"),
        "proven": _rrl(**_PROVEN),
        "grpo": _cell("grpo", 0.0, **_GRPO),
        "proven_grpo": _rrl(base="grpo", **_PROVEN),
        "rrl_grpo": _rrl(base="grpo"),
        "prototype_grpo": _rrl(0.95, base="grpo", **_ALWAYS),
        # Where nothing is right the critic's errors are not blown up to variance 1.
        "ppo_floor": _cell("ppo", 0.0, **_PPO, **_FLOOR),
        "rrl_floor": _rrl(settings=_PPO | _FLOOR),
    },
    "updates": {
        name: _as_many(cell)
        for name, cell in {
            "ppo": _cell("ppo", 0.0, **_PPO),
            "grpo": _cell("grpo", 0.0, **_GRPO),
            "rrl": _rrl(),
            "rrl_grpo": _rrl(base="grpo"),
            "share_0.95": _rrl(0.95),
            "share_0.95_grpo": _rrl(0.95, base="grpo"),
            "share_0.1": _rrl(0.1),
            "share_0.1_grpo": _rrl(0.1, base="grpo"),
            "rrl_half": _rrl(0.5),
            "random_cuts": _rrl(where="random"),
            "bandit": _rrl(choice="bandit"),
            **_ablations("grpo", where="random"),
            **_ablations("ppo", where="entropy"),
            "frozen_scores": _rrl(seeds=FEWER, rescore=False),
        }.items()
    },
    "ablations": {
        "rrl": _rrl(seeds=FEWER),
        "entropy_cuts": _rrl(seeds=FEWER, where="entropy"),
        "frozen_scores": _rrl(seeds=FEWER, rescore=False),
        "by_visits": _rrl(seeds=FEWER, choice="visits"),
        "failures_alone": _rrl(seeds=FEWER, proposes_below=0.0),
        "no_fade": _rrl(seeds=FEWER, fade=0.0),
        "all_propose": _rrl(seeds=FEWER, proposes_below=1.0),
        "one_state": _rrl(seeds=FEWER, cells=1),
        "ten_states": _rrl(seeds=FEWER, cells=10),
        "share_0.95": _rrl(0.95, seeds=FEWER),
        # From written solutions without haste, which the others never see.
        "canonical": _rrl(seeds=FEWER, settings=_PPO | _RIGHT, canonical=2),
        "canonical_grpo": _rrl(
            seeds=FEWER, base="grpo", settings=_GRPO | _RIGHT, canonical=2
        ),
    },
}
