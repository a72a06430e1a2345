"""Rounds of collecting and learning: whole, broken off and gone on with, refused."""

import json
import os
import signal

import pytest

from experiments import border, collect, iterate
from rljax.training import loop
from rljax.training.files import RunError
from tests.experiments.logged_runs import MAINS, rows, run, settings, weights

# Round 1 learns from a log with right answers: such a model gives none.
TINY = (
    "--config.rounds=2",
    "--config.eval.problems=2",
    "--config.eval.max_tokens=8",
    "--config.task.train_size=16",
    "--config.collect.chunk=8",
    "--config.oreo.drift.sample=0",
    "--config.log.checkpoint_every_updates=2",
)
KEPT = ("--config.reference=first", "--config.critic=carried", "--config.old_data=True")
MODEL = "run/hf/model.safetensors"


def of(begun, *more):
    return (
        f"--config.model.path={begun / 'sft' / 'hf'}",
        f"--config.first_log={begun / 'log.jsonl.gz'}",
        *TINY,
        *more,
    )


def plan(*more):
    return iterate.plan(settings("iterate", "--config.model.path=M", *more), "W")


def asked(one):
    assert one.collect is not None
    return one.collect


def config_of(path):
    return json.loads((path / "run" / "config.json").read_text())["config"]


@pytest.fixture(scope="module")
def whole(begun, tmp_path_factory):
    """An iteration with all that is not the default."""
    return run("iterate", tmp_path_factory.mktemp("i") / "whole", *of(begun, *KEPT))


@pytest.fixture(scope="module")
def plain(begun, tmp_path_factory):
    """One with all defaults."""
    return run("iterate", tmp_path_factory.mktemp("i") / "plain", *of(begun))


def told(path):
    found = json.loads((path / "summary.json").read_text())
    for one in found["rounds"]:
        one.pop("train_seconds")
    return found


def test_goes_on_wherever_it_was_broken_off(begun, whole, tmp_path, monkeypatch):
    path, more = tmp_path / "again", of(begun, *KEPT)

    def write(name, records, plain=collect.logs.write):
        if name.name == "0000008.jsonl.gz":
            raise KeyboardInterrupt
        return plain(name, records)

    with monkeypatch.context() as patch:  # amid a collection
        patch.setattr(collect.logs, "write", write)
        with pytest.raises(KeyboardInterrupt):
            run("iterate", path, *more)
    done = {
        at: (path / "round_1" / at).stat().st_mtime_ns for at in ("round.json", MODEL)
    }
    parts = path / "round_2" / "log" / "parts"
    (part,) = parts.iterdir()
    written = part.stat().st_mtime_ns
    assert len(told(path)["rounds"]) == 1

    def call(held, state, position, plain=loop._call):
        if position.calls == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(held, state, position)

    with monkeypatch.context() as patch:  # amid the training after it
        patch.setattr(loop, "_call", call)
        run("iterate", path, *more)
    assert not (path / "round_2" / "round.json").exists()
    assert rows(path / "round_2" / "run")[-1]["updates"] == 3

    run("iterate", path, *more)
    assert told(path) == told(whole)
    for number in (1, 2):
        place = f"round_{number}"
        assert rows(path / place / "run") == rows(whole / place / "run")
        assert weights(path / place / "run") == weights(whole / place / "run")
    assert part.stat().st_mtime_ns == written and len(list(parts.iterdir())) == 2
    for at, when in done.items():
        assert (path / "round_1" / at).stat().st_mtime_ns == when


def test_nothing_is_done_again_and_rounds_may_grow(begun, whole, capsys, monkeypatch):
    def never(*_):
        raise AssertionError

    before = told(whole)
    monkeypatch.setattr(iterate.offline, "train_on_log", never)
    run("iterate", whole, *of(begun, *KEPT))
    assert told(whole) == before
    printed = capsys.readouterr().out
    assert "round 1: done\nround 2: done\nround  collected" in printed
    monkeypatch.setattr(collect, "main", never)
    with pytest.raises(AssertionError):  # the third begins
        run("iterate", whole, *of(begun, *KEPT), "--config.rounds=3")
    with pytest.raises(RunError, match="oreo.beta: 0.03 there, 0.5 here"):
        run("iterate", whole, *of(begun, *KEPT), "--config.oreo.beta=0.5")


def test_the_reference_stays_or_moves(begun, whole, plain):
    start, second = weights(begun / "sft"), rows(whole / "round_2" / "run")[1]
    assert config_of(whole / "round_2")["frozen"] == start
    assert abs(second["train/log_ratio_bad"]) > 1e-5
    # The other way the policy is its own reference again.
    second = rows(plain / "round_2" / "run")[1]
    assert config_of(plain / "round_2")["frozen"] == weights(plain / "round_1" / "run")
    assert config_of(plain / "round_2")["frozen"] != start
    assert abs(second["train/log_ratio_bad"]) < 1e-6


def test_the_critic_is_carried_or_fresh(whole, plain):
    for path, carried in ((whole, True), (plain, False)):
        first, second = (rows(path / f"round_{n}" / "run")[1] for n in (1, 2))
        assert first["critic/value_bad"] == 0
        assert (second["critic/value_bad"] != 0) == carried


def test_old_data_are_read_again_or_not(whole, plain):
    assert [one["items"] for one in told(whole)["rounds"]] == [72, 72 + 32]
    assert [one["items"] for one in told(plain)["rounds"]] == [72, 32]
    found = told(whole)
    assert found["rounds"][0]["collected"] is None
    assert found["rounds"][1]["collected"]["answers"] == 32
    assert not (whole / "round_1" / "log").exists()
    assert found["success"] == [
        found["rounds"][0]["before"], *(one["after"] for one in found["rounds"]),
    ]  # fmt: skip
    # What a round ends with the next one begins with.
    assert found["rounds"][1]["before"] == found["rounds"][0]["after"]


@pytest.mark.parametrize("method", ["rejection_sampling", "dpo", "kto"])
def test_every_method_goes_around(begun, tmp_path, method):
    more = of(
        begun, "--config.rounds=1", f"--config.method={method}",
        f"--config.{method}.drift.sample=0",
    )  # fmt: skip
    path = run("iterate", tmp_path / "x", *more)
    count = {"rejection_sampling": 24, "dpo": 48, "kto": 72}[method]
    assert told(path)["rounds"][0]["items"] == count
    assert weights(path / "round_1" / "run") != weights(begun / "sft")


@pytest.mark.parametrize("method", iterate.METHODS)
def test_round_1_is_what_collection_and_method_do_alone(method):
    first = plan(f"--config.method={method}", "--config.seed=3")[0]
    more = ("--config.model.path=M", "--config.seed=3")
    log = "--config.data.path=W/round_1/log/log.jsonl.gz"
    assert first.train.to_dict() == settings(method, *more, log).to_dict()
    alone = settings("collect", *more, "--config.source=round 1").to_dict()
    assert asked(first).to_dict() == alone


def test_settings_of_later_rounds():
    first, second, third = plan("--config.rounds=3")
    assert asked(third).model.path == "W/round_2/run/hf" == third.train.model.path
    assert third.train.model.policy == "" == third.train.critic.path
    assert third.train.data.path == "W/round_3/log/log.jsonl.gz"
    assert asked(third).source == "round 3"
    seeds = [asked(one).seed for one in (first, second, third)]
    assert seeds[0] == 0 and len(set(seeds)) == 3
    assert seeds == [one.train.seed for one in (first, second, third)]
    other = plan("--config.rounds=3", "--config.seed=1")
    assert not set(seeds) & {asked(one).seed for one in other}

    one, _, three = plan("--config.rounds=3", "--config.first_log=a,b", *KEPT)
    assert one.collect is None and one.train.data.path == "a,b"
    assert one.train.critic.path == "" == one.train.model.policy
    assert asked(three).model.path == "W/round_2/run/hf"
    assert (three.train.model.path, three.train.model.policy) == (
        "M",
        "W/round_2/run/hf",
    )
    assert three.train.critic.path == "W/round_2/run/hf"
    assert three.train.data.path == (
        "a,b,W/round_2/log/log.jsonl.gz,W/round_3/log/log.jsonl.gz"
    )


def test_what_cannot_be_is_refused_before_anything_is_done(tmp_path):
    def refused(match, *more, folder="x"):
        with pytest.raises(RunError, match=match):
            run("iterate", tmp_path / folder, "--config.model.path=M", *more)
        assert not (tmp_path / folder).exists()

    refused("config.rounds is 0", "--config.rounds=0")
    refused("config.method is 'sft'", "--config.method=sft")
    refused("config.reference is 'it'", "--config.reference=it")
    refused("config.critic is 'new'", "--config.critic=new")
    refused("config.model.path is ''", "--config.model.path=")
    refused("has a comma", folder="a,b")
    refused("in config.oreo, .* config.beta is 0.0: it", "--config.oreo.beta=0")
    first, carried = KEPT[:2]
    refused("has no reference", first, "--config.method=rejection_sampling")
    refused("reference is 'first'.*lora.rank=2", first, "--config.lora.rank=2")
    refused("critic is 'carried'.*method=kto", carried, "--config.method=kto")
    refused("critic is 'carried'.*lora.rank=2", carried, "--config.lora.rank=2")
    refused("oreo.value=adapter", carried, "--config.oreo.value=adapter")
    for key in ("data.path", "model.policy", "oreo.critic.path", "oreo.data.path"):
        with pytest.raises(border.ConfigError, match=f"{key} is not a setting"):
            settings("iterate", f"--config.{key}=x")
    assert set(iterate.METHODS) < set(MAINS)


def test_a_table_by_hand():
    log = {"answers": 1_000, "right": 0.25}
    one = {
        "round": 1, "before": 0.5, "after": 0.625, "collected": log, "items": 1_000,
        "updates": 63, "alarms": ["far"],
    }  # fmt: skip
    two = one | {"round": 2, "after": 0.75, "collected": None, "alarms": []}
    assert iterate.table([one, two]).splitlines() == [
        "round  collected  right    read  updates  success",
        "    0                                       0.500",
        "    1      1,000  0.250   1,000       63    0.625",
        "       alarm: far",
        "    2                     1,000       63    0.750",
    ]
