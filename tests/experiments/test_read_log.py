"""Logs of every form reach a run; templates that cannot be used are told."""

import json
import types
from typing import Any

import numpy as np
import pytest
from ml_collections import config_dict

from experiments import credit, offline
from experiments.border import ConfigError
from tests.experiments.logged_runs import settings
from tests.text import speaking

TALK = {
    "conversations": [
        {"role": "system", "content": "red"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": "answer red"},
        {"role": "user", "content": "cat"},
        {"role": "assistant", "content": "red cat"},
    ],
    "reward": 1,
}
PLAIN = {"prompt": "question:", "response": " cat", "reward": 0}


def read(path, tokenizer, *lines, more=()):
    log = path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ends = (tokenizer.eos_token_id,)
    start: Any = types.SimpleNamespace(tokenizer=tokenizer, eos_ids=ends)
    config = settings("oreo", f"--config.data.path={log}", *more)
    return offline.read_log(config, start, path)


SENTENCES = {"prompt": "Q:", "response": " 1. 2. 3\n4 $5.$ 6", "reward": 1}


def steps_of(tokenizer, episode):
    """The text of each step."""
    numbers = episode.step[episode.action]
    texts = [
        tokenizer.decode(episode.ids[episode.step == n].tolist())
        for n in range(numbers.max() + 1)
    ]
    assert "".join(texts) == tokenizer.decode(episode.ids[episode.action].tolist())
    return texts


def test_steps_end_with_lines_and_those_of_math_with_sentences(tmp_path):
    tokens = speaking.byte_level()
    lines = [" 1. 2. 3\n", "4 $5.$ 6<eos>"]
    sentences = [" 1. ", "2. ", "3\n", "4 $5.$ ", "6<eos>"]
    log = tmp_path / "log.jsonl"
    expected = [("gsm8k", "", lines), ("math", "", sentences)]
    expected += [("math", "('\\n',)", lines), ("gsm8k", "('\\n','. ')", None)]
    for name, given, texts in expected:
        more = [f"--config.task.name={name}"]
        more += [f"--config.data.delimiters={given}"] * bool(given)
        (one,) = read(tmp_path, tokens, SENTENCES, more=more)
        assert steps_of(tokens, one) == (
            [" 1. ", "2. ", "3\n", "4 $5.$ 6<eos>"] if texts is None else texts
        )
        # Credit and ranking read the log in the steps of the run.
        found: Any = types.SimpleNamespace(
            config=settings("oreo", f"--config.data.path={log}", *more),
            start=types.SimpleNamespace(
                tokenizer=tokens, eos_ids=(tokens.eos_token_id,)
            ),
        )
        (again,) = credit.load(found, str(log))
        assert again.step.tolist() == one.step.tolist()
    # A run of an earlier version learnt by lines, whatever its task was.
    values = settings("oreo", f"--config.data.path={log}").to_dict()
    values["task"]["name"] = "math"
    del values["data"]["delimiters"]
    old: Any = types.SimpleNamespace(
        config=config_dict.ConfigDict(values),
        start=types.SimpleNamespace(tokenizer=tokens, eos_ids=(tokens.eos_token_id,)),
    )
    assert steps_of(tokens, credit.load(old, str(log))[0]) == lines


def test_delimiters_that_cannot_be_are_refused(tmp_path):
    for given in ("('',)", "(1,)"):
        with pytest.raises(ConfigError, match="data.delimiters is .*texts that end"):
            read(
                tmp_path, speaking.byte_level(), SENTENCES,
                more=[f"--config.data.delimiters={given}"],
            )  # fmt: skip


def said(tokenizer, episode):
    """The policy's turns."""
    edges = np.flatnonzero(np.diff(episode.action.astype(int))) + 1
    turns = np.split(episode.ids, edges)[1::2]
    return [tokenizer.decode(turn.tolist()) for turn in turns]


def test_conversations_are_learnt_from_beside_prompts_and_responses(tmp_path):
    tokens = speaking.byte_level()
    talk, plain = read(tmp_path, tokens, TALK, PLAIN)
    assert said(tokens, talk) == ["answer red<|im_end|>", "red cat<|im_end|>"]
    assert said(tokens, plain) == [" cat<eos>"]
    assert (talk.reward, plain.reward) == (1, 0)


def test_a_template_that_cannot_be_used_is_told_and_prompts_are_read(tmp_path, capsys):
    # Its turns end with no special token.
    tokens = speaking.byte_level("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    (plain,) = read(tmp_path, tokens, PLAIN)
    assert said(tokens, plain) == [" cat<eos>"]
    printed = capsys.readouterr().out
    assert "conversations cannot be read: the policy's turn is closed by" in printed
    for without in (tokens, speaking.byte_level(None)):
        with pytest.raises(ConfigError, match="line 1: is a conversation, which needs"):
            read(tmp_path, without, TALK)
