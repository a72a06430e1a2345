"""Logs of every form reach a run; templates that cannot be used are told."""

import json
import types
from typing import Any

import numpy as np
import pytest

from experiments import offline
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


def read(path, tokenizer, *lines):
    log = path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ends = (tokenizer.eos_token_id,)
    start: Any = types.SimpleNamespace(tokenizer=tokenizer, eos_ids=ends)
    return offline.read_log(settings("oreo", f"--config.data.path={log}"), start, path)


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
