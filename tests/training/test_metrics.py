"""metrics.jsonl through writes, kills and resumes; the final table."""

import json
import math

import jax.numpy as jnp
import pytest

from rljax.training import metrics
from rljax.training.files import RunError


def row(updates: int, **values) -> metrics.Row:
    return {"env_steps": 32 * updates, "updates": updates, **values}


def updates_in(folder) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["updates"] for line in lines]


def write(folder, resumed, *updates):
    writer = metrics.Writer(folder, resumed, total_steps=1000)
    for update in updates:
        writer.write(row(update, **{"train/loss": 1.0 / (update + 1)}))
    writer.close()


def test_one_line_for_each_update(tmp_path):
    write(tmp_path, None, 0, 2, 4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"env_steps": 0, "updates": 0, "train/loss": 1.0},
        {"env_steps": 64, "updates": 2, "train/loss": 1 / 3},
        {"env_steps": 128, "updates": 4, "train/loss": 0.2},
    ]
    assert list((tmp_path / "tb").glob("events.*"))


def test_a_resume_rewrites_what_came_after(tmp_path):
    write(tmp_path, None, 0, 2, 4, 6)
    write(tmp_path, 3, 4, 6, 8)
    assert updates_in(tmp_path) == [0, 2, 4, 6, 8]
    write(tmp_path, None, 0, 2)  # started anew: nothing is left
    assert updates_in(tmp_path) == [0, 2]


def test_a_half_written_last_line_is_dropped(tmp_path):
    write(tmp_path, None, 0, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 128, "upda')
    assert [r["updates"] for r in metrics.read_rows(tmp_path / "metrics.jsonl")] == [
        0,
        2,
    ]
    write(tmp_path, 2, 4)
    assert updates_in(tmp_path) == [0, 2, 4]


def test_a_bad_line_elsewhere_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 0, "updates": 0}\nrubbish\n{"updates": 2}\n')
    with pytest.raises(RunError, match="metrics.jsonl, line 2: not a row: 'rubbish'"):
        metrics.read_rows(path)


def test_an_update_is_written_once(tmp_path):
    writer = metrics.Writer(tmp_path, None, total_steps=1000)
    writer.write(row(2))
    with pytest.raises(ValueError, match="row of update 2 after one of 2"):
        writer.write(row(2))
    writer.close()


def test_what_is_not_finite_is_null(tmp_path):
    writer = metrics.Writer(tmp_path, None, total_steps=1000)
    writer.write(row(2, **{"train/loss": math.nan, "critic/q": math.inf}))
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text)["train/loss"] is None and "NaN" not in text
    write(tmp_path, 2, 4)  # and the null is read back
    assert updates_in(tmp_path) == [2, 4]


def test_numbers_are_plain():
    got = metrics.numbers({"a": jnp.int32(3), "b": jnp.bfloat16(0.5), "c": 1.5})
    assert got == {"a": 3, "b": 0.5, "c": 1.5}
    assert [type(v) for v in got.values()] == [int, float, float]


def test_progress_without_a_terminal_is_plain_lines(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    writer = metrics.Writer(tmp_path, None, total_steps=64_000)
    for updates, now[0] in ((10, 0.0), (20, 5.0), (1010, 20.0)):
        writer.progress(row(updates, **{"rollout/success": updates / 2000}))
    writer.close()
    # Second line: too soon. Third: 32,000 steps in 20 s; 31,680 are left.
    assert capsys.readouterr().out.splitlines() == [
        "update 10 | 320 of 64,000 steps | success 0.01",
        "update 1,010 | 32,320 of 64,000 steps | success 0.51"
        " | 1,600 steps/s | 0:19 left",
    ]


def test_progress_on_a_terminal_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(metrics.sys.stderr, "isatty", lambda: True, raising=False)
    writer = metrics.Writer(tmp_path, None, total_steps=64_000)
    writer.progress(row(1000, **{"rollout/success": 0.5}))
    writer.say("a line above the bar")
    writer.close()
    shown = capsys.readouterr().err
    assert "update 1,000, success 0.50" in shown and "50%" in shown
    assert "a line above the bar" in shown


def test_a_silent_writer_leaves_nothing(tmp_path, capsys):
    writer = metrics.Writer(tmp_path, None, total_steps=1000, silent=True)
    writer.write(row(2))
    writer.progress(row(2))
    writer.say("hello")
    writer.close()
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "seconds, shown", [(0, "0:00"), (61.9, "1:01"), (3723, "1:02:03"), (-1, "0:00")]
)
def test_clock(seconds, shown):
    assert metrics.clock(seconds) == shown


def test_panels():
    found = metrics.panels(
        {"eval/test/grow": 0.5, "eval/test/grasp": 1.0, "eval/x": 1, "timing_s/eval": 2}
    )
    assert found == {"test": {"grow": 0.5, "grasp": 1.0}}


def test_final_table():
    table = metrics.final_table(
        {"grasp": 0.25}, {"grasp": 0.2}, {"grasp": 0.9, "grow": 1}
    )
    assert table.splitlines() == [
        "goal kind  random  before   after",
        "grasp       0.250   0.200   0.900",
        "grow            -       -   1.000",
    ]


def test_summary(tmp_path):
    path = tmp_path / "summary.json"
    maps = {"grasp": 0.1}, {"grasp": 0.2}, {"grasp": 0.9}
    metrics.write_summary(path, *maps, 12.34567, 640, 20, more={"panel": "train"})
    assert json.loads(path.read_text()) == {
        "panel": "train",
        "random": {"grasp": 0.1},
        "before": {"grasp": 0.2},
        "after": {"grasp": 0.9},
        "train_seconds": 12.346,
        "env_steps": 640,
        "updates": 20,
    }
