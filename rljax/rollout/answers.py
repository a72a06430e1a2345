"""Answers of a policy to problems, from the bare problem or from a stored state.

What the policy reads is the prompt's tokens and then the state's, as they were sampled:
no text is tokenised again. What is judged is the whole answer, state and suffix.

Shape letters: M answers, those of a group together, G of each; T most tokens of an
answer, L most tokens of a state.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rljax.envs.verifiers import Failure, JudgeAll
from rljax.policy.decode import Generate
from rljax.replay import schedule
from rljax.replay.cells import States
from rljax.types import Key, Params


class Answers(NamedTuple):
    """What was sampled after the starts."""

    start: States  # [M], of each answer
    tokens: np.ndarray  # int32 [M, T], zeros after the end
    length: np.ndarray  # int32 [M], of what was sampled; the end token included
    log_prob: np.ndarray  # float32 [M, T], as the sampler had it
    stopped: np.ndarray  # bool [M], ended by itself

    @property
    def sampled(self) -> np.ndarray:
        """Where there is a token, bool [M, T]."""
        return np.arange(self.tokens.shape[1]) < self.length[:, None]


class Verdicts(NamedTuple):
    """What a verifier said."""

    right: np.ndarray  # bool [M]
    judged: np.ndarray  # bool [M]; False where the verifier failed
    timed_out: np.ndarray  # bool [M]; where it failed for want of time
    failure: str  # the first one, in words; "" if there was none


def sample(
    generate: Generate,
    params: Params,
    prompts: Sequence[np.ndarray],
    starts: States,
    keys: Key,
    *,
    group: int,
    longest: int,
    temperature: float = 1.0,
) -> Answers:
    """Answers that go on from starts.

    A state and what follows it have `longest` tokens together, as a bare answer has.

    Args:
      generate: of `decode.make`; its prompts hold the longest prompt with its state.
      params: of the policy.
      prompts: token ids of each start's problem.
      starts: one a group.
      keys: one a group.
      group: G.
      longest: T.
      temperature: of the draws.

    Raises:
      ValueError: if a state leaves no token to sample, or as `generate`.
    """
    full = np.flatnonzero(starts.length >= longest)
    if full.size:
        raise ValueError(
            f"a state of problem {starts.problem[full[0]]} has "
            f"{starts.length[full[0]]} tokens, and an answer at most {longest}"
        )
    found = generate(
        params,
        [
            np.concatenate([prompt, state[:length]])
            for prompt, state, length in zip(
                prompts, starts.tokens, starts.length, strict=True
            )
        ],
        keys,
        samples=group,
        limits=[int(longest - length) for length in starts.length],
        temperature=temperature,
    )
    count = len(found.length)
    tokens = np.zeros((count, longest), np.int32)
    log_prob = np.zeros((count, longest), np.float32)
    length = (found.length - found.prompt_length).astype(np.int32)
    for m in range(count):
        begin, end = found.prompt_length[m], found.length[m]
        tokens[m, : length[m]] = found.ids[m, begin:end]
        log_prob[m, : length[m]] = found.log_probs[m, begin:end]
    each = schedule.in_groups(starts, group)
    return Answers(each, tokens, length, log_prob, np.asarray(found.stopped))


def whole(answers: Answers, m: int) -> np.ndarray:
    """The tokens of an answer, its state included, int32 [any]."""
    start = answers.start
    return np.concatenate(
        [start.tokens[m, : start.length[m]], answers.tokens[m, : answers.length[m]]]
    )


def judge(
    judge_all: JudgeAll,
    text: Callable[[Sequence[int]], str],
    answers: Answers,
    truths: Sequence[str],
) -> Verdicts:
    """Which answers are right; one that did not end by itself is wrong.

    A verifier that fails at an answer costs that answer only.

    Args:
      judge_all: says what is right.
      text: token ids -> text.
      answers: to be judged.
      truths: the right answer of each, [M].
    """
    ended = np.flatnonzero(answers.stopped).tolist()
    found = judge_all([(truths[m], text(whole(answers, m).tolist())) for m in ended])
    right, timed_out = (np.zeros(len(answers.length), bool) for _ in range(2))
    judged, failure = np.ones(len(right), bool), ""
    for m, verdict in zip(ended, found, strict=True):
        if isinstance(verdict, Failure):
            judged[m], timed_out[m] = False, verdict.timed_out
            failure = failure or verdict.reason
        else:
            right[m] = verdict
    return Verdicts(right, judged, timed_out, failure)
