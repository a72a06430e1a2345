"""All parts of retrospective replay in a loop, with a policy that never learns.

A problem is a hidden row of symbols; an answer is drawn at random and is right if all
of them are. Only going on from what was right so far gets there in so few tries.
"""

import numpy as np

from rljax.replay import archive as archive_lib
from rljax.replay import bandit, cells, choice, promise, schedule

PROBLEMS, SYMBOLS, LENGTH, GROUP, GROUPS, UPDATES = 4, 6, 8, 4, 8, 60
END = 0  # after the last symbol; symbols are 1, 2, ...


def play(share, by_bandit=False):
    """The archive at the end, the problems, which were solved, groups replayed."""
    rng = np.random.default_rng(0)
    hidden = rng.integers(1, SYMBOLS + 1, (PROBLEMS, LENGTH))
    archive = cells.empty(np.full(PROBLEMS, LENGTH), 4, LENGTH)
    learner = bandit.init(archive)
    history = schedule.no_history(PROBLEMS)
    config = schedule.Config(updates=UPDATES, share=share, most=1.0, ramp=0, fade=0)
    solved, replayed = np.zeros(PROBLEMS, bool), 0
    for update in range(UPDATES):
        weigh = bandit.by_progress(learner) if by_bandit else choice.by_visits
        problems = np.arange(GROUPS) % PROBLEMS
        archive, starts, _ = schedule.draw(
            archive, history, config, problems, update, 7, weigh
        )
        replayed += int(starts.replayed.sum())
        each = schedule.in_groups(starts, GROUP)
        schedule.require_unmixed(each, GROUP)
        answers, right = said(rng, hidden, each)
        solved[each.problem[right]] = True
        history = schedule.note(
            history, each.problem[~each.replayed], right[~each.replayed]
        )
        tries = np.full(GROUPS, GROUP)
        solves = right.reshape(GROUPS, GROUP).sum(axis=1)
        outcome = (starts.problem, starts.serial, tries, solves)
        archive, lost = archive_lib.feedback(archive, *outcome)
        assert lost == 0
        learner = bandit.learn(learner, archive, *outcome)
        allowed = promise.who_proposes(
            right, schedule.bare_success(history)[each.problem]
        )
        found = promise.propose(answers, promise.by_value, promise.by_value, allowed)
        archive, added = archive_lib.add(archive, found, update, end_ids=[END])
        assert sum(added) == GROUP * GROUPS and not added.finished
        archive, _ = archive_lib.evict(archive, archive_lib.dead(archive, 400))
    return archive, hidden, solved, replayed


def said(rng, hidden, starts):
    """Random answers from the starts, and which are right; V is how far they are."""
    count = len(starts.problem)
    tokens = rng.integers(1, SYMBOLS + 1, (count, LENGTH + 1)).astype(np.int32)
    length = (LENGTH - starts.length + 1).astype(np.int32)
    tokens[np.arange(count), length - 1] = END
    value, right = np.zeros(tokens.shape), np.zeros(count, bool)
    for m in range(count):
        whole = [*starts.tokens[m, : starts.length[m]], *tokens[m, : length[m] - 1]]
        same = np.cumprod(np.array(whole) == hidden[starts.problem[m]])
        good = np.array([same[:n].all() for n in range(LENGTH + 1)])
        ahead = starts.length[m] + np.arange(length[m])
        value[m, : length[m]] = np.where(good[ahead], ahead, 0) / LENGTH
        right[m] = same.all()
    # Every symbol is a step; the end token belongs to the last.
    step = np.minimum(np.arange(LENGTH + 1), length[:, None] - 2)
    legal = promise.legal_cuts(step, length, tail=0.0)
    return promise.Answers(starts, tokens, length, legal, value=value), right


def test_replay_solves_what_random_play_does_not():
    # 6^-8 is one in 1.7 million; there are 1,920 answers.
    _, _, solved, replayed = play(0.0)
    assert not solved.any() and replayed == 0
    archive, hidden, solved, replayed = play(0.9)
    assert solved.all()
    assert archive.visits.sum() <= replayed  # those of cells that went are gone
    assert np.all(archive.tries == GROUP * archive.visits)
    assert archive.length.max() < LENGTH  # no finished answer
    for i in range(PROBLEMS):  # the best state of each is a beginning of the solution
        best = cells.state_of(archive, i, int(archive.score[i].argmax()))
        np.testing.assert_array_equal(best, hidden[i, : len(best)])


def test_the_bandit_gets_there_too():
    assert play(0.9, by_bandit=True)[2].all()
