"""Ragged rows in batches: each once, whole, in the smallest bucket that holds it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.text.batch import batches, bucket_of, bucket_sizes, pad


def test_by_hand():
    rows = [np.array([1, 2, 3]), np.array([4]), np.array([5, 6]), np.array([7])]
    masks = [[False, True, True], [True], [True, False], [False]]
    masks = [np.array(mask) for mask in masks]
    short, more, long = batches(rows, (2, 4), 2, masks)
    assert short.tokens.ids.tolist() == [[4, 0], [5, 6]]
    assert short.mask.tolist() == [[True, False], [True, False]]
    assert short.rows.tolist() == [1, 2]
    assert more.tokens.ids.tolist() == [[7, 0], [0, 0]]
    assert more.tokens.length.tolist() == [1, 0]
    assert more.rows.tolist() == [3, -1]
    assert long.tokens.ids.tolist() == [[1, 2, 3, 0], [0] * 4]
    assert long.mask.tolist() == [[False, True, True, False], [False] * 4]
    assert long.tokens.ids.dtype == long.tokens.length.dtype == np.int32
    assert long.rows.dtype == np.int32 and long.mask.dtype == bool


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=11), max_size=9), st.integers(1, 4)
)
def test_nothing_is_lost(rows, num_rows):
    arrays = [np.array(row, np.int32) for row in rows]
    found = {}
    sizes = (2, 11, 5)
    out = batches(arrays, sizes, num_rows, [row > 4 for row in arrays])
    for batch in out:
        ids, lengths = np.asarray(batch.tokens.ids), np.asarray(batch.tokens.length)
        assert len(ids) == num_rows and batch.mask.shape == ids.shape
        for i, number in enumerate(batch.rows):
            mask = np.asarray(batch.mask[i])
            assert not ids[i, lengths[i] :].any() and not mask[lengths[i] :].any()
            if number < 0:
                assert lengths[i] == 0
                continue
            assert number not in found
            found[number] = ids[i, : lengths[i]].tolist()
            assert mask[: lengths[i]].tolist() == [token > 4 for token in rows[number]]
            assert ids.shape[1] == min(s for s in sizes if s >= lengths[i])
    assert found == dict(enumerate(rows))
    assert len(out) <= len(rows) and [b.mask.shape[1] for b in out] == sorted(
        b.mask.shape[1] for b in out
    )


@pytest.mark.parametrize(
    "longest, smallest, sizes",
    [
        (100, 64, (64, 100)),
        (128, 64, (64, 128)),
        (3, 64, (3,)),
        (9, 1, (1, 2, 4, 8, 9)),
    ],
)
def test_sizes(longest, smallest, sizes):
    assert bucket_sizes(longest, smallest) == sizes


def test_errors_name_the_numbers():
    match = r"row 1 has 9 tokens, 2 more than the largest bucket, of \[4, 7\]"
    with pytest.raises(ValueError, match=match):
        batches([np.zeros(3, int), np.zeros(9, int)], (4, 7), 2)
    with pytest.raises(ValueError, match=r"a row has 3 tokens, .* of \[2\]"):
        bucket_of(3, [2])
    with pytest.raises(ValueError, match="row 0 has 3 tokens and a mask of 2"):
        pad([np.zeros(3, int)], 4, [np.zeros(2, bool)])
    with pytest.raises(ValueError, match="1 rows have 0 masks"):
        pad([np.zeros(3, int)], 4, [])
    with pytest.raises(ValueError, match="1 rows have 2 masks"):
        batches([np.zeros(3, int)], (4,), 1, [np.zeros(3, bool)] * 2)
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        batches([], (4,), 0)
    with pytest.raises(ValueError, match="from 0 to 5: both must be at least 1"):
        bucket_sizes(5, 0)
