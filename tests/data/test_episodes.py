"""Masks by hand, and the faults of whole logs."""

import functools
import json

import numpy as np
import pytest

from rljax.data import episodes, logs, steps
from rljax.data.record import Record
from rljax.text import chat
from rljax.text.template import Message
from tests.text import speaking

LINES = steps.split()


@functools.cache
def tokenizer():
    return speaking.byte_level(as_gpt2=True)


@functools.cache
def template():
    return chat.from_tokenizer(tokenizer())


def ids_of(text, tokens=None):
    tokens = tokens or tokenizer()
    return tokens(text, add_special_tokens=False)["input_ids"]


def check(episode, parts, tokens=None):
    """Parts are (text, step), -1 for what the policy reads."""
    rows = [ids_of(text, tokens) for text, _ in parts]
    steps_ = [[step] * len(row) for row, (_, step) in zip(rows, parts, strict=True)]
    assert episode.ids.tolist() == sum(rows, [])
    assert episode.step.tolist() == sum(steps_, [])
    assert episode.action.tolist() == [step >= 0 for step in episode.step]
    assert (episode.ids.dtype, episode.action.dtype) == (np.int32, bool)


PLAIN = Record(7, 1.0, "answer: 1?", " a\nb", task="t", source="s")


def test_plain_by_hand():
    episode = episodes.tokenise(PLAIN, tokenizer())
    check(episode, [("answer: 1?", -1), (" a\n", 0), ("b<eos>", 1)])
    assert episode[3:] == (1.0, "t", "s", 7, None, "")


def test_cut_short_has_no_end_token():
    episode = episodes.tokenise(PLAIN._replace(truncated=True), tokenizer())
    check(episode, [("answer: 1?", -1), (" a\n", 0), ("b", 1)])


def test_an_empty_response_is_an_end_token():
    episode = episodes.tokenise(PLAIN._replace(response=""), tokenizer())
    check(episode, [("answer: 1?", -1), ("<eos>", 0)])
    with pytest.raises(ValueError, match="no token"):
        episodes.tokenise(PLAIN._replace(response="", truncated=True), tokenizer())


def test_another_end_token():
    (end,) = ids_of("<|im_end|>")
    episode = episodes.tokenise(PLAIN, tokenizer(), end_id=end)
    check(episode, [("answer: 1?", -1), (" a\n", 0), ("b<|im_end|>", 1)])


def test_a_template_in_the_prompt_is_read_as_such():
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    episode = episodes.tokenise(PLAIN._replace(prompt=text), tokenizer())
    assert ids_of("<|im_start|>")[0] == episode.ids[0]
    check(episode, [(text, -1), (" a\n", 0), ("b<eos>", 1)])


@pytest.mark.parametrize("text", ["a<eos>", "<|im_end|>", "a <|bos|> b"])
def test_special_tokens_in_what_was_said_are_refused(text):
    with pytest.raises(ValueError, match="is special, .*leave the end token out"):
        episodes.tokenise(PLAIN._replace(response=text), tokenizer())
    talk = Record(1, 1.0, messages=(Message("user", "a"), Message("assistant", text)))
    with pytest.raises(ValueError, match="is special"):
        episodes.tokenise(talk, tokenizer(), template())


def test_joined_across_the_border_is_refused():
    tokens = speaking.byte_level()
    assert len(ids_of("\n\n", tokens)) == 1
    with pytest.raises(ValueError, match="(?s)joins the end .*End the prompt where"):
        episodes.tokenise(Record(1, 1.0, "a\n", "\nb"), tokens)
    # A space at the end of the prompt, which belongs to the word after it.
    with pytest.raises(ValueError, match="End the prompt where a token"):
        episodes.tokenise(Record(1, 1.0, "a ", "cat"), tokens)


def test_what_the_tokenizer_begins_with():
    tokens = speaking.stories()
    begin = tokens.bos_token_id
    assert episodes.prompt_ids(tokens, "Once")[0] != begin  # it adds none by itself
    from tokenizers import processors

    backend = tokens.backend_tokenizer
    before = backend.post_processor
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", 2)]
    )
    try:
        ids = episodes.prompt_ids(tokens, "Once").tolist()
        assert ids == [begin, *ids_of("Once", tokens)]
        assert episodes.prompt_ids(tokens, "<s>Once").tolist().count(begin) == 1
        assert episodes.prompt_ids(tokens, "").tolist() == [begin]
    finally:
        backend.post_processor = before
    with pytest.raises(ValueError, match="prompt is empty"):
        episodes.prompt_ids(tokenizer(), "")


def test_ids_are_the_tokens_whatever_the_text_says():
    given = PLAIN._replace(
        prompt_ids=np.array([9, 8], np.int32),
        response_ids=np.array([7, 7, 0], np.int32),
        log_probs=np.array([-1, -2, -3], np.float32),
        step=np.array([0, 1, 1], np.int32),
    )
    episode = episodes.tokenise(given, tokenizer())
    assert episode.ids.tolist() == [9, 8, 7, 7, 0]
    assert episode.action.tolist() == [False, False, True, True, True]
    assert episode.step.tolist() == [-1, -1, 0, 1, 1]
    assert episode.log_probs is not None and episode.log_probs.dtype == np.float32
    assert episode.log_probs.tolist() == [0, 0, -1, -2, -3]
    # The prompt's text is the prompt where only the response has ids.
    episode = episodes.tokenise(given._replace(prompt_ids=None), tokenizer())
    assert episode.ids.tolist() == [*ids_of("answer: 1?"), 7, 7, 0]
    talk = Record(
        1, 0.0, ids=np.array([5, 6, 7, 8], np.int32),
        action=np.array([0, 1, 0, 1], bool), log_probs=np.array([-1, -2], np.float32),
    )  # fmt: skip
    episode = episodes.tokenise(talk, tokenizer())
    assert episode.step.tolist() == [-1, 0, -1, 1]
    assert episode.log_probs is not None
    assert episode.log_probs.tolist() == [0, -1, 0, -2]


def test_ids_outside_the_vocabulary_are_refused():
    size = len(tokenizer())
    bad = PLAIN._replace(response_ids=np.array([size - 1, size], np.int32))
    place = len(ids_of("answer: 1?")) + 1
    with pytest.raises(ValueError, match=f"id {place} is {size}, .*{size} tokens"):
        episodes.tokenise(bad, tokenizer())


TALK = Record(
    1, 1.0,
    messages=(
        Message("system", "Be"), Message("user", "<|im_end|> a"),
        Message("assistant", "b\nc"), Message("user", "d"), Message("assistant", "e"),
    ),
)  # fmt: skip


def test_conversation_by_hand():
    episode = episodes.tokenise(TALK, tokenizer(), template())
    end = ids_of("<|im_end|>")[0]
    text = tokenizer().decode(episode.ids)
    assert text == (
        "<|im_start|>system\nBe<|im_end|>\n<|im_start|>user\n<|im_end|> a<|im_end|>\n"
        "<|im_start|>assistant\nb\nc<|im_end|>\n<|im_start|>user\nd<|im_end|>\n"
        "<|im_start|>assistant\ne<|im_end|>"
    )
    said = [tokenizer().decode(episode.ids[episode.step == i]) for i in range(3)]
    assert said == ["b\n", "c<|im_end|>", "e<|im_end|>"]
    assert episode.step.max() == 2
    # Five ends, since the user's words are no end, of which two are the policy's.
    assert (episode.ids == end).sum() == 5
    assert (episode.ids[episode.action] == end).sum() == 2


def test_conversation_cut_short_and_words_after_it():
    short = episodes.tokenise(TALK._replace(truncated=True), tokenizer(), template())
    whole = episodes.tokenise(TALK, tokenizer(), template())
    assert short.ids.tolist() == whole.ids[:-1].tolist()
    assert short.action.tolist() == whole.action[:-1].tolist()
    more = TALK._replace(messages=(*TALK.messages, Message("user", "bye")))
    again = episodes.tokenise(more, tokenizer(), template())
    assert again.ids.tolist() == whole.ids.tolist()
    assert episodes.closing(more) == (Message("user", "bye"),)
    assert episodes.closing(TALK) == ()


def test_conversations_that_cannot_be():
    with pytest.raises(ValueError, match="needs a chat template"):
        episodes.tokenise(TALK, tokenizer())
    for messages, what in (
        (TALK.messages[2:], "message 1 is the policy's, after nothing"),
        ((*TALK.messages, TALK.messages[-1]), "message 6 .* after another of its own"),
    ):
        with pytest.raises(ValueError, match=what):
            episodes.tokenise(TALK._replace(messages=messages), tokenizer(), template())


def test_steps_of_the_log():
    given = PLAIN._replace(steps=(" a", "\nb"))
    check(
        episodes.tokenise(given, tokenizer()),
        [("answer: 1?", -1), (" a", 0), ("\n", 1), ("b<eos>", 1)],
    )


def test_tasks_without_a_name():
    one = PLAIN._replace(task="")
    same, other = one._replace(response="x", line=9), one._replace(prompt="other")
    names = [episodes.tokenise(r, tokenizer()).task for r in (one, same, other)]
    assert names[0] == names[1] != names[2] and names[0].startswith("prompt ")
    talk = TALK._replace(messages=TALK.messages[:3])
    assert episodes.task_of(TALK) == episodes.task_of(talk)


def save(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [
    {"prompt": "a", "response": " b", "reward": 1, "rewards": 1},
    {"prompt": "a ", "response": "cat", "reward": 1},
    {"conversations": [
        {"role": "user", "content": "a"}, {"role": "gpt", "content": "b"},
        {"role": "user", "content": "c"},
    ], "reward": 0, "id": 4},
    {"prompt": "a", "response": " cat" * 30, "reward": 0},
    {"prompt": "a", "reward": 0},
]  # fmt: skip


def test_load_skips_and_says_so(tmp_path):
    path, rejects = save(tmp_path / "log.jsonl", *ROWS), tmp_path / "rejects.jsonl"
    log = episodes.load(
        path, tokenizer(), template(), on_error="skip", rejects=rejects, longest=20
    )
    assert [e.line for e in log.episodes] == [1, 3]
    assert (log.closing, log.unknown) == ([(str(path), 3)], {"rewards": 1, "id": 1})
    assert [bad.line for bad in log.skipped] == [2, 4, 5]
    assert "has 32 tokens, but a row holds 20" in log.skipped[1].reason
    said = episodes.told(log)
    assert said[0] == "2 attempts"
    assert said[1].startswith(
        f"3 lines skipped, the first is line 2 of {path}: the tokenizer join"
    )
    assert said[2].startswith("1 conversations go on after")
    assert f"in line 3 of {path}:" in said[2]
    assert said[3].endswith("in 1 lines; was 'reward' meant?")
    assert said[4] == "the key 'id' means nothing here, in 1 lines"
    told = [json.loads(row) for row in rejects.read_text().splitlines()]
    assert [row["line"] for row in told] == [2, 4, 5]
    assert json.loads(told[0]["raw"]) == ROWS[1]
    again = save(tmp_path / "again.jsonl", *[json.loads(row["raw"]) for row in told])
    with pytest.raises(logs.LogError, match="again.jsonl, line 1: .*joins"):
        episodes.load(again, tokenizer(), template(), longest=20)
    with pytest.raises(logs.LogError, match="no attempt .* 3 lines .*first is line 1"):
        episodes.load(
            again, tokenizer(), template(), on_error="skip", rejects=rejects, longest=20
        )


def test_load_stops(tmp_path):
    path = save(tmp_path / "log.jsonl", *ROWS)
    with pytest.raises(logs.LogError, match="log.jsonl, line 2: the tokenizer joins"):
        episodes.load(path, tokenizer(), template())
    with pytest.raises(logs.LogError, match="empty is empty$"):
        episodes.load(save(tmp_path / "empty"), tokenizer())
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        episodes.load(path, tokenizer(), on_error="ignore")
    with pytest.raises(ValueError, match="give rejects"):
        episodes.load(path, tokenizer(), on_error="skip")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the log itself"):
        episodes.load(path, tokenizer(), on_error="skip", rejects=path)
    assert path.read_bytes() == before


def test_several_logs_are_one_after_the_other(tmp_path):
    names = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    first, second = save(names[0], ROWS[0], ROWS[2]), save(names[1], *ROWS)
    rejects = tmp_path / "rejects.jsonl"
    options = {"on_error": "skip", "rejects": rejects}
    log = episodes.load([first, second], tokenizer(), template(), **options)
    assert [e.line for e in log.episodes] == [1, 2, 1, 3, 4]
    whole = save(tmp_path / "whole.jsonl", ROWS[0], ROWS[2], *ROWS)
    joined = episodes.load(whole, tokenizer(), template(), **options)
    for one, other in zip(log.episodes, joined.episodes, strict=True):
        assert one.task == other.task and one.reward == other.reward
        np.testing.assert_array_equal(one.ids, other.ids)
    assert log.unknown == joined.unknown == {"rewards": 2, "id": 2}
    assert log.closing == [(str(first), 2), (str(second), 3)]
    assert [(bad.path, bad.line) for bad in log.skipped] == [
        (str(second), 2), (str(second), 5),
    ]  # fmt: skip
    assert f"2 lines skipped, the first is line 2 of {second}:" in episodes.told(log)[1]
    episodes.load([second, first], tokenizer(), template(), **options)
    told = [json.loads(row) for row in rejects.read_text().splitlines()]
    assert [(row["path"], row["line"]) for row in told] == [
        (str(second), 2), (str(second), 5),
    ]  # fmt: skip
    with pytest.raises(logs.LogError, match="two.jsonl, line 2: the tokenizer joins"):
        episodes.load([first, second], tokenizer(), template())
    empty = save(tmp_path / "empty")
    with pytest.raises(logs.LogError, match="empty is empty$"):
        episodes.load([first, empty], tokenizer(), template())
    with pytest.raises(ValueError, match="is the log itself"):
        episodes.load([first, rejects], tokenizer(), template(), **options)
    with pytest.raises(ValueError, match="no log to read"):
        episodes.load([], tokenizer())


def test_what_is_written_becomes_the_same_tokens(tmp_path):
    path = tmp_path / "log.jsonl.xz"
    logs.write(path, [PLAIN, TALK])
    again = episodes.load(path, tokenizer(), template()).episodes
    for one, other in zip([PLAIN, TALK], again, strict=True):
        want = episodes.tokenise(one, tokenizer(), template(), LINES)
        assert want.ids.tolist() == other.ids.tolist()
        assert want.step.tolist() == other.step.tolist()
