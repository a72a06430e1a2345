"""Where answers are cut and with what score: by hand, against loops, on real steps."""

from typing import Any

import numpy as np
import pytest

from rljax.data import steps
from rljax.replay import archive, cells, promise
from rljax.text import tokenizer
from tests.replay.archiving import END, contents


def answers(**given) -> Any:
    """Two answers of ten tokens: one goes on from the state (7, 8), one is bare."""
    start = cells.States(
        problem=np.array([1, 0], np.int32),
        serial=np.array([5, -1], np.int32),
        tokens=np.array([[7, 8, 0], [0, 0, 0]], np.int32),
        length=np.array([2, 0], np.int32),
    )
    tokens = np.stack([np.arange(10, 20), np.arange(20, 30)]).astype(np.int32)
    legal = np.zeros((2, 10), bool)
    legal[0, [3, 6]] = legal[1, [2, 5, 8]] = True
    all_ = {"length": np.array([10, 10]), "legal": legal} | given
    return promise.Answers(start=start, tokens=tokens, **all_)


def test_legal_cuts_by_hand():
    # Steps of 3, 3 and 4 tokens; of 10 tokens at most 9 are kept, of 4 none past 3.
    step = np.array([[0, 0, 0, 1, 1, 1, 2, 2, 2, 3], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]])
    legal = promise.legal_cuts(step, np.array([10, 4]))
    assert [np.flatnonzero(row).tolist() for row in legal] == [[3, 6, 9], [3]]
    none = promise.legal_cuts(step, np.array([10, 3]), tail=0.5)
    assert [np.flatnonzero(row).tolist() for row in none] == [[3], []]


def test_a_tail_is_not_rounded_away():
    """(1 - 0.9) 10 is a little less than 1 in floating point."""
    step = np.arange(10)[None]
    legal = promise.legal_cuts(step, np.array([10]), tail=0.9)
    assert np.flatnonzero(legal[0]).tolist() == [1]


TALKS_ON = "3*3=9\n9+1=10\n#### 10\n9+9=18\n9"


@pytest.mark.parametrize("prefix", [0, 6, 13, 21])
def test_no_cut_comes_after_an_answer(prefix):
    """An answer that goes on to talk, bare and from each of its lines."""
    words = tokenizer.character_level("0123456789+*=# \n")
    (ids,) = tokenizer.encode(words, [TALKS_ON])
    step = steps.split(steps.LINES)(words, ids, np.ones(len(ids), bool))[prefix:]
    kept = promise.before_answer(
        ids.tolist(), words.decode, lambda said: "####" in said
    )
    assert words.decode(ids[:kept]) == "3*3=9\n9+1=10\n###"
    legal = promise.legal_cuts(
        step[None], np.array([len(step)]), 0.0, np.array([kept - prefix])
    )
    texts = [words.decode(ids[: prefix + t]) for t in np.flatnonzero(legal[0])]
    expected = ["3*3=9\n", "3*3=9\n9+1=10\n"]
    assert texts == [text for text in expected if len(text) > prefix]


def test_an_answer_that_states_none_may_be_kept_whole():
    asked = []

    def text(ids):
        asked.append(len(ids))
        return "".join(map(str, ids))

    assert promise.before_answer([1] * 64, text, lambda said: "2" in said) == 64
    assert asked == [64]
    ids = [1] * 64
    for place in (0, 1, 40, 63):
        ids[place:] = [2] * (64 - place)
        assert promise.before_answer(ids, text, lambda said: "2" in said) == place
        ids = [1] * 64
    assert promise.before_answer([], text, lambda said: "2" in said) == 0


@pytest.mark.parametrize("tail", [0.0, 0.1, 0.3])
def test_legal_cuts_are_the_loop(tail):
    rng = np.random.default_rng(0)
    step = np.cumsum(rng.random((6, 40)) < 0.5, axis=1)
    length = rng.integers(0, 41, 6)
    legal = promise.legal_cuts(step, length, tail)
    for m in range(6):
        for t in range(40):
            expected = (
                t >= 1
                and t < length[m]  # a finished answer is never a state
                and 10 * t <= round(10 * (1 - tail)) * length[m]
                and step[m, t] != step[m, t - 1]
            )
            assert legal[m, t] == expected


def test_states_end_where_lines_do():
    """Numbered over the whole answer, the replayed prefix included."""
    words = tokenizer.character_level("0123456789+=\n")
    (ids,) = tokenizer.encode(words, ["1+2+3\n=3+3\n=6\n"])
    ids = np.append(ids, words.eos_token_id)
    step = steps.split(steps.LINES)(words, ids, np.ones(len(ids), bool))
    for prefix in (0, 6):
        own = step[prefix:]
        legal = promise.legal_cuts(own[None], np.array([len(own)]))
        texts = [words.decode(ids[: prefix + t]) for t in np.flatnonzero(legal[0])]
        assert texts == ["1+2+3\n", "1+2+3\n=3+3\n"][prefix // 6 :]


def test_a_state_is_what_came_before_the_best_token():
    """V and G at t are of the state before token t: t tokens are kept, not t + 1."""
    returns = np.full((2, 10), 0.5)
    returns[0, 6], returns[1, 5], returns[1, 9] = 0.9, 0.8, 1.0  # 9 is not legal
    given = answers(returns=returns)
    found = promise.propose(given, promise.by_return, promise.by_return, np.ones(2))
    assert found.problem.tolist() == [1, 0]
    assert found.length.tolist() == [8, 5]
    assert found.tokens[0, :8].tolist() == [7, 8, 10, 11, 12, 13, 14, 15]
    assert found.tokens[1].tolist() == [20, 21, 22, 23, 24, 0, 0, 0]
    np.testing.assert_allclose(found.score, [0.9, 0.8])


def test_of_equal_cuts_the_first():
    found = promise.propose(
        answers(value=np.zeros((2, 10))), promise.by_value, promise.by_value, np.ones(2)
    )
    assert found.length.tolist() == [2 + 3, 2]


def test_where_and_score_are_different_things():
    entropy = np.tile(np.arange(10.0), (2, 1))
    given = answers(entropy=entropy, group=np.array([0.25, 0.5]), noise=-entropy)
    found = promise.propose(given, promise.by_entropy, promise.by_group, np.ones(2))
    assert found.length.tolist() == [2 + 6, 8]
    assert found.score.tolist() == [0.25, 0.5]
    found = promise.propose(given, promise.at_random, promise.by_group, np.ones(2))
    assert found.length.tolist() == [2 + 3, 2]


def test_who_may_not_or_cannot_proposes_nothing():
    value = np.full((2, 10), np.nan)  # is not read where there is no cut
    given = answers(value=value, legal=np.zeros((2, 10), bool))
    found = promise.propose(given, promise.by_value, promise.by_value, np.ones(2))
    assert np.all(found.score == -np.inf) and not found.length.any()
    given = answers(value=np.zeros((2, 10)))
    allowed = np.array([False, True])
    found = promise.propose(given, promise.by_value, promise.by_value, allowed)
    assert found.score.tolist() == [-np.inf, 0.0]
    there, added = archive.add(
        cells.empty(np.full(2, 9), 2, 9), found, 0, end_ids=[END]
    )
    assert (added.nothing, added.added) == (1, 1)
    assert contents(there, 0) == {(20, 21): 0.0}


def test_states_grow_by_chaining_and_none_is_cut():
    """Prefix and suffix together are more than the archive holds: refused by it."""
    value = np.zeros((2, 10))
    value[:, 6:] = 1.0
    found = promise.propose(
        answers(value=value), promise.by_value, promise.by_value, np.ones(2)
    )
    there, added = archive.add(
        cells.empty(np.full(2, 9), 2, 7), found, 0, end_ids=[END]
    )
    assert added.too_long == 2 and not there.used.any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: promise.propose(
                answers(), promise.by_value, promise.by_group, np.ones(2)
            ),
            "answers come without 'value', which a signal reads",
        ),
        (
            lambda: promise.propose(
                answers(value=np.full((2, 10), np.nan)),
                promise.by_value, promise.by_value, np.ones(2),
            ),
            "not finite at a legal cut",
        ),
        (
            lambda: promise.propose(
                answers(value=np.zeros((2, 9))),
                promise.by_value, promise.by_value, np.ones(2),
            ),
            r"a signal has shape \(2, 9\), expected \(2, 10\)",
        ),
        (
            lambda: promise.legal_cuts(np.zeros((1, 4), int), np.array([5])),
            "an answer has 5 of 4 tokens",
        ),
        (
            lambda: promise.legal_cuts(np.zeros((1, 4), int), np.array([4]), 1.0),
            r"tail must lie in \[0, 1\), got 1.0",
        ),
        (
            lambda: promise.canonical(
                np.array([0]), np.zeros((1, 4)), np.array([4]), np.zeros((1, 4)), 0
            ),
            "count must be at least 1, got 0",
        ),
        (
            lambda: promise.proven(answers(), 0, np.ones(2)),
            "count must be at least 1, got 0",
        ),
    ],
)  # fmt: skip
def test_refuses(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_who_proposes():
    found = promise.who_proposes(
        np.array([False, True, True, False]), np.array([0.9, 0.1, 0.2, 0.0])
    )
    assert found.tolist() == [True, True, False, True]


def test_beginnings_of_right_answers():
    """Of the three cuts of answer 1 two: numbers round(4/3) and round(8/3)."""
    found = promise.proven(answers(length=np.array([10, 9])), 2, np.array([True, True]))
    assert found.problem.tolist() == [1, 1, 0, 0]
    assert found.length.tolist() == [2 + 3, 2 + 6, 2, 8]
    assert found.tokens[1].tolist() == [7, 8, 10, 11, 12, 13, 14, 15]
    assert found.tokens[2].tolist() == [20, 21, 0, 0, 0, 0, 0, 0]
    # Prefix and answer together: 12 tokens and 9.
    np.testing.assert_allclose(found.score, [5 / 12, 8 / 12, 2 / 9, 8 / 9])
    all_ = promise.proven(answers(), 5, np.array([False, True]))
    assert all_.length.tolist() == [2, 5, 8] and all_.problem.tolist() == [0, 0, 0]
    none = promise.proven(answers(), 5, np.array([False, False]))
    assert none.tokens.shape == (0, 0)
    there = cells.empty(np.full(2, 9), 4, 9)
    there, added = archive.add(there, found, 0, end_ids=[END])
    assert added.added == 4
    there, added = archive.add(there, none, 1, end_ids=[END])
    assert sum(added) == 0


def test_canonical_seeds():
    tokens = np.stack([np.arange(10), np.arange(20, 30)])
    step = np.stack([np.arange(10) // 2, np.arange(10) // 6])  # cuts 2, 4, 6, 8 and 6
    found = promise.canonical(np.array([3, 4]), tokens, np.array([10, 10]), step)
    # Numbers round(5/3) and round(10/3) of four, the only one of one.
    assert found.length.tolist() == [4, 6, 6]
    assert found.problem.tolist() == [3, 3, 4]
    assert found.tokens[0].tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0, 0]
    assert not found.replayed.any()
    there = cells.empty(np.full(5, 9), 4, 10)
    given = promise.proposals(found, np.array([0.1, 0.2, 0.3]))
    there, added = archive.add(there, given, 0, end_ids=[END], origin=cells.CANONICAL)
    assert added.added == 3
    assert contents(there, 3).keys() == {(0, 1, 2, 3), (0, 1, 2, 3, 4, 5)}
    assert np.all(there.origin[there.used] == cells.CANONICAL)


def test_no_seed_states_an_answer():
    tokens, step = np.arange(10)[None], np.arange(10)[None] // 2
    found = promise.canonical(
        np.array([3]), tokens, np.array([10]), step, 3, unanswered=np.array([5])
    )
    assert found.length.tolist() == [2, 4]


def test_a_solution_of_one_step_gives_no_seed():
    found = promise.canonical(
        np.array([0]), np.ones((1, 6)), np.array([6]), np.zeros((1, 6))
    )
    assert not len(found.problem) and found.tokens.shape == (0, 6)
