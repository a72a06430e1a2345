"""The goals of both worlds, by kind and split."""

import jax
import numpy as np
import pytest

from rljax.envs.playground import goals as goals_lib
from rljax.envs.playground import worlds


@pytest.fixture(scope="module")
def goals_a():
    return goals_lib.goals_of(worlds.world_a())


@pytest.fixture(scope="module")
def goals_b():
    return goals_lib.goals_of(worlds.world_b())


def counts(goals, train):
    every = goals_lib.every(goals, train)
    of_kind = [len(goals_lib.of_kind(goals, every, kind)) for kind in goals_lib.KINDS]
    return [len(every), *of_kind]


def test_world_a_has_the_goals_of_the_paper(goals_a):
    # Published: 8,470 in all. 182 = 136 + 46 and 64 = 15 + 49 single ones.
    assert counts(goals_a, train=True) == [8470, 136, 46, 6218, 2070]
    assert counts(goals_a, train=False) == [3145, 15, 49, 729, 2352]
    assert len(goals_lib.singles(goals_a, True)) == 182
    assert len(goals_lib.singles(goals_a, False)) == 64


def test_world_b_has_the_goals_of_the_reference(goals_b):
    total, grasp, grow, *sequences = counts(goals_b, train=True)
    assert (grasp, grow, grasp + grow) == (131, 87, 218)
    assert sum(sequences) == 18_792
    assert total == 19_010
    unseen = ("cow", "coyote", "potato", "rhinoceros", "shark", "lamp", "sofa")
    for text, train in zip(goals_b.texts, goals_b.train, strict=True):
        assert train != any(word in text.split() for word in unseen), text


def test_kinds_of_sets_are_disjoint_and_complete(goals_a):
    split = goals_lib.every(goals_a, True)
    kinds = [goals_lib.of_kind(goals_a, split, kind) for kind in goals_lib.KINDS]
    assert sorted(map(tuple, np.concatenate(kinds))) == sorted(map(tuple, split))
    for kind in goals_lib.KINDS[:2]:
        named = goals_lib.singles(goals_a, True, kind)
        np.testing.assert_array_equal(
            named, goals_lib.of_kind(goals_a, split, kind), strict=False
        )


def test_a_text_names_its_goal_and_back(goals_a):
    for text in ("Grasp any red thing", "Grow red cat then grasp blue desk"):
        goal = goals_a.parse(text)
        assert goals_a.text(goal) == text
    # The same two last words twice is no sequence; nor is one across the splits.
    with pytest.raises(ValueError, match="'Grow red cat then grasp red cat' is no seq"):
        goals_a.parse("Grow red cat then grasp red cat")
    with pytest.raises(ValueError, match="is no sequence"):
        goals_a.parse("Grow red cat then grasp blue door")
    with pytest.raises(ValueError, match="'Grow red desk' is no goal of this world"):
        goals_a.parse("Grow red desk")


def test_an_object_fits_its_type_its_categories_and_its_colour(goals_a):
    name = worlds.world_a().name_id("cat", "red")
    fitting = {t for t, m in zip(goals_a.texts, goals_a.match[name], strict=True) if m}
    whats = {
        "red cat",
        "red animal",
        "red living_thing",
        "any cat",
        "any animal",
        "any living_thing",
        "any red thing",
    }
    assert fitting == {f"{verb} {what}" for verb in ("Grasp", "Grow") for what in whats}


def test_kind_of_a_goal(goals_a):
    cases = {
        "Grasp red cat": 0,
        "Grow red cat": 1,
        "Grow red cat then grasp any chair": 2,
        "Grow red cat then grow red lion": 3,
    }
    kind_of = jax.jit(lambda goal: goals_lib.kind_of(goals_a, goal))
    for text, kind in cases.items():
        assert kind_of(goals_a.parse(text)) == kind


def test_samplers_draw_what_they_say(goals_a):
    pairs = goals_lib.every(goals_a, True)
    keys = jax.random.split(jax.random.key(0), 4000)
    known = set(map(tuple, pairs.tolist()))
    for make, share in (
        (goals_lib.uniform, [136 / 8470, 46 / 8470, 6218 / 8470, 2070 / 8470]),
        (lambda p: goals_lib.uniform_by_kind(goals_a, p), [0.25] * 4),
    ):
        sampler = make(pairs)
        drawn = np.asarray(jax.jit(jax.vmap(sampler.sample))(keys))
        assert set(map(tuple, drawn.tolist())) <= known
        kinds = [len(goals_lib.of_kind(goals_a, drawn, k)) for k in goals_lib.KINDS]
        # Four standard deviations of a share of 4,000 draws are at most 0.032.
        np.testing.assert_allclose(np.array(kinds) / 4000, share, atol=0.032)
        assert len(np.unique(drawn[:, 0])) > 40  # not one goal over and over


def test_no_goals_is_an_error(goals_a):
    none = np.zeros((0, 2), np.int16)
    with pytest.raises(ValueError, match="at least 1 goal, got 0"):
        goals_lib.uniform(none)
    with pytest.raises(ValueError, match="at least 1 goal, got 0"):
        goals_lib.uniform_by_kind(goals_a, none)


def test_a_wrong_table_is_an_error():
    def world(growth):
        return worlds.World(
            name="X",
            colours=("red",),
            categories=(("rock", ("flint",)), ("plant", ("fern",))),
            growths=(growth,),
            young=(),
            sizes=(0.2, 0.2),
            grows_in_hand=True,
            supply_consumed=False,
            release_drops=True,
            put_down_by_growth=(),
            test_phrases=(),
        )

    with pytest.raises(ValueError, match="world X: no category 'fish'"):
        world(worlds.Growth("fish", by="flint"))
    with pytest.raises(ValueError, match="no type or category 'water'"):
        world(worlds.Growth("plant", by="water"))
    with pytest.raises(ValueError, match="by 3 'flint'; the limit is 2"):
        world(worlds.Growth("plant", by="flint", count=3))
    with pytest.raises(ValueError, match="grown 'flint', which does not grow"):
        world(worlds.Growth("plant", by="flint", grown=True))
