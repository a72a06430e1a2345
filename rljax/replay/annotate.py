"""What people may do to an archive: promote, forbid, score, add.

Each function gives back another archive, and refuses what cannot be done with a
ValueError that says why. `data.archive_file` reads such wishes from a file.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rljax.replay import archive as archive_lib
from rljax.replay import cells
from rljax.replay.cells import FORBIDDEN, HUMAN, MARKS, NONE, Archive

LARGEST = float(np.finfo(np.float32).max)  # of scores, which have 32 bits


def is_score(value: Any) -> bool:
    """Whether a value, of whatever type, is a number that a cell can hold as its score.

    Args:
      value: anything; of a number that overflows to infinity it says no.
    """
    number = isinstance(value, int | float | np.integer | np.floating)
    # Neither holds of NaN, and an integer of any size is compared exactly.
    return number and type(value) is not bool and bool(-LARGEST <= value <= LARGEST)


def mark(archive: Archive, problem: int, cell: int, as_: int) -> Archive:
    """Marks a cell, or takes its mark away.

    Forbidding one drops the cells of the problem that begin with its state and bear no
    mark.

    Args:
      archive: all cells.
      problem: of the cell.
      cell: one that holds a state.
      as_: NONE, PROMOTED or FORBIDDEN.

    Raises:
      ValueError: if the cell is free, the mark is unknown, or a promoted state begins
        with one to be forbidden, or a forbidden one is its beginning.
    """
    if not archive.used[problem, cell]:
        raise ValueError(f"cell {cell} of problem {problem} is free")
    if not 0 <= as_ < len(MARKS):
        raise ValueError(f"mark is {as_}, expected one of 0..{len(MARKS) - 1}")
    draft = cells.on_host(archive)
    if as_ == FORBIDDEN:
        _drop_heirs(draft, problem, cells.state_of(draft, problem, cell))
    elif as_ != NONE:
        _require_allowed(draft, problem, cells.state_of(draft, problem, cell))
    draft.mark[problem, cell] = as_
    return draft


def insert(
    archive: Archive,
    problem: int,
    state: np.ndarray,
    score: float,
    update: int,
    *,
    end_ids: Sequence[int],
    as_: int = NONE,
) -> Archive:
    """Adds a state whatever it is worth; in a full problem the least worth goes.

    Args:
      archive: all cells.
      problem: of the state.
      state: int [any], its tokens.
      score: how promising; not read of a forbidden one.
      update: the present one.
      end_ids: as of `archive.add`.
      as_: NONE, PROMOTED or FORBIDDEN; a forbidden state is not stored in order to be
        replayed, but so that nothing which begins with it is.

    Raises:
      ValueError: if the state is empty, too long, finished, there already or begins
        with a forbidden one, the score is not finite, the problem is unknown, or all
        its cells are marked.
    """
    cells.check_problems(archive, np.array([problem]))
    state = np.asarray(state, np.int32)
    room = int(archive.room[problem])
    if not 1 <= len(state) <= room:
        raise ValueError(f"the state has {len(state)} tokens, expected 1 to {room}")
    ends = np.flatnonzero(np.isin(state, end_ids))
    if ends.size:
        raise ValueError(
            f"token {ends[0]} of the state is {state[ends[0]]}, which ends an answer"
        )
    _require_score(score)
    same = cells.kin(archive, problem, state).same
    if same.any():
        serial = archive.serial[problem, same.argmax()]
        raise ValueError(f"the state is there already, as cell {serial}")
    draft = cells.on_host(archive)
    if as_ == FORBIDDEN:
        _drop_heirs(draft, problem, state)
    else:
        _require_allowed(draft, problem, state)
    cell: int | None = int(draft.used[problem].argmin())
    if draft.used[problem, cell]:
        cell = archive_lib.least(draft, problem)
    if cell is None:
        raise ValueError(
            f"all {draft.used.shape[1]} cells of the problem are marked: clear one"
        )
    cells.put(draft, problem, cell, state, score, update, HUMAN)
    draft.mark[problem, cell] = as_
    return draft


def set_score(archive: Archive, problem: int, cell: int, score: float) -> Archive:
    """Gives a cell another score; the next refresh by the critic overwrites it.

    Raises:
      ValueError: if the cell is free, or the score is not finite.
    """
    if not archive.used[problem, cell]:
        raise ValueError(f"cell {cell} of problem {problem} is free")
    _require_score(score)
    scores = archive.score.copy()
    scores[problem, cell] = score
    return dataclasses.replace(archive, score=scores)


def _require_score(score: float) -> None:
    if not is_score(score):
        raise ValueError(
            f"the score must be finite, got {score}; it has 32 bits, which hold up to "
            f"{LARGEST:.3g}"
        )


def _drop_heirs(draft: Archive, problem: int, state: np.ndarray) -> None:
    """Frees the cells that begin with a state and go on."""
    longer = cells.kin(draft, problem, state).longer
    promoted = longer & (draft.mark[problem] == cells.PROMOTED)
    if promoted.any():
        serial = draft.serial[problem, promoted.argmax()]
        raise ValueError(
            f"cell {serial} begins with the state and is promoted: clear it first"
        )
    cells.free(draft, problem, longer & (draft.mark[problem] == NONE))


def _require_allowed(archive: Archive, problem: int, state: np.ndarray) -> None:
    shorter = cells.kin(archive, problem, state).shorter
    forbidden = shorter & (archive.mark[problem] == FORBIDDEN)
    if forbidden.any():
        serial = archive.serial[problem, forbidden.argmax()]
        raise ValueError(
            f"the state begins with that of cell {serial}, a forbidden one"
        )
