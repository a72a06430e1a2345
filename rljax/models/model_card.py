"""The README of an exported model: where it comes from and what it can do."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Facts(NamedTuple):
    """What the card says; an empty field is told as not recorded."""

    name: str
    base_model: str  # in words
    method: str
    command: str = ""
    seeds: Sequence[int] = ()
    data: str = ""  # what it learnt from
    task: str = ""  # what the metrics are of
    metrics: Mapping[str, Any] = {}  # of summary.json: before, after, ... by kind
    base_id: str = ""  # of the base model on the hub, owner/name
    license: str = ""  # of the weights, as the hub names it
    versions: Mapping[str, Any] = {}
    notes: str = ""  # paragraphs of one's own


_COLUMNS = ("random", "before", "after")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def text(facts: Facts) -> str:
    """The card, with a front matter that the Hugging Face hub understands.

    Args:
      facts: what is known.

    Returns:
      Markdown.

    Raises:
      ValueError: for an id that the hub could not have.
    """
    seeds = ", ".join(map(str, facts.seeds))
    rows = [
        ("Base model", facts.base_model),
        ("Method", facts.method),
        ("Data", facts.data),
        ("Seeds", seeds),
        ("Versions", ", ".join(f"{k} {v}" for k, v in facts.versions.items() if v)),
    ]
    parts = [
        _front_matter(facts),
        f"# {_line(facts.name)}\n",
        "\n".join(f"* **{name}**: {_line(what)}" for name, what in rows) + "\n",
        _command(facts.command),
    ]
    table = _table(facts.metrics)
    if table:
        parts.append(f"## Metrics\n\n{_line(facts.task)}\n\n{table}")
    if facts.notes:
        parts.append(facts.notes.rstrip() + "\n")
    return "\n".join(parts)


def _line(what: str) -> str:
    return " ".join(what.split()) or "not recorded"


def _command(command: str) -> str:
    if not command:
        return "The command was not recorded.\n"
    # A fence longer than any in the command, which so cannot end it.
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", command)), 3)
    return f"Made by\n\n{fence}bash\n{command.strip()}\n{fence}\n"


def _table(metrics: Mapping[str, Any]) -> str:
    """Success by kind of goal: random play, before, after; and what it took."""
    columns = [name for name in _COLUMNS if metrics.get(name)]
    kinds = list(dict.fromkeys(kind for name in columns for kind in metrics[name]))
    lines = []
    if columns:
        lines = [
            f"| | {' | '.join(columns)} |",
            f"|---|{'---|' * len(columns)}",
        ]
    for kind in kinds:
        cells = [metrics[name].get(kind) for name in columns]
        shown = ["" if cell is None else f"{cell:.4g}" for cell in cells]
        lines.append(f"| {kind} | {' | '.join(shown)} |")
    rest = [
        f"* {name}: {value:,}"
        if isinstance(value, int | float)
        else f"* {name}: {value}"
        for name, value in metrics.items()
        if name not in _COLUMNS and isinstance(value, int | float | str)
    ]
    if lines and rest:
        lines.append("")
    return "\n".join([*lines, *rest]) + "\n" if lines or rest else ""


def _front_matter(facts: Facts) -> str:
    """YAML between two rules; JSON strings are YAML strings."""
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", "- rljax", "- reinforcement-learning"]
    if facts.license:
        lines.append(f"license: {json.dumps(facts.license)}")
    if facts.base_id:
        if not _HUB_ID.fullmatch(facts.base_id):
            raise ValueError(f"base_id is {facts.base_id!r}; it must be owner/name")
        lines.append(f"base_model: {json.dumps(facts.base_id)}")
    after = facts.metrics.get("after") or {}
    if after:
        task = json.dumps(_line(facts.task))
        lines += [
            "model-index:",
            f"- name: {json.dumps(_line(facts.name))}",
            "  results:",
            "  - task:",
            "      type: reinforcement-learning",
            "    dataset:",
            f"      name: {task}",
            f"      type: {task}",
            "    metrics:",
        ]
        for kind, value in after.items():
            lines += [
                "    - type: success",
                f"      name: {json.dumps(str(kind))}",
                f"      value: {json.dumps(value)}",
            ]
    return "\n".join([*lines, "---", ""])
