"""Share, gates and groups: by hand, and rho = 0 as plain as without an archive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import surrogate, token_returns
from rljax.replay import archive as archive_lib
from rljax.replay import choice, schedule
from tests.replay.archiving import filled

CONFIG = schedule.Config(updates=110, first=10, share=0.4, ramp=0.1, fade=0.2)


def test_the_share_is_a_trapezoid():
    # 100 updates from 10 on: ten to rise in, twenty to fall in.
    expected = {
        0: 0,
        9: 0,
        10: 0,
        15: 0.2,
        20: 0.4,
        60: 0.4,
        90: 0.4,
        100: 0.2,
        109: 0.02,
    }
    for update, share in expected.items():
        assert schedule.rho(CONFIG, update) == pytest.approx(share), update
    assert schedule.rho(CONFIG, 110) == 0.0


def test_without_ramp_and_fade_it_is_flat():
    config = schedule.Config(updates=4, share=0.5, ramp=0.0, fade=0.0)
    assert [schedule.rho(config, u) for u in range(5)] == [0.5] * 4 + [0.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": 1.5}, r"share must lie in \[0, 1\], got 1.5"),
        ({"share": 0.95}, "share is 0.95, more than the 0.5 of a batch that most"),
        ({"ramp": 0.9}, "ramp and fade are 0.9 and 0.2, more than 1 together"),
        ({"first": 110}, "first must lie in 0..109, the run's updates, got 110"),
        ({"solved_at": -0.1}, "solved_at must lie in"),
    ],
)
def test_refuses_a_schedule(change, said):
    values = {"updates": 110, "share": 0.25, "ramp": 0.1, "first": 0} | change
    with pytest.raises(ValueError, match=said):
        schedule.check(schedule.Config(**values))


def test_only_the_last_bare_tries_count():
    history = schedule.no_history(2, window=4)
    assert schedule.bare_success(history).tolist() == [0.0, 0.0]
    history = schedule.note(history, np.array([0, 1, 0]), np.array([False, True, True]))
    assert schedule.bare_success(history).tolist() == [0.5, 1.0]
    assert not schedule.solved(history, 0.8).any()  # too few tries to know
    before = history
    history = schedule.note(history, np.full(3, 0), np.ones(3, bool))
    assert history.outcome[0].tolist() == [1, 1, 1, 1]  # the first one is forgotten
    assert history.tries.tolist() == [5, 1] and history.solves.tolist() == [4, 1]
    assert schedule.solved(history, 0.8).tolist() == [True, False]
    assert before.tries.tolist() == [2, 1]
    with pytest.raises(ValueError, match="problem 2 is unknown: the history has 2"):
        schedule.note(history, np.array([2]), np.array([True]))
    with pytest.raises(ValueError, match="one each"):
        schedule.note(history, np.array([0, 1]), np.array([True]))
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        schedule.no_history(2, 0)


def test_chances_are_gated_by_bare_success():
    history = schedule.no_history(3, window=4)
    history = schedule.note(
        history, np.array([1, 1, 1, 1]), np.array([1, 0, 0, 0], bool)
    )
    history = schedule.note(
        history, np.array([2, 2, 2, 2]), np.array([1, 1, 1, 1], bool)
    )
    np.testing.assert_allclose(
        schedule.chances(CONFIG, history, 60), [0.4, 0.4 * 0.75, 0.0]
    )
    one_wrong = schedule.note(history, np.array([2]), np.array([False]))
    np.testing.assert_allclose(schedule.chances(CONFIG, one_wrong, 60)[2], 0.1)
    strict = schedule.Config(updates=10, share=0.4, ramp=0, fade=0, solved_at=0.75)
    assert schedule.chances(strict, one_wrong, 5)[2] == 0.0


def draw(config, update=50, problems=None, history=None, seed=3):
    archive = filled((0, (1,), 0.1), (0, (2,), 0.2), (1, (3,), 0.1), problems=3)
    history = schedule.no_history(3) if history is None else history
    problems = np.arange(300) % 3 if problems is None else problems
    return schedule.draw(
        archive, history, config, problems, update, seed, choice.by_visits
    )


def flat(share, most=1.0):
    return schedule.Config(updates=100, share=share, most=most, ramp=0, fade=0)


def test_draw_replays_the_share_of_problems_with_states():
    drawn = draw(flat(0.5))
    replayed = drawn.starts.replayed.reshape(100, 3).sum(axis=0)
    assert 35 <= replayed[0] <= 65 and 35 <= replayed[1] <= 65  # 3 sigma
    assert replayed[2] == 0  # has none
    assert drawn.rho == 0.5
    assert drawn.archive.visits.sum() == replayed.sum()
    assert draw(flat(1.0)).starts.replayed.sum() == 200


def test_no_share_and_no_replay_before_the_first():
    assert not draw(flat(0.0)).starts.replayed.any()
    assert not draw(CONFIG, update=9).starts.replayed.any()
    assert draw(CONFIG, update=40).starts.replayed.any()


def test_at_most_half_a_batch():
    starts = draw(flat(1.0, most=0.5), problems=np.array([0, 1] * 5)).starts
    assert starts.replayed.sum() == 5
    # What cannot be replayed takes nobody's place.
    starts = draw(flat(1.0, most=0.5), problems=np.array([0, 2] * 5)).starts
    assert starts.replayed.tolist() == [True, False] * 5
    one = draw(flat(1.0, most=0.5), problems=np.array([0])).starts
    assert not one.replayed.any()


def anywhere(share=1.0, most=1.0):
    return dataclasses.replace(flat(share, most), anywhere=True)


def test_a_group_may_leave_its_problem():
    """Problem 2 has no state; problem 0 has twice the states of problem 1."""
    starts = draw(anywhere(0.5), problems=np.full(300, 2)).starts
    replayed = starts.problem[starts.replayed]
    assert 120 <= len(replayed) <= 180  # 4 sigma
    # Each before one comes again, as far as the groups that stay let one see.
    assert set(replayed.tolist()) == {0, 1}
    assert np.all(starts.problem[~starts.replayed] == 2)
    alone = [
        draw(
            anywhere(), update=u % 100, seed=u // 100, problems=np.full(1, 2)
        ).starts.problem[0]
        for u in range(300)
    ]
    assert 170 <= alone.count(0) <= 230  # of 300 two thirds are 200; 4 sigma
    for update in range(20):
        both = draw(anywhere(), update=update, problems=np.full(2, 2)).starts.problem
        assert sorted(both.tolist()) == [0, 1]
    half = draw(anywhere(most=0.5), problems=np.full(8, 2)).starts
    assert half.replayed.sum() == 4


def test_where_nobody_may_go():
    solved = schedule.note(schedule.no_history(3), np.zeros(8, int), np.ones(8, bool))
    starts = draw(anywhere(), history=solved).starts
    assert set(starts.problem[starts.replayed].tolist()) == {1}
    problems = np.repeat([0, 1], 8)
    both = schedule.note(schedule.no_history(3), problems, np.ones(16, bool))
    starts = draw(anywhere(), history=both).starts
    assert not starts.replayed.any()
    np.testing.assert_array_equal(starts.problem, np.arange(300) % 3)
    nothing = draw(anywhere(0.0)).starts
    assert not nothing.replayed.any()


def test_draws_are_of_seed_and_update_alone():
    first, again = draw(flat(0.5)).starts, draw(flat(0.5)).starts
    np.testing.assert_array_equal(first.serial, again.serial)
    assert np.any(draw(flat(0.5), seed=4).starts.serial != first.serial)
    assert np.any(draw(flat(0.5), update=51).starts.serial != first.serial)


def test_a_solved_problem_is_not_replayed():
    history = schedule.note(schedule.no_history(3), np.zeros(8, int), np.ones(8, bool))
    starts = draw(flat(1.0), history=history).starts
    replayed = starts.replayed.reshape(100, 3).sum(axis=0)
    assert replayed.tolist() == [0, 100, 0]


def test_a_group_shares_one_start():
    starts = draw(flat(0.5), problems=np.array([0, 2, 1, 0])).starts
    answers = schedule.in_groups(starts, 3)
    assert answers.problem.tolist() == [0] * 3 + [2] * 3 + [1] * 3 + [0] * 3
    schedule.require_unmixed(answers, 3)
    np.testing.assert_array_equal(answers.tokens[::3], starts.tokens)
    answers.serial[4] = 77
    with pytest.raises(ValueError, match="group 1 is mixed, .* serial values .-1, 77."):
        schedule.require_unmixed(answers, 3)
    with pytest.raises(ValueError, match="12 answers are no whole groups of 5"):
        schedule.require_unmixed(answers, 5)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        schedule.in_groups(starts, 0)


def test_no_share_is_plain_ppo_from_the_same_program():
    """Bit for bit, whatever the archive holds; and the share is data: one trace."""
    rng = np.random.default_rng(0)
    log_p, log_p_old, value, reward = rng.normal(size=(4, 12, 5)).astype(np.float32)
    traces = []

    @jax.jit
    def update(log_p, replayed, begin):
        traces.append(1)
        mask = token_returns.suffix_mask(jnp.full(12, 5), begin, 5)

        def loss(log_p):
            advantage = token_returns.token_gae(reward, value, mask)
            advantage = token_returns.whiten_apart(advantage, mask, replayed)
            return surrogate.surrogate_loss(log_p, log_p_old, advantage, mask).loss

        return jax.value_and_grad(loss)(log_p)

    def run(starts):
        return update(log_p, starts.replayed, starts.length)

    problems = np.arange(12) % 3
    plain = run(archive_lib.bare(problems, 6))
    none = run(draw(flat(0.0), problems=problems).starts)
    some = run(draw(flat(1.0), problems=problems).starts)
    jax.tree.map(np.testing.assert_array_equal, none, plain)
    assert np.any(some[1] != plain[1])
    assert len(traces) == 1
