"""A whole step of GRPO against google-tunix, same weights, prompts and threads.

`python -m benchmarks.grpo [--json=FILE] [--peer=PYTHON]`. A step draws some answers to
each prompt, judges them and takes one update, for which neither side reads the old
log-probabilities; tokens a second are those drawn, over all of it. The peer runs in an
environment of its own, made by `make peers`, as a process that takes its steps between
ours. Nothing ends an answer early on either side, so that all have one length. Both
learn in float32 by Adam, with one update a step and clipped ratios of tokens.

Our rows hold a prompt with all its answers, so that it is read once for them all; our
layers are compiled one by one, as the peer's are.

`step`: with a divergence from the reference in the loss, as the peer does by default,
so that both read the reference. `step_no_kl`: without. Each at two sizes of a Llama.
Below the table: where our own time goes.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, decode, decode_ways
from rljax.agents import grpo, token_rl
from rljax.agents.offline import Optimizer
from rljax.data import steps
from rljax.envs import verifiers
from rljax.envs.reasoning.problems import Problem
from rljax.models.config import ModelConfig
from rljax.policy import decode as decoding
from rljax.policy import texts
from rljax.policy.desk import Settings
from rljax.training import devices, online, online_parts
from rljax.types import Params

PEER = pathlib.Path(__file__).with_name("grpo_peer.py")
TARGET = 2.0
THETA = 1e6  # the peer's Llama turns by this one, whatever its config says


class Size(NamedTuple):
    """What a step is made of."""

    model: ModelConfig
    groups: int = 8  # prompts
    samples: int = 4  # answers to each
    prompt: int = 32  # tokens
    new: int = 32  # of an answer

    @property
    def tokens(self) -> int:
        """Drawn in a step."""
        return self.groups * self.samples * self.new


SIZES = {
    "": Size(
        ModelConfig(  # 0.8 M parameters
            vocab_size=85,
            width=128,
            num_layers=4,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            mlp_width=384,
            rope_theta=THETA,
            scan_layers=False,
        )
    ),
    "_5m": Size(
        dataclasses.replace(decode_ways.SMALLER, rope_theta=THETA, scan_layers=False),
        prompt=64,
        new=64,
    ),
}


class Numbers:
    """A tokenizer whose text is the numbers of the tokens, as the peer's is."""

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """The text of token ids."""
        del options
        return " ".join(map(str, ids))


class Clock:
    """Seconds of each part of our step; the rest is the host's."""

    def __init__(self):
        """Nothing is timed yet."""
        self.steps: list[dict[str, float]] = []

    def timed(self, name: str, run: Callable) -> Callable:
        """The same function, whose result is waited for."""

        def call(*args, **options):
            start = time.perf_counter()
            found = jax.block_until_ready(run(*args, **options))
            self.steps[-1][name] = time.perf_counter() - start
            return found

        return call


def prompts(size: Size) -> list[list[int]]:
    """Random prompts."""
    rng = np.random.default_rng(1)
    shape = (size.groups, size.prompt)
    return rng.integers(0, size.model.vocab_size, shape).tolist()


def even(truth: str, text: str) -> bool:
    """Whether a text has an even number of characters; the truth is none's."""
    del truth
    return len(text) % 2 == 0


def parts_of(size: Size, kl_weight: float, clock: Clock) -> online_parts.Parts:
    """A run without tokenizer files, verifier and replay."""
    made = decoding.make(
        size.model,
        Settings(
            slots=size.groups * size.samples,
            prompts=(size.prompt,),
            longest=size.new,
            prefill=min(16, size.groups),
        ),
    )

    def generate(*args: Any, **options: Any) -> decoding.Generated:
        found = made.generate(*args, **options)
        # No end is drawn, and only answers with an end are judged.
        return found._replace(stopped=np.ones_like(found.stopped))

    one = devices.jit()
    row = size.prompt + size.samples * size.new  # a prompt and all its answers
    settings = token_rl.Config(
        updates=10**6,
        kl_weight=kl_weight,
        fresh=True,  # one update a step: as `experiments.grpo` has it then
        actor=Optimizer(learning_rate=1e-5, warmup=0.0),
    )
    return online_parts.Parts(
        agent=token_rl.make(texts.make(size.model), settings),
        parallel=one._replace(
            compile=lambda run: clock.timed(run.__name__, one.compile(run))
        ),
        estimate=grpo.estimate(size.samples),
        generate=clock.timed("generate", generate),
        problems=[Problem(str(i), "", "") for i in range(size.groups)],
        prompts=[np.array(ids, np.int32) for ids in prompts(size)],
        tokenizer=Numbers(),
        judge=verifiers.in_turn(even),
        answered=verifiers.marked,
        split=steps.split(),
        sizes=online_parts.Sizes(
            seed=0,
            steps=10**6,
            groups=size.groups,
            samples=size.samples,
            longest=size.new,
            row_tokens=-(-row // 16) * 16,
            batch_groups=size.groups,
        ),
    )


def our_steps(
    size: Size, kl_weight: float, params: Params, clock: Clock
) -> Callable[[], dict[str, Any]]:
    """A function that takes the next step, and says what it was like."""
    parts = parts_of(size, kl_weight, clock)
    step = online.make(parts)
    held = [
        (
            parts.agent.init(jax.random.key(0), params),
            online_parts.begin(parts, np.ones(size.groups, np.int32)),
        )
    ]

    def take() -> dict[str, Any]:
        clock.steps.append({})
        start = time.perf_counter()
        held[0], told = step(held[0])
        jax.block_until_ready(held[0][0])
        clock.steps[-1]["whole"] = time.perf_counter() - start
        return told

    return take


def split_of(name: str, clock: Clock) -> str:
    """Our step's parts, medians in milliseconds."""
    taken = [
        step | {"host": 2 * step["whole"] - sum(step.values())} for step in clock.steps
    ]
    middle = {
        part: 1e3 * statistics.median(step[part] for step in taken) for part in taken[0]
    }
    order = ("generate", "update", "host", "whole")
    return f"{name}, ms: " + ", ".join(f"{part} {middle[part]:.1f}" for part in order)


def alike(peer: decode.Peer, size: Size, params: Params) -> None:
    """Both have one model.

    Raises:
      RuntimeError: if log-probabilities differ by more than rounding.
    """
    answers = np.random.default_rng(2).integers(
        0, size.model.vocab_size, (size.groups, size.new)
    )
    asked = {"prompts": prompts(size), "answers": answers.tolist()}
    theirs = np.array(peer.ask(way="log_probs", texts=asked)["log_probs"])
    ours = log_probs(size.model, params, **asked)
    gap = float(np.abs(theirs - ours).max())
    print(f"log-probabilities differ by {gap:.1e} at most", file=sys.stderr)
    if not gap < 1e-3:
        raise RuntimeError(f"the peer's log-probabilities differ by {gap}")


def log_probs(
    config: ModelConfig,
    params: Params,
    prompts: list[list[int]],
    answers: list[list[int]],
) -> np.ndarray:
    """Of the answers' tokens, from all logits."""
    ids = np.concatenate([prompts, answers], axis=1).astype(np.int32)
    count, width = ids.shape
    places = np.broadcast_to(np.arange(width, dtype=np.int32), ids.shape)
    mask = np.broadcast_to(np.tri(width, dtype=bool), (count, width, width))
    model = decode_ways.decoder
    found = model.Decoder(config).apply({"params": params}, ids, places, mask)
    logits = jnp.asarray(found) @ model.unembedding(params, config)
    log_p = jax.nn.log_softmax(logits[:, :-1])
    picked = np.take_along_axis(np.asarray(log_p), ids[:, 1:, None], axis=-1)[..., 0]
    return picked[:, -len(answers[0]) :]


def row_of(
    name: str, size: Size, kl_weight: float, arguments: argparse.Namespace
) -> tuple[common.Row, str]:
    """A row of the table, and how our step splits."""
    params, clock = decode_ways.initial(size.model), Clock()
    ours = our_steps(size, kl_weight, params, clock)
    if arguments.peer is None:
        _warm(ours, clock)
        row = decode.alone(name, ours, size.tokens, arguments.rounds)
        return row, split_of(name, clock)
    asked = {
        "groups": size.groups,
        "samples": size.samples,
        "prompt": size.prompt,
        "new": size.new,
        "vocabulary": size.model.vocab_size,
        "kl_weight": kl_weight,
    }
    peer = decode.Peer(arguments.peer, params, size.model, json.dumps(asked), PEER)
    alike(peer, size, params)
    given = [" ".join(map(str, ids)) for ids in prompts(size)]

    def theirs() -> dict[str, Any]:
        answer = peer.ask(way="step", prompts=given)
        if answer["tokens"] != size.tokens:
            raise RuntimeError(f"the peer drew {answer['tokens']}, not {size.tokens}")
        return answer

    for _ in range(3):
        theirs()
    _warm(ours, clock)
    mine, other = decode.turns(ours, theirs, size.tokens, arguments.rounds)
    peer.stop()
    return decode.row(name, mine, other, TARGET), split_of(name, clock)


def _warm(ours: Callable[[], Any], clock: Clock) -> None:
    """Compiles what a step compiles, in more than one step."""
    for _ in range(3):
        ours()
    clock.steps.clear()


def main() -> None:
    """Prints the table, and where our time goes."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--peer", help="Python with google-tunix")
    arguments = parser.parse_args()
    arguments.peer = decode.python_of_peer(
        arguments.peer, "RLJAX_TUNIX", ".venv-tunix/bin/python"
    )
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the peer's, too
    found = [
        row_of(f"step{of_kl}{of_size}", size, kl_weight, arguments)
        for of_size, size in SIZES.items()
        for of_kl, kl_weight in (("", 0.04), ("_no_kl", 0.0))
    ]
    common.finish([row for row, _ in found], arguments.json)
    for _, split in found:
        print(split)


if __name__ == "__main__":
    main()
