"""The bandit on learning progress: by hand, against a loop, and where it goes."""

import numpy as np
import pytest

from rljax.replay import archive as archive_lib
from rljax.replay import bandit, cells
from rljax.replay.cells import BARE, FORBIDDEN
from tests.replay.archiving import END, filled, proposals

ROWS = [(0, (1,), 0.1), (0, (2,), 0.2), (1, (3,), 0.3)]


def learn(known, archive, *rows, **rates):
    problem, serial, tries, solves = map(np.array, zip(*rows, strict=True))
    return bandit.learn(known, archive, problem, serial, tries, solves, **rates)


def test_by_hand():
    archive = filled(*ROWS)
    known = learn(bandit.init(archive), archive, (0, 1, 2, 1), fast=0.5, slow=0.25)
    # Two tries, half of them right: (1 - 1/4) / 2 and (1 - 9/16) / 2.
    assert known.fast[0, 1] == 0.375 and known.slow[0, 1] == 0.21875
    there = archive_lib.view(archive, 0)
    np.testing.assert_allclose(bandit.progress(known, there), [0, 0.15625, 0])
    # All progress is the second cell's; 0.2 goes to the two cells alike.
    np.testing.assert_allclose(
        bandit.by_progress(known, explore=0.2)(there), [0.1, 0.9, 0.0]
    )


def test_is_the_loop_over_tries():
    """n tries with the same success are n steps towards it."""
    archive, rng = filled(*ROWS), np.random.default_rng(0)
    known, fast, slow = bandit.init(archive), 0.0, 0.0
    for _ in range(20):
        n = int(rng.integers(1, 5))
        right = int(rng.integers(n + 1))
        known = learn(known, archive, (1, 2, n, right), fast=0.3, slow=0.1)
        for _ in range(n):
            fast += 0.3 * (right / n - fast)
            slow += 0.1 * (right / n - slow)
    np.testing.assert_allclose(known.fast[1, 0], fast, rtol=1e-5)
    np.testing.assert_allclose(known.slow[1, 0], slow, rtol=1e-5)


def test_forgetting_is_as_good_as_learning():
    archive = filled(*ROWS)
    known = bandit.init(archive)
    for right in (8, 8, 8, 0):
        known = learn(known, archive, (1, 2, 8, right), fast=0.5, slow=0.1)
    assert known.fast[1, 0] < known.slow[1, 0]
    found = bandit.progress(known, archive_lib.view(archive, 1))
    np.testing.assert_allclose(found[0], known.slow[1, 0] - known.fast[1, 0])


def test_what_is_not_known_is_explored():
    archive = filled(*ROWS)
    weigh = bandit.by_progress(bandit.init(archive))
    np.testing.assert_allclose(weigh(archive_lib.view(archive, 0)), [0.5, 0.5, 0])
    archive.mark[0, 0] = FORBIDDEN
    np.testing.assert_allclose(weigh(archive_lib.view(archive, 0)), [0, 1, 0])
    assert not weigh(
        archive_lib.view(archive, 1)._replace(serial=np.full(3, BARE))
    ).any()


def test_bare_untried_and_lost_cells_teach_nothing():
    archive = filled(*ROWS)
    known = bandit.init(archive)
    after = learn(known, archive, (0, BARE, 4, 4), (0, 55, 4, 4), (1, 2, 0, 0))
    np.testing.assert_array_equal(after.fast, 0.0)
    np.testing.assert_array_equal(after.serial, BARE)


def test_a_new_cell_begins_anew():
    archive = filled(*ROWS, (0, (4,), 0.3))
    known = learn(bandit.init(archive), archive, (0, 0, 8, 8))
    given = proposals((0, (9,), 0.9))
    archive, _ = archive_lib.add(archive, given, 1, end_ids=[END])
    assert archive.serial[0, 0] == 4  # the least is gone
    there = archive_lib.view(archive, 0)
    assert not bandit.progress(known, there).any()
    known = learn(known, archive, (0, 4, 1, 1), fast=0.5, slow=0.25)
    assert known.fast[0, 0] == 0.5


def test_goes_where_success_changes():
    """Three cells: never right, always right, and one that is being learnt."""
    archive = filled((0, (1,), 0.1), (0, (2,), 0.1), (0, (3,), 0.1))
    known, rng = bandit.init(archive), np.random.default_rng(0)
    for update in range(300):
        chance = (0.0, 1.0, min(1.0, max(0.0, (update - 150) / 200)))
        rows = [(0, k, 8, rng.binomial(8, chance[k])) for k in range(3)]
        known = learn(known, archive, *rows)
    weight = bandit.by_progress(known)(archive_lib.view(archive, 0))
    assert weight[2] > 0.8 and weight.sum() == pytest.approx(1.0)


def test_nothing_given_is_changed():
    archive = filled(*ROWS)
    known = bandit.init(archive)
    learn(known, archive, (0, 0, 8, 8))
    np.testing.assert_array_equal(known.fast, 0.0)


@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.2), (1.1, 0.1), (0.1, 0.0)])
def test_refuses_rates(rates):
    archive = filled(*ROWS)
    with pytest.raises(ValueError, match="rates must be 0 < slow < fast <= 1, got"):
        learn(bandit.init(archive), archive, (0, 0, 1, 1), fast=rates[0], slow=rates[1])


def test_refuses_no_exploring():
    with pytest.raises(ValueError, match=r"explore must lie in \(0, 1\], got 0.0"):
        bandit.by_progress(bandit.init(cells.empty(np.array([3]), 1, 2)), explore=0.0)
