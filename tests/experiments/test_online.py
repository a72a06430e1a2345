"""Whole runs on problems, in this process: finished, gone on with, compared, refused.

The model has random weights; what is right is said in `online_runs`.
"""

import json
import math
import shutil
import types

import numpy as np
import pytest

from experiments import border, judging, online, reasoning, rrl, starts
from rljax.training import checkpoint
from rljax.training import online as steps
from rljax.training.files import RunError
from tests.envs import odd_verifiers
from tests.experiments.logged_runs import rows, weights
from tests.experiments.online_runs import CONFIGS, evenly, rrl_config, run, same


def require_alike(left, right):
    """The same metrics in every row, but for rounding."""
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(
            [math.nan if x is None else x for x in a.values()],
            [math.nan if x is None else x for x in b.values()],
            rtol=2e-3, atol=2e-4,
        )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def even():
    """Problems whose verifier counts characters."""
    with evenly():
        yield


@pytest.fixture(scope="module")
def whole(even, tmp_path_factory):
    return run("rrl", tmp_path_factory.mktemp("online") / "whole")


def test_a_run_leaves_what_it_found(whole):
    found = rows(whole)
    assert [row["updates"] for row in found] == [0, 2, 4, 6]
    last = found[-1]
    assert last["rollout/answers"] == 24 and last["rollout/steps"] == 3
    assert last["replay/fill"] > 0
    assert max(row.get("replay/share", 0) for row in found) > 0
    assert all(row["rollout/sampler_gap"] < 1e-4 for row in found[1:])
    # The critic warms up in the first step, and the policy stands still.
    assert found[1]["train/log_ratio"] < 1e-5 < 1e-4 < found[3]["train/log_ratio"]
    assert found[1]["critic/grad_norm"] > 0
    summary = json.loads((whole / "summary.json").read_text())
    assert set(summary["after"]) == {
        "arithmetic", "arithmetic_pass_1", "arithmetic_pass_4"
    }  # fmt: skip
    assert summary["updates"] == 6 and summary["problems"] == 6
    assert summary["tokens"] == last["tokens"] <= 24 * 32
    assert summary["ever_solved"] >= summary["ever_solved_bare"] > 0
    assert summary["ever_solved"] == round(6 * last["rollout/ever_solved"])
    assert (whole / "report.html").stat().st_size > 5_000
    assert "RRL on PPO" in (whole / "hf" / "README.md").read_text()


def test_a_run_that_goes_on_is_one_that_never_stopped(whole, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    shutil.rmtree(again / "hf")
    assert 4 in checkpoint.updates(again / "checkpoints")
    run("rrl", again, "--config.resume=4")
    assert all(same(a, b) for a, b in zip(rows(again), rows(whole), strict=True))
    assert weights(again) == weights(whole)


def test_a_number_of_tokens_ends_a_run(whole, tmp_path):
    """The second step reaches the budget: it is the last, and evaluated as that."""
    counts = [row["tokens"] for row in rows(whole)]
    most = f"--config.rollout.tokens={counts[2] - 1}"
    short = run("rrl", tmp_path / "short", most)
    found = rows(short)
    assert [row["tokens"] for row in found] == counts[:3]
    assert all(same(a, b) for a, b in zip(found[:2], rows(whole)[:2], strict=True))
    # Schedules go by steps, so what is learnt is the longer run's.
    last, theirs = found[2], rows(whole)[2]
    assert same({k: last[k] for k in theirs}, theirs)
    assert last["eval/dev/arithmetic_pass_4"] >= 0
    summary = json.loads((short / "summary.json").read_text())
    assert summary["tokens"] == counts[2] and summary["steps"] == 2
    shutil.rmtree(short / "hf")
    run("rrl", short, most, "--config.resume=2")
    assert all(same(a, b) for a, b in zip(rows(short), found, strict=True))


def test_without_replay_it_is_its_base_bit_for_bit(tmp_path):
    base = run("ppo", tmp_path / "ppo")
    none = run("rrl", tmp_path / "rrl", "--config.replay.share=0.0")
    for a, b in zip(rows(base), rows(none), strict=True):
        # The sampler's cache holds states, too; what is learnt from is the learner's.
        gap = "rollout/sampler_gap"
        a, b = ({k: v for k, v in row.items() if k != gap} for row in (a, b))
        assert same(a, {k: v for k, v in b.items() if k in a}) and all(
            k.startswith("replay/") for k in b.keys() - a
        )
    assert weights(base) == weights(none)
    assert rows(none)[-1]["replay/fill"] > 0  # states are kept, and never gone on from


# As a step of one update, which of GRPO is fresh: nothing is read before it.
ONE_UPDATE = ("--config.loss.batch_groups=4", "--config.loss.kl_weight=0.1")


@pytest.fixture(scope="module")
def fresh(even, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(steps, "read_all")  # nobody may ask for it
        return run("grpo", tmp_path_factory.mktemp("fresh") / "grpo", *ONE_UPDATE)


def test_what_one_update_learns_is_the_same_with_nothing_read_before(
    fresh, tmp_path, monkeypatch
):
    monkeypatch.setattr(online, "fresh", lambda config: False)
    readings, read_all = [], steps.read_all
    monkeypatch.setattr(
        steps, "read_all", lambda *of: readings.append(1) or read_all(*of)
    )
    read = run("grpo", tmp_path / "read", *ONE_UPDATE)
    require_alike(rows(fresh), rows(read))
    last = rows(fresh)[-1]
    assert last["rollout/kl"] > 0 and last["train/grad_norm"] > 0
    assert len(readings) == 3


def test_without_replay_fresh_grpo_is_itself_bit_for_bit(fresh, tmp_path):
    """Though replay has the answers read, for their entropy."""
    none = run(
        "rrl", tmp_path / "rrl", *ONE_UPDATE, "--config.base=grpo",
        "--config.replay.share=0.0",
    )  # fmt: skip
    for a, b in zip(rows(fresh), rows(none), strict=True):
        gap = "rollout/sampler_gap"
        a, b = ({k: v for k, v in row.items() if k != gap} for row in (a, b))
        assert same(a, {k: v for k, v in b.items() if k in a})
    assert weights(fresh) == weights(none)
    assert rows(none)[-1]["replay/fill"] > 0


def test_how_far_a_fresh_policy_went_is_read_now_and_then(tmp_path):
    """Every second step of three, and what is learnt is the same bit for bit."""
    one = ("--config.loss.batch_groups=4", "--config.base=grpo")
    told = run("rrl", tmp_path / "told", *one)
    never = run("rrl", tmp_path / "never", *one, "--config.log.kl_every_steps=0")
    assert ["rollout/kl" in row for row in rows(told)] == [False, False, True, False]
    far = rows(told)[2].pop("rollout/kl")
    assert 0 < far < 1  # the policy has moved by one update
    for a, b in zip(rows(told), rows(never), strict=True):
        a.pop("rollout/kl", None)
        assert same(a, b)
    assert weights(told) == weights(never)


def test_grpo_alone_and_with_replay(tmp_path):
    alone = run("grpo", tmp_path / "grpo", "--config.rollout.steps=2")
    assert any(row["train/varied_groups"] > 0 for row in rows(alone)[1:])
    with_ = run("rrl", tmp_path / "rrl", "--config.base=grpo")
    assert rows(with_)[-1]["replay/share"] > 0
    assert not any("critic" in key for key in rows(with_)[-1])


def test_countdown_is_learnt_from_its_own_verifier(tmp_path):
    """At the settings of its scale, in a run and a model as small as the others."""
    many = ("task.name=countdown", "rollout.max_tokens=48", "eval.max_tokens=48")
    found = run(
        "rrl", tmp_path / "rrl", *(f"--config.{one}" for one in many),
        "--config.rollout.steps=2", "--config.base=grpo",
    )  # fmt: skip
    last = rows(found)[-1]
    assert last["rollout/answers"] == 16
    assert last["rollout/verifier_failed"] == last["rollout/verifier_timeouts"] == 0
    summary = json.loads((found / "summary.json").read_text())
    assert "countdown" in summary["after"] and summary["problems"] == 6


@pytest.mark.parametrize("method", ["ppo", "grpo", "rrl", "sft"])
def test_countdown_has_a_scale_whose_problems_fit(method):
    config = border.read_command(
        [f"--config={CONFIGS / method}.py:countdown", "--workdir=x"]
    ).config
    start = starts.choose_start(config)
    config.task.solved_size = config.task.train_size = 200
    task = reasoning.make_task(config, start.tokenizer)
    rooms = [config.eval, *([config.rollout] if "rollout" in config else [])]
    for problem in (*task.solved, *task.train, *task.dev, *task.test):
        assert task.judge.verify(problem.answer, problem.solution)
        assert start.tokenizer.unk_token_id not in start.tokenizer.encode(
            problem.prompt + problem.solution
        )
        for room in rooms:  # of a token a character, and the end
            assert len(problem.prompt) <= room.prompt_tokens
            assert len(problem.solution) < room.max_tokens
    steps_of = {problem.solution.count("\n") for problem in task.train}
    assert steps_of == {2, 3}  # so many borders a state may end at


def test_a_verifier_in_other_processes_judges_as_it_would_here(tmp_path, monkeypatch):
    """With one that raises, one that hangs and verdicts that depend on the answer."""
    kind = reasoning.TASKS["arithmetic"]
    outside = kind._replace(verifiers=("exact", "odd"))
    monkeypatch.setitem(reasoning.TASKS, "arithmetic", outside)
    monkeypatch.setitem(judging.PACKAGES, "odd", ("none", lambda: odd_verifiers.even))
    settings = ("task.verifier=odd", "task.verifier_seconds=60.0", "rollout.steps=2")
    there = run("grpo", tmp_path / "there", *(f"--config.{one}" for one in settings))
    here = run("grpo", tmp_path / "here", "--config.rollout.steps=2")
    assert all(same(a, b) for a, b in zip(rows(there), rows(here), strict=True))
    assert weights(there) == weights(here)


def test_failures_are_counted_and_teach_nothing(tmp_path, monkeypatch):
    kind = reasoning.TASKS["arithmetic"]
    outside = kind._replace(verifiers=("exact", "odd"))
    monkeypatch.setitem(reasoning.TASKS, "arithmetic", outside)
    monkeypatch.setitem(judging.PACKAGES, "odd", ("none", lambda: odd_verifiers.late))
    settings = ("task.verifier=odd", "task.verifier_seconds=0.5", "rollout.steps=1")
    more = ("eval.before=False", "eval.samples=0", "eval.problems=1")
    found = run(
        "grpo", tmp_path / "late", *(f"--config.{one}" for one in settings + more)
    )
    (row,) = [row for row in rows(found) if row["updates"] == 2]
    ended = round(8 * (1 - row["rollout/cut_short"]))
    assert ended > 0
    assert row["rollout/verifier_timeouts"] + row["rollout/verifier_failed"] == ended
    assert row["rollout/verifier_timeouts"] > 0
    assert (
        row["train/grad_norm"] == 0
    )  # what did not end is wrong, and nothing is right


@pytest.mark.parametrize("way", ["pmap", "mesh"])
def test_two_devices_are_one(whole, tmp_path, way):
    two = run(
        "rrl", tmp_path / "two", f"--config.parallel={way}", "--config.num_devices=2"
    )
    require_alike(rows(whole), rows(two))


@pytest.mark.parametrize(
    ("method", "match", "more"),
    [
        ("ppo", "loss.batch_groups is 3: it must be a divisor", "loss.batch_groups=3"),
        ("ppo", "ppo.warmup is 3: it must be below rollout.steps", "ppo.warmup=3"),
        ("ppo", "ppo.gamma is 1.5", "ppo.gamma=1.5"),
        ("ppo", "ppo.value is 'none'", "ppo.value=none"),
        ("ppo", r"eval.pass_k is \(1, 5\): .*eval.samples, 4", "eval.pass_k=(1,5)"),
        ("ppo", "rollout.prompt_tokens is 5: it must be", "rollout.prompt_tokens=5"),
        ("ppo", "rollout.tokens is -1: it must be at least 0", "rollout.tokens=-1"),
        ("rrl", r"replay.canonical is 3: .*in .0, 2.", "replay.canonical=3"),
        ("ppo", "task.train_size is 0: it must be above 0", "task.train_size=0"),
        ("ppo", "task.verifier is 'none': it must be exact for", "task.verifier=none"),
        ("grpo", "rollout.samples is 1", "rollout.samples=1"),
        ("grpo", "grpo.advantage is 'none'", "grpo.advantage=none"),
        ("grpo", "loss.ratio is 'step'", "loss.ratio=step"),
        (
            "rrl",
            "replay.state_tokens is 32: it must be below",
            "replay.state_tokens=32",
        ),
        ("rrl", "config.replay: share is 0.7, more than the 0.5", "replay.share=0.7"),
        ("rrl", "base is 'sft'", "base=sft"),
        (
            "rrl",
            "replay.most is 0.2: it must be at least 1 of rollout.groups, 4: no group",
            "replay.most=0.2 --config.replay.share=0.1",
        ),
        ("rrl", "replay.where is 'group'", "replay.where=group"),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path, method, match, more):
    with pytest.raises(RunError, match=match):
        run(method, tmp_path / "x", *f"--config.{more}".split())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("base, chains", [("ppo", False), ("grpo", True)])
def test_scores_of_groups_make_no_state_redundant(base, chains):
    """And a critic scores anew unless it is told not to."""
    spec = f"--config={CONFIGS / 'rrl'}.py:smoke"
    words = [
        spec,
        "--workdir=x",
        f"--config.base={base}",
        "--config.replay.rescore=False",
    ]
    settings = rrl.method_of(border.read_command(words).config).replay
    found = settings(types.SimpleNamespace(eos_ids=(1,)))  # pyrefly: ignore
    assert (found.chains, found.rescore, found.end_ids) == (chains, False, (1,))


def test_a_step_of_one_group_replays_all_or_nothing(tmp_path):
    """A half of one group is none, whatever the share."""
    one = ("--config.rollout.groups=1", "--config.loss.batch_groups=1")
    match = "replay.most is 0.5: it must be at least 1 of rollout.groups, 1"
    with pytest.raises(RunError, match=match):
        run("rrl", tmp_path / "x", *one)
    config = rrl_config(*one, "--config.replay.most=1.0")
    assert rrl.method_of(config).replay is not None
    config = rrl_config(*one, "--config.replay.share=0.0")
    assert rrl.method_of(config).replay is not None


def test_what_the_base_cannot_say_is_refused(tmp_path):
    with pytest.raises(RunError, match="GRPO has no critic that could say"):
        run("rrl", tmp_path / "x", "--config.base=grpo", "--config.replay.score=value")
    with pytest.raises(RunError, match="a multiple of the 4 devices"):
        run("ppo", tmp_path / "x", "--config.parallel=pmap", "--config.num_devices=4")
    with pytest.raises(RunError, match="a multiple of the 4 devices"):
        run("ppo", tmp_path / "x", "--config.parallel=mesh", "--config.num_devices=4")
