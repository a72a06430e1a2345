"""Looks a log of attempts over before anything is trained on it.

    python -m experiments.audit --data=log.jsonl.gz --test=test.jsonl \
        --model=PATH --config=experiments/configs/oreo.py:arithmetic --out=DIR

`--model` (or `--tokenizer`, a Hugging Face folder) is what the log is for; without it
nothing is said of tokens. `--test` holds prompts that must not be in the log.
`--config`, with `--config.key=value` as in training, is that of a method that learns
from logs: its batches are made, so that what does not fit into its rows is found, and
how much of them is padding. `--row` is the most tokens of a row in place of
`data.row_tokens`, or where no config is given.
`--data=a.jsonl,b.jsonl` looks several logs over as if they were one, as training reads
them. One finding a line; `--out` keeps them as audit.html and audit.json, with all
lines that each is about.

Ends with 0, or with 1 where there is an error: lines that cannot be used, a file that
breaks off, no attempt, no success, episodes longer than a row or than what the model
reads, batches that cannot be made, prompts or tasks of the test file. With 2 where it
could not begin.
"""

import argparse
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments import audit_page, border, methods, offline
from rljax.data import audit as audit_lib
from rljax.data import audit_leaks, episodes, logs
from rljax.data.audit import Audit
from rljax.data.audit_lengths import Room
from rljax.data.audit_rows import Finding
from rljax.models import loading
from rljax.text import chat
from rljax.text import tokenizer as tokenizers
from rljax.training import devices
from rljax.training.files import write_json, write_text

_FEW = 8  # ranges of lines that a terminal shows


class _Reader(NamedTuple):
    """What the log is for."""

    tokenizer: Any
    template: Any  # of its conversations; None if it has none
    end_ids: tuple[int, ...]
    context: int | None


def main(words: Sequence[str]) -> int:
    """Prints; 1 where there is an error in the log, 2 where it could not be read."""
    parser = _parser()
    given, rest = parser.parse_known_args(words)
    if wrong := [w for w in rest if w[:2] == "--" and not w.startswith("--config.")]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    try:
        found = _audit(given, rest)
        print("\n".join(lines(found)))
        if given.out:
            _write(given, found)
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if found.errors else 0


def lines(found: Audit) -> list[str]:
    """One line for each finding, and one that sums up.

    Args:
      found: by an audit.
    """
    told = []
    for finding in found.findings:
        where = f"  [{at(finding, found, _FEW)}]" if finding.places else ""
        count = f"{finding.count:,}" if finding.count else ""
        told.append(
            f"{finding.severity:<8}{finding.kind:<17}{count:>8}  {finding.text}{where}"
        )
    return [*told, summary(found)]


def summary(found: Audit) -> str:
    """The verdict in a line.

    Args:
      found: by an audit.
    """
    warnings = sum(finding.severity == "warning" for finding in found.findings)
    held = {"row", "tokens"}.isdisjoint(finding.kind for finding in found.findings)
    rows = "" if held or found.errors else "; lengths were not held against a row"
    if not found.errors and not warnings:
        return f"clean: no error and no warning in {found.lines:,} attempts{rows}"
    verdict = "not to be trained on" if found.errors else "fit to be trained on"
    return (
        f"{verdict}: {found.errors} kinds of error and {warnings} of warning in "
        f"{found.lines:,} attempts{rows}"
    )


def at(finding: Finding, found: Audit, most: int | None = None) -> str:
    """Where a finding is, for people: "lines 1-3, 7", of several logs each with a name.

    Args:
      finding: of the audit.
      found: by it.
      most: how many ranges of a log to show.
    """
    texts = [
        f"{name}: " * (len(found.logs) > 1) + f"lines {ranges(numbers, most)}"
        for name, numbers in _by_log(finding, found).items()
    ]
    return "; ".join(texts)


def ranges(numbers: Sequence[int], most: int | None = None) -> str:
    """Numbers for people: 1-3, 7, 9.

    Args:
      numbers: in order.
      most: how many ranges to show; those left out are counted.
    """
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    shown = spans if most is None else spans[:most]
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in shown]
    left = sum(b - a + 1 for a, b in spans[len(shown) :])
    return ", ".join(texts) + (f" and {left:,} more" if left else "")


def _parser() -> argparse.ArgumentParser:
    parser = border.parser(__doc__)
    add = parser.add_argument
    add(
        "--data",
        required=True,
        help="a log: JSON lines, plain, .gz or .xz; several with a comma between two",
    )
    add("--test", help="JSON lines with prompt, question, problem or conversations")
    reader = parser.add_mutually_exclusive_group()
    reader.add_argument("--model", help="PATH")
    reader.add_argument("--tokenizer", help="DIR")
    add("--config", help="FILE.py[:scale] of the training")
    add("--row", type=int, help="most tokens of a row, whatever the config says")
    add("--out", help="DIR")
    return parser


def _audit(given: argparse.Namespace, settings: Sequence[str]) -> Audit:
    data = logs.named(given.data)
    reader = _reader(given)
    tokenizer = None if reader is None else reader.tokenizer
    held = audit_leaks.held_out(given.test, tokenizer) if given.test else None
    if reader is None:
        if given.row is not None or given.config is not None:
            raise ValueError(
                "--row and --config are for tokens: give --model or --tokenizer, too"
            )
        return audit_lib.audit(data, held=held)
    room = _room(given, settings, reader.context)
    make = functools.partial(
        episodes.tokenise, tokenizer=reader.tokenizer, template=reader.template,
        end_id=next(iter(reader.end_ids), None),
    )  # fmt: skip
    return audit_lib.audit(
        data, make, reader.tokenizer, reader.template,
        end_ids=reader.end_ids, held=held, room=room,
    )  # fmt: skip


def _room(
    given: argparse.Namespace, settings: Sequence[str], context: int | None
) -> Room:
    """Rows as the training makes them."""
    if given.row is not None and given.row < 1:
        raise ValueError(f"--row is {given.row}: it must be at least 1")
    if given.config is None:
        if settings:
            raise ValueError(f"{settings[0]} needs --config=FILE.py[:scale]")
        return Room(given.row, context)
    words = [f"--config={given.config}", *settings]
    config = border.read_command(words).config
    if "data" not in config or "row_tokens" not in config.data:
        raise ValueError(
            f"--config={given.config} has no data.row_tokens: it is not of a method "
            "that learns from logs, such as experiments/configs/oreo.py"
        )
    if given.row is not None:
        config.data.row_tokens = given.row
    border.limits(config, offline.LIMITS)
    name = pathlib.Path(given.config.partition(":")[0]).stem
    method, count = methods.method_of(config, name), config.num_devices or 1
    layout = devices.layout_of(count if config.parallel == "pmap" else 1)
    layout = layout._replace(sharers=count)
    return Room(
        config.data.row_tokens or None,
        context,
        lambda log: offline.plan_of(config, method, log, layout),
    )


def _reader(given: argparse.Namespace) -> _Reader | None:
    context, ends = None, ()
    if given.model:
        model = loading.open_model(given.model)
        tokenizer, ends = model.tokenizer(), tuple(model.eos_ids)
        context = getattr(model.config, "max_positions", None)
    elif given.tokenizer:
        tokenizer = tokenizers.load(given.tokenizer)
    else:
        return None
    template = chat.from_tokenizer(tokenizer) if tokenizer.chat_template else None
    own = [tokenizer.eos_token_id, template.end_id if template else None]
    ends = tuple(dict.fromkeys([*ends, *(i for i in own if i is not None)]))
    return _Reader(tokenizer, template, ends, context)


def _write(given: argparse.Namespace, found: Audit) -> None:
    out = pathlib.Path(given.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    told = {
        "data": given.data,
        "test": given.test,
        "verdict": summary(found),
        "attempts": found.lines,
        "errors": found.errors,
        "findings": [_told(finding, found) for finding in found.findings],
        "tables": [table._asdict() for table in found.tables],
    }
    write_json(out / "audit.json", told)
    where = [at(finding, found) for finding in found.findings]
    write_text(
        out / "audit.html", audit_page.page(given.data, summary(found), found, where)
    )
    print(f"{out / 'audit.html'}, {out / 'audit.json'}")


def _told(finding: Finding, found: Audit) -> dict[str, Any]:
    """A finding for the JSON, its lines by log."""
    told = finding._asdict()
    del told["places"]
    return told | {"lines": _by_log(finding, found)}


def _by_log(finding: Finding, found: Audit) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = {}
    for log, line in finding.places:
        lines.setdefault(found.logs[log], []).append(line)
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
