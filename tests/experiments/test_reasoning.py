"""What a task holds, and what share of problems a policy gets right."""

import numpy as np
import pytest

from experiments import border, reasoning, starts
from experiments.configs import online as configs
from experiments.configs import rrl
from rljax.envs.reasoning.problems import Problem
from rljax.text.tokenizer import character_level

ASKED = [Problem(f"t{n}", f"{n}?", str(n), "") for n in range(reasoning.CHUNK + 3)]


def answerer(calls):
    """The first sample of a problem is right, the second if its number is even."""

    def ask(params, asked, samples, temperature, seed):
        calls.append((len(asked), samples, temperature, seed))
        right = [
            j == 0 or int(problem.answer) % 2 == 0
            for problem in asked
            for j in range(samples)
        ]
        none = np.zeros(len(right), bool)
        return reasoning.Answers([], [], none, np.array(right))

    return reasoning.Answerer(ask, str)


def test_greedy_and_sampled_shares():
    calls, pauses = [], []
    found = reasoning.accuracy(answerer(calls), {}, ASKED, lambda: pauses.append(1))
    assert found == 1.0 and len(pauses) == 2
    size = reasoning.CHUNK
    assert calls == [(size, 1, 0.0, 0), (3, 1, 0.0, size)]
    calls.clear()
    even = (len(ASKED) + 1) // 2
    found = reasoning.accuracy(answerer(calls), {}, ASKED, samples=2)
    assert found == (len(ASKED) + even) / (2 * len(ASKED))
    # Chunks draw with different keys, the same at every call.
    assert calls == [(size, 2, 1.0, 0), (3, 2, 1.0, size)]


def test_drills_are_learnt_from_and_never_asked():
    config = rrl.get_config("smoke")
    config.task.products, config.task.drills = 1.0, 7
    tokens = starts.choose_start(config).tokenizer
    task = reasoning.make_task(config, tokens)
    config.task.drills = 0
    plain = reasoning.make_task(config, tokens)
    assert len(task.solved) == len(plain.solved) + 7
    assert task.solved[: len(plain.solved)] == plain.solved
    assert all("*" not in one.prompt for one in task.solved[-7:])
    for name in ("train", "dev", "test"):
        assert getattr(task, name) == getattr(plain, name)
    config.task.products, config.task.drills = 0.5, 7
    with pytest.raises(border.ConfigError, match="config.task: drills are sums"):
        reasoning.make_task(config, tokens)


@pytest.mark.parametrize(
    ("name", "verifier", "prompt", "reading", "expected"),
    [
        ("arithmetic", "exact", "line", "form", (True, False, False)),
        ("countdown", "exact", "line", "form", (True, False, False)),
        ("gsm8k", "exact", "line", "form", (True, False, False)),
        ("gsm8k", "exact", "line", "stated", (True, True, True)),
        ("math", "exact", "line", "form", (False, True, False)),
        ("math", "math_verify", "line", "form", (True, True, False)),
        ("gsm8k", "math_verify", "line", "form", (True, True, False)),
        ("math", "exact", "deepseek_math", "form", (False, True, True)),
    ],
)
def test_what_states_an_answer_is_what_the_verifier_reads(
    monkeypatch, name, verifier, prompt, reading, expected
):
    empty = reasoning.TASKS[name]._replace(parts=lambda task, put: ([], [], [], []))
    monkeypatch.setitem(reasoning.TASKS, name, empty)
    config = configs.shared("smoke")
    config.task.name, config.task.verifier = name, verifier
    config.task.prompt, config.task.reading = prompt, reading
    answered = reasoning.make_task(config, character_level("x")).judge.answered
    texts = ("1\n#### 3\n", r"\boxed{3}", "The answer is 3.")
    assert tuple(map(answered, texts)) == expected
    assert not answered("1+2=3\n")
