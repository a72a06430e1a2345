"""Episodes that are compared with each other: pairs for DPO, mismatches for KTO."""

import collections
from collections.abc import Sequence

import numpy as np

from rljax.data.packing import Item
from rljax.types import GOOD, Episode


def good_only(log: Sequence[Episode]) -> list[Item]:
    """The good episodes, each by itself: what rejection sampling learns from.

    Raises:
      ValueError: if there is none.
    """
    found: list[Item] = [(episode,) for episode in log if episode.reward > GOOD]
    if not found:
        raise ValueError(
            f"none of the {len(log):,} attempts has a reward above {GOOD:g}, as a good "
            "one has: there is nothing to learn from"
        )
    return found


def better_and_worse(log: Sequence[Episode], seed: int, most: int = 6) -> list[Item]:
    """Pairs of a good and a bad answer to one task.

    All combinations of a task are drawn from without replacement. A task without good
    or without bad answers has none.

    Source: Wang et al., 2024 (arXiv:2412.16145), appendix; 6 pairs a task for the 1.5B
    model, 10 for the 7B, 5 for ALFWorld.

    Args:
      log: episodes of any order.
      seed: of the draw.
      most: pairs of a task.

    Returns:
      (good, bad), task by task in the order of the log.

    Raises:
      ValueError: if `most` is below 1, or no task has both.
    """
    if most < 1:
        raise ValueError(f"most is {most}; it must be at least 1")
    tasks: dict[str, tuple[list[Episode], list[Episode]]] = collections.defaultdict(
        lambda: ([], [])
    )
    for episode in log:
        tasks[episode.task][episode.reward <= GOOD].append(episode)
    rng = np.random.default_rng(seed)
    pairs: list[Item] = []
    for good, bad in tasks.values():
        count = len(good) * len(bad)
        for number in rng.choice(count, min(most, count), replace=False):
            pairs.append((good[number // len(bad)], bad[number % len(bad)]))
    if not pairs:
        raise ValueError(
            f"none of the {len(tasks):,} tasks has a good answer (a reward above "
            f"{GOOD:g}) and a bad one, so there is no pair to compare: collect more "
            "answers to each task"
        )
    return pairs


def longest_mismatched(log: Sequence[Episode]) -> int:
    """Tokens of the longest prompt with the longest answer after it.

    So long a text of `with_mismatched` may be, whichever order the log is read in. A
    row has to hold it: pairing only what fits would leave long answers out of KTO's z
    after long prompts, and z would be the divergence on short ones.

    Args:
      log: at least one episode.
    """
    prompts = [int(np.argmax(episode.action)) for episode in log]
    sizes = [len(episode.ids) for episode in log]
    answers = [size - prompt for size, prompt in zip(sizes, prompts, strict=True)]
    return max(prompts) + max(answers)


def with_mismatched(items: list[Item]) -> list[Item]:
    """Adds to each answer x_i, y_i of a batch the text x_i, y_{i+1}.

    The last one gets the first one's answer. Two neighbours may be of one task; the
    paper's code does not heed it either. `longest_mismatched` says what row they need.

    Args:
      items: one text each, at least two, that begin with a prompt.

    Returns:
      (own, mismatched), in the same order.

    Raises:
      ValueError: if there is only one: its own answer is no mismatch.
    """
    if len(items) < 2:
        raise ValueError(
            "a batch of one answer has no other to compare with: change batch_size so "
            "that no batch has a single one"
        )
    texts = [item[0] for item in items]
    return [
        (own, _after(own, other))
        for own, other in zip(texts, texts[1:] + texts[:1], strict=True)
    ]


def _after(own: Episode, other: Episode) -> Episode:
    """The prompt of one, and what follows the prompt of the other."""
    begin, first = int(np.argmax(own.action)), int(np.argmax(other.action))
    return Episode(
        ids=np.concatenate([own.ids[:begin], other.ids[first:]]),
        action=np.concatenate([own.action[:begin], other.action[first:]]),
        step=np.concatenate([own.step[:begin], other.step[first:]]),
        reward=own.reward,
        task=own.task,
        source=own.source,
        line=own.line,
    )
