"""Whole runs at the command line: finished, killed, stopped, refused.

The processes share the compilation cache of the suite, so each program is compiled
by the first of them.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from experiments import border, playground, ppo_glam, run, sac_glam
from experiments.configs import sac_glam as sac_configs
from rljax.training import checkpoint, devices
from rljax.training.files import plain

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


def start(method: str, path: pathlib.Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{method}", *words(method, path), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
    )


def finish(method: str, path: pathlib.Path, *more: str) -> str:
    process = start(method, path, *more)
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
    assert (path / "tokenizer" / "tokenizer.json").is_file()


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


# What is refused.


def test_a_wrong_key_ends_the_process_with_2(tmp_path):
    process = start("sac_glam", tmp_path / "run", "--config.loop.batchsize=3")
    said, _ = process.communicate()
    assert process.returncode == 2
    assert "config.loop.batchsize is not a setting" in said
    assert "did you mean config.loop.batch_size?" in said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def task():
    return playground.make_task(sac_configs.get_config("smoke"))


@pytest.fixture
def main(task, monkeypatch, tmp_path, capsys):
    """(method, flags) -> exit code, output, error; nothing is trained."""

    def train(config, folder, task, make_method):
        make_method(run.parallel_of(config))

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(playground, "make_task", lambda config: task)

    def call(method, *flags, scale="smoke"):
        spec = ROOT / "experiments" / "configs" / f"{method}.py"
        given = [f"--config={spec}:{scale}", f"--workdir={tmp_path}", *flags]
        monkeypatch.setattr("sys.argv", ["main", *given])
        with pytest.raises(SystemExit) as ended:
            border.run(MAINS[method], "Trains.")
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


@pytest.mark.parametrize("method", ["sac_glam", "ppo_glam"])
def test_the_scale_itself_is_not_refused(main, method):
    assert main(method)[::2] == (0, "")
    assert main(method, "--config.parallel=pmap")[::2] == (0, "")


@pytest.mark.parametrize(
    "method, flag, message",
    [
        ("sac_glam", "agent.lr=1", "config.agent.lr is not a setting"),
        ("sac_glam", "loop.num_envs=x", "loop.num_envs is 'x': it must be of type int"),
        ("sac_glam", "loop.num_envs=0", "loop.num_envs is 0: it must be at least 1"),
        ("ppo_glam", "loop.num_envs=0", "loop.num_envs is 0: it must be at least 1"),
        (
            "sac_glam",
            "loop.her_ratio=1.5",
            "loop.her_ratio is 1.5: it must be in [0, 1]",
        ),
        (
            "sac_glam",
            "loop.batch_size=1024",
            "loop.batch_size is 1024: it must be at most loop.capacity, 512",
        ),
        (
            "sac_glam",
            "loop.min_size=600",
            "min_size is 600, more than the ring ever holds: capacity 512",
        ),
        (
            "sac_glam",
            "loop.n_step=19",
            "loop.n_step is 19: it must be at most env.limit, 17",
        ),
        (
            "sac_glam",
            "hindsight.strategy=best",
            "hindsight.strategy is 'best': it must be one of achieved, final",
        ),
        ("sac_glam", "hindsight.her_k=0", "hindsight.her_k is 0: it must be at least"),
        ("sac_glam", "critic_error=l1", "critic_error is 'l1': it must be one of"),
        ("sac_glam", "agent.reward_scale=2.0", "agent.reward_scale is 2.0: it must be"),
        ("sac_glam", "parallel=tpu", "config.parallel is 'tpu': it must be one of jit"),
        (
            "ppo_glam",
            "loop.minibatch_size=48",
            "minibatch_size is 48, which does not divide a rollout of 8 x 8 = 64",
        ),
        ("ppo_glam", "agent.gamma=2.0", "agent.gamma is 2.0: it must be in [0, 1]"),
    ],
)
def test_what_cannot_be_is_refused_by_name(main, method, flag, message):
    code, _, error = main(method, f"--config.{flag}")
    assert code == 2 and message in error
    assert error.startswith("error: ") and "Traceback" not in error


def test_shares_that_do_not_come_out_are_refused(main):
    flags = ("--config.parallel=pmap", "--config.loop.num_envs=12")
    code, _, error = main("sac_glam", *flags)
    assert code == 2
    assert "num_envs is 12, which 8 devices cannot share evenly" in error
    code, _, error = main(
        "sac_glam", "--config.parallel=pmap", "--config.num_devices=9"
    )
    assert code == 2 and "config.num_devices: pmap over 9 devices, but 8" in error


def test_an_unknown_scale_is_refused(main):
    code, _, error = main("sac_glam", scale="huge")
    assert code == 2
    assert "one of smoke, quickstart, playground, paper, got 'huge'" in error


def test_a_target_that_pays_for_never_succeeding_is_refused(main):
    # Nine commands for ever: 0.05 ln 9 / (1 - 0.99) = 11.0, success is worth 1.
    trap = [
        "--config.critic_error=squared_error",
        "--config.agent.entropy_in_target=1.0",
        "--config.agent.alpha=0.05",
        "--config.loop.gamma=0.99",
        "--config.loop.n_step=1",
    ]
    code, said, error = main("sac_glam", *trap)
    assert code == 2
    assert "worth of never succeeding: at most 11 " in said
    assert "worth of success: 1" in said
    assert "agent.entropy_in_target is 1.0" in error
    assert "--config.allow_entropy_trap=True" in error
    code, said, error = main("sac_glam", *trap, "--config.allow_entropy_trap=True")
    assert code == 0 and not error
    assert "worth of never succeeding: at most 11 " in said
    # Worth 0.99 of the success is not refused.
    code, _, error = main("sac_glam", *trap, "--config.agent.alpha=0.0045")
    assert code == 0, error
