"""Checkpoints: the whole state of a run, written by Orbax, checked before use.

A checkpoint is `checkpoints/<update>/` with Orbax's `state/` and `meta.json`,
which lists the size and CRC-32 of every file: Orbax restores a flipped bit in the
data without a word. It is built in a folder called `part_<update>` and renamed
when it is whole, so a name that is a number is a whole checkpoint, whenever the
process was killed.

Saving is synchronous: 100 MB take a second of one CPU core at most, and a full disk
shows itself here and not a minute later.
"""

import json
import pathlib
import re
import shutil
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from rljax.training.files import RunError, free_space, human_bytes
from rljax.types import PyTree


class DamagedError(RunError):
    """A checkpoint whose files are not what was written."""


def state_bytes(state: PyTree) -> int:
    """Bytes of a state or of its abstract shapes."""
    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
        if hasattr(leaf, "dtype")
    )


def digest(weights: PyTree) -> str:
    """CRC-32 over names, types, shapes and bits of all leaves, as text.

    For weights that stay out of checkpoints because they never move: what is saved of
    them is this, and what is loaded in their place must have the same.
    """
    crc = 0
    for where, leaf in jax.tree_util.tree_leaves_with_path(weights):
        name = jax.tree_util.keystr(where)
        crc = zlib.crc32(f"{name} {leaf.dtype}{list(leaf.shape)}".encode(), crc)
        bits: Any = np.ascontiguousarray(np.asarray(leaf)).reshape(-1).view(np.uint8)
        crc = zlib.crc32(bits, crc)
    return f"crc32:{crc:08x}"


def updates(folder: pathlib.Path) -> list[int]:
    """Updates that have a checkpoint in `folder`, rising."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def save(
    folder: pathlib.Path,
    update: int,
    state: PyTree,
    meta: dict[str, Any],
    keep: int = 3,
) -> None:
    """Writes a checkpoint and removes the oldest beyond `keep`.

    Args:
      folder: where the checkpoints of the run are.
      update: its name; a checkpoint of that name is replaced.
      state: pytree of arrays, typed PRNG keys included.
      meta: JSON values to give back beside the state.
      keep: how many checkpoints stay.

    Raises:
      RunError: if it cannot be written. The earlier ones are untouched.
    """
    folder = folder.absolute()
    part = folder / f"part_{update}"
    first = jax.process_index() == 0
    try:
        if first:
            for old in folder.glob("part_*"):  # of a process killed while saving
                shutil.rmtree(old)
        _wait("cleared")
        free = shutil.disk_usage(folder).free
        if free < state_bytes(state) // jax.process_count():
            raise OSError("no space left on the disk")
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
            kept = jax.tree.map(_one_at_least, state)
            orbax.save(part / "state", args=ocp.args.StandardSave(kept))
        if first:
            _seal(part, {"update": update, "meta": meta, "leaves": _leaves(state)})
            if (folder / str(update)).exists():
                _remove(folder, update)
            part.rename(folder / str(update))
            for old in updates(folder)[:-keep]:
                _remove(folder, old)
        _wait("saved")
    except Exception as error:  # Orbax raises all kinds when a disk is full
        free = free_space(folder)
        shutil.rmtree(part, ignore_errors=True)
        raise RunError(
            f"checkpoint {folder / str(update)} cannot be written ({free} of disk "
            f"free, state {human_bytes(state_bytes(state))}): {_first_line(error)}"
        ) from error


def latest(folder: pathlib.Path, say: Callable[[str], None] = print) -> int | None:
    """The newest sound checkpoint; the damaged ones passed over are reported.

    Returns:
      Its update, or None where there is no checkpoint at all.

    Raises:
      RunError: if there are checkpoints and all of them are damaged.
    """
    found = updates(folder)
    for update in reversed(found):
        try:
            verify(folder, update)
            return update
        except DamagedError as error:
            say(f"warning: {error}; trying the one before")
    if found:
        raise RunError(
            f"all {len(found)} checkpoints in {folder} are damaged: "
            "delete them to start anew, or restore them from a copy"
        )
    return None


def verify(folder: pathlib.Path, update: int) -> None:
    """Checks every file of a checkpoint against its size and checksum.

    Raises:
      DamagedError: naming the checkpoint, the file and what is wrong with it.
    """
    path = folder / str(update)

    def damaged(name: str, why: object) -> DamagedError:
        return DamagedError(f"checkpoint {path} is damaged ({name}: {why})")

    try:
        record = json.loads((path / "meta.json").read_bytes())
        seal = record.pop("crc")
        files = record["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged("meta.json", _first_line(error)) from error
    if seal != _crc_of(record):
        raise damaged("meta.json", "wrong checksum")
    for name, (size, crc) in files:
        try:
            size_there, crc_there = _measure(path / name)
        except OSError as error:
            raise damaged(name, error.strerror) from error
        if size_there != size:
            raise damaged(name, f"{size_there} bytes of {size}")
        if crc_there != crc:
            raise damaged(name, "wrong checksum")


def read_meta(folder: pathlib.Path, update: int) -> dict[str, Any]:
    """The `meta` that was saved with a checkpoint."""
    return json.loads((folder / str(update) / "meta.json").read_bytes())["meta"]


def read_state(folder: pathlib.Path, update: int, target: PyTree) -> PyTree:
    """Reads the state of a checkpoint that `verify` found sound.

    Args:
      folder: where the checkpoints of the run are.
      update: which one.
      target: abstract state, as `jax.eval_shape` gives it. A leaf goes where its
        `sharding` says, or to the first device if it says nothing.

    Returns:
      The state, in the structure of `target`.

    Raises:
      RunError: if the checkpoint holds leaves of other names, shapes or dtypes.
    """
    path = folder.absolute() / str(update)
    there = json.loads((path / "meta.json").read_bytes())["leaves"]
    here = _leaves(target)
    wrong = [
        f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if wrong:
        more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise RunError(
            f"checkpoint {path} holds another state:\n" + "\n".join(wrong[:8]) + more
        )
    here_only = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(leaf, "sharding", None) or here_only
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    kept = jax.tree.map(lambda leaf: placed(_one_at_least(leaf)), target)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
        found = orbax.restore(path / "state", args=ocp.args.StandardRestore(kept))
    return jax.tree.map(
        lambda leaf, read: read if leaf.size else jnp.zeros(leaf.shape, leaf.dtype),
        target,
        found,
    )


def read_params(folder: pathlib.Path, update: int) -> PyTree:
    """Reads the agent's parameters alone, whatever else the run held.

    A state is (agent's state, everything else), and an agent's state has `params`.

    Args:
      folder: where the checkpoints of the run are.
      update: one that `verify` found sound.

    Returns:
      Nested dicts of numpy arrays.

    Raises:
      RunError: if the checkpoint holds no such parameters.
    """
    path = folder.absolute() / str(update)
    leaves = json.loads((path / "meta.json").read_bytes())["leaves"]
    start = "[0].params"
    wanted: dict[str, Any] = {}
    for name, kind in leaves.items():
        keys = re.findall(r"\['([^']+)'\]", name.removeprefix(start))
        if name != start + "".join(f"['{key}']" for key in keys) or not keys:
            continue
        dtype, _, shape = kind.rstrip("]").partition("[")
        sizes = tuple(int(n) for n in shape.split(",") if n)
        inside = wanted
        for key in keys[:-1]:
            inside = inside.setdefault(key, {})
        inside[keys[-1]] = jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype))
    if not wanted:
        raise RunError(f"checkpoint {path} holds no agent's parameters")
    return _read_partly(path, [{"params": wanted}, None])[0]["params"]


def read_rest(folder: pathlib.Path, update: int, target: PyTree) -> PyTree:
    """Reads what a run carried beside its agent, and nothing of the agent.

    Args:
      folder: where the checkpoints of the run are.
      update: one that `verify` found sound.
      target: the same, of which shapes are read; no leaf is without elements.

    Returns:
      Numpy arrays in the structure of `target`, with its types.

    Raises:
      RunError: if the checkpoint holds something else there.
    """
    path = folder.absolute() / str(update)
    leaves = json.loads((path / "meta.json").read_bytes())["leaves"]
    there = {name: kind for name, kind in leaves.items() if name.startswith("[1]")}
    here = _leaves([None, target])
    shapes = [{k: v[v.index("[") :] for k, v in x.items()} for x in (there, here)]
    if shapes[0] != shapes[1]:
        wrong = sorted(dict(shapes[0].items() ^ shapes[1].items()))
        raise RunError(f"checkpoint {path} holds another state: {', '.join(wrong)}")
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), target)
    found = _read_partly(path, [None, abstract])[1]
    return jax.tree.map(lambda x, like: np.array(x, like.dtype), found, target)


def _read_partly(path: pathlib.Path, target: PyTree) -> PyTree:
    """The leaves of a checkpoint that are in `target`, as numpy arrays."""
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        return orbax.restore(
            path / "state",
            args=ocp.args.PyTreeRestore(
                item=target, restore_args=how, partial_restore=True
            ),
        )


def _one_at_least(leaf: Any) -> Any:
    """A leaf without elements, which Orbax refuses, gives way to one of size 1."""
    if leaf.size:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((1,), leaf.dtype, sharding=leaf.sharding)
    return jnp.zeros((1,), leaf.dtype)


def set_aside_after(folder: pathlib.Path, update: int | None) -> None:
    """Renames the checkpoints past `update` (all, for None) to `aside_<update>`.

    The run is about to write its own; damaged or left over, these stay for a look.
    """
    for later in updates(folder):
        if update is None or later > update:
            aside = folder / f"aside_{later}"
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(later)).rename(aside)


def _leaves(state: PyTree) -> dict[str, str]:
    """Path, dtype and shape of every leaf: what a restore is compared with."""
    return {
        jax.tree_util.keystr(where): f"{leaf.dtype}{list(leaf.shape)}"
        for where, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _seal(part: pathlib.Path, record: dict[str, Any]) -> None:
    record["files"] = {
        str(p.relative_to(part)): _measure(p)
        for p in sorted(part.rglob("*"))
        if p.is_file()
    }
    record["crc"] = _crc_of(record)
    (part / "meta.json").write_text(json.dumps(record))


def _measure(path: pathlib.Path) -> tuple[int, int]:
    """Size and CRC-32 of a file, without holding all of it."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc


def _crc_of(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _remove(folder: pathlib.Path, update: int) -> None:
    """Removes a checkpoint: no folder with a number is ever half there."""
    going = folder / f"part_old_{update}"
    (folder / str(update)).rename(going)
    shutil.rmtree(going)


def _wait(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint_{name}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
