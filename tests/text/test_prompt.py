"""Packing pieces on the device, against a plain loop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.text import tokenizer as tokenizer_lib
from rljax.text.prompt import PieceTable, pack, piece_table

SIZE = 20
# Five pieces of 3, 1, 0, 4 and 2 tokens; what lies past a piece's end is poison.
LENGTH = [3, 1, 0, 4, 2]
IDS = [[1, 2, 3, -9], [4, -9, -9, -9], [-9] * 4, [5, 6, 7, 8], [9, 10, -9, -9]]
TABLE = PieceTable(jnp.array(IDS, jnp.int32), jnp.array(LENGTH, jnp.int32))

packed = jax.jit(jax.vmap(lambda pieces: pack(TABLE, pieces, SIZE)))


def test_by_hand():
    tokens = pack(TABLE, jnp.array([-1, 1, 2, 4, -1, 0], jnp.int32), SIZE)
    assert tokens.ids.tolist() == [4, 9, 10, 1, 2, 3] + [0] * 14
    assert tokens.length == 6
    assert tokens.ids.dtype == tokens.length.dtype == jnp.int32


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 4), min_size=5, max_size=5))
def test_is_the_concatenation(pieces):
    expected = [t for p in pieces if p >= 0 for t in IDS[p][: LENGTH[p]]]
    # Beside a full prompt, so that rows of a batch do not leak into each other.
    batch = np.array([pieces, [3] * 5], np.int32)
    tokens = jax.device_get(packed(batch))
    assert tokens.ids[0].tolist() == expected + [0] * (SIZE - len(expected))
    assert tokens.length[0] == len(expected)
    assert tokens.ids[1].tolist() == [5, 6, 7, 8] * 5


def test_compiles_once():
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(lambda p: pack(TABLE, p, SIZE), n=1))
    for pieces in ([0, 1], [2, -1]):
        run(jnp.array(pieces, jnp.int32))


def test_refuses_the_wrong_arrays():
    with pytest.raises(AssertionError):
        pack(TABLE, jnp.zeros((2, 3), jnp.int32), SIZE)
    with pytest.raises(AssertionError):
        pack(TABLE, jnp.zeros(3), SIZE)


def test_table_of_pieces():
    tokenizer = tokenizer_lib.word_level(["You see:", "red", "beet"])
    table = piece_table(tokenizer, ["\nYou see:", ", red beet", ", "])
    assert table.ids.tolist() == [[3, 0], [4, 5], [0, 0]]
    assert table.length.tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="at least one, got none"):
        piece_table(tokenizer, [])
    with pytest.raises(ValueError, match="does not know 'blue'"):
        piece_table(tokenizer, ["blue beet"])
