"""What an audit says of rewards: their range, who earns them, and what they favour.

Offline data carry their bias into the policy. An attempt is right where its reward is
above `types.GOOD`, as in training. Intervals are of 95 %: Wilson's for a share,
Newcombe's (1998, method 10) for the difference of two, Fisher's for a correlation. They
take attempts as independent, so they are too narrow where many are of one task.

Shapes: N attempts.
"""

import collections
import math
from collections.abc import Callable, Sequence

import numpy as np

from rljax.data.audit_rows import Finding, Row, Table, places
from rljax.types import GOOD

_Z = 1.959964  # of a normal distribution, 97.5 %
_MANY = 0.5  # share of tasks without contrast that is worth a warning
_RARE = 0.02  # share of the smaller class that is worth one
_CORRELATION = 0.2
_DIFFERENCE = 0.1  # of two shares
_BINS = 10
_NAMED = 8  # tasks that a finding names
_HEADER = ("attempts", "right", "share", "from", "to")


def reward_findings(rows: Sequence[Row], logs: Sequence[str]) -> list[Finding]:
    """All that is said of rewards.

    Args:
      rows: at least one.
      logs: names of the logs that they are of.
    """
    found = [*_range(rows), *_tasks(rows), *_worst(rows, logs)]
    if 0 < sum(map(_right, rows)) < len(rows):
        found += [*_length(rows), *_sources(rows)]
    return found


def reward_tables(rows: Sequence[Row], logs: Sequence[str]) -> list[Table]:
    """The numbers behind them.

    Args:
      rows: at least one.
      logs: names of the logs that they are of.
    """
    tasks = collections.Counter(
        _share_bin(right / total) for right, total in _by(rows, _task).values()
    )
    order = ["none right", *(f"{i} to {i + 25} %" for i in range(0, 100, 25))]
    by_task = [
        (name, tasks[name], tasks[name] / tasks.total())
        for name in [*order, "all right"]
    ]
    named = _by_task(rows, logs)
    quarters, sources = _by(rows, _quarter_of(rows)), _by(rows, lambda row: row.source)
    return [
        Table("Rewards", ("reward", "attempts", "share"), tuple(_values(rows))),
        Table("Tasks by share right", ("right", "tasks", "share"), tuple(by_task)),
        Table("Success by length", ("length", *_HEADER), _shares(quarters)),
        Table("Success by source", ("source", *_HEADER), _shares(sources)),
        Table("Success by task", ("task", "first", *_HEADER), tuple(named)),
    ]  # fmt: skip


def wilson(right: int, total: int) -> tuple[float, float]:
    """Interval of a share.

    Args:
      right: how many of them.
      total: at least 1.
    """
    share, z2 = right / total, _Z**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def difference(one: tuple[int, int], other: tuple[int, int]) -> tuple[float, ...]:
    """Difference of two shares, and its interval.

    Args:
      one: right, total.
      other: the same; its share is taken off.

    Returns:
      The difference, its lower and its upper end.
    """
    p, q = one[0] / one[1], other[0] / other[1]
    (p_low, p_high), (q_low, q_high) = wilson(*one), wilson(*other)
    low = math.hypot(p - p_low, q_high - q)
    high = math.hypot(p_high - p, q - q_low)
    return p - q, p - q - low, p - q + high


def correlation(
    x: np.ndarray, y: np.ndarray, lost: int = 1
) -> tuple[float, ...] | None:
    """Pearson's correlation, and its interval.

    Args:
      x: float [N].
      y: float [N].
      lost: means that were taken off, one unless they are of groups.

    Returns:
      The correlation, its lower and its upper end; None where there is none, since
      one side does not vary or there are too few attempts.
    """
    free = len(x) - lost - 2
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    if free < 1 or size < 1e-9:
        return None
    r = float(np.clip(x @ y / size, -1, 1))
    middle, half = math.atanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), _Z / math.sqrt(free)
    return r, math.tanh(middle - half), math.tanh(middle + half)


def _range(rows: Sequence[Row]) -> list[Finding]:
    rewards = np.array([row.reward for row in rows])
    right = places(row for row in rows if _right(row))
    share = len(right) / len(rows)
    values = np.unique(rewards)
    some = ", ".join(f"{value:g}" for value in values[:4]) + ", ..." * (len(values) > 4)
    text = (
        f"rewards from {values[0]:g} to {values[-1]:g}, {len(values)} different "
        f"({some}), mean {rewards.mean():.4g}; {_percent(share)} of attempts are right "
        f"(a reward above {GOOD:g})"
    )
    found = [Finding("reward range", "note", text, len(rows))]
    if not right:
        text = (
            f"no attempt has a reward above {GOOD:g}: there is no success to learn from"
        )
        found.append(Finding("no success", "error", text, len(rows), places(rows)))
    elif len(right) == len(rows):
        text = "all attempts are right: only imitation can learn from them"
        found.append(Finding("no failure", "warning", text, len(rows)))
    elif min(share, 1 - share) < _RARE:
        wrong = places(row for row in rows if not _right(row))
        rare = right if share < 0.5 else wrong
        name = "right" if share < 0.5 else "wrong"
        text = (
            f"classes are far from balanced: {_percent(len(rare) / len(rows))} {name}"
        )
        found.append(Finding("class balance", "warning", text, len(rare), rare))
    odd = places(row for row in rows if row.reward not in (0.0, 1.0))
    if odd:
        text = (
            "rewards other than 0 and 1: coefficients tuned for these need a new scale"
        )
        found.append(Finding("reward scale", "warning", text, len(odd), odd))
    return found


def _tasks(rows: Sequence[Row]) -> list[Finding]:
    tasks = _by(rows, _task)
    sizes = sorted(total for _, total in tasks.values())
    shares = [right / total for right, total in tasks.values()]
    text = (
        f"{len(tasks)} tasks with {sizes[0]} to {sizes[-1]} attempts (median "
        f"{sizes[len(sizes) // 2]}); share right by task: median "
        f"{_percent(float(np.median(shares)))}, mean {_percent(float(np.mean(shares)))}"
    )
    found = [Finding("tasks", "note", text, len(tasks))]
    several = {task for task, (_, total) in tasks.items() if total > 1}
    for kind, share in (("all right", 1.0), ("all wrong", 0.0)):
        names = {t for t in several if tasks[t][0] == share * tasks[t][1]}
        if not names:
            continue
        part = len(names) / len(several)
        text = (
            f"{_percent(part)} of the tasks with several attempts are {kind}: methods "
            "that compare attempts of one task (DPO) have no use for them"
        )
        where = places(row for row in rows if row.task in names)
        severity = "warning" if part > _MANY else "note"
        found.append(Finding(kind, severity, text, len(names), where))
    single = len(tasks) - len(several)
    if single:
        text = f"{_percent(single / len(tasks))} of the tasks have one attempt only"
        where = places(row for row in rows if row.task not in several)
        found.append(Finding("single attempts", "note", text, single, where))
    return found


def _worst(rows: Sequence[Row], logs: Sequence[str]) -> list[Finding]:
    """Names tasks that fail, those that do so most often first."""
    failed = [task for task in _by_task(rows, logs) if task[3] < task[2]]
    if not failed:
        return []
    text = "tasks with failures, the worst first: " + ", ".join(
        f"{task} ({right} of {total} right, {first})"
        for task, first, total, right, *_ in failed[:_NAMED]
    )
    left = len(failed) - _NAMED
    text += f", and {left:,} more" if left > 0 else ""
    return [Finding("worst tasks", "note", text, len(failed))]


def _by_task(
    rows: Sequence[Row], logs: Sequence[str]
) -> list[tuple[str, str, int, int, float, float, float]]:
    """Each task, where it is first, and what came of it; the worst come first."""
    first: dict[str, str] = {}
    for row in rows:
        log = f"{logs[row.place.log]}, " if len(logs) > 1 else ""
        first.setdefault(row.task, f"{log}line {row.place.line}")
    order = {task: place for place, task in enumerate(first)}
    groups = sorted(
        _by(rows, _task).items(),
        key=lambda group: (group[1][0] / group[1][1], -group[1][1], order[group[0]]),
    )
    return [
        (task, first[task], total, right, right / total, *wilson(right, total))
        for task, (right, total) in groups
    ]


def _length(rows: Sequence[Row]) -> list[Finding]:
    length = np.array([row.length for row in rows], float)
    right = np.array([_right(row) for row in rows], float)
    whole = correlation(length, right)
    if whole is None:
        text = "all attempts are of one length"
        return [Finding("length bias", "note", text, len(rows))]
    tasks = np.unique([row.task for row in rows], return_inverse=True)[1]
    inside = correlation(
        _within(length, tasks), _within(right, tasks), int(tasks.max()) + 1
    )
    quarters = list(_by(rows, _quarter_of(rows)).values())
    (first, of_first), (last, of_last) = quarters[0], quarters[-1]
    text = (
        f"success and length: correlation {_interval(whole)}"
        + (f", inside tasks {_interval(inside)}" if inside else "")
        + f"; right are {_percent(first / of_first)} of the shortest attempts and "
        f"{_percent(last / of_last)} of the longest"
    )
    strong = any(
        found is not None and abs(found[0]) >= _CORRELATION and found[1] * found[2] > 0
        for found in (whole, inside)
    )
    return [Finding("length bias", "warning" if strong else "note", text, len(rows))]


def _sources(rows: Sequence[Row]) -> list[Finding]:
    sources = _by(rows, lambda row: row.source)
    if len(sources) < 2:
        return []
    found, right = [], sum(map(_right, rows))
    for source, (ours, total) in sources.items():
        theirs = (right - ours, len(rows) - total)
        gap, low, high = difference((ours, total), theirs)
        if abs(gap) < _DIFFERENCE or low * high < 0:
            continue
        text = (
            f"source {source!r}: {_percent(ours / total)} of {total} right, "
            f"{_percent(theirs[0] / theirs[1])} of the other {theirs[1]}: a difference "
            f"of {100 * gap:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
        )
        where = places(row for row in rows if row.source == source)
        found.append(Finding("source bias", "warning", text, total, where))
    text = (
        f"{len(sources)} sources, of which {len(found)} differ from the rest in "
        f"success by {100 * _DIFFERENCE:g} points or more"
    )
    return [Finding("sources", "note", text, len(sources)), *found]


def _values(rows: Sequence[Row]) -> list[tuple[str, int, float]]:
    rewards = np.array([row.reward for row in rows])
    values, counts = np.unique(rewards, return_counts=True)
    names = [f"{value:g}" for value in values]
    if len(values) > _BINS:
        counts, edges = np.histogram(rewards, _BINS)
        names = [
            f"{a:.3g} to {b:.3g}" for a, b in zip(edges[:-1], edges[1:], strict=True)
        ]
    return [
        (name, int(count), float(count / len(rows)))
        for name, count in zip(names, counts, strict=True)
    ]


def _by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, tuple[int, int]]:
    """How many are right, and how many there are, by key in order."""
    right, total = collections.Counter(), collections.Counter()
    for row in rows:
        right[key(row)] += _right(row)
        total[key(row)] += 1
    return {name: (right[name], total[name]) for name in sorted(total)}


def _shares(groups: dict[str, tuple[int, int]]) -> tuple[tuple[str | float, ...], ...]:
    return tuple(
        (name or "(none)", total, right, right / total, *wilson(right, total))
        for name, (right, total) in groups.items()
    )


def _quarter_of(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Names the quarter of the lengths that an attempt is in; they sort by length."""
    lengths = np.array([row.length for row in rows])
    edges = np.unique(np.quantile(lengths, [0.25, 0.5, 0.75, 1.0], method="lower"))
    lows = [int(lengths.min()), *(int(edge) + 1 for edge in edges[:-1])]
    width = len(str(int(edges[-1])))
    names = [
        f"{low:{width}d} to {int(high):{width}d}"
        for low, high in zip(lows, edges, strict=True)
    ]
    return lambda row: names[int(np.searchsorted(edges, row.length))]


def _within(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values less the mean of their group."""
    means = np.bincount(groups, values) / np.bincount(groups)
    return values - means[groups]


def _share_bin(share: float) -> str:
    if share in (0.0, 1.0):
        return "all right" if share else "none right"
    low = 25 * min(int(share * 4), 3)
    return f"{low} to {low + 25} %"


def _right(row: Row) -> bool:
    return row.reward > GOOD


def _task(row: Row) -> str:
    return row.task


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(found: Sequence[float]) -> str:
    return f"{found[0]:+.2f} ({found[1]:+.2f} to {found[2]:+.2f})"
