"""States as trees, in the order in which replay helped, on a page that escapes."""

import html.parser
import types
from typing import Any

import numpy as np
import pytest

from rljax.agents.rrl import Memory
from rljax.envs.reasoning.problems import Problem
from rljax.replay import archive as archive_lib
from rljax.replay import bandit, cells, schedule
from rljax.training import archive_page, archive_tree
from rljax.training.archive_page import Facts
from rljax.training.online_parts import Host
from tests.data.test_archive_file import END, WORDS, ids
from tests.replay.archiving import proposals

PROBLEMS = [
    Problem("sums/0", "1+2=\n", "3", "1+2=3\n3"),
    Problem("sums/<b>", "4+5=\n", "9"),
    Problem("sums/2", "6=\n", "6"),
    Problem("sums/3", "7=\n", "7"),
]
PARTS: Any = types.SimpleNamespace(
    problems=PROBLEMS, prompts=[ids(p.prompt) for p in PROBLEMS], tokenizer=WORDS
)


@pytest.fixture(scope="module")
def host():
    """After step 30. Problem 1 was solved from a state alone, 0 from both."""
    given = proposals(
        (0, ids("3\n"), 0.25), (0, ids("3\n0\n"), 0.5), (0, ids("3\n0\n+\n"), 0.75),
        (0, ids("3\n1\n"), 0.125), (0, ids("4\n"), 0.375), (1, ids("9\n"), 0.625),
    )  # fmt: skip
    archive = cells.empty(np.full(4, 12), 6, 12)
    archive, _ = archive_lib.add(archive, given, 10, end_ids=[END])
    archive.tries[0, :3], archive.solves[0, :3] = [8, 4, 2], [4, 1, 0]
    archive.visits[0, 0] = 2
    archive.mark[0, 4], archive.origin[0, 3] = cells.FORBIDDEN, cells.CANONICAL
    history = schedule.no_history(4, 2)
    for problem, right in ((0, [True, False, False]), (1, [False]), (3, [True])):
        history = schedule.note(history, np.full(len(right), problem), np.array(right))
    return Host(
        history=history,
        solved=np.array([True, True, False, True]),
        replayed=np.array([[14, 5], [4, 1], [2, 0], [0, 0]]),
        counts=np.array([30, 100, 1000]),
        memory=Memory(archive, bandit.init(archive)),
        taken=np.array(0),
    )


def test_a_state_hangs_below_the_longest_it_begins_with(host):
    told = {one.name: one for one in archive_tree.problems_of(PARTS, host)}["sums/0"]
    top, other = told.states
    assert (top.text, other.text) == ("3\n", "4\n")  # right answers come first
    assert (top.cell, top.tokens, top.score, top.age) == (0, 2, 0.25, 20)
    assert (top.visits, top.tries, top.solves) == (2, 8, 4)
    assert [one.text for one in top.below] == ["0\n", "1\n"]
    (last,) = top.below[0].below
    assert (last.text, last.tokens) == ("+\n", 6)
    assert (other.mark, top.below[1].origin) == ("forbid", "canonical")
    assert [one.cell for one in archive_tree.each(told.states)] == [0, 1, 2, 3, 4]
    assert told.bare == (3, 1) and told.recent == 0.0 and told.again == (14, 5)


def test_problems_come_in_the_order_in_which_replay_helped(host):
    told = archive_tree.problems_of(PARTS, host)
    assert [one.name for one in told] == ["sums/<b>", "sums/0", "sums/2", "sums/3"]
    assert [one.only_again for one in told] == [True, False, False, False]


class Reader(html.parser.HTMLParser):
    """Collects tags and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.said, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data):
        self.said.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_tells_all_and_needs_nothing(host):
    told = archive_tree.problems_of(PARTS, host)
    page = archive_page.page(Facts("Replay in <x>", "after step 30"), told, 30)
    seen = read(page)
    text = "".join(seen.said)
    assert not seen.links and "http" not in page and "@import" not in page
    assert "sums/<b>" in text and "b" in seen.tags  # the page's own
    assert "<b>sums/&lt;b&gt;</b>" in page and "Replay in &lt;x&gt;" in page
    assert "sums/2" in text and "sums/3" not in text  # nothing is to be told of it
    for words in ("solved only from a state", "4 of 8", "3 grew from it", "forbidden"):
        assert words in text
    assert text.index("sums/<b>") < text.index("sums/0") < text.index("sums/2")
    assert "5 of 14 right" in text and "1 of 3 right" in text
    assert "3\n3" in text.replace("\u21b5", "")  # the written solution


def test_more_problems_than_are_shown_are_counted(host):
    told = archive_tree.problems_of(PARTS, host)
    page = archive_page.page(Facts("x", ""), told, 1)
    assert "the first 1 of 3 with states" in page and "sums/0" not in page


def test_a_run_that_kept_nothing_has_a_page(host):
    told = archive_tree.problems_of(PARTS, host)[3:]
    page = archive_page.page(Facts("x", ""), told, 30)
    assert "No state was kept so far" in page and 'id="find"' not in page


def test_a_policy_cannot_write_markup(host):
    bad = "<script>alert(1)</script>&\n"
    state = archive_tree.State(0, bad, 1, np.nan, 0, 0, 0, 0, "rollout", "", [])
    told = archive_tree.Told(bad, bad, bad, bad, False, (0, 0), None, (0, 0), [state])
    page = archive_page.page(Facts(bad, bad), [told], 1)
    assert read(page).tags.count("script") == 2  # the page's own
    assert "alert(1)</" not in page
