"""pass@k against all ways to choose k of n answers."""

import itertools

import numpy as np
import pytest

from rljax.training.pass_at_k import pass_at_k


@pytest.mark.parametrize(("samples", "k"), [(1, 1), (6, 1), (6, 2), (6, 5), (6, 6)])
def test_is_the_share_of_choices_with_a_right_answer(samples, k):
    found = []
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        choices = [any(c) for c in itertools.combinations(answers, k)]
        found.append(np.mean(choices))
        one = pass_at_k(np.array([right]), samples, k)
        assert one == pytest.approx(found[-1], abs=1e-12)
    whole = pass_at_k(np.arange(samples + 1), samples, k)
    assert whole == pytest.approx(np.mean(found), abs=1e-12)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.4, .* got 5"):
        pass_at_k(np.array([1]), 4, 5)
    with pytest.raises(ValueError, match=r"counts in 0\.\.4, one a problem, got \[5\]"):
        pass_at_k(np.array([5]), 4, 1)
    with pytest.raises(ValueError, match=r"got \[\]"):
        pass_at_k(np.array([], int), 4, 1)
