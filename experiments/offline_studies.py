"""What `offline_evidence` runs: tables of cells."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Cell(NamedTuple):
    """A method with settings changed, and the seeds it is run with."""

    method: str  # a module of experiments
    overrides: dict[str, Any]  # dotted key of the config -> value
    seeds: tuple[int, ...]


SCALE = "arithmetic"
REPORTED = (1, 2, 3, 4, 5)
TUNING = (100,)  # never reported

TASK = {"task.train_size": 1_000}
BASE = {"eval.split": "test"}
LOG = {"samples": 8}

# A look before grids: which settings move anything. One seed, the dev problems.
LOOK = {"eval.split": "dev", "eval.before": False, "data.batch_size": 16}
LOOK |= {"optimizer.warmup": 0.1}


def _looked_at(method: str, tokens: int, rate: float, **more: Any) -> Cell:
    rates = {"data.tokens": tokens, "optimizer.learning_rate": rate}
    return Cell(method, LOOK | rates | more, TUNING)


STUDIES: Mapping[str, Mapping[str, Cell]] = {
    "look": {
        "rs_1e-4": _looked_at("rejection_sampling", 220_000, 1e-4),
        "rs_5e-4": _looked_at("rejection_sampling", 440_000, 5e-4),
        "oreo_1e-4_wait": _looked_at(
            "oreo",
            220_000,
            1e-4,
            **{"critic.learning_rate": 2e-3, "optimizer.wait": 0.4},
        ),
        "oreo_3e-4_kl0.3": _looked_at(
            "oreo", 440_000, 3e-4, **{"critic.learning_rate": 3e-4, "kl_weight": 0.3}
        ),
    },
}
