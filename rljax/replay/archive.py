"""The archive of retrospective replay: states found early, kept to go on from later.

    archive = cells.empty(room, cells=10, longest=256)
    archive, starts = choose(archive, problems, wanted, draws, weigh)
    ...                        # answers that go on from starts, their rewards
    archive, lost = feedback(archive, starts.problem, starts.serial, tries, solves)
    archive, added = add(archive, proposals, update, end_ids=end_ids)

Each problem has at most K cells. A state enters while there is room, or if it is worth
more than the least of them. Every function takes an archive and gives back another; the
one it was given stays as it is.

Source: the start-state archive of a prototype (specification of RRL, arXiv:2504.14363,
sections 3.2-3.4), without its defects: a state is tokens and not a slice of text, a
finished answer is none, one that is known keeps its visits, and one that is too long is
refused, never cut. Shape letters as in `cells.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rljax.replay import cells
from rljax.replay.cells import BARE, FORBIDDEN, NONE, ROLLOUT, Archive, States


class Proposals(NamedTuple):
    """States that may be worth keeping."""

    problem: np.ndarray  # int32 [M]
    tokens: np.ndarray  # int32 [M, any]
    length: np.ndarray  # int32 [M], tokens of the state
    score: np.ndarray  # float32 [M]; -inf proposes nothing


class Added(NamedTuple):
    """What became of proposals, how many of each; a call's sum is its proposals."""

    nothing: int = 0  # proposed nothing
    added: int = 0  # to a free cell
    replaced: int = 0  # the least worth of a full problem
    raised: int = 0  # known, and has the higher score now
    known: int = 0  # and its score as high
    redundant: int = 0  # a stored state is its beginning, with the same score
    below: int = 0  # worth no more than the least
    full: int = 0  # all cells are marked by people
    forbidden: int = 0  # begins with a forbidden state
    too_long: int = 0  # longer than the problem has room for
    finished: int = 0  # holds an end token


class View(NamedTuple):
    """The cells of one problem, for functions that weigh them; [K] each."""

    problem: int
    serial: np.ndarray
    length: np.ndarray
    score: np.ndarray
    visits: np.ndarray
    tries: np.ndarray
    solves: np.ndarray
    added: np.ndarray
    mark: np.ndarray


# cells of a problem -> how likely each is to be chosen, float [K], 0 for never. What it
# says of free and of forbidden cells is not read.
Weigh = Callable[[View], np.ndarray]
# (score, tries, solves), arrays of one shape -> what a state is worth keeping for.
Worth = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def as_scored(score: np.ndarray, tries: np.ndarray, solves: np.ndarray) -> np.ndarray:
    """A state is worth its score, whatever came of it."""
    del tries, solves
    return score


def add(
    archive: Archive,
    proposals: Proposals,
    update: int,
    *,
    end_ids: Sequence[int],
    worth: Worth = as_scored,
    origin: int = ROLLOUT,
    chains: bool = False,
) -> tuple[Archive, Added]:
    """Keeps the proposals that are good enough, one after the other.

    A state that is there already keeps its visits and takes the higher score. One of
    two states with the same score goes, if it begins with the other: the shorter stays,
    unless there may be `chains`. In a full problem a state takes the place of the least
    worth, if it is worth more.

    Args:
      archive: all cells.
      proposals: states; those of one step of all hosts, in the same order everywhere.
      update: the present one; a cell's age counts from it.
      end_ids: tokens that end an answer: a finished answer is no state.
      worth: by what states are compared; a new one has no tries.
      origin: of the proposals.
      chains: whether a state may go on from another with its score. A group's score
        of 0 is that of many states.

    Returns:
      The archive, and what became of the proposals.

    Raises:
      ValueError: if shapes disagree, a problem is unknown, a length is negative or
        past the tokens, or a score is NaN or +inf.
    """
    _check(archive, proposals)
    draft = cells.on_host(archive)
    became = dict.fromkeys(Added._fields, 0)
    rules = end_ids, worth, chains
    # Compared as they are stored: 0.7 is no higher than 0.7.
    given = proposals._replace(score=np.asarray(proposals.score, np.float32))
    for problem, tokens, length, score in zip(*given, strict=True):
        what, cell = "nothing", None
        state = np.asarray(tokens[:length], np.int32)
        if length and score > -np.inf:
            what, cell = _offer(draft, int(problem), state, score, *rules)
        if cell is not None:
            cells.put(draft, int(problem), cell, state, score, update, origin)
        became[what] += 1
    return draft, Added(**became)


def _offer(draft, problem, state, score, ends, worth, chains) -> tuple[str, int | None]:
    """What becomes of a state, and the cell it is to go to if there is one."""
    if len(state) > draft.room[problem]:
        return "too_long", None
    if np.isin(state, ends).any():
        return "finished", None
    kin, mark = cells.kin(draft, problem, state), draft.mark[problem]
    if np.any((kin.same | kin.shorter) & (mark == FORBIDDEN)):
        return "forbidden", None
    if kin.same.any():
        cell = int(kin.same.argmax())
        if score <= draft.score[problem, cell]:
            return "known", None
        draft.score[problem, cell] = score
        return "raised", None
    level = (draft.score[problem] == score) & (not chains)
    if np.any(kin.shorter & level):
        return "redundant", None
    cells.free(draft, problem, kin.longer & level & (mark == NONE))
    if not draft.used[problem].all():
        return "added", int(draft.used[problem].argmin())
    cell = least(draft, problem, worth)
    if cell is None:
        return "full", None
    nothing = np.zeros((), np.int32)
    least_worth = worth(*(x[problem, cell] for x in _judged(draft)))
    if worth(score, nothing, nothing) > least_worth:
        return "replaced", cell
    return "below", None


def least(archive: Archive, problem: int, worth: Worth = as_scored) -> int | None:
    """The cell of a full problem that is worth least and bears no mark, or None."""
    loose = archive.mark[problem] == NONE
    now = worth(*(x[problem] for x in _judged(archive)))
    return int(np.where(loose, now, np.inf).argmin()) if loose.any() else None


def _judged(archive: Archive) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return archive.score, archive.tries, archive.solves


def choose(
    archive: Archive,
    problems: np.ndarray,
    wanted: np.ndarray,
    draws: np.ndarray,
    weigh: Weigh,
) -> tuple[Archive, States]:
    """A start for each problem: a stored state drawn by weight, or the bare problem.

    A start is one group's: all its answers begin there. Each choice counts as a visit,
    also for a later one of the same problem in the same call.

    Args:
      archive: all cells.
      problems: int [M].
      wanted: bool [M], whether to go on from a stored state if there is one; all False
        in evaluation.
      draws: float [M] in [0, 1), uniform.
      weigh: weights of the cells of a problem.

    Returns:
      The archive with the visits, and the starts.

    Raises:
      ValueError: if shapes disagree, a problem is unknown, a draw lies outside [0, 1),
        or a weight is negative or not finite.
    """
    cells.check_problems(archive, problems)
    _same_length("choose", problems=problems, wanted=wanted, draws=draws)
    draws = np.asarray(draws)
    if draws.size and not (draws.min() >= 0 and draws.max() < 1):
        raise ValueError(f"draws must lie in [0, 1), got {draws.min()}..{draws.max()}")
    draft = dataclasses.replace(archive, visits=archive.visits.copy())
    starts = bare(problems, archive.tokens.shape[-1])
    for m in np.flatnonzero(wanted):
        problem = int(problems[m])
        cell = _drawn(weights(draft, problem, weigh), draws[m])
        if cell is None:
            continue
        draft.visits[problem, cell] += 1
        starts.serial[m] = draft.serial[problem, cell]
        starts.tokens[m] = draft.tokens[problem, cell]
        starts.length[m] = draft.length[problem, cell]
    return draft, starts


def weights(archive: Archive, problem: int, weigh: Weigh) -> np.ndarray:
    """How likely each cell of a problem is to be chosen, float64 [K].

    Args:
      archive: all cells.
      problem: which.
      weigh: weights of cells; those of free and of forbidden ones are 0.

    Raises:
      ValueError: if a weight is negative or not finite.
    """
    there = view(archive, problem)
    weight = np.asarray(weigh(there), np.float64)
    open_ = (there.serial != BARE) & (there.mark != FORBIDDEN)
    weight = np.where(open_, weight, 0.0)
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError(
            f"weights of problem {there.problem} must be finite and not negative, got "
            f"{weight.tolist()}"
        )
    return weight


def _drawn(weight: np.ndarray, draw: float) -> int | None:
    some = np.flatnonzero(weight)
    if not some.size:
        return None
    ends = np.cumsum(weight[some])
    place = np.searchsorted(ends, draw * ends[-1], side="right")
    return int(some[min(place, len(some) - 1)])  # rounded, of weights near 0


def bare(problems: np.ndarray, longest: int) -> States:
    """Starts from the problems alone; what evaluation begins with.

    Args:
      problems: int [M].
      longest: L.
    """
    count = len(problems)
    return States(
        problem=np.array(problems, np.int32),
        serial=np.full(count, BARE, np.int32),
        tokens=np.zeros((count, longest), np.int32),
        length=np.zeros(count, np.int32),
    )


def view(archive: Archive, problem: int) -> View:
    """The cells of a problem, as functions that weigh them see it."""
    return View(
        problem, *(getattr(archive, name)[problem] for name in View._fields[1:])
    )


def feedback(
    archive: Archive,
    problem: np.ndarray,
    serial: np.ndarray,
    tries: np.ndarray,
    solves: np.ndarray,
) -> tuple[Archive, int]:
    """Counts what came of answers that went on from states.

    Args:
      archive: all cells.
      problem: int [M].
      serial: int [M], of the cells; bare starts are passed over.
      tries: int [M], answers that were judged.
      solves: int [M], right answers among them.

    Returns:
      The archive, and how many of the cells are gone by now.

    Raises:
      ValueError: if shapes disagree, a problem is unknown, or solves are not within
        0..tries.
    """
    tries, solves = np.asarray(tries), np.asarray(solves)
    cell = cells.locate(archive, problem, serial)
    _same_length("feedback", problem=problem, tries=tries, solves=solves)
    wrong = np.flatnonzero((solves < 0) | (solves > tries))
    if wrong.size:
        m = wrong[0]
        raise ValueError(f"{solves[m]} solves of {tries[m]} tries at place {m}")
    there = cell >= 0
    at = np.asarray(problem)[there], cell[there]
    counts = archive.tries.copy(), archive.solves.copy()
    for count, more in zip(counts, (tries, solves), strict=True):
        np.add.at(count, at, more[there])
    lost = int(np.sum(~there & (np.asarray(serial) != BARE)))
    return dataclasses.replace(archive, tries=counts[0], solves=counts[1]), lost


def states(archive: Archive, of: np.ndarray | None = None) -> States:
    """All states but the forbidden ones, to be scored anew.

    Args:
      archive: all cells.
      of: bool [N], problems whose states are meant; all unless given.
    """
    there = archive.used & (archive.mark != FORBIDDEN)
    if of is not None:
        there &= np.asarray(of, bool)[:, None]
    problem, cell = np.nonzero(there)
    return States(
        problem=problem.astype(np.int32),
        serial=archive.serial[problem, cell],
        tokens=archive.tokens[problem, cell],
        length=archive.length[problem, cell],
    )


def rescore(
    archive: Archive, problem: np.ndarray, serial: np.ndarray, score: np.ndarray
) -> tuple[Archive, int]:
    """Gives cells another score, such as the present critic's.

    Args:
      archive: all cells.
      problem: int [M].
      serial: int [M].
      score: float [M].

    Returns:
      The archive, and how many of the cells are gone by now.

    Raises:
      ValueError: if shapes disagree, a problem is unknown, or a score is not finite.
    """
    cell = cells.locate(archive, problem, serial)
    _same_length("rescore", problem=problem, score=score)
    if not np.isfinite(score).all():
        raise ValueError(f"scores must be finite, got {np.asarray(score).tolist()}")
    there = cell >= 0
    scores = archive.score.copy()
    scores[np.asarray(problem)[there], cell[there]] = np.asarray(score)[there]
    return dataclasses.replace(archive, score=scores), int(np.sum(~there))


def evict(archive: Archive, which: np.ndarray) -> tuple[Archive, int]:
    """Drops cells, except those that people have marked.

    Args:
      archive: all cells.
      which: bool [N, K], or [N, 1] for all cells of problems.

    Returns:
      The archive, and how many cells were dropped.
    """
    going = archive.used & (archive.mark == NONE) & which
    draft = cells.on_host(archive)
    for problem in np.flatnonzero(going.any(axis=1)):
        cells.free(draft, int(problem), going[problem])
    return draft, int(going.sum())


def dead(archive: Archive, tries: int = 16) -> np.ndarray:
    """Cells with that many `tries` at least and no right answer, bool [N, K]."""
    return archive.used & (archive.tries >= tries) & (archive.solves == 0)


def _check(archive: Archive, proposals: Proposals) -> None:
    cells.check_problems(archive, proposals.problem)
    _same_length("add", **proposals._asdict())
    length, score = np.asarray(proposals.length), np.asarray(proposals.score)
    limit = np.shape(proposals.tokens)[1]
    if length.size and not (length.min() >= 0 and length.max() <= limit):
        raise ValueError(
            f"lengths must lie in 0..{limit}, the tokens given, got "
            f"{length.min()}..{length.max()}"
        )
    if np.isnan(score).any() or np.any(score == np.inf):
        raise ValueError(f"scores must be finite or -inf, got {score.tolist()}")


def _same_length(function: str, **arrays: np.ndarray) -> None:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{function} needs arrays of one length, got {lengths}")
