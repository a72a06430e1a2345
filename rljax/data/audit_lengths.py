"""What an audit says of lengths: whether episodes fit, and how rows are filled.

Rows are packed by `packing`, as in training, from lengths alone: the ids of texts have
no say in it, and are not kept.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rljax.data import packing
from rljax.data.audit_rows import Finding, Row, Table, places
from rljax.types import Episode


class Room(NamedTuple):
    """Where episodes have to fit in; what is None is not looked at."""

    row: int | None = None  # most tokens of a row
    context: int | None = None  # most tokens that the model reads
    # How a training makes batches of episodes; ValueError where it refuses them.
    plan: Callable[[list[Episode]], packing.Plan] | None = None

    @property
    def known(self) -> bool:
        """Whether rows of a training are known."""
        return self.row is not None or self.plan is not None


def length_findings(rows: Sequence[Row], room: Room) -> list[Finding]:
    """All that is said of lengths.

    Args:
      rows: at least one.
      room: what they are for.
    """
    tokens = np.array([row.tokens for row in rows if row.tokens is not None])
    if not len(tokens):
        text = "no tokenizer was given: tokens, rows and round trips were not looked at"
        return [Finding("tokens", "note", text)]
    low, middle, high = np.quantile(tokens, [0, 0.5, 1], method="lower")
    said = sum(row.length for row in rows)
    text = (
        f"{tokens.sum():,} tokens, {said:,} of them the policy's; episodes of {low} to "
        f"{high} (median {middle})"
    )
    found = [Finding("lengths", "note", text, len(tokens))]
    if not room.known:
        text = (
            "lengths were not held against a row of training: give its --config, or "
            "--row"
        )
        found.append(Finding("row", "note", text))
    for kind, most, what in (
        ("too long", room.row, "than a row"),
        ("context", room.context, "than what the model reads"),
    ):
        long = [] if most is None else [r for r in rows if (r.tokens or 0) > most]
        if long:
            text = (
                f"episodes are longer {what}, {most} tokens; nothing is cut off, so "
                "they cannot be trained on"
            )
            found.append(Finding(kind, "error", text, len(long), places(long)))
    return found + _packed(rows, room)


def length_tables(rows: Sequence[Row], room: Room) -> list[Table]:
    """How many episodes are how long.

    Args:
      rows: at least one.
      room: as of `length_findings`.
    """
    tokens = np.array([row.tokens for row in rows if row.tokens is not None])
    if not len(tokens):
        return []
    edges = _edges(int(tokens.max()), room.row)
    place = np.searchsorted(edges, tokens)
    counts = np.bincount(place, minlength=len(edges))
    names = [f"{edge}" for edge in edges]
    if room.row is not None:
        names[edges.index(room.row)] += ", a row"
    lines = tuple(
        (name, int(count), float(count / len(tokens)))
        for name, count in zip(names, counts, strict=True)
    )
    return [Table("Episodes by length", ("tokens up to", "episodes", "share"), lines)]


def _packed(rows: Sequence[Row], room: Room) -> list[Finding]:
    """How much of the rows of a training is padding, or why it would not begin."""
    if room.plan is None:
        return []
    fitting = _outlines([r for r in rows if (r.tokens or 0) <= (room.row or np.inf)])
    if not fitting:
        return []
    try:
        plan = room.plan(fitting)
    except ValueError as error:
        text = f"training would be refused: {error}"
        return [Finding("refused", "error", text)]
    read = sum(
        packing.num_tokens(packing.batch_of(plan, n)) for n in range(plan.updates)
    )
    size = plan.updates * plan.num_devices * plan.rows * plan.tokens
    text = (
        f"{plan.updates:,} updates of {plan.num_devices * plan.rows} rows of "
        f"{plan.tokens} tokens: {100 * (1 - read / size):.1f} % of them is padding"
    )
    return [Finding("packing", "note", text, plan.updates)]


def _outlines(rows: Sequence[Row]) -> list[Episode]:
    """Episodes as long as those of the log, of nothing; they share their arrays."""
    longest = max((row.tokens or 0 for row in rows), default=0)
    ids = np.zeros(longest, np.int32)
    said = np.arange(2 * longest) >= longest
    found = []
    for row in rows:
        begin, stop = row.begin, row.tokens or 0
        found.append(
            Episode(
                ids=ids[:stop], action=said[longest - begin :][:stop], step=ids[:stop],
                reward=row.reward, task=row.task, source=row.source,
                line=row.place.line,
            )
        )  # fmt: skip
    return found


def _edges(longest: int, row: int | None) -> list[int]:
    """Lengths from 16 on, each twice the one before; that of a row is among them."""
    edges = [16]
    while edges[-1] < longest:
        edges.append(2 * edges[-1])
    return sorted({*edges} | ({row} if row is not None else set()))
