"""What `offline_evidence` runs: tables of cells."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A method with settings changed, and the seeds it is run with."""

    method: str  # a module of experiments
    overrides: dict[str, Any]  # dotted key of the config -> value
    seeds: tuple[int, ...]


class Tuned(NamedTuple):
    """What is tuned of a method: as many settings for each, and the best of them."""

    method: str
    rates: tuple[float, ...]  # of optimizer.learning_rate
    coefficient: str = ""  # the method's own, if it has one
    values: tuple[float, ...] = ()
    fixed: Mapping[str, Any] = {}


SCALE = "arithmetic"
REPORTED = (1, 2, 3, 4, 5)
TUNING = (100,)  # never reported

# Solutions of which most go from left to right, products or not: what is imitated is
# wrong wherever a product comes after a sum, and the right way is known but rare.
TASK = {
    "task.train_size": 2_000,
    "task.solved_size": 10_000,
    "task.operations": (2, 3),
    "task.largest": 9,
    "task.careless": 0.85,
}
BASE = {"data.epochs": 6}
LOG = {"samples": 4}

# What all runs have in common.
COMMON = {
    "data.tokens": 150_000,
    "data.batch_size": 16,
    "optimizer.warmup": 0.1,
    "eval.before": False,
    "eval.samples": 4,
}
_CRITIC = {"critic.learning_rate": 3e-4}

METHODS = {
    "sft": Tuned("sft", (3e-5, 1e-4, 3e-4, 1e-3)),
    "rejection_sampling": Tuned("rejection_sampling", (3e-5, 1e-4, 3e-4, 1e-3)),
    "dpo": Tuned("dpo", (3e-5, 1e-4), "beta", (0.1, 0.3)),
    "kto": Tuned("kto", (3e-5, 1e-4), "beta", (0.1, 0.3)),
    "oreo_token": Tuned("oreo", (1e-4, 3e-4), "kl_weight", (0.01, 0.03), _CRITIC),
    "oreo_step": Tuned(
        "oreo", (1e-4, 3e-4), "kl_weight", (0.01, 0.03), _CRITIC | {"level": "step"}
    ),
    "oreo_response": Tuned(
        "oreo", (1e-4, 3e-4), "kl_weight", (0.01, 0.03), _CRITIC | {"level": "response"}
    ),
    "dqo_like": Tuned(
        "oreo",
        (1e-4, 3e-4),
        "kl_weight",
        (0.01, 0.03),
        _CRITIC | {"actor_loss": "full_gradient"},
    ),
}


def _cell(
    tuned: Tuned, rate: float, value: float | None, split: str, seeds: Sequence[int]
) -> Cell:
    settings = {**COMMON, **tuned.fixed}
    settings |= {"optimizer.learning_rate": rate, "eval.split": split}
    if value is not None:
        settings[tuned.coefficient] = value
    return Cell(tuned.method, settings, tuple(seeds))


def _grid() -> dict[str, Cell]:
    """All settings of all methods, on the dev problems."""
    return {
        "_".join([name, f"{rate:g}", *([] if value is None else [f"{value:g}"])]): (
            _cell(tuned, rate, value, "dev", TUNING)
        )
        for name, tuned in METHODS.items()
        for rate, value in itertools.product(tuned.rates, tuned.values or (None,))
    }


STUDIES: Mapping[str, Mapping[str, Cell]] = {"grid": _grid()}
