"""What a step tells of its answers, by hand."""

import types
from typing import Any

import numpy as np
import pytest

from rljax.replay.cells import BARE, States
from rljax.rollout.answers import Answers, Verdicts
from rljax.training import online

END = 9
# Problem, state, what was said after it, right.
ANSWERS = [
    (0, [], [1, 2, END], True),
    (0, [], [1, 2, END], True),  # the same again
    (1, [5, 6], [7, END], True),
    (1, [5, 6], [7, 7, 7, 7, 7, 7], False),  # does not end by itself
    (1, [], [5, 6, 7, END], True),  # the one from the state, said from the beginning
    (1, [], [3, END], True),
    (2, [], [1, 2, END], True),  # of another problem
    (2, [], [8, END], False),  # not judged in time
]


def rows(lists) -> np.ndarray:
    return np.array([x + [0] * (6 - len(x)) for x in lists], np.int32)


@pytest.fixture(scope="module")
def found():
    problem, state, said, _ = zip(*ANSWERS, strict=True)
    length = np.array([len(x) for x in state], np.int32)
    start = States(
        np.array(problem, np.int32), np.where(length > 0, 4, BARE), rows(state), length
    )
    sampled = np.array([len(x) for x in said], np.int32)
    stopped = np.array([x[-1] == END for x in said])
    return Answers(start, rows(said), sampled, np.full((8, 6), -1.0), stopped)


def test_what_answers_were_like(found):
    late = np.arange(8) == 7
    verdicts = Verdicts(np.array([x[3] for x in ANSWERS]), ~late, late, "")
    # Problem 1 was solved before, 0 and 2 are now: 2 of 8 answers.
    host: Any = types.SimpleNamespace(solved=np.array([False, True, False, False]))
    told = online.look(found, verdicts, host, 0.3)
    assert told == pytest.approx(
        {
            "rollout/right": 6 / 7,
            "rollout/right_bare": 1.0,
            "rollout/right_replayed": 1 / 2,
            # 1 2 of problem 0, 5 6 7 and 3 of problem 1, 1 2 of problem 2.
            "rollout/distinct_right": 4,
            "rollout/new_solved_per_1k": 1000 * 2 / 8,
            "rollout/length": (3 + 3 + 2 + 6 + 4 + 2 + 3 + 2) / 8,
            "rollout/cut_short": 1 / 8,
            "rollout/verifier_failed": 0,
            "rollout/verifier_timeouts": 1,
            "replay/rho": 0.3,
            "replay/share": 2 / 8,
            # 2 of 4 tokens and 2 of 8.
            "replay/prefix_fraction": (1 / 2 + 1 / 4) / 2,
        }
    )


def test_without_replay_and_without_right_answers(found):
    nothing = np.zeros(8, bool)
    start = found.start._replace(serial=np.full(8, BARE), length=np.zeros(8, np.int32))
    host: Any = types.SimpleNamespace(solved=np.zeros(3, bool))
    told = online.look(
        found._replace(start=start), Verdicts(nothing, ~nothing, nothing, ""), host, 0.0
    )
    assert told["rollout/distinct_right"] == told["rollout/new_solved_per_1k"] == 0
    assert np.isnan(told["replay/prefix_fraction"])
    assert np.isnan(told["rollout/right_replayed"])


def test_what_the_policy_thought_is_a_mean_over_what_was_sampled(found):
    """Nothing of the state, of the prompt or of what comes after the end."""
    mask, count = found.sampled, found.length.sum()
    entropy = np.where(mask, np.arange(6), 99.0)
    read = {
        "entropy": entropy,
        "kl": np.where(mask, 2.0, 99.0),
        "log_prob": np.where(mask, -1.25, 99.0),  # the sampler said -1
    }
    places = sum(sum(range(n)) for n in found.length.tolist())
    assert online.thought(found, read) == pytest.approx(
        {
            "rollout/entropy": places / count,
            "rollout/kl": 2.0,
            "rollout/sampler_gap": 0.25,
        }
    )
