"""What a run of on-line learning is made of, and what it carries from step to step.

Shape letters: N problems, B groups of a step, G answers of each, T most tokens of an
answer.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from rljax.agents import rrl
from rljax.agents.token_rl import Estimate, TokenAgent
from rljax.data.archive_file import Context
from rljax.data.steps import Split
from rljax.envs.reasoning.problems import Problem
from rljax.envs.verifiers import Answered, JudgeAll
from rljax.policy.decode import Generate
from rljax.replay import schedule
from rljax.replay.cells import States
from rljax.replay.schedule import History
from rljax.text.tokenizer import Tokenizer
from rljax.training.annotations import Take
from rljax.training.devices import Parallel

Told = dict[str, Any]  # metrics by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much a step does."""

    seed: int
    steps: int  # of the run
    groups: int  # B
    samples: int  # G
    longest: int  # T
    row_tokens: int  # of a row of texts
    batch_groups: int  # of an update
    epochs: int = 1  # passes over a rollout
    warmup: int = 0  # steps in which the critic learns alone
    window: int = 8  # bare tries that say whether a problem is solved
    refresh: int = 10  # steps between two looks at the memory
    # Steps between two readings of the divergence from the reference, where no step
    # reads it anyway; 0: never.
    kl_every: int = 0
    temperature: float = 1.0

    @property
    def updates(self) -> int:
        """Of the whole run."""
        return self.steps * self.epochs * (self.groups // self.batch_groups)


@flax.struct.dataclass
class Host:
    """What a run carries beside the agent; numpy arrays.

    Attributes:
      history: of bare tries.
      solved: bool [N], some answer to it was right, replayed ones included.
      replayed: int32 [N, 2], answers from stored states that were judged, and right
        ones among them; the states may have gone since.
      counts: int64 [3]: steps taken, answers and tokens sampled.
      memory: of replay; None without it.
      taken: int32 [], number of the last file of annotations that was taken up.
    """

    history: History
    solved: np.ndarray
    replayed: np.ndarray
    counts: np.ndarray
    memory: rrl.Memory | None
    taken: np.ndarray


class Parts(NamedTuple):
    """What a step is made of.

    Attributes:
      agent: its functions.
      parallel: how its programs are spread.
      estimate: what a rollout teaches.
      generate: of `decode.make`.
      problems: [N], to learn from.
      prompts: token ids of each.
      tokenizer: of the policy.
      judge: says which answers are right.
      answered: whether the beginning of an answer states what it answers already; it
        is no state then.
      split: numbers the reasoning steps of answers.
      sizes: how much a step does.
      replay: retrospective replay; None without it.
      seeds: states from written solutions, which the archive begins with.
      annotate: takes up what people wrote about states, at the start of each step.
    """

    agent: TokenAgent
    parallel: Parallel
    estimate: Estimate
    generate: Generate
    problems: Sequence[Problem]
    prompts: Sequence[np.ndarray]
    tokenizer: Tokenizer
    judge: JudgeAll
    answered: Answered
    split: Split
    sizes: Sizes
    replay: rrl.Settings | None = None
    seeds: States | None = None
    annotate: Take | None = None


def begin(parts: Parts, room: np.ndarray) -> Host:
    """What the host carries before the first step.

    Args:
      parts: of the run.
      room: int [N], most tokens of a state of each problem.
    """
    count = len(parts.problems)
    return Host(
        history=schedule.no_history(count, parts.sizes.window),
        solved=np.zeros(count, bool),
        replayed=np.zeros((count, 2), np.int32),
        counts=np.zeros(3, np.int64),
        memory=None if parts.replay is None else rrl.begin(parts.replay, room),
        taken=np.zeros((), np.int32),
    )


def context_of(parts: Parts) -> Context:
    """What the numbers of the archive stand for, for people who read it.

    Args:
      parts: of a run with replay.
    """
    assert parts.replay is not None
    return Context(
        names=[problem.task for problem in parts.problems],
        prompts=[problem.prompt for problem in parts.problems],
        tokenizer=parts.tokenizer,
        end_ids=parts.replay.end_ids,
        answered=parts.answered,
    )


def order(seed: int, count: int, first: int, some: int) -> np.ndarray:
    """Which problems come first, first + 1, ...: every one once before any twice.

    Args:
      seed: of the run.
      count: N.
      first: place in the endless order.
      some: how many.

    Returns:
      int32 [some].
    """
    epochs = range(first // count, (first + some - 1) // count + 1)
    drawn = [np.random.default_rng([seed, 2, e]).permutation(count) for e in epochs]
    begin = first - epochs[0] * count
    return np.concatenate(drawn)[begin : begin + some].astype(np.int32)


def on_host(read: Host, like: Host) -> Host:
    """The host's part of a state that a checkpoint gave back, to be written to.

    Args:
      read: arrays of a device, where counts have 32 bits.
      like: the same before the first step.
    """
    return jax.tree.map(lambda x, wanted: np.array(x, wanted.dtype), read, like)
