"""The archive of retrospective replay as lines that people read and annotate.

`export` writes a JSON object for each state, the most promising of a problem first:

    {"problem": "gsm8k/12", "cell": 17, "text": "...", "tokens": [...], "score": 0.4,
     "visits": 3, "tries": 24, "solves": 1, "age": 120, "origin": "rollout", "mark": ""}

`apply` takes such a file into the archive as it is by then. A line counts only if one
of these keys was added to it:

| key | value | what it does |
|---|---|---|
| `annotate` | `"promote"` | the state is neither evicted nor dropped |
| | `"forbid"` | nothing that begins with it is replayed or stored again |
| | `"clear"` | takes the mark away |
| `new_score` | a number | is its score, until the critic's next refresh |

A line without `cell` adds a state: `problem`, `text` or `tokens`, and `new_score`
unless it is forbidden. It must end where a step does, before an answer is stated. A
state that has gone since the
export comes back if it is promoted or forbidden; another wish for it is reported as
`gone`.
"""

import difflib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.data import logs, steps
from rljax.replay import annotate, cells
from rljax.replay.cells import FORBIDDEN, MARKS, NONE, ORIGINS, PROMOTED, Archive
from rljax.text import tokenizer as tokenizer_lib
from rljax.text.tokenizer import Tokenizer

_WISHES = {"promote": PROMOTED, "forbid": FORBIDDEN, "clear": NONE}
_WRITTEN = (
    *("problem", "cell", "text", "tokens", "score", "visits", "tries", "solves"),
    *("age", "origin", "mark"),
)
_KEYS = (*_WRITTEN, "annotate", "new_score")
_LARGEST_NAME = np.iinfo(np.int32).max  # of a cell
_SCORE = f"a finite number within -{annotate.LARGEST:.3g}..{annotate.LARGEST:.3g}"


class Context(NamedTuple):
    """What the archive's numbers stand for."""

    names: Sequence[str]  # of the problems, all different
    prompts: Sequence[str]  # the text that each problem's answers follow
    tokenizer: Tokenizer  # of the policy
    end_ids: Sequence[int]  # tokens that end an answer
    answered: Callable[[str], bool]  # whether a state's text states an answer already
    delimiters: Sequence[str] = steps.LINES  # texts that end a step


class Applied(NamedTuple):
    """What became of a file's lines."""

    archive: Archive
    promoted: int = 0
    forbidden: int = 0
    cleared: int = 0
    scored: int = 0
    added: int = 0  # by people, or back after they had gone
    untouched: int = 0  # lines without a wish
    gone: tuple[int, ...] = ()  # lines whose cell is there no more


class _Wish(NamedTuple):
    """What a line asks for."""

    line: int
    problem: int
    cell: int | None  # its serial
    tokens: np.ndarray | None
    mark: int | None
    score: float | None  # the new one
    old: float | None  # the one that was written


def export(
    path: str | pathlib.Path, archive: Archive, context: Context, update: int
) -> int:
    """Writes all states, forbidden ones too; the file whole or not at all.

    Args:
      path: compressed where it ends with .gz or .xz.
      archive: all cells.
      context: what its numbers stand for.
      update: the present one; ages count back from it.

    Returns:
      How many there were.

    Raises:
      ValueError: if there are not as many names and prompts as problems, or a name
        comes twice.
    """
    _numbers(archive, context)

    def lines() -> Iterator[dict[str, Any]]:
        for i in np.flatnonzero(archive.used.any(axis=1)):
            found = np.flatnonzero(archive.used[i])
            for k in found[np.argsort(-archive.score[i, found], kind="stable")]:
                yield _line(archive, context, int(i), int(k), update)

    return logs.write_objects(path, lines())


def _line(archive, context, i: int, k: int, update: int) -> dict[str, Any]:
    state = cells.state_of(archive, i, k).tolist()
    return {
        "problem": context.names[i],
        "cell": int(archive.serial[i, k]),
        "text": _text(context, state),
        "tokens": state,
        "score": float(archive.score[i, k]),
        "visits": int(archive.visits[i, k]),
        "tries": int(archive.tries[i, k]),
        "solves": int(archive.solves[i, k]),
        "age": update - int(archive.added[i, k]),
        "origin": ORIGINS[archive.origin[i, k]],
        "mark": MARKS[archive.mark[i, k]],
    }


def apply(
    path: str | pathlib.Path,
    archive: Archive,
    context: Context,
    update: int,
    refuse: logs.Refuse = logs.stop,
) -> Applied:
    """Does what people wrote into a file, line after line.

    Args:
      path: a file that `export` wrote, annotated.
      archive: all cells, as they are now.
      context: what its numbers stand for.
      update: the present one.
      refuse: is given each line that cannot be done, with its number and the reason.
        `logs.stop` raises, and nothing is done; with what `logs.skipping` gives, the
        other lines are.

    Returns:
      The archive, and what was done to it.

    Raises:
      LogError: at such a line, or if the file cannot be read.
      ValueError: as `export`.
    """
    numbers, done, seen = _numbers(archive, context), Applied(archive), {}
    for line, values in logs.objects(path):
        if isinstance(values, logs.BadLine):
            if values.fatal:
                raise logs.LogError(str(values))
            refuse(values)
            continue
        try:
            wish = _read(values, line, numbers, context)
            if wish.mark is None and wish.score is None:
                _require_own(done.archive, wish)
                done = done._replace(untouched=done.untouched + 1)
                continue
            first = seen.setdefault((wish.problem, wish.cell), line)
            if wish.cell is not None and first != line:
                raise ValueError(f"cell {wish.cell} is annotated in line {first}, too")
            done = _do(done, wish, context, update)
        except ValueError as error:
            raw = json.dumps(values, ensure_ascii=False)
            refuse(logs.BadLine(str(path), line, str(error), raw))
    return done


def _do(done: Applied, wish: _Wish, context: Context, update: int) -> Applied:
    """One wish; a ValueError leaves everything as it was."""
    archive, counts = done.archive, {}
    place = -1 if wish.cell is None else _place(archive, wish)
    if place >= 0:
        _require_own(archive, wish)
        if wish.score is not None:
            archive = annotate.set_score(archive, wish.problem, place, wish.score)
            counts["scored"] = 1
        if wish.mark is not None:
            archive = annotate.mark(archive, wish.problem, place, wish.mark)
    elif wish.cell is not None and wish.mark not in (PROMOTED, FORBIDDEN):
        return done._replace(gone=(*done.gone, wish.line))
    else:
        score = wish.old if wish.score is None else wish.score
        if score is None and wish.mark != FORBIDDEN:
            raise ValueError("a state that is added needs new_score")
        if wish.tokens is None:
            raise ValueError("a state that is added needs text or tokens")
        _require_step(context, wish.tokens)
        _require_unanswered(context, wish.tokens)
        archive = annotate.insert(
            archive, wish.problem, wish.tokens, score or 0.0, update,
            end_ids=context.end_ids, as_=NONE if wish.mark is None else wish.mark,
        )  # fmt: skip
        counts["added"] = 1
    if wish.mark is not None:
        counts[
            {PROMOTED: "promoted", FORBIDDEN: "forbidden"}.get(wish.mark, "cleared")
        ] = 1
    more = {name: getattr(done, name) + count for name, count in counts.items()}
    return done._replace(archive=archive, **more)


def _read(values: Any, line: int, numbers: dict[str, int], context: Context) -> _Wish:
    """What a line says; a ValueError says what is wrong with it."""
    if not isinstance(values, dict):
        raise ValueError("is no object {...}")
    for key in values:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            meant = f"; was {near[0]!r} meant?" if near else ""
            raise ValueError(f"the key {key!r} means nothing here{meant}")
    name = values.get("problem")
    if not isinstance(name, str) or name not in numbers:
        raise ValueError(f"the problem {name!r} is unknown")
    wished = _given(
        values, "annotate", lambda x: isinstance(x, str) and x in _WISHES,
        f"one of {list(_WISHES)}",
    )  # fmt: skip
    cell = _given(values, "cell", _is_name, f"an integer from 0 to {_LARGEST_NAME}")
    if cell is None and wished == "clear":
        raise ValueError("there is no cell to clear")
    if cell is None and wished is None and values.get("new_score") is None:
        raise ValueError("a state that is added needs new_score")
    problem = numbers[name]
    return _Wish(
        line=line,
        problem=problem,
        cell=cell,
        tokens=_tokens(values, context, problem),
        mark=None if wished is None else _WISHES[wished],
        score=_given(values, "new_score", annotate.is_score, _SCORE),
        # Of a new line only `new_score` is one: what stands there is a person's.
        old=None
        if cell is None
        else _given(values, "score", annotate.is_score, _SCORE),
    )


def _tokens(
    values: dict[str, Any], context: Context, problem: int
) -> np.ndarray | None:
    size = len(context.tokenizer)

    def known(ids: Any) -> bool:
        return isinstance(ids, list) and all(
            type(x) is int and 0 <= x < size for x in ids
        )

    kind = f"integers from 0 to {size - 1}, the tokenizer's"
    ids = _given(values, "tokens", known, kind)
    text = _given(values, "text", lambda x: isinstance(x, str), "a text")
    if ids is None and text is None:
        return None
    if ids is None:
        before = [context.prompts[problem]]
        text.encode()  # half of a surrogate pair, which JSON can say, is no text
        (ids,) = tokenizer_lib.encode(context.tokenizer, [text], before)
    elif text is not None and text != _text(context, ids):
        raise ValueError(
            f"text and tokens differ: the tokens say {_text(context, ids)[:60]!r}. To "
            "add what the text says, leave out cell and tokens"
        )
    special = np.flatnonzero(np.isin(ids, steps.special_ids(context.tokenizer)))
    # A policy may have said one amid its answer; what it said is taken as it is.
    if special.size and values.get("cell") is None:
        shown = tokenizer_lib.show(context.tokenizer, [ids[special[0]]])
        raise ValueError(f"token {special[0]} is special, {shown}")
    return np.asarray(ids, np.int32)


def _require_step(context: Context, tokens: np.ndarray) -> None:
    text = _text(context, tokens.tolist())
    if not any(text.endswith(end) for end in context.delimiters):
        raise ValueError(
            f"the state ends with {text[-20:]!r}, where no step does: expected "
            f"{list(context.delimiters)}"
        )


def _require_unanswered(context: Context, tokens: np.ndarray) -> None:
    said = context.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    if context.answered(said):
        raise ValueError(
            f"the state ends with {said[-20:]!r} and states an answer already: a "
            "finished answer is no state"
        )


def _place(archive: Archive, wish: _Wish) -> int:
    serial = np.array([wish.cell], np.int64)
    return int(cells.locate(archive, np.array([wish.problem]), serial)[0])


def _require_own(archive: Archive, wish: _Wish) -> None:
    """Refuses a line whose state is not that of the cell it names."""
    place = _place(archive, wish) if wish.cell is not None else -1
    if place < 0 or wish.tokens is None:
        return
    own = cells.state_of(archive, wish.problem, place)
    if not np.array_equal(own, wish.tokens):
        raise ValueError(
            f"the state is not that of cell {wish.cell}: to add another, leave out cell"
        )


def _numbers(archive: Archive, context: Context) -> dict[str, int]:
    counts = len(archive.room), len(context.names), len(context.prompts)
    if len(set(counts)) > 1:
        raise ValueError(
            "there are {} problems, {} names and {} prompts".format(*counts)
        )
    numbers = {name: i for i, name in enumerate(context.names)}
    if len(numbers) < len(context.names):
        twice = next(n for i, n in enumerate(context.names) if numbers[n] != i)
        raise ValueError(f"the name {twice!r} is that of two problems")
    return numbers


def _text(context: Context, ids: Sequence[int]) -> str:
    return context.tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )


def _is_name(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_NAME


def _given(
    values: dict[str, Any], key: str, fits: Callable[[Any], bool], kind: str
) -> Any:
    """The value of a key, or None where it is not there."""
    value = values.get(key)
    if value is not None and not fits(value):
        shown = f"{value!r}"
        raise ValueError(f"{key} is {shown[:40]}, expected {kind}")
    return value
