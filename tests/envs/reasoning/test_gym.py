"""Problems and scorers of reasoning-gym; skipped where it is not installed."""

import importlib.util
import json

import pytest

from rljax.envs import verifier_pool
from rljax.envs.verifiers import Failure

if importlib.util.find_spec("reasoning_gym") is None:
    pytest.skip("reasoning-gym is not installed", allow_module_level=True)

from rljax.envs.reasoning import gym


def sums(problem):
    """The answer to "State the final answer to ...: 4 + 3 =", by Python."""
    expression = problem.prompt.rpartition(":")[2].strip().removesuffix("=")
    return eval(expression)


def test_sums_are_right_by_python():
    problems = gym.make("chain_sum", 3, 20)
    assert len({problem.prompt for problem in problems}) == 20
    for problem in problems:
        right = sums(problem)
        assert gym.verify(problem.answer, f"so\n#### {right}\n")
        assert not gym.verify(problem.answer, f"#### {right + 1}")
        assert not gym.verify(problem.answer, str(right))  # no mark


def test_what_scores_less_than_1_is_wrong():
    (problem,) = gym.make("leg_counting", 0, 1)
    right = json.loads(problem.answer)["answer"]
    score = gym.reasoning_gym.get_score_answer_fn("leg_counting")
    said = f"{right} or so"
    # Whatever a dataset gives for less than the answer: it is no success here.
    assert 0 <= score(answer=said, entry=json.loads(problem.answer)) < 1
    assert not gym.verify(problem.answer, f"#### {said}")
    assert gym.verify(problem.answer, f"#### {right}")


def test_half_a_score_is_no_success(monkeypatch):
    (problem,) = gym.make("chain_sum", 0, 1)
    for score, right in ((0.5, False), (0.99, False), (1.0, True), (1, True)):
        monkeypatch.setattr(
            gym.reasoning_gym, "get_score_answer_fn",
            lambda name, score=score: lambda answer, entry: score,
        )  # fmt: skip
        assert gym.verify(problem.answer, "#### 1") is right


def test_parts_are_disjoint_and_stay():
    sets = gym.split("chain_sum", 1, {"test": 20, "dev": 10, "train": 30})
    prompts = [problem.prompt for part in sets.values() for problem in part]
    assert len(set(prompts)) == len(prompts) == 60
    fewer = gym.split("chain_sum", 1, {"test": 20, "dev": 10, "train": 3})
    assert fewer["test"] == sets["test"] and fewer["dev"] == sets["dev"]
    assert fewer["train"] == sets["train"][:3]


def test_in_processes():
    problems = gym.make("chain_sum", 3, 6)
    asked = [(p.answer, f"#### {sums(p) + n % 2}") for n, p in enumerate(problems)]
    with verifier_pool.open_pool(gym.verify, 2, 60.0) as judge:
        assert judge(asked) == [True, False] * 3
        assert judge([("{}", "#### 1")]) == [Failure("KeyError: 'metadata'")]


def test_what_cannot_be_used_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="has no dataset 'chess', only .*chain_sum"):
        gym.make("chess", 0, 1)
    with pytest.raises(ValueError, match="got -1 and 1"):
        gym.make("chain_sum", -1, 1)
    entry = {"question": "?", "answer": "1", "metadata": {"source_dataset": "gcd"}}
    drawn: list[dict] = [entry]
    monkeypatch.setattr(gym.reasoning_gym, "create_dataset", lambda *_, **__: drawn * 9)
    with pytest.raises(ValueError, match="of 8 drawn only 1 are distinct"):
        gym.make("gcd", 0, 2)
    drawn[0]["answer"] = {1}
    with pytest.raises(ValueError, match="gym/gcd/0: what its scorer needs is no JSON"):
        gym.make("gcd", 0, 1)
    drawn[0]["answer"] = "1"
    nothing = lambda name: lambda answer, entry: 0.99  # noqa: E731
    monkeypatch.setattr(gym.reasoning_gym, "get_score_answer_fn", nothing)
    with pytest.raises(ValueError, match="its own answer '1' scores less than 1"):
        gym.make("gcd", 0, 1)
