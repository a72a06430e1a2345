"""Tokenizers: any local Hugging Face folder, or one made from words or characters.

The word-level tokenizer drops separators (spaces, newlines, commas), so that text
with a fixed form costs one token per word, and a fixed phrase such as "You see:"
costs one token altogether. It is saved as an ordinary Hugging Face folder.
`transformers` takes seconds to import, so it is imported where it is used.
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

Tokenizer = Any  # a transformers.PreTrainedTokenizerBase

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
_WORD = r"[^\s,]+"
_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


class UnknownWordError(ValueError):
    """A text holds a word that the tokenizer has no tokens for."""


def word_level(words: Sequence[str]) -> Tokenizer:
    """A tokenizer with one token per word or fixed phrase.

    Text is cut into the longest listed phrase, or else the longest run without a
    space, newline or comma; what lies between is dropped. Ids: 0 pad, 1 end, 2
    unknown, then `words` in order. Save it with `tokenizer.save_pretrained(folder)`.

    Args:
      words: distinct words ("beet") and phrases ("You see:"). A phrase is words
        with one space between them.

    Returns:
      A `PreTrainedTokenizerFast`.

    Raises:
      ValueError: if there are no words, one comes twice, or one cannot be found in
        a text because a separator cuts it.
    """
    import tokenizers

    _check_words(words)
    vocabulary = {word: i for i, word in enumerate([PAD, EOS, UNK, *words])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token=UNK)
    backend = tokenizers.Tokenizer(model)
    # A match is a token and the rest goes: `invert` with "removed" says so.
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_pattern(words)), behavior="removed", invert=True
    )
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def character_level(characters: str | Sequence[str]) -> Tokenizer:
    """A tokenizer with one token per character, which drops nothing.

    Ids: 0 pad, 1 end, 2 unknown, then `characters` in order. Text that spells a
    special token, such as "<eos>", is the characters it is spelled with: no text ends
    an answer. Save it with `tokenizer.save_pretrained(folder)`.

    Args:
      characters: distinct characters; spaces and newlines count.

    Returns:
      A `PreTrainedTokenizerFast`, whose decoded text is the encoded one.

    Raises:
      ValueError: if there are no characters, one comes twice, one is longer than a
        character, or one is half of a surrogate pair.
    """
    import tokenizers

    _check_characters(characters)
    vocabulary = {c: i for i, c in enumerate([PAD, EOS, UNK, *characters])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token=UNK)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"[\s\S]"), behavior="isolated"
    )
    backend.decoder = tokenizers.decoders.Fuse()  # else spaces between tokens
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def load(path: str | pathlib.Path) -> Tokenizer:
    """The tokenizer of a local Hugging Face folder; nothing is downloaded.

    Args:
      path: folder with `tokenizer.json`, or whatever else its class reads.

    Raises:
      ValueError: if `path` is not a local folder, holds no tokenizer, holds one that
        cannot be read, or one without an end token (commands end with it).
    """
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"no tokenizer folder at {str(path)!r}: give a local folder; names on a "
            "hub and addresses are not fetched"
        )
    if not any((folder / name).is_file() for name in _FILES):
        raise ValueError(f"{folder} holds no tokenizer: none of {', '.join(_FILES)}")
    transformers = _transformers()
    try:
        tokenizer: Tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever the tokenizer's own reader raises
        raise ValueError(
            f"the tokenizer in {folder} cannot be read: {error}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {folder} has no end token (eos_token)")
    return tokenizer


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], after: Sequence[str] | None = None
) -> list[np.ndarray]:
    """Token ids of texts, without special tokens.

    Args:
      tokenizer: any Hugging Face tokenizer.
      texts: what to encode.
      after: for each text one that it follows ("" for none), encoded with it and
        taken off again, since some tokenizers treat the beginning of a text apart.

    Returns:
      int32 [T] for each text.

    Raises:
      ValueError: if a word is unknown to the tokenizer, or its tokens reach over the
        end of the text before.
    """
    if after is None:
        return _encode(tokenizer, texts)
    joined = [before + text for before, text in zip(after, texts, strict=True)]
    distinct = list(dict.fromkeys(after))
    prefixes = dict(zip(distinct, _encode(tokenizer, distinct), strict=True))
    rows = []
    for before, text, ids in zip(after, texts, _encode(tokenizer, joined), strict=True):
        prefix = prefixes[before]
        if not np.array_equal(ids[: len(prefix)], prefix):
            raise ValueError(
                f"the tokenizer joins the end of {before!r} with {text!r} after it:\n"
                f"alone {show(tokenizer, prefix)}\njoint {show(tokenizer, ids)}"
            )
        rows.append(ids[len(prefix) :])
    return rows


def show(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> str:
    """Ids with their tokens, for messages: `[17 'red', 30 'beet']`."""
    ids = [int(i) for i in ids]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    parts = [f"{i} {token!r}" for i, token in zip(ids, tokens, strict=True)]
    return f"[{', '.join(parts)}]"


def _transformers() -> Any:
    # It says on every import that PyTorch is missing, which we never need.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    return transformers


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    for text, ids in zip(texts, rows, strict=True):
        if (word := _unknown(tokenizer, text, ids)) is not None:
            raise UnknownWordError(f"the tokenizer does not know {word!r}, in {text!r}")
        if lost := _lost(tokenizer, text):
            raise UnknownWordError(
                f"the tokenizer has no token for {lost!r} and would leave it out, in "
                f"{text!r}"
            )
    return [np.asarray(ids, np.int32) for ids in rows]


def _lost(tokenizer: Tokenizer, text: str) -> str:
    """The first characters of which BPE without an unknown token makes nothing."""
    import tokenizers

    if not tokenizer.is_fast:
        return ""
    backend = tokenizer.backend_tokenizer
    model, cut = backend.model, backend.pre_tokenizer
    if not isinstance(model, tokenizers.models.BPE) or model.unk_token is not None:
        return ""
    if model.byte_fallback:
        return ""

    def lost_in(text: str) -> bool:
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        words = [text] if cut is None else [w for w, _ in cut.pre_tokenize_str(text)]
        return any(model.token_to_id(letter) is None for letter in set("".join(words)))

    if not lost_in(text):
        return ""
    for token in tokenizer.added_tokens_decoder.values():  # found before BPE begins
        text = text.replace(token.content, "")
    return next((c for c in text if lost_in(c)), "")


def _unknown(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> str | None:
    """The first word that is not known; the text itself where offsets are not kept.

    GPT-2's token for unknown words is the one that ends a text: where the text spells
    it, that is meant.
    """
    unknown, spelt = tokenizer.unk_token_id, tokenizer.unk_token
    if unknown is None or unknown not in ids:
        return None
    t = tokenizer
    is_more = unknown in (t.bos_token_id, t.eos_token_id, t.pad_token_id)
    if not tokenizer.is_fast:
        as_spelt = text.count(spelt) == list(ids).count(unknown)
        return None if is_more and as_spelt else text
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for token, (first, last) in zip(ids, encoding["offset_mapping"], strict=True):
        word = text[first:last]
        if token == unknown and not (is_more and word.strip() == spelt):
            return word
    return None


def _pattern(words: Sequence[str]) -> str:
    """Phrases, longest first, then any word; a phrase ends where a word does."""
    phrases = sorted((w for w in words if " " in w), key=len, reverse=True)
    return "|".join([*(rf"{re.escape(p)}(?![^\s,])" for p in phrases), _WORD])


def _check_words(words: Sequence[str]) -> None:
    if not words:
        raise ValueError("a word-level tokenizer needs at least one word, got none")
    seen = {PAD, EOS, UNK}
    for word in words:
        if word in seen:
            raise ValueError(f"the word {word!r} is in the vocabulary already")
        if not all(re.fullmatch(_WORD, part) for part in word.split(" ")):
            raise ValueError(
                f"{word!r} is no word or phrase: commas, newlines and spaces other "
                "than one between two words are separators"
            )
        seen.add(word)


def _check_characters(characters: str | Sequence[str]) -> None:
    if not characters:
        raise ValueError(
            "a character-level tokenizer needs at least one character, got none"
        )
    seen = set()
    for character in characters:
        if len(character) != 1:
            raise ValueError(f"{character!r} is no single character: list its parts")
        if "\ud800" <= character <= "\udfff":
            raise ValueError(f"{character!r} is half of a surrogate pair, no character")
        if character in seen:
            raise ValueError(f"the character {character!r} comes twice; list it once")
        seen.add(character)
