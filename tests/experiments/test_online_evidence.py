"""Studies of methods that learn from their own answers: commands, JSONs, tables."""

import json
import pathlib

import pytest

from experiments import border, online_evidence, online_studies, online_tables, study
from rljax.training.files import RunError


def test_every_cell_of_every_study_is_a_command_that_is_accepted():
    out = pathlib.Path("out")
    words = online_evidence.base_job(out).command
    assert border.read_command(words[3:]).config.model.layers == 3
    for name in online_studies.STUDIES:
        for run in study.runs_of(online_studies.STUDIES, name):
            words = online_evidence.run_job(out, run).command
            config = border.read_command(words[3:]).config
            assert config.seed == run.seed and config.model.path == "out/base/hf"
            ends = (config.rollout.tokens, config.rollout.steps)
            if name in ("updates", "gate"):
                assert ends == (0, online_studies.STEPS[0.0])
            else:
                assert ends[0] == online_studies.COMMON["rollout.tokens"] > 0
            assert config.task.to_dict()["operations"] == (5, 5)
            if run.cell in ("rrl_prototype", "prototype_grpo"):
                assert config.replay.share == config.replay.most == 0.95


def test_cells_that_are_compared_differ_in_what_their_name_says():
    cells = online_studies.STUDIES["compare"]
    bare, replayed = cells["ppo"].overrides, cells["rrl"].overrides
    more = {"base", "rollout.steps"}
    more |= {f"replay.{name}" for name in ("share", "most", "state_tokens")}
    assert {k for k, v in replayed.items() if bare.get(k) != v} == more
    for name, key in (("random_cuts", "where"), ("bandit", "choice")):
        other = cells[name].overrides
        assert {k for k, v in other.items() if replayed.get(k) != v} == {
            f"replay.{key}"
        }


def finished(out: pathlib.Path, run: study.Run) -> None:
    folder = study.work_path(out, run)
    (folder / "checkpoints").mkdir(parents=True)
    after = {"arithmetic": 0.5, "arithmetic_pass_1": 0.25, "arithmetic_pass_8": 0.75}
    summary = {
        "after": after, "problems": 8, "ever_solved": 6, "ever_solved_bare": 4,
        "tokens": 300, "answers": 24, "steps": 3, "updates": 3, "train_seconds": 2.5,
    }  # fmt: skip
    asked = {"split": "test", "problems": 0, "pass_k": [1, 8]}
    config = {"eval": asked, "task": {"name": "arithmetic"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps({"config": config, "git": "abc"}))
    rows: list[dict] = [{"tokens": 0, "updates": 0, "eval/test/arithmetic": 0.1}]
    for step, right in enumerate((0.125, None, 0.375), 1):
        rows.append(
            {
                "tokens": 100 * step, "updates": step, "rollout/answers": 8 * step,
                "rollout/ever_solved": 0.25 * step, "rollout/right_bare": right,
            }
        )  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines)


def test_a_finished_run_becomes_a_json_with_its_curve(tmp_path):
    run = study.runs_of(online_studies.STUDIES, "compare", ["rrl"], [2])[0]
    finished(tmp_path, run)
    online_evidence.run_job(tmp_path, run).finish()
    assert study.is_done(tmp_path, run)
    assert not (study.work_path(tmp_path, run) / "checkpoints").exists()
    saved = json.loads(study.json_path(tmp_path, run).read_text())
    assert saved["pass"] == {"1": 0.25, "8": 0.75} and saved["trained_on"] == 8
    assert (saved["after"], saved["git"], saved["seed"]) == (0.5, "abc", 2)
    assert saved["curve"]["answers"] == [8, 16, 24]
    assert saved["curve"]["right_bare"] == [0.125, None, 0.375]


def recorded(folder: pathlib.Path, cell: str, seed: int, **more) -> None:
    curve = {
        "tokens": [100, 200, 300], "updates": [1, 2, 3], "answers": [8, 16, 24],
        "ever_solved": [0.25, 0.5, 0.75], "right_bare": [0.125, None, 0.375],
    }  # fmt: skip
    record = {
        "study": "compare", "cell": cell, "seed": seed, "split": "test", "after": 0.5,
        "pass": {"1": 0.25}, "trained_on": 8, "ever_solved": 6, "ever_solved_bare": 4,
        "curve": curve, **more,
    }  # fmt: skip
    (folder / f"{cell}-seed{seed}.json").write_text(json.dumps(record))


def test_tables_at_the_end_and_at_equal_answers(tmp_path):
    recorded(tmp_path, "ppo", 1)
    short = {
        "tokens": [60, 120], "updates": [1, 2], "answers": [8, 16],
        "ever_solved": [0.5, 1.0], "right_bare": [0.25, 0.75],
    }  # fmt: skip
    recorded(tmp_path, "rrl", 1, curve=short, ever_solved=8)
    text = online_tables.both(online_tables.load(tmp_path), "ppo")
    assert "After 120 to 300 tokens" in text and "After 16 answers" in text
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "
    ]
    assert rows[1] == ["ppo", "1", "0.500", "0.250", "0.750", "0.500"]
    assert rows[2][4] == "1.000; +0.250"
    # Of ppo the first two steps count, and the second had no bare answer.
    assert rows[4] == ["ppo", "1", "200", "2", "0.500", "0.125"]
    assert rows[5][4:] == ["1.000; +0.500", "0.500; +0.375"]


def test_a_cell_of_another_study_comes_in_if_it_was_asked_the_same(tmp_path):
    for study_, cell in (("updates", "rrl"), ("compare", "ppo"), ("compare", "rrl")):
        folder = tmp_path / study_
        folder.mkdir(exist_ok=True)
        recorded(folder, cell, 1, study=study_)
    ours, other = (online_tables.load(tmp_path / n) for n in ("updates", "compare"))
    found = online_tables.beside(ours, other, "ppo")
    assert found == {"rrl": ours["rrl"], "ppo": other["ppo"]}
    for cell in ("rrl", "grpo"):
        with pytest.raises(RunError, match=f"{cell} must be one of ppo, rrl, and none"):
            online_tables.beside(ours, other, cell)
    for more, match in (
        ({"split": "dev"}, "split of ppo is dev, of the others test"),
        ({"trained_on": 9}, "the number of problems of ppo is 9, of the others 8"),
        ({"pass": {"2": 0.5}}, "pass@k of ppo"),
    ):
        recorded(tmp_path / "compare", "ppo", 1, **more)
        (tmp_path / "compare" / "rrl-seed1.json").unlink(missing_ok=True)
        with pytest.raises(RunError, match=match):
            online_tables.beside(ours, online_tables.load(tmp_path / "compare"), "ppo")


def test_what_is_no_record_is_refused(tmp_path):
    with pytest.raises(RunError, match="no CELL-seedN.json"):
        online_tables.load(tmp_path)
    recorded(tmp_path, "ppo", 1)
    with pytest.raises(RunError, match="--baseline=x: there are ppo"):
        online_tables.both(online_tables.load(tmp_path), "x")
    recorded(tmp_path, "rrl", 1, split="dev")
    with pytest.raises(RunError, match="mixes"):
        online_tables.load(tmp_path)
    (tmp_path / "rrl-seed1.json").write_text('{"study": "compare"}')
    with pytest.raises(RunError, match="has no cell, seed, split"):
        online_tables.load(tmp_path)
