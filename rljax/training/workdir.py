"""The folder of a run: what it holds, and who may write into it.

    config.json      resolved config, command, versions, git hash, devices
    metrics.jsonl    one line per logging update
    hf/              the tokenizer, as a Hugging Face folder
    nonfinite/       batches whose update was skipped, if any
    annotations/     what people wrote about states of replay, if any
    checkpoints/<update>/   eval/   rollouts/   tb/   summary.json   report.html

A folder belongs to one config. The same config in the same folder goes on from
the newest checkpoint; anything else found there is refused. With more than one
process the first one writes and the others follow its decision.
"""

import importlib.metadata
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from rljax.training import checkpoint
from rljax.training.files import RunError, as_json, human_bytes, read_json, write_json

FOLDERS = ("checkpoints", "eval", "hf", "rollouts", "tb")
_PACKAGES = "rljax jax jaxlib flax optax orbax-checkpoint transformers numpy".split()


class Workdir(NamedTuple):
    """An opened run folder."""

    path: pathlib.Path
    resume: int | None  # update of the checkpoint to go on from; None: start anew

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints of the run are."""
        return self.path / "checkpoints"


def open_workdir(
    path: str | os.PathLike[str],
    config: dict[str, Any],
    resume: str | int = "auto",
    may_differ: Set[str] = frozenset(),
    needed_bytes: int = 0,
    say: Callable[[str], None] = print,
) -> Workdir:
    """Makes or finds the folder of a run and says which update it goes on from.

    Args:
      path: the folder; made where it is missing.
      config: resolved settings, nested dicts of JSON values.
      resume: "auto" goes on from the newest sound checkpoint if there is one,
        "never" wants a folder without a run, a number wants that checkpoint.
      may_differ: dotted keys ("agent.steps") that may change on a resume.
      needed_bytes: disk space the run will need, as far as it is known.
      say: where the one line about resuming and any warnings go.

    Returns:
      The folder and the update to go on from.

    Raises:
      RunError: if the folder is foreign, holds another config or (for "never")
        any run, cannot be written, or the disk is too full; or the checkpoint
        asked for is missing or damaged, or none is sound.
    """
    path = pathlib.Path(path).absolute()
    update = -1
    if jax.process_index() == 0:
        update = _open_first(path, config, resume, may_differ, needed_bytes, say)
    if jax.process_count() > 1:
        update = int(multihost_utils.broadcast_one_to_all(np.int32(update)))
    return Workdir(path, None if update < 0 else update)


def own(
    path: str | os.PathLike[str],
    config: dict[str, Any],
    may_differ: Set[str] = frozenset(),
) -> pathlib.Path:
    """Makes or finds the folder of several runs that belongs to one config.

    Args:
      path: the folder; made where it is missing.
      config: as of `open_workdir`.
      may_differ: the same.

    Returns:
      The folder, in which `config.json` is all that was written.

    Raises:
      RunError: if the folder is foreign, holds another config, or cannot be written.
    """
    path = pathlib.Path(path)
    config = as_json(config)
    held = _held_record(path)
    if held is not None:
        _require_same_config(path, held["config"], config, may_differ)
    record = _record(config)
    try:
        write_json(path / "config.json", record)
    except OSError as error:
        raise RunError(f"workdir {path} cannot be written: {error}") from error
    return path


def _open_first(
    path: pathlib.Path,
    config: dict[str, Any],
    resume: str | int,
    may_differ: Set[str],
    needed_bytes: int,
    say: Callable[[str], None],
) -> int:
    """What the first process does: -1 to start anew, or an update."""
    config = as_json(config)
    held = _held_record(path)
    if held is not None:
        if resume == "never":
            raise RunError(
                f"workdir {path} holds a run and resume is 'never': "
                "choose a new folder, or resume='auto'"
            )
        _require_same_config(path, held["config"], config, may_differ)
    _require_space(path, needed_bytes)
    record = _record(config)
    try:
        # First of all, so that a run killed here finds its own folder again.
        write_json(path / "config.json", record)
        for name in FOLDERS:
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"workdir {path} cannot be written: {error}") from error
    update = _update_to_resume(path / "checkpoints", resume, say)
    if update is None:
        if held is not None:
            say(f"workdir {path}: no checkpoint yet, starting anew")
        return -1
    say(f"workdir {path}: going on from update {update:,}")
    changed = [
        f"{name} {before} then, {now} now"
        for name, now in record["versions"].items()
        if held and (before := held["versions"].get(name)) != now
    ]
    if changed:
        say("not bit for bit the same run: " + ", ".join(changed))
    return update


def _held_record(path: pathlib.Path) -> dict[str, Any] | None:
    """The config.json of the run in `path`; None if the folder is free."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = [p.name for p in path.iterdir() if p.name != "config.json.tmp"]
    except OSError as error:
        raise RunError(f"workdir {path} cannot be used: {error}") from error
    if not names:
        return None
    try:
        record = read_json(path / "config.json")
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not {"config", "versions"} <= record.keys():
        raise RunError(
            f"workdir {path} is not empty and holds no run of ours (no config.json "
            "that we wrote): choose a new or empty folder"
        )
    return record


def _require_same_config(
    path: pathlib.Path,
    held: dict[str, Any],
    config: dict[str, Any],
    may_differ: Set[str],
) -> None:
    there, here = flatten(held), flatten(config)
    absent = "(absent)"
    lines = [
        f"  {key}: {there.get(key, absent)!r} there, {here.get(key, absent)!r} here"
        for key in sorted(there.keys() | here.keys())
        if key not in may_differ and there.get(key, absent) != here.get(key, absent)
    ]
    if lines:
        raise RunError(
            f"workdir {path} holds a run with another config:\n"
            + "\n".join(lines)
            + "\nchoose another folder, or the same settings"
        )


def _require_space(path: pathlib.Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    if free < needed_bytes:
        raise RunError(
            f"workdir {path}: {human_bytes(free)} of disk are free, and the run needs "
            f"about {human_bytes(needed_bytes)}: free some, or choose another disk"
        )


def _update_to_resume(
    folder: pathlib.Path, resume: str | int, say: Callable[[str], None]
) -> int | None:
    if resume == "never":
        return None
    if resume == "auto":
        return checkpoint.latest(folder, say)
    update = int(resume)
    if update not in checkpoint.updates(folder):
        there = ", ".join(map(str, checkpoint.updates(folder))) or "none"
        raise RunError(
            f"resume is {update}, and {folder} has no such checkpoint (there: {there})"
        )
    try:
        checkpoint.verify(folder, update)
    except checkpoint.DamagedError as error:
        raise RunError(f"resume is {update}, and {error}") from error
    return update


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _record(config: dict[str, Any]) -> dict[str, Any]:
    devices = jax.devices()
    return {
        "config": config,
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _git_hash(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _git_hash() -> str | None:
    """The commit of this source tree, with "+changes" where it was edited."""
    here = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=20
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        edited = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git on this machine
    return commit + ("+changes" if edited else "") if commit else None
