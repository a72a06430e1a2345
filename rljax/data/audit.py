"""Looks a log over before anything is trained on it.

Errors are what training would stop at, or could not be trusted after: lines that
cannot be used, a file that breaks off, no attempt or no success at all, episodes longer
than a row, batches that cannot be made, and prompts of the test file in the log. All
else is a warning or a note. Texts are not kept: memory grows by a few hundred bytes an
attempt.
"""

import collections
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rljax.data import audit_lengths, audit_rewards, audit_rows, logs, record
from rljax.data.audit_leaks import Held
from rljax.data.audit_lengths import Room
from rljax.data.audit_rows import FLAGS, Finding, Place, Row, Table
from rljax.data.logs import BadLine
from rljax.data.record import Record
from rljax.text.template import Template
from rljax.text.tokenizer import Tokenizer
from rljax.types import GOOD, Episode

_SHORT = 0.05  # share of attempts cut short that is worth a warning
_NOTES = {"special", "closing", "chat"}  # flags that are no warnings
_LEAKS = {
    "exact": "prompts of the log are prompts of the test file, word for word",
    "normal": "prompts of the log are those of the test file but for case and spaces",
    "turn": "prompts of the log ask, in a template, what those of the test file ask",
    "framed": "prompts of the log are those of the test file, all in the same words",
    "task": "tasks of the log are tasks of the test file",
    "inside": "prompts of the log have a prompt of the test file in them",
}
_ANY = Room()


class Audit(NamedTuple):
    """What was found."""

    findings: tuple[Finding, ...]  # errors first
    tables: tuple[Table, ...]
    lines: int  # attempts that were looked at, those that cannot be used included
    logs: tuple[str, ...]  # what `Place.log` counts

    @property
    def errors(self) -> int:
        """Findings for which training must not begin."""
        return sum(finding.severity == "error" for finding in self.findings)


def audit(
    path: str | pathlib.Path | Sequence[str | pathlib.Path],
    make: Callable[[Record], Episode] | None = None,
    tokenizer: Tokenizer | None = None,
    template: Template | None = None,
    *,
    end_ids: Sequence[int] = (),
    room: Room = _ANY,
    held: Held | None = None,
) -> Audit:
    """Looks a log over, or several as if they were one.

    Args:
      path: as of `logs.read`; of several, all are looked at together.
      make: `episodes.tokenise` with all but its record given; without it, nothing is
        said of tokens.
      tokenizer: the one it uses.
      template: the one it uses.
      end_ids: tokens that end what the policy says.
      room: where episodes have to fit in; a longer one is an error. Without it no
        length is.
      held: prompts of a test file, as from `audit_leaks.held_out`.

    Raises:
      LogError: if a file is not there, or of another kind.
    """
    paths = [path] if isinstance(path, str | pathlib.Path) else list(path)
    names = tuple(map(str, paths))
    rows: list[Row] = []
    bad: list[tuple[Place, BadLine]] = []
    found: list[Finding] = []
    for log, one in enumerate(paths):
        before, refused = len(rows), len(bad)
        for attempt in logs.scan(one):
            try:
                if isinstance(attempt, BadLine):
                    bad.append((Place(log, attempt.line), attempt._replace(raw="")))
                    continue
                episode = None if make is None else make(attempt)
            except ValueError as error:
                line = BadLine(str(one), attempt.line, str(error))
                bad.append((Place(log, line.line), line))
                continue
            rows.append(
                audit_rows.look(
                    attempt, episode, tokenizer, template, end_ids, held, log
                )
            )
        if len(rows) == before:
            empty = len(bad) == refused
            text = "is empty" if empty else "holds no attempt that can be used"
            kind = "empty log" if empty else "no attempt"
            found.append(Finding(kind, "error", f"{one} {text}"))
    found += _bad(bad)
    if not rows:
        return Audit(_ordered(found), (), len(bad), names)
    found += [*_duplicates(rows), *_leaks(rows, held), *_flagged(rows)]
    found += [*_cut_short(rows), *_names(rows)]
    found += audit_lengths.length_findings(rows, room)
    found += audit_rewards.reward_findings(rows, names)
    tables = [
        *audit_rewards.reward_tables(rows, names),
        *audit_lengths.length_tables(rows, room),
    ]
    return Audit(_ordered(found), tuple(tables), len(rows) + len(bad), names)


def _ordered(found: Iterable[Finding]) -> tuple[Finding, ...]:
    order = audit_rows.SEVERITIES
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _bad(bad: Sequence[tuple[Place, BadLine]]) -> list[Finding]:
    """Lines that cannot be used, one finding for each kind of reason."""
    kinds: dict[str, list[tuple[Place, BadLine]]] = {}
    for place, line in bad:
        kinds.setdefault(audit_rows.shape(line.reason), []).append((place, line))
    return [
        Finding(
            "broken file" if lines[0][1].fatal else "bad line",
            "error",
            f"cannot be used: {lines[0][1].reason.splitlines()[0]}",
            len(lines),
            tuple(place for place, _ in lines),
        )
        for lines in kinds.values()
    ]


def _duplicates(rows: Sequence[Row]) -> list[Finding]:
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.same, []).append(row)
    several = [group for group in groups.values() if len(group) > 1]
    found = []
    again = [row.place for group in several for row in group[1:]]
    if again:
        text = (
            f"attempts that are in the log before, with prompt and response "
            f"({len(several)} different ones): they count several times"
        )
        across = sum(
            row.place.log != group[0].place.log for group in several for row in group
        )
        if across:
            text += f"; {across} of them were in another log"
        places = tuple(sorted(again))
        found.append(Finding("duplicates", "warning", text, len(again), places))
    torn = [group for group in several if len({row.reward for row in group}) > 1]
    if torn:
        text = (
            "the same attempt has different rewards: the verifier is not to be trusted"
        )
        places = tuple(sorted(row.place for group in torn for row in group))
        found.append(Finding("contradictions", "warning", text, len(torn), places))
    return found


def _leaks(rows: Sequence[Row], held: Held | None) -> list[Finding]:
    if held is None:
        text = "no test file was given: nothing was looked for in it"
        return [Finding("leakage", "note", text)]
    framed: dict[bytes, set[int]] = collections.defaultdict(set)
    for row in rows:
        if row.leak is not None and row.leak.frame:
            framed[row.leak.frame].add(row.leak.line)
    kinds: dict[str, list[tuple[Place, int]]] = {}
    for row in rows:
        if row.leak is not None:
            # Words that stand around several test prompts are a template.
            several = len(framed.get(row.leak.frame, ())) > 1
            kind = "framed" if several else row.leak.kind
            kinds.setdefault(kind, []).append((row.place, row.leak.line))
    found = []
    for kind, text in _LEAKS.items():
        if pairs := kinds.get(kind):
            tests = sorted({other for _, other in pairs})
            shown = ", ".join(map(str, tests[:5])) + ", ..." * (len(tests) > 5)
            text = f"{text}: {len(tests)} of {held.count} (its lines {shown})"
            places = tuple(place for place, _ in pairs)
            severity = "warning" if kind == "inside" else "error"
            found.append(Finding(f"leakage {kind}", severity, text, len(pairs), places))
    if not found:
        read = any("unread" not in row.flags for row in rows)
        text = f"no prompt of the log is among the {held.count} of the test file"
        if not read:
            text = "no prompt of the log can be read: nothing was looked for"
        found.append(Finding("leakage", "note", text))
    return found


def _flagged(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for flag, text in FLAGS.items():
        if places := tuple(row.place for row in rows if flag in row.flags):
            severity = "note" if flag in _NOTES else "warning"
            found.append(Finding(flag, severity, text, len(places), places))
    return found


def _cut_short(rows: Sequence[Row]) -> list[Finding]:
    short = [row for row in rows if row.truncated]
    if not short:
        return []
    share = len(short) / len(rows)
    right = [row for row in short if row.reward > GOOD]
    text = (
        f"attempts were cut short ({100 * share:.1f} %), {len(right)} of them with a "
        f"reward above {GOOD:g}"
    )
    severity = "warning" if share > _SHORT or right else "note"
    return [Finding("cut short", severity, text, len(short), audit_rows.places(short))]


def _names(rows: Sequence[Row]) -> list[Finding]:
    """Keys that mean nothing, and tasks that are guessed."""
    found = []
    keys: dict[str, list[Place]] = {}
    for row in rows:
        for key in row.unknown:
            keys.setdefault(key, []).append(row.place)
    for key, places in keys.items():
        near = record.nearest(key)
        text = f"the key {key!r} means nothing here"
        text += f"; was {near!r} meant?" if near else " and is left alone"
        severity = "warning" if near else "note"
        found.append(Finding("unknown key", severity, text, len(places), tuple(places)))
    chats = [row for row in rows if "chat" in row.flags and not row.named]
    if len(chats) > 1 and len({row.task for row in chats}) == 1:
        text = (
            "conversations without a task all begin alike, so they count as attempts "
            "of one task: give each line its task"
        )
        places = audit_rows.places(chats)
        found.append(Finding("one task", "warning", text, len(chats), places))
    mixed = collections.defaultdict(set)
    for row in rows:
        if row.named and "chat" not in row.flags:
            mixed[row.task].add(row.prompt)
    odd = {task for task, prompts in mixed.items() if len(prompts) > 1}
    if odd:
        text = "tasks have attempts with different prompts"
        places = audit_rows.places(row for row in rows if row.task in odd)
        found.append(Finding("mixed task", "warning", text, len(odd), places))
    return found
