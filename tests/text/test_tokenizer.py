"""The tokenizer at the border: cut as promised, saved as HF, nothing unknown."""

import numpy as np
import pytest
import tokenizers
import transformers

from rljax.text import tokenizer as tokenizer_lib

WORDS = ["You see:", "Go to", "Release", "Release all", "red", "beet", "(0/2):", "Go"]


@pytest.fixture(scope="module")
def words():
    return tokenizer_lib.word_level(WORDS)


def ids_of(tokenizer, text):
    (ids,) = tokenizer_lib.encode(tokenizer, [text])
    return ids.tolist()


def test_cuts_phrases_and_words_and_drops_separators(words):
    # 0 pad, 1 end, 2 unknown, then the list: "You see:" 3 ... "Go" 10.
    assert ids_of(words, "You see: red beet,\n Go to red") == [3, 7, 8, 4, 7]
    # The longest phrase wins, in whatever order they are listed.
    assert ids_of(words, "Release all") == [6]
    assert ids_of(words, "Release red") == [5, 7]
    nested = tokenizer_lib.word_level(["Go to", "Go to bed", "bed"])
    assert ids_of(nested, "Go to bed") == [4]
    # A phrase ends where a word does, and has one space.
    assert ids_of(words, "Go red (0/2):") == [10, 7, 9]
    with pytest.raises(ValueError, match="'tomorrow'"):
        ids_of(words, "Go tomorrow")
    assert (words.pad_token_id, words.eos_token_id, words.unk_token_id) == (0, 1, 2)


def test_survives_a_hugging_face_folder(words, tmp_path):
    words.save_pretrained(tmp_path)
    text = "You see: red beet, red (0/2):\nRelease all"
    copies: list[tokenizer_lib.Tokenizer] = [
        tokenizer_lib.load(tmp_path),
        tokenizer_lib.load(str(tmp_path)),
        transformers.AutoTokenizer.from_pretrained(str(tmp_path)),
    ]
    for again in copies:
        assert ids_of(again, text) == ids_of(words, text)
        assert again.get_vocab() == words.get_vocab()
        assert (again.pad_token_id, again.eos_token_id) == (0, 1)
        assert again.decode([3, 7, 8]) == "You see: red beet"


def test_an_unknown_word_is_an_error_that_names_it(words):
    with pytest.raises(ValueError, match="does not know 'blue', in 'red, blue beet'"):
        tokenizer_lib.encode(words, ["red beet", "red, blue beet"])


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "at least one word, got none"),
        (["red", "red"], "'red' is in the vocabulary already"),
        (["<eos>"], "'<eos>' is in the vocabulary already"),
        (["red,"], "'red,' is no word"),
        ([" red"], "' red' is no word"),
        (["You  see:"], "'You  see:' is no word"),
        ([""], "'' is no word"),
    ],
)
def test_refuses_words_that_could_not_be_found(words, message):
    with pytest.raises(ValueError, match=message):
        tokenizer_lib.word_level(words)


def test_words_may_hold_any_other_character():
    odd = ["a.b", "c|d", "(e", "[f]g h*", "i+j", "^k", "l$", "m\\n", "é"]
    tokenizer = tokenizer_lib.word_level(odd)
    assert ids_of(tokenizer, ", ".join(odd)) == list(range(3, 3 + len(odd)))


def test_adds_no_special_tokens():
    tokenizer = tokenizer_lib.word_level(["red"])
    template = tokenizers.processors.TemplateProcessing(
        "$A <eos>", None, [("<eos>", 1)]
    )
    tokenizer.backend_tokenizer.post_processor = template
    assert tokenizer("red")["input_ids"] == [3, 1]
    assert ids_of(tokenizer, "red") == [3]


def test_encodes_in_context():
    # A sentencepiece-like tokenizer marks the beginning of a text like a space.
    model = tokenizers.models.WordLevel({"▁a": 0, "▁b": 1, "b": 2, "a": 3}, "b")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first"),
            tokenizers.pre_tokenizers.Split("-", "removed"),
        ]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    plain = tokenizer_lib.encode(tokenizer, ["-a", " b"])
    after = tokenizer_lib.encode(tokenizer, ["-a", " b"], after=["a", ""])
    assert [x.tolist() for x in plain] != [x.tolist() for x in after]
    assert [x.tolist() for x in after] == [[3], [1]]
    assert all(x.dtype == np.int32 for x in after)


def test_tokens_over_the_edge_are_an_error():
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match=r"(?s)joins the end of 'a' with 'b'.*2 'ab'"):
        tokenizer_lib.encode(tokenizer, ["b"], after=["a"])


def test_what_bpe_would_leave_out_is_an_error():
    model = tokenizers.models.BPE({"a": 0, "b": 1, "<eos>": 2}, [])
    backend = tokenizers.Tokenizer(model)
    backend.add_special_tokens(["<eos>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    assert ids_of(tokenizer, "ab<eos>b") == [0, 1, 2, 1]
    assert tokenizer("acb")["input_ids"] == [0, 1]  # by itself it says nothing
    with pytest.raises(
        tokenizer_lib.UnknownWordError, match="no token for 'c' .*'acb'"
    ):
        ids_of(tokenizer, "acb")
    # What becomes of a text before BPE counts, not the text.
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    assert ids_of(tokenizer, "AB") == [0, 1]


def test_a_token_for_end_and_unknown_is_the_end_where_it_is_spelt():
    """As GPT-2's, whose byte-level BPE knows every word."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    ids = {letter: i for i, letter in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = transformers.GPT2Tokenizer(vocab=ids, merges=[])
    assert tokenizer.unk_token_id == tokenizer.eos_token_id == 256
    assert ids_of(tokenizer, "a<|endoftext|>b") == [ids["a"], 256, ids["b"]]
    # Where a model makes it of a word, the word is unknown, whatever else it is for.
    model = tokenizers.models.WordLevel({"a": 0, "<eos>": 1}, "<eos>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    both = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", unk_token="<eos>"
    )
    assert ids_of(both, "a <eos>") == [0, 1]
    with pytest.raises(tokenizer_lib.UnknownWordError, match="know 'b', in"):
        ids_of(both, "a <eos> b")
    # One in Python keeps no offsets, and is believed where the text spells as many.
    slow = transformers.ByT5Tokenizer(unk_token="</s>", extra_ids=0)
    assert not slow.is_fast and slow.unk_token_id == slow.eos_token_id
    assert ids_of(slow, "a</s>b") == [ord("a") + 3, 2, ord("b") + 3]


def test_no_texts_no_ids(words):
    assert tokenizer_lib.encode(words, []) == []


@pytest.mark.parametrize("name", ["nowhere", "org/model", "https://hub.example/model"])
def test_load_wants_a_local_folder(name):
    with pytest.raises(ValueError, match=f"no tokenizer folder at '{name}'.*local"):
        tokenizer_lib.load(name)


def test_load_names_what_is_wrong_with_a_folder(words, tmp_path):
    with pytest.raises(ValueError, match="holds no tokenizer: none of tokenizer.json"):
        tokenizer_lib.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{ nonsense")
    with pytest.raises(ValueError, match="cannot be read"):
        tokenizer_lib.load(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer
    ).save_pretrained(tmp_path / "endless")
    with pytest.raises(ValueError, match="endless has no end token"):
        tokenizer_lib.load(tmp_path / "endless")
