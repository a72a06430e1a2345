"""Where answers and written solutions may be cut: before an answer is stated."""

import types
from typing import Any

import numpy as np
import pytest

from rljax.data import steps
from rljax.envs import verifiers
from rljax.envs.reasoning.problems import Problem
from rljax.replay.cells import BARE, States
from rljax.rollout.answers import Answers
from rljax.text import tokenizer
from rljax.training import devices, online_texts
from rljax.types import Episode

WORDS = tokenizer.character_level("0123456789+*=#?\\boxed{} \n")
END = WORDS.eos_token_id
TALKS_ON = "3*3=9\n9+1=10\n#### 10\n9+9=18\n9"
PARTS: Any = types.SimpleNamespace(
    tokenizer=WORDS, answered=verifiers.marked, split=steps.split()
)


def ids(text) -> np.ndarray:
    return tokenizer.encode(WORDS, [text])[0]


def answers(*pairs) -> Answers:
    """Pairs of a replayed state and what was said after it."""
    states, said = (
        [ids(text) for text in column] for column in zip(*pairs, strict=True)
    )

    def rows(found):
        width = max(map(len, found))
        return np.stack([np.pad(x, (0, width - len(x))) for x in found]).astype(
            np.int32
        )

    size = np.array([len(x) for x in states], np.int32)
    start = States(
        np.zeros(len(size), np.int32), np.where(size > 0, 7, BARE), rows(states), size
    )
    tokens = rows(said)
    length = np.array([len(x) for x in said], np.int32)
    nothing = np.zeros(tokens.shape, np.float32)
    return Answers(start, tokens, length, nothing, np.ones(len(size), bool))


def test_the_replayed_beginning_counts():
    found = answers(
        ("", TALKS_ON),
        ("3*3=9\n", TALKS_ON[6:]),
        ("", "3*3=9\n9"),
        ("1\n#### 1\n", "2"),
    )
    # Up to the last character before the mark is whole; a state may hold an answer if
    # it is of an archive that knew no better: not one token more is kept then.
    assert online_texts.unanswered(PARTS, found).tolist() == [16, 10, 7, -4]


@pytest.mark.parametrize(
    ("answered", "text", "kept"),
    [
        (verifiers.marked, TALKS_ON, ["3*3=9\n", "3*3=9\n9+1=10\n"]),
        (verifiers.closed_box, "1\n\\boxed{1}\n2\n3", ["1\n"]),
        (verifiers.marked_or_boxed, "1\n\\boxed{1}\n2\n#### 3\n4", ["1\n"]),
        (verifiers.boxed_or_told, "1\n2\n3", ["1\n", "1\n2\n"]),
    ],
)
def test_written_solutions_are_cut_before_their_answer(answered, text, kept):
    problem = Problem("one", "?", "10", text)
    found, wrong = online_texts.seeds_of(
        [problem], WORDS, END, 4, 0.0, lambda pairs: [True] * len(pairs), answered
    )
    said = [
        WORDS.decode(t[:n]) for t, n in zip(found.tokens, found.length, strict=True)
    ]
    assert said == kept and wrong == 0


def test_every_device_of_a_mesh_has_rows():
    text = Episode(
        np.arange(1, 9, dtype=np.int32), np.arange(8) > 3,
        np.where(np.arange(8) > 3, 0, -1).astype(np.int32), 0.0, "", "", 0,
    )  # fmt: skip
    items: list[tuple[Episode, ...]] = [
        (text, text._replace(line=1), text._replace(line=2))
    ]

    def rows(parallel):
        parts: Any = types.SimpleNamespace(
            parallel=parallel, sizes=types.SimpleNamespace(row_tokens=8)
        )
        return online_texts.packed(parts, items, 8, 4)[0].ids.shape

    # A quarter of the 24 texts that a batch may have; eight devices share them evenly.
    assert rows(devices.jit()) == (6, 8)
    assert rows(devices.mesh(8)) == (8, 8)
