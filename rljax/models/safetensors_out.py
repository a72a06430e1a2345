"""Safetensors files written one tensor at a time."""

import json
import os
import pathlib
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.models.safetensors_files import DTYPES


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
