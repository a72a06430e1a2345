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
LOOK = {"eval.split": "dev", "eval.before": False, "data.batch_size": 64}
LOOK |= {"data.tokens": 220_000}


def _rates(method: str, rates: tuple[float, ...], **more: Any) -> dict[str, Cell]:
    fixed = {key.replace("__", "."): value for key, value in more.items()}
    return {
        f"{method}_{rate:g}": Cell(
            method, {"optimizer.learning_rate": rate} | fixed | LOOK, TUNING
        )
        for rate in rates
    }


STUDIES: Mapping[str, Mapping[str, Cell]] = {
    "look": {
        **_rates("rejection_sampling", (3e-4, 1e-3)),
        "oreo_3e-4": Cell(
            "oreo",
            LOOK | {"optimizer.learning_rate": 3e-4, "critic.learning_rate": 3e-4},
            TUNING,
        ),
        "oreo_1e-3": Cell(
            "oreo",
            LOOK | {"optimizer.learning_rate": 1e-3, "critic.learning_rate": 1e-3},
            TUNING,
        ),
        **_rates("dpo", (3e-5, 1e-4, 3e-4)),
        **_rates("kto", (1e-4, 3e-4)),
        **_rates("sft", (3e-4, 1e-3)),
    },
}
