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

TASK = {"data.row_tokens": 128, "task.train_size": 1_000}
BASE = {"eval.split": "test", "data.epochs": 8}
LOG = {"samples": 8}

# A look before the grids: where learning rates are worth a grid.
LOOK = {"eval.split": "dev", "eval.before": False, "data.batch_size": 16}
LOOK |= {"data.tokens": 220_000, "optimizer.warmup": 0.1}


def _oreo(rate: float, critic: float, **more: Any) -> Cell:
    rates = {"optimizer.learning_rate": rate, "critic.learning_rate": critic}
    return Cell("oreo", LOOK | rates | more, TUNING)


STUDIES: Mapping[str, Mapping[str, Cell]] = {
    "look": {
        "rs_1e-4": Cell(
            "rejection_sampling", LOOK | {"optimizer.learning_rate": 1e-4}, TUNING
        ),
        "oreo_1e-4_wait": _oreo(1e-4, 2e-3, **{"optimizer.wait": 0.4}),
        "oreo_1e-4_wait_kl0.1": _oreo(
            1e-4, 2e-3, **{"optimizer.wait": 0.4, "kl_weight": 0.1}
        ),
        "sft_1e-4": Cell("sft", LOOK | {"optimizer.learning_rate": 1e-4}, TUNING),
        "dpo_3e-5": Cell("dpo", LOOK | {"optimizer.learning_rate": 3e-5}, TUNING),
    },
}
