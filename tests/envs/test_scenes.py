"""Random scenes: where things are, what there is, and that goals can be reached."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import recipes as recipes_lib
from rljax.envs.playground import render, scenes, worlds
from rljax.envs.playground.dynamics import dynamics

SLOTS, INVENTORY, LIMIT = 8, 2, 64
A, B = worlds.world_a(), worlds.world_b()
WORLDS = pytest.mark.parametrize("world", [A, B], ids=["A", "B"])


@functools.cache
def parts(world):
    goals = goals_lib.goals_of(world)
    recipes = recipes_lib.recipes_of(world, goals, INVENTORY)
    moves = dynamics(world, goals, INVENTORY, LIMIT)
    scene = jax.jit(jax.vmap(scenes.random_scene(world, recipes, SLOTS)))
    return goals, recipes, scene, jax.jit(moves.step), jax.jit(moves.observe)


def fitting(world, train=True):
    goals, recipes, *_ = parts(world)
    pairs = goals_lib.every(goals, train)
    return pairs[recipes_lib.needed(recipes, pairs) <= SLOTS]


def drawn(world, pairs, seed=0):
    scene = parts(world)[2]
    return scene(jax.random.split(jax.random.key(seed), len(pairs)), jnp.asarray(pairs))


# A player who knows the rules, and carries out commands as anyone would.


class StuckError(Exception):
    """This way does not lead on; another may."""


class Player:
    """Follows a goal by commands only, choosing among equals at random."""

    def __init__(self, world, state, goal, rng):
        self.world, self.goal, self.rng = world, goal, rng
        self.goals, _, _, self.step, self.observe = parts(world)
        self.state, self.won = state, False
        self.look()

    def look(self):
        self.seen = jax.device_get(self.observe(self.state))
        self.held = [int(slot) for slot in self.seen.held if slot >= 0]

    def do(self, command):
        commands = render.command_texts(self.world, self.seen)
        if self.won or command not in commands:
            raise StuckError
        action = np.int32(commands.index(command))
        self.state, outcome = self.step(self.state, action)
        self.won = bool(outcome.terminated)
        if not self.won and bool(outcome.truncated):
            raise StuckError
        self.look()

    def name(self, slot):
        return self.world.names[self.seen.names[slot]]

    def kind(self, slot):
        return self.world.types[self.seen.names[slot] // 2 // 3]

    def grown(self, slot):
        return bool(self.seen.names[slot] % 2)

    def reachable(self, slot):
        """Whether "Go to" its name leads to it, and will once it has grown."""
        bare = self.name(slot).removesuffix(" seed")
        before = [s for s in range(slot) if self.seen.names[s] >= 0]
        before = [s for s in before if s not in self.held]
        return not any(self.name(s).startswith(bare) for s in before)

    def among(self, accept, spare=()):
        """Slots that are there, in reach of a command and accepted; best first."""
        found = [
            slot
            for slot in range(SLOTS)
            if self.seen.names[slot] >= 0 and slot not in self.held and accept(slot)
        ]
        found = [slot for slot in found if slot not in spare and self.reachable(slot)]
        self.rng.shuffle(found)
        second = self.goal[1]
        return sorted(
            found,
            key=lambda s: second >= 0 and self.goals.match[self.seen.names[s], second],
        )

    def one(self, accept, spare=()):
        found = self.among(accept, spare)
        if not found:
            raise StuckError
        return found[0]

    def take(self, slot):
        self.do(f"Go to {self.name(slot)}")
        self.do("Grasp")
        if not self.won and slot not in self.held:
            raise StuckError

    def fits(self, goal):
        return lambda slot: self.goals.match[self.seen.names[slot], goal]

    def follow(self):
        for goal in self.goal:
            if goal < 0 or self.won:
                return
            if self.goals.kind[goal] == goals_lib.GROW:
                accept = self.fits(goal)
                grow = self.grow_a if self.world.grows_in_hand else self.grow_b
                grow(lambda slot, fits=accept: fits(slot) and not self.grown(slot))
            elif not any(self.fits(goal)(slot) for slot in self.held):
                if len(self.held) == INVENTORY:
                    self.do("Release all")
                self.take(self.one(self.fits(goal)))

    def grow_a(self, accept):
        """Carries a right supply to it, past those of the same name."""
        growable = [
            slot
            for slot in range(SLOTS)
            if accept(slot) and self.kind(slot) in self.world.growable
        ]
        target = int(self.rng.choice(growable))
        plant = self.kind(target) in self.world.members("plant")
        right = self.world.members("water" if plant else "supply")
        if not any(self.kind(slot) in right for slot in self.held):
            if self.held:
                self.do(f"Release {self.name(self.held[0])}")
            self.take(self.one(lambda slot: self.kind(slot) in right))
        while not self.won:
            self.do(f"Go to {self.name(target)}")
            if self.won or self.grown(target):
                return
            self.do("Grasp")

    def grow_b(self, accept, spare=()):
        """Grows one of what is accepted, and what it takes for that."""
        rows = self.world.growths

        def row_of(slot):
            kind = self.kind(slot)
            return [row for row in rows if kind in self.world.members(row.grows)]

        target = self.one(lambda s: accept(s) and bool(row_of(s)), spare)
        ways = row_of(target)
        row = ways[self.rng.integers(len(ways))]
        right = self.world.members(row.by)
        kept = [*spare, target]
        food = []
        for _ in range(row.count):
            if row.grown:
                food.append(
                    self.grow_b(
                        lambda s: self.kind(s) in right and not self.grown(s),
                        [*kept, *food],
                    )
                )
            else:
                food.append(self.one(lambda s: self.kind(s) in right, kept))
        for slot in food:
            self.take(slot)
        self.do(f"Go to {self.name(target)}")
        several = len(food) > 1
        self.do("Release all" if several else f"Release {self.name(food[0])}")
        if not self.won and not self.grown(target):
            raise StuckError
        return target


def solve(world, state, goal, tries=40):
    rng = np.random.default_rng(0)
    for _ in range(tries):
        player = Player(world, state, goal, rng)
        try:
            player.follow()
        except StuckError:
            continue
        if player.won:
            return True
    return False


@pytest.mark.parametrize("kind", goals_lib.KINDS)
@WORLDS
def test_every_goal_can_be_reached_in_its_scene(world, kind):
    goals = parts(world)[0]
    rng = np.random.default_rng(1)
    pairs = np.concatenate([fitting(world, train) for train in (True, False)])
    pairs = goals_lib.of_kind(goals, pairs, kind)
    pairs = pairs[rng.permutation(len(pairs))[:24]]
    states = drawn(world, pairs)
    for i, goal in enumerate(pairs):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        assert solve(world, state, goal), goals.text(goal)


@WORLDS
def test_objects_are_apart_and_inside(world):
    pairs = fitting(world)
    pairs = pairs[np.random.default_rng(0).integers(len(pairs), size=512)]
    states = jax.device_get(drawn(world, pairs))
    gaps = states.position[:, :, None] - states.position[:, None]
    distances = np.linalg.norm(gaps, axis=-1) + 9 * np.eye(SLOTS)
    assert distances.min() >= 0.3 - 1e-6
    assert np.abs(states.position).max() <= 1
    assert np.abs(states.position.mean()) < 0.03  # of 8,192: 0.006 is one deviation
    low, high = world.sizes
    assert (states.size >= low).all() and (states.size <= high).all()
    assert (states.kind >= 0).all() and not states.held.any()
    reach = np.linalg.norm(states.position, axis=-1) < (states.size + 0.05) / 2
    np.testing.assert_array_equal(states.on, reach)


@WORLDS
def test_the_goals_object_stands_in_any_slot(world):
    goals = parts(world)[0]
    name = {A: "Grasp green human", B: "Grasp green pig"}[world]
    pairs = np.tile(goals.parse(name), (512, 1))
    kinds = np.asarray(drawn(world, pairs).kind)
    wanted = world.name_id(name.split()[-1], "green") // 2
    assert (kinds == wanted).any(1).all()
    share = (kinds == wanted).mean(0)
    assert share.min() > 0.07  # of 1/8, one deviation being 0.015


def test_fillers_are_drawn_by_category_then_type_then_colour():
    # World A without the goal's desk: a fifth of the objects is a supply by being
    # drawn as one, half of them food.
    goals = parts(A)[0]
    pairs = np.tile(goals.parse("Grasp red desk"), (2048, 1))
    kinds = np.asarray(drawn(A, pairs).kind)
    others = kinds.reshape(-1)
    types = np.bincount(others // 3, minlength=len(A.types)) / (2048 * 7)
    supply, human = (A.types.index(name) for name in ("food", "human"))
    np.testing.assert_allclose(types[supply], 1 / 10, atol=0.01)
    # An animal as one of ten animals, or as one of twenty living things.
    np.testing.assert_allclose(types[human], (1 / 10 + 1 / 20) / 5, atol=0.006)
    np.testing.assert_allclose(np.bincount(others % 3)[1:] / 2048 / 7, 1 / 3, atol=0.02)


def test_a_scene_that_does_not_fit_by_chance_is_laid_on_a_grid():
    # One place to try for each of 9 objects, all the same: the second has none.
    draws = np.zeros((9, 2, 2), np.float32)
    draws[:, 1] = np.random.default_rng(0).uniform(-1, 1, (9, 2))
    places = np.asarray(scenes._positions(jnp.asarray(draws)))
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(9)
    assert gaps.min() >= 0.3
    assert np.abs(places).max() <= 1


def test_plans_hold_what_growing_takes():
    goals, recipes, *_ = parts(B)
    least = dict(zip(goals.texts, recipes.least, strict=True))
    # The target, and for each plant in the chain the plant and its water.
    assert least["Grasp red lion"] == 1
    assert least["Grow red beet"] == 2
    assert least["Grow red pig"] == 3
    assert least["Grow red elephant"] == 5
    assert least["Grow red fox"] == 4
    assert least["Grow red lion"] == 6  # by a big one; 7 by two small ones
    assert recipes.length[goals.texts.index("Grow red lion")].max() == 7


def test_a_goal_that_does_not_fit_is_an_error_naming_it():
    goals, recipes, *_ = parts(B)
    pairs = goals_lib.every(goals, True)
    text = "goal 'Grow red lion then grow green lion' needs 12 objects, but num_objec"
    with pytest.raises(ValueError, match=text):
        pair = goals.parse("Grow red lion then grow green lion")[None]
        recipes_lib.check_fit(goals, recipes, pair, SLOTS)
    with pytest.raises(ValueError, match="needs 12 objects, but num_objects is 11"):
        recipes_lib.check_fit(goals, recipes, pairs, 11)
    recipes_lib.check_fit(goals, recipes, pairs, 12)


def test_two_hands_are_asked_for_where_they_are_needed():
    goals = goals_lib.goals_of(B)
    recipes = recipes_lib.recipes_of(B, goals, 1)
    pairs = goals_lib.singles(goals, True)
    with pytest.raises(ValueError, match="takes two things in hand; inventory is 1"):
        recipes_lib.check_fit(goals, recipes, pairs, SLOTS)
    small = goals.parse("Grow red fox")[None]
    recipes_lib.check_fit(goals, recipes, small, SLOTS)


@pytest.mark.parametrize("count", [0, 37])
def test_a_scene_too_full_for_the_plane_is_an_error(count):
    with pytest.raises(ValueError, match=f"between 1 and 36, got {count}"):
        scenes.random_scene(A, parts(A)[1], count)
