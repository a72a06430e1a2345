"""When to go on from a stored state, and when to begin at the bare problem.

    rho_i = rho(update) (1 - bare success of problem i),   0 once the problem is solved

The share rho rises from 0, stays, and falls back to 0, since what counts is the bare
problem: replay alone never trains the policy to reach a stored state. What a start is
comes out as arrays, so that one compiled update serves any share, 0 included.
Evaluation does not come here: it takes `archive.bare`.

Specification of RRL (arXiv:2504.14363), section 10.1. Shape letters: N problems, M
groups of a batch, G answers of a group, W outcomes remembered.
"""

import dataclasses
from typing import NamedTuple

import flax.struct
import numpy as np

from rljax.replay import archive as archive_lib
from rljax.replay import cells
from rljax.replay.archive import Weigh
from rljax.replay.cells import FORBIDDEN, Archive, States


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """How much is replayed, and when."""

    updates: int  # of the whole run
    share: float = 0.1  # rho at its highest: the chance of a replayed group
    most: float = 0.5  # of a batch's groups
    first: int = 0  # update of the first replay, after the critic's warm-up
    ramp: float = 0.1  # of the updates from `first` on, in which the share rises
    fade: float = 0.2  # of them, at the end, in which it falls to 0
    solved_at: float = 0.8  # bare success over W tries that ends a problem's replay
    anywhere: bool = False  # whether a replayed group may leave its problem for another


@flax.struct.dataclass
class History:
    """What came of bare tries; replayed ones say nothing of the bare problem.

    Attributes:
      outcome: int8 [N, W], the last ones: 1 right, 0 wrong, -1 none yet.
      tries: int32 [N], all there ever were.
      solves: int32 [N], right ones among them.
    """

    outcome: np.ndarray
    tries: np.ndarray
    solves: np.ndarray


class Drawn(NamedTuple):
    """Starts of a batch."""

    archive: Archive  # with the visits counted
    starts: States  # [M], one a group
    rho: float  # the share of this update


def check(config: Config) -> None:
    """Refuses a schedule that cannot be.

    Raises:
      ValueError: naming the key, the value and the limit.
    """
    for name in ("share", "most", "ramp", "fade", "solved_at"):
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    if config.share > config.most:
        raise ValueError(
            f"share is {config.share}, more than the {config.most} of a batch that "
            "most allows"
        )
    if config.ramp + config.fade > 1:
        raise ValueError(
            f"ramp and fade are {config.ramp} and {config.fade}, more than 1 together"
        )
    if not 0 <= config.first < config.updates:
        raise ValueError(
            f"first must lie in 0..{config.updates - 1}, the run's updates, got "
            f"{config.first}"
        )


def most_groups(config: Config, groups: int) -> int:
    """Most groups of a batch that are replayed.

    Args:
      config: the schedule.
      groups: of a batch.
    """
    return int(config.most * groups)


def rho(config: Config, update: int) -> float:
    """The share at an update: a trapezoid, 0 before `first` and at the end.

        x = (update - first) / (updates - first)
        rho = share min(1, x / ramp, (1 - x) / fade)

    Args:
      config: the schedule.
      update: from 0 on.
    """
    x = (update - config.first) / (config.updates - config.first)
    if not 0 <= x < 1:
        return 0.0
    up = x / config.ramp if config.ramp else 1.0
    down = (1 - x) / config.fade if config.fade else 1.0
    return config.share * min(1.0, up, down)


def no_history(problems: int, window: int = 8) -> History:
    """Nothing tried yet.

    Args:
      problems: N.
      window: W.

    Raises:
      ValueError: if one is below 1.
    """
    for name, value in {"problems": problems, "window": window}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    return History(
        outcome=np.full((problems, window), -1, np.int8),
        tries=np.zeros(problems, np.int32),
        solves=np.zeros(problems, np.int32),
    )


def note(history: History, problem: np.ndarray, solved: np.ndarray) -> History:
    """Remembers bare tries, in their order.

    Args:
      history: what is known.
      problem: int [any], of each bare answer that was judged.
      solved: bool, the same shape.

    Raises:
      ValueError: if there are not as many of one as of the other, or a problem is
        unknown.
    """
    if np.shape(problem) != np.shape(solved):
        raise ValueError(
            f"{np.shape(solved)} outcomes for {np.shape(problem)} problems: one each"
        )
    draft = cells.on_host(history)
    count, window = draft.outcome.shape
    for i, right in zip(problem, solved, strict=True):
        if not 0 <= i < count:
            raise ValueError(f"problem {i} is unknown: the history has {count}")
        draft.outcome[i, draft.tries[i] % window] = bool(right)
        draft.tries[i] += 1
        draft.solves[i] += bool(right)
    return draft


def bare_success(history: History) -> np.ndarray:
    """Share of right answers among the last W bare tries, float64 [N]; 0 if none."""
    known = history.outcome >= 0
    right = np.sum(history.outcome == 1, axis=1)
    return right / np.maximum(known.sum(axis=1), 1)


def solved(history: History, at: float) -> np.ndarray:
    """Problems that need no replay any more, bool [N]: W bare tries, enough right.

    Args:
      history: what is known.
      at: share of right answers.
    """
    full = (history.outcome >= 0).all(axis=1)
    return full & (bare_success(history) >= at)


def chances(config: Config, history: History, update: int) -> np.ndarray:
    """rho_i: the chance that a group of each problem is replayed, float64 [N].

    Args:
      config: the schedule.
      history: what is known of bare tries.
      update: the present one.
    """
    gated = rho(config, update) * (1.0 - bare_success(history))
    return np.where(solved(history, config.solved_at), 0.0, gated)


def draw(
    archive: Archive,
    history: History,
    config: Config,
    problems: np.ndarray,
    update: int,
    seed: int,
    weigh: Weigh,
) -> Drawn:
    """A start for each group of a batch.

    What is drawn depends on the seed and the update alone, and so is the same on every
    host and after a resume. Of more than `most` of the batch those whose draw was least
    against their chance are replayed.

    A group goes on from a state of its own problem, or not at all. With `anywhere` a
    group is replayed with the chance rho wherever there is a state, and takes the
    problem it is of from all: by the summed weights of a problem's cells times
    1 - bare success, each problem once before one comes again. Few problems have
    states where right answers are rare, and a batch seldom meets them.

    Args:
      archive: all cells.
      history: what is known of bare tries.
      config: the schedule.
      problems: int [M], of each group.
      update: the present one.
      seed: of the run.
      weigh: which cell of a problem, see `archive.choose`.

    Raises:
      ValueError: as `archive.choose`.
    """
    cells.check_problems(archive, problems)
    rng = np.random.default_rng([seed, update])
    uniform = rng.random((2, len(problems)))
    chance = chances(config, history, update)
    there = (archive.used & (archive.mark != FORBIDDEN)).any(axis=1)
    if config.anywhere:
        weight = _weights(archive, weigh, np.where(there, chance, 0.0))
        chance = np.full(len(problems), rho(config, update) * weight.any())
        others = _others(weight, rng.random(len(problems)))
    else:
        chance, others = np.where(there, chance, 0.0)[problems], problems
    wanted = uniform[0] < chance
    # The least of what is equally likely to be any of them.
    rank = np.where(wanted, uniform[0] / np.where(wanted, chance, 1.0), np.inf)
    over = np.argsort(rank, kind="stable")[most_groups(config, len(problems)) :]
    wanted[over] = False
    problems = np.where(wanted, others, problems)
    archive, starts = archive_lib.choose(archive, problems, wanted, uniform[1], weigh)
    return Drawn(archive, starts, rho(config, update))


def _weights(archive: Archive, weigh: Weigh, chance: np.ndarray) -> np.ndarray:
    """Of each problem: its chance times the weights of its cells, float64 [N]."""
    weight = np.zeros(len(chance))
    for problem in np.flatnonzero(chance).tolist():
        weight[problem] = archive_lib.weights(archive, problem, weigh).sum()
    return weight * chance


def _others(weight: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Problems by weight, int [M]; one that was drawn waits until all were."""
    left = weight.copy()
    drawn = np.zeros(len(draws), np.int64)
    for m, draw in enumerate(draws if weight.any() else ()):
        if not left.any():
            left = weight.copy()
        some = np.flatnonzero(left)
        ends = np.cumsum(left[some])
        place = np.searchsorted(ends, draw * ends[-1], side="right")
        drawn[m] = some[min(place, len(some) - 1)]  # rounded
        left[drawn[m]] = 0.0
    return drawn


def in_groups(starts: States, size: int) -> States:
    """Starts of all answers: those of a group stand together and share theirs.

    Args:
      starts: [M], one a group.
      size: G.

    Returns:
      States [M * G].

    Raises:
      ValueError: if G is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    return States(*(np.repeat(x, size, axis=0) for x in starts))


def require_unmixed(starts: States, size: int) -> None:
    """Refuses groups whose answers begin at different states.

    Args:
      starts: [M * G], of all answers.
      size: G.

    Raises:
      ValueError: if the answers are no whole groups, or naming the first group that
        is mixed.
    """
    count = len(starts.problem)
    if count % size:
        raise ValueError(f"{count} answers are no whole groups of {size}")
    for name in ("problem", "serial"):
        of_group = getattr(starts, name).reshape(-1, size)
        mixed = np.flatnonzero((of_group != of_group[:, :1]).any(axis=1))
        if mixed.size:
            raise ValueError(
                f"group {mixed[0]} is mixed, its answers have the {name} values "
                f"{sorted(set(of_group[mixed[0]].tolist()))}"
            )
