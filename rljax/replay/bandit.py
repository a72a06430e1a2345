"""Learnt replay: states where the policy gets better, or worse, come first.

Each cell is an arm. Two running means of its success, a fast and a slow one, differ
while the policy is learning there; a state that is hopeless, or mastered, has none of
either. With a small chance any cell is taken, since an arm is known by being tried.

    LP = |fast - slow|,   w = (1 - explore) LP / sum LP + explore / K

Source: Kanitscheider et al., 2021 (arXiv:2106.14876), whose learning progress is that
of tasks; in Matiisen et al., 2017 (arXiv:1707.00183), it is a bandit's reward. Here the
arms are the cells of one problem. Shape letters as in `cells.py`.
"""

import flax.struct
import numpy as np

from rljax.replay import cells
from rljax.replay.archive import View, Weigh
from rljax.replay.cells import BARE, FORBIDDEN, Archive


@flax.struct.dataclass
class Bandit:
    """What is known of the arms; one that another cell stands in now is forgotten.

    Attributes:
      serial: int32 [N, K], the cell it is known of; BARE if none.
      fast: float32 [N, K], running mean of success.
      slow: float32 [N, K].
    """

    serial: np.ndarray
    fast: np.ndarray
    slow: np.ndarray


def init(archive: Archive) -> Bandit:
    """A bandit that knows nothing, for an archive of that size."""
    shape = archive.serial.shape
    return Bandit(
        serial=np.full(shape, BARE, np.int32),
        fast=np.zeros(shape, np.float32),
        slow=np.zeros(shape, np.float32),
    )


def learn(
    bandit: Bandit,
    archive: Archive,
    problem: np.ndarray,
    serial: np.ndarray,
    tries: np.ndarray,
    solves: np.ndarray,
    fast: float = 0.1,
    slow: float = 0.01,
) -> Bandit:
    """Moves the means of cells that were tried.

        mean += (1 - (1 - rate)^n) (solves / n - mean),   n tries

    Both begin at 0: a first right answer is progress.

    Args:
      bandit: what is known.
      archive: the cells as they are now; those that are gone teach nothing.
      problem: int [M].
      serial: int [M], of the cells; bare starts are passed over.
      tries: int [M], answers that were judged.
      solves: int [M], right ones among them.
      fast: rate of the fast mean, for one try.
      slow: rate of the slow one.

    Raises:
      ValueError: unless 0 < slow < fast <= 1, or as `archive.feedback` for what is
        tried.
    """
    if not 0 < slow < fast <= 1:
        raise ValueError(f"rates must be 0 < slow < fast <= 1, got {slow} and {fast}")
    draft = cells.on_host(bandit)
    places = cells.locate(archive, problem, serial)
    for i, k, name, n, right in zip(
        problem, places, serial, tries, solves, strict=True
    ):
        if k < 0 or n < 1:
            continue
        if draft.serial[i, k] != name:
            draft.serial[i, k], draft.fast[i, k], draft.slow[i, k] = name, 0.0, 0.0
        for mean, rate in ((draft.fast, fast), (draft.slow, slow)):
            mean[i, k] += (1 - (1 - rate) ** int(n)) * (right / n - mean[i, k])
    return draft


def progress(bandit: Bandit, there: View) -> np.ndarray:
    """LP of the cells of a problem, float64 [K]; 0 of those nothing is known of."""
    i = there.problem
    apart = np.abs(bandit.fast[i].astype(np.float64) - bandit.slow[i])
    return np.where(bandit.serial[i] == there.serial, apart, 0.0)


def by_progress(bandit: Bandit, explore: float = 0.2) -> Weigh:
    """Weights for `archive.choose`, as the bandit stands now.

    Args:
      bandit: what is known.
      explore: the chance of any cell alike.

    Raises:
      ValueError: if it is not in (0, 1].
    """
    if not 0 < explore <= 1:
        raise ValueError(f"explore must lie in (0, 1], got {explore}")

    def weigh(there: View) -> np.ndarray:
        open_ = (there.serial != BARE) & (there.mark != FORBIDDEN)
        learnt = np.where(open_, progress(bandit, there), 0.0)
        alike = open_ / max(open_.sum(), 1)
        if not learnt.any():
            return alike
        return (1 - explore) * learnt / learnt.sum() + explore * alike

    return weigh
