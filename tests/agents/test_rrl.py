"""Replay between two updates: what is tried, kept, scored anew and dropped."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from rljax.agents import rrl
from rljax.replay import archive, cells, choice, promise, schedule

END, LONGEST, T, GROUP = 9, 6, 8, 2
SETTINGS = rrl.Settings(
    schedule=schedule.Config(updates=10, share=1.0, most=1.0, ramp=0.0, fade=0.0),
    cells=2,
    longest=LONGEST,
    where=promise.by_return,
    score=promise.by_return,
    worth=archive.as_scored,
    weigh=lambda bandit: choice.by_visits,
    end_ids=(END,),
    seed=3,
    explained=0.1,
    dead_after=4,
)
NOTHING = schedule.no_history(3)


def found(starts, right, **changes):
    """Answers 1 2 ... 8 whose best cut is before token 3, worth 0.3 of it."""
    each = schedule.in_groups(starts, GROUP)
    count = len(each.problem)
    tokens = np.broadcast_to(np.arange(1, T + 1), (count, T)).astype(np.int32)
    returns = np.full((count, T), 0.1, np.float32)
    returns[:, 3] = 0.3
    made = rrl.Found(
        starts=starts,
        each=each,
        tokens=tokens,
        length=np.full(count, T, np.int32),
        step=np.broadcast_to(np.arange(T), (count, T)),
        unanswered=np.full(count, T, np.int32),
        right=np.array(right),
        judged=np.ones(count, bool),
        entropy=np.zeros((count, T), np.float32),
        value=None,
        returns=returns,
        explained=0.5,
        warming=False,
    )
    return made._replace(**changes)


def begun():
    """A memory with a state of problem 1, from the answers of a first step."""
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    starts = archive.bare(np.array([1]), LONGEST)
    return rrl.remember(SETTINGS, memory, NOTHING, found(starts, [False, False]), 0)


def test_groups_without_success_make_states_grow():
    """Both states have the score 0, which says nothing of either."""
    settings = SETTINGS._replace(score=promise.by_group, explained=None, chains=True)
    memory = rrl.begin(settings, np.full(3, LONGEST))
    starts = archive.bare(np.array([1]), LONGEST)
    first = found(starts, [False, False])
    memory, _ = rrl.remember(settings, memory, NOTHING, first, 0)
    memory, starts, _ = rrl.choose(settings, memory, NOTHING, np.array([1]), 1)
    second = found(starts, [False, False])
    memory, told = rrl.remember(settings, memory, NOTHING, second, 1)
    assert told["replay/states_added"] == 1 and told["replay/states_redundant"] == 0
    assert memory.archive.score[1].tolist() == [0.0, 0.0]
    assert cells.state_of(memory.archive, 1, 1).tolist() == [1, 2, 3, 1, 2, 3]


def test_scores_may_stay_what_they_were():
    """What is dead goes all the same."""
    memory, _ = begun()
    settings = SETTINGS._replace(rescore=False)
    value = lambda states: np.full(len(states.problem), 0.9)  # noqa: E731
    kept, _ = rrl.refresh(settings, memory, NOTHING, value)
    anew, _ = rrl.refresh(SETTINGS, memory, NOTHING, value)
    assert kept.archive.score[1, 0] == np.float32(0.3)
    assert anew.archive.score[1, 0] == np.float32(0.9)


def test_a_promising_state_is_kept_and_gone_on_from():
    memory, told = begun()
    assert cells.state_of(memory.archive, 1, 0).tolist() == [1, 2, 3]
    assert memory.archive.score[1, 0] == np.float32(0.3)
    assert told["replay/states_added"] == told["replay/states_known"] == 1
    memory, starts, rho = rrl.choose(SETTINGS, memory, NOTHING, np.array([0, 1]), 1)
    assert rho == 1.0 and starts.length.tolist() == [0, 3]
    assert memory.archive.visits[1, 0] == 1
    seen = found(starts, [False, False, True, False])
    assert seen.returns is not None
    seen = seen._replace(returns=seen.returns + np.float32(0.1))
    after, told = rrl.remember(SETTINGS, memory, NOTHING, seen, 7)
    assert after.archive.tries[1].tolist() == [2, 0]
    assert after.archive.solves[1].tolist() == [1, 0]
    assert after.bandit.fast[1, 0] > 0
    assert told["replay/right_age_5"] == 0.5  # 7 steps old
    assert np.isnan(told["replay/right_age_0"])
    # Prefix and suffix together are the new state, of the length there is room for.
    assert cells.state_of(after.archive, 1, 1).tolist() == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize(
    ("age", "told_in"), [(0, 0), (4, 0), (5, 5), (19, 5), (20, 20), (99, 20)]
)
def test_right_answers_are_told_by_the_age_of_their_state(age, told_in):
    memory, _ = begun()
    memory, starts, _ = rrl.choose(SETTINGS, memory, NOTHING, np.array([1]), 1)
    assert starts.replayed.all()
    _, told = rrl.remember(SETTINGS, memory, NOTHING, found(starts, [True, False]), age)
    ages = {a: told[f"replay/right_age_{a}"] for a in rrl.AGES}
    assert ages.pop(told_in) == 0.5 and np.isnan(list(ages.values())).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"warming": True},
        {"explained": 0.05},
        {"explained": None},
        {"judged": np.zeros(2, bool)},
    ],
)
def test_nothing_is_kept_of_a_critic_that_is_not_believed(changes):
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    starts = archive.bare(np.array([1]), LONGEST)
    seen = found(starts, [False, False], **changes)
    memory, told = rrl.remember(SETTINGS, memory, NOTHING, seen, 0)
    assert not memory.archive.used.any() and told["replay/states_nothing"] == 2


def test_states_of_right_answers_alone_need_no_critic():
    """Cuts of 8 tokens: before tokens 1 to 7; two are 3 and 5."""
    proven = SETTINGS._replace(proven=2, where=promise.by_value)  # is not read
    memory = rrl.begin(proven, np.full(3, LONGEST))
    starts = archive.bare(np.array([1, 2]), LONGEST)
    seen = found(
        starts, [False, True, True, True], warming=True, explained=None,
        judged=np.array([True, True, True, False]),
    )  # fmt: skip
    memory, told = rrl.remember(proven, memory, NOTHING, seen, 0)
    assert told["replay/states_added"] == 4
    for problem in (1, 2):
        kept = [cells.state_of(memory.archive, problem, k).tolist() for k in (0, 1)]
        assert kept == [[1, 2, 3], [1, 2, 3, 4, 5]]
    np.testing.assert_allclose(memory.archive.score[1], [3 / 8, 5 / 8])
    wrong = seen._replace(right=np.zeros(4, bool))
    after, told = rrl.remember(
        proven, rrl.begin(proven, np.full(3, LONGEST)), NOTHING, wrong, 0
    )
    assert not after.archive.used.any() and told["replay/states_added"] == 0


def test_no_state_states_an_answer_already():
    """Answer 0 does from its third token on, answer 1 from its first."""
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    starts = archive.bare(np.array([1, 2]), LONGEST)
    seen = found(
        starts, [False, False, True, True], unanswered=np.array([2, 0, T, 0]),
        judged=np.array([True, True, True, False]),
    )  # fmt: skip
    after, told = rrl.remember(SETTINGS, memory, NOTHING, seen, 0)
    assert cells.state_of(after.archive, 1, 0).tolist() == [1]  # the first best of two
    assert cells.state_of(after.archive, 2, 0).tolist() == [1, 2, 3]
    # Of answer 1 nothing is left; what was not judged would have proposed nothing.
    became = {name[7:]: n for name, n in told.items() if n and "states_" in name}
    assert became == {"states_added": 2, "states_finished": 1, "states_nothing": 1}
    proven = SETTINGS._replace(proven=2)
    seen = seen._replace(right=np.array([True, True, False, True]))
    after, told = rrl.remember(proven, memory, NOTHING, seen, 0)
    kept = [cells.state_of(after.archive, 1, k).tolist() for k in (0, 1)]
    assert kept == [[1], [1, 2]] and not after.archive.used[2].any()
    assert told["replay/states_added"] == 2 and told["replay/states_finished"] == 1


def test_right_answers_to_problems_that_are_mostly_solved_keep_nothing():
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    starts = archive.bare(np.array([1]), LONGEST)
    often = schedule.note(NOTHING, np.ones(4, int), np.array([True, True, False, True]))
    seen = found(starts, [True, True])
    memory, _ = rrl.remember(SETTINGS, memory, often, seen, 0)
    assert not memory.archive.used.any()
    memory, _ = rrl.remember(SETTINGS, memory, NOTHING, seen, 0)
    assert memory.archive.used.any()


def test_a_look_scores_anew_and_drops_what_is_dead_or_solved():
    memory, _ = begun()
    asked = []

    def value(states):
        asked.append(states.tokens.tolist())
        return np.full(len(states.problem), 0.7, np.float32)

    after, told = rrl.refresh(SETTINGS, memory, NOTHING, value)
    assert asked == [[[1, 2, 3, 0, 0, 0]]]
    assert after.archive.score[1, 0] == np.float32(0.7)
    assert told == {"replay/retired": 0.0, "replay/dead": 0.0}
    kept, _ = rrl.refresh(SETTINGS, memory, NOTHING, None)
    assert kept.archive.score[1, 0] == np.float32(0.3)
    solved = schedule.note(NOTHING, np.ones(8, int), np.ones(8, bool))
    gone, told = rrl.refresh(SETTINGS, memory, solved, value)
    assert not gone.archive.used.any() and told["replay/retired"] == 1
    tries = memory.archive.tries.copy()
    tries[1, 0] = 4
    tired = dataclasses.replace(
        memory, archive=dataclasses.replace(memory.archive, tries=tries)
    )
    gone, told = rrl.refresh(SETTINGS, tired, NOTHING, value)
    assert not gone.archive.used.any() and told["replay/dead"] == 1
    assert len(asked) == 1  # no state was left to ask of


def test_what_is_told_of_the_archive():
    memory, _ = begun()
    told = rrl.look(memory, 4)
    assert told["replay/fill"] == pytest.approx(1 / 6)
    assert told["replay/problems"] == pytest.approx(1 / 3)
    assert told["replay/cell_age"] == 4
    assert np.isnan(told["replay/rank_correlation"])


def seeds():
    """Two of problem 0, one of problem 1, one of problem 2 that is too long."""
    tokens = np.zeros((4, 8), np.int32)
    for row, n in enumerate((2, 4, 3, 7)):
        tokens[row, :n] = np.arange(1, n + 1)
    return cells.States(
        np.array([0, 0, 1, 2]), np.full(4, -1), tokens, np.array([2, 4, 3, 7])
    )


def test_seeds_are_states_that_are_known_as_such():
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    asked = []

    def value(states):
        asked.append(states)
        return np.array([0.25, 0.25, 0.75], np.float32)[: len(states.problem)]

    after, told = rrl.seed(SETTINGS, memory, seeds(), value, 5)
    # The critic is asked of what fits; of two with one score the shorter stays.
    assert asked[0].length.tolist() == [2, 4, 3]
    assert told == {"replay/seeds_added": 2.0, "replay/seeds_too_long": 1.0}
    kept = after.archive
    assert cells.state_of(kept, 0, 0).tolist() == [1, 2]
    assert kept.score[:, 0].tolist() == [0.25, 0.75, -np.inf]
    assert kept.origin[:2, 0].tolist() == [cells.CANONICAL] * 2
    assert kept.added[:2, 0].tolist() == [5, 5]
    assert not memory.archive.used.any()


def test_without_a_critic_seeds_are_worth_how_far_along_they_are():
    memory = rrl.begin(SETTINGS, np.full(3, LONGEST))
    after, told = rrl.seed(SETTINGS, memory, seeds(), None, 0)
    assert told["replay/seeds_added"] == 3
    np.testing.assert_allclose(after.archive.score[0], [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(after.archive.score[1, 0], 1 / 2, rtol=1e-6)


def test_ranks_share_a_place():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.random(30)
    theirs = scipy.stats.spearmanr(a, b).statistic
    assert rrl.rank_correlation(a, b) == pytest.approx(theirs, abs=1e-12)
    assert rrl.rank_correlation(a, a) == pytest.approx(1.0)
    assert np.isnan(rrl.rank_correlation(a[:2], b[:2]))
    assert np.isnan(rrl.rank_correlation(np.ones(4), a[:4]))
