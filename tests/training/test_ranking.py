"""Areas against a double loop, intervals against drawing steps, steps by hand."""

import numpy as np
import pytest

from rljax.training import ranking
from rljax.training.ranking import FIRST_WRONG, LATER, RIGHT, Steps


def sure(one):
    """It is there."""
    assert one is not None
    return one


def plain_auc(score, wrong):
    """Over all pairs of a wrong step and a right one."""
    total = pairs = 0.0
    for a in score[wrong]:
        for b in score[~wrong]:
            total += 1.0 if a < b else 0.5 if a == b else 0.0
            pairs += 1
    return total / pairs


@pytest.mark.parametrize(
    ("score", "wrong", "area"),
    [
        ([1, 2, 3, 4], [1, 1, 0, 0], 1.0),
        ([1, 2, 3, 4], [0, 0, 1, 1], 0.0),
        ([5, 5, 5], [1, 0, 0], 0.5),
        ([1, 2, 2, 3], [0, 1, 0, 0], 0.5),  # beats 3, ties with 2, loses to 1
        ([-1, 0, 1, 0], [1, 0, 0, 1], 3.5 / 4),  # one tie in four pairs
    ],
)
def test_areas_by_hand(score, wrong, area):
    found = ranking.auc(np.array(score, float), np.array(wrong, bool))
    assert found == pytest.approx(area)


def test_areas_against_a_double_loop():
    rng = np.random.default_rng(0)
    for size in (2, 7, 40):
        score = rng.integers(0, 6, size) / 2.0  # many ties
        wrong = rng.random(size) < 0.4
        wrong[:2] = [True, False]
        expected = plain_auc(score, wrong)
        assert ranking.auc(score, wrong) == pytest.approx(expected)
        # A weight is so many copies.
        weight = rng.integers(0, 4, size)
        weight[:2] = 1
        copies = np.repeat(score, weight), np.repeat(wrong, weight)
        found = ranking.auc(score, wrong, weight.astype(float))
        assert found == pytest.approx(plain_auc(*copies))


def test_an_area_needs_both_kinds():
    assert np.isnan(ranking.auc(np.zeros(2), np.ones(2, bool)))


def test_steps_of_an_answer_by_hand():
    number = np.array([0, 0, 0, 2, 2, 3, 3, 3])  # the last action ends the answer
    value = np.array([0.5, 0.6, 0.7, 0.9, 0.8, 0.4, 0.3, 0.1], np.float32)
    ratio = np.array([1, 2, 4, 8, 16, 32, 64, 128], np.float32)
    before, after, total = ranking.of_answer(number, value, ratio)
    np.testing.assert_allclose(before, [0.5, 0.9, 0.4], rtol=1e-6)
    # Into the next step's first state; the last one stops before the last action.
    np.testing.assert_allclose(after, [0.9, 0.4, 0.1], rtol=1e-6)
    np.testing.assert_allclose(total, [7, 24, 96])


def test_changes_add_up_to_what_is_known_before_the_reward():
    rng = np.random.default_rng(1)
    number = np.sort(rng.integers(0, 5, 30))
    value, ratio = rng.standard_normal((2, 30))
    before, after, total = ranking.of_answer(number, value, ratio)
    assert np.sum(after - before) == pytest.approx(value[-1] - value[0])
    assert np.sum(total) == pytest.approx(np.sum(ratio[:-1]))


def test_an_answer_of_its_end_token_alone():
    told = ranking.of_answer(np.array([0]), np.array([0.3]), np.array([2.0]))
    np.testing.assert_array_equal(np.concatenate(told), [0.3, 0.3, 0.0])


def test_actions_that_do_not_belong_together_are_refused():
    one = np.zeros(2)
    with pytest.raises(ValueError, match="must all be"):
        ranking.of_answer(np.array([0, 1]), one, np.zeros(3))
    with pytest.raises(ValueError, match="may not fall"):
        ranking.of_answer(np.array([1, 0]), one, one)


def drawn(seed=0, problems=12, each=3):
    """Answers of 1 to 5 steps; wrong steps fall by more than right ones."""
    rng = np.random.default_rng(seed)
    rows = []
    for answer in range(problems * each):
        size = int(rng.integers(1, 6))
        error = int(rng.integers(0, size)) if rng.random() < 0.6 else size
        for i in range(size):
            kind = RIGHT if i < error else FIRST_WRONG if i == error else LATER
            fall = -1.0 * (kind == FIRST_WRONG) + 0.5 * rng.standard_normal()
            rows.append((
                answer // each, answer, kind, i == size - 1, 0.0, round(fall, 1),
                rng.standard_normal(),
            ))  # fmt: skip
    return Steps(*(np.array(column) for column in zip(*rows, strict=True)))


def test_separation_against_the_plain_area():
    steps = drawn()
    found = ranking.separate("all", steps, beta=0.3, resamples=50, seed=0)
    seen = steps.kind != LATER
    wrong = steps.kind[seen] == FIRST_WRONG
    areas = {
        "explicit": plain_auc((steps.after - steps.before)[seen], wrong),
        "implicit": plain_auc(steps.log_ratio[seen], wrong),
        "value": plain_auc(steps.after[seen], wrong),
    }
    for name, area in areas.items():
        assert getattr(found, name).value == pytest.approx(area)
    between = areas["explicit"] - areas["implicit"]
    assert sure(found.difference).value == pytest.approx(between)
    assert (found.right, found.wrong) == (np.sum(~wrong), np.sum(wrong))


def test_intervals_are_of_problems_drawn_anew():
    steps = drawn()
    found = ranking.separate("all", steps, 1.0, resamples=300, seed=0)
    rng = np.random.default_rng(7)
    ends = []
    for _ in range(300):
        again = [
            np.flatnonzero((steps.problem == p) & (steps.kind != LATER))
            for p in rng.integers(0, 12, 12)
        ]
        at = np.concatenate(again)
        wrong = steps.kind[at] == FIRST_WRONG
        explicit = plain_auc((steps.after - steps.before)[at], wrong)
        ends.append((explicit, explicit - plain_auc(steps.log_ratio[at], wrong)))
    low, high = np.quantile(ends, [0.025, 0.975], axis=0)
    for k, one in enumerate((sure(found.explicit), sure(found.difference))):
        # Other draws: ends agree to about a tenth of the interval.
        slack = 0.15 * (high[k] - low[k])
        assert one.low == pytest.approx(low[k], abs=slack)
        assert one.high == pytest.approx(high[k], abs=slack)
        assert one.low < one.value < one.high


def test_copies_of_an_answer_make_no_interval_narrower():
    steps = drawn()
    once = ranking.separate("all", steps, 1.0, 200, 0)
    many = Steps(*(np.tile(x, 5) for x in steps))
    again = ranking.separate("all", many, 1.0, 200, 0)
    assert again.wrong == 5 * once.wrong
    for name in ("explicit", "difference"):
        assert getattr(again, name) == pytest.approx(getattr(once, name))


def test_without_both_kinds_there_is_no_area():
    steps = drawn()
    right = Steps(*(x[steps.kind == RIGHT] for x in steps))
    found = ranking.separate("right", right, 1.0, 10, 0)
    assert found.wrong == 0 and found.explicit is None and found.difference is None
    assert ranking.locate(right, 10, 0).answers == 0


def test_places_by_hand():
    # Answers 0 and 1 are wrong, 2 is right. Answer 1 has two equal lowest changes.
    steps = Steps(
        problem=np.array([0, 0, 0, 1, 1, 1, 1]),
        answer=np.array([0, 0, 0, 1, 1, 1, 2]),
        kind=np.array([RIGHT, FIRST_WRONG, LATER, RIGHT, RIGHT, FIRST_WRONG, RIGHT]),
        final=np.zeros(7, bool),
        before=np.zeros(7),
        after=np.array([0.1, -0.5, -0.4, -0.2, 0.0, -0.2, -9.0]),
        log_ratio=np.array([0.0, 1.0, -1.0, 0.0, 1.0, -2.0, 0.0]),
    )
    found = ranking.locate(steps, resamples=400, seed=0)
    assert found.answers == 2
    assert sure(found.explicit).value == pytest.approx((1 + 1 / 2) / 2)
    assert sure(found.implicit).value == pytest.approx((0 + 1) / 2)
    assert sure(found.difference).value == pytest.approx(0.25)
    assert found.chance == pytest.approx(1 / 3)
    # Two problems: each is drawn twice with chance 1/4.
    assert (sure(found.explicit).low, sure(found.explicit).high) == (0.5, 1.0)
    assert (sure(found.difference).low, sure(found.difference).high) == (-0.5, 1.0)


def test_an_interval_is_the_normal_ones_where_problems_are_many():
    # 100 problems with an answer each, found in half of them: 1.96 * sqrt(1/4 / 100)
    # to both sides. Answers have 2 steps, or 4: a random step is right in 3/8.
    rows = [
        (p, p, FIRST_WRONG if not i else LATER, False, 0.0, i * (-1) ** p, 0.0)
        for p in range(100)
        for i in range(2 if p < 50 else 4)
    ]
    steps = Steps(*(np.array(column) for column in zip(*rows, strict=True)))
    found = ranking.locate(steps, resamples=4000, seed=0)
    assert found.chance == pytest.approx(3 / 8)
    assert sure(found.explicit).value == 0.5
    assert sure(found.explicit).low == pytest.approx(0.402, abs=0.011)
    assert sure(found.explicit).high == pytest.approx(0.598, abs=0.011)


def test_means_by_hand():
    steps = Steps(
        np.zeros(4, int), np.zeros(4, int),
        np.array([RIGHT, RIGHT, FIRST_WRONG, LATER]), np.zeros(4, bool),
        np.array([0.5, 0.7, 0.8, 0.3]), np.array([0.7, 0.8, 0.4, 9.0]),
        np.array([1.0, 3.0, -4.0, 9.0]),
    )  # fmt: skip
    found = ranking.means(steps, beta=0.1)
    assert found["right"] == pytest.approx(
        {"explicit": 0.15, "implicit": 0.2, "before": 0.6, "after": 0.75}
    )
    assert found["first wrong"] == pytest.approx(
        {"explicit": -0.4, "implicit": -0.4, "before": 0.8, "after": 0.4}
    )
