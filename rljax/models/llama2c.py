"""Models in the layout of llama2.c, such as stories260K.

A file is seven int32 (width, MLP width, layers, heads, key-value heads, vocabulary,
context) and float32 arrays, each of them for all layers. RoPE turns neighbours, so
rows of the query and key projections are put in the order of halves that ours turns.
The tokenizer is a file of its own: scores and bytes of each token.
"""

import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rljax.models.config import ModelConfig
from rljax.text import from_tables
from rljax.text.tokenizer import Tokenizer

BOS, EOS = 1, 2
_UNK, _FIRST_BYTE = 0, 3  # ids; 256 bytes follow
_THETA, _NORM_EPS = 10_000.0, 1e-5  # fixed in that program


class Header(NamedTuple):
    """What a file says before its arrays.

    Attributes:
      config: settings of the decoder.
      tables: whether the file ends with tables of RoPE, as the first layout does.
    """

    config: ModelConfig
    tables: bool


def read(path: pathlib.Path) -> Header:
    """Reads and checks the seven numbers of a file.

    Args:
      path: the model.

    Raises:
      ValueError: if they make no model, or the file is not as long as they say.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(28)
    if len(start) < 28:
        raise ValueError(f"{path} has {size} bytes: no llama2.c model")
    width, mlp, layers, heads, kv, vocabulary, context = struct.unpack("<7i", start)
    numbers = f"{path} begins with {struct.unpack('<7i', start)}"
    sizes = (width, mlp, layers, heads, kv, abs(vocabulary), context)
    if min(sizes) <= 0 or max(sizes) >= 1 << 24 or width % heads:
        raise ValueError(f"{numbers}, which is no header of a llama2.c model")
    try:
        config = ModelConfig(
            vocab_size=abs(vocabulary),
            width=width,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=kv,
            head_dim=width // heads,
            mlp_width=mlp,
            rope_theta=_THETA,
            max_positions=context,
            norm_eps=_NORM_EPS,
            tied_embedding=vocabulary > 0,  # the sign says so
        )
    except ValueError as error:
        raise ValueError(f"{numbers}: {error}") from error
    plain = 28 + 4 * sum(_count(shape) for _, shape in _arrays(config))
    with_tables = plain + 4 * context * config.head_dim
    if size not in (plain, with_tables):
        raise ValueError(
            f"{path} has {size:,} bytes; its header asks for {with_tables:,}, or "
            f"{plain:,} without tables of RoPE: fetch it again"
        )
    return Header(config, size == with_tables)


def tensors(path: pathlib.Path, header: Header) -> Iterator[tuple[str, np.ndarray]]:
    """The weights, one layer of one array at a time.

    Args:
      path: the model.
      header: what `read` returned.

    Yields:
      (name as in Hugging Face's files of a Llama, float32 array).

    Raises:
      ValueError: if the file's RoPE is another than ours.
    """
    c = header.config
    with path.open("rb") as file:
        file.seek(28)
        for name, shape in _arrays(c):
            if name == "lm_head.weight" and header.tables:
                _check_tables(file, path, c)
            for i in range(shape[0] if "{}" in name else 1):
                part = shape[1:] if "{}" in name else shape
                array = np.fromfile(file, "<f4", _count(part)).reshape(part)
                if ".q_proj" in name or ".k_proj" in name:
                    array = halves(array, c.head_dim)
                yield name.format(i), array
        if c.tied_embedding and header.tables:
            _check_tables(file, path, c)


def halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of a projection for RoPE that turns halves, from one that turns neighbours.

    Args:
      rows: [heads * head_dim, ...], row 2 i of a head is turned with row 2 i + 1.
      head_dim: rows of a head.

    Returns:
      The same rows; row i of a head is turned with row i + head_dim / 2.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def tokenizer_beside(path: pathlib.Path, header: Header) -> pathlib.Path:
    """The tokenizer that goes with a model: `tok512.bin`, or `tokenizer.bin`.

    Args:
      path: the model.
      header: of the model; the first name holds the size of its vocabulary.

    Raises:
      ValueError: if there is none.
    """
    names = (f"tok{header.config.vocab_size}.bin", "tokenizer.bin")
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    raise ValueError(f"{path.parent} holds no tokenizer: neither of {names}")


def tokenizer(path: pathlib.Path, header: Header) -> Tokenizer:
    """The tokenizer in a file of llama2.c's.

    Args:
      path: int32, the longest token; then score float32, length int32, and bytes of
        each token. Ids 0 to 2 are unknown, begin and end, 3 to 258 are bytes.
      header: of the model.

    Raises:
      ValueError: if the file is cut off, too long, or not such a tokenizer.
    """
    data, count = path.read_bytes(), header.config.vocab_size
    tokens, scores, at = [], [], 4
    for i in range(count):
        length = (
            struct.unpack("<i", data[at + 4 : at + 8])[0] if at + 8 <= len(data) else -1
        )  # noqa: E501
        if length < 0 or at + 8 + length > len(data):
            raise ValueError(
                f"{path} has {len(data):,} bytes and ends in token {i}, expected "
                f"{count} tokens, as many as the model has"
            )
        scores.append(struct.unpack("<f", data[at : at + 4])[0])
        tokens.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    if at != len(data):
        raise ValueError(
            f"{path} has {len(data):,} bytes; the model's {count} tokens take {at:,}: "
            "it belongs to another model"
        )
    if tokens[_FIRST_BYTE : _FIRST_BYTE + 256] != [b"<0x%02X>" % b for b in range(256)]:
        raise ValueError(f"{path} does not hold the bytes as tokens 3 to 258")
    try:
        names = [token.decode() for token in tokens]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} holds a token that is not UTF-8") from error
    # The first three are written as that program prints them, with newlines.
    names[: EOS + 1] = [name.strip("\n") for name in names[: EOS + 1]]
    return from_tables.sentencepiece(
        names, scores, special=(_UNK, BOS, EOS), space=" ",
        ids=from_tables.Ids(unk=_UNK, bos=BOS, eos=EOS, pad=EOS), add_bos=True,
    )  # fmt: skip


def _arrays(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in the order of the file; {} is the layer."""
    c = config
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    layer: list[tuple[str, tuple[int, ...]]] = [
        ("input_layernorm", (c.width,)),
        ("self_attn.q_proj", (q, c.width)),
        ("self_attn.k_proj", (kv, c.width)),
        ("self_attn.v_proj", (kv, c.width)),
        ("self_attn.o_proj", (c.width, q)),
        ("post_attention_layernorm", (c.width,)),
        ("mlp.gate_proj", (c.mlp_width, c.width)),
        ("mlp.down_proj", (c.width, c.mlp_width)),
        ("mlp.up_proj", (c.mlp_width, c.width)),
    ]
    size = (c.vocab_size, c.width)
    found: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", size)]
    for name, shape in layer:
        found.append((f"model.layers.{{}}.{name}.weight", (c.num_layers, *shape)))
    found.append(("model.norm.weight", (c.width,)))
    if not c.tied_embedding:
        found.append(("lm_head.weight", size))
    return found


def _check_tables(file, path: pathlib.Path, config: ModelConfig) -> None:
    """Passes over the tables of cosines and sines, which must be those of our RoPE."""
    half = config.head_dim // 2
    count = (config.max_positions or 0) * half
    cosines, _ = np.fromfile(file, "<f4", 2 * count).reshape(2, -1, half)
    turns = _THETA ** (-2 * np.arange(half) / config.head_dim)
    expected = np.cos(np.arange(len(cosines))[:, None] * turns)
    worst = np.abs(cosines - expected).max()
    if worst > 1e-3:
        raise ValueError(
            f"{path} has tables of RoPE that differ from those of base {_THETA:g} by "
            f"{worst:.2g}, which is not implemented"
        )


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
