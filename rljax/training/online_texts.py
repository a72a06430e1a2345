"""Answers as packed texts, read by the agent; V of stored states.

Between two compiled calls the host packs answers into rows, and puts what was found of
each into its place in the rollout. Shape letters: see `online_parts`; M = B G.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rljax.agents.offline import State
from rljax.agents.token_rl import Rollout, Targets
from rljax.data import episodes, packing
from rljax.data.packing import Item
from rljax.data.record import Record
from rljax.envs.reasoning.problems import Problem
from rljax.envs.verifiers import Answered, JudgeAll
from rljax.replay import promise
from rljax.replay.cells import States
from rljax.rollout import answers as answers_lib
from rljax.rollout.answers import Answers
from rljax.text.tokenizer import Tokenizer
from rljax.training.devices import rounded
from rljax.training.online_parts import Parts
from rljax.types import Episode, Metrics, Packed

Readings = dict[str, np.ndarray]  # fields of `Reading` that are there, [M, T] each

# Shares of the rows that a batch has where every answer has one for itself: a batch is
# compiled for the fewest that hold it.
ROWS = (0.25, 0.375, 0.5, 0.75, 1.0)


class Programs(NamedTuple):
    """The compiled parts."""

    read: Callable
    update: Callable
    value: Callable | None
    kl: Callable | None  # where nothing else tells the divergence from the reference
    estimate: Callable[[Rollout], tuple[Targets, Metrics]]


def compile_all(parts: Parts) -> Programs:
    """What of a run is compiled, but for generation.

    Args:
      parts: of the run.
    """
    agent, spread = parts.agent, parts.parallel.compile

    def read(state, texts):
        found = agent.read(state, texts)._asdict()
        return state, (texts, {k: x for k, x in found.items() if x is not None}), {}

    def update(state, batch):
        state, told = agent.update(state, batch)
        return state, batch, told

    value = kl = None
    if agent.value is not None:
        of = agent.value
        value = spread(lambda state, texts: (state, (texts, of(state, texts)), {}))
    if agent.kl is not None and parts.sizes.kl_every:
        apart = agent.kl
        kl = spread(
            lambda state, texts: (state, (texts, {"kl": apart(state, texts)}), {})
        )
    return Programs(spread(read), spread(update), value, kl, jax.jit(parts.estimate))


def items_of(parts: Parts, found: Answers) -> list[Item]:
    """The answers as texts, a group an item; a text's line is its answer's number.

    Args:
      parts: of the run.
      found: the answers.
    """
    texts = []
    for m, problem in enumerate(found.start.problem):
        prompt, said = parts.prompts[problem], answers_lib.whole(found, m)
        ids = np.concatenate([prompt, said]).astype(np.int32)
        action = np.arange(len(ids)) >= len(ids) - found.length[m]
        step = np.where(action, 0, -1).astype(np.int32)
        texts.append(Episode(ids, action, step, 0.0, "", "", m))
    size = parts.sizes.samples
    return [tuple(texts[i : i + size]) for i in range(0, len(texts), size)]


def packed(
    parts: Parts, items: list[Item], batch: int, actions: int
) -> tuple[Packed, np.ndarray]:
    """Items in as few rows as there is a program for, and the lines of the texts.

    Args:
      parts: of the run.
      items: at most `batch`.
      batch: items of a batch.
      actions: most actions of a text.
    """
    devices, members = parts.parallel.num_devices, len(items[0])
    plan = packing.Plan(
        items=(), compose=packing.as_they_are, batch_size=batch, epochs=1, seed=0,
        group=np.zeros(0, int), num_devices=devices, updates=1, rows=0,
        tokens=parts.sizes.row_tokens, actions=actions, members=members,
        shared=True,
    )  # fmt: skip
    most = batch // devices * members
    needed = packing.rows_needed(plan, items)
    rows = next(n for share in ROWS if (n := math.ceil(share * most)) >= needed)
    rows = rounded(rows, parts.parallel)
    texts = packing.pack(plan._replace(rows=rows), items)
    return texts, np.asarray(texts.line)  # read now, since the batch is given away


def read_all(
    parts: Parts, program: Callable, state: State, items: list[Item]
) -> tuple[State, Readings]:
    """What the agent thinks of all answers, in their order.

    Args:
      parts: of the run.
      program: `read` or `kl` of its compiled parts.
      state: of the agent; given away.
      items: of `items_of`.

    Returns:
      The state, and arrays [M, T].
    """
    sizes = parts.sizes
    count = sizes.groups * sizes.samples
    whole: dict[str, np.ndarray] = {}
    for first in range(0, sizes.groups, sizes.batch_groups):
        some = items[first : first + sizes.batch_groups]
        texts, line = packed(parts, some, sizes.batch_groups, sizes.longest)
        state, (_, reading), _ = program(state, texts)
        for name, x in reading.items():
            out = whole.setdefault(name, np.zeros((count, sizes.longest), x.dtype))
            out[line[line >= 0]] = np.asarray(x)[line >= 0]
    return state, whole


def numbered(parts: Parts, found: Answers) -> np.ndarray:
    """The reasoning step of each token, counted from the beginning of the answer.

    Args:
      parts: of the run.
      found: the answers.

    Returns:
      int32 [M, T]; -1 where there is no token.
    """
    steps = np.full(found.tokens.shape, -1, np.int32)
    for m, problem in enumerate(found.start.problem):
        prompt, said = parts.prompts[problem], answers_lib.whole(found, m)
        ids = np.concatenate([prompt, said]).astype(np.int32)
        number = parts.split(parts.tokenizer, ids, np.arange(len(ids)) >= len(prompt))
        steps[m, : found.length[m]] = number[len(ids) - found.length[m] :]
    return steps


def text_of(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """The text of tokens as verifiers read it.

    Args:
      tokenizer: of the policy.
    """
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=True)


def unanswered(parts: Parts, found: Answers) -> np.ndarray:
    """Most tokens sampled of each answer after which it states no answer yet.

    Args:
      parts: of the run.
      found: the answers.

    Returns:
      int32 [M]; not above 0 where there are none.
    """
    text = text_of(parts.tokenizer)
    most = [
        promise.before_answer(
            answers_lib.whole(found, m).tolist(), text, parts.answered
        )
        for m in range(len(found.length))
    ]
    return np.array(most, np.int32) - found.start.length


def values_of(
    parts: Parts, programs: Programs, state: State, states: States
) -> tuple[State, np.ndarray]:
    """V of states, as the present critic has it.

    Args:
      parts: of the run.
      programs: its compiled parts.
      state: of the agent; given away.
      states: at least one.

    Returns:
      The agent's state, and float32 [number of states].
    """
    items: list[Item] = []
    for m, problem in enumerate(states.problem):
        kept = states.tokens[m, : states.length[m]]
        # V before a token that is not read: its place is what counts.
        ids = np.concatenate([parts.prompts[problem], kept, [0]]).astype(np.int32)
        action = np.arange(len(ids)) == len(ids) - 1
        step = np.where(action, 0, -1).astype(np.int32)
        items.append((Episode(ids, action, step, 0.0, "", "", m),))
    found = np.zeros(len(items), np.float32)
    batch = parts.sizes.batch_groups * parts.sizes.samples
    assert programs.value is not None
    for first in range(0, len(items), batch):
        texts, line = packed(parts, items[first : first + batch], batch, 1)
        state, (_, values), _ = programs.value(state, texts)
        found[line[line >= 0]] = np.asarray(values)[..., 0][line >= 0]
    return state, found


def seeds_of(
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    end_id: int,
    count: int,
    tail: float,
    judge: JudgeAll,
    answered: Answered,
) -> tuple[States, int]:
    """States from the written solutions of problems, cut where steps begin.

    A solution that the verifier does not call right gives none, and none is cut after
    its answer is stated.

    Args:
      problems: [N].
      tokenizer: of the policy.
      end_id: the token that ends an answer.
      count: most states of a problem.
      tail: share at a solution's end that is in no state.
      judge: says which solutions are right.
      answered: as of `Parts`.

    Returns:
      The states, and how many solutions are not right.

    Raises:
      ValueError: if a problem has no written solution, naming the first; if one
        cannot become tokens; or if no solution is right and has a place to be cut.
    """
    bare = [problem.task for problem in problems if not problem.solution]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(problems)} problems have no written solution, "
            f"{bare[0]} is the first"
        )
    verdicts = judge([(problem.answer, problem.solution) for problem in problems])
    right = np.flatnonzero([verdict is True for verdict in verdicts])
    said, steps = [], []
    for problem in (problems[i] for i in right.tolist()):
        one = Record(
            line=0, prompt=problem.prompt, response=problem.solution, reward=1.0
        )
        try:
            text = episodes.tokenise(one, tokenizer, end_id=end_id)
        except ValueError as error:
            raise ValueError(f"the solution of {problem.task}: {error}") from error
        said.append(text.ids[text.action])
        steps.append(text.step[text.action])
    length = np.array([len(ids) for ids in said], np.int32)
    tokens = np.zeros((len(said), int(length.max(initial=0))), np.int32)
    step = np.full(tokens.shape, -1, np.int32)
    for i, n in enumerate(length):
        tokens[i, :n], step[i, :n] = said[i], steps[i]
    text = text_of(tokenizer)
    open_ = [promise.before_answer(ids.tolist(), text, answered) for ids in said]
    found = promise.canonical(
        right, tokens, length, step, count, tail, np.array(open_, np.int32)
    )
    if not len(found.problem):
        raise ValueError(
            f"of {len(problems)} written solutions {len(right)} are right, and none of "
            "these has a step after its first to be cut at"
        )
    return found, len(problems) - len(right)
