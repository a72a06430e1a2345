"""The host loop: two parts equal the whole, also when a part was shot."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.training import checkpoint, loop
from rljax.training.files import RunError, plain, write_arrays
from tests import quick
from tests.training import toy_run

CALLS = 10
SCRIPT = pathlib.Path(toy_run.__file__)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run nobody disturbs."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, toy_run.run(path, CALLS)


def bits(state) -> list[bytes]:
    return [np.asarray(plain(leaf)).tobytes() for leaf in jax.tree.leaves(state)]


def rows(path) -> list[dict]:
    """The rows without what a clock wrote."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(x).items() if not k.startswith(("timing", "perf"))}
        for x in lines
    ]


def final_state(path):
    update = checkpoint.latest(path / "checkpoints")
    assert update == 2 * CALLS
    target = jax.eval_shape(toy_run.init)
    return checkpoint.read_state(path / "checkpoints", update, target)


def assert_equal_runs(path, whole_path):
    assert bits(final_state(path)) == bits(final_state(whole_path))
    assert rows(path) == rows(whole_path)
    for name in ("random", "before", str(2 * CALLS)):
        ours, theirs = (
            json.loads((p / "eval" / f"{name}.json").read_text())
            for p in (path, whole_path)
        )
        assert ours == theirs


def test_a_whole_run(whole):
    path, result = whole
    assert result.stopped_by is None
    assert dataclasses.replace(result.position, train_seconds=0.0) == loop.Position(
        calls=CALLS, updates=2 * CALLS, axis=64 * CALLS
    )
    assert [row["updates"] for row in rows(path)] == list(range(0, 2 * CALLS + 1, 2))
    evaluated = [
        row["updates"] for row in rows(path) if "eval/train_sampled/grow" in row
    ]
    assert evaluated == [0, 8, 16, 20]  # before, every fourth call, after
    assert result.random["eval/train_sampled/grow"] == 0.25
    assert result.before["eval/train_sampled/grow"] == 0.0
    between = [
        r["eval/train_sampled/grow"] for r in rows(path) if r["updates"] in (8, 16)
    ]
    np.testing.assert_allclose(between, np.round(between, 2), atol=1e-7)
    w = result.state.params["w"]
    assert result.after is not None
    assert result.after["eval/train_sampled/grow"] == pytest.approx(float(w[1]))
    assert checkpoint.updates(path / "checkpoints") == [12, 18, 20]


def test_two_parts_equal_the_whole(whole, tmp_path):
    toy_run.run(tmp_path / "run", 5, eval_every=4)
    # A first part that ends evaluates its last call, which the whole run does not.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    checkpoint.set_aside_after(tmp_path / "run" / "checkpoints", 6)
    assert len(lines) == 6
    result = toy_run.run(tmp_path / "run", CALLS)
    assert_equal_runs(tmp_path / "run", whole[0])
    assert bits(result.state) == bits(whole[1].state)


def test_a_finished_run_is_not_run_again(whole, tmp_path):
    path = tmp_path / "run"
    toy_run.run(path, 2)

    def never(*_):
        raise AssertionError("called")

    again = toy_run.run(
        path, 2, made=toy_run.program()._replace(iterate=never, evaluate=never)
    )
    assert again.after == json.loads((path / "eval" / "4.json").read_text())["metrics"]


def start(path, pause=0.05) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(path), str(CALLS), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "XLA_FLAGS": quick.XLA_FLAGS,
            "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        },
    )


def wait_for_rows(path, count: int, process) -> None:
    end = time.monotonic() + 240  # a busy machine
    while time.monotonic() < end:
        file = path / "metrics.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    raise AssertionError("the run does not start")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment(whole, tmp_path, seed):
    """SIGKILL a moment after a random row, amid a call or a save; then the rest."""
    path, rng = tmp_path / "run", np.random.default_rng(seed)
    process = start(path)
    wait_for_rows(path, int(rng.integers(3, CALLS)), process)
    time.sleep(rng.uniform(0.0, 0.2))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.updates(path / "checkpoints")  # it does go on from something
    toy_run.run(path, CALLS)
    assert_equal_runs(path, whole[0])


def test_sigterm_saves_and_exits_0(whole, tmp_path):
    path = tmp_path / "run"
    process = start(path)
    wait_for_rows(path, 3, process)
    process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "stopped by SIGTERM" in said and "the same command goes on" in said
    update = checkpoint.latest(path / "checkpoints")
    assert update is not None and f"SIGTERM: saved update {update} in" in said
    assert update < 2 * CALLS and update == rows(path)[-1]["updates"]
    said = []
    toy_run.run(path, CALLS, say=said.append)
    assert said == [f"workdir {path}: going on from update {update}"]
    assert_equal_runs(path, whole[0])


def test_ctrl_c_saves(tmp_path, capsys):
    def iterate(state):
        if state.updates == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return jax.jit(toy_run.iterate)(state)

    earlier = signal.getsignal(signal.SIGINT)
    made = toy_run.program()._replace(iterate=iterate)
    result = toy_run.run(tmp_path / "run", CALLS, made=made)
    assert result.stopped_by == "SIGINT" and result.after is None
    assert result.position.updates == 6
    assert "saving in a moment (again: stop at once)" in capsys.readouterr().out
    assert checkpoint.updates(tmp_path / "run" / "checkpoints") == [6]
    assert signal.getsignal(signal.SIGINT) is earlier


@pytest.mark.parametrize("update", [0, 8, 16, 20])
def test_a_signal_amid_an_evaluation_is_served_there(whole, tmp_path, capsys, update):
    """Of update 0, `before`; of 20, the last. What is owed is made up for."""
    path = tmp_path / "run"

    def evaluate(state, final, pause):
        if int(state.updates) == update:
            os.kill(os.getpid(), signal.SIGTERM)
            pause()
            raise AssertionError("not paused")
        return toy_run.evaluate(state, final, pause)

    result = toy_run.run(path, CALLS, made=toy_run.program(evaluate=evaluate))
    assert result.stopped_by == "SIGTERM" and result.after is None
    assert checkpoint.latest(path / "checkpoints") == update
    name = update or "before"
    assert not (path / "eval" / f"{name}.json").exists()
    assert f"saved update {update:,}" in capsys.readouterr().out
    assert [row["updates"] for row in rows(path)] == list(range(0, update, 2))
    # Broken off once more where nothing but the evaluation is owed.
    again = toy_run.run(path, CALLS, made=toy_run.program(evaluate=evaluate))
    assert again.stopped_by == "SIGTERM"
    assert checkpoint.latest(path / "checkpoints") == update
    assert f"saved update {update:,}" in capsys.readouterr().out
    done = toy_run.run(path, CALLS)
    assert done.after == whole[1].after
    assert_equal_runs(path, whole[0])

    def never(*_):
        raise AssertionError("called")

    # Nothing is owed any more.
    made = toy_run.program(iterate=never, evaluate=never)
    assert toy_run.run(path, CALLS, made=made).after == whole[1].after


def test_a_signal_amid_random_play_is_served_there(whole, tmp_path):
    path = tmp_path / "run"

    def evaluate_random(state, pause):
        os.kill(os.getpid(), signal.SIGINT)
        pause()
        raise AssertionError("not paused")

    made = toy_run.program(evaluate_random=evaluate_random)
    result = toy_run.run(path, CALLS, made=made)
    assert result.stopped_by == "SIGINT" and result.random is None
    toy_run.run(path, CALLS)
    assert_equal_runs(path, whole[0])


def test_what_is_not_kept_is_put_back_on_resume(whole, tmp_path):
    # `params` holds a place for weights that never move: filled at the start and on
    # resume, empty in the checkpoints.
    def put(state):
        return dataclasses.replace(
            state, params=state.params | {"frozen": jnp.arange(5.0)}
        )

    def kept(state):
        return dataclasses.replace(state, params=state.params | {"frozen": None})

    def iterate(state):
        assert state.params["frozen"].shape == (5,)
        state, told = jax.jit(toy_run.iterate)(kept(state))
        return put(state), told

    made = toy_run.program(
        init=lambda: put(toy_run.init()),
        iterate=iterate,
        kept=kept,
        restore=lambda read, meta: put(read(jax.eval_shape(toy_run.init))),
    )
    toy_run.run(tmp_path / "run", CALLS // 2, made=made)
    result = toy_run.run(tmp_path / "run", CALLS, made=made)
    np.testing.assert_array_equal(result.state.params["frozen"], np.arange(5.0))
    np.testing.assert_array_equal(result.state.params["w"], whole[1].state.params["w"])


def test_goes_on_from_a_chosen_update(whole, tmp_path):
    path = tmp_path / "run"
    toy_run.run(path, CALLS)
    toy_run.run(path, CALLS, resume=12)
    assert_equal_runs(path, whole[0])
    assert {p.name for p in (path / "checkpoints").iterdir()} >= {"aside_18", "20"}


def test_a_damaged_newest_checkpoint_costs_its_updates_only(whole, tmp_path):
    path, said = tmp_path / "run", []
    toy_run.run(path, CALLS)
    (path / "checkpoints" / "20" / "meta.json").write_text("{")
    toy_run.run(path, CALLS, say=said.append)
    assert f"warning: checkpoint {path}/checkpoints/20 is damaged" in said[0]
    assert "going on from update 18" in said[1]
    assert_equal_runs(path, whole[0])


def poisoned():
    """From update 7 on every gradient is NaN."""
    iterate = jax.jit(lambda state: toy_run.iterate(state, poison_from=7))
    return toy_run.program()._replace(
        iterate=iterate,
        dump=lambda state, path: write_arrays(
            path.with_name(path.name + ".npz"), {"ring": state.ring}
        ),
    )


def test_stops_after_ten_updates_that_are_not_finite(tmp_path, capsys):
    with pytest.raises(RunError) as raised:
        toy_run.run(tmp_path / "run", 40, made=poisoned())
    # 7 good updates, then 10 bad ones: the tenth is the 17th, in the call to 18.
    assert "11 non-finite updates in a row between updates 16 and 18" in str(
        raised.value
    )
    assert "(limit 10)" in str(raised.value)
    dumped = sorted(p.name for p in (tmp_path / "run" / "nonfinite").iterdir())
    assert dumped == ["10.npz", "12.npz", "14.npz", "16.npz", "18.npz", "8.npz"]
    assert "warning: 1 non-finite update(s) skipped" in capsys.readouterr().out


def test_nine_in_a_row_do_not_stop_it(tmp_path):
    result = toy_run.run(tmp_path / "run", 8, made=poisoned())
    assert result.position.nonfinite == 9 and result.stopped_by is None


def test_a_fault_found_by_check_ends_the_run(tmp_path):
    def check(state, row):
        if row["updates"] >= 6:
            raise RunError(f"no admissible command at update {row['updates']}")

    made = toy_run.program()._replace(check=check)
    with pytest.raises(RunError, match="no admissible command at update 6"):
        toy_run.run(tmp_path / "run", CALLS, made=made)


def test_the_clock_saves_too(tmp_path):
    path, earlier = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    toy_run.run(path, 3, save_every=0, save_seconds=0.0)
    assert signal.getsignal(signal.SIGTERM) is earlier  # as the caller had it
    assert checkpoint.updates(path / "checkpoints") == [2, 4, 6]


def test_no_row_while_the_replay_fills(tmp_path):
    def iterate(state):
        state, values = jax.jit(toy_run.iterate)(state)
        filled = jnp.maximum(values["updates"] - 6, 0)  # three calls only act
        return state, {**values, "updates": filled}

    made = toy_run.program()._replace(iterate=iterate)
    toy_run.run(tmp_path / "run", 6, made=made, eval_every=0)
    got = [(row["updates"], row["env_steps"]) for row in rows(tmp_path / "run")]
    assert got == [(0, 0), (2, 256), (4, 320), (6, 384)]
    assert checkpoint.updates(tmp_path / "run" / "checkpoints") == [0, 6]


def test_a_restore_of_ones_own(tmp_path):
    path, seen = tmp_path / "run", []
    toy_run.run(path, 2, made=toy_run.program()._replace(devices=2))

    def restore(read, meta):
        seen.append(meta["devices"])
        return read(jax.eval_shape(toy_run.init))

    toy_run.run(path, 3, made=toy_run.program()._replace(restore=restore))
    assert seen == [2]


def test_a_budget_of_the_axis_ends_the_run(whole, tmp_path, capsys):
    """64 steps a call: 300 are reached in the fifth, which is evaluated as the last."""
    path = tmp_path / "run"
    result = toy_run.run(path, CALLS, most=300, save_every=2)
    assert result.stopped_by is None and result.position.calls == 5
    assert "saved update" not in capsys.readouterr().out
    w = result.state.params["w"]
    assert result.after is not None
    assert result.after["eval/train_sampled/grow"] == pytest.approx(float(w[1]))
    assert "eval/train_sampled/grow" in rows(path)[-1]  # the fifth, where none is due
    # Up to its last call it is the run without a budget.
    assert rows(path)[:5] == rows(whole[0])[:5] and rows(path)[-1]["updates"] == 10
    # Gone on with from before the end it ends there again, and then has no more to do.
    again = toy_run.run(path, CALLS, resume=8, most=300, save_every=2)
    assert again.position.calls == 5 and again.after == result.after
    assert bits(again.state) == bits(result.state)

    def never(*_):
        raise AssertionError("called")

    made = toy_run.program()._replace(iterate=never)
    assert toy_run.run(path, CALLS, made=made, most=300).after == result.after


def test_a_budget_that_is_not_reached_changes_nothing(whole, tmp_path):
    toy_run.run(tmp_path / "run", CALLS, most=64 * CALLS + 1)
    assert_equal_runs(tmp_path / "run", whole[0])
