"""The promotion gate on runs made here: outcomes, verdicts, refusals."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from experiments import compare, panels, parts, playground, ppo_glam, sac_glam, sft
from experiments.configs import ppo_glam as ppo_config
from experiments.configs import sac_glam as sac_config
from experiments.configs import sft as sft_config
from rljax.envs.reasoning.problems import Problem
from rljax.training.files import RunError

KINDS = ("1 step", "2 steps")


def sft_run(folder, epochs, **task):
    config = sft_config.get_config("smoke")
    config.task.update(operations=(1, 2), largest=5, dev_size=12, **task)
    config.data.epochs = epochs
    config.eval.max_tokens = 24
    sft.main(config, str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that learnt from solutions, for one epoch and for three."""
    place = tmp_path_factory.mktemp("runs")
    return [sft_run(place / f"epochs{n}", n) for n in (1, 3)]


@pytest.fixture(scope="module")
def players(tmp_path_factory):
    """A run of SAC-GLAM and one of PPO-GLAM."""
    place = tmp_path_factory.mktemp("players")
    for name, configs, module in (
        ("sac", sac_config, sac_glam), ("ppo", ppo_config, ppo_glam)
    ):  # fmt: skip
        config = configs.get_config("smoke")
        config.total_env_steps = 64
        module.main(config, str(place / name))
    return {name: str(place / name) for name in ("sac", "ppo")}


def outcomes(right, kinds=KINDS):
    right = np.array(right, bool)
    names = [f"problem/{i}" for i in range(len(right))]
    return panels.Outcomes(names, [kinds[i % 2] for i in range(len(right))], right)


def gate(monkeypatch, first, second, *more):
    """The exit code where the policies' outcomes are these."""
    both = (outcomes(first), outcomes(second))
    monkeypatch.setattr(panels, "both", lambda a, b, how: both)
    return compare.main(["--a=x", "--b=y", "--panel=test", *more])


def test_only_what_is_better_by_the_margin_is_promoted(monkeypatch, capsys):
    worse, better = [0] * 40 + [1] * 60, [1] * 30 + [0] * 10 + [1] * 60
    assert gate(monkeypatch, worse, better) == 0
    assert "b is better by more than 0" in capsys.readouterr().out
    assert gate(monkeypatch, worse, better, "--margin=0.2") == 0  # begins at 0.216
    assert gate(monkeypatch, worse, better, "--margin=0.25") == 1
    assert "not shown to be better by more than 0.25" in capsys.readouterr().out
    assert gate(monkeypatch, better, worse) == 1
    assert gate(monkeypatch, better, better) == 1
    assert gate(monkeypatch, better, better, "--margin=-0.05") == 0


def test_the_table_begins_with_what_was_lost(monkeypatch, capsys):
    first = [1, 0] * 30
    second = [0, 1] * 30
    assert gate(monkeypatch, first, second) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith((*KINDS, "all"))]
    assert [row.split("  ")[0] for row in rows] == ["1 step", "2 steps", "all"]
    assert rows[0].endswith("worse")
    assert rows[1].endswith("better")
    assert "-1.000" in rows[0]
    assert "only a gets right: problem/0, problem/2" in "\n".join(lines)


def test_runs_are_asked_the_same_and_written_down(runs, tmp_path, capsys):
    out = tmp_path / "new" / "found.json"
    words = [f"--a={runs[0]}", f"--b={runs[1]}", "--panel=dev", f"--out={out}"]
    assert compare.main(words) == 1
    told = json.loads(out.read_text())
    assert told["all"]["count"] == 12
    assert {kind["name"] for kind in told["kinds"]} == set(KINDS)
    # What the run found on the same split is what the gate finds.
    for place, share in zip(runs, ("first", "second"), strict=True):
        summary = json.loads(pathlib.Path(place, "summary.json").read_text())
        assert told["all"][share] == pytest.approx(summary["after"]["arithmetic"])
    assert "panel: dev, 12 problems" in capsys.readouterr().out


def test_a_folder_of_the_same_weights_answers_alike(runs):
    how = panels.How("test", 5, 1.0, 3)
    one, other = panels.both(
        panels.open_policy(runs[1]), panels.open_policy(f"{runs[1]}/hf"), how
    )
    assert len(one.right) == 5
    assert one.names == other.names
    np.testing.assert_array_equal(one.right, other.right)


def test_runs_of_different_tasks_are_refused(runs, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    record = json.loads((other / "config.json").read_text())
    record["config"]["task"]["seed"] = 9
    (other / "config.json").write_text(json.dumps(record))
    words = [f"--a={runs[0]}", f"--b={other}", "--panel=dev"]
    assert compare.main(words) == 2
    assert "task.seed is 9 there, 1 here" in capsys.readouterr().err


def test_what_cannot_be_compared_ends_with_2(runs, players, tmp_path, capsys):
    def said(*words):
        assert compare.main(list(words)) == 2
        return capsys.readouterr().err

    a, b = f"--a={runs[0]}", f"--b={runs[1]}"
    assert "it must be one of train, dev, test" in said(a, b, "--panel=nothing")
    assert "--margin=nan: it must be" in said(a, b, "--panel=dev", "--margin=nan")
    assert "neither" in said(a + "/hf", b + "/hf", "--panel=dev")
    assert "there is no" in said(a, f"--b={tmp_path}/none", "--panel=dev").lower()
    assert "same kind" in said(a, f"--b={players['sac']}", "--panel=dev")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(f"{runs[0]}/config.json", unfinished)
    assert "has no hf/" in said(a, f"--b={unfinished}", "--panel=dev")


def test_a_fault_is_not_a_verdict(monkeypatch, capsys):
    def broken(*given):
        raise TypeError("a bug")

    monkeypatch.setattr(panels, "both", broken)
    assert compare.main(["--a=x", "--b=y", "--panel=test"]) == 2
    assert "a bug" in capsys.readouterr().err


def test_runs_that_play_are_compared_scene_by_scene(players):
    sac, ppo = (panels.open_policy(players[name]) for name in ("sac", "ppo"))
    # The run's own panels of test goals have the seeds after those of training goals.
    task = playground.make_task(sac_config.get_config("smoke"))
    assert sac.config is not None
    seed = sac.config["eval"]["seed"] + len(playground.kinds_of(task))
    one, other = panels.both(sac, ppo, panels.How("test", 0, 1.0, seed))
    assert one.names == other.names
    for name, found in (("sac", one), ("ppo", other)):
        newest = sorted(pathlib.Path(players[name], "eval").glob("[0-9]*.json"))[-1]
        told = json.loads(newest.read_text())["metrics"]
        for kind in dict.fromkeys(found.kinds):
            share = found.right[np.array(found.kinds) == kind].mean()
            assert share == pytest.approx(told[f"eval/test_sampled/{kind}"])


def test_kinds_are_told_by_the_steps_of_solutions():
    def kind(solution):
        return parts.kind_of(Problem("gsm8k/train/1", "?", "3", solution))

    assert kind("1+1=2\n#### 2") == "1 step"
    assert kind("a\nb\n\n#### 2") == "2 steps"
    assert kind("x\n" * 12 + "#### 2") == "8 steps or more"
    assert kind(r"so \boxed{3}") == "gsm8k"
    assert kind("") == "gsm8k"


def test_scenes_that_differ_are_refused(players, monkeypatch):
    panel, seeds = playground.panel, iter(range(100))

    def moved(task, split, kind, seed, size):
        return panel(task, split, kind, next(seeds), size)

    monkeypatch.setattr(playground, "panel", moved)
    sac = panels.open_policy(players["sac"])
    with pytest.raises(RunError, match="do not meet the same scenes"):
        panels.both(sac, sac, panels.How("train", 2, 0.0, 1))
