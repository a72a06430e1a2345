"""Log files of attempts: JSON lines, plain, .gz or .xz, read one at a time.

    {"prompt": "1 + 1?", "response": " 2", "reward": 1}
    {"conversations": [{"role": "user", "content": "1 + 1?"}, ...], "reward": 0}
    {"ids": [5, 8, 1], "action": [false, true, true], "reward": 1}

`record.py`'s table of keys says what else a line may hold. A line that cannot be used
becomes a `BadLine` with its number and the reason; what happens to it is up to the
function that `read` is given. Blank lines, CRLF and a byte order mark are no faults.
A file that breaks off inside its compressed data is one in any case, since nobody
knows how much is missing.
"""

import contextlib
import gzip
import itertools
import json
import lzma
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from rljax.data import record as record_lib
from rljax.data.record import Record

LONGEST_LINE = 64 * 2**20  # bytes; a file without line ends is not read into memory
_SHOWN = 1000  # characters of a line that is longer
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BROKEN = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)


class LogError(ValueError):
    """A log that cannot be used; names file, line and reason."""


def named(text: str) -> list[str]:
    """The logs that a setting names: one, or several with one comma between two.

    Raises:
      LogError: unless there is a name on either side of each comma.
    """
    names = text.split(",")
    if not all(names):
        raise LogError(f"{text!r} must be logs with one comma between two")
    return names


class BadLine(NamedTuple):
    """A line that cannot be used."""

    path: str
    line: int  # from 1 on
    reason: str
    raw: str = ""  # the line; bytes that are no text as backslash escapes
    fatal: bool = False  # nothing after it can be read either

    def __str__(self) -> str:
        """Where, and what is wrong."""
        return f"{self.path}, line {self.line}: {self.reason}"


Refuse = Callable[[BadLine], None]  # what to do with a line that cannot be used


def stop(bad: BadLine) -> None:
    """Ends the reading.

    Raises:
      LogError: always.
    """
    raise LogError(str(bad))


@contextlib.contextmanager
def skipping(path: str | pathlib.Path) -> Iterator[tuple[Refuse, list[BadLine]]]:
    """Skips lines that cannot be used, writing them to a file.

        with skipping("rejects.jsonl") as (refuse, skipped):
            for record in read("log.jsonl", refuse): ...

    Args:
      path: the file, one JSON object a line: `path` (the log), `line`, `reason`,
        `raw`. It is written anew, and empty where every line was good.

    Yields:
      What to give `read`, and the lines that were skipped so far, without their text.
    """
    skipped: list[BadLine] = []
    with pathlib.Path(path).open("w", encoding="utf-8") as file:

        def refuse(bad: BadLine) -> None:
            skipped.append(bad._replace(raw=""))
            told = {"path": bad.path, "line": bad.line, "reason": bad.reason}
            told["raw"] = bad.raw
            file.write(json.dumps(told, ensure_ascii=False) + "\n")

        yield refuse, skipped


def read(path: str | pathlib.Path, refuse: Refuse = stop) -> Iterator[Record]:
    """The records of a log, one after the other; memory holds one line.

    Args:
      path: a file of JSON lines, as it is or compressed with gzip or xz.
      refuse: is given each line that cannot be used; `stop` raises, and what
        `skipping` gives goes on.

    Raises:
      LogError: if there is no such file, it is of another kind, or it breaks off
        inside its compressed data, whatever `refuse` does with lines.
    """
    for found in scan(path):
        if isinstance(found, Record):
            yield found
        elif found.fatal:
            raise LogError(str(found))
        else:
            refuse(found)


def scan(path: str | pathlib.Path) -> Iterator[Record | BadLine]:
    """Each line of a log, as a record or as what is wrong with it.

    Args:
      path: as of `read`.

    Yields:
      Records and bad lines in order; after one that is `fatal` nothing follows.

    Raises:
      LogError: if the file is not there or of another kind.
    """
    for number, values, raw in _values(path):
        if isinstance(values, BadLine):
            yield values
            continue
        try:
            yield record_lib.from_json(values, number)
        except ValueError as error:
            yield BadLine(str(path), number, str(error), _shown(raw))


def objects(path: str | pathlib.Path) -> Iterator[tuple[int, Any]]:
    """Each line of a file with its number, parsed, whatever it holds.

    Args:
      path: as of `read`.

    Yields:
      Number, and what the JSON says or a `BadLine`.

    Raises:
      LogError: if the file is not there or of another kind.
    """
    return ((number, values) for number, values, _ in _values(path))


def write(path: str | pathlib.Path, records: Iterable[Record]) -> int:
    """Writes a log, whole or not at all.

    Args:
      path: compressed where it ends with .gz or .xz.
      records: what to write, in order; may be a generator.

    Returns:
      How many there were.

    Raises:
      ValueError: if a record would not be read again, with its place.
    """

    def checked() -> Iterator[dict[str, Any]]:
        for number, record in enumerate(records, 1):
            values = record_lib.to_json(record)
            try:
                record_lib.from_json(values, number)
            except ValueError as error:
                raise ValueError(f"record {number} of {path}: {error}") from error
            yield values

    return write_objects(path, checked())


def write_objects(path: str | pathlib.Path, objects: Iterable[dict[str, Any]]) -> int:
    """Writes objects as JSON lines, the file whole or not at all.

    Args:
      path: compressed where it ends with .gz or .xz.
      objects: what to write, in order; may be a generator.

    Returns:
      How many there were.
    """
    path, count = pathlib.Path(path), 0
    part = path.with_name(path.name + ".tmp")
    try:
        with part.open("wb") as raw, _compressing(path, raw) as file:
            for values in objects:
                file.write(dumps(values).encode() + b"\n")
                count += 1
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def dumps(values: dict[str, Any]) -> str:
    """One line of a log."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _values(path: str | pathlib.Path) -> Iterator[tuple[int, Any, bytes]]:
    """Number, what the JSON says or a BadLine, and the line, but for blank ones."""
    with _opened(path) as file:
        for number in itertools.count(1):
            try:
                line = file.readline(LONGEST_LINE + 1)
                rest = _drain(file) if len(line) > LONGEST_LINE else 0
            except _BROKEN as error:
                reason = (
                    f"the compressed data break off or are damaged here ({error}): "
                    "what follows is lost; copy or write the file again"
                )
                yield number, BadLine(str(path), number, reason, fatal=True), b""
                return
            if not line:
                return
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if rest:
                size = f"{len(line) + rest:,}"
                reason = f"has {size} bytes; a line may have {LONGEST_LINE:,}"
                yield (
                    number,
                    BadLine(str(path), number, reason, _shown(line[:_SHOWN])),
                    b"",
                )
            elif line.strip():
                try:
                    yield number, _parse(line), line
                except ValueError as error:
                    yield (
                        number,
                        BadLine(str(path), number, str(error), _shown(line)),
                        b"",
                    )


def _parse(line: bytes) -> Any:
    """What the JSON says; a ValueError says why it cannot."""
    try:
        return json.loads(line.decode(), object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} is no UTF-8 ({error.reason})"
        ) from error
    except json.JSONDecodeError as error:
        hint = ""
        if line.strip() in (b"[", b"{"):
            hint = "; JSON over several lines becomes lines with: jq -c '.[]'"
        raise ValueError(
            f"is no JSON: {error.msg} at character {error.pos + 1}{hint}"
        ) from error
    except RecursionError as error:
        raise ValueError(
            "is no JSON that can be read: too many brackets inside brackets"
        ) from error


def _shown(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="backslashreplace")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return values


def _drain(file: BinaryIO) -> int:
    """Reads to the end of a line that is too long; the bytes that were left."""
    size = 0
    while chunk := file.readline(2**20):
        size += len(chunk)
        if chunk.endswith(b"\n"):
            break
    return size


@contextlib.contextmanager
def _opened(path: str | pathlib.Path) -> Iterator[BinaryIO]:
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise LogError(
            f"{path} is a folder, expected one log: put its files together with "
            f"cat {path}/*.jsonl > log.jsonl (.gz and .xz files may be joined so, too)"
        )
    if not path.is_file():
        raise LogError(f"there is no log {path}")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise LogError(f"{path} cannot be read: {error}") from error
        kind = _kind(file.read(6))
        file.seek(0)
        if kind == "gzip":
            file = stack.enter_context(gzip.open(file))
        elif kind == "xz":
            file = stack.enter_context(lzma.open(file))
        elif kind:
            raise LogError(
                f"{path} is a {kind} file, expected JSON lines in UTF-8, as they are "
                "or compressed with gzip or xz"
            )
        yield file  # pyrefly: ignore


def _kind(beginning: bytes) -> str:
    """What the first bytes say a file is; "" for what may be text.

    The name of a file does not count: many are renamed on their way.
    """
    kinds = (kind for magic, kind in _MAGIC.items() if beginning.startswith(magic))
    return next(kinds, "")


@contextlib.contextmanager
def _compressing(path: pathlib.Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    if path.suffix == ".gz":  # without name and time: the same records, the same file
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            yield file  # pyrefly: ignore
    elif path.suffix == ".xz":
        with lzma.open(raw, "wb") as file:
            yield file  # pyrefly: ignore
    else:
        yield raw
