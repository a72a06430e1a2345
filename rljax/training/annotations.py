"""What people write about the states of a run while it goes on, taken up in between.

    WORKDIR/annotations/001.jsonl   lines as of `data.archive_file`
    WORKDIR/annotations/001.json    what became of them, and before which step

Files are taken up in the order of their numbers, each once: the number of the last one
is part of the run's state. The step before which one was taken is written down, and a
run that goes on from an earlier checkpoint takes it up before the same step, so that it
equals one that was never stopped. A file in which a line cannot be done is refused
whole, and the run goes on.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from rljax.data import archive_file, logs
from rljax.data.archive_file import Applied, Context
from rljax.replay.cells import Archive
from rljax.training import files
from rljax.training.files import RunError

FOLDER = "annotations"
_NUMBERED = re.compile(r"\d{1,9}")
_COUNTS = ("promoted", "forbidden", "cleared", "scored", "added")


class Taken(NamedTuple):
    """An archive after annotations."""

    archive: Archive
    last: int  # number of the last file that was taken up
    told: dict[str, float]  # metrics under annotations/, none where there was no file


# (archive, number of the last file taken up, step) -> the archive before that step.
Take = Callable[[Archive, int, int], Taken]


class Offer(NamedTuple):
    """Annotations that were put where a run takes them up."""

    path: pathlib.Path
    done: Applied  # what they would do to the archive as it was checked


def taker(
    workdir: pathlib.Path, context: Context, say: Callable[[str], None] = print
) -> Take:
    """The function by which a run takes up its annotations.

    Args:
      workdir: of the run.
      context: what the archive's numbers stand for.
      say: is told what was done, and what was refused and why.
    """
    warned: set[str] = set()

    def take(archive: Archive, last: int, step: int) -> Taken:
        told: dict[str, float] = {}
        for name in _passed_over(workdir, last) - warned:
            warned.add(name)
            say(
                f"{workdir / FOLDER / name} is not taken up: its name must be a number "
                f"above {last}, as {last + 1:03}.jsonl"
            )
        for number, path in waiting(workdir, last):
            record = path.with_suffix(".json")
            before = _step_of(record)
            if before is not None and before > step:
                break  # at its step, and those after it later still
            done = _try(path, archive, context, step)
            last = number
            _add(told, done)
            said = in_words(done)
            files.write_json(record, {"step": step, "done": said})
            say(f"{path}, before step {step}: {said}")
            archive = archive if isinstance(done, str) else done.archive
        return Taken(archive, last, told)

    return take


def waiting(workdir: pathlib.Path, last: int) -> list[tuple[int, pathlib.Path]]:
    """Files that are not taken up yet, with their numbers, in order.

    Args:
      workdir: of the run.
      last: number of the last one that was.
    """
    found = {}
    for path in sorted((workdir / FOLDER).glob("*.jsonl")):
        if _NUMBERED.fullmatch(path.stem) and int(path.stem) > last:
            found.setdefault(int(path.stem), path)  # of 1 and 001 the first
    return sorted(found.items())


def offer(
    workdir: pathlib.Path,
    source: str | pathlib.Path,
    archive: Archive,
    last: int,
    context: Context,
    step: int,
) -> Offer:
    """Checks annotations, and puts them where the run takes them up.

    They are checked on top of those that the run has still to take up.

    Args:
      workdir: of the run.
      source: lines that `archive_file.export` wrote, annotated.
      archive: of the run's newest checkpoint.
      last: number of the last file taken up by then.
      context: what the archive's numbers stand for.
      step: of the checkpoint.

    Raises:
      LogError: at the first line that cannot be done, with its number and the reason.
      RunError: if no line asks for anything, or the file cannot be written.
    """
    for _, path in waiting(workdir, last):
        done = _try(path, archive, context, step)
        archive = archive if isinstance(done, str) else done.archive
    done = archive_file.apply(source, archive, context, step)
    if not done.gone and not any(getattr(done, name) for name in _COUNTS):
        raise RunError(
            f"{source} asks for nothing: add annotate or new_score to a line, or a "
            "line without cell"
        )
    try:
        return Offer(_put(workdir / FOLDER, pathlib.Path(source), last), done)
    except OSError as error:
        raise RunError(f"{workdir / FOLDER} cannot be written: {error}") from error


def _put(folder: pathlib.Path, source: pathlib.Path, last: int) -> pathlib.Path:
    """A copy under the next free number, whole as soon as it has that name."""
    folder.mkdir(exist_ok=True)
    part = folder / f"part_{os.getpid()}"
    part.write_bytes(source.expanduser().read_bytes())
    names = [p.stem for p in folder.iterdir() if _NUMBERED.fullmatch(p.stem)]
    number = max([last, *map(int, names)]) + 1
    try:
        while True:
            path = folder / f"{number:03}.jsonl"
            try:
                os.link(part, path)  # unlike a rename it does not replace
                return path
            except FileExistsError:  # somebody else was faster
                number += 1
    finally:
        part.unlink()


def _try(
    path: pathlib.Path, archive: Archive, context: Context, step: int
) -> Applied | str:
    """What a file does to an archive, or why it is refused."""
    try:
        return archive_file.apply(path, archive, context, step, logs.stop)
    except (OSError, ValueError) as error:
        return str(error)


def _step_of(record: pathlib.Path) -> int | None:
    """Before which step a file was taken up the first time; None: it was not yet."""
    try:
        return int(json.loads(record.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _passed_over(workdir: pathlib.Path, last: int) -> set[str]:
    """Files that will never be taken up."""
    return {
        path.name
        for path in (workdir / FOLDER).glob("*.jsonl")
        if not _NUMBERED.fullmatch(path.stem)
        or (int(path.stem) <= last and _step_of(path.with_suffix(".json")) is None)
    }


def in_words(done: Applied | str) -> str:
    """What became of a file.

    Args:
      done: what was done, or why the file is refused.
    """
    if isinstance(done, str):
        return f"refused, and nothing of it done: {done}"
    some = [f"{n} {name}" for name in _COUNTS if (n := getattr(done, name))]
    if done.gone:
        lines = ", ".join(map(str, done.gone))
        some.append(f"nothing to lines {lines}, whose states have gone")
    return ", ".join(some) or "nothing is asked for"


def _add(told: dict[str, float], done: Applied | str) -> None:
    """Counts of one file more, as metrics."""
    refused = isinstance(done, str)
    counts = {"files": 1, "refused": int(refused)}
    counts |= {name: 0 if refused else getattr(done, name) for name in _COUNTS}
    counts["gone"] = 0 if refused else len(done.gone)
    for name, count in counts.items():
        key = f"{FOLDER}/{name}"
        told[key] = told.get(key, 0.0) + count
