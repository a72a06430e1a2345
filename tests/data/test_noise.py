"""Rewards turned round: as many as were asked for, the same for the same seed."""

import numpy as np
import pytest

from rljax.data import noise
from tests.agents import offline_texts as toy


def rewards(log):
    return np.array([episode.reward for episode in log])


LOG = [
    episode._replace(reward=float(n % 3 == 0)) for n, episode in enumerate(toy.log(40))
]


@pytest.mark.parametrize("share, count", [(0.0, 0), (0.1, 4), (0.33, 13), (1.0, 40)])
def test_so_many_rewards_are_turned_and_nothing_else(share, count):
    found = noise.flip(LOG, share, seed=3)
    changed = rewards(found) != rewards(LOG)
    assert changed.sum() == count
    np.testing.assert_array_equal(rewards(found)[changed], 1 - rewards(LOG)[changed])
    assert all(
        a.ids is b.ids and a.line == b.line for a, b in zip(found, LOG, strict=True)
    )


def test_the_draw_is_the_seeds_and_grows_with_the_share():
    def turned(share, seed):
        return set(np.nonzero(rewards(noise.flip(LOG, share, seed)) != rewards(LOG))[0])

    assert turned(0.2, 1) == turned(0.2, 1) != turned(0.2, 2)
    assert turned(0.2, 1) < turned(0.5, 1)


def test_rewards_between_are_refused():
    half = [*LOG[:2], LOG[2]._replace(reward=0.5)]
    with pytest.raises(
        ValueError, match=r"attempt 3, line \d+ of its log, has reward 0.5"
    ):
        noise.flip(half, 0.1, 0)
    with pytest.raises(ValueError, match=r"share is 1.5; it must be within \[0, 1\]"):
        noise.flip(LOG, 1.5, 0)
