"""What commands do, in episodes derived by hand from the rules."""

import jax
import numpy as np
import pytest

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import worlds
from rljax.envs.playground.dynamics import dynamics
from rljax.envs.playground.pieces import command_names
from rljax.envs.playground.scenes import Thing, given_scene
from tests.envs.playing import INVENTORY, SLOTS, A, B, Play

# Commands of both worlds.


def test_go_to_means_the_first_name_that_begins_so():
    things = ["red beet", "blue desk", "grown red beet", "red water"]
    play = Play(B, things, "Grasp red water")
    play.do("Go to red beet")
    np.testing.assert_array_equal(play.observation.on[:3], [True, False, False])
    # In the hand, the seed no longer stands in the way.
    play.do("Grasp", "Go to red beet")
    np.testing.assert_array_equal(play.observation.on[:3], [False, False, True])


@pytest.mark.parametrize("world", [A, B])
@pytest.mark.parametrize(("x", "within"), [(0.120, True), (0.130, False)])
def test_the_hand_reaches_half_the_sizes(world, x, within):
    # (0.2 + 0.05) / 2 = 0.125.
    play = Play(world, [Thing("desk", "red", (x, 0.0), 0.2)], "Grasp red desk")
    assert play.observation.on[0] == within
    assert play.do("Grasp") == within


@pytest.mark.parametrize(("x", "touching"), [(0.19, True), (0.21, False)])
def test_b_things_touch_at_half_their_sizes(x, touching):
    # The water is at (0, 0), and (0.2 + 0.2) / 2 = 0.2.
    things = [Thing("water", "red", (0.0, 0.0)), Thing("beet", "red", (x, 0.0))]
    play = Play(B, things, "Grow red beet")
    play.do("Grasp")
    assert play.do("Release red water") == touching


@pytest.mark.parametrize("world", [A, B])
def test_a_full_hand_takes_nothing(world):
    play = Play(world, ["red desk", "red door", "red lamp"], "Grasp red lamp")
    play.do("Go to red desk", "Grasp", "Go to red door", "Grasp", "Go to red lamp")
    assert not play.do("Grasp")
    assert play.held == ["red desk", "red door"] and play.seen == ["red lamp"]
    assert "Release all" in play.commands


def test_grasp_takes_what_is_in_reach_by_slots_while_there_is_room():
    things = [Thing("desk", c, (0.0, 0.1), 0.2) for c in ("red", "blue", "green")]
    play = Play(A, things, "Grasp green desk")
    assert not play.do("Grasp")
    assert play.held == ["red desk", "blue desk"]


def test_equal_names_share_a_command():
    play = Play(A, ["red desk", "red desk", "blue desk"], "Grasp blue desk")
    assert play.seen == ["red desk", "blue desk"]
    play.do("Go to red desk", "Grasp", "Go to red desk", "Grasp")
    assert [c for c in play.commands if c.startswith("Rel")] == [
        "Release red desk",
        "Release all",
    ]
    play.do("Release red desk")
    np.testing.assert_array_equal(play.observation.held, [1, -1])


def test_a_command_that_is_ruled_out_only_takes_time():
    play = Play(A, ["red desk"], "Grasp red desk")
    for action in range(2, SLOTS + INVENTORY + 2):
        state, outcome = play.step(play.state, np.int32(action))
        assert not outcome.reward
        changed = jax.tree.map(np.array_equal, state, play.state)
        assert not changed.steps
        assert all(jax.tree.leaves(changed)[:8])


# World A: touching is enough, and supplies stay.


@pytest.mark.parametrize("supply", ["water", "food"])
def test_a_an_animal_grows_when_a_held_supply_touches_it(supply):
    play = Play(A, ["red cat", f"blue {supply}"], "Grow red cat")
    play.do(f"Go to blue {supply}", "Grasp")
    assert play.do("Go to red cat") == 1
    assert play.held == [f"blue {supply}"] and play.seen == ["red cat"]
    assert play.fits("Grow any red thing") and not play.fits("Grow any plant")
    # Once only; and the goal holds on that step alone.
    play.do("Go to red cat")
    assert not play.fits("Grow red cat") and play.fits(f"Grasp blue {supply}")


def test_a_carried_to_its_supply_an_animal_grows_too():
    play = Play(A, ["red cat", "blue food"], "Grow red cat")
    assert play.do("Go to red cat", "Grasp", "Go to blue food") == 1
    assert play.held == ["red cat"]


def test_a_plants_take_water_only_and_furniture_nothing():
    play = Play(A, ["red tea", "red desk", "red food", "red water"], "Grow red tea")
    play.do("Go to red food", "Grasp", "Go to red tea", "Go to red water", "Grasp")
    assert not play.do("Go to red desk")
    assert not any(play.fits(t) for t in play.goals.texts if t.startswith("Grow"))
    assert play.do("Go to red tea") == 1


def test_a_release_drops_where_the_agent_is():
    play = Play(A, ["red tea", "red desk", "red door"], "Grow red tea")
    play.do("Go to red desk", "Grasp", "Go to red door", "Grasp", "Go to red tea")
    play.do("Release red desk")
    assert play.held == ["red door"]
    play.do("Release red door")
    np.testing.assert_array_equal(play.observation.on[:3], True)
    play.do("Go to red door")  # all are in one place: the agent stays
    np.testing.assert_array_equal(play.observation.on[:3], True)


def test_a_release_all_drops_both():
    play = Play(A, ["red desk", "red door"], "Grasp red desk")
    play.do("Go to red door", "Grasp")
    assert "Release all" not in play.commands
    assert play.do("Go to red desk", "Grasp") == 1
    play.do("Release all")
    assert play.held == [] and play.seen == ["red desk", "red door"]


# Sequences.


def test_b_the_first_half_is_remembered():
    things = ["red beet", "green water", "blue door"]
    play = Play(B, things, "Grow red beet then grasp blue door")
    play.do("Go to green water", "Grasp", "Go to red beet seed")
    assert not play.do("Release green water")
    assert bool(play.state.first_reached)
    assert play.do("Go to red beet", "Go to blue door", "Grasp") == 1


def test_b_a_second_half_held_already_counts_on_the_step_of_the_first():
    things = ["red beet", "green water", "blue door"]
    play = Play(B, things, "Grow red beet then grasp blue door")
    play.do("Go to blue door", "Grasp", "Go to green water", "Grasp")
    assert play.do("Go to red beet seed", "Release green water") == 1


def test_b_a_second_half_before_the_first_does_not_count():
    things = ["red beet", "blue pea", "green water", "red water"]
    play = Play(B, things, "Grow red beet then grow blue pea")
    play.do("Go to green water", "Grasp", "Go to blue pea seed", "Release green water")
    assert play.fits("Grow blue pea") and not bool(play.state.first_reached)
    assert not play.do("Go to red water", "Grasp", "Go to red beet seed")
    assert not play.do("Release red water")
    assert bool(play.state.first_reached)


def test_a_both_halves():
    things = ["red cat", "blue dog", "red food", "red desk"]
    play = Play(A, things, "Grow red cat then grow blue dog")
    play.do("Go to red food", "Grasp", "Go to red cat")
    assert play.do("Go to blue dog") == 1
    play = Play(A, things, "Grow red cat then grow blue dog")
    play.do("Go to red food", "Grasp", "Go to blue dog")
    assert not play.do("Go to red cat", "Go to blue dog")
    play = Play(A, things, "Grow red cat then grasp any supply")
    assert play.do("Go to red food", "Grasp", "Go to red cat") == 1


# The end of an episode.


def test_success_on_the_last_step_is_terminated_and_failure_truncated():
    play = Play(A, ["red desk", "red door"], "Grasp red desk", limit=2)
    assert play.do("Go to red desk", "Grasp") == 1
    assert bool(play.outcome.terminated) and not bool(play.outcome.truncated)
    play = Play(A, ["red desk", "red door"], "Grasp red desk", limit=2)
    play.do("Go to red door")
    assert not bool(play.outcome.truncated)
    assert not play.do("Grasp")
    assert bool(play.outcome.truncated) and not bool(play.outcome.terminated)


def test_commands_are_remembered_oldest_first():
    play = Play(A, ["red desk", "blue desk"], "Grasp any door", history=3)
    np.testing.assert_array_equal(play.observation.history, [-1, -1, -1])
    play.do("Go to red desk", "Grasp", "Go to blue desk", "Release red desk")
    texts = command_names(A.names)
    assert [texts[i] for i in play.observation.history] == [
        "Grasp",
        "Go to blue desk",
        "Release red desk",
    ]
    play.do("Grasp", "Release all")
    assert texts[play.observation.history[-1]] == "Release all"


# A world that is not in the package.


def made_up():
    return worlds.World(
        name="forge",
        colours=("hot", "cold"),
        categories=(
            ("ore", ("iron", "tin")),
            ("tool", ("hammer",)),
            ("mineral", ("iron", "tin", "coal")),
        ),
        growths=(
            worlds.Growth("ore", by="coal"),
            worlds.Growth("tool", by="ore", count=2, grown=True),
        ),
        young=(("ore", "raw {}"), ("tool", "plan of a {}")),
        sizes=(0.2, 0.2),
        grows_in_hand=True,
        supply_consumed=True,
        release_drops=True,
        put_down_by_growth=(),
        test_phrases=("cold hammer",),
    )


def test_a_new_world_is_only_a_table():
    world = made_up()
    things = ["hot hammer", "grown cold iron", "hot tin", "hot coal"]
    play = Play(world, things, "Grow hot hammer")
    assert play.seen == ["plan of a hot hammer", "cold iron", "raw hot tin", "hot coal"]
    play.do("Go to hot coal", "Grasp", "Go to raw hot tin")
    assert play.fits("Grow any mineral") and play.held == []
    play.do("Grasp", "Go to plan of a hot hammer", "Release hot tin", "Go to cold iron")
    assert play.do("Grasp", "Go to plan of a hot hammer") == 1
    assert play.seen == ["hot hammer"] and play.held == []
    # 4 types and 3 categories, minus what cannot grow (coal): 2 * 7 + 2 + 7 Grasp
    # goals, 2 * 6 + 2 + 6 Grow goals; test: "Grasp/Grow cold hammer".
    assert play.goals.size == 23 + 20
    assert (~play.goals.train).sum() == 2


def test_sizes_out_of_range_are_errors():
    goals = goals_lib.goals_of(A)
    with pytest.raises(ValueError, match="inventory must be at least 1, got 0"):
        dynamics(A, goals, 0, 8)
    with pytest.raises(ValueError, match="limit must be at least 1 step, got 0"):
        dynamics(A, goals, 2, 0)
    with pytest.raises(ValueError, match="a scene of 2 objects does not fit num_ob"):
        things = [Thing("desk", "red", (0, 0)), Thing("door", "red", (0, 1))]
        given_scene(A, things, goals.parse("Grasp red desk"), 1)
    with pytest.raises(ValueError, match="world A has no 'pink' 'desk'"):
        things = [Thing("desk", "pink", (0, 0))]
        given_scene(A, things, goals.parse("Grasp red desk"), 1)
