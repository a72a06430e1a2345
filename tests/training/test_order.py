"""The order of problems is data."""

import numpy as np

from rljax.training.online_parts import order


def test_every_problem_comes_once_before_any_comes_twice():
    whole = order(3, 5, 0, 20).reshape(4, 5)
    np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.arange(5), (4, 1)))
    assert len({tuple(row) for row in whole.tolist()}) > 1
    for first, some in ((0, 3), (3, 4), (4, 13), (10, 5)):
        found = order(3, 5, first, some)
        np.testing.assert_array_equal(found, whole.ravel()[first : first + some])
    assert order(4, 5, 0, 20).tolist() != whole.ravel().tolist()
