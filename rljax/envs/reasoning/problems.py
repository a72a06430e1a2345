"""What a problem is, and problems from files of GSM8K and MATH.

Files are lines of JSON, plain or compressed as .gz or .xz says. Nothing is downloaded.
A prompt is made from the question by a function; chat models want the question alone
(`question_only`), and a system message in their template.
"""

import gzip
import json
import lzma
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from rljax.envs import latex, verifiers

# System messages that Qwen models are trained with in OREO.
GSM8K_SYSTEM = (
    "Please reason step by step, and produce a final answer following 4 '#', like "
    "'#### 0'"
)
MATH_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


class Problem(NamedTuple):
    """One problem, with its answer for the verifier and maybe a written solution."""

    task: str  # its name; attempts at one problem share it
    prompt: str  # what the policy reads
    answer: str  # what a verifier compares with
    solution: str = ""  # steps and answer, to learn from; "" where there is none


def question_only(question: str) -> str:
    """The question as it stands."""
    return question


def question_line(question: str) -> str:
    """The question and the end of its line, for models that know no template."""
    return f"{question}\n"


def deepseek_math(question: str) -> str:
    """As DeepSeekMath is asked; its answers begin with a space."""
    return f"User: {question}\n{MATH_SYSTEM}\n\nAssistant:"


def read_gsm8k(
    path: str | pathlib.Path,
    annotations: bool = True,
    prompt: Callable[[str], str] = question_line,
) -> list[Problem]:
    """Problems of a GSM8K file, for `verifiers.final_number`.

    A line is `{"question": ..., "answer": ...}`, whose answer is the solution and ends
    with "#### " and a number.

    Args:
      path: .jsonl, .jsonl.gz or .jsonl.xz.
      annotations: keep what a calculator would be given, as in `<<48/2=24>>24`; the
        paper trains on it.
      prompt: question -> prompt.

    Returns:
      Problems named gsm8k/FILE/LINE.

    Raises:
      ValueError: for the first line that is no such problem, with file and number.
      OSError: if the file cannot be opened.
    """
    problems = []
    for place, row in _rows(path):
        question, solution = _text(row, "question", place), _text(row, "answer", place)
        _, mark, number = solution.rpartition(verifiers.MARK)
        number = number.strip()
        if not mark or not verifiers.is_number(number):
            raise ValueError(
                f"{place}: the answer must end with '#### ' and a number, and ends "
                f"with {solution[-40:]!r}"
            )
        if not annotations:
            solution = _ANNOTATION.sub("", solution)
        task = f"gsm8k/{_name(path)}/{place.line}"
        problems.append(Problem(task, prompt(question), number, solution))
    return problems


def read_math(
    path: str | pathlib.Path, prompt: Callable[[str], str] = question_line
) -> list[Problem]:
    r"""Problems of a file like those of MATH, for `verifiers.boxed`.

    A line is `{"problem": ..., "solution": ..., "answer": ...}` with one of the last
    two or both. Without an answer it is what the solution's last \boxed{...} holds.
    Other fields, such as "level" and "type", are not read.

    Args:
      path: .jsonl, .jsonl.gz or .jsonl.xz.
      prompt: question -> prompt.

    Returns:
      Problems named math/FILE/LINE.

    Raises:
      ValueError: for the first line that is no such problem, with file and number.
      OSError: if the file cannot be opened.
    """
    problems = []
    for place, row in _rows(path):
        question = _text(row, "problem", place)
        solution = _text(row, "solution", place) if "solution" in row else ""
        answer = _text(row, "answer", place) if "answer" in row else None
        if answer is None:
            answer = latex.last_boxed(solution)
        if answer is None or not answer.strip():
            raise ValueError(
                f"{place}: no answer: give an 'answer', or a 'solution' with "
                rf"\boxed{{...}}; it ends with {solution[-40:]!r}"
            )
        task = f"math/{_name(path)}/{place.line}"
        problems.append(Problem(task, prompt(question), answer, solution))
    return problems


class _Place(NamedTuple):
    path: pathlib.Path
    line: int  # from 1 on

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


def _name(path: str | pathlib.Path) -> str:
    return pathlib.Path(path).name.split(".")[0]


def _open(path: pathlib.Path) -> IO[bytes]:
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    return openers.get(path.suffix, open)(path, "rb")


def _rows(path: str | pathlib.Path) -> Iterator[tuple[_Place, dict[str, Any]]]:
    """Lines as objects; those with nothing but space hold none."""
    path = pathlib.Path(path).expanduser()
    place = _Place(path, 0)
    with _open(path) as file:
        try:
            for line, data in enumerate(file, start=1):
                place = _Place(path, line)
                if data.strip():
                    yield place, _object(data, place)
        except (gzip.BadGzipFile, lzma.LZMAError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be unpacked after line {place.line}: {error}"
            ) from error


def _object(data: bytes, place: _Place) -> dict[str, Any]:
    try:
        row = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: no JSON in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{place}: expected an object with fields, found {type(row).__name__}"
        )
    return row


def _text(row: dict[str, Any], field: str, place: _Place) -> str:
    if field not in row:
        raise ValueError(
            f"{place}: no field {field!r}, only {', '.join(row) or 'none'}"
        )
    value = row[field]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: {field!r} must be text, found {value!r:.80}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {field!r} holds half of a surrogate pair: {error}"
        ) from error
    return value
