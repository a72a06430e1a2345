"""Safetensors folders read, and files written, one tensor at a time.

A file is eight bytes with the length of a JSON header, the header (name -> dtype,
shape, first and last byte), then the bytes. It is mapped, not read: a tensor costs
host memory while someone holds it. A folder holds `model.safetensors`, or shards with
an index that says which tensor is where.
"""

import json
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator, Sequence
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
        raise ValueError(
            f"{folder} holds neither {SINGLE} nor {INDEX}, but {found or 'nothing'}"
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


def tensors(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays of a file, in the order of their bytes.

    Args:
      path: a safetensors file.

    Yields:
      (name, array); the array is a view of the mapped file.

    Raises:
      ValueError: if the file is damaged; it says where.
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
                f"bytes, the file has {size:,}"
            )
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = sorted(
                (*entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"]))
                for name, entry in header.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has a header that cannot be read") from error
    base = 8 + length
    data = np.memmap(path, np.uint8, "r", offset=base) if size > base else None
    for first, last, name, kind, shape in entries:
        if kind not in DTYPES:
            raise ValueError(
                f"{path}: {name} is of type {kind}; there are {', '.join(DTYPES)}"
            )
        dtype = np.dtype(DTYPES[kind])
        needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if last - first != needed or first < 0:
            raise ValueError(
                f"{path}: {name} of shape {shape} and type {kind} takes {needed:,} "
                f"bytes, the header gives it {last - first:,}"
            )
        if base + last > size:
            raise ValueError(
                f"{path} is cut off: {name} ends at byte {base + last:,}, the file "
                f"has {size:,}"
            )
        if data is None:
            yield name, np.zeros(shape, dtype)
        else:
            yield name, data[first:last].view(dtype).reshape(shape)


class Entry(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write(
    path: pathlib.Path, entries: Sequence[Entry], arrays: Iterable[np.ndarray]
) -> None:
    """Writes a file tensor by tensor: no more than one is held.

    Args:
      path: the file; replaced where it exists.
      entries: what the header says, in the order of the bytes.
      arrays: of these types and shapes; taken one at a time.

    Raises:
      ValueError: for an array that is not as its entry says, or a type that the
        format has no name for.
    """
    kinds = {np.dtype(dtype): kind for kind, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        if entry.dtype not in kinds:
            raise ValueError(
                f"{entry.name} is of type {entry.dtype}; there are "
                f"{', '.join(map(str, kinds))}"
            )
        span = [offset, offset + entry.size]
        kind, shape = kinds[entry.dtype], list(entry.shape)
        header[entry.name] = {"dtype": kind, "shape": shape, "data_offsets": span}
        offset += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry, array in zip(entries, arrays, strict=True):
            if (array.dtype, array.shape) != (entry.dtype, entry.shape):
                raise ValueError(
                    f"{entry.name} is {array.dtype}{list(array.shape)}, announced as "
                    f"{entry.dtype}{list(entry.shape)}"
                )
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
