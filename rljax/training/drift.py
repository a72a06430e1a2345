"""Where a policy that learns from a log goes: by source, by length, off the data.

A log carries its bias into the policy. On a fixed sample of it these numbers say what
the policy takes from it and how far it has moved. l is the mean log pi - log pi_ref of
an answer's tokens; the reference is the agent's own or, for one that has none, the
policy it began as.

* `drift/log_ratio/<group>`: l, mean over the group's answers;
* `drift/log_ratio/<group>_right`, `<group>_wrong`: the same of its right and wrong
  answers alone, for sources and lengths;
* `drift/reward/<group>`: sum of R e^l / sum of e^l, the group's reward with answers
  weighted by what the policy has made of them: at the start that of the log, above it
  where right answers gain over wrong ones. A comparison of logged answers, no estimate
  of success;
* `drift/kl/<group>`: divergence from the reference, a token, mean over answers;
* `drift/kl/task_most`: the greatest such mean of one task; `farthest` names the tasks;
* `drift/unseen`: share of the policy's probability on tokens that no action of the log
  is, mean over tokens.

Groups are `all`, `right` and `wrong`, `length_short`, `length_middle`, `length_long`
(thirds of the log) and `source_<name>`. What a mean of nothing would be is left out.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rljax.agents.offline import Reading
from rljax.types import GOOD, Episode

_SOURCES = 8  # with the most answers; the others share a group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What raises an alarm at the end of a run; nats are those of a token."""

    kl: float = 0.5  # divergence on the log as a whole
    group_kl: float = 1.0  # of one source, length or task
    length: float = (
        0.25  # log-ratio of long answers less that of short ones, either way
    )
    right: float = -0.25  # log-ratio of right answers, also of one source or length
    unseen: float = 0.02  # share of probability on tokens that the data never show


def sample(log: Sequence[Episode], count: int, seed: int) -> list[Episode]:
    """Episodes drawn without replacement, in the order of the log.

    Args:
      log: at least one.
      count: how many; all where there are fewer.
      seed: of the draw.
    """
    places = np.random.default_rng(seed).permutation(len(log))[:count]
    return [log[i] for i in sorted(places)]


def unseen(log: Sequence[Episode], vocabulary: int) -> np.ndarray:
    """Tokens that no action of the log is.

    Args:
      log: all of it.
      vocabulary: V.

    Returns:
      bool [V].
    """
    found = np.ones(vocabulary, bool)
    for episode in log:
        found[episode.ids[episode.action]] = False
    return found


class Task(NamedTuple):
    """A task of the sample, and how far from the reference the policy is on it."""

    task: str
    kl: float  # a token, mean over its answers
    answers: int  # of the sample


def thirds(lengths: Sequence[int]) -> tuple[float, float]:
    """Up to which number of actions an answer is short, and up to which not long.

    Args:
      lengths: of the answers of a log.
    """
    first, second = np.quantile(lengths, [1 / 3, 2 / 3])
    return float(first), float(second)


def third_of(length: np.ndarray, bounds: tuple[float, float]) -> dict[str, np.ndarray]:
    """Which answers are short, middling and long.

    Args:
      length: number of actions, [N].
      bounds: of `thirds`.

    Returns:
      bool [N] each.
    """
    first, second = bounds
    return {
        "short": length <= first,
        "middle": (length > first) & (length <= second),
        "long": length > second,
    }


def metrics(
    shown: Sequence[Episode],
    readings: Sequence[Reading],
    masses: Sequence[np.ndarray],
    bounds: tuple[float, float],
) -> dict[str, float]:
    """The numbers of one evaluation.

    Args:
      shown: the sample, N episodes.
      readings: of each, leaves [L] with its actions first, beside a reference.
      masses: float32 [L] of each, probability of the tokens the log never shows.
      bounds: of lengths, as `thirds` gives.

    Returns:
      Names beginning with `drift/`, as above.
    """
    counts = _counts(shown)
    reward = np.array([episode.reward for episode in shown], np.float64)
    ratio = _means(
        [np.asarray(r.log_prob) - np.asarray(r.reference_log_prob) for r in readings],
        counts,
    )
    kl = _means([np.asarray(r.kl) for r in readings], counts)
    told = {}
    for name, inside in _groups(shown, counts, bounds).items():
        if not inside.any():
            continue
        told[f"drift/reward/{name}"] = _weighted(reward[inside], ratio[inside])
        told[f"drift/kl/{name}"] = float(kl[inside].mean())
        parts = {name: inside}
        if name.startswith(("length_", "source_")):
            right = reward > GOOD
            parts |= {f"{name}_right": inside & right, f"{name}_wrong": inside & ~right}
        for part, chosen in parts.items():
            if chosen.any():
                told[f"drift/log_ratio/{part}"] = float(ratio[chosen].mean())
    told["drift/kl/task_most"] = farthest(shown, readings, 1)[0].kl
    ends = [np.asarray(m)[:n] for m, n in zip(masses, counts, strict=True)]
    told["drift/unseen"] = float(np.concatenate(ends).mean())
    return told


def farthest(
    shown: Sequence[Episode], readings: Sequence[Reading], count: int = 3
) -> list[Task]:
    """The tasks on which the policy is farthest from the reference, farthest first.

    Args:
      shown: the sample.
      readings: of each, as for `metrics`.
      count: most of the tasks.
    """
    kl = _means([np.asarray(r.kl) for r in readings], _counts(shown))
    tasks = np.array([episode.task for episode in shown], object)
    found = [
        Task(task, float(kl[tasks == task].mean()), int(np.sum(tasks == task)))
        for task in dict.fromkeys(tasks)
    ]
    # Not a number is out of bounds, so it comes first.
    return sorted(found, key=lambda one: (not np.isnan(one.kl), -one.kl))[:count]


def alarms(
    after: Mapping[str, float], limits: Limits, tasks: Sequence[Task] = ()
) -> list[str]:
    """What of a run's last evaluation is out of bounds, in words.

    Args:
      after: its metrics; others than `drift/` are not looked at.
      limits: the bounds.
      tasks: of `farthest`, to be named.
    """
    said = []

    def look(name, outside, limit, what):
        value = after.get(f"drift/{name}")
        if value is not None and (outside(value) or np.isnan(value)):
            said.append(f"{what}: drift/{name} is {value:.3g}, limit {limit:g}")

    look("kl/all", lambda x: x > limits.kl, limits.kl, "far from the reference")
    for name in sorted(after):
        group = name.removeprefix("drift/kl/")
        if group != name and group != "all":
            words = group.replace("_", " ", 1)
            if group == "task_most" and tasks:
                words = f"task {tasks[0].task}"
            look(
                f"kl/{group}", lambda x: x > limits.group_kl, limits.group_kl,
                f"far from the reference on {words}",
            )  # fmt: skip
    for name in sorted(after):
        group = name.removeprefix("drift/log_ratio/")
        if group != name and (group == "right" or group.endswith("_right")):
            of = group.removesuffix("right").rstrip("_").replace("_", " ", 1)
            look(
                f"log_ratio/{group}", lambda x: x < limits.right, limits.right,
                f"right answers of {of or 'the log'} are becoming less likely",
            )  # fmt: skip
    short, long = (after.get(f"drift/log_ratio/length_{n}") for n in ("short", "long"))
    if short is not None and long is not None:
        gap = long - short
        if not abs(gap) <= limits.length:
            word = "long" if gap > 0 else "short"
            said.append(
                f"{word} answers gain over others: log-ratio of long less that of "
                f"short ones is {gap:+.3g}, limit {limits.length:g} either way"
            )
    look(
        "unseen", lambda x: x > limits.unseen, limits.unseen,
        "probability on tokens that the data never show",
    )  # fmt: skip
    return said


def _means(rows: Sequence[np.ndarray], counts: Sequence[int]) -> np.ndarray:
    """Mean over each answer's tokens, float64 [N]."""
    pairs = zip(rows, counts, strict=True)
    return np.array([row[:count].mean(dtype=np.float64) for row, count in pairs])


def _counts(shown: Sequence[Episode]) -> list[int]:
    return [int(episode.action.sum()) for episode in shown]


def _weighted(reward: np.ndarray, ratio: np.ndarray) -> float:
    """Mean reward with weights e^ratio, of which the greatest is taken out first."""
    weight = np.exp(ratio - ratio.max())
    return float(np.sum(weight * reward) / np.sum(weight))


def _groups(
    shown: Sequence[Episode], counts: Sequence[int], bounds: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Which answers are in which group, bool [N] each."""
    right = np.array([episode.reward > GOOD for episode in shown])
    groups = {"all": np.ones(len(shown), bool), "right": right, "wrong": ~right}
    for name, inside in third_of(np.array(counts), bounds).items():
        groups[f"length_{name}"] = inside
    sources = np.array([_name(episode.source) for episode in shown], object)
    names, sizes = np.unique(sources.astype(str), return_counts=True)
    if len(names) < 2:
        return groups
    kept = [str(names[i]) for i in np.argsort(-sizes, kind="stable")[:_SOURCES]]
    for name in kept:
        groups[f"source_{name}"] = sources == name
    groups["source_others"] = ~np.isin(sources.astype(str), kept)
    return groups


def _name(source: str) -> str:
    """A source as part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", source) or "none"
