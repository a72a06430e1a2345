"""Whole runs at the command line: finished, killed, stopped, refused.

The processes share the compilation cache of the suite, so each program is compiled
by the first of them.
"""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from typing import Any

import jax
import numpy as np
import pytest

from experiments import border, ppo_glam, run, sac_glam
from rljax.training import checkpoint, devices
from rljax.training.files import plain
from tests import quick

ROOT = pathlib.Path(__file__).parents[2]
MAINS = {"sac_glam": sac_glam.main, "ppo_glam": ppo_glam.main}
STEPS = 1_024  # of every run here: 16 calls of the smoke scale
CALLS = 16
# Each is killed twice; RLJAX_KILLED_RUNS=10 pytest -k killed_twice kills 20 times.
KILLED_RUNS = int(os.environ.get("RLJAX_KILLED_RUNS", "1"))


def words(method: str, path: pathlib.Path) -> list[str]:
    return [
        f"--config=experiments/configs/{method}.py:smoke",
        f"--workdir={path}",
        f"--config.total_env_steps={STEPS}",
    ]


def start(
    method: str, path: pathlib.Path, *more: str, xla_flags: str = quick.XLA_FLAGS
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{method}", *words(method, path), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": xla_flags,
            "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
    )


def finish(
    method: str, path: pathlib.Path, *more: str, xla_flags: str = quick.XLA_FLAGS
) -> str:
    process = start(method, path, *more, xla_flags=xla_flags)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def wait_for_rows(path: pathlib.Path, count: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 900  # a busy machine, and nothing compiled yet
    while time.monotonic() < end:
        file = path / "metrics.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    raise AssertionError("the run does not start")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(method) -> the folder of a run nobody disturbs, and what it said."""
    found = {}

    def get(method: str) -> tuple[pathlib.Path, str]:
        if method not in found:
            path = tmp_path_factory.mktemp("whole") / method
            found[method] = path, finish(method, path)
        return found[method]

    return get


def rows(path: pathlib.Path) -> list[dict]:
    """The rows without what a clock wrote."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [
        {
            name: value
            for name, value in json.loads(line).items()
            if not name.startswith(("timing_s/", "perf/"))
        }
        for line in lines
    ]


def evaluations(path: pathlib.Path) -> dict[str, dict]:
    return {p.name: json.loads(p.read_text()) for p in (path / "eval").iterdir()}


def command(method: str, path: pathlib.Path, *more: str):
    spec = ROOT / "experiments" / "configs" / f"{method}.py"
    given = [f"--config={spec}:smoke", *words(method, path)[1:], *more]
    return border.read_command(given).config


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """(method) -> the shapes of the state that its runs save."""

    def get(method: str):
        found: list[Any] = []

        def keep(config, folder, task, make_method):
            parallel = devices.jit()
            init = run._initialiser(config, parallel, make_method(parallel))
            found.append(jax.eval_shape(init))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "train", keep)
            MAINS[method](command(method, tmp_path_factory.mktemp("none")), "none")
        return found[0]

    return get


def assert_same_run(method, path, whole_path, target):
    assert rows(path) == rows(whole_path)
    assert evaluations(path) == evaluations(whole_path)
    abstract = target(method)
    ours, theirs = (
        checkpoint.read_state(
            p / "checkpoints", rows(whole_path)[-1]["updates"], abstract
        )
        for p in (path, whole_path)
    )
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(plain(left)).tobytes() == np.asarray(plain(right)).tobytes()


@pytest.mark.parametrize("method", ["sac_glam", "ppo_glam"])
def test_a_run_leaves_what_it_should(whole, method):
    path, said = whole(method)
    summary = json.loads((path / "summary.json").read_text())
    assert set(summary) == {
        "random", "before", "after", "train_seconds", "env_steps", "updates",
    }  # fmt: skip
    for moment in ("random", "before", "after"):
        assert {"grasp", "grow", "test_grasp", "test_grow"} <= set(summary[moment])
        assert all(0 <= x <= 1 for x in summary[moment].values())
    assert {"grasp_greedy", "grow_greedy"} <= set(summary["after"])
    assert summary["env_steps"] == STEPS
    assert summary["train_seconds"] > 0
    numbers = [row["updates"] for row in rows(path)]
    assert len(numbers) == CALLS + 1 and numbers == sorted(set(numbers))
    assert numbers[-1] == summary["updates"] > 0
    for name in ("grasp", "grow"):
        last = rows(path)[-1]
        assert last[f"eval/train_sampled/{name}"] == summary["after"][name]
        found = evaluations(path)[f"{summary['updates']}.json"]["metrics"]
        assert found[f"eval/test_greedy/{name}"] == last[f"eval/test_greedy/{name}"]
    page = (path / "report.html").read_text()
    assert "<html" in page and "grasp" in page
    assert "report: " in said and "after" in said
    assert len(list((path / "checkpoints").glob("[0-9]*"))) == 2
    assert (path / "hf" / "tokenizer.json").is_file()
    shown = json.loads((path / "rollouts" / "episodes.json").read_text())
    commands = [c for e in shown for step in e["steps"] for c in step["commands"]]
    assert {c["q"] is None for c in commands} == {method == "ppo_glam"}


def test_the_sampler_is_the_learner(whole):
    learnt = [row for row in rows(whole("ppo_glam")[0]) if row["updates"]]
    assert max(row["offpolicy/first_kl"] for row in learnt) < 1e-9
    assert max(row["offpolicy/logprob_abs_diff"] for row in learnt) < 1e-5
    assert min(row["train/approx_kl"] for row in learnt) > 1e-7


def test_a_finished_run_goes_on_and_says_so(whole):
    path, _ = whole("sac_glam")
    before, files = rows(path), evaluations(path)
    said = finish("sac_glam", path)
    assert f"going on from update {before[-1]['updates']}" in said
    assert rows(path) == before and evaluations(path) == files


@pytest.mark.parametrize("seed", range(7, 7 + KILLED_RUNS))
def test_killed_twice_and_gone_on_with_is_the_same_run(whole, tmp_path, target, seed):
    """SIGKILL a moment after a random row, amid a call, an evaluation or a save."""
    path, rng = tmp_path / "run", np.random.default_rng(seed)
    for low, high in ((2, 7), (9, 12)):
        process = start("sac_glam", path)
        wait_for_rows(path, int(rng.integers(low, high)), process)
        time.sleep(rng.uniform(0.0, 0.1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (path / "summary.json").exists()
    said = finish("sac_glam", path)
    assert "going on from update" in said
    assert_same_run("sac_glam", path, whole("sac_glam")[0], target)


def test_sigterm_saves_exits_0_and_the_rest_is_the_same_run(whole, tmp_path, target):
    path = tmp_path / "run"
    process = start("ppo_glam", path)
    wait_for_rows(path, 3, process)
    process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "SIGTERM: saved update" in said and "the same command goes on" in said
    update = rows(path)[-1]["updates"]
    assert checkpoint.latest(path / "checkpoints") == update
    assert not (path / "summary.json").exists()
    assert f"going on from update {update}" in finish("ppo_glam", path)
    assert_same_run("ppo_glam", path, whole("ppo_glam")[0], target)


def test_a_run_of_one_device_goes_on_with_eight(whole, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(whole("sac_glam")[0], path)
    before = rows(path)
    more = ["--config.parallel=pmap", "--config.total_env_steps=1088"]  # a call more
    said = finish("sac_glam", path, *more, xla_flags=quick.EIGHT_DEVICES)
    assert f"going on from update {before[-1]['updates']}" in said
    after = rows(path)
    assert after[: len(before)] == before and after[-1]["env_steps"] == 1_088
    assert after[-1]["updates"] == before[-1]["updates"] + 8
    assert np.isfinite(after[-1]["critic/loss"]) and after[-1]["train/skipped"] == 0
    # The ring was full, and is: what it held came along.
    assert before[-1]["replay/original_size"] == 512
    assert after[-1]["replay/original_size"] == 512


def test_a_disk_that_fills_up_is_told_in_words(tmp_path, monkeypatch, capsys):
    def full(program, schedule, place):
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr(run.loop, "train", full)
    given = [*words("ppo_glam", tmp_path)[1:], "--config.eval.final_scenes=1"]
    spec = ROOT / "experiments" / "configs" / "ppo_glam.py:smoke"
    monkeypatch.setattr("sys.argv", ["main", f"--config={spec}", *given])
    with pytest.raises(SystemExit) as ended:
        border.run(ppo_glam.main, "Trains.")
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ")
    assert "No space left on device: 'metrics.jsonl'" in error
    assert "of disk free" in error and str(tmp_path) in error


def test_a_bad_batch_is_written_whole(tmp_path):
    batch = {"obs": np.arange(6).reshape(2, 3), "action": np.array([1, 2])}
    state = (), types.SimpleNamespace(bad_batch=batch)
    run._dump(state, tmp_path / "nonfinite" / "64")
    with np.load(tmp_path / "nonfinite" / "64.npz") as found:
        np.testing.assert_array_equal(found["['obs']"], batch["obs"])
        np.testing.assert_array_equal(found["['action']"], batch["action"])


# What is refused.


def test_a_wrong_key_ends_the_process_with_2(tmp_path):
    process = start("sac_glam", tmp_path / "run", "--config.loop.batchsize=3")
    said, _ = process.communicate()
    assert process.returncode == 2
    assert "config.loop.batchsize is not a setting" in said
    assert "did you mean config.loop.batch_size?" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()
