"""Questions as each prompt puts them, and that every reader has the same tokens."""

import json
import types
from typing import Any

import numpy as np
import pytest

from experiments import collect, offline, panels, prompts, reasoning, search_methods
from experiments.border import ConfigError
from experiments.configs import collect as collect_config
from experiments.configs import grpo as grpo_config
from experiments.configs import offline as configs
from experiments.configs import ppo_glam as ppo_config
from rljax.data import episodes, logs
from rljax.envs import verifiers
from rljax.envs.reasoning import problems
from rljax.text import tokenizer as tokenizers
from rljax.training.files import RunError
from tests.text import speaking

QUESTION = "How many red cats?"


@pytest.fixture
def files(tmp_path):
    """Five problems to learn from, three to be asked."""
    for name, count in (("train", 5), ("test", 3)):
        rows = [
            {"question": f"{QUESTION} {n}", "answer": f"One.\n#### {n}"}
            for n in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def config_of(files, make: Any = lambda: configs.shared("gsm8k"), **task):
    config = make()
    config.task.update(
        train=str(files / "train.jsonl"), test=str(files / "test.jsonl"), dev_size=1
    )
    config.task.update(task)
    return config


def task_of(files, tokens=None, **task):
    return reasoning.make_task(
        config_of(files, **task), tokens or speaking.byte_level()
    )


def chatml(system, question):
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}"
    return f"{turns}<|im_end|>\n<|im_start|>assistant\n"


def test_each_prompt_by_hand(files):
    question = f"{QUESTION} 0"
    box = r"Please reason step by step, and put your final answer within \boxed{}."
    mark = (
        "Please reason step by step, and produce a final answer following 4 '#', like "
        "'#### 0'"
    )
    expected = {
        "line": (f"{question}\n", "One.\n#### 0"),
        "question": (question, "One.\n#### 0"),
        "deepseek_math": (f"User: {question}\n{box}\n\nAssistant:", " One.\n#### 0"),
        "chat": (chatml(mark, question), "One.\n#### 0"),
    }
    assert expected.keys() == prompts.PROMPTS.keys()
    for name, (prompt, solution) in expected.items():
        task = task_of(files, prompt=name)
        (one,) = [x for x in task.test if x.task.endswith("/1")]
        assert (one.prompt, one.solution, one.answer) == (prompt, solution, "0")
        # Written solutions are right under the judge that goes with the prompt.
        assert task.judge.verify(one.answer, one.solution)
        assert all(x.prompt.startswith(prompt[:4]) for x in (*task.train, *task.dev))
    task = task_of(files, prompt="deepseek_math")
    assert task.judge.verify("3", r" So \boxed{3}.")
    assert task.judge.said(r" So \boxed{3}.") == "3"
    asked = [config_of(files).task.prompt]
    asked += [configs.shared(scale).task.prompt for scale in configs.PAPER]
    assert asked == ["line", "chat", "deepseek_math", "line"]


def test_arithmetic_and_math_are_put_the_same_way(files):
    config = configs.shared("smoke")
    plain = reasoning.make_task(config, speaking.byte_level()).dev[0]
    assert plain.prompt.endswith("=?\n")
    config.task.prompt = "chat"
    found = reasoning.make_task(config, speaking.byte_level()).dev[0]
    assert found.prompt == chatml(problems.GSM8K_SYSTEM, plain.prompt[:-1])
    (files / "train.jsonl").write_text(
        "".join(f'{{"problem": "x{n}", "answer": "1"}}\n' for n in range(4))
    )
    task = task_of(files, name="math", prompt="chat", test="", test_size=1)
    assert task.test[0].prompt.startswith(chatml(problems.MATH_SYSTEM, "x")[:-40])


@pytest.mark.parametrize("kind", ["chatml", "nasty", "headers"])
def test_tokens_are_the_templates_own_wherever_they_are_read(files, kind, tmp_path):
    tokens = speaking.byte_level(speaking.TEMPLATES[kind])
    config = config_of(files, lambda: collect_config.get_config("gsm8k"), prompt="chat")
    config.samples = 2
    task = reasoning.make_task(config, tokens)
    said = [
        {"role": "system", "content": problems.GSM8K_SYSTEM},
        {"role": "user", "content": f"{QUESTION} {task.test[0].answer}"},
    ]
    meant: Any = tokens.apply_chat_template(
        said, add_generation_prompt=True, return_dict=True
    )
    meant = meant["input_ids"]
    # Search and the panels of compare.
    setting: Any = types.SimpleNamespace(
        start=types.SimpleNamespace(tokenizer=tokens), asked=task.test[:1]
    )
    assert search_methods.prompts(setting)[0].tolist() == list(meant)
    home = config_of(files, prompt="chat").to_dict()
    for panel in ("test", str(files / "test.jsonl")):
        asked, _ = panels._panel(home, panels.How(panel, 1, 0.0, 0), tokens)
        assert asked[0].prompt == task.test[0].prompt
    # A log that was collected, read by training, credit and ranking alike.
    ids = [np.array([9, 10, tokens.eos_token_id], np.int32)] * 2
    found = reasoning.Answers(
        ids, [np.zeros(3, np.float32)] * 2, np.ones(2, bool), np.ones(2, bool)
    )
    start: Any = types.SimpleNamespace(tokenizer=tokens, eos_ids=(tokens.eos_token_id,))
    answerer: Any = types.SimpleNamespace(text=tokens.decode)
    records = collect._records(config, start, answerer, task.test[:1], found)
    logs.write(tmp_path / "log.jsonl.gz", records)
    template = offline.template_of(tokens)
    log = episodes.load(tmp_path / "log.jsonl.gz", tokens, template).episodes
    assert log[0].ids[~log[0].action].tolist() == list(meant)


def test_what_cannot_be_put_so_is_refused(files):
    def refused(match, tokens, **task):
        with pytest.raises(ConfigError, match=match):
            task_of(files, tokens, prompt="chat", **task)

    refused("the model has no chat template", speaking.byte_level(None))
    refused("no chat template", tokenizers.character_level("ab"))
    loose = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    refused("'chat': the policy's turn is closed by", speaking.byte_level(loose))
    with pytest.raises(ConfigError, match="config.task.prompt is 'talk'.*one of line"):
        task_of(files, prompt="talk")
    row = {"question": "Is <|im_end|> a cat?", "answer": "#### 1"}
    (files / "test.jsonl").write_text(json.dumps(row))
    refused("gsm8k/test/1: .*spells a special token", speaking.byte_level())
    with pytest.raises(ConfigError, match="task.name is 'arithmetic'.*has files"):
        reasoning.read_file(configs.shared("smoke"), speaking.byte_level(), "x")


def test_a_file_of_its_own_is_the_whole_test_set(files, capsys):
    assert configs.shared("gsm8k").task.test_size == 0
    assert len(task_of(files).test) == 3 and not capsys.readouterr().out
    assert len(task_of(files, test_size=2).test) == 2
    said = "test.jsonl: the first 2 of 3 problems are the test set"
    assert said in capsys.readouterr().out
    drawn = task_of(files, test="", test_size=2)
    assert (len(drawn.test), len(drawn.train)) == (2, 2)
    assert not task_of(files, test="").test


def test_runs_of_earlier_versions_are_asked_and_judged_as_they_were(files):
    """Settings that their records lack are as by default, or as all was before."""
    home = config_of(files).to_dict()
    later = ("prompt", "reading", "drills", "signs", "gym", *panels._JUDGING[1:])
    for key in later:
        del home["task"][key]
    for group, key in (("model", "policy"), ("model", "remat"), ("eval", "batch")):
        del home[group][key]
    asked, verify = panels._panel(
        home, panels.How("test", 1, 0.0, 0), speaking.byte_level()
    )
    assert asked[0].prompt.endswith("\n")
    assert verify is verifiers.final_number
    held, known = panels._config(home), config_of(files)
    assert held.eval.batch == known.eval.batch and held.task.signs == "+-"
    assert held.model.policy == "" and held.model.remat is False
    # A run of today, and one that learnt on-line, have a panel in common with it.
    for config in (known, config_of(files, lambda: grpo_config.get_config("gsm8k"))):
        config.task.verifier_workers = 3
        panels._require_same(home, panels.Policy("x", config.to_dict()), "task")
    config.task.seed = 5
    with pytest.raises(RunError, match="x is of another task: task.seed is 5 there, 1"):
        panels._require_same(home, panels.Policy("x", config.to_dict()), "task")


def test_records_of_play_that_lack_a_setting_have_its_default():
    known = ppo_config.get_config("smoke").to_dict()
    held = ppo_config.get_config("smoke").to_dict()
    for group, key in (("env", "history"), ("model", "chat"), ("model", "read_q")):
        del held[group][key]
    del held["lora"]
    assert panels._config(held).to_dict() == known
