"""Which states of an answer are promising: where to cut it, and with what score.

    legal = legal_cuts(step, length)
    proposals = propose(answers, where=by_return, score=by_return, allowed=allowed)

A cut at t keeps the first t tokens that were sampled, and what an array holds at t is
of the state before token t: the state that is kept. So no index is shifted. Only the
beginning of a step is a legal cut, and never the last part of an answer, nor one that
states an answer already: what is finished teaches nothing.

| way | `where` | `score` |
|---|---|---|
| the prototype's: largest TD(lambda) return | `by_return` | `by_return` |
| what the critic thinks | `by_value` | `by_value` |
| without a critic | `by_entropy` or `at_random` | `by_group` |
| control | `at_random` | `by_value` |

`proven` asks nobody: of right answers it takes several beginnings each.

Shape letters: M answers, T tokens sampled, L most tokens of a state.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rljax.replay.archive import Proposals
from rljax.replay.cells import States


class Answers(NamedTuple):
    """What is known of some answers; of the last five what the signals in use read."""

    start: States  # of each answer: its problem, and the state it went on from
    tokens: np.ndarray  # int32 [M, T], sampled after it
    length: np.ndarray  # int32 [M]
    legal: np.ndarray  # bool [M, T], whether the first t tokens may be kept
    returns: np.ndarray | None = None  # float [M, T], TD(lambda) in raw reward, no KL
    value: np.ndarray | None = None  # float [M, T], the critic's V
    entropy: np.ndarray | None = None  # float [M, T], of the policy before the token
    group: np.ndarray | None = None  # float [M], mean reward of the answer's group
    noise: np.ndarray | None = None  # float [M, T], uniform


# answers -> a number for each state, float [M, T].
Signal = Callable[[Answers], np.ndarray]


def legal_cuts(
    step: np.ndarray,
    length: np.ndarray,
    tail: float = 0.1,
    unanswered: np.ndarray | None = None,
) -> np.ndarray:
    """Where an answer may be cut: a step begins, and enough is left to do.

        1 <= t <= min((1 - tail) length, unanswered),   step_t != step_{t-1}

    Args:
      step: int [M, T], number of the step of each token, as `data.steps` numbers them
        over the whole answer, the replayed prefix included; the end token belongs to
        the last step.
      length: int [M], tokens sampled.
      tail: share at the end that is never in a state.
      unanswered: int [M], most of the tokens sampled that state no answer, as of
        `before_answer`, less the replayed prefix; None where nobody can say.

    Returns:
      bool [M, T].

    Raises:
      ValueError: if the tail is not in [0, 1), or a length is past the tokens.
    """
    if not 0 <= tail < 1:
        raise ValueError(f"tail must lie in [0, 1), got {tail}")
    if len(length) and max(length) > step.shape[1]:
        raise ValueError(f"an answer has {max(length)} of {step.shape[1]} tokens")
    begins = np.zeros(step.shape, bool)
    begins[:, 1:] = step[:, 1:] != step[:, :-1]
    # Of 10 tokens 9 with a tail of 0.1, whatever the product is rounded to.
    most = np.array([min(math.floor((1 - tail) * n + 1e-9), n - 1) for n in length])
    if unanswered is not None:
        most = np.minimum(most, unanswered)
    return begins & (np.arange(step.shape[1]) <= most[:, None])


def before_answer(
    ids: Sequence[int],
    text: Callable[[Sequence[int]], str],
    answered: Callable[[str], bool],
) -> int:
    """How many tokens of an answer may be kept before it states what it answers.

    Args:
      ids: all of it, the replayed prefix included.
      text: token ids -> text.
      answered: whether a beginning states an answer; one that does still does so
        however it goes on.
    """
    if not answered(text(ids)):
        return len(ids)
    by_length = range(len(ids))  # all of it does
    return (
        bisect.bisect_left(by_length, True, key=lambda n: answered(text(ids[:n]))) - 1
    )


def propose(
    answers: Answers, where: Signal, score: Signal, allowed: np.ndarray
) -> Proposals:
    """One state of each answer: where a signal is largest over the legal cuts.

        t* = argmax_t where_t,   state = prefix + tokens[:t*],   score = score_{t*}

    Of equal cuts the first is taken.

    Args:
      answers: what is known of them.
      where: the signal that is to be largest.
      score: how promising a state is.
      allowed: bool [M], whether an answer may propose.

    Returns:
      Proposals [M] of as many tokens as are needed: none is cut off. One that is not
      allowed, or has no legal cut, proposes nothing.

    Raises:
      ValueError: if a signal lacks what it reads, has another shape, or is not finite
        at a legal cut.
    """
    legal = answers.legal & np.asarray(allowed, bool)[:, None]
    signal = _read(where, answers, legal)
    cut = np.where(legal, signal, -np.inf).argmax(axis=1)
    rows, some = np.arange(len(cut)), legal.any(axis=1)
    found = np.where(some, _read(score, answers, legal)[rows, cut], -np.inf)
    return _beginnings(answers, rows, np.where(some, cut, -1), found)


def proven(answers: Answers, count: int, allowed: np.ndarray) -> Proposals:
    """Beginnings of answers that turned out right, spread over their legal cuts.

    That a right answer goes on from such a state needs no critic to be known. Of m
    legal cuts those with the numbers round(i (m + 1) / (count + 1)) are taken. A
    state's score is a first guess, which tries correct (see `choice.shrunk`): how much
    of the answer it is,

        score = state tokens / answer tokens,   both with the prefix and without prompt

    Args:
      answers: what is known of them; no signal is read.
      count: most states of an answer.
      allowed: bool [M], whether an answer is right and may propose.

    Returns:
      Proposals, at most M * count.

    Raises:
      ValueError: if `count` is below 1.
    """
    rows, cuts = _spread(answers.legal & np.asarray(allowed, bool)[:, None], count)
    start = answers.start.length[rows]
    whole = start + np.asarray(answers.length)[rows]
    return _beginnings(answers, rows, cuts, (start + cuts) / np.maximum(whole, 1))


def _beginnings(
    answers: Answers, rows: np.ndarray, cuts: np.ndarray, score: np.ndarray
) -> Proposals:
    """The prefix of each answer and its tokens up to a cut; nothing where it is -1."""
    start = answers.start
    length = np.where(cuts >= 0, start.length[rows] + cuts, 0)
    tokens = np.zeros((len(rows), max(length, default=0)), np.int32)
    for i in np.flatnonzero(cuts >= 0):
        m, prefix = rows[i], start.length[rows[i]]
        tokens[i, :prefix] = start.tokens[m, :prefix]
        tokens[i, prefix : length[i]] = answers.tokens[m, : cuts[i]]
    return Proposals(
        problem=np.asarray(start.problem, np.int32)[rows],
        tokens=tokens,
        length=length.astype(np.int32),
        score=score.astype(np.float32),
    )


def _spread(legal: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and place of at most `count` legal cuts of each row, evenly over them."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    rows, cuts = [], []
    for m, of_row in enumerate(legal):
        places = np.flatnonzero(of_row)
        some = min(count, len(places))
        number = np.arange(1, some + 1) * (len(places) + 1) / (some + 1)
        rows += [m] * some
        cuts += places[np.floor(number + 0.5).astype(int) - 1].tolist()
    return np.array(rows, np.int64), np.array(cuts, np.int64)


def _read(signal: Signal, answers: Answers, legal: np.ndarray) -> np.ndarray:
    found = signal(answers)
    if np.shape(found) != legal.shape:
        raise ValueError(
            f"a signal has shape {np.shape(found)}, expected {legal.shape}, one number "
            "a token"
        )
    if not np.isfinite(found[legal]).all():
        raise ValueError("a signal is not finite at a legal cut")
    return found


# Signals.


def by_return(answers: Answers) -> np.ndarray:
    """G: the critic's value corrected by what followed."""
    return _given(answers, "returns")


def by_value(answers: Answers) -> np.ndarray:
    """V, as the critic has it."""
    return _given(answers, "value")


def by_entropy(answers: Answers) -> np.ndarray:
    """How undecided the policy is on the step that begins."""
    return _given(answers, "entropy")


def at_random(answers: Answers) -> np.ndarray:
    """Any cut alike."""
    return _given(answers, "noise")


def by_group(answers: Answers) -> np.ndarray:
    """The mean reward of the answers to the start: a guess at all that grew from it.

    Tries from the state itself correct it, see `choice.shrunk`.
    """
    group = _given(answers, "group")
    return np.broadcast_to(group[:, None], answers.tokens.shape)


def _given(answers: Answers, name: str) -> np.ndarray:
    value = getattr(answers, name)
    if value is None:
        raise ValueError(f"answers come without {name!r}, which a signal reads")
    return np.asarray(value)


def who_proposes(
    solved: np.ndarray, bare_success: np.ndarray, below: float = 0.2
) -> np.ndarray:
    """Wrong answers, and right ones to problems that are hard from the start.

    Args:
      solved: bool [M].
      bare_success: float [M], of the answer's problem; see `schedule.bare_success`.
      below: where a problem's right answers propose, too.

    Returns:
      bool [M].
    """
    return ~np.asarray(solved, bool) | (np.asarray(bare_success) < below)


def canonical(
    problem: np.ndarray,
    tokens: np.ndarray,
    length: np.ndarray,
    step: np.ndarray,
    count: int = 2,
    tail: float = 0.1,
    unanswered: np.ndarray | None = None,
) -> States:
    """Seeds: beginnings of reference solutions, spread over their legal cuts.

    Of m legal cuts those with the numbers round(i (m + 1) / (count + 1)) are taken.
    They are scored as stored states are, and added with the origin CANONICAL:
    `proposals` puts the two together. Results with seeds are another method's.

    Args:
      problem: int [M].
      tokens: int32 [M, T], the solutions as the policy would say them.
      length: int [M].
      step: int [M, T], as of `legal_cuts`.
      count: most seeds of a solution.
      tail: as of `legal_cuts`.
      unanswered: as of `legal_cuts`.

    Returns:
      States, at most M * count; fewer where a solution has fewer cuts.

    Raises:
      ValueError: if `count` is below 1, or as `legal_cuts`.
    """
    rows, kept = _spread(legal_cuts(step, length, tail, unanswered), count)
    within = np.arange(tokens.shape[1]) < kept[:, None]
    return States(
        problem=np.asarray(problem, np.int32)[rows],
        serial=np.full(len(rows), -1, np.int32),
        tokens=np.where(within, tokens[rows], 0).astype(np.int32),
        length=kept.astype(np.int32),
    )


def proposals(states: States, score: np.ndarray) -> Proposals:
    """States with a score each, float [M], to be added."""
    return Proposals(
        states.problem, states.tokens, states.length, np.asarray(score, np.float32)
    )
