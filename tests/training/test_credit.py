"""Credit by hand, and a page that a log cannot break."""

import functools
import html.parser
import json
from typing import Any

import numpy as np
import pytest

from rljax.agents.offline import Reading
from rljax.text import tokenizer as tokenizers
from rljax.training import credit, credit_page
from rljax.types import Episode

TOKENS = tokenizers.character_level("ab<>/&'\" \n=1")


def episode(prompt, said, reward=1.0, step=None, line=1, task="t", between=()):
    ids = [TOKENS.convert_tokens_to_ids(c) for c in prompt + said]
    action = np.array([False] * len(prompt) + [True] * len(said))
    for place in between:
        action[place] = False
    numbers = np.full(len(ids), -1, np.int32)
    numbers[action] = 0 if step is None else step
    return Episode(np.array(ids, np.int32), action, numbers, reward, task, "s", line)


def reading(value, log_prob: Any = None, filling=0) -> Any:
    value = np.array([*value, *[9.0] * filling], np.float32)
    low = np.full(len(value), -1.0, np.float32) if log_prob is None else log_prob
    low = np.array([*low, *[0.0] * (len(value) - len(low))], np.float32)
    half = np.float32(-0.5)
    columns: list[Any] = [low, low * half, low * half, low * 0 - 1, value]
    return Reading(*columns)


def make(said="a=1\nb", value=(0.5, 0.6, 0.4, 0.4, 0.9), reward=1.0, **more):
    step = more.pop("step", [0, 0, 0, 0, 1])
    log_prob = more.pop("log_prob", None)
    known = more.pop("known", credit.each_token)
    found = episode("a ", said, reward, step, **more)
    return credit.answer(found, reading(value, log_prob, 3), TOKENS, True, known)


def test_credits_add_up_to_the_reward_less_the_first_value():
    one = make()
    np.testing.assert_allclose(
        one.columns["advantage"], [0.1, -0.2, 0.0, 0.5, 0.1], atol=1e-6
    )
    assert one.columns["advantage"].sum() == pytest.approx(1.0 - 0.5)
    # Steps have the value's changes; what the last value missed belongs to none.
    assert [step.change for step in one.steps] == pytest.approx([0.4, 0.0])
    assert one.surprise == pytest.approx(0.1)
    assert [step.start for step in one.steps] == pytest.approx([0.5, 0.9])
    assert [(step.first, step.stop) for step in one.steps] == [(0, 4), (4, 5)]
    assert one.tokens == ["a", "=", "1", "\n", "b"]
    assert one.prompt == "a "


def test_a_value_learnt_where_steps_begin_is_held_within_them():
    steps = {"said": "a=1\nb=", "value": (0.5, 0.6, 0.4, 0.4, 0.9, 0.2)}
    one = make(**steps, step=[0, 0, 0, 0, 1, 1], known=credit.each_step)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    close(one.columns["value"], [0.5, 0.5, 0.5, 0.5, 0.9, 0.9])
    close(one.columns["advantage"], [0, 0, 0, 0.4, 0, 0.1])
    assert [step.change for step in one.steps] == pytest.approx([0.4, 0.0])
    assert one.surprise == pytest.approx(0.1)
    one = make(**steps, step=[0, 0, 0, 0, 1, 1], known=credit.each_answer)
    close(one.columns["value"], [0.5] * 6)
    assert [step.change for step in one.steps] == pytest.approx([0.0, 0.0])
    assert one.surprise == pytest.approx(0.5)


def test_log_ratios_are_to_the_reference():
    one = make(log_prob=[-3.0, -1.0, -0.5, -2.0, -1.0])
    np.testing.assert_allclose(one.columns["log_ratio"], [-2, 0, 0.5, -1, 0])
    without = credit.answer(
        episode("a", "bb", step=[0, 0]), reading([0.1, 0.2]), TOKENS, False
    )
    assert "log_ratio" not in without.columns
    assert "kl" not in without.columns


def test_words_of_others_have_no_number_and_no_credit():
    found = episode("a", "b11b", 0.0, [0, 1], between=(2, 3))
    one = credit.answer(found, reading([0.7, 0.2]), TOKENS, True)
    assert np.isnan(one.columns["value"][1:3]).all()
    np.testing.assert_allclose(
        one.columns["advantage"][[0, 3]], [-0.5, -0.2], atol=1e-6
    )
    assert [step.change for step in one.steps] == pytest.approx([-0.5, 0.0])


def test_without_a_value_steps_are_ranked_by_log_ratio():
    bare = reading([0, 0, 0, 0, 0], [-3.0, -1.0, -0.5, -2.0, -1.5])
    one = credit.answer(
        episode("a", "a=1\nb", step=[0, 0, 0, 0, 1]),
        bare._replace(value=None), TOKENS, True,
    )  # fmt: skip
    assert credit.credit_column(one.columns) == "log_ratio"
    assert [step.change for step in one.steps] == pytest.approx([-2.5, -0.5])
    assert one.surprise is None
    assert credit.ranked([one]) == [(0, 0), (0, 1)]


def test_a_reading_too_short_is_refused():
    with pytest.raises(ValueError, match="line 1 has 2 actions and a reading of 1"):
        credit.answer(episode("a", "bb", step=[0, 0]), reading([1.0]), TOKENS, True)


def test_problems_with_right_and_wrong_answers_come_first():
    log = [
        episode("a", "b", reward, task=task)
        for task, reward in [("x", 0), ("y", 1), ("y", 0), ("x", 0), ("y", 1), ("z", 1)]
    ]
    assert credit.choose(log, 2, 1) == [[1, 2], [0]]
    assert credit.choose(log, 9, 5) == [[1, 4, 2], [0, 3], [5]]


def test_scales_are_even_about_0_and_never_empty():
    found = credit.scales([make(), make(value=(0, 0, 0, 0, 0), reward=0.0)])
    low, high = found["advantage"]
    assert low == -high < 0
    assert all(low < high for low, high in found.values())
    flat = credit.scales([make(value=(1, 1, 1, 1, 1))])
    assert all(low < high for low, high in flat.values())


class Page(html.parser.HTMLParser):
    """Tags that are open, texts, and anything that would load or run."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.bad, self.scripts = [], [], [], []
        self.counted = {}

    def handle_starttag(self, tag, attrs):
        self.counted[tag] = self.counted.get(tag, 0) + 1
        for name, value in attrs:
            if name in ("src", "href", "srcset") or name.startswith("on"):
                self.bad.append((tag, name, value))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.texts).append(data)


def test_the_page_is_whole_and_says_nothing_that_a_log_could_run():
    nasty = "</script><b>&'\"</b>".replace("script", "a")
    numbers = [0] * len(nasty)
    some = [
        make(said=nasty, value=[0.5] * len(nasty), step=numbers, task="<i>&"),
        make(reward=0.0, line=2, task="<i>&"),
    ]
    facts = credit_page.Facts("<title>", ("<line>",))
    page = Page()
    text = credit_page.page(facts, some, [[0, 1]])
    page.feed(text)
    assert page.open == []
    assert not page.bad
    assert "@import" not in text and "http" not in text
    shown = "".join(page.texts)
    for said in ("<title>", "<line>", "<i>&"):
        assert said in shown
    assert page.counted["article"] == 2
    assert page.counted["i"] >= len(nasty) + 5
    data = json.loads(next(s for s in page.scripts if s.startswith("{")))
    assert data["answers"][0]["columns"]["value"][0] == 0.5
    assert data["answers"][1]["step"] == [1, 1, 1, 1, 2]
    assert [column["name"] for column in data["columns"]] == list(credit.COLUMNS)


def test_numbers_that_are_no_numbers_are_written_as_none():
    found = episode("a", "b11b", 0.0, [0, 1], between=(2, 3))
    one = credit.answer(found, reading([0.7, 0.2]), TOKENS, True)
    text = credit_page.page(credit_page.Facts("x", ()), [one], [[0]])
    assert '"value":[0.7,null,null,0.2]' in text
    assert "NaN" not in text
