"""The growth table of world B, row by row, in episodes derived by hand."""

import pytest

from rljax.envs.playground.scenes import Thing
from tests.envs.playing import B, Play

# World B: what is held takes part only while it is released, and food is eaten.


def test_b_water_grows_a_seed_and_is_gone():
    play = Play(B, ["red beet", "green water", "blue water"], "Grow red beet")
    assert play.seen == ["red beet seed", "green water", "blue water"]
    assert not play.do("Go to green water", "Grasp", "Go to red beet seed")
    assert play.held == ["green water"]
    assert play.do("Release green water") == 1
    assert play.seen == ["red beet", "blue water"] and play.held == []
    assert bool(play.outcome.terminated) and not bool(play.outcome.truncated)


def test_b_a_seed_released_on_water_grows_and_is_put_down():
    play = Play(B, ["red beet", "green water"], "Grow red beet")
    commands = ["Go to red beet seed", "Grasp", "Go to green water"]
    assert play.do(*commands, "Release red beet seed") == 1
    assert play.seen == ["red beet"] and play.held == []


def test_b_what_makes_nothing_grow_stays_in_the_hand():
    play = Play(B, ["red beet", "green water", "blue desk"], "Grow red beet")
    assert not play.do("Go to green water", "Grasp", "Go to blue desk")
    assert not play.do("Release green water")
    assert play.held == ["green water"]


def test_b_seed_and_water_released_together_do_nothing():
    # One of the two must lie: releasing a single thing is what brings it into play.
    play = Play(B, ["red beet", "green water"], "Grow red beet")
    play.do("Go to green water", "Grasp", "Go to red beet seed", "Grasp")
    assert play.held == ["red beet seed", "green water"]
    assert not play.do("Release all")
    assert not play.do("Release green water")
    assert play.held == ["red beet seed", "green water"]


SINGLE_ROWS = [
    # what grows, what feeds it; the feeder must be grown
    ("red cow", "blue beet", "baby red cow", "blue beet seed"),
    ("red fox", "blue pig", "baby red fox", "baby blue pig"),
    ("red lion", "blue giraffe", "baby red lion", "baby blue giraffe"),
]


@pytest.mark.parametrize(("eater", "food", "young_eater", "young_food"), SINGLE_ROWS)
def test_b_an_animal_grows_on_one_grown_thing(eater, food, young_eater, young_food):
    play = Play(B, [eater, f"grown {food}"], f"Grow {eater}")
    assert play.seen == [young_eater, food]
    play.do(f"Go to {food}", "Grasp", f"Go to {young_eater}")
    assert play.do(f"Release {food}") == 1
    assert play.seen == [eater] and play.held == []

    # Released on its food instead, it grows in the hand and stays there.
    play = Play(B, [eater, f"grown {food}"], f"Grow {eater}")
    play.do(f"Go to {young_eater}", "Grasp", f"Go to {food}")
    assert play.do(f"Release {young_eater}") == 1
    assert play.seen == [] and play.held == [eater]

    play = Play(B, [eater, food], f"Grow {eater}")
    play.do(f"Go to {young_food}", "Grasp", f"Go to {young_eater}")
    assert not play.do(f"Release {young_food}")
    assert play.held == [young_food]


PAIR_ROWS = [
    ("red elephant", "blue beet", "green pea"),
    ("red lion", "blue pig", "green sheep"),
]


@pytest.mark.parametrize(("eater", "one", "two"), PAIR_ROWS)
def test_b_a_big_animal_grows_on_two_grown_things(eater, one, two):
    things = [eater, f"grown {one}", f"grown {two}"]
    play = Play(B, things, f"Grow {eater}")
    play.do(f"Go to {one}", "Grasp", f"Go to {two}", "Grasp", f"Go to baby {eater}")
    assert not play.do(f"Release {one}", f"Release {two}")  # one is not enough
    assert play.do("Release all") == 1
    assert play.seen == [eater] and play.held == []

    # The animal and one of the two released on the other.
    play = Play(B, things, f"Grow {eater}")
    play.do(f"Go to {one}", "Grasp", f"Go to baby {eater}", "Grasp", f"Go to {two}")
    assert play.do("Release all") == 1
    assert play.seen == [] and play.held == [eater]

    # Both must be grown.
    play = Play(B, [eater, f"grown {one}", two], f"Grow {eater}")
    young = play.seen[2]
    play.do(f"Go to {one}", "Grasp", f"Go to {young}", "Grasp", f"Go to baby {eater}")
    assert not play.do("Release all")
    assert play.held == [one, young]


def test_b_rows_are_not_mixed():
    # A plant does not feed a carnivore, nor a big animal a small carnivore.
    play = Play(B, ["red fox", "grown blue beet", "grown red elephant"], "Grow red fox")
    play.do("Go to blue beet", "Grasp", "Go to red elephant", "Grasp")
    assert not play.do("Go to baby red fox", "Release blue beet")
    assert not play.do("Release red elephant", "Release all")
    # Nor do a plant and a small herbivore together feed a big carnivore.
    play = Play(B, ["red lion", "grown blue beet", "grown red cow"], "Grow red lion")
    play.do("Go to blue beet", "Grasp", "Go to red cow", "Grasp")
    assert not play.do("Go to baby red lion", "Release all")


def test_b_a_food_chain_from_water_up():
    play = Play(B, ["blue fox", "red water", "red beet", "red cow"], "Grow blue fox")
    play.do("Go to red water", "Grasp", "Go to red beet seed", "Release red water")
    assert play.fits("Grow any plant") and not play.fits("Grow any animal")
    play.do("Grasp", "Go to baby red cow", "Release red beet")
    assert play.fits("Grow any small_herbivorous")
    assert play.do("Grasp", "Go to baby blue fox", "Release red cow") == 1
    assert play.seen == ["blue fox"]


def test_b_only_one_seed_drinks_one_water():
    # Two seeds within 0.2 of the water at the start: the first slot drinks.
    things = [
        Thing("beet", "red", (0.15, 0.0)),
        Thing("pea", "red", (-0.15, 0.0)),
        Thing("water", "red", (0.0, 0.0)),
    ]
    play = Play(B, things, "Grow any plant")
    play.do("Grasp")
    assert play.seen == ["red beet seed", "red pea seed"]
    assert play.do("Release red water") == 1
    assert play.seen == ["red beet", "red pea seed"]


def test_b_nothing_grows_twice():
    play = Play(B, ["grown red beet", "red water"], "Grow red beet")
    play.do("Go to red water", "Grasp", "Go to red beet")
    assert not play.do("Release red water")
