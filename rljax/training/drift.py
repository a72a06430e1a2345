"""Where a policy that learns from a log goes: by source, by length, off the data.

A log carries its bias into the policy. On a fixed sample of it these numbers say what
is learnt from and how far the policy has moved on it:

* `drift/reward/<group>`: mean reward of the group's answers;
* `drift/log_ratio/<group>`: log pi - log pi_ref, a token, mean over answers;
* `drift/kl/<group>`: divergence from the reference, a token, mean over answers;
* `drift/kl/task_most`: the greatest such mean of one task;
* `drift/unseen`: share of the policy's probability on tokens that no action of the log
  is, mean over tokens.

Groups are `all`, `right` and `wrong`, `length_short`, `length_middle`, `length_long`
(thirds of the sample) and `source_<name>`. What a mean of nothing would be is left out,
and without a reference policy so are log-ratios and divergences.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

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
    right: float = -0.25  # log-ratio of right answers: below it they are being unlearnt
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


def metrics(
    shown: Sequence[Episode],
    readings: Sequence[Reading],
    masses: Sequence[np.ndarray],
    reference: bool,
) -> dict[str, float]:
    """The numbers of one evaluation.

    Args:
      shown: the sample, N episodes.
      readings: of each, leaves [L] with its actions first.
      masses: float32 [L] of each, probability of the tokens the log never shows.
      reference: whether the readings know a reference policy.

    Returns:
      Names beginning with `drift/`, as above.
    """
    counts = [int(episode.action.sum()) for episode in shown]
    columns = {"reward": np.array([episode.reward for episode in shown], np.float64)}
    if reference:
        columns["log_ratio"] = _means(
            [
                np.asarray(r.log_prob) - np.asarray(r.reference_log_prob)
                for r in readings
            ],
            counts,
        )
        columns["kl"] = _means([np.asarray(r.kl) for r in readings], counts)
    told = {}
    for name, inside in _groups(shown, counts).items():
        for column, values in columns.items():
            if inside.any():
                told[f"drift/{column}/{name}"] = float(values[inside].mean())
    if reference:
        tasks = np.array([episode.task for episode in shown], object)
        told["drift/kl/task_most"] = max(
            float(columns["kl"][tasks == task].mean()) for task in dict.fromkeys(tasks)
        )
    ends = [np.asarray(m)[:n] for m, n in zip(masses, counts, strict=True)]
    told["drift/unseen"] = float(np.concatenate(ends).mean())
    return told


def alarms(after: Mapping[str, float], limits: Limits) -> list[str]:
    """What of a run's last evaluation is out of bounds, in words.

    Args:
      after: its metrics; others than `drift/` are not looked at.
      limits: the bounds.
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
            look(
                f"kl/{group}", lambda x: x > limits.group_kl, limits.group_kl,
                f"far from the reference on {group.replace('_', ' ', 1)}",
            )  # fmt: skip
    look(
        "log_ratio/right", lambda x: x < limits.right, limits.right,
        "right answers of the log are becoming less likely",
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


def _groups(shown: Sequence[Episode], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Which answers are in which group, bool [N] each."""
    right = np.array([episode.reward > GOOD for episode in shown])
    length = np.array(counts)
    first, second = np.quantile(length, [1 / 3, 2 / 3])
    groups = {
        "all": np.ones(len(shown), bool),
        "right": right,
        "wrong": ~right,
        "length_short": length <= first,
        "length_middle": (length > first) & (length <= second),
        "length_long": length > second,
    }
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
