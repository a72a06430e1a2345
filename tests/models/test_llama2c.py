"""llama2.c files: the tokenizer against its own way of merging, and a real model."""

import os
import pathlib
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import llama2c, loading
from rljax.models.decoder import Decoder, logits

DATA = pathlib.Path(os.environ.get("RLJAX_DATA", "data")) / "stories260K"
TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    "",
    " two  spaces, and   three ",
    "tabs\tand\nlines\n\n",
    "caf\u00e9 \u2122 \u4f60\u597d \U0001f600",
    "aaaaaaaaaaaaaaa bananananas nnnnddd theethe ttt",
    "12345 !!??.. [x] ~ \"quoted\" 'it's'",
]


@pytest.fixture(scope="module")
def real() -> pathlib.Path:
    path = DATA / "stories260K.bin"
    if not path.is_file():
        pytest.skip(f"needs {path} (set RLJAX_DATA)")
    return path


@pytest.fixture(scope="module")
def opened(real):
    model = loading.open_model(real)
    return model, loading.load_params(model), model.tokenizer()


def merged(text: str, tokens: list[bytes], scores: list[float]) -> list[int]:
    """Characters, or their bytes; then the best-scoring pair is joined, leftmost."""
    ids: list[int] = []
    for char in (" " + text) if text else "":
        known = char.encode() in tokens
        ids += (
            [tokens.index(char.encode())] if known else [3 + b for b in char.encode()]
        )
    while True:
        best = None
        for i in range(len(ids) - 1):
            joined = tokens[ids[i]] + tokens[ids[i + 1]]
            if joined in tokens:
                j = tokens.index(joined)
                if best is None or scores[j] > best[0]:
                    best = (scores[j], i, j)
        if best is None:
            return ids
        ids[best[1] : best[1] + 2] = [best[2]]


def table(data: bytes) -> tuple[list[bytes], list[float]]:
    tokens, scores, at = [], [], 4
    while at < len(data):
        score, length = struct.unpack("<fi", data[at : at + 8])
        tokens.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    return tokens, scores


def test_tokens_are_those_of_greedy_merges(real, opened, tmp_path):
    tokens, scores = table((DATA / "tok512.bin").read_bytes())
    assert len(tokens) == 512
    words = b" ".join(t for t in tokens[259:] if t[:1] not in (b"<", b"\n")).decode()
    rng = np.random.default_rng(0)
    texts = [*TEXTS, words]
    for _ in range(60):  # tokens next to one another, where merges compete
        texts.append(b"".join(tokens[i] for i in rng.integers(259, 512, 20)).decode())
    tokenizer = opened[2]
    tokenizer.save_pretrained(tmp_path)
    from rljax.text import tokenizer as tokenizers

    again = tokenizers.load(tmp_path)
    for text in texts:
        expected = merged(text, tokens, scores)
        for each in (tokenizer, again):
            assert each(text, add_special_tokens=False)["input_ids"] == expected, text
            assert each.decode(expected) == text
    assert tokenizer("Lily")["input_ids"][0] == llama2c.BOS
    assert (again.bos_token_id, again.eos_token_id) == (llama2c.BOS, llama2c.EOS)


def test_a_story_is_fluent(opened):
    model, params, tokenizer = opened
    length, decoder = 96, Decoder(model.config)
    positions = jnp.arange(length)[None]
    mask = jnp.tril(jnp.ones((1, length, length), bool))

    @jax.jit
    def tell(params):
        def step(i, ids):
            hidden = decoder.apply({"params": params}, ids, positions, mask)
            best = jnp.argmax(
                logits(params, jnp.asarray(hidden)[:, i - 1], model.config)[0]
            )
            return ids.at[0, i].set(best)

        start = jnp.full((1, length), llama2c.BOS, jnp.int32)
        return jax.lax.fori_loop(1, length, step, start)

    text = tokenizer.decode(np.asarray(tell(params))[0, 1:])
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play "
        "outside in the park. One day, she saw a big, red ball. She wanted to play "
        "with it, but it was too high."
    )


def tiny(tied=True, tables=True, theta=10_000.0) -> bytes:
    """A model whose arrays count up, so that each is known by its numbers."""
    width, mlp, layers, heads, kv, vocabulary, context = 8, 3, 2, 2, 1, 5, 4
    header = (width, mlp, layers, heads, kv, vocabulary * (1 if tied else -1), context)
    layer = 2 * width * width + 2 * width * width // 2 + 2 * width + 3 * width * mlp
    count = vocabulary * width + layers * layer + width
    body = np.arange(count, dtype="<f4").tobytes()
    angles = np.arange(context)[:, None] * theta ** (-np.arange(2) / 2)
    ends = np.stack([np.cos(angles), np.sin(angles)]).astype("<f4").tobytes()
    head = -np.ones((vocabulary, width), "<f4")
    body += ends if tables else b""
    return struct.pack("<7i", *header) + body + (b"" if tied else head.tobytes())


def test_a_width_that_begins_like_a_pickle(tmp_path):
    (tmp_path / "model.bin").write_bytes(struct.pack("<7i", 640, 2, 1, 8, 8, 5, 4))
    with pytest.raises(ValueError, match="has 28 bytes; its header asks for"):
        loading.open_model(tmp_path / "model.bin")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tables", [True, False])
def test_arrays_are_read_in_the_order_of_the_file(tmp_path, tied, tables):
    path = tmp_path / "model.bin"
    path.write_bytes(tiny(tied, tables))
    params = loading.load_params(loading.open_model(path))
    np.testing.assert_array_equal(params["embedding"].ravel(), np.arange(40))
    # emb 40, att_norm 2 x 8, wq 2 x 64, wk 2 x 32, ...
    np.testing.assert_array_equal(params["attention_norm"][1], np.arange(48, 56))
    q = np.arange(56 + 64, 56 + 128).reshape(8, 8)
    # Rows 0 1 2 3 of a head are turned as (0 1) (2 3); ours as (0 2) (1 3).
    q = q[[0, 2, 1, 3, 4, 6, 5, 7]]
    np.testing.assert_array_equal(params["qkv"][1, :, :8], q.T)
    v = np.arange(184 + 64 + 32, 184 + 128).reshape(4, 8)
    np.testing.assert_array_equal(params["qkv"][1, :, 12:], v.T)
    assert ("unembedding" in params) == (not tied)
    if not tied:
        assert (np.asarray(params["unembedding"]) == -1).all()


def test_damaged_models_are_told(tmp_path):
    path, whole = tmp_path / "model.bin", tiny()
    size = len(whole)
    for data, message in (
        (whole[:-4], rf"has {size - 4:,} bytes; its header asks for {size:,}, or "),
        (whole + b"1234", rf"has {size + 4:,} bytes; its header asks for {size:,}"),
        (whole[:20], "has 20 bytes: no llama2.c model"),
        (b"\0" * size, r"begins with \(0, 0, .* which is no header"),
        (
            whole[:16] + struct.pack("<i", 3) + whole[20:],
            "must be a multiple of num_kv",
        ),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message):
            loading.open_model(path)
    path.write_bytes(tiny(theta=500.0))
    with pytest.raises(ValueError, match="tables of RoPE that differ from those of b"):
        loading.load_params(loading.open_model(path))


def test_tokenizers_that_do_not_belong_are_told(real, tmp_path):
    shutil.copy(real, tmp_path)
    model = loading.open_model(tmp_path / real.name)
    with pytest.raises(
        ValueError, match="holds no tokenizer: neither of .'tok512.bin'"
    ):
        model.tokenizer()
    data = (DATA / "tok512.bin").read_bytes()
    for wrong, message in (
        (data[:-1], r"has 6,226 bytes and ends in token 511, expected 512 tokens"),
        (data + b"more", r"has 6,231 bytes; the model's 512 tokens take 6,227"),
        (data.replace(b"<0x07>", b"<0x7!>"), "does not hold the bytes as tokens 3 to"),
        (data.replace(b" the", b" \xff\xfee"), "holds a token that is not UTF-8"),
    ):
        (tmp_path / "tok512.bin").write_bytes(wrong)
        with pytest.raises(ValueError, match=message):
            model.tokenizer()
