"""audit.html: the findings on a log, worst first, and the numbers behind them.

What a log says is never markup: every text is escaped.
"""

import html
from collections.abc import Sequence
from typing import Any

from rljax.data.audit import Audit
from rljax.data.audit_rows import SEVERITIES, Finding, Table
from rljax.training import report_page

_COLOURS = {"error": "lost", "warning": "c1", "note": "soft"}
_SHARES = ("share", "from", "to")  # columns of shares; the first is drawn
_ROWS = 100  # of a table
_MANY = 60  # characters of line numbers that are shown at once


def page(name: str, verdict: str, found: Audit, where: Sequence[str]) -> str:
    """The whole page.

    Args:
      name: of the log.
      verdict: in a line.
      found: what to show.
      where: the lines of each finding, for people.

    Returns:
      HTML that needs no other file.
    """
    counts = [
        (f"{kind}s", sum(finding.severity == kind for finding in found.findings))
        for kind in SEVERITIES
    ]
    cards = "".join(
        f'<div class="card"><b>{value:,}</b>{_text(label)}</div>'
        for label, value in [("attempts", found.lines), *counts]
    )
    findings = "".join(
        _finding(finding, lines)
        for finding, lines in zip(found.findings, where, strict=True)
    )
    tables = "".join(map(_table, found.tables))
    body = (
        f"<h1>Audit of {_text(name)}</h1>"
        f'<p class="{"lost" if found.errors else "won"}">{_text(verdict)}</p>'
        f'<div class="cards">{cards}</div><h2>Findings</h2>'
        '<div class="table"><table><tr><th></th><th>kind</th><th class="n">count</th>'
        f"<th>what was found</th></tr>{findings}</table></div>"
        f'<h2>Numbers</h2><div class="tables">{tables}</div>'
    )
    return report_page.page(f"Audit of {name}", body)


def _finding(finding: Finding, lines: str) -> str:
    where = ""
    if len(lines) > _MANY:
        where = (
            f'<details><summary class="soft">{_text(lines[:_MANY])} ...'
            f"</summary><pre>{_text(lines)}</pre></details>"
        )
    elif lines:
        where = f'<div class="soft">{_text(lines)}</div>'
    count = f"{finding.count:,}" if finding.count else ""
    return (
        f'<tr><td class="{_COLOURS[finding.severity]}">{_text(finding.severity)}</td>'
        f'<td>{_text(finding.kind)}</td><td class="n">{count}</td>'
        f"<td>{_text(finding.text)}{where}</td></tr>"
    )


def _table(table: Table) -> str:
    head = "".join(
        f"<th{'' if i == 0 else _CLASS}>{_text(name)}</th>"
        for i, name in enumerate(table.header)
    )
    rows = []
    for row in table.rows[:_ROWS]:
        values = dict(zip(table.header, row, strict=True))
        cells = [
            f"<td{'' if i == 0 else _CLASS}>{_text(_value(name, value))}</td>"
            for i, (name, value) in enumerate(values.items())
        ]
        drawn = ""
        if _SHARES[0] in values:
            width = 100 * values[_SHARES[0]]
            drawn = f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
        rows.append(f'<tr>{"".join(cells)}<td class="w">{drawn}</td></tr>')
    left = len(table.rows) - _ROWS
    if left > 0:
        wide = len(table.header) + 1
        more = (
            f'<td colspan="{wide}" class="soft">and {left:,} more, in audit.json</td>'
        )
        rows.append(f"<tr>{more}</tr>")
    return (
        f'<div class="table"><h3>{_text(table.title)}</h3><table><tr>{head}<th></th>'
        f"</tr>{''.join(rows)}</table></div>"
    )


_CLASS = ' class="n"'


def _value(name: str, value: Any) -> str:
    if name in _SHARES:
        return f"{100 * value:.1f}\u00a0%"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
