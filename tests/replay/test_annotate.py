"""What people do to an archive, and what they cannot."""

import numpy as np
import pytest

from rljax.replay import annotate, cells
from rljax.replay.cells import FORBIDDEN, HUMAN, NONE, PROMOTED
from tests.replay.archiving import END, contents, filled


def insert(archive, problem, state, score=0.5, **how):
    return annotate.insert(
        archive, problem, np.array(state, int), score, 3, end_ids=[END], **how
    )


def test_forbidding_drops_what_grew_from_it():
    archive = filled((0, (1,), 0.1), (0, (1, 2), 0.2), (0, (3,), 0.3))
    after = annotate.mark(archive, 0, 0, FORBIDDEN)
    assert set(contents(after, 0)) == {(1,), (3,)}
    assert after.mark[0].tolist() == [FORBIDDEN, NONE, NONE]
    assert set(contents(archive, 0)) == {(1,), (1, 2), (3,)}  # as it was
    cleared = annotate.mark(after, 0, 0, NONE)
    assert cleared.mark[0, 0] == NONE


def test_a_promoted_heir_must_be_cleared_first():
    archive = annotate.mark(filled((0, (1,), 0.1), (0, (1, 2), 0.2)), 0, 1, PROMOTED)
    with pytest.raises(ValueError, match="cell 1 begins with the state and is promot"):
        annotate.mark(archive, 0, 0, FORBIDDEN)
    archive = filled((0, (1,), 0.1), (0, (2, 2), 0.2))
    archive.mark[0, 0] = FORBIDDEN
    cells.put(archive, 0, 2, np.array([1, 2]), 0.3, 0)
    with pytest.raises(ValueError, match="begins with that of cell 0, a forbidden"):
        annotate.mark(archive, 0, 2, PROMOTED)


def test_insert_takes_a_free_cell_or_the_least():
    archive = filled((0, (1,), 0.3), (0, (2,), 0.2))
    archive = insert(archive, 0, [5, 6], score=0.1, as_=PROMOTED)
    assert archive.origin[0].tolist() == [0, 0, HUMAN]
    assert archive.mark[0, 2] == PROMOTED and archive.added[0, 2] == 3
    after = insert(archive, 0, [7], score=0.0)  # worth less than all, and there
    assert contents(after, 0) == {
        (1,): np.float32(0.3),
        (7,): 0.0,
        (5, 6): np.float32(0.1),
    }
    after = insert(after, 0, [5, 6, 7], as_=NONE)
    assert set(contents(after, 0)) == {(1,), (5, 6, 7), (5, 6)}


def test_insert_of_a_forbidden_state_drops_its_heirs():
    archive = insert(filled((0, (1, 2), 0.3), (0, (2,), 0.1)), 0, [1], as_=FORBIDDEN)
    assert set(contents(archive, 0)) == {(1,), (2,)}
    assert archive.mark[0, 0] == FORBIDDEN


def test_set_score():
    archive = filled((0, (1,), 0.3))
    after = annotate.set_score(archive, 0, 0, 0.75)
    assert after.score[0, 0] == 0.75 and archive.score[0, 0] == np.float32(0.3)


def full():
    archive = filled((0, (1,), 0.3), (0, (2,), 0.2), (0, (3,), 0.1), room=4)
    archive.mark[0] = [PROMOTED, FORBIDDEN, PROMOTED]
    return archive


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: insert(full(), 0, []), "has 0 tokens, expected 1 to 4"),
        (lambda: insert(full(), 0, [1] * 5), "has 5 tokens, expected 1 to 4"),
        (lambda: insert(full(), 0, [5, END]), "token 1 of the state is 99, which ends"),
        (lambda: insert(full(), 0, [5], np.nan), "score must be finite, got nan"),
        (
            lambda: insert(full(), 0, [5], 1e39),
            "finite, got 1e.39; it has 32 bits, which",
        ),
        (lambda: annotate.set_score(full(), 0, 0, 10**400), "finite, got 10{40}"),
        (lambda: insert(full(), 0, [3]), "there already, as cell 2"),
        (lambda: insert(full(), 0, [2, 4]), "begins with that of cell 1, a forbidden"),
        (lambda: insert(full(), 0, [5]), "all 3 cells of the problem are marked"),
        (lambda: insert(full(), 2, [5]), "problem 2 is unknown"),
        (lambda: annotate.mark(full(), 1, 0, NONE), "cell 0 of problem 1 is free"),
        (lambda: annotate.mark(full(), 0, 0, 3), "mark is 3, expected one of 0..2"),
        (lambda: annotate.set_score(full(), 1, 0, 0.0), "cell 0 of problem 1 is free"),
        (lambda: annotate.set_score(full(), 0, 0, np.inf), "score must be finite"),
    ],
)
def test_refuses(call, said):
    with pytest.raises(ValueError, match=said):
        call()
