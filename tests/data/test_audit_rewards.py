"""Rewards: intervals against scipy and a published example, biases planted."""

import ast
import pathlib

import numpy as np
import pytest
from scipy import stats

from rljax.data import audit_rewards as ours
from rljax.types import GOOD
from tests.data import auditing
from tests.data.auditing import look, save

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(("right", "total"), [(0, 5), (5, 5), (3, 10), (700, 1000)])
def test_share_against_scipy(right, total):
    want = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert ours.wilson(right, total) == pytest.approx(tuple(want), abs=1e-6)


def test_difference_as_published():
    """Newcombe 1998, table II, example (a), method 10."""
    found = ours.difference((56, 70), (48, 80))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert ours.difference((0, 10), (10, 10))[1] >= -1


def test_correlation_against_scipy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=50)
    y = x + rng.normal(size=50)
    want = stats.pearsonr(x, y)
    low, high = want.confidence_interval()
    found = ours.correlation(x, y)
    assert found == pytest.approx((want.statistic, low, high), abs=1e-6)
    assert ours.correlation(x, np.ones(50)) is None
    assert ours.correlation(x[:3], y[:3]) is None
    assert ours.correlation(x, 2 * x) == pytest.approx((1, 1, 1), abs=1e-3)


def kinds(result):
    return {finding.kind: finding for finding in result.findings}


def grown(tasks, attempts, response, reward, **more):
    """A log; `response` and `reward` are functions of task and attempt."""
    return [
        {
            "prompt": f"question {task}?", "response": response(task, attempt),
            "reward": int(reward(task, attempt)),
            **{key: make(task, attempt) for key, make in more.items()},
        }
        for task in range(tasks)
        for attempt in range(attempts)
    ]  # fmt: skip


def test_long_answers_that_win(tmp_path):
    rows = grown(10, 8, lambda t, a: " b" * (a + 1), lambda t, a: a >= 4)
    found = kinds(look(save(tmp_path / "log", rows)))["length bias"]
    assert found.severity == "warning"
    length = np.tile(np.arange(8), 10)
    r = stats.pearsonr(length, length >= 4).statistic
    assert f"correlation {r:+.2f} (" in found.text
    assert "right are 0.0 % of the shortest attempts and 100.0 % of" in found.text


def test_hard_tasks_with_long_answers_are_told_from_it(tmp_path):
    """Length goes with success between tasks only: inside tasks it does not."""
    rows = grown(
        20, 8, lambda t, a: " b" * (t + 1 + 10 * (a // 4)),
        lambda t, a: t < 10 if a % 4 else t >= 10,
    )  # fmt: skip
    found = kinds(look(save(tmp_path / "log", rows)))["length bias"]
    assert found.severity == "warning" and ", inside tasks +0.00 (" in found.text


def test_length_says_nothing(tmp_path):
    rows = grown(20, 8, lambda t, a: " b" * (a // 2 + 1), lambda t, a: a % 2)
    assert kinds(look(save(tmp_path / "log", rows)))["length bias"].severity == "note"


def test_a_source_that_wins(tmp_path):
    rows = grown(
        20, 4, lambda t, a: f" b{a}", lambda t, a: a == 0 or t % 4 == 0,
        source=lambda t, a: "good" if a == 0 else "rest" if a < 3 else "",
    )  # fmt: skip
    result = look(save(tmp_path / "log", rows))
    found = [f for f in result.findings if f.kind == "source bias"]
    assert [f.count for f in found] == [20, 40]
    (good,) = [f for f in found if "'good'" in f.text]
    assert good.places == tuple((0, line) for line in range(1, 81, 4))
    assert "100.0 % of 20 right, 25.0 % of the other 60" in good.text
    gap, low, high = ours.difference((20, 20), (15, 60))
    assert (
        f"{100 * gap:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})" in good.text
    )
    (table,) = [t for t in result.tables if t.title == "Success by source"]
    assert [row[:3] for row in table.rows] == [
        ("(none)", 20, 5), ("good", 20, 20), ("rest", 40, 10),
    ]  # fmt: skip


def test_tasks_are_named_the_worst_first(tmp_path):
    rows = grown(
        12, 4, lambda t, a: f" b{a}", lambda t, a: a < min(t, 4),
        task=lambda t, a: f"task {t}",
    )  # fmt: skip
    result = look(save(tmp_path / "log", rows[::-1]))
    told = kinds(result)["worst tasks"]
    assert (told.severity, told.count) == ("note", 4)
    assert told.text.endswith(
        "the worst first: task 0 (0 of 4 right, line 45), task 1 (1 of 4 right, line "
        "41), task 2 (2 of 4 right, line 37), task 3 (3 of 4 right, line 33)"
    )
    (table,) = [t for t in result.tables if t.title == "Success by task"]
    assert len(table.rows) == 12
    assert table.rows[1][:5] == ("task 1", "line 41", 4, 1, 0.25)
    assert table.rows[1][5:] == ours.wilson(1, 4)
    halves = [row | {"task": f"t{n // 4:02}"} for n, row in enumerate(rows * 2)]
    logs = [save(tmp_path / "a", halves[:48]), save(tmp_path / "b", halves[48:])]
    result = look(logs)
    (table,) = [t for t in result.tables if t.title == "Success by task"]
    assert table.rows[1][:2] == ("t12", f"{logs[1]}, line 1")
    few = [row | {"reward": 0} for row in halves]
    text = kinds(look(save(tmp_path / "c", few)))["worst tasks"].text
    assert text.count("of 4 right") == 8 and text.endswith(", and 16 more")
    every = [row | {"reward": 1} for row in rows]
    assert "worst tasks" not in kinds(look(save(tmp_path / "d", every)))


def test_tables_count_everything(tmp_path):
    rows = auditing.clean()
    result = look(save(tmp_path / "log", rows))
    tables = {table.title: table.rows for table in result.tables}
    assert tables["Rewards"] == (("0", 20, 0.5), ("1", 20, 0.5))
    assert {row[0]: row[1] for row in tables["Tasks by share right"]}[
        "50 to 75 %"
    ] == 10
    for title in ("Success by length", "Success by source"):
        assert sum(row[1] for row in tables[title]) == 40
        assert sum(row[2] for row in tables[title]) == 20
    many = [row | {"reward": i / 39} for i, row in enumerate(rows)]
    result = look(save(tmp_path / "log", many))
    (table,) = [t for t in result.tables if t.title == "Rewards"]
    assert len(table.rows) == 10 and sum(row[1] for row in table.rows) == 40


def test_what_is_right_is_what_training_takes_for_right(tmp_path):
    rows = [row | {"reward": row["reward"] * GOOD} for row in auditing.clean()]
    found = kinds(look(save(tmp_path / "log", rows)))
    assert found["no success"].severity == "error"
    assert found["no success"].text.startswith("no attempt has a reward above 0.5:")
    rows[1] |= {"reward": 0.6, "truncated": True}
    found = kinds(look(save(tmp_path / "log", rows)))
    assert (
        "2.5 % of attempts are right (a reward above 0.5)" in found["reward range"].text
    )
    assert "1 of them with a reward above 0.5" in found["cut short"].text


def own_thresholds(source):
    """Lines that compare a reward with a number other than 0 and 1 exactly."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Compare)
        and not isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.In | ast.NotIn)
        and ast.unparse(node.left).endswith("reward")
        and isinstance(node.comparators[0], ast.Constant)
    ]


def test_one_threshold_for_all():
    assert own_thresholds("a = row.reward > 0\nb = reward >= 0.5") == [1, 2]
    found = {
        str(path): own_thresholds(path.read_text())
        for folder in ("rljax", "experiments")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert [path for path, lines in found.items() if lines] == []
