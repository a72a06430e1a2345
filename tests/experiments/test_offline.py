"""Whole runs on a log, in this process: finished, gone on with, refused."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import border, convert, kto, offline, oreo, starts
from rljax.data import logs, packing
from rljax.training import devices
from rljax.training.files import RunError
from tests.experiments import logged_runs
from tests.experiments.logged_runs import on, rows, run, weights


@pytest.mark.parametrize("method", ["oreo", "kto"])
def test_a_run_that_goes_on_is_one_that_never_stopped(begun, tmp_path, method):
    more = on(
        begun, "--config.log.checkpoint_every_updates=2", "--config.data.epochs=2"
    )
    whole = run(method, tmp_path / "whole", *more)
    shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "hf")
    again = run(method, tmp_path / "again", *more, "--config.resume=8")
    assert rows(again) == rows(whole)
    assert [row["updates"] for row in rows(whole)] == list(range(11))
    assert weights(again) == weights(whole)
    for update in (8, 10):
        made = tmp_path / str(update)
        made.mkdir()
        convert.convert(str(whole), str(made / "hf"), update=update)
        assert (weights(made) == weights(whole)) == (update == 10)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["updates"] == 10 and summary["items"] == 72
    assert {name.partition("_")[0] for name in summary["after"]} == {"arithmetic"}
    last = rows(whole)[-1]
    assert 0 <= last["eval/dev/arithmetic"] <= 1
    lengths = [f"drift/share/length_{name}" for name in ("short", "middle", "long")]
    assert sum(last[name] for name in lengths) == pytest.approx(1)


@pytest.mark.parametrize("method", ["dpo", "rejection_sampling"])
def test_what_is_learnt_from(begun, tmp_path, method):
    path = run(method, tmp_path / method, *on(begun))
    summary = json.loads((path / "summary.json").read_text())
    assert summary["items"] == {"dpo": 48, "rejection_sampling": 24}[method]
    assert (path / "report.html").stat().st_size > 5_000
    card = (path / "hf" / "README.md").read_text()
    assert {"dpo": "DPO", "rejection_sampling": "rejection sampling"}[method] in card
    assert weights(path) != weights(begun / "sft")


@pytest.mark.parametrize("way", ["pmap", "mesh"])
def test_two_devices_are_one(begun, tmp_path, way):
    one = run("oreo", tmp_path / "one", *on(begun))
    two = run(
        "oreo", tmp_path / "two",
        *on(begun, f"--config.parallel={way}", "--config.num_devices=2"),
    )  # fmt: skip
    for a, b in zip(rows(one), rows(two), strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(
            list(a.values()), list(b.values()), rtol=2e-3, atol=2e-4
        )


def test_adapters_learn_and_are_merged_into_what_is_written(begun, tmp_path):
    path = run("oreo", tmp_path / "run", *on(begun, "--config.lora.rank=2"))
    assert weights(path) != weights(begun / "sft")
    convert.convert(str(path), str(tmp_path / "hf"))
    assert weights(tmp_path) == weights(path)
    record = path / "config.json"
    there = json.loads(record.read_text())["config"]["frozen"]
    record.write_text(record.read_text().replace(there, "0" * len(there)))
    with pytest.raises(RunError, match="give that model back its files"):
        convert.convert(str(path), str(tmp_path / "other"))


def test_a_collection_goes_on_and_gives_one_log(begun, tmp_path):
    more = (
        f"--config.model.path={begun / 'sft' / 'hf'}",
        "--config.chunk=20",
        "--config.problems=50",
    )
    whole = run("collect", tmp_path / "whole", *more)
    shutil.copytree(whole, tmp_path / "again")
    for name in ("log.jsonl.gz", "parts/0000020.jsonl.gz"):
        (tmp_path / "again" / name).unlink()
    again = run("collect", tmp_path / "again", *more)
    same = (whole / "log.jsonl.gz").read_bytes() == (
        again / "log.jsonl.gz"
    ).read_bytes()
    assert same
    records = list(logs.read(whole / "log.jsonl.gz"))
    assert len(records) == 100 and len({r.task for r in records}) == 50
    assert all(r.log_probs is not None and len(r.log_probs) for r in records)
    assert json.loads((whole / "config.json").read_text())["versions"]["jax"]
    with pytest.raises(RunError, match="temperature: 1.0 there, 0.5 here"):
        run("collect", whole, *more, "--config.temperature=0.5")


def test_what_cannot_be_is_refused_in_words(begun, tmp_path):
    def refused(method, match, *more):
        with pytest.raises(RunError, match=match):
            run(method, tmp_path / "x", *more)

    refused("oreo", "config.model.path is ''", *on(begun)[1:])
    refused("oreo", "config.data.path is ''", on(begun)[0])
    refused("oreo", "there is no log", *on(begun), "--config.data.path=nowhere")
    refused("oreo", "config.level is 'word'", *on(begun), "--config.level=word")
    refused("oreo", "config.beta is 0", *on(begun), "--config.beta=0")
    refused("dpo", "pairs_per_task is 0", *on(begun), "--config.pairs_per_task=0")
    refused("oreo", "data.epochs is 0", *on(begun), "--config.data.epochs=0")
    refused("oreo", "eval.samples is -1", *on(begun), "--config.eval.samples=-1")
    refused("oreo", "a row holds 16", *on(begun), "--config.data.row_tokens=16")
    refused("sft", "config.task: largest must be at least 1", "--config.task.largest=0")
    refused("sft", "a multiple of twice", "--config.model.width=34")
    empty = "config.eval.split is 'dev': it must be a part with problems"
    refused("oreo", empty, *on(begun), "--config.task.dev_size=0")
    refused("oreo", "eval.split is 'verify'", *on(begun), "--config.eval.split=verify")
    model = on(begun)[0]
    refused("collect", "config.split is 'verify'", model, "--config.split=verify")
    empty = "config.split is 'train': it must be a part with problems"
    refused("collect", empty, model, "--config.task.train_size=0")
    refused("collect", "config.problems is -1", model, "--config.problems=-1")
    assert not (tmp_path / "x").exists()
    refused("sft", "config.data.flip is 0.1: it must be 0", "--config.data.flip=0.1")
    refused("kto", "a batch of one answer", *on(begun), "--config.data.batch_size=71")


def test_what_would_do_nothing_is_no_setting():
    dead = [
        *("optimizer.learning_rate", "drift.sample", "data.batch_size", "lora.rank"),
        *("log.keep_checkpoints", "resume", "parallel", "num_devices"),
        *("eval.every_updates", "eval.before", "eval.samples"),
    ]
    for method, more in (("search", []), ("collect", ["eval.split", "eval.problems"])):
        for key in (*dead, *more):
            with pytest.raises(border.ConfigError, match=f"config.{key} is not a set"):
                logged_runs.settings(method, f"--config.{key}=1")
        for key in ("eval.batch", "eval.prompt_tokens", "eval.max_tokens"):
            found = logged_runs.settings(method, f"--config.{key}=7")
            assert found.eval[key.removeprefix("eval.")] == 7


def test_a_line_that_cannot_be_used_stops_or_is_kept_aside(begun, tmp_path, capsys):
    lines = [json.dumps({"prompt": "1+1=?\n", "response": "#### 2", "reward": 1})] * 4
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([*lines[:2], '{"prompt": "1+1=?\\n"}', *lines[2:]]))
    more = (on(begun)[0], f"--config.data.path={log}", "--config.drift.sample=4")
    with pytest.raises(border.ConfigError, match="line 3"):
        run("oreo", tmp_path / "stop", *more)
    run("oreo", tmp_path / "skip", *more, "--config.data.on_error=skip")
    assert "1 lines skipped, the first is line 3" in capsys.readouterr().out
    (kept,) = (tmp_path / "skip" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(kept)["line"] == 3


@pytest.mark.parametrize("count", [2, 8])
def test_every_device_of_a_mesh_has_rows(tmp_path, count):
    """A batch that does not come out evenly would lie on every device whole."""
    log = tmp_path / "log.jsonl"
    lines = [{"prompt": f"{n}=?\n", "response": "1" * 60, "reward": 1} for n in "345"]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = (f"data.path={log}", "data.batch_size=8", "data.row_tokens=70")
    config = logged_runs.settings("oreo", *(f"--config.{word}" for word in words))
    found = offline.read_log(config, starts.choose_start(config), tmp_path)

    def plan(parallel):
        return offline.plan_of(config, oreo.method_of(config), found, parallel)

    assert plan(devices.jit()).rows == 3
    mesh = devices.mesh(count)
    dealt = plan(mesh)
    assert dealt.rows == {2: 4, 8: 8}[count] and dealt.num_devices == 1
    step = mesh.compile(lambda state, batch: (state, batch, {}))
    _, batch, _ = step(jnp.zeros(()), packing.pack(dealt, packing.batch_of(dealt, 0)))
    assert batch.ids.sharding.shard_shape(batch.ids.shape)[0] == dealt.rows // count
    config.data.batch_size = 9
    with pytest.raises(border.ConfigError, match=f"a multiple of the {count} devices"):
        plan(mesh)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kto_says_at_once_what_a_row_has_to_hold(tmp_path, seed):
    """Whichever answers the seed pairs, and though every line of the log fits."""
    said = [("1" * 30 + "=?\n", "#### 2"), ("1=?\n", "1" * 40), ("2=?\n", "3")]
    lines = [{"prompt": p, "response": r, "reward": 1} for p, r in said]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines * 4))

    def plan(row):
        words = (f"data.path={log}", f"seed={seed}", f"data.row_tokens={row}")
        config = logged_runs.settings("kto", *(f"--config.{word}" for word in words))
        start = starts.choose_start(config)
        found = offline.read_log(config, start, tmp_path)
        assert max(len(one.ids) for one in found) < 64
        return offline.plan_of(config, kto.method_of(config), found, devices.jit())

    match = "data.row_tokens is 64: it must be 0, or at least 74: KTO reads any answer"
    with pytest.raises(border.ConfigError, match=match):
        plan(64)
    assert plan(74).tokens == 74 and plan(0).tokens <= 80


def test_another_log_does_not_go_on_with_a_run(begun, tmp_path):
    log = tmp_path / "log.jsonl.gz"
    shutil.copy(begun / "log.jsonl.gz", log)
    more = (*on(begun), f"--config.data.path={log}")
    path = run("oreo", tmp_path / "run", *more)
    records = list(logs.read(log))
    # Of the same name, with one reward of another kind, or one other thing that is
    # learnt from: steps that end elsewhere, an attempt counted to another problem.
    said = records[0].response or ""
    for other in (
        records[0]._replace(reward=0.0),
        records[0]._replace(steps=(said[:3], said[3:])),
        records[0]._replace(task=records[-1].task),
    ):
        logs.write(log, [other, *records[1:]])
        with pytest.raises(RunError, match="log_digest: 'crc32:.* there, 'crc32:.* h"):
            run("oreo", path, *more)
    logs.write(log, records)
    run("oreo", path, *more)
