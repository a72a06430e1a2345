"""Tokenizers from plain tables of tokens, as GGUF and llama2.c files hold them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from rljax.text.tokenizer import Tokenizer, _transformers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut before merging: by a pattern, or (None) by that of GPT-2.
PATTERNS: dict[str, str | None] = {
    "gpt-2": None,
    "llama-bpe": rf"{_CONTRACTIONS}|\p{{N}}{{1,3}}{_REST}",
    "qwen2": rf"{_CONTRACTIONS}|\p{{N}}{_REST}",
    "smollm": None,  # and each digit by itself
}


class Ids(NamedTuple):
    """Tokens with a role; None where there is none."""

    unk: int | None
    bos: int | None
    eos: int
    pad: int | None


def byte_level(
    tokens: Sequence[str],
    merges: Sequence[str],
    cut: str,
    special: Sequence[int],
    ids: Ids,
    chat_template: str | None = None,
    add_bos: bool = False,
    added: Sequence[int] = (),
) -> Tokenizer:
    """A tokenizer that merges bytes, as GPT-2's, Llama 3's, Qwen's and SmolLM's.

    Args:
      tokens: by id, their bytes written as the characters GPT-2 uses for them.
      merges: "left right", the first to be merged first.
      cut: how text is cut first, a name in `PATTERNS`.
      special: ids of tokens that no text makes, unless it spells them out.
      ids: tokens with a role.
      chat_template: in jinja.
      add_bos: begin every text with `ids.bos` where special tokens are asked for.
      added: ids of tokens that are never cut or merged, though not special.

    Raises:
      ValueError: if `cut` is not known or a merge is not of two tokens.
    """
    import tokenizers as t

    if cut not in PATTERNS:
        raise ValueError(
            f"the tokenizer cuts text as {cut!r} does, which is not implemented; "
            f"there are {', '.join(PATTERNS)}"
        )
    vocabulary = _vocabulary(tokens)
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= vocabulary.keys():
            raise ValueError(f"the tokenizer merges {merge!r}, which are no tokens")
        pairs.append((left, right))
    # Llama 3 takes a word that is a token as it is, even if no merges lead there.
    model = t.models.BPE(vocabulary, pairs, ignore_merges=cut == "llama-bpe")
    backend = t.Tokenizer(model)
    pattern = PATTERNS[cut]
    steps: list[Any] = [
        t.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    ]
    if pattern:
        steps.insert(0, t.pre_tokenizers.Split(t.Regex(pattern), "isolated"))
    if cut == "smollm":
        steps.insert(0, t.pre_tokenizers.Digits(individual_digits=True))
    if cut == "qwen2":
        backend.normalizer = t.normalizers.NFC()
    backend.pre_tokenizer = t.pre_tokenizers.Sequence(steps)
    backend.decoder = t.decoders.ByteLevel()
    _add(backend, tokens, special, added)
    return _finish(backend, tokens, ids, chat_template, add_bos)


def sentencepiece(
    tokens: Sequence[str],
    scores: Sequence[float],
    special: Sequence[int],
    ids: Ids,
    space: str = "\u2581",
    chat_template: str | None = None,
    add_bos: bool = True,
    added: Sequence[int] = (),
) -> Tokenizer:
    """A tokenizer that joins the two neighbours whose token scores highest.

    Text begins with a space that is added; characters without a token are spelled in
    bytes, `<0x00>` to `<0xFF>`.

    Args:
      tokens: by id.
      scores: of the tokens.
      special: ids of tokens that no text makes, unless it spells them out.
      ids: tokens with a role.
      space: how tokens write a space.
      chat_template: in jinja.
      add_bos: begin every text with `ids.bos` where special tokens are asked for.
      added: ids of tokens that are never cut or merged, though not special.

    Raises:
      ValueError: if a byte has no token.
    """
    import tokenizers as t

    vocabulary = _vocabulary(tokens)
    missing = [b for b in range(256) if f"<0x{b:02X}>" not in vocabulary]
    if missing:
        raise ValueError(f"the tokenizer has no token <0x{missing[0]:02X}> for a byte")
    whole = {i for i, token in enumerate(tokens) if i not in special}
    whole -= {vocabulary[f"<0x{b:02X}>"] for b in range(256)}
    usable = {tokens[i]: scores[i] for i in whole}
    pairs = sorted(
        (-score, vocabulary[token], k, token)
        for token, score in usable.items()
        for k in range(1, len(token))
        if token[:k] in usable and token[k:] in usable
    )
    model = t.models.BPE(
        vocabulary,
        [(token[:k], token[k:]) for _, _, k, token in pairs],
        unk_token=None if ids.unk is None else tokens[ids.unk],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = t.Tokenizer(model)
    backend.normalizer = t.normalizers.Sequence(
        [t.normalizers.Prepend(" "), t.normalizers.Replace(" ", space)]
    )
    backend.decoder = t.decoders.Sequence(
        [
            t.decoders.Replace(space, " "),
            t.decoders.ByteFallback(),
            t.decoders.Fuse(),
            t.decoders.Strip(" ", 1, 0),
        ]
    )
    _add(backend, tokens, special, added)
    return _finish(backend, tokens, ids, chat_template, add_bos)


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    """Token -> id, all of them distinct."""
    found: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token in found:
            raise ValueError(f"tokens {found[token]} and {i} are both {token!r}")
        found[token] = i
    return found


def _add(
    backend: Any, tokens: Sequence[str], special: Sequence[int], added: Sequence[int]
) -> None:
    """Tokens that are found in the text before it is cut."""
    import tokenizers as t

    def made(ids, is_special):
        return [
            t.AddedToken(tokens[i], special=is_special, normalized=False) for i in ids
        ]

    backend.add_special_tokens(made(special, True))
    backend.add_tokens(made(added, False))


def _finish(
    backend: Any,
    tokens: Sequence[str],
    ids: Ids,
    chat_template: str | None,
    add_bos: bool,
) -> Tokenizer:
    """Wraps a tokenizer for transformers."""
    import tokenizers as t

    if add_bos:
        if ids.bos is None:
            raise ValueError("the tokenizer begins texts with a token it does not name")
        bos = tokens[ids.bos]
        backend.post_processor = t.processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, ids.bos)],
        )  # fmt: skip
    names = {
        f"{role}_token": tokens[i] for role, i in ids._asdict().items() if i is not None
    }
    found = _transformers().PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **names
    )
    if chat_template is not None:
        found.chat_template = chat_template
    return found
