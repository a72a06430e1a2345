"""Cells of the archive: bytes, names, kinship, checkpoints."""

import jax
import numpy as np
import pytest

from rljax.replay import cells
from rljax.training import checkpoint


def small(problems=2, count=3, longest=4):
    return cells.on_host(cells.empty(np.full(problems, 9), count, longest))


def test_bytes_are_known_before():
    archive = cells.empty(np.full(5, 7), 3, 11)
    there = sum(leaf.nbytes for leaf in jax.tree.leaves(archive))
    assert cells.bytes_needed(5, 3, 11) == there
    # GSM8K's training problems, ten states of 256 tokens each: 76.5 MB are tokens.
    assert cells.bytes_needed(7473, 10, 256) == 7473 * (10 * (1024 + 30) + 4) + 4


def test_room_is_what_the_prompt_leaves():
    archive = cells.empty(np.array([2, 9, -1]), 1, longest=4)
    assert archive.room.tolist() == [2, 4, -1]


@pytest.mark.parametrize(
    ("room", "count", "longest", "said"),
    [
        (np.array([3]), 0, 4, "cells must be at least 1, got 0"),
        (np.array([3]), 1, 0, "longest must be at least 1, got 0"),
        (np.array([]), 1, 4, "room must be one integer a problem"),
        (
            np.array([3.0]),
            1,
            4,
            r"room must be one integer a problem, got float64\[1\]",
        ),
    ],
)
def test_refuses_sizes(room, count, longest, said):
    with pytest.raises(ValueError, match=said):
        cells.empty(room, count, longest)


def test_put_and_free():
    archive = small()
    cells.put(archive, 1, 2, np.array([5, 6, 7]), 0.5, 40, cells.HUMAN)
    archive.visits[1, 2] = 3
    archive.mark[1, 2] = cells.PROMOTED
    cells.put(archive, 1, 2, np.array([8]), 0.25, 41)  # over it
    assert cells.state_of(archive, 1, 2).tolist() == [8]
    assert archive.tokens[1, 2].tolist() == [8, 0, 0, 0]
    assert archive.serial[1, 2] == 1 and archive.next_serial == 2
    assert archive.visits[1, 2] == 0 and archive.mark[1, 2] == cells.NONE
    assert archive.added[1, 2] == 41 and archive.origin[1, 2] == cells.ROLLOUT
    assert archive.used.sum() == 1
    cells.free(archive, 1, 2)
    jax.tree.map(
        np.testing.assert_array_equal,
        archive,
        small().replace(next_serial=np.array(2, np.int32)),
    )


def test_a_name_is_never_given_twice():
    archive = small()
    for n in range(5):
        cells.put(archive, 0, 0, np.array([n + 1]), 0.0, n)
    assert archive.serial[0, 0] == 4
    found = cells.locate(archive, np.array([0, 0, 1, 0]), np.array([4, 3, 4, -1]))
    assert found.tolist() == [0, -1, -1, -1]
    with pytest.raises(ValueError, match="problem 2 is unknown: the archive has 2"):
        cells.locate(archive, np.array([0, 2]), np.array([4, 4]))
    with pytest.raises(ValueError, match="one each"):
        cells.locate(archive, np.array([0, 1]), np.array([4]))


def test_kin_by_hand():
    archive = small(count=6)
    states = [[1, 2], [1], [1, 2, 0], [1, 3], [1, 2, 3, 4]]
    for cell, state in enumerate(states):
        cells.put(archive, 0, cell, np.array(state), 0.0, 0)
    kin = cells.kin(archive, 0, np.array([1, 2]))
    assert kin.same.tolist() == [True, False, False, False, False, False]
    assert kin.shorter.tolist() == [False, True, False, False, False, False]
    # A token 0 is a token, not the filling.
    assert kin.longer.tolist() == [False, False, True, False, True, False]
    longest = cells.kin(archive, 0, np.array([1, 2, 0, 0]))
    assert longest.shorter.tolist() == [True, True, True, False, False, False]
    assert not longest.same.any() and not longest.longer.any()


def test_a_checkpoint_holds_it(tmp_path):
    archive = small()
    cells.put(archive, 1, 0, np.array([7, 8]), -0.5, 3, cells.CANONICAL)
    checkpoint.save(tmp_path, 1, {"archive": archive}, {})
    target = {"archive": jax.eval_shape(lambda: archive)}
    back = cells.on_host(checkpoint.read_state(tmp_path, 1, target))["archive"]
    for name in ("tokens", "score", "serial", "origin", "next_serial"):
        found, expected = getattr(back, name), getattr(archive, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    cells.put(back, 0, 0, np.array([1]), 0.0, 4)  # may be written to
    assert back.serial[0, 0] == 1
