"""Step-level beam search guided by V.

    beams = [prompt]; done = []
    repeat: candidates = K next steps of each beam
            finished ones -> done; of the others the B with the highest V -> beams
    answer = the one of the highest V in done

No length normalisation, no log-probability of the policy, no removal of duplicates.
Source: Wang et al., 2024 (arXiv:2412.16145), section 4.4, and its code. There an answer
that ran out of room is done too; here it leaves the beam and answers nothing, since a
text that is cut short is no answer. All problems go on together, each as if alone.
Shape letters: P problems, N rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.search.cost import Cost
from rljax.search.steps import Sample, pad_rows
from rljax.search.values import Value
from rljax.types import Key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of a search.

    Raises:
      ValueError: one of them is impossible; it names it.
    """

    beams: int = 3  # B
    samples: int | None = None  # K, of each beam; None is B
    rounds: int = 20  # steps of an answer, at most

    def __post_init__(self) -> None:
        for name in ("beams", "samples", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    @property
    def each(self) -> int:
        """K."""
        return self.beams if self.samples is None else self.samples


class Answer(NamedTuple):
    """A finished candidate."""

    ids: np.ndarray  # int32 [tokens], its end token included
    value: float
    path: tuple[float, ...]  # V after each of its steps


class Found(NamedTuple):
    """What came of a problem."""

    answer: Answer | None  # None if nothing finished: it counts as wrong
    done: list[Answer]  # all that finished, in the order they did
    cut: int  # candidates that ran out of room
    rounds: int
    cost: Cost  # without the prompt's


class Candidate(NamedTuple):
    """A prefix that a beam stands at."""

    row: int  # of the states
    ids: np.ndarray
    path: tuple[float, ...]


def search(
    sample: Sample,
    value: Value,
    start: tuple[Any, Any],
    keys: Key,
    settings: Settings,
    pause: Callable[[], None] = lambda: None,
) -> list[Found]:
    """Searches answers to several problems at a time.

    Args:
      sample: draws steps; see `steps.make`.
      value: V at their ends; see `values.make`.
      start: states of both with a row for each problem, in order.
      keys: typed PRNG keys [P]. What is drawn for a problem is a function of its own.
      settings: sizes. A round has at most P * B * K rows.
      pause: called once a round; it may raise.

    Returns:
      What was found, problem by problem.
    """
    prefixes, judged = start
    nothing = np.zeros(0, np.int32)
    beams = [[Candidate(p, nothing, ())] for p in range(len(keys))]
    found = [Found(None, [], 0, 0, Cost()) for _ in beams]
    for number in range(settings.rounds):
        pause()
        parents = [
            (p, parent, b * settings.each + k)
            for p, beam in enumerate(beams)
            for b, parent in enumerate(beam)
            for k in range(settings.each)
        ]
        if not parents:
            break
        rows = np.array([parent.row for _, parent, _ in parents], np.int32)
        owner, _, candidate = zip(*parents, strict=True)
        drawn = step_keys(keys, number, np.array(owner), np.array(candidate))
        prefixes, steps = sample(prefixes, rows, drawn)
        judged, values = value(judged, rows, steps)
        open_: list[list[Candidate]] = [[] for _ in beams]
        for row, (p, parent, _) in enumerate(parents):
            ids = np.concatenate([parent.ids, steps.ids[row]])
            v = float(values[row])
            path = (*parent.path, v)
            said, lost = len(steps.ids[row]), int(steps.dropped[row])
            spent = found[p].cost.plus(Cost(said, said + lost, said))
            found[p] = found[p]._replace(cost=spent, rounds=number + 1)
            if steps.finished[row]:
                found[p].done.append(Answer(ids, v, path))
            elif steps.cut[row]:
                found[p] = found[p]._replace(cut=found[p].cut + 1)
            else:
                open_[p].append(Candidate(row, ids, path))
        # The first of equals stands first: `sorted` is stable.
        beams = [sorted(c, key=lambda c: -c.path[-1])[: settings.beams] for c in open_]
    return [one._replace(answer=best(one.done)) for one in found]


def best(done: list[Answer]) -> Answer | None:
    """The answer of the highest V, the first of equals; None of none."""
    return max(done, key=lambda answer: answer.value, default=None)


def step_keys(
    keys: Key, number: int, owner: np.ndarray, candidate: np.ndarray
) -> np.ndarray:
    """fold_in(fold_in(key of the problem, round), number of the candidate).

    Args:
      keys: typed PRNG keys [P].
      number: of the round.
      owner: int [N], problem of each row.
      candidate: int [N], number of the row among those of its problem.

    Returns:
      The words of the keys, uint32 [N, words].
    """
    places = np.zeros((2, pad_rows(len(owner))), np.int32)  # for few programs
    places[0, : len(owner)], places[1, : len(owner)] = owner, candidate
    return np.asarray(_fold(keys, number, *places))[: len(owner)]


@jax.jit
def _fold(keys, number, owner, candidate):
    def one(key, n):
        return jax.random.fold_in(jax.random.fold_in(key, number), n)

    return jax.random.key_data(jax.vmap(one)(keys[owner], candidate))
