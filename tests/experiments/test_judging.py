"""Who judges, as settings say; what cannot be is refused in words."""

import importlib.util
import json

import pytest
from ml_collections import config_dict

from experiments import judging, reasoning
from experiments.border import ConfigError
from experiments.configs import online
from rljax.envs.verifiers import Failure
from rljax.text import tokenizer
from tests.envs import broken_verifier, odd_verifiers


def config(verifier="odd", workers=1, seconds=60.0):
    task = {
        "verifier": verifier,
        "verifier_workers": workers,
        "verifier_seconds": seconds,
    }
    return config_dict.ConfigDict({"task": task})


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """Verifiers that are there, that are missing, and that only look as if."""

    def missing():
        raise ImportError("No module named 'nowhere'")

    for name, find in {
        "odd": lambda: odd_verifiers.equal,
        "missing": missing,
        "broken": lambda: broken_verifier.verify,
    }.items():
        monkeypatch.setitem(judging.PACKAGES, name, ("some", find))


def none(answer, response):
    raise AssertionError("the task's own verifier is not asked")


def test_the_task_s_own_judges_in_this_process():
    asked = []

    def own(answer, response):
        asked.append(response)
        return answer == response

    with judging.open_judge(config("exact"), own) as judge:
        assert judge([("1", "1"), ("1", "2")]) == [True, False]
    assert asked == ["1", "2"]
    # A workdir of an earlier version says nothing about verifiers.
    with judging.open_judge(config_dict.ConfigDict({"task": {}}), own) as judge:
        assert judge([("1", "1")]) == [True]


def test_another_judges_in_processes():
    with judging.open_judge(config(), none) as judge:
        found = judge([("1", "1"), ("1", "exit"), ("1", "2")])
    gone = Failure("its process is gone: it ended with status 3")
    assert found == [True, gone, False]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"verifier": "sympy"}, "task.verifier is 'sympy': it must be one of .*odd"),
        ({"workers": 0}, "task.verifier_workers is 0: it must be at least 1"),
        ({"seconds": 0.0}, "task.verifier_seconds is 0.0: it must be above 0"),
        ({"verifier": "missing"}, r"No module .*: pip install 'rljax\[some\]'"),
        ({"verifier": "broken"}, "'broken': a verifier's process did not start: Imp"),
    ],
)
def test_what_cannot_be_is_refused_in_words(settings, match):
    with pytest.raises(ConfigError, match=match):
        with judging.open_judge(config(**settings), none):
            pass


@pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is not None, reason="math-verify is there"
)
def test_math_verify_that_is_missing_says_what_to_do():
    with pytest.raises(ConfigError, match=r"pip install 'rljax\[math\]'"):
        with judging.open_judge(config("math_verify"), none):
            pass


@pytest.mark.parametrize("name", ["gym", "arithmetic"])
def test_gym_is_judged_by_its_scorers_and_nothing_else_is(name):
    settings = online.shared("smoke")
    settings.task.name = name
    settings.task.verifier = {"gym": "exact", "arithmetic": "gym"}[name]
    match = f"task.verifier is .* it must be {'gym' if name == 'gym' else 'exact'} for"
    with pytest.raises(ConfigError, match=match):
        reasoning.make_task(settings, tokenizer.character_level("x"))


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is not None,
    reason="reasoning-gym is there",
)
def test_gym_that_is_missing_says_what_to_do():
    settings = online.shared("smoke")
    settings.task.name = settings.task.verifier = "gym"
    match = r"task.name is 'gym', .*pip install 'rljax\[gym\]'"
    with pytest.raises(ConfigError, match=match):
        reasoning.make_task(settings, tokenizer.character_level("x"))


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="no reasoning-gym"
)
def test_a_task_of_gym_is_judged_in_processes():
    settings = online.shared("smoke")
    settings.task.name = settings.task.verifier = "gym"
    task = reasoning.make_task(settings, tokenizer.character_level("x"))
    assert [len(part) for part in task[:4]] == [64, 64, 8, 8]
    pairs = [
        (one.answer, f"#### {json.loads(one.answer)['answer']}") for one in task.dev
    ]
    with judging.open_judge(settings, none) as judge:
        assert judge(pairs) == [True] * 8
    settings.task.gym = "chess"
    with pytest.raises(ConfigError, match="config.task: reasoning-gym has no dataset"):
        reasoning.make_task(settings, tokenizer.character_level("x"))


@pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="no math-verify"
)
def test_math_verify_judges():
    with judging.open_judge(config("math_verify"), none) as judge:
        assert judge([("1/2", "#### 0.5"), ("1/2", "#### 2")]) == [True, False]
