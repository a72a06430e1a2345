"""Files written whole or not at all, and the errors a user can mend."""

import json
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np

from rljax.types import PyTree


class RunError(ValueError):
    """A fault the user can mend; shown as one message, without a traceback."""


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file so that readers see the old text or the new, never a part."""
    part = path.with_name(path.name + ".tmp")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def as_json(value: Any) -> Any:
    """A value as a JSON file gives it back: tuples are lists."""
    return json.loads(json.dumps(value))


def write_arrays(path: pathlib.Path, tree: PyTree) -> None:
    """Writes the leaves of `tree` to one .npz, named by their paths, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".tmp")
    leaves = {
        jax.tree_util.keystr(where): np.asarray(jax.device_get(plain(leaf)))
        for where, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **leaves)
    part.replace(path)


def plain(leaf: Any) -> Any:
    """`leaf` itself, or the integers behind a typed PRNG key."""
    is_key = isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )
    return jax.random.key_data(leaf) if is_key else leaf


def free_space(folder: pathlib.Path) -> str:
    """Free bytes of the disk a folder is on, for people."""
    try:
        return human_bytes(shutil.disk_usage(folder).free)
    except OSError:
        return "unknown"


def human_bytes(count: float) -> str:
    """A number of bytes for people: 1234567 -> '1.2 MB'."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
