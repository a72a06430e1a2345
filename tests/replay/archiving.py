"""An archive written as lists, to compare ours with, and help in making ours."""

import numpy as np

from rljax.replay import archive as archive_lib
from rljax.replay import cells

END = 99


def proposals(*rows) -> archive_lib.Proposals:
    """Rows (problem, tokens, score)."""
    longest = max((len(tokens) for _, tokens, _ in rows), default=0)
    tokens = np.zeros((len(rows), longest), np.int32)
    for m, (_, state, _) in enumerate(rows):
        tokens[m, : len(state)] = state
    return archive_lib.Proposals(
        problem=np.array([row[0] for row in rows], np.int32),
        tokens=tokens,
        length=np.array([len(row[1]) for row in rows], np.int32),
        score=np.array([row[2] for row in rows], np.float32),
    )


def filled(*rows, problems=2, count=3, longest=6, room=9):
    """An archive with the states of rows (problem, tokens, score)."""
    archive = cells.empty(np.full(problems, room), count, longest)
    archive, added = archive_lib.add(archive, proposals(*rows), 0, end_ids=[END])
    assert added.added == len(rows)
    return archive


def contents(archive, problem) -> dict[tuple, float]:
    """States of a problem and their scores."""
    used = [int(k) for k in np.flatnonzero(archive.used[problem])]
    states = [tuple(cells.state_of(archive, problem, k).tolist()) for k in used]
    return dict(zip(states, archive.score[problem, used].tolist(), strict=True))


class Plain:
    """The rules of `archive.add` as one would write them down; no marks."""

    def __init__(self, count, room):
        self.count, self.room, self.slots = count, room, {}

    def of(self, problem) -> dict[tuple, float]:
        return dict(slot for slot in self.slots.get(problem, []) if slot)

    def offer(self, problem, state, score):
        slots = self.slots.setdefault(problem, [None] * self.count)
        if not state or score == -np.inf:
            return "nothing"
        if len(state) > self.room:
            return "too_long"
        if END in state:
            return "finished"
        known = self.of(problem)
        if state in known:
            if score <= known[state]:
                return "known"
            slots[[slot and slot[0] for slot in slots].index(state)] = (state, score)
            return "raised"
        for other, its in known.items():
            if its == score and state[: len(other)] == other:
                return "redundant"
        for k, slot in enumerate(slots):
            if slot and slot[1] == score and slot[0][: len(state)] == state:
                slots[k] = None
        if None in slots:
            slots[slots.index(None)] = (state, score)
            return "added"
        scores = [slot[1] for slot in slots]
        if score <= min(scores):
            return "below"
        slots[scores.index(min(scores))] = (state, score)
        return "replaced"
