"""Greedy, value-guided beam search, best of N and majority, at equal cost.

    python -m experiments.search --config=experiments/configs/search.py:arithmetic \
        --workdir=runs/search --config.model.path=runs/oreo/hf

Each beam search is compared with the best of N by V and with the majority of N, with N
such that they generate as many tokens, and such that they take as many FLOPs, the
critic's counted. The workdir holds `config.json` and `search.json`, a part for each
method; what is there already is not computed again.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import border, critic, judging, reasoning, starts
from experiments import search_methods as methods
from experiments.border import AT_LEAST_ONE, Limit
from experiments.search_methods import Outcome, Setting
from rljax.envs.verifiers import JudgeAll
from rljax.search import cost as cost_lib
from rljax.search import values
from rljax.search.cost import Cost
from rljax.text import tokenizer as tokenizers
from rljax.training import files
from rljax.training import workdir as workdir_lib

LIMITS = {
    "eval.problems": Limit(0),
    "rounds": AT_LEAST_ONE,
    "rows": AT_LEAST_ONE,
    "most_samples": AT_LEAST_ONE,
    "temperature": border.POSITIVE,
    "seed": Limit(0),
}
READINGS = {
    "at_end": values.at_end,
    "one_early": values.one_early,
    "where_steps_begin": values.where_steps_begin,
}


def main(config: Any, workdir: str) -> None:
    """Runs what the config says."""
    _check(config)
    start = starts.choose_start(config)
    task = reasoning.make_task(config, start.tokenizer)
    with judging.open_judge(config, task.judge.verify) as judge:
        _search(_setting(config, start, task, judge), config, workdir)


def _search(setting: Setting, config: Any, workdir: str) -> None:
    """All that is compared, as far as it is not there yet."""
    folder = workdir_lib.own(workdir, config.to_dict())
    store = _Store(folder / "search.json")
    store.keep("greedy", lambda: _row(setting, methods.greedy(setting)))
    for beams in config.beams:
        name = f"beam {beams}"
        store.keep(name, lambda b=beams: _row(setting, methods.beam(setting, b)))
    wanted = {
        f"{kind}, {unit} of beam {beams}": (kind, unit, store.rows[f"beam {beams}"])
        for beams in config.beams
        for unit in ("tokens", "FLOPs")
        for kind in ("best of N", "majority")
    }
    if wanted.keys() - store.rows.keys():
        _compare(setting, store, wanted)
    print(table(store.rows))
    print(f"results: {store.path}")


def _compare(setting: Setting, store: "_Store", wanted: dict) -> None:
    """Best of N and majority, all out of one pool of samples."""
    most = setting.config.most_samples
    # A few samples first: N depends on their length.
    length = methods.pool(setting, min(8, most), value=False).tokens.mean()
    sizes = {}
    for name, (kind, unit, row) in wanted.items():
        size = _size_of(setting, kind, unit, row, length)
        if size > most:
            print(f"{name}: {size} samples were due, most_samples={most} are drawn")
        sizes[name] = min(size, most)
    drawn = methods.pool(setting, max(sizes.values()))
    for name, (kind, _, _) in wanted.items():
        chosen = methods.CHOICES[kind](setting, drawn, sizes[name])
        row = _row(setting, chosen) | {"samples": sizes[name]}
        store.keep(name, lambda row=row: row)


def _size_of(setting: Setting, kind: str, unit: str, row: dict, length: float) -> int:
    """How many samples of this length cost as much as a beam search did."""
    if unit == "tokens":
        return max(1, round(row["generated"] / length))
    prompt = np.mean([len(ids) for ids in methods.prompts(setting)])
    judged = setting.critic_size if kind == "best of N" else 0
    each = 2.0 * (setting.policy_size + judged)
    return max(1, round((row["flops"] - each * prompt) / (each * length)))


def _check(config: Any) -> None:
    """Refuses settings that cannot be."""
    border.limits(config, LIMITS)
    border.require(
        bool(config.model.path), "model.path", config.model.path,
        "a policy with its V, such as hf/ of an oreo workdir",
    )  # fmt: skip
    border.require(
        bool(config.beams) and all(type(b) is int and b >= 1 for b in config.beams),
        "beams", tuple(config.beams), "whole numbers from 1 on",
    )  # fmt: skip
    reasoning.delimiters_of(config)
    border.require(
        config.rows >= max(config.beams) ** 2, "rows", config.rows,
        f"at least {max(config.beams) ** 2}, the candidates of one problem",
    )  # fmt: skip
    if config.reading:
        border.pick(READINGS, config.reading, "reading")


def _setting(
    config: Any, start: starts.Start, task: reasoning.Task, judge_all: JudgeAll
) -> Setting:
    asked = reasoning.part(task, config.eval.split, "eval.split", config.eval.problems)
    apart, params = bool(config.critic.path), start.weights()
    if apart:
        _require_same_tokens(start, config.critic.path)
    judge = critic.load(
        config.critic.path or config.model.path, start.config, apart=apart
    )
    trunk = params if judge.params is None else judge.params
    judge = judge._replace(params=trunk)
    return Setting(
        config, task, start, asked, judge_all, params, judge,
        READINGS[config.reading] if config.reading else judge.reading,
        cost_lib.multiplied(params, start.config, logits=True),
        cost_lib.multiplied(trunk, judge.config, logits=False),
    )  # fmt: skip


def _require_same_tokens(start: starts.Start, where: str) -> None:
    """Refuses V that would read other texts than the policy writes."""
    try:
        others = tokenizers.load(pathlib.Path(where).expanduser())
    except (OSError, ValueError) as error:
        raise border.ConfigError(f"config.critic.path: {error}") from error
    border.require(
        others.get_vocab() == start.tokenizer.get_vocab(), "critic.path", where,
        "a folder with the policy's own tokens: V would read other texts",
    )  # fmt: skip


def _row(setting: Setting, found: Outcome) -> dict[str, Any]:
    """What is written down of a method; tokens and FLOPs of a problem, on average."""
    count = len(found.right)
    total = Cost()
    for one in found.cost:
        total = total.plus(one)
    flops = cost_lib.flops(total, setting.policy_size, setting.critic_size)
    low, high = interval(int(sum(found.right)), count)
    return {
        "accuracy": sum(found.right) / count,
        "interval": [low, high],
        "finished": sum(found.finished) / count,
        "generated": total.generated / count,
        "policy_tokens": total.policy / count,
        "critic_tokens": total.critic / count,
        "flops": flops / count,
        "seconds": found.seconds,
        "right": [int(x) for x in found.right],
    }


def interval(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical
    Inference", 1927.

    Args:
      right: how many.
      count: of how many, at least 1.
    """
    z, p = 1.959964, right / count
    middle = p + z * z / (2 * count)
    half = z * (p * (1 - p) / count + z * z / (4 * count * count)) ** 0.5
    scale = 1 + z * z / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Methods, one a line.

    Args:
      rows: by name, as `search.json` has them.
    """
    width = max(map(len, rows))
    lines = [
        f"{'':{width}}  right   95 % interval   ended     N  tokens  MFLOPs   seconds"
    ]
    for name, row in rows.items():
        low, high = row["interval"]
        lines.append(
            f"{name:{width}}  {row['accuracy']:.3f}  [{low:.3f}, {high:.3f}]  "
            f"{row['finished']:6.3f} {row.get('samples', ''):>5} "
            f"{row['generated']:7.0f} {row['flops'] / 1e6:7.0f} {row['seconds']:9.1f}"
        )
    return "\n".join(lines)


class _Store:
    """Results by method, on disk as soon as they are there."""

    def __init__(self, path: pathlib.Path):
        """Reads what is there."""
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.rows = files.read_json(path)["methods"]

    def keep(self, name: str, compute: Callable[[], dict[str, Any]]) -> None:
        """Computes a row unless it is there, and writes it."""
        if name in self.rows:
            return
        began = time.monotonic()
        self.rows[name] = compute()
        files.write_json(self.path, {"methods": self.rows})
        row = self.rows[name]
        print(
            f"{name}: {row['accuracy']:.3f} right, {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    border.run(main, __doc__)
