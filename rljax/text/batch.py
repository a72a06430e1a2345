"""Ragged token rows as padded batches of few shapes.

Every shape is a program to compile, so rows are padded to the smallest of a few
lengths that holds them, and all batches have the same number of rows. Works on the
host. Shapes: B rows of a batch, T tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Tokens


class Batch(NamedTuple):
    """Rows of one bucket."""

    tokens: Tokens  # ids int32 [B, T], zero past the end; length int32 [B]
    mask: jax.Array  # bool [B, T], False past the end
    rows: np.ndarray  # int32 [B], which row it was; -1 for one of no tokens


def bucket_sizes(longest: int, smallest: int = 64) -> tuple[int, ...]:
    """Lengths to pad to: doubling from `smallest`, the last is `longest`.

    No row is then more than half padding, but those below `smallest`.

    Args:
      longest: most tokens of a row, such as the context of the model.
      smallest: where to begin.

    Raises:
      ValueError: if one of the two is below 1.
    """
    if min(longest, smallest) < 1:
        raise ValueError(
            f"bucket sizes from {smallest} to {longest}: both must be at least 1"
        )
    sizes = []
    while smallest < longest:
        sizes.append(smallest)
        smallest *= 2
    return (*sizes, longest)


def bucket_of(length: int, sizes: Sequence[int], what: str = "a row") -> int:
    """The smallest size that holds so many tokens.

    Args:
      length: tokens of the row.
      sizes: as from `bucket_sizes`, in any order.
      what: names the row in the error.

    Raises:
      ValueError: if none does; nothing is cut off.
    """
    fitting = [size for size in sizes if size >= length]
    if not fitting:
        raise ValueError(
            f"{what} has {length} tokens, {length - max(sizes, default=0)} more than "
            f"the largest bucket, of {list(sizes)}: allow longer rows or shorten it"
        )
    return min(fitting)


def pad(
    rows: Sequence[np.ndarray], size: int, masks: Sequence[np.ndarray] | None = None
) -> Batch:
    """One batch of all rows.

    Args:
      rows: B rows, int [T_b].
      size: T.
      masks: bool [T_b] each; where tokens are unless given.

    Raises:
      ValueError: if a row does not fit, or a mask has another length than its row.
    """
    if masks is None:
        masks = [np.ones(len(row), bool) for row in rows]
    if len(masks) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(masks)} masks")
    ids, mask = np.zeros((len(rows), size), np.int32), np.zeros((len(rows), size), bool)
    for i, (row, wanted) in enumerate(zip(rows, masks, strict=True)):
        if len(row) != len(wanted):
            raise ValueError(
                f"row {i} has {len(row)} tokens and a mask of {len(wanted)}"
            )
        bucket_of(len(row), [size], f"row {i}")
        ids[i, : len(row)], mask[i, : len(row)] = row, wanted
    length = np.array([len(row) for row in rows], np.int32)
    tokens = Tokens(jnp.asarray(ids), jnp.asarray(length))
    return Batch(tokens, jnp.asarray(mask), np.arange(len(rows), dtype=np.int32))


def batches(
    rows: Sequence[np.ndarray],
    sizes: Sequence[int],
    num_rows: int,
    masks: Sequence[np.ndarray] | None = None,
) -> list[Batch]:
    """All rows in batches of B, by bucket, each row once.

    Within a bucket rows keep their order. The last batch of a bucket is filled up
    with rows of no tokens.

    Args:
      rows: int [T_b] each.
      sizes: lengths to pad to.
      num_rows: B.
      masks: bool [T_b] each, such as `Dialogue.mask`; where tokens are unless given.

    Raises:
      ValueError: if a row is longer than every size, a mask has another length than
        its row, or `num_rows` is below 1.
    """
    if num_rows < 1:
        raise ValueError(f"num_rows must be at least 1, got {num_rows}")
    if masks is None:
        masks = [np.ones(len(row), bool) for row in rows]
    if len(masks) != len(rows):
        raise ValueError(f"{len(rows)} rows have {len(masks)} masks")
    buckets: dict[int, list[int]] = {size: [] for size in sorted(sizes)}
    for i, row in enumerate(rows):
        buckets[bucket_of(len(row), sizes, f"row {i}")].append(i)
    out = []
    empty = (np.zeros(0, np.int32), np.zeros(0, bool))
    for size, members in buckets.items():
        for first in range(0, len(members), num_rows):
            chosen = members[first : first + num_rows]
            missing = num_rows - len(chosen)
            pairs = [(rows[i], masks[i]) for i in chosen] + [empty] * missing
            batch = pad([row for row, _ in pairs], size, [mask for _, mask in pairs])
            out.append(batch._replace(rows=np.array(chosen + [-1] * missing, np.int32)))
    return out
