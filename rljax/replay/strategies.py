"""Which goals an episode is told again with.

A goal is a single one, (g, -1), or a sequence, (first, second). Everything that
holds a value per goal, masks, weights and counts alike, is a `PerGoal`: singles
[G] and sequences [H, G], where only the H goals that may come first have a row.

A *strategy* says which goals are candidates, a *weighting* how likely each is.
Both are plain functions; write another and pass it in. Shapes: G single goals, H
first sub-goals, Q kinds, K goals an episode, T longest episode.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rljax.types import Key


class PerGoal(NamedTuple):
    """A value for every goal."""

    single: jax.Array  # [G]
    pair: jax.Array  # [H, G]


class GoalTable(NamedTuple):
    """The goals there are to choose from. Made by `goal_table`."""

    train: PerGoal  # bool, goals that may be given to an episode
    first: jax.Array  # int32 [H], the goal of each row of pairs
    row: jax.Array  # int32 [G], the row of each goal; H for one that is never first
    kind: PerGoal  # bool, with a leading axis [Q]: goal is of that kind


class Past(NamedTuple):
    """What happened in one episode, as strategies see it."""

    hits: PerGoal  # int32, first step at which the goal's reward fires; T if never
    at_end: PerGoal  # bool, reached, and (its last sub-goal) held at the last step
    candidates: PerGoal  # bool, training goals but for the episode's own
    limit: int  # T


Weigh = Callable[[PerGoal, PerGoal, GoalTable], PerGoal]
Draw = Callable[[Key, PerGoal], jax.Array]  # candidates -> goals, int32 [K, 2]
Strategy = Callable[[Key, Past, Draw], jax.Array]  # -> goals, int32 [K, T, 2]


def goal_table(
    train: ArrayLike,
    sequence_allowed: ArrayLike | None = None,
    kind: ArrayLike | None = None,
    sequence_kind: ArrayLike | None = None,
) -> GoalTable:
    """Packs what is known of the goals, on the host.

    Args:
      train: bool [G], single goals to relabel with.
      sequence_allowed: bool [G, G], sequences (first, second) to relabel with; None
        leaves sequences out.
      kind: int [G], kind of each single goal from 0; None is one kind for all.
      sequence_kind: int [G, G], kind of each sequence; None is one kind of its own.

    Raises:
      ValueError: if a shape does not fit, or there is no goal to relabel with.
    """
    train = np.asarray(train, bool)
    goals = train.shape[0]
    kind = np.zeros(goals, int) if kind is None else np.asarray(kind)
    if sequence_kind is None:
        sequence_kind = np.full((goals, goals), kind.max() + 1)
    if sequence_allowed is None:
        sequence_allowed = np.zeros((goals, goals), bool)
    allowed, pair_kind = np.asarray(sequence_allowed, bool), np.asarray(sequence_kind)
    for name, array, shape in [
        ("kind", kind, (goals,)),
        ("sequence_allowed", allowed, (goals, goals)),
        ("sequence_kind", pair_kind, (goals, goals)),
    ]:
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not train.any() and not allowed.any():
        raise ValueError(f"none of {goals} goals may be relabelled with")
    first = np.flatnonzero(allowed.any(1))
    if not len(first):
        first = np.array([0])  # a row in which nothing is allowed
    row = np.full(goals, len(first))
    row[first] = np.arange(len(first))
    kinds = np.arange(1 + max(kind.max(), pair_kind[first].max()))
    return GoalTable(
        train=PerGoal(jnp.asarray(train), jnp.asarray(allowed[first])),
        first=jnp.asarray(first, jnp.int32),
        row=jnp.asarray(row, jnp.int32),
        kind=PerGoal(
            jnp.asarray(kind == kinds[:, None]),
            jnp.asarray(pair_kind[first] == kinds[:, None, None]),
        ),
    )


def zero_counts(table: GoalTable) -> PerGoal:
    """How many items each goal has had: none yet. int32."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.int32), table.train)


def _both(function: Callable, *values: PerGoal) -> PerGoal:
    return PerGoal(*map(function, *values))


# Strategies.


def achieved(key: Key, past: Past, draw: Draw) -> jax.Array:
    """Goals reached in the episode, each for all the steps that led to it."""
    return _for_all_steps(draw(key, _hit_between(past, 0)), past.limit)


def final(key: Key, past: Past, draw: Draw) -> jax.Array:
    """Goals that hold at the end of the episode, each for the steps that led to it.

    A sequence counts if it was completed and its second sub-goal holds at the end.
    """
    mask = _both(jnp.logical_and, past.candidates, past.at_end)
    return _for_all_steps(draw(key, mask), past.limit)


def future(key: Key, past: Past, draw: Draw) -> jax.Array:
    """For each step, goals first reached by it or later in the episode."""
    steps = jnp.arange(past.limit)
    keys = jax.random.split(key, past.limit)
    goals = jax.vmap(lambda k, t: draw(k, _hit_between(past, t)))(keys, steps)
    return jnp.swapaxes(goals, 0, 1)


def episode(key: Key, past: Past, draw: Draw) -> jax.Array:
    """For each step, goals reached anywhere in the episode.

    A step after the goal it drew was reached gives no item: under that goal the
    environment would have ended before it.
    """
    mask = _hit_between(past, 0)
    keys = jax.random.split(key, past.limit)
    return jnp.swapaxes(jax.vmap(lambda k: draw(k, mask))(keys), 0, 1)


def random(key: Key, past: Past, draw: Draw) -> jax.Array:
    """Any training goals, reached or not, each for the whole episode."""
    return _for_all_steps(draw(key, past.candidates), past.limit)


def _hit_between(past: Past, start: jax.typing.ArrayLike) -> PerGoal:
    """Candidates first reached at step `start` or after it."""
    return _both(
        lambda mask, hit: mask & (hit >= start) & (hit < past.limit),
        past.candidates,
        past.hits,
    )


def _for_all_steps(goals: jax.Array, limit: int) -> jax.Array:
    return jnp.broadcast_to(goals[:, None], (goals.shape[0], limit, 2))


# Weightings: (candidates, items each goal has had, table) -> weights, float32.


def uniform(mask: PerGoal, counts: PerGoal, table: GoalTable) -> PerGoal:
    """Every candidate alike."""
    del counts, table
    return _both(lambda x: x.astype(jnp.float32), mask)


def uniform_by_kind(mask: PerGoal, counts: PerGoal, table: GoalTable) -> PerGoal:
    """A kind among those with candidates, then a goal of that kind."""
    del counts
    single = mask.single & table.kind.single
    pair = mask.pair & table.kind.pair
    of_kind = jnp.sum(single, axis=-1) + jnp.sum(pair, axis=(-2, -1))
    share = 1.0 / jnp.maximum(of_kind, 1)
    return PerGoal(
        jnp.sum(single * share[:, None], axis=0),
        jnp.sum(pair * share[:, None, None], axis=0),
    )


def inverse_frequency(mask: PerGoal, counts: PerGoal, table: GoalTable) -> PerGoal:
    """In inverse proportion to 1 + the items the goal has had."""
    del table
    return _both(lambda m, n: m / (1.0 + n), mask, counts)


def draw_goals(
    key: Key, mask: PerGoal, weights: PerGoal, table: GoalTable, num_goals: int
) -> jax.Array:
    """Draws distinct goals, each with a chance in proportion to its weight.

    Systematic sampling: K points at equal distances, from a random start, on the
    line along which the weights lie end to end. A goal of share p of the weight is
    drawn with probability min(1, K p), never twice; where there are no more than K
    goals of equal weight, each is drawn. One uniform number and sums over the
    goals are all it takes; a Gumbel draw would take a number per goal, of which
    there are thousands. (Madow 1949, Annals of Mathematical Statistics 20.)

    Args:
      key: consumed.
      mask: candidates.
      weights: float32, used where `mask` holds; positive there.
      table: the goals.
      num_goals: K, static.

    Returns:
      int32 [K, 2]; (-1, -1) where there is none left to draw.
    """
    chex.assert_equal_shape([mask.pair, weights.pair, table.train.pair])
    single, pair = _both(lambda m, w: jnp.where(m, w, 0.0), mask, weights)
    shares = jnp.concatenate([single, jnp.sum(pair, axis=-1)])
    start = jax.random.uniform(key)
    points = (jnp.arange(num_goals) + start) / num_goals * jnp.sum(shares)
    index, rest = _inverse_cdf(
        jnp.broadcast_to(shares, (num_goals, *shares.shape)), points
    )
    row = jnp.maximum(index - single.shape[0], 0)
    second, _ = _inverse_cdf(pair[row], rest)
    is_single = (index < single.shape[0])[:, None]
    goals = jnp.where(
        is_single,
        jnp.stack([index, jnp.full_like(index, -1)], axis=-1),
        jnp.stack([table.first[row], second], axis=-1),
    )
    same = jnp.all(goals[:, None] == goals[None], axis=-1)
    again = jnp.any(jnp.tril(same, -1), axis=-1)
    none = again | ~(jnp.any(mask.single) | jnp.any(mask.pair))
    return jnp.where(none[:, None], -1, goals).astype(jnp.int32)


def _inverse_cdf(weights: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where on the line of weights [K, M] each point [K] lies.

    Returns:
      The item, int32 [K], and how far into it the point lies, float32 [K].
    """
    ends = jnp.cumsum(weights, axis=-1)
    # Sums are rounded: an item of no weight may seem to have some, and the last
    # point to lie past the end. Neither may be drawn.
    positive = weights > 0
    after = positive & (ends > points[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(positive[:, ::-1], axis=-1)
    index = jnp.where(jnp.any(after, axis=-1), jnp.argmax(after, axis=-1), last)
    picked = index[:, None]
    begin = jnp.take_along_axis(ends - weights, picked, axis=-1)[:, 0]
    return index, points - begin
