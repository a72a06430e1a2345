"""Finished episodes told again, with goals they did reach (or did not).

Andrychowicz et al. 2017, "Hindsight Experience Replay", for goals in words: what an
episode shows of a goal is whether and when the environment's own reward for it would
have fired first, and only the steps up to then are told again, for there the
environment would have ended the episode. Rewards are 1 there and 0 elsewhere.

The environment is known only by arrays (which single goals held after each step) and
by a function that writes another goal into an observation. Shapes: E environments, F
episodes at a time, T longest episode, G single goals, H first sub-goals, K goals an
episode.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rljax.replay import ring, strategies, transitions
from rljax.replay.strategies import GoalTable, PerGoal
from rljax.replay.transitions import Episodes
from rljax.types import Key, Observation, Transition


class Hindsight(NamedTuple):
    """How to relabel. Closed over by compiled code, never passed into it."""

    table: GoalTable
    with_goal: Callable[[Observation, jax.Array], Observation]  # goal int32 [2]
    strategy: strategies.Strategy
    weighting: strategies.Weighting
    her_k: int  # K, goals an episode (or a step, as the strategy has it)
    num_steps: int  # n of the n-step items
    gamma: float
    chunk: int = 1  # F; 1 wastes nothing, more keep an accelerator busy


def next_hits(achieved: jax.Array, length: jax.Array) -> jax.Array:
    """First step at or after each at which each single goal holds.

    Args:
      achieved: bool [T, G], goals that hold after each step.
      length: int32 [], steps that were taken; the rest of `achieved` is ignored.

    Returns:
      int32 [T + 1, G], T where there is none.
    """
    limit = achieved.shape[0]
    never = jnp.full(achieved.shape[1], limit, jnp.int32)

    def earlier(after, step):
        t, holds = step
        after = jnp.where(holds & (t < length), t, after)
        return after, after

    steps = (jnp.arange(limit, dtype=jnp.int32), achieved)
    after = jax.lax.scan(earlier, never, steps, reverse=True)[1]
    return jnp.concatenate([after, never[None]])


def hits_from(after: jax.Array, goals: jax.Array) -> jax.Array:
    """First step at which each goal's reward fires, given `next_hits`.

    Args:
      after: int32 [T + 1, G], from `next_hits`.
      goals: int [K, 2]: (g, -1), or (first, second) where the second counts only at
        or after the step that reached the first.

    Returns:
      int32 [K], T for a goal not reached.
    """
    first = after[0, goals[:, 0]]
    return jnp.where(goals[:, 1] < 0, first, after[first, goals[:, 1]])


def first_hits(achieved: jax.Array, length: jax.Array, goals: jax.Array) -> jax.Array:
    """First step at which the environment's reward for each goal fires.

    Args:
      achieved: bool [T, G], single goals that hold after each step.
      length: int32 [], steps that were taken.
      goals: int [K, 2]: (g, -1), or (first, second) where the second counts only at
        or after the step that reached the first.

    Returns:
      int32 [K], T for a goal not reached.
    """
    chex.assert_rank([achieved, length, goals], [2, 0, 2])
    return hits_from(next_hits(achieved, length), goals)


def look_back(
    after: jax.Array,
    at_end: jax.Array,
    own: jax.Array,
    table: GoalTable,
) -> strategies.Past:
    """What an episode shows of every goal in the table.

    Args:
      after: int32 [T + 1, G], from `next_hits`.
      at_end: bool [G], single goals that hold at the last step.
      own: int [2], the goal the episode had.
      table: the goals.
    """
    limit = after.shape[0] - 1
    single = after[0]
    pair = after[single[table.first]]
    own_single = (jnp.arange(single.shape[0]) == own[0]) & (own[1] < 0)
    own_pair = (table.first == own[0])[:, None] & (jnp.arange(len(single)) == own[1])
    return strategies.Past(
        hits=PerGoal(single, pair),
        at_end=PerGoal(at_end, (pair < limit) & at_end),
        candidates=PerGoal(
            table.train.single & ~own_single, table.train.pair & ~own_pair
        ),
        limit=limit,
    )


def relabel_episode(
    key: Key, past_episode: Episodes, own: jax.Array, counts: PerGoal, how: Hindsight
) -> tuple[Transition, jax.Array, jax.Array]:
    """The items of one episode under the goals chosen for it.

    Args:
      key: consumed.
      past_episode: one episode of `transitions.gather_episodes`, no leading axis.
      own: int [2], the goal it had.
      counts: items each goal has had.
      how: the choice of goals, and the n-step items.

    Returns:
      Transitions, each leaf [K, T, ...], which of them are items, bool [K, T], and
      their goals, int32 [K, T, 2].
    """
    limit, length = past_episode.action.shape[0] - 1, past_episode.length
    held = past_episode.achieved[:limit]
    after = next_hits(held, length)
    past = look_back(after, held[length - 1], own, how.table)

    def draw(key, mask):
        return strategies.draw_goals(
            key, mask, counts, how.weighting, how.table, how.her_k
        )

    goals = how.strategy(key, past, draw)
    chex.assert_shape(goals, (how.her_k, limit, 2))
    hits = hits_from(after, goals.reshape(-1, 2)).reshape(goals.shape[:2])
    items, mask = _items(past_episode, goals, hits, how)
    return items, mask & (goals[..., 0] >= 0), goals


def _items(
    past_episode: Episodes, goals: jax.Array, hits: jax.Array, how: Hindsight
) -> tuple[Transition, jax.Array]:
    """n-step items from every step, under goals [K, T, 2] first reached at hits.

    The end of the episode as it was, by success for the goal it had or by the limit,
    is no end of the goal put in its place: items bootstrap from what was reached.
    """
    steps = jnp.arange(goals.shape[1])
    last = jnp.minimum(hits, past_episode.length - 1)
    span = jnp.clip(last - steps + 1, 1, how.num_steps)  # m
    success = hits == steps + span - 1
    powers, _ = transitions.discounting(how.num_steps, how.gamma)
    before = jnp.concatenate([jnp.ones(1), powers[:-1]])  # gamma^(m - 1)

    relabel_all = jax.vmap(jax.vmap(how.with_goal))
    here = jnp.broadcast_to(steps, hits.shape)

    def observed(index):
        return relabel_all(jax.tree.map(lambda x: x[index], past_episode.obs), goals)

    items = Transition(
        obs=observed(here),
        action=past_episode.action[here],
        reward=jnp.where(success, before[span - 1], 0.0),
        discount=jnp.where(success, 0.0, powers[span - 1]),
        reached=observed(here + span),
    )
    return items, steps <= last


def relabel(
    key: Key,
    episodes: Episodes,
    ended: jax.Array,
    own: jax.Array,
    relabelled: ring.RingState,
    counts: PerGoal,
    how: Hindsight,
) -> tuple[ring.RingState, PerGoal]:
    """Adds every finished episode, told again, to a ring.

    Takes F episodes at a time in a `while_loop`: where none has finished it costs
    nothing, and every one that has is told. Use it at the top level of a compiled
    step, not under `vmap`, and carry the ring, which is written in place. Weightings
    see the counts as they stood before the F episodes.

    Args:
      key: consumed; an environment's share of it depends on its index alone.
      episodes: with the last step written, and not yet cleared.
      ended: bool [E].
      own: int [E, 2], the goals the episodes had.
      relabelled: the ring for what is told again.
      counts: items each goal has had; `strategies.zero_counts` at the start.
      how: the choice of goals, and the n-step items.

    Returns:
      The ring and the counts. In the ring, episodes go in order of environment, and
      within one in order of goal, then of step.

    Raises:
      ValueError: if her_k or the chunk is below 1, or n not in [1, T].
    """
    num_envs, size = ended.shape[0], min(how.chunk, ended.shape[0])
    if how.her_k < 1 or how.chunk < 1:
        raise ValueError(
            f"her_k and chunk must be at least 1, got {how.her_k} and {how.chunk}"
        )
    if not 1 <= how.num_steps <= episodes.limit:
        raise ValueError(
            f"num_steps must be between 1 and the episode limit {episodes.limit}, "
            f"got {how.num_steps}"
        )
    chex.assert_shape(own, (num_envs, 2))
    order = jnp.argsort(~ended, stable=True)  # the finished ones first
    total = jnp.sum(ended)
    rows = how.table.row

    def body(carry):
        start, relabelled, counts = carry
        place = start + jnp.arange(size)
        index = order[jnp.minimum(place, num_envs - 1)]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        chosen = transitions.gather_episodes(episodes, index)
        items, mask, goals = jax.vmap(
            lambda k, e, g: relabel_episode(k, e, g, counts, how)
        )(keys, chosen, own[index])
        mask = (mask & (place < total)[:, None, None]).ravel()
        items = jax.tree.map(lambda x: x.reshape(mask.size, *x.shape[3:]), items)
        first, second = goals.reshape(-1, 2).T
        added = mask.astype(jnp.int32)
        counts = PerGoal(
            counts.single.at[first].add(added * (second < 0)),
            # The row of a goal that is never first is past the end: dropped.
            counts.pair.at[rows[first], second].add(added * (second >= 0), mode="drop"),
        )
        relabelled = ring.add_masked(relabelled, items, mask)
        return start + size, relabelled, counts

    carry = (jnp.int32(0), relabelled, counts)
    return jax.lax.while_loop(lambda c: c[0] < total, body, carry)[1:]
