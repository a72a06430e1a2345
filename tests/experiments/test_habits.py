"""Where careless writers go wrong, counted by hand."""

import json

import pytest

from experiments import habits


def written(folder, *rows):
    path = folder / "log.jsonl"
    lines = [
        {"prompt": f"{expression}=?\n", "response": said, "reward": reward,
         "task": f"arithmetic/{expression}"}
        for expression, said, reward in rows
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_answers_are_counted_by_hand(tmp_path, capsys):
    path = written(
        tmp_path,
        ("2+3*3", "3*3=9\n2+9=11\n#### 11", 1),
        ("2+3*3", "3*3=8\n2+8=10\n#### 10", 0),
        ("2+3*3", "2+3=5\n5*3=15\n#### 15", 0),
        ("2*3+3", "2*3=6\n6+3=9\n#### 9", 1),
        ("0+2*1", "2*1=2\n0+2=2\n#### 2", 1),  # worth the same either way
    )
    assert habits.main([f"--data={path}"]) == 0
    head, plain, misread = capsys.readouterr().out.splitlines()
    assert head.split() == "problems answers right begun right of begun".split()
    assert plain.split() == ["plain", "2", "1.000", "0.500", "1.000"]
    assert misread.split() == ["misread", "3", "0.333", "0.667", "0.500"]


def test_a_kind_without_answers_has_no_shares(tmp_path, capsys):
    path = written(tmp_path, ("2+3", "2+3=5\n#### 5", 1))
    assert habits.main([f"--data={path}"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "misread",
        "0",
        "-",
        "-",
        "-",
    ]


@pytest.mark.parametrize("task", ["gsm8k/1", "arithmetic/2", "arithmetic/2+"])
def test_other_logs_are_refused_by_line(tmp_path, capsys, task):
    path = tmp_path / "log.jsonl"
    row = {"prompt": "a", "response": "b", "reward": 1, "task": task}
    path.write_text(json.dumps(row) + "\n")
    assert habits.main([f"--data={path}"]) == 2
    assert f"line 1 is no answer to arithmetic: '{task}'" in capsys.readouterr().err
    assert habits.main([f"--data={tmp_path / 'none'}"]) == 2
