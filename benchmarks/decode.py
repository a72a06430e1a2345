"""Generation against transformers, same weights, threads and texts' lengths.

`python -m benchmarks.decode [--json=FILE] [--peer=PYTHON]`. The peer runs in an
environment of its own, made by `make peers`, as a process that takes its turns between
ours. It is timed at its best: each kind of cache is tried first, and with --compile
torch.compile too. `equal_lengths`: 32 prompts of 64 tokens, 64 more sampled of each.
`long_tail`: a queue of prompts whose texts end after the numbers of tokens in
lengths.json, geometric with mean 48 and at most 512; only those tokens count.
"""

import argparse
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from benchmarks import common, decode_ways
from rljax.models import pretrained
from rljax.models.config import ModelConfig
from rljax.policy import decode
from rljax.policy.desk import Settings
from rljax.types import Params

LENGTHS = pathlib.Path(__file__).with_name("lengths.json")
PEER = pathlib.Path(__file__).with_name("decode_peer.py")
BATCH, PROMPT, NEW, CAP = 32, 64, 64, 512
# Kinds of cache; and one thread, for on a busy machine two wait for each other.
WAYS = ({}, {"cache": "static"}, {"threads": 1}, {"cache": "static", "threads": 1})


def lengths() -> list[int]:
    """Tokens of each text of the queue."""
    return json.loads(LENGTHS.read_text())["lengths"]


def prompts(count: int, config: ModelConfig) -> list[list[int]]:
    """Random prompts."""
    rng = np.random.default_rng(1)
    return rng.integers(0, config.vocab_size, (count, PROMPT)).tolist()


def save(params: Params, config: ModelConfig, folder: pathlib.Path) -> None:
    """A Hugging Face Llama folder with our weights, for the peer."""
    c = config
    tensors = {}
    for name, place in pretrained.places(config).items():
        whole = np.asarray(params[place.name])
        part = whole if place.layer is None else whole[place.layer]
        part = part[..., slice(*place.columns)]
        tensors[name] = np.ascontiguousarray(part.T if place.turned else part)
    safetensors.numpy.save_file(
        tensors, folder / "model.safetensors", metadata={"format": "pt"}
    )
    values = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.width,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.mlp_width,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "max_position_embeddings": PROMPT + CAP,
        "tie_word_embeddings": c.tied_embedding,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(values))


class Peer:
    """Another library with some weights, in another process."""

    def __init__(
        self,
        python: str,
        params: Params,
        config: ModelConfig,
        how: str,
        script: pathlib.Path = PEER,
    ):
        """Starts it.

        Args:
          python: of its environment.
          params: the weights.
          config: of the model.
          how: what the script is told beside them: of transformers "compile" or
            "plain".
          script: what it runs.
        """
        with tempfile.TemporaryDirectory() as folder:
            save(params, config, pathlib.Path(folder))
            threads = str(len(os.sched_getaffinity(0)))
            self._process = subprocess.Popen(
                [python, str(script), folder, threads, how],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"},
            )
            self.versions = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """What it says to a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Ends it."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer ended; its message is above")
        return json.loads(line)


def turns(
    ours: Callable[[], Any], theirs: Callable[[], dict], tokens: int, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens a second of ours and theirs, in turns."""
    found = []
    for _ in range(rounds):
        start, cpu = time.perf_counter(), time.process_time()
        ours()
        mine, cpu = time.perf_counter() - start, time.process_time() - cpu
        answer = theirs()
        found.append((tokens / mine, tokens / seconds(answer)))
        print(
            f"ours {found[-1][0]:.0f} tokens/s, {tokens / cpu:.0f} a CPU second; "
            f"peer {found[-1][1]:.0f}, {tokens / answer['cpu']:.0f}",
            file=sys.stderr,
        )
    mine, other = np.array(found).T
    return mine, other


def seconds(answer: dict[str, Any]) -> float:
    """Time of an answer of the peer."""
    if "error" in answer:
        raise RuntimeError(f"the peer failed: {answer['error']}")
    return answer["seconds"]


def row(name: str, mine: np.ndarray, other: np.ndarray, target: float | None):
    """Medians, and the median ratio within a turn."""
    ratio = float(np.median(mine / other))
    middle = float(np.median(mine)), float(np.median(other))
    return common.Row(name, *middle, "tokens/s", ratio, target, "higher")


def alone(name: str, run: Callable[[], Any], tokens: int, rounds: int) -> common.Row:
    """Where there is no peer: ours, and the row says so."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        taken.append(tokens / (time.perf_counter() - start))
    unit = "tokens/s (peer absent)"
    return common.Row(name, float(np.median(taken)), 0.0, unit, 0.0, None, "higher")


def best_way(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """The request in the way that took least, after a call that warms up."""
    best, least = request, float("inf")
    for way in WAYS:
        asked = request | way
        peer.ask(**asked)
        answers = [peer.ask(**asked) for _ in range(2)]
        if any("error" in answer for answer in answers):
            print(f"peer, {way}: {answers}", file=sys.stderr)
            continue
        taken = min(map(seconds, answers))
        print(f"peer, {way}: {taken:.2f} s", file=sys.stderr)
        if taken < least:
            best, least = asked, taken
    return best


def equal_lengths(
    name: str, config: ModelConfig, arguments: argparse.Namespace, sample: bool = True
) -> common.Row:
    """Texts that all have one length."""
    params, texts = decode_ways.initial(config), prompts(BATCH, config)
    settings = Settings(slots=BATCH, prompts=(PROMPT,), longest=NEW, prefill=BATCH)
    made = decode.make(config, settings)
    keys = jax.random.split(jax.random.key(0), BATCH)
    ours = functools.partial(
        made.generate, params, texts, keys, temperature=float(sample)
    )
    ours()
    if arguments.peer is None:
        return alone(name, ours, BATCH * NEW, arguments.rounds)
    peer = Peer(arguments.peer, params, config, arguments.how)
    request = dict(way="generate", prompts=texts, limits=[NEW] * BATCH, batch=BATCH)
    request = best_way(peer, request | {"sample": sample})
    theirs = functools.partial(peer.ask, **request)
    mine, other = turns(ours, theirs, BATCH * NEW, arguments.rounds)
    peer.stop()
    return row(name, mine, other, 2.0)


def long_tail(arguments: argparse.Namespace) -> list[common.Row]:
    """A queue of texts of very different lengths."""
    config = decode_ways.SMALLER
    params, limits = decode_ways.initial(config), lengths()
    texts, total = prompts(len(limits), config), sum(limits)
    made = decode.make(config, decode_ways.QUEUE)
    keys = jax.random.split(jax.random.key(0), len(limits))

    def ours(count: int) -> None:
        made.generate(params, texts[:count], keys[:count], limits=limits[:count])

    whole = functools.partial(ours, len(limits))
    whole()
    few_rounds = max(1, arguments.rounds // 3)
    if arguments.peer is None:
        return [alone("long_tail", whole, total, few_rounds)]
    peer = Peer(arguments.peer, params, config, arguments.how)
    request = dict(way="generate", prompts=texts, limits=limits, batch=BATCH)
    request |= {"sample": True}
    few = request | {"prompts": texts[:BATCH], "limits": [NEW] * BATCH}
    best = best_way(peer, few)
    way = {k: v for k, v in best.items() if k in ("cache", "threads")}
    theirs = functools.partial(peer.ask, **request | way)
    rows = [row("long_tail", *turns(whole, theirs, total, few_rounds), 3.0)]
    # Continuous batching on CPU is so slow that a batch of the queue has to do.
    part = functools.partial(ours, BATCH)
    part()
    batched = request | {"prompts": texts[:BATCH], "limits": limits[:BATCH]}
    batched |= {"way": "batch", "batch_tokens": 512, "blocks": 1024}
    try:
        found = turns(
            part, functools.partial(peer.ask, **batched), sum(limits[:BATCH]), 1
        )
        rows.append(row("long_tail_generate_batch", *found, 3.0))
    except RuntimeError as error:
        print(f"long_tail_generate_batch: {error}", file=sys.stderr)
    peer.stop()
    return rows


def python_of_peer(
    given: str | None,
    variable: str = "RLJAX_PEER",
    usual: str = ".venv-peers/bin/python",
) -> str | None:
    """The peer's Python, or None where there is none.

    Args:
      given: by a flag.
      variable: of the environment, that says it where there is no flag.
      usual: where it is else.
    """
    path = given or os.environ.get(variable, usual)
    if pathlib.Path(path).is_file():
        return path
    if given is not None:
        raise SystemExit(f"--peer={given}: there is no such file")
    print(f"no peer at {path}: run `make peers`, or give --peer", file=sys.stderr)
    return None


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--peer", help="Python with torch and transformers")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--parts", action="store_true", help="only what parts give")
    found = parser.parse_args(arguments)
    found.how = "compile" if found.compile else "plain"
    return found


def main() -> None:
    """Prints the table."""
    arguments = parse()
    if arguments.parts:
        rows = decode_ways.turn_rows(decode_ways.SMALLER, arguments.rounds)
        rows += decode_ways.queue_rows(lengths(), max(3, arguments.rounds // 3))
        common.finish(rows, arguments.json)
        return
    arguments.peer = python_of_peer(arguments.peer)
    rows = [
        equal_lengths("equal_lengths", decode_ways.SMALLER, arguments),
        *long_tail(arguments),
        equal_lengths("equal_lengths_19m", decode_ways.LARGER, arguments),
        equal_lengths("equal_lengths_greedy", decode_ways.SMALLER, arguments, False),
    ]
    common.finish(rows, arguments.json)


if __name__ == "__main__":
    main()
