"""The states of an archive as trees, with what came of each, ready to be shown.

A state that begins with another hangs below it: it grew from it, or from an answer that
said the same. Problems come in the order in which replay helped.
"""

from typing import NamedTuple

import numpy as np

from rljax.data import steps
from rljax.replay import cells
from rljax.replay.cells import MARKS, ORIGINS, Archive
from rljax.training.online_parts import Host, Parts


class State(NamedTuple):
    """A stored state, and those that begin with it.

    Attributes:
      cell: its name in the archive, and in files of annotations.
      text: what it adds to the state above it, or all of it.
      tokens: of the whole state.
      score: how promising it is said to be.
      visits: how often it was chosen.
      tries: answers that went on from it and were judged.
      solves: right ones among them.
      age: steps since it was stored.
      origin: rollout, canonical or human.
      mark: promote, forbid or "".
      below: states that begin with it.
    """

    cell: int
    text: str
    tokens: int
    score: float
    visits: int
    tries: int
    solves: int
    age: int
    origin: str
    mark: str
    below: "list[State]"


class Told(NamedTuple):
    """A problem with what became of it.

    Attributes:
      name: of the problem.
      prompt: what the policy reads.
      answer: the right one.
      solution: as it is written; "" where there is none.
      solved: whether any answer ever was right.
      bare: answers to the bare problem, and right ones among them.
      recent: share of right ones among the last of these; None before there are any.
      again: answers from stored states, of those too that have gone, and right ones.
      states: those that begin with no other.
    """

    name: str
    prompt: str
    answer: str
    solution: str
    solved: bool
    bare: tuple[int, int]
    recent: float | None
    again: tuple[int, int]
    states: list[State]

    @property
    def only_again(self) -> bool:
        """Whether it was solved from stored states alone."""
        return self.solved and not self.bare[1]


def problems_of(parts: Parts, host: Host) -> list[Told]:
    """All problems, those first that replay helped most.

    First come those that were solved from a stored state alone, then those with most
    right answers from states, then those with most tries, then most states.

    Args:
      parts: of a run with replay.
      host: what it carries.
    """
    assert host.memory is not None
    archive, history = host.memory.archive, host.history
    step = int(host.counts[0])
    found = []
    for i, problem in enumerate(parts.problems):
        outcome = history.outcome[i][history.outcome[i] >= 0]
        found.append(
            Told(
                name=problem.task,
                prompt=problem.prompt,
                answer=problem.answer,
                solution=problem.solution,
                solved=bool(host.solved[i]),
                bare=(int(history.tries[i]), int(history.solves[i])),
                recent=float(outcome.mean()) if outcome.size else None,
                again=(int(host.replayed[i, 0]), int(host.replayed[i, 1])),
                states=_tree(parts, archive, i, step),
            )
        )
    return sorted(
        found,
        key=lambda one: (
            not one.only_again, -one.again[1], -one.again[0], -len(each(one.states))
        ),
    )  # fmt: skip


def each(states: list[State]) -> list[State]:
    """States and all below them, each before those below it."""
    return [one for top in states for one in (top, *each(top.below))]


def _tree(parts: Parts, archive: Archive, problem: int, step: int) -> list[State]:
    """The states of a problem; of several that stand side by side the best first."""
    prompt = np.asarray(parts.prompts[problem], np.int32)
    tops: list[State] = []
    known: list[tuple[np.ndarray, State]] = []
    used = np.flatnonzero(archive.used[problem])
    for k in used[np.argsort(archive.length[problem, used], kind="stable")]:
        ids = cells.state_of(archive, problem, int(k))
        # The longest of those that it begins with was met last.
        above = [one for one in known if np.array_equal(one[0], ids[: len(one[0])])]
        said = len(prompt) + (len(above[-1][0]) if above else 0)
        whole = np.concatenate([prompt, ids])
        text, _ = steps.reaches(parts.tokenizer, whole, said, len(whole))
        state = State(
            cell=int(archive.serial[problem, k]),
            text=text,
            tokens=len(ids),
            score=float(archive.score[problem, k]),
            visits=int(archive.visits[problem, k]),
            tries=int(archive.tries[problem, k]),
            solves=int(archive.solves[problem, k]),
            age=step - int(archive.added[problem, k]),
            origin=ORIGINS[archive.origin[problem, k]],
            mark=MARKS[archive.mark[problem, k]],
            below=[],
        )
        (above[-1][1].below if above else tops).append(state)
        known.append((ids, state))
    for siblings in (tops, *(one.below for _, one in known)):
        siblings.sort(key=lambda one: (-one.solves, -one.score))
    return tops
