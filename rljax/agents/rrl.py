"""Retrospective replay: promising states found early are kept and explored again.

A plug-in to PPO and GRPO, which differ from replay on top of them in nothing but where
answers begin. A step of a run is

    memory, told = seed(settings, memory, states, value, step)   # once, or never
    memory, starts, rho = choose(settings, memory, history, problems, step)
    ...                        # answers that go on from starts, judged; read; estimated
    memory, told = remember(settings, memory, history, found, step)
    ...                        # the updates
    memory, told = refresh(settings, memory, history, value)     # each so many steps

Source: Dou et al., 2025 (arXiv:2504.14363), whose details are not published; the rules
are those of the specification of RRL, sections 3.7 and 10. Works on the host. Shape
letters: N problems, K cells of a problem, B groups, G answers of each, M = B G, T most
tokens of an answer.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import numpy as np

from rljax.replay import archive as archive_lib
from rljax.replay import bandit as bandit_lib
from rljax.replay import cells, promise, schedule
from rljax.replay.archive import Weigh, Worth
from rljax.replay.bandit import Bandit
from rljax.replay.cells import Archive, States
from rljax.replay.promise import Answers, Signal
from rljax.replay.schedule import History

AGES = (0, 5, 20)  # steps; success from replayed states is told by age


@flax.struct.dataclass
class Memory:
    """What replay carries from step to step, on the host."""

    archive: Archive
    bandit: Bandit


class Settings(NamedTuple):
    """What replay is made of.

    Attributes:
      schedule: when and how much; its updates are steps of the run.
      cells: K.
      longest: most tokens of a state.
      where: the signal that a cut maximises.
      score: how promising a state is.
      worth: by what cells are compared.
      weigh: what is known of the arms -> weights of cells; `lambda bandit: by_visits`
        heeds nothing of it.
      end_ids: tokens that end an answer.
      seed: of the run.
      tail: share at an answer's end that is in no state.
      proposes_below: bare success below which right answers propose states, too.
      explained: the least explained variance of a critic whose states are kept; None
        without a critic.
      dead_after: tries without a right answer after which a cell goes.
      proven: 0, or so many states of each right answer, and none of wrong ones: see
        `promise.proven`. Neither `where`, `score` nor `explained` counts then.
      chains: as of `archive.add`, of what a rollout proposes.
      rescore: whether a critic's `refresh` gives states other scores.
      entropy: whether `where` or `score` reads the policy's; else it may be unknown.
    """

    schedule: schedule.Config
    cells: int
    longest: int
    where: Signal
    score: Signal
    worth: Worth
    weigh: Callable[[Bandit], Weigh]
    end_ids: tuple[int, ...]
    seed: int
    tail: float = 0.1
    proposes_below: float = 0.2
    explained: float | None = None
    dead_after: int = 16
    proven: int = 0
    chains: bool = False
    rescore: bool = True
    entropy: bool = True


class Found(NamedTuple):
    """A rollout as replay sees it."""

    starts: States  # [B], of each group
    each: States  # [M], of each answer
    tokens: np.ndarray  # int32 [M, T], sampled
    length: np.ndarray  # int32 [M]
    step: np.ndarray  # int32 [M, T], number of each token's reasoning step
    # int32 [M], most of the tokens sampled after which no answer is stated yet
    unanswered: np.ndarray
    right: np.ndarray  # bool [M]
    judged: np.ndarray  # bool [M]
    entropy: np.ndarray | None  # float32 [M, T]
    value: np.ndarray | None  # float32 [M, T], V before the token
    returns: np.ndarray | None  # float32 [M, T], TD(lambda) in raw reward
    explained: float | None  # variance of the rewards to come, by the critic
    warming: bool  # the critic warms up: nothing is stored


def begin(settings: Settings, room: np.ndarray) -> Memory:
    """An archive without states.

    Args:
      settings: sizes.
      room: int [N], see `cells.empty`.
    """
    archive = cells.empty(room, settings.cells, settings.longest)
    return Memory(archive, bandit_lib.init(archive))


def seed(
    settings: Settings,
    memory: Memory,
    states: States,
    value: Callable[[States], np.ndarray] | None,
    step: int,
) -> tuple[Memory, dict[str, float]]:
    """States that come from written solutions, as of `promise.canonical`.

    They are cells like others, but for their origin: they are chosen, scored anew,
    replaced and dropped by the same rules. One that is too long is refused.

    Args:
      settings: of replay.
      memory: what is known.
      states: the seeds.
      value: as of `refresh`. Without a critic the i-th of n seeds of a problem has
        the score i / (n + 1): it is so far along. Tries lead away from it, see
        `choice.shrunk`.
      step: of the run.

    Returns:
      The memory, and metrics under replay/.
    """
    fits = states.length <= memory.archive.room[states.problem]
    some = States(*(x[fits] for x in states))
    # Of states with one score the shorter alone would stay.
    score = _place(some.problem) if value is None or not fits.any() else value(some)
    archive, became = archive_lib.add(
        memory.archive, promise.proposals(some, score), step,
        end_ids=settings.end_ids, worth=settings.worth, origin=cells.CANONICAL,
    )  # fmt: skip
    told = {
        "replay/seeds_added": float(became.added + became.replaced),
        "replay/seeds_too_long": float(np.sum(~fits)),
    }
    return dataclasses.replace(memory, archive=archive), told


def _place(problem: np.ndarray) -> np.ndarray:
    """i / (n + 1) for the i-th of the n seeds of a problem, which stand together."""
    _, first, which, count = np.unique(
        problem, return_index=True, return_inverse=True, return_counts=True
    )
    return (np.arange(len(problem)) - first[which] + 1) / (count[which] + 1)


def choose(
    settings: Settings,
    memory: Memory,
    history: History,
    problems: np.ndarray,
    step: int,
) -> tuple[Memory, States, float]:
    """Where each group begins, and the share of replay at this step.

    Args:
      settings: of replay.
      memory: what is known.
      history: of bare tries.
      problems: int [B].
      step: of the run.
    """
    archive, starts, rho = schedule.draw(
        memory.archive, history, settings.schedule, problems, step, settings.seed,
        settings.weigh(memory.bandit),
    )  # fmt: skip
    return dataclasses.replace(memory, archive=archive), starts, rho


def remember(
    settings: Settings, memory: Memory, history: History, found: Found, step: int
) -> tuple[Memory, dict[str, float]]:
    """What came of the starts, and the states that the answers propose.

    Args:
      settings: of replay.
      memory: what is known.
      history: of bare tries, those of this step included.
      found: the rollout.
      step: of the run.

    Returns:
      The memory, and metrics under replay/.
    """
    told = _success_by_age(memory.archive, found, step)
    groups = len(found.starts.problem)
    tries = found.judged.reshape(groups, -1).sum(axis=1)
    solves = (found.right & found.judged).reshape(groups, -1).sum(axis=1)
    outcome = (found.starts.problem, found.starts.serial, tries, solves)
    archive, _ = archive_lib.feedback(memory.archive, *outcome)
    bandit = bandit_lib.learn(memory.bandit, archive, *outcome)
    allowed = promise.who_proposes(
        found.right,
        schedule.bare_success(history)[found.each.problem],
        settings.proposes_below,
    )
    states, finished = _proposed(settings, found, allowed & found.judged, step)
    archive, added = archive_lib.add(
        archive, states, step, end_ids=settings.end_ids, worth=settings.worth,
        chains=settings.chains,
    )  # fmt: skip
    added = added._replace(finished=added.finished + finished)
    told |= {f"replay/states_{key}": float(n) for key, n in added._asdict().items()}
    return Memory(archive, bandit), told


def _proposed(
    settings: Settings, found: Found, allowed: np.ndarray, step: int
) -> tuple[archive_lib.Proposals, int]:
    """States, and how many answers have none but such as state an answer already."""
    answers = _answers(settings, found, step)
    if settings.proven:
        allowed = allowed & found.right
    else:
        trusted = settings.explained is None or (
            found.explained is not None and found.explained >= settings.explained
        )
        allowed = allowed & trusted & (not found.warming)
    finished = allowed & ~answers.legal.any(axis=1)
    finished &= promise.legal_cuts(found.step, found.length, settings.tail).any(axis=1)
    if settings.proven:
        return promise.proven(answers, settings.proven, allowed), int(finished.sum())
    all_ = promise.propose(answers, settings.where, settings.score, allowed)
    states = archive_lib.Proposals(*(x[~finished] for x in all_))
    return states, int(finished.sum())


def refresh(
    settings: Settings,
    memory: Memory,
    history: History,
    value: Callable[[States], np.ndarray] | None,
) -> tuple[Memory, dict[str, float]]:
    """Scores of the present critic; dead cells and those of solved problems go.

    Args:
      settings: of replay.
      memory: what is known.
      history: of bare tries.
      value: states -> V of each, float [M]; None where scores stay as they are.

    Returns:
      The memory, and metrics under replay/.
    """
    archive = memory.archive
    solved = schedule.solved(history, settings.schedule.solved_at)[:, None]
    archive, retired = archive_lib.evict(archive, solved)
    archive, dead = archive_lib.evict(
        archive, archive_lib.dead(archive, settings.dead_after)
    )
    states = archive_lib.states(archive)
    if settings.rescore and value is not None and len(states.problem):
        archive, _ = archive_lib.rescore(
            archive, states.problem, states.serial, value(states)
        )
    told = {"replay/retired": float(retired), "replay/dead": float(dead)}
    return dataclasses.replace(memory, archive=archive), told


def look(memory: Memory, step: int, least_tries: int = 4) -> dict[str, float]:
    """How full the archive is, how old, and whether promising means something.

    `replay/rank_correlation` is Spearman's, of the scores of cells and their shares of
    right answers, over cells with `least_tries`; NaN where there are not three.

    Args:
      memory: what is known.
      step: of the run.
      least_tries: of a cell that counts.
    """
    archive = memory.archive
    used = archive.used
    tried = used & (archive.tries >= least_tries)
    rate = archive.solves[tried] / np.maximum(archive.tries[tried], 1)
    ages = step - archive.added[used]
    return {
        "replay/fill": float(used.mean()),
        "replay/problems": float(used.any(axis=1).mean()),
        "replay/cell_age": float(ages.mean()) if ages.size else float("nan"),
        "replay/rank_correlation": rank_correlation(archive.score[tried], rate),
    }


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: the correlation of ranks, equal numbers sharing theirs.

    Args:
      a: float [any].
      b: float, the same shape.

    Returns:
      NaN for fewer than three numbers, or where all of one are equal.
    """
    if len(a) < 3:
        return float("nan")
    ranks = []
    for x in (a, b):
        _, inverse, count = np.unique(x, return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - (count - 1) / 2
        rank = middle[inverse]
        ranks.append(rank - rank.mean())
    size = np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2))
    return float(np.sum(ranks[0] * ranks[1]) / size) if size else float("nan")


def _answers(settings: Settings, found: Found, step: int) -> Answers:
    """What signals read; the group's reward is of the answers that were judged."""
    groups = len(found.starts.problem)
    right = (found.right & found.judged).reshape(groups, -1)
    judged = found.judged.reshape(groups, -1)
    mean = right.sum(axis=1) / np.maximum(judged.sum(axis=1), 1)
    # A stream of its own: the draws of starts take [seed, step].
    noise = np.random.default_rng([settings.seed, step, 1]).random(found.tokens.shape)
    return Answers(
        start=found.each,
        tokens=found.tokens,
        length=found.length,
        legal=promise.legal_cuts(
            found.step, found.length, settings.tail, found.unanswered
        ),
        returns=found.returns,
        value=found.value,
        entropy=found.entropy,
        group=np.repeat(mean, right.shape[1]),
        noise=noise,
    )


def _success_by_age(archive: Archive, found: Found, step: int) -> dict[str, float]:
    """Share of right answers from replayed states, by how old these are."""
    each = found.each
    cell = cells.locate(archive, each.problem, each.serial)
    there = (cell >= 0) & found.judged
    age = np.where(there, step - archive.added[each.problem, cell], -1)
    told = {}
    for low, high in zip(AGES, (*AGES[1:], np.inf), strict=True):
        some = there & (age >= low) & (age < high)
        right = found.right[some]
        told[f"replay/right_age_{low}"] = float(right.mean() if right.size else np.nan)
    return told
