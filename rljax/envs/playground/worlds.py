"""The worlds of Playground-Text, as tables.

A world is data: what there is, what grows what, and what a release does. Add one by
writing one more `World`; nothing else in this folder changes.

Shapes: T types, K categories, C colours, Y growths, W names of objects.
"""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Growth:
    """One row of a growth table: things of `grows` grow by touching `by`.

    Attributes:
      grows: category of what grows.
      by: type or category of what makes it grow.
      count: how many of those it takes at once, 1 or 2.
      grown: whether those must be grown themselves.
    """

    grows: str
    by: str
    count: int = 1
    grown: bool = False


@dataclasses.dataclass(frozen=True)
class World:
    """What there is in a world and how it behaves.

    Attributes:
      name: for messages.
      colours: every object has one.
      categories: (category, its types); a type may be in several.
      growths: what grows what; nothing grows twice.
      young: (category, pattern) of names until grown, "{}" for "<colour> <type>".
      sizes: least and greatest size of an object; sampled uniformly.
      grows_in_hand: True: touching is enough, held or not. False: what is held
        takes part only while it is being released: the growing thing or one supply
        for a `count` of 1, exactly two of the three for a `count` of 2.
      supply_consumed: what made something grow disappears.
      release_drops: False: what is released stays in the hand unless it is consumed.
      put_down_by_growth: categories that leave the hand when they grow.
      test_phrases: a goal that contains one of these belongs to the test split.
    """

    name: str
    colours: tuple[str, ...]
    categories: tuple[tuple[str, tuple[str, ...]], ...]
    growths: tuple[Growth, ...]
    young: tuple[tuple[str, str], ...]
    sizes: tuple[float, float]
    grows_in_hand: bool
    supply_consumed: bool
    release_drops: bool
    put_down_by_growth: tuple[str, ...]
    test_phrases: tuple[str, ...]

    def __post_init__(self):
        """Checks the table.

        Raises:
          ValueError: if a growth names what the world does not have.
        """
        for growth in self.growths:
            if growth.grows not in self.category_names:
                raise ValueError(f"world {self.name}: no category {growth.grows!r}")
            self.members(growth.by)
            if growth.count not in (1, 2):
                raise ValueError(
                    f"world {self.name}: growth of {growth.grows!r} by "
                    f"{growth.count} {growth.by!r}; the limit is 2"
                )
            if growth.grown and not self.members(growth.by) <= self.growable:
                raise ValueError(
                    f"world {self.name}: {growth.grows!r} needs a grown "
                    f"{growth.by!r}, which does not grow"
                )

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """The T types, in the order the categories first name them."""
        return tuple(dict.fromkeys(t for _, types in self.categories for t in types))

    @functools.cached_property
    def category_names(self) -> tuple[str, ...]:
        """The K categories."""
        return tuple(name for name, _ in self.categories)

    @functools.cached_property
    def growable(self) -> frozenset[str]:
        """The types that can grow."""
        return frozenset(t for g in self.growths for t in self.members(g.grows))

    @functools.cached_property
    def num_names(self) -> int:
        """W, the number of name ids: `(type * C + colour) * 2 + grown`."""
        return len(self.types) * len(self.colours) * 2

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The text of each name id; young and grown may share one."""
        return tuple(
            self._name(kind, colour, grown)
            for kind in self.types
            for colour in self.colours
            for grown in (False, True)
        )

    @functools.cached_property
    def same_name(self) -> np.ndarray:
        """int16 [W], the first name id with the same text as each."""
        first: dict[str, int] = {}
        return np.array(
            [first.setdefault(t, i) for i, t in enumerate(self.names)], np.int16
        )

    @functools.cached_property
    def starts_with(self) -> np.ndarray:
        """bool [W, W], whether the row's name begins the column's.

        "Go to red beet" means the first object whose name begins so, and that may be
        a red beet seed.
        """
        return np.array([[b.startswith(a) for b in self.names] for a in self.names])

    def members(self, name: str) -> frozenset[str]:
        """The types a type or category name stands for; "thing" is everything.

        Args:
          name: a type, a category, or "thing".

        Returns:
          The types.

        Raises:
          ValueError: if the world has no such type or category.
        """
        if name == "thing":
            return frozenset(self.types)
        for category, types in self.categories:
            if name == category:
                return frozenset(types)
        if name not in self.types:
            raise ValueError(f"world {self.name}: no type or category {name!r}")
        return frozenset({name})

    def object_name(self, name_id: int) -> str:
        """The text of a name id, such as "baby red cow"."""
        return self.names[name_id]

    def name_id(self, kind: str, colour: str, grown: bool = False) -> int:
        """The name id of a type in a colour."""
        row = self.types.index(kind) * len(self.colours) + self.colours.index(colour)
        return row * 2 + grown

    def _name(self, kind: str, colour: str, grown: bool) -> str:
        text = f"{colour} {kind}"
        if not grown:
            for category, pattern in self.young:
                if kind in self.members(category):
                    return pattern.format(text)
        return text


FURNITURE = (
    "door",
    "chair",
    "desk",
    "lamp",
    "table",
    "cupboard",
    "sink",
    "window",
    "sofa",
    "carpet",
)
COLOURS = ("red", "blue", "green")


def world_a() -> World:
    """The objects of IMAGINE: 8,470 training goals, sequences included.

    A living thing grows as soon as it touches a right supply, which stays: animals
    by food or water, plants by water.
    """
    animals = (
        "dog",
        "cat",
        "chameleon",
        "human",
        "fly",
        "parrot",
        "mouse",
        "lion",
        "pig",
        "cow",
    )
    plants = (
        "cactus",
        "carnivorous",
        "flower",
        "tree",
        "bush",
        "grass",
        "algae",
        "tea",
        "rose",
        "bonsai",
    )
    quantifiers = (*COLOURS, "any")
    return World(
        name="A",
        colours=COLOURS,
        categories=(
            ("animal", animals),
            ("plant", plants),
            ("furniture", FURNITURE),
            ("living_thing", animals + plants),
            ("supply", ("water", "food")),
        ),
        growths=(Growth("animal", by="supply"), Growth("plant", by="water")),
        young=(),
        sizes=(0.2, 0.3),
        grows_in_hand=True,
        supply_consumed=False,
        release_drops=True,
        put_down_by_growth=(),
        # The five kinds of generalisation IMAGINE tests: a colour with a type, a new
        # type, a verb with a category, a verb with a type, and plants never grown.
        test_phrases=(
            "red tree",
            "green dog",
            "blue door",
            "flower",
            *(f"Grasp {q} {name}" for q in quantifiers for name in ("animal", "fly")),
            *(
                f"Grow {q} {name}"
                for q in quantifiers
                for name in (*plants, "plant", "living_thing")
            ),
        ),
    )


def world_b() -> World:
    """The world of the recorded reference: a food chain, and supplies are eaten.

    A release only brings what is held into play: a thing that makes nothing grow, and
    an animal that grows in the hand, stay in the hand.
    """
    small_carnivorous = ("fox", "bobcat", "coyote")
    big_carnivorous = ("lion", "grizzly", "shark")
    small_herbivorous = ("pig", "cow", "sheep")
    big_herbivorous = ("elephant", "giraffe", "rhinoceros")
    carnivorous = big_carnivorous + small_carnivorous
    herbivorous = big_herbivorous + small_herbivorous
    animals = carnivorous + herbivorous
    plants = ("carrot", "potato", "beet", "berry", "pea")
    unseen = ("potato", "shark", "coyote", "rhinoceros", "cow", "lamp", "sofa")
    return World(
        name="B",
        colours=COLOURS,
        categories=(
            ("living_thing", animals + plants),
            ("animal", animals),
            ("furniture", FURNITURE),
            ("supply", ("water",)),
            ("plant", plants),
            ("carnivorous", carnivorous),
            ("herbivorous", herbivorous),
            ("small_carnivorous", small_carnivorous),
            ("big_carnivorous", big_carnivorous),
            ("small_herbivorous", small_herbivorous),
            ("big_herbivorous", big_herbivorous),
        ),
        growths=(
            Growth("plant", by="water"),
            Growth("small_herbivorous", by="plant", grown=True),
            Growth("big_herbivorous", by="plant", count=2, grown=True),
            Growth("small_carnivorous", by="small_herbivorous", grown=True),
            Growth("big_carnivorous", by="big_herbivorous", grown=True),
            Growth("big_carnivorous", by="small_herbivorous", count=2, grown=True),
        ),
        young=(("plant", "{} seed"), ("animal", "baby {}")),
        sizes=(0.2, 0.2),
        grows_in_hand=False,
        supply_consumed=True,
        release_drops=False,
        put_down_by_growth=("plant",),
        test_phrases=tuple(f"{q} {t}" for q in (*COLOURS, "any") for t in unseen),
    )
