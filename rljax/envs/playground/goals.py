"""The goals of a world: single ones by kind, their splits, and sequences.

Single goals are "Grasp <what>" and "Grow <what>", where <what> is "red cat", "any
cat", "red animal", "any animal" or "any red thing". A sequence is a Grow goal and
then another goal of the same split: "Grow red cat then grasp blue door".

Shapes: G single goals, W name ids of objects, M goals in a set.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.playground.worlds import World
from rljax.types import Key

KINDS = ("grasp", "grow", "grow_then_grasp", "grow_then_grow")
GRASP, GROW = 0, 1


@dataclasses.dataclass(frozen=True)
class Goals:
    """The single goals of a world, and which may follow which.

    A goal is int16 [2]: a single goal's id and -1, or the ids of a sequence.

    Attributes:
      texts: text of each single goal.
      kind: int8 [G], GRASP or GROW.
      train: bool [G], False for the test split.
      match: bool [W, G], the object of that name fits the goal's description.
      sequence_allowed: bool [G, G], row "then" column is a goal.
    """

    texts: tuple[str, ...]
    kind: np.ndarray
    train: np.ndarray
    match: np.ndarray
    sequence_allowed: np.ndarray

    @property
    def size(self) -> int:
        """G."""
        return len(self.texts)

    def text(self, goal) -> str:
        """The text of a goal [2], such as "Grow red cat then grasp blue door"."""
        first, second = (int(g) for g in goal)
        if second < 0:
            return self.texts[first]
        then = self.texts[second]
        return f"{self.texts[first]} then {then[0].lower()}{then[1:]}"

    def parse(self, text: str) -> np.ndarray:
        """The goal [2] that `text` names.

        Args:
          text: as `text` gives it.

        Returns:
          int16 [2].

        Raises:
          ValueError: if it is no goal of this world.
        """
        parts = [part[:1].upper() + part[1:] for part in text.split(" then ")]
        if len(parts) > 2 or any(part not in self.texts for part in parts):
            raise ValueError(f"{text!r} is no goal of this world")
        ids = [self.texts.index(part) for part in parts]
        if len(ids) == 2 and not self.sequence_allowed[ids[0], ids[1]]:
            raise ValueError(f"{text!r} is no sequence of this world")
        return np.array([*ids, -1][:2], np.int16)


class GoalSampler(NamedTuple):
    """A distribution over goals, and the goals it can give."""

    sample: Callable[[Key], jax.Array]  # consumes a key, returns int16 [2]
    goals: np.ndarray  # int16 [M, 2]


@functools.cache
def goals_of(world: World) -> Goals:
    """All single goals of a world, Grasp goals first.

    Args:
      world: the table.

    Returns:
      The goals. What cannot grow has no Grow goal, nor has a category of such types.
    """
    names = (*world.types, *world.category_names)
    growing = tuple(n for n in names if world.members(n) & world.growable)
    texts, descriptions, kinds = [], [], []
    for kind, verb, nouns in ((GRASP, "Grasp", names), (GROW, "Grow", growing)):
        for what in _descriptions(world.colours, nouns):
            descriptions.append(what)
            texts.append(f"{verb} {' '.join(what)}")
            kinds.append(kind)
    match = np.array(
        [
            [_fits(world, name, what) for what in descriptions]
            for name in range(world.num_names)
        ]
    )
    kind = np.array(kinds, np.int8)
    train = np.array([not any(p in t for p in world.test_phrases) for t in texts])
    ends = [tuple(text.split(" ")[-2:]) for text in texts]
    differ = np.array([[a != b for b in ends] for a in ends])
    allowed = differ & (kind == GROW)[:, None] & (train[:, None] == train[None])
    return Goals(tuple(texts), kind, train, match, allowed)


def kind_of(goals: Goals, goal: jax.Array) -> jax.Array:
    """Index into KINDS of a goal [2], int32 []."""
    kind = jnp.asarray(goals.kind, jnp.int32)
    second = jnp.maximum(goal[1], 0)
    return jnp.where(goal[1] < 0, kind[goal[0]], 2 + kind[second])


def singles(goals: Goals, train: bool, kind: str | None = None) -> np.ndarray:
    """The single goals of a split, int16 [M, 2]; of one kind if it is named."""
    chosen = goals.train == train
    if kind is not None:
        chosen &= goals.kind == KINDS[:2].index(kind)
    ids = np.flatnonzero(chosen)
    return np.stack([ids, np.full_like(ids, -1)], 1).astype(np.int16)


def sequences(goals: Goals, train: bool, kind: str | None = None) -> np.ndarray:
    """The sequences of a split, int16 [M, 2]; of one kind if it is named."""
    chosen = goals.sequence_allowed & (goals.train == train)[:, None]
    if kind is not None:
        chosen = chosen & (goals.kind == KINDS[2:].index(kind))[None]
    return np.argwhere(chosen).astype(np.int16)


def every(goals: Goals, train: bool) -> np.ndarray:
    """All goals of a split, single and sequences, int16 [M, 2]."""
    return np.concatenate([singles(goals, train), sequences(goals, train)])


def of_kind(goals: Goals, pairs: np.ndarray, kind: str) -> np.ndarray:
    """Those of `pairs` [M, 2] that are of a kind, int16 [m, 2]."""
    first, second = goals.kind[pairs[:, 0]], goals.kind[pairs[:, 1]]
    kinds = np.where(pairs[:, 1] < 0, first, 2 + second)
    return pairs[kinds == KINDS.index(kind)]


def uniform(pairs: np.ndarray) -> GoalSampler:
    """Draws uniformly from `pairs`.

    Args:
      pairs: int16 [M, 2].

    Returns:
      The sampler.

    Raises:
      ValueError: if there are none.
    """
    if len(pairs) == 0:
        raise ValueError("a goal sampler needs at least 1 goal, got 0")

    def sample(key: Key) -> jax.Array:
        return jnp.asarray(pairs)[_below(jax.random.uniform(key), len(pairs))]

    return GoalSampler(sample, pairs)


def uniform_by_kind(goals: Goals, pairs: np.ndarray) -> GoalSampler:
    """Draws a kind uniformly among those present, then a goal of that kind.

    Args:
      goals: the world's goals.
      pairs: int16 [M, 2].

    Returns:
      The sampler.

    Raises:
      ValueError: if there are none.
    """
    groups = [group for kind in KINDS if len(group := of_kind(goals, pairs, kind))]
    if not groups:
        raise ValueError("a goal sampler needs at least 1 goal, got 0")
    counts = np.array([len(group) for group in groups])
    starts = np.cumsum(counts) - counts
    ordered = np.concatenate(groups)

    def sample(key: Key) -> jax.Array:
        draws = jax.random.uniform(key, (2,))
        kind = _below(draws[0], len(groups))
        within = _below(draws[1], jnp.asarray(counts)[kind])
        return jnp.asarray(ordered)[jnp.asarray(starts)[kind] + within]

    return GoalSampler(sample, ordered)


def _below(draw: jax.Array, count) -> jax.Array:
    """An index below `count` from a uniform draw.

    One draw in place of `randint`, which takes four and as much time to compile.
    """
    return jnp.floor(draw * count).astype(jnp.int32)


def _descriptions(colours, nouns) -> list[tuple[str, ...]]:
    whats: list[tuple[str, ...]] = [(c, noun) for c in colours for noun in nouns]
    whats += [("any", colour, "thing") for colour in colours]
    whats += [("any", noun) for noun in nouns]
    return whats


def _fits(world: World, name: int, what: tuple[str, ...]) -> bool:
    kind, colour = divmod(name // 2, len(world.colours))
    colours = [word for word in what[:-1] if word != "any"]
    return world.types[kind] in world.members(what[-1]) and (
        not colours or colours == [world.colours[colour]]
    )
