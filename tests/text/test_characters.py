"""One token per character: nothing lost, and no text that speaks for the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.text import tokenizer as tokenizer_lib

CHARACTERS = "\n #=0<eos>paduk\t\r\x00é漢🦁̈".replace("0", "01")
SPELLED = "<eos>  <pad>\n\n<unk> \r\n"


def distinct(characters):
    return "".join(dict.fromkeys(characters))


@pytest.fixture(scope="module")
def letters():
    return tokenizer_lib.character_level(distinct(CHARACTERS + SPELLED))


def test_ids_are_in_order_after_pad_end_and_unknown():
    tokenizer = tokenizer_lib.character_level("ba\n")
    (ids,) = tokenizer_lib.encode(tokenizer, ["a\nbb"])
    assert ids.tolist() == [4, 5, 3, 3]
    assert len(tokenizer) == 6
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.unk_token_id == 2
    listed = tokenizer_lib.character_level(["b", "a", "\n"])
    assert listed.get_vocab() == tokenizer.get_vocab()
    assert tokenizer.decode([4, 1, 0]) == "a<eos><pad>"
    assert tokenizer.decode([4, 1, 0], skip_special_tokens=True) == "a"


@settings(deadline=None)
@given(st.data())
def test_decoding_gives_the_text_back(letters, data):
    known = distinct(CHARACTERS + SPELLED)
    text = data.draw(st.text(known, min_size=1, max_size=40))
    (ids,) = tokenizer_lib.encode(letters, [text])
    assert ids.tolist() == [3 + known.index(c) for c in text]
    assert letters.decode(ids) == text
    assert letters.decode(ids, skip_special_tokens=True) == text


def test_text_that_spells_special_tokens_is_characters(letters, tmp_path):
    letters.save_pretrained(tmp_path)
    for tokenizer in (letters, tokenizer_lib.load(tmp_path)):
        (ids,) = tokenizer_lib.encode(tokenizer, [SPELLED])
        assert len(ids) == len(SPELLED) and min(ids) >= 3
        assert tokenizer.decode(ids, skip_special_tokens=True) == SPELLED
        assert tokenizer.get_vocab() == letters.get_vocab()


def test_an_unknown_character_is_an_error_that_names_it(letters):
    with pytest.raises(tokenizer_lib.UnknownWordError, match="'Z', in 'e\\\\tZ'"):
        tokenizer_lib.encode(letters, ["e", "e\tZ"])


@pytest.mark.parametrize(
    "characters, message",
    [
        ("", "at least one character, got none"),
        ("aba", "'a' comes twice"),
        (["a", "bc"], "'bc' is no single character"),
        (["a", ""], "'' is no single character"),
        ("a\ud800", "half of a surrogate pair"),
    ],
)
def test_refuses_what_are_no_characters(characters, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_lib.character_level(characters)
