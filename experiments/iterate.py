"""Rounds: collect with the present policy, learn from what was collected, repeat.

    python -m experiments.iterate --config=experiments/configs/iterate.py:arithmetic \
        --workdir=runs/iterate --config.model.path=runs/sft/hf

Round r makes policy r, beginning at policy r - 1; policy 0 is `model.path`. It leaves
WORKDIR/round_r/log (see `collect`), WORKDIR/round_r/run, the workdir of the method, and
WORKDIR/round_r/round.json once it is done. WORKDIR/summary.json has success on the
problems of `eval.split` by round. The same command goes on where it was broken off, and
does no round again; `rounds` may grow.

Source: Wang et al., 2024 (arXiv:2412.16145), section 4.3, which leaves open

* `reference`, what the divergence is from: `last`, the policy that the round begins
  at, or `first`, policy 0 in all rounds;
* `critic`, what V begins as: `fresh`, a copy of the reference with a head of zeros, or
  `carried`, V of the round before (OREO);
* `old_data`: whether logs of earlier rounds are read again, before the new one.

The first of each is the default: then a round is what the paper says of one training,
with the present policy where the SFT model was, and answers are of the policy that they
are judged against. Round 1 is what `collect` and the method do by themselves with the
same seed; later rounds have seeds of their own.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import config_dict

from experiments import (
    border,
    collect,
    dpo,
    kto,
    offline,
    oreo,
    rejection_sampling,
    run,
)
from experiments.border import AT_LEAST_ONE, SEED, ConfigError, pick, require
from experiments.configs.iterate import SHARED
from experiments.configs.offline import ROOM
from rljax.training import files, workdir

METHODS: dict[str, Callable[[Any], offline.Method]] = {
    "oreo": oreo.method_of,
    "rejection_sampling": rejection_sampling.method_of,
    "dpo": dpo.method_of,
    "kto": kto.method_of,
}
REFERENCES = {"last": False, "first": True}  # whether it stays
CRITICS = {"fresh": False, "carried": True}  # whether it is carried over
MAY_DIFFER = frozenset({"rounds", "parallel", "num_devices"})


class Round(NamedTuple):
    """What a round is made of.

    Attributes:
      number: from 1 on.
      folder: its own.
      collect: settings of its collection; None where the log is there already.
      train: settings of the method.
    """

    number: int
    folder: pathlib.Path
    collect: config_dict.ConfigDict | None
    train: config_dict.ConfigDict


def main(config: Any, folder: str) -> None:
    """Runs what the config says."""
    run.keep_compiled()
    rounds, make = plan(config, folder), METHODS[config.method]
    with _part(config.method):  # said before hours of collection
        make(rounds[0].train)
    path = workdir.own(folder, config.to_dict(), MAY_DIFFER)
    facts: list[dict[str, Any]] = []
    for one in rounds:
        found = _run(one, make, config.method)
        if found is None:
            print(f"stopped in round {one.number}: the same command goes on from there")
            return
        facts.append(found)
        files.write_json(path / "summary.json", summary(config, facts))
    print(table(facts))
    print(f"policy: {rounds[-1].folder / 'run' / 'hf'}")


def plan(config: Any, folder: str) -> list[Round]:
    """All rounds with their settings.

    Args:
      config: as `experiments.configs.iterate` gives it.
      folder: the workdir.

    Raises:
      ConfigError: for settings that cannot be together.
    """
    _check(config, folder)
    stays = pick(REFERENCES, config.reference, "reference")
    carried = pick(CRITICS, config.critic, "critic")
    first = policy = config.model.path
    logs: list[str] = []
    found = []
    for number in range(1, config.rounds + 1):
        place = pathlib.Path(folder, f"round_{number}")
        given = config.first_log if number == 1 else ""
        logs.append(given or str(place / "log" / "log.jsonl.gz"))
        common = _common(config, number)
        train = common | config[config.method].to_dict()
        reference = first if stays else policy
        began = "" if policy == reference else policy
        train["model"] = common["model"] | {"path": reference, "policy": began}
        read = logs if config.old_data else logs[-1:]
        train["data"] = train["data"] | {"path": ",".join(read)}
        if "critic" in train:
            before = policy if carried and number > 1 else ""
            train["critic"] = train["critic"] | {"path": before}
        asked = {key: common[key] for key in ("seed", "task")}
        asked |= config.collect.to_dict()
        asked["model"] = common["model"] | {"path": policy}
        asked["eval"] = {key: common["eval"][key] for key in ROOM}
        asked["source"] = asked["source"] or f"round {number}"
        settings = None if given else config_dict.ConfigDict(asked).lock()
        learnt = config_dict.ConfigDict(train).lock()
        found.append(Round(number, place, settings, learnt))
        policy = str(place / "run" / "hf")
    return found


def summary(config: Any, facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What summary.json holds.

    Args:
      config: of the iteration.
      facts: of the rounds that are done, at least one.
    """
    chosen = ("method", "reference", "critic", "old_data", "seed")
    return {
        **{key: config[key] for key in chosen},
        "split": config.eval.split,
        "success": [facts[0]["before"], *(found["after"] for found in facts)],
        "rounds": list(facts),
    }


def table(facts: Sequence[dict[str, Any]]) -> str:
    """Rounds, one a line; round 0 is the start.

    Args:
      facts: of each round, at least one.
    """
    lines = ["round  collected  right    read  updates  success"]
    if facts[0]["before"] is not None:
        lines.append(f"{0:>5}{facts[0]['before']:44.3f}")
    for found in facts:
        log = found["collected"]
        gathered = f"{log['answers']:>11,}{log['right']:7.3f}" if log else " " * 18
        lines.append(
            f"{found['round']:>5}{gathered}{found['items']:>8,}{found['updates']:>9,}"
            f"{found['after']:9.3f}"
        )
        lines += [f"       alarm: {alarm}" for alarm in found["alarms"]]
    return "\n".join(lines)


def _check(config: Any, folder: str) -> None:
    border.limits(config, {"rounds": AT_LEAST_ONE, "seed": SEED})
    pick(METHODS, config.method, "method")
    require(
        bool(config.model.path), "model.path", config.model.path,
        "the model of the start, such as hf/ of an sft workdir",
    )  # fmt: skip
    if "," in str(folder):
        raise ConfigError(
            f"--workdir={folder} has a comma, which stands between two logs"
        )
    without = config.method == "rejection_sampling"
    require(
        config.reference != "first" or not (without or config.lora.rank),
        "reference", config.reference,
        "last with rejection_sampling, which has no reference" if without else
        f"last with lora.rank={config.lora.rank}: an adapter begins as the reference",
    )  # fmt: skip
    adapters = config.lora.rank or config.oreo.value == "adapter"
    require(
        config.critic != "carried" or (config.method == "oreo" and not adapters),
        "critic", config.critic,
        f"fresh with method={config.method}, lora.rank={config.lora.rank} and "
        f"oreo.value={config.oreo.value}: whole critics of OREO can be carried",
    )  # fmt: skip


def _common(config: Any, number: int) -> dict[str, Any]:
    """Settings that collection and method of a round share."""
    values = {key: value for key, value in config.to_dict().items() if key in SHARED}
    seed = config.seed
    if number > 1:
        seed = int(np.random.default_rng([seed, number]).integers(2**31))
    return values | {"seed": seed, "resume": "auto"}


@contextlib.contextmanager
def _part(name: str) -> Iterator[None]:
    """Says of errors which part of the config they are about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"in config.{name}, or what is shared: {error}") from error


def _run(
    one: Round, make: Callable[[Any], offline.Method], method: str
) -> dict[str, Any] | None:
    """Does what is left of a round; None if a signal stopped it."""
    told = one.folder / "round.json"
    if told.exists():
        print(f"round {one.number}: done")
        return files.read_json(told)
    print(f"round {one.number}")
    gathered = one.folder / "log" / "summary.json"
    if one.collect is not None and not gathered.exists():
        with _part("collect"):
            collect.main(one.collect, str(gathered.parent))
    ended = one.folder / "run" / "summary.json"
    with _part(method):
        offline.train_on_log(one.train, str(ended.parent), make(one.train))
    if not ended.exists():
        return None
    end = files.read_json(ended)
    name = one.train.task.name
    found = {
        "round": one.number,
        "before": end["before"].get(name),
        "after": end["after"][name],
        "collected": files.read_json(gathered) if one.collect is not None else None,
        **{key: end[key] for key in ("items", "updates", "tokens", "alarms")},
        "train_seconds": end["train_seconds"],
    }
    files.write_json(told, found)
    return found


if __name__ == "__main__":
    border.run(main, __doc__)
