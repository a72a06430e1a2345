"""Studies of methods that learn from logs: runs, their order, tables by hand."""

import json
import pathlib
import sys

import numpy as np
import pytest

from experiments import (
    border,
    driver,
    offline_evidence,
    offline_studies,
    offline_tables,
    study,
)
from rljax.training.files import RunError

CELLS = {
    "oreo": study.Cell("oreo", {"level": "step", "task.operations": (3, 4)}, (1, 2)),
    "sft": study.Cell("sft", {"data.tokens": 100}, (2, 3)),
}


@pytest.fixture(autouse=True)
def studied(monkeypatch):
    monkeypatch.setattr(offline_studies, "STUDIES", {"tiny": CELLS})


def runs_of(name, only=(), seeds=()):
    return study.runs_of(offline_studies.STUDIES, name, only, seeds)


def test_runs_go_seed_by_seed():
    found = [(run.cell, run.seed) for run in runs_of("tiny")]
    assert found == [("oreo", 1), ("oreo", 2), ("sft", 2), ("sft", 3)]
    some = runs_of("tiny", only=["sft"], seeds=[3, 3])
    assert [(run.cell, run.seed) for run in some] == [("sft", 3)]


@pytest.mark.parametrize(
    "name, only, seeds, message",
    [
        ("x", [], [], "--study=x: there are tiny"),
        ("tiny", ["x"], [], "--only=x: tiny has oreo, sft"),
        ("tiny", [], [7], r"--seeds=7: tiny has \[1, 2, 3\]"),
    ],
)
def test_what_there_is_not_is_refused(name, only, seeds, message):
    with pytest.raises(RunError, match=message):
        runs_of(name, only, seeds)


def test_every_cell_of_every_study_is_a_command_that_is_accepted(monkeypatch):
    monkeypatch.undo()
    out = pathlib.Path("out")
    for name in offline_studies.STUDIES:
        for run in runs_of(name):
            words = offline_evidence.run_job(out, run).command
            config = border.read_command(words[3:]).config
            assert config.seed == run.seed and config.model.path == "out/base/hf"
            log = f"out/logs/seed{run.seed}/log.jsonl.gz"
            if run.method == "iterate":
                assert config.first_log == log and config.rounds == 3
            else:
                assert config.data.path == ("" if run.method == "sft" else log)
            assert config.eval.split == ("dev" if name == "grid" else "test")


def test_methods_have_grids_of_one_size_that_hold_what_was_chosen():
    methods = offline_studies.METHODS
    assert methods.keys() == offline_studies.CHOSEN.keys()
    for name, tuned in methods.items():
        assert len(tuned.rates) * max(len(tuned.values), 1) == 4
        rate, value = offline_studies.CHOSEN[name]
        assert rate in tuned.rates and value in (tuned.values or (None,))


def test_rounds_become_a_json(tmp_path):
    run = study.Run("rounds", "dpo", "iterate", 1, {"method": "dpo"})
    folder = study.work_path(tmp_path, run)
    written(folder, 0.0)
    rounds = [
        {"tokens": 5, "updates": n, "items": 2, "train_seconds": 0.5, "alarms": [n]}
        for n in (1, 2)
    ]
    success = {"success": [None, 0.5, 0.75], "rounds": rounds}
    (folder / "summary.json").write_text(json.dumps(success))
    kept = folder / "round_2" / "run" / "checkpoints"
    kept.mkdir(parents=True)
    offline_evidence.run_job(tmp_path, run).finish()
    assert not kept.exists()
    saved = json.loads(study.json_path(tmp_path, run).read_text())
    assert (saved["before"], saved["after"]) == (None, 0.75)
    assert saved["by_round"] == [0.5, 0.75] and saved["alarms"] == [1, 2]
    assert [saved[key] for key in offline_evidence.SUMS] == [10, 3, 4, 1.0]


def written(folder: pathlib.Path, after: float) -> None:
    folder.mkdir(parents=True)
    summary = {
        "before": {}, "after": {"arithmetic": after}, "tokens": 120, "updates": 3,
        "items": 40, "train_seconds": 1.5, "alarms": ["far"],
    }  # fmt: skip
    settings = {"eval": {"split": "dev", "problems": 0}, "task": {"name": "arithmetic"}}
    made = {"config": settings, "git": "abc"}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(made))


def test_a_finished_run_becomes_a_json_and_is_not_run_again(tmp_path):
    run = runs_of("tiny")[0]
    written(study.work_path(tmp_path, run), 0.25)
    assert not study.is_done(tmp_path, run)
    offline_evidence.run_job(tmp_path, run).finish()
    assert study.is_done(tmp_path, run)
    saved = json.loads(study.json_path(tmp_path, run).read_text())
    assert (saved["after"], saved["before"], saved["split"]) == (0.25, None, "dev")
    assert saved["sampled"] is None
    assert (saved["cell"], saved["seed"], saved["git"]) == ("oreo", 1, "abc")
    with pytest.raises(RunError, match="has overrides .* asked is"):
        study.is_done(tmp_path, run._replace(overrides={}))
    study.json_path(tmp_path, run).write_text('{"study": "tiny"}')
    with pytest.raises(RunError, match="has cell None, asked is 'oreo'"):
        study.is_done(tmp_path, run)


def test_base_then_logs_then_runs(tmp_path, monkeypatch, capsys):
    asked = []

    class Spy(driver.Driver):
        def all(self, jobs):
            asked.append([job.name for job in jobs])
            for job in jobs:
                written(job.folder, 0.5)
                job.finish()
            return []

    words = ["x", f"--out={tmp_path}", "--study=tiny", "--seeds=2"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(driver, "Driver", Spy)
    monkeypatch.setattr(driver.Driver, "listen", lambda self: None)
    assert offline_evidence.main() == 0
    runs = ["tiny/oreo seed 2", "tiny/sft seed 2"]
    assert asked == [["base"], ["log of seed 2"], runs]
    asked.clear()
    assert offline_evidence.main() == 0
    assert sum(asked, []) == []
    assert "2 runs, 0 of them to do" in capsys.readouterr().out


def test_a_base_of_other_settings_is_refused(tmp_path, monkeypatch):
    settings = {"task.operations": (2, 3), "data.epochs": 6}
    monkeypatch.setattr(offline_studies, "TASK", settings)
    monkeypatch.setattr(offline_studies, "BASE", {})
    job = offline_evidence.base_job(tmp_path)
    study.check_same(job)  # there is none yet
    made = {"task": {"operations": [2, 3]}, "data": {"epochs": 6}}
    job.folder.mkdir()
    path = job.folder / "config.json"
    path.write_text(json.dumps({"config": made}))
    study.check_same(job)
    for group, key, value in (("task", "operations", [2, 4]), ("data", "epochs", 5)):
        other = made | {group: {key: value}}
        path.write_text(json.dumps({"config": other}))
        with pytest.raises(RunError, match=f"made with {group}.{key}="):
            study.check_same(job)
    path.write_text(json.dumps({"config": {"task": made["task"]}}))
    with pytest.raises(RunError, match="data.epochs=None, asked is 6"):
        study.check_same(job)


def test_the_interval_of_three_seeds_by_hand():
    # Mean 2, variance (1 + 0 + 1) / 2 = 1, t of two degrees 4.303.
    found = offline_tables.estimate([1.0, 2.0, 3.0])
    np.testing.assert_allclose(found, [2, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5])
    assert offline_tables.estimate([0.5]).text() == "0.500"
    assert (
        offline_tables.estimate([0.5, 0.5]).text(sign=True) == "+0.500 [0.500, 0.500]"
    )
    with pytest.raises(ValueError, match="11 seeds"):
        offline_tables.estimate([0.0] * 11)


def test_points_of_t_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    found = [stats.t.ppf(0.975, n) for n in range(1, len(offline_tables.T95))]
    np.testing.assert_allclose(offline_tables.T95[1:], found, atol=5e-4)


def recorded(folder, cell, seed, after, sampled=None):
    record = {
        "sampled": sampled,
        "study": "tiny", "cell": cell, "seed": seed, "after": after, "split": "test",
        "problems": 0, "tokens": 1000, "updates": 9, "items": 5, "alarms": [],
    }  # fmt: skip
    (folder / f"{cell}-seed{seed}.json").write_text(json.dumps(record))


def test_a_table_is_sorted_and_paired_by_seed(tmp_path):
    for cell, seed, after in [
        ("oreo", 1, 0.6), ("oreo", 2, 0.8), ("sft", 1, 0.5), ("sft", 2, 0.6)
    ]:  # fmt: skip
        recorded(tmp_path, cell, seed, after, after / 2 if cell == "oreo" else None)
    runs = offline_tables.load(tmp_path)
    lines = offline_tables.table(runs, "sft").splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert [row[0] for row in cells[2:]] == ["oreo", "sft"]
    # Differences 0.1 and 0.2: 0.15 +- 12.706 * 0.0707 / 1.414 = 0.6353.
    assert cells[2][3] == "+0.150 [-0.485, 0.785]"
    assert cells[2][1:3] == ["1 2", "0.700 [-0.571, 1.971]"]
    assert cells[2][4] == "0.350 [-0.285, 0.985]" and cells[3][4] == ""
    with pytest.raises(RunError, match="--baseline=dpo: there are oreo, sft"):
        offline_tables.table(runs, "dpo")
    with pytest.raises(RunError, match="no CELL-seedN.json"):
        offline_tables.load(tmp_path / "none")


def test_tables_are_written_or_refused_in_words(tmp_path, monkeypatch, capsys):
    def made(*more):
        words = ["x", f"--dir={tmp_path}", *more]
        monkeypatch.setattr(sys, "argv", words)
        return offline_tables.main(), capsys.readouterr()

    recorded(tmp_path, "oreo", 1, 0.5)
    code, said = made(f"--out={tmp_path / 'new' / 'docs'}")
    assert code == 0
    written = (tmp_path / "new" / "docs" / "oreo_tiny.md").read_text()
    assert written.startswith("# tiny\n") and written.endswith(said.out)
    other = tmp_path / "sac-seed1.json"
    for text, message in (
        ('{"study": "compare", "cell": "sac", "seed": 1}', "has no split, problems"),
        ('{"study"', "sac-seed1.json cannot be read"),
    ):
        other.write_text(text)
        code, said = made()
        assert code == 2 and message in said.err
    other.unlink()
    for seed in range(2, 12):
        recorded(tmp_path, "oreo", seed, 0.5)
    code, said = made()
    assert code == 2 and "11 seeds; an interval is made of 1 to 10" in said.err
