"""Prompts put together on the device, from a table of text pieces.

A prompt is a concatenation of pieces ("Goal:", " red beet", ", blue door"). Each
piece is tokenized once, on the host; a state then only picks rows of the table.
Nothing leaves the compiled loop. Shapes: n pieces in the table, Lp tokens of the
longest, S pieces of a prompt, T tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.text import tokenizer as tokenizer_lib
from rljax.types import Tokens


class PieceTable(NamedTuple):
    """The tokens of every piece of text that a prompt can hold."""

    ids: jax.Array  # int32 [n, Lp], zero past the end of a piece
    length: jax.Array  # int32 [n]


def piece_table(
    tokenizer: tokenizer_lib.Tokenizer,
    pieces: Sequence[str],
    after: Sequence[str] | None = None,
) -> PieceTable:
    """Tokenizes pieces.

    Whether the tokens of a concatenation are the concatenated tokens depends on the
    tokenizer and on where the pieces are cut: `check_rendering` tells.

    Args:
      tokenizer: any Hugging Face tokenizer.
      pieces: n texts.
      after: n texts that stand before them while they are tokenized, for tokenizers
        that treat the beginning of a text apart; else nothing does.

    Raises:
      ValueError: if there are no pieces, or one holds an unknown word.
    """
    if not pieces:
        raise ValueError("a table of pieces needs at least one, got none")
    rows = tokenizer_lib.encode(tokenizer, pieces, after)
    ids = np.zeros((len(rows), max(1, *(len(row) for row in rows))), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    length = np.array([len(row) for row in rows], np.int32)
    return PieceTable(jnp.asarray(ids), jnp.asarray(length))


def pack(table: PieceTable, pieces: jax.Array, size: int) -> Tokens:
    """Concatenates rows of the table.

    Row `p` of the flat table begins at `p Lp`, so a token at position t inside the
    piece s lies at `t + v_s`, with `v_s = p_s Lp - start_s`. As starts never fall,
    the v of the last piece with start_s <= t is the telescoping sum
    `sum_s [t >= start_s] (v_s - v_{s-1})`: comparisons and one gather, which is
    cheap under vmap. Absent and empty pieces start where the next one does, and so
    are never the last.

    The size is the caller's to prove: compiled code cannot raise, and tokens past
    it would be lost.

    Args:
      table: n pieces of at most Lp tokens.
      pieces: int32 [S], rows of the table, -1 for none.
      size: T, at least the tokens of any prompt asked for.

    Returns:
      ids [T], zero past the end, and the length [].
    """
    chex.assert_rank([table.ids, table.length, pieces], [2, 1, 1])
    chex.assert_type([table.ids, table.length, pieces], jnp.int32)
    width = table.ids.shape[1]
    present = pieces >= 0
    length = jnp.where(present, table.length[jnp.maximum(pieces, 0)], 0)
    steps = jnp.arange(len(pieces))
    start = jnp.sum(jnp.where(steps < steps[:, None], length, 0), axis=1)
    value = pieces * width - start
    rise = value - jnp.concatenate([jnp.zeros(1, jnp.int32), value[:-1]])
    position = jnp.arange(size, dtype=jnp.int32)
    index = position + jnp.sum(
        jnp.where(position[:, None] >= start, rise, 0), axis=1, dtype=jnp.int32
    )
    total = jnp.sum(length)
    inside = position < total
    ids = table.ids.reshape(-1)[jnp.where(inside, index, 0)]
    return Tokens(jnp.where(inside, ids, 0), total)
