"""Beam search in a small tree whose V is known exactly."""

import jax
import numpy as np
import pytest

from rljax.search import beam
from rljax.search.beam import Settings, search
from rljax.search.best_of_k import best_of_k, highest, majority
from rljax.search.steps import Steps

END = 9
# A policy over steps "0" and "1": it likes 0. Three steps, then the end token. Only
# the answer 1, 1, 1 is right, so V is the chance to say all that is left of it.
LIKES = 0.7
RIGHT = (1, 1, 1)


def exact(ids):
    said = tuple(i for i in ids if i != END)
    if said != RIGHT[: len(said)]:
        return 0.0
    return (1 - LIKES) ** (len(RIGHT) - len(said))


class Tree:
    """Sampler and critic of it; states are lists of what was said."""

    def __init__(self, temperature=1.0, deepest=3, ends=True, offset=0):
        self.temperature, self.deepest, self.ends = temperature, deepest, ends
        self.rows, self.offset = [], offset

    def sample(self, state, rows, words):
        self.rows.append(len(rows))
        said, finished, cut = [], [], []
        for row, word in zip(rows, words, strict=True):
            before = state[row]
            if len(before) == self.deepest:
                said.append(np.array([END if self.ends else 0], np.int32))
                finished.append(self.ends)
                cut.append(not self.ends)
                continue
            u = np.random.default_rng([int(x) for x in word]).random()
            token = 0 if self.temperature == 0 else int(u > LIKES)
            said.append(np.array([token], np.int32))
            finished.append(False)
            cut.append(False)
        after = [[*state[r], *x.tolist()] for r, x in zip(rows, said, strict=True)]
        ends, count = np.array(finished), len(rows)
        return after, Steps(said, ends, ~ends, np.array(cut), np.zeros(count, np.int32))

    def value(self, state, rows, steps):
        after = [[*state[r], *x.tolist()] for r, x in zip(rows, steps.ids, strict=True)]
        back = [len(x) - self.offset for x in after]
        return after, np.array([exact(x[:n]) for x, n in zip(after, back, strict=True)])


def said(found):
    """Tokens and V of the answer."""
    assert found.answer is not None
    return found.answer.ids.tolist(), found.answer.value


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def run(tree, count=1, seed=0, **settings):
    start = [[] for _ in range(count)]
    return search(
        tree.sample, tree.value, (start, start), keys(count, seed), Settings(**settings)
    )


def test_finds_what_greedy_does_not():
    greedy = run(Tree(temperature=0), beams=1)[0]
    assert said(greedy)[0] == [0, 0, 0, END]
    found = run(Tree(), 20, beams=7)
    right = [said(one)[0] == [*RIGHT, END] for one in found]
    alone = run(Tree(), 20, beams=1, samples=1)
    assert sum(said(one)[1] for one in alone) < 4  # 0.3 ** 3 each
    # A step survives with 1 - 0.7 ** 7 = 0.92, or more once several beams hold it.
    assert sum(right) >= 15
    for one, is_right in zip(found, right, strict=True):
        assert said(one)[1] == float(is_right)
        assert {len(answer.path) for answer in one.done} == {4}
        assert all(answer.path[-1] == answer.value for answer in one.done)
        assert one.rounds == 4


def test_counts_and_sizes_of_rounds():
    tree = Tree()
    (found,) = run(tree, beams=3, samples=2)
    assert tree.rows == [2, 4, 6, 6]  # one root; then 2 beams, then 3
    assert found.cost == (18, 18, 18)
    assert len(found.done) == 6


def test_each_problem_as_if_alone():
    start = [[] for _ in range(5)]
    tree = Tree()
    together = search(
        tree.sample, tree.value, (start, start), keys(5), Settings(beams=4)
    )
    answers = set()
    for p, one in enumerate(together):
        alone = search(
            tree.sample, tree.value, ([[]], [[]]), keys(5)[p : p + 1], Settings(beams=4)
        )[0]
        assert [x.ids.tolist() for x in alone.done] == [
            x.ids.tolist() for x in one.done
        ]
        assert alone.cost == one.cost
        answers |= {tuple(x.ids.tolist()) for x in one.done}
    assert len(answers) > 2


def test_reading_early_misleads():
    """V before the last token says nothing of the step that is chosen by it."""
    right = {
        offset: sum(
            said(one)[0] == [*RIGHT, END]
            for one in run(Tree(offset=offset), 40, beams=4)
        )
        for offset in (0, 1)
    }
    assert right[0] > right[1]


def test_nothing_finished_is_no_answer():
    (cut,) = run(Tree(ends=False), beams=2)
    assert cut.answer is None
    assert cut.done == []
    assert cut.cut == 4
    (short,) = run(Tree(), beams=2, rounds=3)
    assert short.answer is None
    assert short.cut == 0
    assert short.rounds == 3


def test_finished_ones_leave_the_beam_and_are_answers():
    """An answer may finish in any round, and the best of all rounds wins."""

    def sample(state, rows, words):
        # Row n of a round says n; the first row of each round finishes.
        said = [np.array([END if n == 0 else n], np.int32) for n in range(len(rows))]
        ends = np.arange(len(rows)) == 0
        after = [[*state[r], *x.tolist()] for r, x in zip(rows, said, strict=True)]
        none = np.zeros(len(rows), bool)
        return after, Steps(said, ends, ~ends, none, none.astype(np.int32))

    worth = {1: 0.3, 2: 0.8, 3: 0.1}

    def value(state, rows, steps):
        number = len(state[0]) + 1
        after = [[*state[r], *x.tolist()] for r, x in zip(rows, steps.ids, strict=True)]
        ends = [worth[number] if f else 0.01 * n for n, f in enumerate(steps.finished)]
        return after, np.array(ends)

    found = search(
        sample, value, ([[]], [[]]), keys(1), Settings(beams=2, samples=2, rounds=3)
    )[0]
    assert [one.value for one in found.done] == [0.3, 0.8, 0.1]
    # In the first round row 1 stays; of the next two its 1, never what finished.
    assert said(found)[0] == [1, END]
    assert [x.ids.tolist() for x in found.done] == [[END], [1, END], [1, 1, END]]
    assert beam.best([]) is None


@pytest.mark.parametrize("name", ["beams", "samples", "rounds"])
def test_impossible_sizes(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        Settings(**{name: 0})


def test_best_of_k_takes_the_highest_that_finished():
    tree = Tree(deepest=1)
    start = [[] for _ in range(3)]
    # One step and no end: nothing is an answer.
    found = best_of_k(tree.sample, tree.value, (start, start), keys(3), 8)
    assert found.best.tolist() == [-1, -1, -1]
    assert found.values.shape == (3, 8)
    assert found.cost == [(8, 8, 8)] * 3
    # All finish; the states go on from the chosen rows.
    open_, judged = found.states
    finished = best_of_k(tree.sample, tree.value, (open_, judged), keys(24), 1)
    assert finished.best.tolist() == [0] * 24
    with pytest.raises(ValueError, match="k is 0"):
        best_of_k(tree.sample, tree.value, (start, start), keys(3), 0)


def test_highest_of_the_allowed():
    values = np.array([[0.1, 0.9, 0.5], [0.2, 0.2, 0.1], [0.3, 0.2, 0.1]])
    allowed = np.array([[True, False, True], [True, True, True], [False] * 3])
    assert highest(values, allowed).tolist() == [2, 0, -1]


def test_majority():
    assert majority(["a", "b", None, "b", "a", "b"]) == 1
    assert majority(["a", "b", "b", "a"]) == 0  # the first of equals
    assert majority([None, "c"]) == 1
    assert majority([None, None]) == -1
    assert majority([]) == -1
    close = majority([1.0, 2.0, 2.0004, 2.0008], lambda a, b: abs(a - b) < 1e-3)
    assert close == 1
