"""OREO's update against a plain one: padded rows, logits of all tokens at once.

    python -m benchmarks.offline [--json=FILE]

`ours` is what a run compiles: rows of packed texts, scores of tokens in chunks, policy,
reference and critic. The peer has a row for each text, as long as the longest, and
log-softmax of all logits of policy and reference. Two rows for each model take the two
apart: packed rows with all logits, and chunks with padded rows, each against the peer.
`arithmetic` is the model and the batch of `experiments.oreo` at that scale, its texts
written solutions; `vocabulary` has 49,152 tokens, few features, and 16 texts half as
long as questions and answers of GSM8K, so that logits of all fit anywhere: log-normal
with a deviation of 0.39, median 69 tokens (GSM8K's is 484 characters), in rows as long
as the longest. A batch of 128 has a longer tail and leaves more padding. Speed counts
tokens of texts, no padding; memory is what XLA says the compiled program needs beside
inputs and outputs. All ways must first give the same losses and gradients, within 1e-4.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common, offline_plain
from benchmarks.common import Row
from experiments import starts
from experiments.configs import oreo as configs
from rljax.agents import oreo
from rljax.agents.offline import State
from rljax.data import episodes, packing
from rljax.data.record import Record
from rljax.envs.reasoning import arithmetic
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.policy import texts
from rljax.types import Episode, Packed

SETTINGS = oreo.Config()
MEDIAN, DEVIATION, PROMPT = 69, 0.39, 0.46
WAYS = ("ours", "packed_unfused", "padded_fused", "plain")
CLOSE = 1e-4  # relative; of losses, norms and gradients


class Case(NamedTuple):
    """A model and what it learns from in one update."""

    name: str
    config: ModelConfig
    log: list[Episode]
    row_tokens: int | None  # of a packed row; None: as the longest text
    faster: float  # targets: tokens a second, at least so many times the peer's
    memory: float  # and temporaries, at most such a share


def arithmetic_case(batch: int | None = None) -> Case:
    """The model, batch and rows of `experiments.oreo` at scale arithmetic.

    Args:
      batch: texts, the config's number unless given.
    """
    config = configs.get_config("arithmetic")
    start, task = starts.choose_start(config), config.task
    hard = arithmetic.Config(
        operations=tuple(task.operations), largest=task.largest, factor=task.factor
    )
    problems = arithmetic.make(hard, task.seed, batch or config.data.batch_size)
    log = []
    for line, one in enumerate(problems, 1):
        attempt = Record(line, float(line % 2), one.prompt, one.solution)
        log.append(episodes.tokenise(attempt, start.tokenizer))
    return Case("arithmetic", start.config, log, config.data.row_tokens, 1.0, 1.0)


def vocabulary_case(batch: int = 16, size: int = 49_152) -> Case:
    """A large vocabulary on a small decoder, texts of a long tail."""
    config = ModelConfig(size, 64, 2, 2, 2, 32, 128, tied_embedding=True)
    return Case("vocabulary", config, drawn(batch, size, MEDIAN), None, 1.5, 0.2)


def drawn(batch: int, size: int, median: int) -> list[Episode]:
    """Texts of random tokens whose lengths have a long tail.

    Args:
      batch: texts.
      size: tokens of the vocabulary.
      median: tokens of a text.
    """
    rng = np.random.default_rng(0)
    log = []
    for line in range(1, batch + 1):
        length = max(
            8, round(median * float(np.exp(DEVIATION * rng.standard_normal())))
        )
        action = np.arange(length) >= round(PROMPT * length)
        log.append(
            Episode(
                ids=rng.integers(0, size, length).astype(np.int32),
                action=action,
                step=np.where(action, 0, -1).astype(np.int32),
                reward=float(line % 2),
                task="",
                source="",
                line=line,
            )
        )
    return log


def moved_state(agent: Any, config: ModelConfig) -> State:
    """A state whose policy and value are not what they began as."""
    one = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(Decoder(config).init)
    frozen = init(jax.random.key(0), one, one, one[None] == 0)["params"]
    state = agent.init(jax.random.key(1), frozen)
    rng = np.random.default_rng(2)

    def move(x):
        return x + 0.02 * rng.standard_normal(x.shape).astype(np.float32)

    return dataclasses.replace(state, params=jax.tree.map(move, state.params))


class Way(NamedTuple):
    """A compiled update, and what it is called with."""

    program: Any
    state: State
    batch: Packed

    def __call__(self) -> Any:
        """The new state and the metrics."""
        return self.program(self.state, self.batch)


def ways_of(case: Case, names: Sequence[str] = WAYS) -> dict[str, Way]:
    """The updates that are compared: ours, the peer, and each part of ours alone.

    Args:
      case: model and texts.
      names: those that are wanted, of `WAYS`.
    """
    model = texts.make(case.config)
    agent = oreo.make(model, oreo.own_trunk(model), SETTINGS)
    state = moved_state(agent, case.config)
    items: list[packing.Item] = [(one,) for one in case.log]
    plan = packing.make_plan(items, len(items), 1, 0, tokens=case.row_tokens)
    packed, padded = packing.pack(plan, items), offline_plain.padded(case.log)
    plain = offline_plain.make(case.config, SETTINGS)
    return {
        name: Way(jax.jit(update).lower(state, batch).compile(), state, batch)
        for name, update, batch in (
            ("ours", agent.update, packed),
            ("packed_unfused", plain, packed),
            ("padded_fused", agent.update, padded),
            ("plain", plain, padded),
        )
        if name in names
    }


def check(ways: dict[str, Way]) -> None:
    """Raises AssertionError unless all ways give the peer's losses and gradients.

    Gradients are read from Adam's first moment, a share of them after one update, and
    their norms from the metrics, since the optimiser clips.
    """
    state, told = ways["plain"]()
    moments = _moments(state)
    for name, way in ways.items():
        mine, metrics = way()
        for key, value in told.items():
            message = f"{name}: {key}"
            np.testing.assert_allclose(metrics[key], value, rtol=CLOSE, err_msg=message)
        for place, (ours, other) in enumerate(
            zip(_moments(mine), moments, strict=True)
        ):
            np.testing.assert_allclose(
                ours, other, rtol=0, atol=CLOSE * np.abs(other).max(),
                err_msg=f"{name}: gradient {place}",
            )  # fmt: skip


def rows_of(case: Case, rounds: int) -> list[Row]:
    """Speed and memory of ours and of its two parts, each against the peer.

    Args:
      case: model and texts.
      rounds: turns.
    """
    ways = ways_of(case)
    check(ways)
    tokens = sum(len(one.ids) for one in case.log)
    for name, way in ways.items():
        rows, wide = way.batch.ids.shape
        print(f"  {case.name} {name}: {rows} x {wide} for {tokens:,} tokens of texts")
    times = common.interleave(ways, rounds, max_seconds=180)
    speed = {name: tokens / float(np.median(took)) for name, took in times.items()}
    space = {
        name: way.program.memory_analysis().temp_size_in_bytes / 1e6
        for name, way in ways.items()
    }
    found = []
    for name in ("ours", "packed_unfused", "padded_fused"):
        label = case.name if name == "ours" else f"{case.name}_{name}"
        aim = (case.faster, case.memory) if name == "ours" else (None, None)
        ratio = float(np.median(times["plain"] / times[name]))
        found += [
            Row(
                f"{label}_speed", speed[name], speed["plain"], "tokens/s", ratio,
                aim[0], "higher",
            ),
            Row(
                f"{label}_memory", space[name], space["plain"], "MB",
                space[name] / space["plain"], aim[1], "lower",
            ),
        ]  # fmt: skip
    return found


def main() -> None:
    arguments = common.parse_arguments("OREO's update against a plain one.")
    rows = []
    for case in (arithmetic_case(), vocabulary_case()):
        rows += rows_of(case, arguments.rounds)
    common.finish(rows, arguments.json)


def _moments(state: State) -> list[np.ndarray]:
    """Adam's first moments of both networks."""
    return [
        np.asarray(leaf)
        for name in ("actor", "critic")
        for leaf in jax.tree.leaves(optax.tree.get(state.opt_state[name], "mu"))
    ]


if __name__ == "__main__":
    main()
