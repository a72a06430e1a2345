"""The credit page of logged answers, as a run and `experiments.credit` write it."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rljax.agents.offline import Reading
from rljax.text.tokenizer import Tokenizer
from rljax.training import credit, credit_page
from rljax.training.files import write_text
from rljax.types import Episode

NAME = "credit.html"  # in the workdir of a run
PROBLEMS, EACH = 16, 2  # shown at most, and of each right and wrong answers
# By what an action of the policy's loss was: where V was learnt.
KNOWN = {
    "token": credit.each_token,
    "step": credit.each_step,
    "response": credit.each_answer,
}


class Shown(NamedTuple):
    """Answers to be shown, those to one problem next to each other."""

    episodes: list[Episode]
    groups: list[list[int]]  # places in `episodes`, problem by problem
    chosen: list[int]  # places in the log


def choose(log: Sequence[Episode], problems: int = PROBLEMS, each: int = EACH) -> Shown:
    """Which answers of a log to show; see `credit.choose`."""
    groups = credit.choose(log, problems, each)
    chosen = [place for group in groups for place in group]
    first = np.cumsum([0, *map(len, groups)])
    return Shown(
        [log[place] for place in chosen],
        [list(range(a, b)) for a, b in zip(first[:-1], first[1:], strict=True)],
        chosen,
    )


def write(
    path: pathlib.Path,
    facts: credit_page.Facts,
    shown: Shown,
    readings: Sequence[Reading],
    tokenizer: Tokenizer,
    reference: bool,
    level: str,
) -> None:
    """Writes the page.

    Args:
      path: the file.
      facts: its title and what stands below.
      shown: the answers.
      readings: of each.
      tokenizer: of the policy.
      reference: whether the readings know a reference policy.
      level: what an action of the policy's loss was, a key of KNOWN.
    """
    answers = [
        credit.answer(episode, reading, tokenizer, reference, KNOWN[level])
        for episode, reading in zip(shown.episodes, readings, strict=True)
    ]
    write_text(path, credit_page.page(facts, answers, shown.groups))
