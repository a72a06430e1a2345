"""Answers in logs, searches and evaluations are judged as `task` says."""

import contextlib
import json
import types
from typing import Any

import pytest

from experiments import judging, reasoning, search
from experiments.border import ConfigError
from experiments.configs import collect as collect_config
from experiments.configs import grpo as grpo_config
from experiments.configs import offline as configs
from experiments.configs import search as search_config
from rljax.data import logs
from rljax.envs import verifiers
from tests.envs import odd_verifiers
from tests.experiments.logged_runs import on, rows, run
from tests.text import speaking

SAID = r"So 8 + 64 cats. The answer is 72."


@pytest.fixture
def outside(monkeypatch):
    """A verifier in a pool that is not there, which notes when it is opened."""
    pools = []

    @contextlib.contextmanager
    def open_pool(verify, workers, seconds):
        pools.append("opened")
        assert (workers, seconds) == (2, 10.0)
        yield verifiers.in_turn(verify)
        pools.append("closed")

    kind = reasoning.TASKS["arithmetic"]._replace(verifiers=("exact", "odd"))
    monkeypatch.setitem(reasoning.TASKS, "arithmetic", kind)
    even = ("none", lambda: odd_verifiers.even)
    monkeypatch.setitem(judging.PACKAGES, "odd", even)
    monkeypatch.setattr(judging.verifier_pool, "open_pool", open_pool)
    words = ("--config.task.verifier=odd",)
    return types.SimpleNamespace(pools=pools, words=words)


@pytest.fixture
def files(tmp_path):
    """A file of GSM8K's form, one of MATH's."""
    rows = {
        "gsm8k": {"question": "How many?", "answer": "8+64=72\n#### 72"},
        "math": {"problem": "How much?", "solution": r"It is \boxed{2\sqrt{2}}."},
    }
    for name, row in rows.items():
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 3)
    return tmp_path


def task_of(files, name, config=None, **task):
    config = configs.shared("gsm8k") if config is None else config
    config.task.update(name=name, train=str(files / f"{name}.jsonl"), dev_size=1)
    config.task.update(test="", **task)
    return reasoning.make_task(config, speaking.byte_level())


@pytest.mark.parametrize("prompt", ["line", "question", "chat", "deepseek_math"])
def test_stated_answers_are_found_whatever_the_prompt_is(files, prompt):
    for name in ("gsm8k", "math"):
        judge = task_of(files, name, prompt=prompt).judge
        assert judge.verify("72", SAID) and judge.said(SAID) == "72."
        assert judge.verify("72", "It is 72") and judge.verify("72", r"\boxed{72} or 3")
        assert not judge.verify("72", "The answer is 73.")
        form = task_of(files, name, prompt=prompt, reading="form").judge
        assert form.verify("72", SAID) == (prompt == "deepseek_math")
    assert task_of(files, "gsm8k").judge.verify("72", "#### 72")


def test_other_tasks_and_rewards_keep_to_the_form(files):
    tokens = speaking.byte_level()
    for make in (configs.shared, collect_config.get_config, search_config.get_config):
        assert make("smoke").task.reading == ""
        judge = reasoning.make_task(make("smoke"), tokens).judge
        assert not judge.verify("72", SAID) and judge.verify("72", "#### 72")
    online: Any = grpo_config.get_config("gsm8k")
    assert not task_of(files, "gsm8k", online).judge.verify("72", SAID)
    config = configs.shared("smoke")
    config.task.reading = "stated"
    with pytest.raises(ConfigError, match="reading is 'stated': it must be form for"):
        reasoning.make_task(config, tokens)
    match = "task.reading is 'any': it must be stated or form for task math"
    with pytest.raises(ConfigError, match=match):
        task_of(files, "math", reading="any")


def test_what_sympy_compares_is_what_was_stated(files, monkeypatch):
    """Which of math-verify's readings is taken, without the package."""
    monkeypatch.setitem(
        judging.PACKAGES, "math_verify", ("math", lambda: odd_verifiers.equal)
    )
    monkeypatch.setitem(
        judging._STATED, "math_verify", ("math", lambda: odd_verifiers.even)
    )
    for reading, right in (("", [True, False]), ("form", [False, True])):
        config = configs.shared("gsm8k")
        task = task_of(files, "math", config, verifier="math_verify", reading=reading)
        assert (task.judge.verify is verifiers.stated) == (not reading)
        with judging.open_judge(config, task.judge.verify) as judge:
            assert judge([("1", "ab"), ("x", "x")]) == right


def test_a_collection_is_judged_as_asked(begun, tmp_path, outside):
    more = (f"--config.model.path={begun / 'sft' / 'hf'}", "--config.problems=20")
    path = run("collect", tmp_path / "log", *more, *outside.words)
    assert outside.pools == ["opened", "closed"]
    records = list(logs.read(path / "log.jsonl.gz"))
    assert {record.reward for record in records if not record.truncated} == {0, 1}
    for record in records:
        right = not record.truncated and len(record.response or "") % 2 == 0
        assert record.reward == right


def test_evaluations_and_searches_are_judged_as_asked(begun, tmp_path, outside):
    some = ("--config.drift.sample=0", "--config.eval.samples=8")
    path = run("oreo", tmp_path / "run", *on(begun, *outside.words, *some))
    assert outside.pools == ["opened", "closed"]
    # Of an answer that ends anyhow; none of these is right in earnest.
    assert rows(path)[-1]["eval/dev/arithmetic_sampled"] > 0
    config = search_config.get_config("smoke")
    config.update(beams=(3,), most_samples=8)
    config.model.path = str(path / "hf")
    config.eval.problems = 8
    config.task.verifier = "odd"
    search.main(config, str(tmp_path / "even"))
    assert outside.pools == ["opened", "closed"] * 2
    found = json.loads((tmp_path / "even" / "search.json").read_text())["methods"]
    assert found["beam 3"]["accuracy"] > 0
    assert found["best of N, tokens of beam 3"]["accuracy"] > 0
