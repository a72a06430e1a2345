"""Safetensors folders read one tensor at a time.

A file is eight bytes with the length of a JSON header, the header (name -> dtype,
shape, first and last byte), then the bytes. Tensors are read one by one, not mapped:
pages of a mapped file would count as ours until all of it is done. A folder holds
`model.safetensors`, or shards with an index that says which tensor is where.
"""

import json
import math
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HEADER_LIMIT = 100_000_000  # bytes; the format's own


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    """The safetensors files of a model folder.

    Raises:
      ValueError: if there are none, the index is damaged or names a file that is
        missing or outside the folder.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    index = folder / INDEX
    if not index.is_file():
        found = sorted(p.name for p in folder.iterdir())[:20]
        pickles = [name for name in found if name.endswith(_PICKLES)]
        advice = (
            ""
            if not pickles
            else (
                f"; {pickles[0]} is a pickle, which could run any code and is never "
                "read: load it in transformers and save it again as safetensors "
                "(save_pretrained)"
            )
        )
        raise ValueError(
            f"{folder} holds neither {SINGLE} nor {INDEX}, but {found or 'nothing'}"
            f"{advice}"
        )
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{index} is not an index of safetensors: {error}") from error
    for name in names:
        if not isinstance(name, str) or pathlib.PurePath(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is not a file beside it")
        if not (folder / name).is_file():
            raise ValueError(f"{index} names {name}, which is not in {folder}")
    return [folder / name for name in names]


def is_pickle(path: pathlib.Path) -> bool:
    """Whether a file is one of PyTorch's, which are pickles, old or zipped.

    Args:
      path: any file.
    """
    if path.suffix != ".bin":  # others have files of this name too
        return path.suffix in _PICKLES
    with path.open("rb") as file:
        start = file.read(4)
    # A llama2.c file begins with its width in four bytes, the last two of them zero.
    return start[:2] in (b"PK", b"\x80\x02") and start[2:] != b"\0\0"


class Entry(NamedTuple):
    """What the header says of a tensor."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int  # byte of the file
    end: int


def tensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a file, in the order of their bytes.

    Args:
      path: a safetensors file.

    Yields:
      (name, array); the array is read when it is asked for.

    Raises:
      ValueError: if the file is damaged; it says where.
    """
    found = entries(path)
    with path.open("rb") as file:
        for entry in found:
            file.seek(entry.begin)
            data = np.fromfile(file, np.uint8, entry.end - entry.begin)
            yield entry.name, data.view(entry.dtype).reshape(entry.shape)


def entries(path: pathlib.Path) -> list[Entry]:
    """The tensors of a file as its header has them, in the order of their bytes.

    Args:
      path: a safetensors file.

    Raises:
      ValueError: if the header is damaged, or does not account for every byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise ValueError(f"{path} has {size} bytes: no safetensors file")
        (length,) = struct.unpack("<Q", start)
        if length > min(_HEADER_LIMIT, size - 8):
            raise ValueError(
                f"{path} is damaged or cut off: its header should have {length:,} "
                f"bytes, the file has {size:,}; fetch it again"
            )
        try:
            header = json.loads(file.read(length), object_pairs_hook=_distinct)
            header.pop("__metadata__", None)
            listed = sorted(
                (*entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"]))
                for name, entry in header.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} has a header that cannot be read: {error}"
            ) from error
    found, at = [], 0
    for first, last, name, kind, shape in listed:
        entry = _entry(path, name, kind, shape, (first, last), 8 + length)
        if first != at:
            raise ValueError(
                f"{path} is damaged: {name} begins at byte {entry.begin:,}, expected "
                f"{8 + length + at:,}"
            )
        at = last
        if entry.end > size:
            raise ValueError(
                f"{path} is cut off: {name} ends at byte {entry.end:,}, the file "
                f"has {size:,}; fetch it again"
            )
        found.append(entry)
    if 8 + length + at != size:
        raise ValueError(
            f"{path} is damaged: its tensors end at byte {8 + length + at:,}, the file "
            f"has {size:,}"
        )
    return found


def _entry(
    path: pathlib.Path,
    name: str,
    kind: str,
    shape: tuple[int, ...],
    span: tuple[int, int],
    base: int,
) -> Entry:
    if kind not in DTYPES:
        raise ValueError(
            f"{path}: {name} is of type {kind}; there are {', '.join(DTYPES)}"
        )
    dtype = np.dtype(DTYPES[kind])
    needed = math.prod(shape) * dtype.itemsize
    first, last = span
    if last - first != needed or first < 0:
        raise ValueError(
            f"{path}: {name} of shape {shape} and type {kind} takes {needed:,} "
            f"bytes, the header gives it {last - first:,}"
        )
    return Entry(name, dtype, shape, base + first, base + last)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a name that comes twice would hide a tensor."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} comes twice")
        found[name] = value
    return found
