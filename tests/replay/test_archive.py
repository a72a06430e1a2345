"""The archive: against lists and dicts, by hand, and what it must never hold."""

import collections
import copy

import jax
import numpy as np
import pytest

from rljax.replay import archive as lib
from rljax.replay import cells, choice
from rljax.replay.cells import BARE, FORBIDDEN, PROMOTED
from tests.replay.archiving import END, Plain, contents, filled, proposals


def add(archive, *rows, update=1, **how):
    return lib.add(archive, proposals(*rows), update, end_ids=[END], **how)


def became(added) -> dict[str, int]:
    return {name: count for name, count in added._asdict().items() if count}


def test_add_is_the_plain_archive():
    """Short states of few tokens and few scores, so that all rules meet."""
    met = collections.Counter()
    for seed in range(8):
        rng = np.random.default_rng(seed)
        archive, plain = cells.empty(np.full(2, 4), 3, 9), Plain(3, 4)
        for update in range(12):
            rows = []
            for _ in range(10):
                state = rng.integers(0, 2, rng.integers(0, 6)).tolist()
                if rng.random() < 0.1:
                    state.append(END)
                score = float(rng.choice([-np.inf, 0.0, 0.25, 0.5])) + update // 4 / 4
                rows.append((int(rng.integers(2)), tuple(state), score))
            archive, added = add(archive, *rows, update=update)
            expected = collections.Counter(plain.offer(*row) for row in rows)
            assert became(added) == dict(expected)
            for problem in (0, 1):
                assert contents(archive, problem) == plain.of(problem)
            met.update(expected)
    assert set(met) == set(lib.Added._fields) - {"full", "forbidden"}


def test_add_changes_nothing_it_was_given():
    archive = filled((0, (1, 2), 0.5))
    before = copy.deepcopy(archive)
    add(archive, (0, (1, 2), 0.75), (0, (3,), 0.1), (1, (4,), 0.1))
    jax.tree.map(np.testing.assert_array_equal, archive, before)


def test_the_least_goes_and_its_cell_is_new():
    archive = filled((0, (1,), 0.5), (0, (2,), 0.1), (0, (3,), 0.3))
    archive.visits[0] = archive.tries[0] = archive.solves[0] = 4
    archive, added = add(archive, (0, (4, 5), 0.2), update=7)
    assert became(added) == {"replaced": 1}
    assert contents(archive, 0) == {
        (1,): 0.5,
        (4, 5): np.float32(0.2),
        (3,): np.float32(0.3),
    }
    assert archive.visits[0].tolist() == [4, 0, 4]
    assert archive.solves[0].tolist() == [4, 0, 4]
    assert archive.added[0].tolist() == [0, 7, 0]
    assert archive.serial[0].tolist() == [0, 3, 2]


def test_a_known_state_keeps_its_visits():
    archive = filled((0, (1, 2), 0.5))
    archive.visits[0, 0] = 5
    archive, added = add(archive, (0, (1, 2), 0.4), (0, (1, 2), 0.6), update=9)
    assert became(added) == {"known": 1, "raised": 1}
    assert archive.score[0, 0] == np.float32(0.6) and archive.visits[0, 0] == 5
    assert archive.used.sum() == 1 and archive.added[0, 0] == 0


def test_scores_are_compared_as_they_are_stored():
    """0.7 in float64 is a little more than in float32."""
    archive = filled((0, (1, 2), 0.7), (1, (1,), 0.7), (1, (2,), 0.7), (1, (3,), 0.7))
    rows = [(0, (1, 2), 0.7), (0, (1, 2, 3), 0.7), (1, (4,), 0.7)]
    given = proposals(*rows)._replace(score=np.full(3, 0.7))
    _, added = lib.add(archive, given, 1, end_ids=[END])
    assert became(added) == {"known": 1, "redundant": 1, "below": 1}


def test_states_of_one_score_may_go_on_from_each_other():
    """Group scores are 0 wherever nothing was right: that makes no state redundant."""
    longer, shorter = (0, (1, 2), 0.0), (0, (1,), 0.0)
    alone, added = add(filled(), longer, shorter, longer)
    assert became(added) == {"added": 2, "redundant": 1}
    assert contents(alone, 0) == {(1,): 0.0}
    both, added = add(filled(), longer, shorter, longer, chains=True)
    assert became(added) == {"added": 2, "known": 1}
    assert contents(both, 0) == {(1,): 0.0, (1, 2): 0.0}


def test_too_long_is_refused_and_never_cut():
    archive = cells.empty(np.array([2, 4]), 3, 8)
    rows = [(0, (1, 2, 3), 1.0), (1, (1, 2, 3), 1.0), (1, (1, 2, 3, 4, 5), 1.0)]
    archive, added = add(archive, *rows)
    assert became(added) == {"too_long": 2, "added": 1}
    assert contents(archive, 0) == {} and contents(archive, 1) == {(1, 2, 3): 1.0}


def test_a_finished_answer_is_no_state():
    archive, added = add(filled(), (0, (1, END), 1.0), (0, (1, END, 2), 1.0))
    assert became(added) == {"finished": 2} and not archive.used.any()


def test_what_tries_say_decides_who_goes():
    """Scored highest, but tried 12 times for nothing: worth 4 0.9 / 16."""
    archive = filled((0, (1,), 0.9), (0, (2,), 0.5), (0, (3,), 0.4))
    archive.tries[0, 0] = 12
    archive, added = add(archive, (0, (4,), 0.3), worth=choice.shrunk(4.0))
    assert became(added) == {"replaced": 1}
    assert set(contents(archive, 0)) == {(4,), (2,), (3,)}
    _, added = add(archive, (0, (5,), 0.3), worth=choice.shrunk(4.0))
    assert became(added) == {"below": 1}


def test_marks_of_people_hold():
    archive = filled((0, (1,), 0.1), (0, (2,), 0.2), (0, (3,), 0.3))
    archive.mark[0] = [PROMOTED, FORBIDDEN, PROMOTED]
    archive, added = add(archive, (0, (4,), 0.9), (0, (2,), 0.9), (0, (2, 5), 0.9))
    assert became(added) == {"full": 1, "forbidden": 2}
    archive.mark[0, 2] = cells.NONE
    archive, added = add(archive, (0, (4,), 0.9))
    assert became(added) == {"replaced": 1} and (1,) in contents(archive, 0)
    # A shorter state with the same score drives out what has no mark only.
    archive = filled((0, (1, 2), 0.5), (0, (1, 3), 0.5))
    archive.mark[0, 0] = PROMOTED
    archive, _ = add(archive, (0, (1,), 0.5))
    assert set(contents(archive, 0)) == {(1, 2), (1,)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": np.array([np.nan])}, "finite or -inf, got .nan."),
        ({"score": np.array([np.inf])}, "finite or -inf"),
        ({"length": np.array([3])}, "lengths must lie in 0..2"),
        ({"length": np.array([-1])}, "lengths must lie in 0..2"),
        ({"problem": np.array([2])}, "problem 2 is unknown: the archive has 2"),
        ({"problem": np.array([-1])}, "problem -1 is unknown"),
        ({"score": np.array([0.0, 0.0])}, "arrays of one length"),
    ],
)
def test_add_refuses(change, said):
    given = proposals((0, (1, 2), 0.5))._replace(**change)
    with pytest.raises(ValueError, match=said):
        lib.add(filled(), given, 0, end_ids=[END])


def choose(archive, problems, draws, wanted=None, weigh=choice.alike):
    wanted = np.ones(len(problems), bool) if wanted is None else np.array(wanted)
    return lib.choose(archive, np.array(problems), wanted, np.array(draws), weigh)


def test_choose_by_hand():
    archive = filled((0, (1,), 0.1), (0, (2, 3), 0.2), (1, (4,), 0.3))
    weigh = lambda there: np.array([1.0, 3.0, 100.0])  # the third cell is free  # noqa: E731
    after, starts = choose(archive, [0, 0, 0, 1], [0.2, 0.25, 0.9, 0.99], weigh=weigh)
    assert starts.serial.tolist() == [0, 1, 1, 2]
    assert starts.length.tolist() == [1, 2, 2, 1]
    assert starts.tokens[:, :2].tolist() == [[1, 0], [2, 3], [2, 3], [4, 0]]
    assert starts.replayed.all()
    assert after.visits.tolist() == [[1, 2, 0], [1, 0, 0]]
    assert not archive.visits.any()


def test_without_states_a_start_is_bare():
    archive = filled((0, (1,), 0.1))
    after, starts = choose(archive, [1, 0, 0], [0.5] * 3, wanted=[True, False, True])
    assert starts.serial.tolist() == [BARE, BARE, 0]
    assert starts.length.tolist() == [0, 0, 1]
    assert starts.problem.tolist() == [1, 0, 0]
    assert after.visits.sum() == 1


def test_forbidden_and_weightless_are_never_chosen():
    archive = filled((0, (1,), 0.1), (0, (2,), 0.2), (0, (3,), 0.3))
    archive.mark[0, 0] = FORBIDDEN
    weigh = lambda there: np.array([9.0, 0.0, 1.0])  # noqa: E731
    draws = [0.0, 0.5, np.nextafter(1.0, 0.0)]
    assert choose(archive, [0] * 3, draws, weigh=weigh)[1].serial.tolist() == [2] * 3
    archive.mark[0, 2] = FORBIDDEN
    assert not choose(archive, [0], [0.5], weigh=weigh)[1].replayed.any()


def test_weights_may_be_as_small_as_numbers_are():
    """0.9 of the least number above 0 is rounded to all of it."""
    archive = filled((0, (1,), 0.1))
    _, starts = choose(archive, [0], [0.9], weigh=lambda there: np.full(3, 5e-324))
    assert starts.serial.tolist() == [0]


def test_visits_level_out():
    archive = filled((0, (1,), 0.1), (0, (2,), 0.2), (0, (3,), 0.3))
    archive.visits[0] = [8, 0, 0]
    draws = np.random.default_rng(0).random(60)
    after, _ = choose(archive, [0] * 60, draws, weigh=choice.by_visits)
    assert after.visits[0].sum() == 68
    assert after.visits[0].max() - after.visits[0].min() < 8


def test_frequencies_are_the_weights():
    archive = filled((0, (1,), 0.1), (0, (2,), 0.2), (0, (3,), 0.3))
    weight = np.array([0.2, 0.5, 0.3])
    draws = (np.arange(1000) + 0.5) / 1000
    _, starts = choose(archive, [0] * 1000, draws, weigh=lambda there: 7 * weight)
    np.testing.assert_array_equal(np.bincount(starts.serial), 1000 * weight)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_choose_refuses_weights(weight):
    archive = filled((0, (1,), 0.1))
    with pytest.raises(ValueError, match="weights of problem 0 must be finite"):
        choose(archive, [0], [0.5], weigh=lambda there: np.full(3, weight))


def test_choose_refuses_draws_and_shapes():
    with pytest.raises(ValueError, match=r"draws must lie in \[0, 1\), got 1.0..1.0"):
        choose(filled(), [0], [1.0])
    with pytest.raises(ValueError, match="choose needs arrays of one length"):
        choose(filled(), [0], [0.1, 0.2])


def test_feedback_counts_by_name():
    archive = filled((0, (1,), 0.1), (1, (2,), 0.2))
    args = ([0, 1, 0, 0, 1], [0, 1, 0, BARE, 77], [4, 4, 2, 4, 4], [1, 0, 2, 4, 4])
    after, lost = lib.feedback(archive, *map(np.array, args))
    assert lost == 1
    assert after.tries[:, 0].tolist() == [6, 4]
    assert after.solves[:, 0].tolist() == [3, 0]
    assert after.tries.sum() == 10 and not archive.tries.any()


def test_feedback_refuses_more_solves_than_tries():
    archive = filled((0, (1,), 0.1))
    with pytest.raises(ValueError, match="3 solves of 2 tries at place 0"):
        lib.feedback(archive, *(np.array([x]) for x in (0, 0, 2, 3)))


def test_scores_are_refreshed_by_name():
    archive = filled((0, (1,), 0.1), (0, (2, 3), 0.2), (1, (4,), 0.3))
    archive.mark[0, 0] = FORBIDDEN
    known = lib.states(archive)
    assert known.serial.tolist() == [1, 2]
    assert known.length.tolist() == [2, 1]
    assert known.tokens[0, :2].tolist() == [2, 3]
    assert lib.states(archive, np.array([False, True])).serial.tolist() == [2]
    archive, _ = lib.evict(archive, archive.serial == 2)
    after, gone = lib.rescore(
        archive, known.problem, known.serial, np.array([0.7, 0.8])
    )
    assert gone == 1
    assert contents(after, 0) == {(1,): np.float32(0.1), (2, 3): np.float32(0.7)}
    assert archive.score[0, 1] == np.float32(0.2)
    with pytest.raises(ValueError, match="scores must be finite"):
        lib.rescore(archive, known.problem, known.serial, np.array([0.7, np.nan]))


def test_dead_cells_and_retired_problems():
    archive = filled(
        (0, (1,), 0.1), (0, (2,), 0.2), (0, (3,), 0.3), (1, (4,), 0.3), (1, (5,), 0.2)
    )
    archive.tries[...] = [[16, 16, 15], [16, 0, 16]]
    archive.solves[0, 1] = 1
    assert lib.dead(archive, 16).tolist() == [
        [True, False, False],
        [True, False, False],
    ]
    archive.mark[1, 0] = PROMOTED
    after, dropped = lib.evict(archive, lib.dead(archive, 16))
    assert dropped == 1 and set(contents(after, 0)) == {(2,), (3,)}
    after, dropped = lib.evict(after, np.array([[False], [True]]))
    assert dropped == 1 and set(contents(after, 1)) == {(4,)}
    assert archive.used.sum() == 5


def test_bare_is_what_evaluation_begins_with():
    starts = lib.bare(np.array([1, 0]), 4)
    assert not starts.replayed.any() and not starts.length.any()
