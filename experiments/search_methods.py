"""What `search` compares: ways to spend tokens on an answer."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import critic, reasoning, starts
from experiments.border import ConfigError
from rljax.data import episodes
from rljax.data import steps as steps_lib
from rljax.envs.reasoning.problems import Problem
from rljax.envs.verifiers import JudgeAll
from rljax.search import beam as beam_lib
from rljax.search import best_of_k, steps, values
from rljax.search.cost import Cost
from rljax.search.steps import Sizes, Steps


class Setting(NamedTuple):
    """What all methods share."""

    config: Any
    task: reasoning.Task
    start: starts.Start
    asked: list[Problem]
    judge: JudgeAll  # of answers
    params: Any  # of the policy
    critic: critic.Critic
    reading: values.Reading
    policy_size: int  # parameters a token is multiplied with
    critic_size: int


class Outcome(NamedTuple):
    """What a method made of each problem."""

    right: list[bool]
    finished: list[bool]  # it has an answer
    cost: list[Cost]
    seconds: float


class Pool(NamedTuple):
    """Samples of each of P problems, N each."""

    tokens: np.ndarray  # int [P, N]
    right: np.ndarray  # bool [P, N]
    finished: np.ndarray  # bool [P, N]
    value: np.ndarray  # float [P, N]
    finals: list[list[Any]]  # what each says in the end; None where it says nothing
    seconds: float


def prompts(setting: Setting) -> list[np.ndarray]:
    """Token ids of the problems."""
    tokens = setting.start.tokenizer
    return [episodes.prompt_ids(tokens, problem.prompt) for problem in setting.asked]


def greedy(setting: Setting) -> Outcome:
    """The likeliest token, again and again."""
    began, right, finished, cost = time.monotonic(), [], [], []
    ask = _answerer(setting).ask
    for first in range(0, len(setting.asked), reasoning.CHUNK):
        some = setting.asked[first : first + reasoning.CHUNK]
        found = ask(setting.params, some)
        right += found.right.tolist()
        finished += found.stopped.tolist()
        cost += [Cost(len(ids), len(ids), 0) for ids in found.ids]
    read = [Cost(0, len(ids), 0) for ids in prompts(setting)]
    cost = [a.plus(b) for a, b in zip(cost, read, strict=True)]
    return Outcome(right, finished, cost, time.monotonic() - began)


def beam(setting: Setting, beams: int) -> Outcome:
    """Beam search by V, with as many samples a beam as beams."""
    config, start, began = setting.config, setting.start, time.monotonic()
    texts = reasoning.delimiters_of(config)
    ends, strings = delimiters(start.tokenizer, texts, start.eos_ids)
    try:
        sampler = steps.make(
            setting.params, start.config, _sizes(setting), end_ids=start.eos_ids,
            step_ids=ends, stop_strings=strings, text=_text(setting),
            temperature=config.temperature,
        )  # fmt: skip
        judge = _critic(setting)
        asked, each = prompts(setting), max(1, config.rows // beams**2)
        keys = jax.random.split(jax.random.key(config.seed), len(asked))
        found: list[beam_lib.Found] = []
        for first in range(0, len(asked), each):
            some = asked[first : first + each]
            found += beam_lib.search(
                sampler.sample, judge.value, (sampler.start(some), judge.start(some)),
                keys[first : first + each],
                beam_lib.Settings(beams=beams, rounds=config.rounds),
            )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"config.eval: {error}") from error
    text = _text(setting)
    pairs = [
        (problem.answer, "" if one.answer is None else text(one.answer.ids.tolist()))
        for one, problem in zip(found, setting.asked, strict=True)
    ]
    finished = [one.answer is not None for one in found]
    right = reasoning.judged(setting.judge, pairs, np.array(finished)).tolist()
    cost = [
        one.cost.plus(Cost(0, len(ids), len(ids)))
        for one, ids in zip(found, asked, strict=True)
    ]
    return Outcome(right, finished, cost, time.monotonic() - began)


def pool(setting: Setting, samples: int, value: bool = True) -> Pool:
    """Whole answers to each problem, and V of them.

    Args:
      setting: what all methods share.
      samples: N. Sample j of a problem is the same whatever N is.
      value: whether V is read; else it is NaN.
    """
    config, began = setting.config, time.monotonic()
    answerer, asked = _answerer(setting), prompts(setting)
    judge = _critic(setting) if value else None
    parts: list[tuple[np.ndarray, ...]] = []
    finals: list[list[Any]] = []
    final = setting.task.judge.said
    each = max(1, config.rows // samples)
    for first in range(0, len(asked), reasoning.CHUNK):
        some = setting.asked[first : first + reasoning.CHUNK]
        seed = int(np.random.default_rng([config.seed, first]).integers(2**31))
        found = answerer.ask(setting.params, some, samples, config.temperature, seed)
        read = np.full(len(found.ids), np.nan)
        if judge is not None:
            prompts_ = asked[first : first + len(some)]
            read = _judged(judge, prompts_, found, each, _last_step(setting))
        lengths = np.array([len(ids) for ids in found.ids])
        parts.append((lengths, found.right, found.stopped, read))
        said = [
            final(answerer.text(ids.tolist())) if on else None
            for ids, on in zip(found.ids, found.stopped, strict=True)
        ]
        finals += [said[n : n + samples] for n in range(0, len(said), samples)]
    tokens, right, stopped, read = (
        np.concatenate(x).reshape(-1, samples) for x in zip(*parts, strict=True)
    )
    return Pool(tokens, right, stopped, read, finals, time.monotonic() - began)


def _judged(
    judge: values.Critic,
    asked: Sequence[np.ndarray],
    found: reasoning.Answers,
    each: int,
    begins: Callable[[np.ndarray], int],
) -> np.ndarray:
    """V of all samples, those of `each` problems at a time.

    They are read as a search reads them: what comes before the last step, then that.
    """
    samples, read = len(found.ids) // len(asked), []
    for place in range(0, len(asked), each):
        some = asked[place : place + each]
        span = slice(place * samples, (place + len(some)) * samples)
        stopped, none = found.stopped[span], np.zeros(len(some) * samples, bool)
        last = [begins(ids) for ids in found.ids[span]]
        before, after = (
            [ids[part] for ids, part in zip(found.ids[span], parts, strict=True)]
            for parts in ([slice(n) for n in last], [slice(n, None) for n in last])
        )
        count = none.astype(np.int32)
        rows = np.repeat(np.arange(len(some)), samples)
        state = judge.start(some)
        state, _ = judge.value(state, rows, Steps(before, none, ~none, none, count))
        ends = Steps(after, stopped, none, ~stopped, count)
        read.append(judge.value(state, np.arange(len(rows)), ends)[1])
    return np.concatenate(read)


def _last_step(setting: Setting) -> Callable[[np.ndarray], int]:
    """A function that finds where the last step of an answer begins."""
    number = steps_lib.split(reasoning.delimiters_of(setting.config))

    def begins(ids: np.ndarray) -> int:
        step = number(setting.start.tokenizer, ids, np.ones(len(ids), bool))
        return int(np.argmax(step == step[-1]))

    return begins


def _best_of_n(setting: Setting, drawn: Pool, samples: int) -> Outcome:
    value, finished = drawn.value[:, :samples], drawn.finished[:, :samples]
    chosen = best_of_k.highest(value, finished)
    return _chosen(setting, drawn, samples, chosen, judged=True)


def _majority(setting: Setting, drawn: Pool, samples: int) -> Outcome:
    same = setting.task.judge.same
    votes = [best_of_k.majority(row[:samples], same) for row in drawn.finals]
    return _chosen(setting, drawn, samples, np.array(votes), judged=False)


CHOICES: dict[str, Callable[[Setting, Pool, int], Outcome]] = {
    "best of N": _best_of_n,
    "majority": _majority,
}


def _chosen(setting, drawn: Pool, samples: int, chosen, judged: bool) -> Outcome:
    """The outcome of taking one of the first samples of each problem."""
    cost = []
    for ids, tokens in zip(prompts(setting), drawn.tokens[:, :samples], strict=True):
        said = int(tokens.sum())
        read = len(ids) + said
        cost.append(Cost(said, read, read if judged else 0))
    right = drawn.right[np.arange(len(chosen)), np.maximum(chosen, 0)] & (chosen >= 0)
    share = samples / drawn.tokens.shape[1]
    finished = (chosen >= 0).tolist()
    return Outcome(right.tolist(), finished, cost, share * drawn.seconds)


def delimiters(
    tokenizer: Any, texts: Sequence[str], end_ids: Sequence[int]
) -> tuple[list[int], list[str]]:
    """Tokens that hold a delimiter, and delimiters that tokens may share.

    Args:
      tokenizer: of the policy.
      texts: the delimiters.
      end_ids: tokens that end an answer; they are left out.
    """
    pieces = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    special = {*tokenizer.all_special_ids, *end_ids}
    ids = [
        i
        for i, piece in enumerate(pieces)
        if i not in special and any(text in piece for text in texts)
    ]
    return ids, [text for text in texts if len(text) > 1]


def _sizes(setting: Setting) -> Sizes:
    return Sizes(
        prompt=setting.config.eval.prompt_tokens, longest=setting.config.eval.max_tokens
    )


def _critic(setting: Setting) -> values.Critic:
    judge = setting.critic
    assert judge.params is not None
    return values.make(
        judge.params, judge.head, judge.config, _sizes(setting), setting.reading
    )


def _answerer(setting: Setting) -> reasoning.Answerer:
    start, room = setting.start, setting.config.eval
    return reasoning.make_answerer(
        start.config, start.tokenizer, setting.judge, room, start.eos_ids
    )


def _text(setting: Setting) -> Callable[[Sequence[int]], str]:
    tokens = setting.start.tokenizer
    return lambda ids: tokens.decode([int(i) for i in ids], skip_special_tokens=True)
