"""Steps by hand, and on random texts against a search without cleverness."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.data import steps
from tests.text import speaking

TOKENIZERS = {
    "byte_level": speaking.byte_level,
    "smollm2": speaking.smollm2,
    "qwen": speaking.qwen,
    "stories": speaking.stories,
}
SPACED = st.lists(
    st.sampled_from(["a", " b", "\n", "\n\n", " ", ". ", "é", "🙂", "4.2", "<eos>"]),
    min_size=1,
    max_size=14,
).map("".join)


def ids_of(tokenizer, *texts):
    return [tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts]


def episode(tokenizer, parts):
    """(text, whether it is the policy's) -> ids, action, and which part each is of."""
    rows = ids_of(tokenizer, *[text for text, _ in parts])
    ids = np.concatenate(rows).astype(np.int32)
    own = [np.full(len(r), said) for r, (_, said) in zip(rows, parts, strict=True)]
    part = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return ids, np.concatenate(own), part


def numbered(parts, delimiters, tokenizer=None):
    """The step of each part whose tokens have one; parts are (text, step)."""
    tokenizer = tokenizer or speaking.byte_level()
    said = [(text, step >= 0) for text, step in parts]
    ids, action, part = episode(tokenizer, said)
    found = steps.split(delimiters)(tokenizer, ids, action)
    assert found.dtype == np.int32
    want = np.array([step for _, step in parts])[part]
    assert found.tolist() == want.tolist()


def test_by_hand():
    numbered([("Q", -1), ("a b\n", 0), ("c\n", 1), ("d", 2), ("<eos>", 2)], ["\n"])
    numbered([("Q\n", -1), ("a", 0), ("<eos>", 0)], ["\n"])


def test_empty_lines_are_no_steps():
    # Merged into one token and not; before the first word; before the end token.
    assert len(ids_of(speaking.byte_level(), "\n\n")[0]) == 1
    numbered([("Q", -1), ("a", 0), ("\n\n", 0), ("b", 1)], ["\n"])
    numbered([("Q", -1), ("a", 0), ("\n", 0), ("\n", 0), (" ", 1), ("b", 1)], ["\n"])
    numbered([("Q", -1), ("\n", 0), ("\n", 0), ("a", 0), ("\n", 0), ("b", 1)], ["\n"])
    numbered([("Q", -1), ("a", 0), ("\n", 0), ("\n", 0), ("<eos>", 0)], ["\n"])
    numbered([("Q", -1), ("\n", 0), ("<eos>", 0)], ["\n"])


def test_a_step_ends_with_the_token_in_which_a_delimiter_ends():
    tokenizer = speaking.byte_level(as_gpt2=True)
    (row,) = ids_of(tokenizer, "a. cat b")
    assert tokenizer.convert_ids_to_tokens(row)[:3] == ["a", ".", "Ġcat"]
    numbered([("Q", -1), ("a", 0), (".", 0), (" cat", 0), (" b", 1)], [". "], tokenizer)
    numbered([("Q", -1), ("4", 0), (".", 0), ("2", 0)], steps.SENTENCES)


def test_each_turn_begins_a_step():
    numbered(
        [("Q", -1), ("a\n", 0), ("b", 1), ("<eos>", 1), ("\nQ\n", -1), ("c", 2)]
        + [("<eos>", 2), ("Q", -1), ("\n", 3), ("<eos>", 3)],
        ["\n"],
    )
    numbered([("Q", -1), ("a\nb\n", 0), ("Q", -1), ("c\nd", 1)], [])


def test_a_delimiter_over_two_tokens_and_none_over_a_border():
    numbered([("Q", -1), ("a", 0), ("#", 0), ("|", 0), ("b", 1)], ["#|"])
    numbered([("Q#", -1), ("|", 0), ("b", 0)], ["#|"])
    numbered([("Q", -1), ("a##", 0), ("#", 1), ("b", 1)], ["##"])


def test_a_special_token_may_be_the_delimiter():
    numbered([("Q", -1), ("a", 0), ("<|head|>", 0), ("b", 1)], ["<|head|>"])


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(prompt=SPACED, text=SPACED)
def test_against_a_plain_search(kind, prompt, text):
    tokenizer = TOKENIZERS[kind]()
    ids, action, _ = episode(tokenizer, [("q" + prompt, False), ("x" + text, True)])
    begin = int(np.argmax(action))
    delimiters = ["\n", ". "]
    found = steps.split(delimiters)(tokenizer, ids, action)[begin:]
    said = prefixes(tokenizer, ids, begin)
    raw, shows, count = [], [], 0
    for place in range(1, len(said)):
        now, before = said[place], said[place - 1]
        raw.append(count)
        special = ids[begin + place - 1] in steps.special_ids(tokenizer)
        shows.append(not special and bool(now[len(before) :].strip()))
        first = len(said[0])
        count += any(
            now[first:end].endswith(d)
            for end in range(len(before) + 1, len(now) + 1)
            for d in delimiters
        )
    good = sorted({r for r, show in zip(raw, shows, strict=True) if show})
    want = [max(sum(g <= r for g in good) - 1, 0) for r in raw]
    assert found.tolist() == want


def prefixes(tokenizer, ids, begin):
    """The text up to each token from the one before `begin` on, characters whole.

    Bytes that are no character yet can spoil those before them.
    """
    texts = []
    for stop in range(begin, len(ids) + 1):
        text = tokenizer.decode(ids[:stop])
        if stop < len(ids):
            text = text.rstrip("\ufffd")
        longer = not texts or len(text) > len(texts[-1])
        texts.append(text if longer else texts[-1])
    return texts


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(text=SPACED)
def test_reach_against_prefixes(kind, text):
    tokenizer = TOKENIZERS[kind]()
    ids, action, _ = episode(tokenizer, [("q", False), ("x" + text, True)])
    begin = int(np.argmax(action))
    found, reach = steps.reaches(tokenizer, ids, begin, len(ids))
    whole, before = (tokenizer.decode(row) for row in (ids, ids[:begin]))
    assert found == whole[len(before) :]
    texts = prefixes(tokenizer, ids, begin)
    for place in range(begin, len(ids)):
        assert reach[place - begin] == len(texts[place - begin + 1]) - len(before)


def test_known_lengths():
    tokenizer = speaking.byte_level(as_gpt2=True)
    parts = [("Q", -1), ("ab", 0), ("c", 1), (" cat", 1), ("é", 2), ("<eos>", 2)]
    ids, action, part = episode(tokenizer, [(t, s >= 0) for t, s in parts])
    # The second step ends inside " cat", which is one token.
    found = steps.at([2, 3, 3])(tokenizer, ids, action)
    assert found.tolist() == np.array([s for _, s in parts])[part].tolist()
    # Two steps that end in one token are one.
    found = steps.at([2, 2, 1, 3])(tokenizer, ids, action)
    assert found.tolist() == np.array([s for _, s in parts])[part].tolist()
    with pytest.raises(ValueError, match="steps of 99 characters do not fit"):
        steps.at([99])(tokenizer, ids, action)


@pytest.mark.parametrize("delimiters", ["\n", ["a", ""]])
def test_refuses(delimiters):
    with pytest.raises(ValueError, match="list of texts"):
        steps.split(delimiters)
