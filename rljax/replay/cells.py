"""What the archive of retrospective replay holds: states of problems, as arrays.

A state is a prefix of an answer to one problem, the tokens as they were sampled and
without the prompt. It lives in a cell. Everything is numpy, on the host: the archive is
read and written between two updates, never inside compiled code. Of several hosts each
holds the whole of it and is given the same proposals in the same order.

Shape letters: N problems, K cells of a problem, L most tokens of a state, M states of a
call.
"""

from typing import NamedTuple

import flax.struct
import jax
import numpy as np

from rljax.types import PyTree

# Marks, which people set. A promoted cell is neither evicted nor dropped; a forbidden
# one is never chosen, and stays so that nothing which begins with it is stored again.
NONE, PROMOTED, FORBIDDEN = 0, 1, 2
MARKS = ("", "promote", "forbid")
# Where a state comes from.
ROLLOUT, CANONICAL, HUMAN = 0, 1, 2
ORIGINS = ("rollout", "canonical", "human")
BARE = -1  # serial of a start without a state


@flax.struct.dataclass
class Archive:
    """All cells; what a free one holds is said at each field.

    Attributes:
      tokens: int32 [N, K, L], zeros after the state.
      length: int32 [N, K], tokens of the state; 0 if free.
      score: float32 [N, K], how promising, in units of the raw reward; -inf if free.
      visits: int32 [N, K], how often it was chosen.
      tries: int32 [N, K], answers that went on from it and were judged.
      solves: int32 [N, K], how many of them were right.
      added: int32 [N, K], the update it was added at.
      serial: int32 [N, K], its name, which no other cell ever had; -1 if free.
      origin: int8 [N, K], ROLLOUT, CANONICAL or HUMAN.
      mark: int8 [N, K], NONE, PROMOTED or FORBIDDEN.
      room: int32 [N], most tokens of a state: what the problem's prompt leaves.
      next_serial: int32 [].
    """

    tokens: np.ndarray
    length: np.ndarray
    score: np.ndarray
    visits: np.ndarray
    tries: np.ndarray
    solves: np.ndarray
    added: np.ndarray
    serial: np.ndarray
    origin: np.ndarray
    mark: np.ndarray
    room: np.ndarray
    next_serial: np.ndarray

    @property
    def used(self) -> np.ndarray:
        """Cells that hold a state, bool [N, K]."""
        return self.length > 0


class States(NamedTuple):
    """Some states; their order is the caller's."""

    problem: np.ndarray  # int32 [M]
    serial: np.ndarray  # int32 [M], of the cell; BARE if there is none
    tokens: np.ndarray  # int32 [M, L], zeros after the state
    length: np.ndarray  # int32 [M], 0 if there is no state

    @property
    def replayed(self) -> np.ndarray:
        """Which of them go on from a stored state, bool [M]."""
        return self.serial != BARE


def empty(room: np.ndarray, cells: int, longest: int) -> Archive:
    """An archive without states.

    Args:
      room: int [N], most tokens that a state of each problem may have, what its prompt
        leaves of the longest prompt; a problem with less than 1 gets none.
      cells: K.
      longest: L; where a problem has more room, L is its limit.

    Raises:
      ValueError: if there is no problem, or a size is below 1.
    """
    room = np.asarray(room)
    if room.ndim != 1 or not room.size or not np.issubdtype(room.dtype, np.integer):
        raise ValueError(
            f"room must be one integer a problem, got {room.dtype}{list(room.shape)}"
        )
    for name, value in {"cells": cells, "longest": longest}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    shape = (len(room), cells)

    def counts() -> np.ndarray:
        return np.zeros(shape, np.int32)

    return Archive(
        tokens=np.zeros((*shape, longest), np.int32),
        length=counts(),
        score=np.full(shape, -np.inf, np.float32),
        visits=counts(),
        tries=counts(),
        solves=counts(),
        added=counts(),
        serial=np.full(shape, BARE, np.int32),
        origin=np.zeros(shape, np.int8),
        mark=np.zeros(shape, np.int8),
        room=np.minimum(room, longest).astype(np.int32),
        next_serial=np.zeros((), np.int32),
    )


def bytes_needed(problems: int, cells: int, longest: int) -> int:
    """Bytes of an archive, known before there is one.

    A call that changes tokens holds a second copy while it runs.

    Args:
      problems: N.
      cells: K.
      longest: L.
    """
    of_cell = 4 * longest + 7 * 4 + 2
    return problems * (cells * of_cell + 4) + 4


def on_host(tree: PyTree) -> PyTree:
    """Numpy arrays of their own, which may be written to: what a checkpoint gives back
    are arrays of a device.

    Args:
      tree: an archive, or another tree of arrays.
    """
    return jax.tree.map(np.array, tree)


def state_of(archive: Archive, problem: int, cell: int) -> np.ndarray:
    """The tokens of a cell, int32 [its length]."""
    return archive.tokens[problem, cell, : archive.length[problem, cell]]


def locate(archive: Archive, problem: np.ndarray, serial: np.ndarray) -> np.ndarray:
    """The cell that bears each name now.

    Args:
      archive: all cells.
      problem: int [M].
      serial: int [M].

    Returns:
      int64 [M]; -1 where it is gone, or there never was one.

    Raises:
      ValueError: if the two do not match, or a problem is unknown.
    """
    check_problems(archive, problem)
    if np.shape(serial) != np.shape(problem):
        raise ValueError(
            f"{np.shape(serial)} serials for {np.shape(problem)} problems: one each"
        )
    same = archive.serial[problem] == np.asarray(serial)[:, None]
    found = same.any(axis=1) & (np.asarray(serial) != BARE)
    return np.where(found, same.argmax(axis=1), -1)


def check_problems(archive: Archive, problem: np.ndarray) -> None:
    """Refuses problems that the archive does not have.

    Raises:
      ValueError: naming the first of them.
    """
    problem = np.asarray(problem)
    if problem.ndim != 1 or not np.issubdtype(problem.dtype, np.integer):
        raise ValueError(
            f"problems must be integers [M], got {problem.dtype}{list(problem.shape)}"
        )
    wrong = problem[(problem < 0) | (problem >= len(archive.room))]
    if wrong.size:
        raise ValueError(
            f"problem {wrong[0]} is unknown: the archive has {len(archive.room)}"
        )


class Kin(NamedTuple):
    """How the cells of a problem stand to a state; bool [K] each."""

    same: np.ndarray
    shorter: np.ndarray  # the state begins with the cell's, and goes on
    longer: np.ndarray  # the cell's begins with the state, and goes on


def kin(archive: Archive, problem: int, state: np.ndarray) -> Kin:
    """Which cells hold a state, a beginning of it, or what goes on from it.

    Args:
      archive: all cells.
      problem: of the state.
      state: int [at most L].
    """
    length, used = archive.length[problem], archive.used[problem]
    equal = archive.tokens[problem, :, : len(state)] == state
    common = np.minimum(np.cumprod(equal, axis=1).sum(axis=1), length)
    within, whole = common == length, common == len(state)
    return Kin(used & within & whole, used & within & ~whole, used & whole & ~within)


def put(
    draft: Archive,
    problem: int,
    cell: int,
    state: np.ndarray,
    score: float,
    update: int,
    origin: int = ROLLOUT,
) -> None:
    """Writes a state into a cell, over what is there. `draft` is the caller's own."""
    free(draft, problem, cell)
    draft.tokens[problem, cell, : len(state)] = state
    draft.length[problem, cell] = len(state)
    draft.score[problem, cell] = score
    draft.added[problem, cell] = update
    draft.origin[problem, cell] = origin
    draft.serial[problem, cell] = draft.next_serial
    draft.next_serial[...] += 1


def free(draft: Archive, problem: int, cells: np.ndarray | int) -> None:
    """Makes cells free. `draft` is the caller's own."""
    draft.tokens[problem, cells] = 0
    draft.score[problem, cells] = -np.inf
    draft.serial[problem, cells] = BARE
    for counts in (draft.length, draft.visits, draft.tries, draft.solves, draft.added):
        counts[problem, cells] = 0
    draft.origin[problem, cells] = ROLLOUT
    draft.mark[problem, cells] = NONE
