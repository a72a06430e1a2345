"""Answers from bare problems and stored states, with a generator that is a table."""

import jax
import numpy as np
import pytest

from rljax.envs import verifiers
from rljax.envs.verifiers import Failure
from rljax.policy.decode import Generated
from rljax.replay.cells import BARE, States
from rljax.rollout import answers

END, LONGEST, GROUP = 9, 6, 2
STARTS = States(
    problem=np.array([1, 0], np.int32),
    serial=np.array([BARE, 4], np.int32),
    tokens=np.array([[0, 0, 0], [5, 6, 0]], np.int32),
    length=np.array([0, 2], np.int32),
)
PROMPTS = [np.array([7, 8, 8], np.int32), np.array([7], np.int32)]


def generator(asked):
    """Says 1, 2, ... up to the limit, and the second sample ends after one token."""

    def generate(params, prompts, keys, *, samples, limits, temperature):
        asked.append((params, [p.tolist() for p in prompts], limits, temperature))
        count = len(prompts) * samples
        ids = np.zeros((count, 16), np.int32)
        length, begin = np.zeros(count, np.int32), np.zeros(count, np.int32)
        log_probs, stopped = np.zeros(ids.shape, np.float32), np.zeros(count, bool)
        for m in range(count):
            prompt, limit = prompts[m // samples], limits[m // samples]
            said = [1, END] if m % samples else list(range(1, limit + 1))
            begin[m], length[m] = len(prompt), len(prompt) + len(said)
            ids[m, : length[m]] = [*prompt, *said]
            log_probs[m, begin[m] : length[m]] = -np.array(said)
            stopped[m] = said[-1] == END
        places = np.arange(16)
        sampled = (places >= begin[:, None]) & (places < length[:, None])
        return Generated(ids, length, begin, sampled, log_probs, stopped)

    return generate


def spelled(ids):
    return " ".join(map(str, ids))


def sampled(asked):
    return answers.sample(
        generator(asked), "weights", [PROMPTS[i] for i in STARTS.problem], STARTS,
        jax.random.split(jax.random.key(0), 2), group=GROUP, longest=LONGEST,
        temperature=0.5,
    )  # fmt: skip


def test_the_policy_reads_prompt_and_state_and_what_it_says_is_kept_apart():
    asked = []
    found = sampled(asked)
    # The state has its place in the answer's length.
    assert asked == [("weights", [[7], [7, 8, 8, 5, 6]], [6, 4], 0.5)]
    assert found.tokens.tolist() == [
        [1, 2, 3, 4, 5, 6], [1, END, 0, 0, 0, 0],
        [1, 2, 3, 4, 0, 0], [1, END, 0, 0, 0, 0],
    ]  # fmt: skip
    assert found.length.tolist() == [6, 2, 4, 2]
    assert found.sampled.sum(axis=1).tolist() == [6, 2, 4, 2]
    np.testing.assert_array_equal(found.log_prob, -found.tokens)
    assert found.start.problem.tolist() == [1, 1, 0, 0]
    assert found.start.replayed.tolist() == [False, False, True, True]
    assert answers.whole(found, 2).tolist() == [5, 6, 1, 2, 3, 4]


def test_the_whole_answer_is_judged_and_a_failure_costs_itself_alone():
    found, heard = sampled([]), []

    def verify(truth, said):
        heard.append((truth, said))
        if truth == "bad":
            raise TypeError("no such answer")
        return said == truth

    truths = ["x", "1 9", "5 6 1 2 3 4", "bad"]
    judge_all = verifiers.in_turn(verify)
    verdicts = answers.judge(judge_all, spelled, found, truths)
    # Answers that did not end by themselves are wrong, whatever they say.
    assert heard == [("1 9", "1 9"), ("bad", "5 6 1 9")]
    assert verdicts.right.tolist() == [False, True, False, False]
    assert verdicts.judged.tolist() == [True, True, True, False]
    assert verdicts.failure == "TypeError: no such answer"
    assert not verdicts.timed_out.any()


def test_want_of_time_is_told_apart_and_verdicts_go_to_their_answers():
    def judge_all(pairs):
        assert pairs == [("b", "1 9"), ("d", "5 6 1 9")]
        return [Failure("too slow", timed_out=True), True]

    verdicts = answers.judge(judge_all, spelled, sampled([]), list("abcd"))
    assert verdicts.right.tolist() == [False, False, False, True]
    assert verdicts.judged.tolist() == [True, False, True, True]
    assert verdicts.timed_out.tolist() == [False, True, False, False]
    assert verdicts.failure == "too slow"


def test_a_state_that_leaves_nothing_to_say_is_refused():
    full = STARTS._replace(length=np.array([0, 6], np.int32))
    with pytest.raises(ValueError, match="problem 0 has 6 tokens, and an answer at"):
        answers.sample(
            generator([]), None, PROMPTS, full,
            jax.random.split(jax.random.key(0), 2), group=1, longest=6,
        )  # fmt: skip
