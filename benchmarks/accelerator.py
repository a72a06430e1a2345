"""Updates of a language model of 135 million parameters: tokens a second, and MFU.

    python -m benchmarks.accelerator --peak=989 [--json=FILE]

For a GPU or a TPU; `--peak` is what its data sheet promises of dense bfloat16, in
TFLOP/s (H100 and H200 SXM: 989). The model is as large as SmolLM2-135M, its weights are
random, they are stepped in float32 and multiplied in bfloat16.

`oreo`: an update of policy, reference and critic on texts as long as questions and
answers of GSM8K, against the plain update of `benchmarks.offline` where `--plain` is
given, in speed and in memory. `grpo`: a step, with answers of one length, and where its
time goes; its tokens are those drawn.

MFU is the work of the model, without what is computed again, over what the data sheet
promises in that time: for each token that a network reads 2 FLOP a weight of its trunk,
three times that where it learns; the same of the unembedding for tokens that are
scored; and 4 FLOP a layer for each feature of a pair of tokens that see each other.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import common, decode_ways, grpo, offline
from benchmarks.common import Row
from rljax.models.config import ModelConfig

TERA = 1e12
READS, LEARNS = 1, 3  # forward passes' worth: a backward pass costs two


def smollm2(remat: bool = False, scan_layers: bool = False) -> ModelConfig:
    """As large as SmolLM2-135M.

    Args:
      remat: whether layers are computed again in the backward pass.
      scan_layers: whether one compiled layer serves for all.
    """
    return ModelConfig(
        vocab_size=49_152, width=576, num_layers=30, num_heads=9, num_kv_heads=3,
        head_dim=64, mlp_width=1_536, rope_theta=100_000.0, norm_eps=1e-5,
        tied_embedding=True, dtype="bfloat16", remat=remat, scan_layers=scan_layers,
    )  # fmt: skip


def trunk_weights(config: ModelConfig) -> int:
    """Weights that multiply every token: those of the layers' projections."""
    heads = config.num_heads + config.num_kv_heads
    attention = 2 * config.width * config.head_dim * heads
    mlp = (3 if config.gated_mlp else 2) * config.width * config.mlp_width
    return config.num_layers * (attention + mlp)


def forward_flops(config: ModelConfig, lengths: Sequence[int]) -> float:
    """Of the trunk over texts, each token seeing itself and what is before it.

    Args:
      config: of the model.
      lengths: tokens of each text.
    """
    size = np.asarray(lengths, np.float64)
    pairs = float((size * (size + 1) / 2).sum())
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * pairs
    return 2 * trunk_weights(config) * float(size.sum()) + attention


def score_flops(config: ModelConfig, tokens: int) -> float:
    """Of the logits of so many tokens, read once."""
    return 2.0 * config.width * config.vocab_size * tokens


def oreo_rows(
    config: ModelConfig,
    batch: int,
    peak: float,
    rounds: int,
    plain: bool,
    row_tokens: int | None = None,
) -> list[Row]:
    """An update of policy and critic.

    Args:
      config: of both.
      batch: texts of an update.
      peak: FLOP/s.
      rounds: turns.
      plain: whether it is timed beside the plain update.
      row_tokens: of a packed row; None: as the longest text.
    """
    log = offline.drawn(batch, config.vocab_size, 2 * offline.MEDIAN)
    case = offline.Case("oreo", config, log, row_tokens, 1.0, 1.0)
    names = ("ours", "plain") if plain else ("ours",)
    ways = offline.ways_of(case, names)
    times = common.interleave(ways, rounds, max_seconds=60)
    lengths = [len(one.ids) for one in log]
    scored = sum(int(one.action.sum()) for one in log)
    work = (2 * LEARNS + READS) * forward_flops(config, lengths)
    work += (LEARNS + READS) * score_flops(config, scored)
    seconds = {name: float(np.median(took)) for name, took in times.items()}
    space = {
        name: way.program.memory_analysis().temp_size_in_bytes / 1e6
        for name, way in ways.items()
    }
    speed = {name: sum(lengths) / took for name, took in seconds.items()}
    return [
        _share("oreo_mfu", work / seconds["ours"], peak),
        _beside("oreo_speed", speed, "tokens/s", "higher"),
        _beside("oreo_memory", space, "MB", "lower"),
    ]


def grpo_rows(size: grpo.Size, peak: float, rounds: int) -> tuple[list[Row], str]:
    """A step without a divergence from the reference, and where its time goes.

    Args:
      size: of model, prompts and answers.
      peak: FLOP/s.
      rounds: steps.
    """
    params, clock = decode_ways.initial(size.model), grpo.Clock()
    take = grpo.our_steps(size, 0.0, params, clock)
    seconds = timed(take, rounds)
    clock.steps = clock.steps[-rounds:]
    updates = float(np.median([step["update"] for step in clock.steps]))
    # A prompt is read once for all its answers, and each answer sees it.
    answers, drawn = size.groups * size.samples, size.tokens
    whole = forward_flops(size.model, [size.prompt + size.new] * answers)
    again = forward_flops(size.model, [size.prompt] * (answers - size.groups))
    work = LEARNS * (whole - again + score_flops(size.model, drawn))
    speed = drawn / float(np.median(seconds))
    rows = [
        _share("grpo_update_mfu", work / updates, peak),
        _beside("grpo_step", {"ours": speed}, "tokens/s", "higher"),
    ]
    return rows, grpo.split_of("grpo", clock)


def timed(take: Callable[[], Any], rounds: int) -> np.ndarray:
    """Seconds of calls, after three that compile."""
    taken = []
    for place in range(3 + rounds):
        start = time.perf_counter()
        jax.block_until_ready(take())
        if place >= 3:
            taken.append(time.perf_counter() - start)
    return np.array(taken)


def _share(name: str, work: float, peak: float) -> Row:
    """A row of TFLOP/s done and promised, whose ratio is MFU."""
    return Row(name, work / TERA, peak / TERA, "TFLOP/s", work / peak, None, "higher")


def _beside(name: str, found: dict[str, float], unit: str, better: str) -> Row:
    if "plain" not in found:
        return Row(name, found["ours"], 0.0, f"{unit} (alone)", 0.0, None, better)
    ratio = found["ours"] / found["plain"]
    return Row(name, found["ours"], found["plain"], unit, ratio, None, better)


def main() -> None:
    """Prints the table, and where GRPO's time goes."""
    parser = common.parser(__doc__.splitlines()[0])
    parser.add_argument("--peak", type=float, required=True, help="TFLOP/s promised")
    parser.add_argument("--batch", type=int, default=128, help="texts of OREO's update")
    parser.add_argument("--row", type=int, help="tokens of a row; else the longest's")
    parser.add_argument("--groups", type=int, default=32, help="prompts of GRPO's step")
    parser.add_argument("--remat", action="store_true", help="layers computed again")
    parser.add_argument("--scan", action="store_true", help="one layer for all")
    parser.add_argument("--plain", action="store_true", help="OREO beside a plain one")
    asked = parser.parse_args()
    config = smollm2(asked.remat, asked.scan)
    peak = asked.peak * TERA
    rows = oreo_rows(config, asked.batch, peak, asked.rounds, asked.plain, asked.row)
    size = grpo.Size(config, asked.groups, samples=8, prompt=128, new=128)
    more, split = grpo_rows(size, peak, asked.rounds)
    common.finish(rows + more, asked.json)
    print(split)


if __name__ == "__main__":
    main()
