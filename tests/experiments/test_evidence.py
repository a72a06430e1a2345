"""Studies: which runs there are and what is made of their curves, by hand."""

import json
import pathlib
import sys

import numpy as np
import pytest
from ml_collections import config_dict

from experiments import border, compare_curves, driver, evidence
from experiments.compare_curves import Curve
from rljax.training.files import RunError


def record(cell="ppo", seed=1, success=(0.0, 0.4, 1.0), second_per_step=0.1, **more):
    """A run evaluated after 0, 100 and 200 environment steps."""
    curve = [
        {
            "env_steps": 100 * i,
            "seconds": 100 * i * second_per_step,
            "updates": 25 * i,
            "success": {"grasp": y, "grow": y / 2, "mean": 0.75 * y},
            "test_success": {},
        }
        for i, y in enumerate(success)
    ]
    return {
        "study": "compare", "cell": cell, "method": cell.split("_")[0], "seed": seed,
        "scale": "smoke", "overrides": {}, "total_env_steps": None, "curve": curve,
        "summary": {}, "devices": {"kind": "cpu", "count": 1}, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two seeds of two cells; the second is twice as slow by the clock."""
    records = [
        record("ppo", 1),
        record("ppo", 2, (0.0, 0.2, 0.6)),
        record("sac_her", 1, (0.0, 0.9, 1.0), 0.2),
        record("sac_her", 2, (0.0, 0.7, 1.0), 0.2),
    ]
    for each in records:
        path = tmp_path / f"{each['cell']}-seed{each['seed']}.json"
        path.write_text(json.dumps(each))
    return tmp_path


LINE = Curve(np.array([0.0, 100.0, 200.0]), np.array([0.0, 0.4, 1.0]))


def test_a_level_is_reached_on_the_line_between_evaluations():
    # From 0.4 at 100 to 1.0 at 200: 0.5 a sixth of the way, 0.8 two thirds.
    np.testing.assert_allclose(compare_curves.first_at(LINE, 0.5, 200), 100 + 100 / 6)
    np.testing.assert_allclose(compare_curves.first_at(LINE, 0.8, 200), 100 + 200 / 3)
    assert compare_curves.first_at(LINE, 0.4, 200) == 100
    assert compare_curves.first_at(LINE, 0.0, 200) == 0


def test_a_level_beyond_the_budget_is_not_reached():
    assert compare_curves.first_at(LINE, 0.8, 166) == np.inf
    assert compare_curves.first_at(LINE, 1.01, 200) == np.inf


def test_the_first_crossing_counts_though_success_falls_again():
    line = Curve(np.array([0.0, 10.0, 20.0, 30.0]), np.array([0.0, 0.6, 0.2, 0.9]))
    np.testing.assert_allclose(compare_curves.first_at(line, 0.3, 30), 5)


def test_area_is_the_mean_success_over_the_budget():
    # Trapezoids: 100 * 0.2 + 100 * 0.7 = 90 over 200.
    np.testing.assert_allclose(compare_curves.area(LINE, 200), 0.45)
    # To 150, where the line is at 0.7: 20 + 50 * 0.55 = 47.5 over 150.
    np.testing.assert_allclose(compare_curves.area(LINE, 150), 47.5 / 150)
    # A first evaluation at 50 stands for what is before it.
    late = Curve(np.array([50.0, 100.0]), np.array([0.2, 0.4]))
    np.testing.assert_allclose(compare_curves.area(late, 100), (10 + 15) / 100)


def test_the_interval_of_two_seeds_is_known():
    # Means of two draws from {0, 1}: 0 and 1 with chance 1/4 each, 1/2 with 1/2. So
    # the 2.5th and 97.5th percentiles are 0 and 1.
    assert compare_curves.bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert compare_curves.bootstrap([0.3]) == (0.3, 0.3, 0.3)


def test_the_interval_is_near_that_of_normal_theory():
    values = np.random.default_rng(1).normal(size=200)
    mean, low, high = compare_curves.bootstrap(values)
    half = 1.96 * values.std() / np.sqrt(200)
    np.testing.assert_allclose([low, high], [mean - half, mean + half], atol=0.01)


def test_a_band_is_the_interval_of_every_point():
    curves = np.random.default_rng(2).random((5, 3))
    low, high = compare_curves.band(curves)
    for point in range(3):
        alone = compare_curves.bootstrap(curves[:, point])
        np.testing.assert_allclose([low[point], high[point]], alone[1:])


def test_a_seed_that_never_reaches_makes_a_lower_bound():
    assert compare_curves.reach_text([100.0, np.inf], 200) == "> 150 [100, 200] (1/2)"
    assert compare_curves.reach_text([np.inf, np.inf], 200) == "> 200 (0/2)"
    assert compare_curves.reach_text([100.0, 100.0], 200) == "100 [100, 100]"


def test_budgets_are_what_all_runs_have(folder):
    runs = compare_curves.load(folder)
    assert list(runs) == ["ppo", "sac_her"]
    assert [r["seed"] for r in runs["sac_her"]] == [1, 2]
    assert compare_curves.common_budget(runs, "env_steps") == 200
    assert compare_curves.common_budget(runs, "seconds") == 20


def test_tables_at_equal_steps_and_at_equal_time(folder):
    runs = compare_curves.load(folder)
    by_steps = _cells(compare_curves.table(runs, "env_steps"))
    # ppo: 0.5 at 116.67 and at 100 + 100 * 0.3 / 0.4 = 175; 0.8 in one seed, at 166.67.
    assert by_steps["grasp", "ppo"][3:5] == [
        "146 [117, 175]",
        "> 183 [167, 200] (1/2)",
    ]
    # Areas 0.45 and (100 * 0.1 + 100 * 0.4) / 200 = 0.25.
    assert by_steps["grasp", "ppo"][5:] == [
        "0.35 [0.25, 0.45]", "0.80 [0.60, 1.00]", "0.2500",
    ]  # fmt: skip
    assert by_steps["mean", "sac_her"][6] == "0.75 [0.75, 0.75]"
    # In 20 seconds sac_her takes 100 steps: it ends at 0.9 and 0.7.
    by_time = _cells(compare_curves.table(runs, "seconds"))
    assert by_time["grasp", "sac_her"][6] == "0.80 [0.70, 0.90]"
    assert by_time["grasp", "ppo"][6] == "0.80 [0.60, 1.00]"


def test_against_the_final_success_of_the_reference(folder):
    runs = compare_curves.load(folder)
    rows = [
        line.strip("| ").split(" | ")
        for line in compare_curves.against(runs, "ppo", "env_steps").splitlines()
    ]
    # ppo ends at 0.8: sac_her gets there at 88.9, and at 100 + 100 * 0.1 / 0.3.
    assert rows[3] == ["grasp", "0.800", "sac_her", "111 [89, 133]", "0.56"]
    with pytest.raises(RunError, match="--reference=x: there are ppo, sac_her"):
        compare_curves.against(runs, "x", "env_steps")


def test_page_and_figures_are_written(folder, monkeypatch, capsys):
    out = folder / "out"
    words = ["compare_curves", f"--dir={folder}", f"--out={out}"]
    monkeypatch.setattr(sys, "argv", words)
    assert compare_curves.main() == 0
    text = (out / "compare.md").read_text()
    assert text in capsys.readouterr().out
    assert "Up to 200 environment steps" in text and "Up to 20 seconds" in text
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (out / "compare.svg").read_text()


def test_a_folder_of_two_scales_is_refused(folder):
    path = folder / "ppo-seed3.json"
    path.write_text(json.dumps(record("ppo", 3, scale="paper")))
    with pytest.raises(RunError, match="mixes scale paper, smoke"):
        compare_curves.load(folder)
    with pytest.raises(RunError, match="no CELL-seedN.json"):
        compare_curves.load(folder / "none")


def test_the_grids_are_of_one_size_and_on_seeds_not_reported():
    ppo, sac = evidence.STUDIES["ppo_grid"], evidence.STUDIES["sac_grid"]
    assert len(ppo) == len(sac)
    for study in ("ppo_grid", "sac_grid"):
        for cell in evidence.STUDIES[study].values():
            assert cell.seeds == evidence.TUNING
            assert min(cell.seeds) >= 100
    for cell in evidence.STUDIES["compare"].values():
        assert len(cell.seeds) == 5 and not set(cell.seeds) & set(evidence.TUNING)


@pytest.mark.parametrize("study", evidence.STUDIES)
def test_every_override_is_a_setting_of_its_config(study):
    configs = {
        method: border.keys(
            border.load_config(f"experiments/configs/{module}.py:playground")
        )
        for method, module in evidence.MODULES.items()
    }
    seen = []
    for name, cell in evidence.STUDIES[study].items():
        known = configs[cell.method]
        for key, value in cell.overrides.items():
            assert type(known[key]) is type(value), (name, key)
        assert cell.overrides not in seen or study == "compare", name
        seen.append(cell.overrides)


def test_commands_say_what_the_run_is():
    (run, *_) = evidence.runs_of("compare", "smoke", 512, only=["sac"])
    out = pathlib.Path("out")
    words = evidence.command_of(out, run)
    assert words[1:] == [
        "-m",
        "experiments.sac_glam",
        "--config=experiments/configs/sac_glam.py:smoke",
        "--workdir=out/compare/runs/sac-seed1",
        "--config.loop.her_ratio=0.0",
        "--config.seed=1",
        "--config.total_env_steps=512",
    ]
    config = border.read_command(words[3:]).config
    assert isinstance(config, config_dict.ConfigDict)
    assert (config.loop.her_ratio, config.seed, config.total_env_steps) == (
        0.0,
        1,
        512,
    )


def test_unknown_studies_and_cells_are_refused():
    with pytest.raises(RunError, match="--study=x: there are compare, ppo_grid"):
        evidence.runs_of("x", "smoke", None)
    with pytest.raises(RunError, match="--only=x: compare has ppo, sac, sac_her"):
        evidence.runs_of("compare", "smoke", None, only=["x"])


def test_a_finished_run_becomes_a_json_and_is_not_run_again(tmp_path):
    run = evidence.runs_of("compare", "smoke", 512, only=["sac"])[0]
    folder = evidence.work_path(tmp_path, run)
    folder.mkdir(parents=True)
    rows = [
        {"env_steps": 0, "updates": 0, "eval/train_sampled/grasp": 0.2,
         "eval/train_sampled/grow": 0.1, "eval/test_sampled/grasp": 0.3},
        {"env_steps": 256, "updates": 3, "train/loss": 1.0, "timing_s/train": 2.0},
        {"env_steps": 512, "updates": 7, "eval/train_sampled/grasp": 0.8,
         "eval/train_sampled/grow": 0.5, "timing_s/train": 4.5},
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "summary.json").write_text('{"updates": 7}')
    (folder / "config.json").write_text('{"devices": {"kind": "cpu"}, "git": "abc"}')
    assert not evidence.is_done(tmp_path, run)
    evidence.record(tmp_path, run)
    assert evidence.is_done(tmp_path, run)
    saved = json.loads(evidence.json_path(tmp_path, run).read_text())
    assert saved["curve"][1] == {
        "env_steps": 512, "seconds": 4.5, "updates": 7,
        "success": {"grasp": 0.8, "grow": 0.5, "mean": 0.65}, "test_success": {},
    }  # fmt: skip
    assert saved["curve"][0]["seconds"] == 0
    np.testing.assert_allclose(saved["curve"][0]["success"]["mean"], 0.15)
    assert saved["summary"] == {"updates": 7}
    assert (saved["method"], saved["seed"], saved["git"]) == ("sac", 1, "abc")
    with pytest.raises(RunError, match="total_env_steps 512, asked is 1024"):
        evidence.is_done(tmp_path, run._replace(total_env_steps=1024))


def test_the_driver_records_good_runs_and_names_bad_ones(tmp_path, monkeypatch, capsys):
    good, bad = evidence.runs_of("compare", "smoke", 512, only=["ppo", "sac"])[:2]

    def command(out, run):
        if run == bad:
            return [
                sys.executable,
                "-S",
                "-c",
                "print('no such key'); raise SystemExit(2)",
            ]
        line = '{"env_steps": 1, "updates": 1, "eval/train_sampled/grasp": 1.0}'
        return [
            sys.executable, "-S", "-c",
            "import sys, pathlib; f = pathlib.Path(sys.argv[1]); f.mkdir();"
            "(f / 'checkpoints').mkdir();"
            "(f / 'metrics.jsonl').write_text(sys.argv[2]);"
            "[(f / n).write_text('{}') for n in ('config.json', 'summary.json')]",
            str(evidence.work_path(out, run)), line,
        ]  # fmt: skip

    monkeypatch.setattr(evidence, "command_of", command)
    jobs = [evidence.job_of(tmp_path, run) for run in (good, bad)]
    assert driver.Driver(jobs=2).all(jobs) == jobs[1:]
    assert evidence.is_done(tmp_path, good) and not evidence.is_done(tmp_path, bad)
    assert not (evidence.work_path(tmp_path, good) / "checkpoints").exists()
    assert "failed   compare/sac seed 1 with code 2" in capsys.readouterr().out


def _cells(markdown: str) -> dict[tuple[str, str], list[str]]:
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()[2:]]
    return {(row[0], row[1]): row for row in rows}
