"""Which goals an episode is told again with.

A goal is a single one, (g, -1), or a sequence, (first, second). Everything that
holds a value per goal, masks, weights and counts alike, is a `PerGoal`: singles
[G] and sequences [H, G], where only the H goals that may come first have a row.

A *strategy* says which goals are candidates, a *weighting* how likely each is.
Both are made of plain functions; write another and pass it in. Shapes: G single
goals, H first sub-goals, Q kinds, K goals an episode, T longest episode.
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
    kind: PerGoal  # int32
    num_kinds: int  # Q, static


class Past(NamedTuple):
    """What happened in one episode, as strategies see it."""

    hits: PerGoal  # int32, first step at which the goal's reward fires; T if never
    at_end: PerGoal  # bool, reached, and (its last sub-goal) held at the last step
    candidates: PerGoal  # bool, training goals but for the episode's own
    limit: int  # T


class Weighting(NamedTuple):
    """How likely each candidate is: `base` of the goal times `balance` of its kind."""

    base: Callable[[PerGoal], PerGoal]  # items each goal has had -> float32, positive
    balance: Callable[[jax.Array], jax.Array]  # base of candidates by kind [Q] -> [Q]


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
    return GoalTable(
        train=PerGoal(jnp.asarray(train), jnp.asarray(allowed[first])),
        first=jnp.asarray(first, jnp.int32),
        row=jnp.asarray(row, jnp.int32),
        kind=PerGoal(
            jnp.asarray(kind, jnp.int32), jnp.asarray(pair_kind[first], jnp.int32)
        ),
        num_kinds=1 + int(max(kind.max(), pair_kind[first].max())),
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


# Weightings.


def _alike(counts: PerGoal) -> PerGoal:
    return _both(lambda n: jnp.ones(n.shape), counts)


def _rare_first(counts: PerGoal) -> PerGoal:
    return _both(lambda n: 1.0 / (1.0 + n), counts)


def _as_they_are(of_kind: jax.Array) -> jax.Array:
    return jnp.ones_like(of_kind)


def _kinds_alike(of_kind: jax.Array) -> jax.Array:
    return jnp.where(of_kind > 0, 1.0 / jnp.where(of_kind > 0, of_kind, 1.0), 0.0)


# Every candidate alike.
uniform = Weighting(_alike, _as_they_are)
# A kind among those with candidates, then a goal of that kind.
uniform_by_kind = Weighting(_alike, _kinds_alike)
# In inverse proportion to 1 + the items the goal has had.
inverse_frequency = Weighting(_rare_first, _as_they_are)


def draw_goals(
    key: Key,
    mask: PerGoal,
    counts: PerGoal,
    weighting: Weighting,
    table: GoalTable,
    num_goals: int,
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
      counts: items each goal has had.
      weighting: how likely each candidate is.
      table: the goals.
      num_goals: K, static.

    Returns:
      int32 [K, 2]; (-1, -1) where there is none left to draw.
    """
    chex.assert_equal_shape([mask.pair, counts.pair, table.train.pair])
    base, kinds = weighting.base(counts), range(table.num_kinds)
    single, pair = _both(lambda m, w: jnp.where(m, w, 0.0), mask, base)
    # Sums over the goals of a row that are of one kind, [H, Q].
    of_row = jnp.stack(
        [jnp.sum(jnp.where(table.kind.pair == q, pair, 0.0), -1) for q in kinds], -1
    )
    of_single = jnp.stack(
        [jnp.sum(jnp.where(table.kind.single == q, single, 0.0)) for q in kinds]
    )
    factor = weighting.balance(of_single + jnp.sum(of_row, axis=0))
    shares = jnp.concatenate(
        [single * factor[table.kind.single], (of_row * factor).ravel()]
    )
    start = jax.random.uniform(key)
    points = (jnp.arange(num_goals) + start) / num_goals * jnp.sum(shares)
    index, rest = inverse_cdf(
        jnp.broadcast_to(shares, (num_goals, *shares.shape)), points
    )
    row, kind = jnp.divmod(jnp.maximum(index - len(single), 0), table.num_kinds)
    of_kind = table.kind.pair[row] == kind[:, None]
    second, _ = inverse_cdf(jnp.where(of_kind, pair[row], 0.0), rest / factor[kind])
    goals = jnp.where(
        (index < len(single))[:, None],
        jnp.stack([index, jnp.full_like(index, -1)], axis=-1),
        jnp.stack([table.first[row], second], axis=-1),
    )
    same = jnp.all(goals[:, None] == goals[None], axis=-1)
    again = jnp.any(jnp.tril(same, -1), axis=-1)
    none = again | ~(jnp.any(mask.single) | jnp.any(mask.pair))
    return jnp.where(none[:, None], -1, goals).astype(jnp.int32)


def inverse_cdf(weights: jax.Array, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where on the line of weights [K, M] each point [K] lies.

    An item of no weight is never picked, whatever rounding does to the sums.

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
