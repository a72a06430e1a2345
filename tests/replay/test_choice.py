"""Worth and weights of states, by hand."""

from typing import Any

import numpy as np
import pytest

from rljax.replay import archive, choice
from rljax.replay.cells import NONE, PROMOTED


def view(**given) -> archive.View:
    zeros = np.zeros(3, np.int32)
    there: dict[str, Any] = {name: zeros for name in archive.View._fields} | {
        "problem": 0
    }
    return archive.View(**(there | given))


def test_shrunk_by_hand():
    worth = choice.shrunk(4.0, low=-1.0, high=1.0)
    score = np.array([0.0, 0.0, 5.0, -np.inf], np.float32)
    # v = 0.5, 0.5, 1, 0: 2/4, (1 + 2)/(6 + 4), (0 + 4)/(4 + 4), 0.
    found = worth(score, np.array([0, 6, 4, 0]), np.array([0, 1, 0, 0]))
    np.testing.assert_allclose(found, [0.5, 0.3, 0.5, 0.0])


def test_by_visits_by_hand():
    np.testing.assert_allclose(
        choice.by_visits(view(visits=np.array([0, 2, 18]))), [1.0, 0.5, 0.1]
    )


def test_by_difficulty_by_hand():
    weigh = choice.by_difficulty(archive.as_scored, floor=0.1)
    found = weigh(view(score=np.array([0.5, 0.9, 1.0]), visits=np.array([0, 2, 0])))
    # 1/4; 0.09 / 2; q at most 0.9.
    np.testing.assert_allclose(found, [0.25, 0.045, 0.09])


def test_a_share_of_right_answers_is_sought():
    weigh = choice.by_difficulty(archive.as_scored, target=0.2)
    found = weigh(view(score=np.array([0.2, 0.5, 0.1])))
    np.testing.assert_allclose(found, [0.2 * 0.8**4, 0.5**5, 0.1 * 0.9**4])
    scores = np.linspace(0.02, 0.98, 97)
    for target in (0.1, 0.5, 0.8):
        weigh = choice.by_difficulty(archive.as_scored, target=target)
        found = weigh(view(score=scores, visits=np.zeros(97)))
        assert scores[np.argmax(found)] == pytest.approx(target)


def test_promoted_first():
    weigh = choice.promoted_first(choice.alike, 4.0)
    np.testing.assert_array_equal(
        weigh(view(mark=np.array([NONE, PROMOTED, NONE]))), [1, 4, 1]
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: choice.shrunk(0.0), "strength must be above 0, got 0.0"),
        (lambda: choice.shrunk(1.0, 1.0, 1.0), "low must be below high"),
        (lambda: choice.by_difficulty(archive.as_scored, 0.5), r"lie in \(0, 0.5\)"),
        (
            lambda: choice.by_difficulty(archive.as_scored, target=1.0),
            r"lie in \(0, 1\), got 1.0",
        ),
        (lambda: choice.promoted_first(choice.alike, 0.5), "factor must be at least 1"),
    ],
)
def test_refuses(make, said):
    with pytest.raises(ValueError, match=said):
        make()
