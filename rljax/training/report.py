"""report.html: one page that shows a run, with nothing to load.

It reads what the workdir holds (config.json, metrics.jsonl, eval/, and, where they
are there, summary.json and rollouts/episodes.json) and knows no agent: success in
`eval/<panel>/<kind>` and `rollout/success...` gets charts of its own, every other
metric one small chart. A credit.html beside it is linked.
"""

import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from rljax.training import figures, metrics
from rljax.training.files import read_json, write_json, write_text
from rljax.training.report_page import page
from rljax.training.workdir import flatten

_SHOWN_COMMANDS = 6  # of each step; the rest can be unfolded
AXES = {"tokens": "tokens", "env_steps": "environment steps"}


class Command(TypedDict):
    """An admissible command of a step."""

    text: str
    prob: float
    q: float | None  # None for an agent without Q
    chosen: bool


class Step(TypedDict):
    """What the policy saw, could do and got."""

    observation: str
    commands: list[Command]
    reward: float


class Episode(TypedDict):
    """A sample episode, as rollouts/episodes.json lists them."""

    goal: str
    success: bool
    steps: list[Step]
    note: NotRequired[str]  # such as "test goal, greedy"


def write_episodes(workdir: pathlib.Path, episodes: Sequence[Episode]) -> None:
    """Writes the sample episodes that `build` shows."""
    write_json(workdir / "rollouts" / "episodes.json", list(episodes))


def build(workdir: pathlib.Path) -> pathlib.Path:
    """Writes report.html into a run's folder.

    Returns:
      Its path.
    """
    record = read_json(workdir / "config.json")
    rows = metrics.read_rows(workdir / "metrics.jsonl")
    summary = _optional(workdir / "summary.json", {})
    episodes = _optional(workdir / "rollouts" / "episodes.json", [])
    body = [
        f"<h1>{_text(workdir.name)}</h1>",
        _origin(record),
        _cards(rows, summary),
        _credit(workdir),
        _alarms(summary),
        _farthest(summary),
        _evaluation(workdir / "eval"),
        _success_charts(rows),
        _metric_charts(rows),
        _episodes(episodes),
        _settings(record["config"]),
    ]
    path = workdir / "report.html"
    write_text(path, page(f"{workdir.name} | rljax", "".join(body)))
    return path


def _text(value: object) -> str:
    return html.escape(str(value))


def _optional(path: pathlib.Path, default: Any) -> Any:
    return read_json(path) if path.exists() else default


def _origin(record: Mapping[str, Any]) -> str:
    devices, versions = record["devices"], record["versions"]
    git = (record.get("git") or "no git")[:10]
    return (
        f'<p class="soft">{_text(devices["count"])} x {_text(devices["kind"])} '
        f"&middot; jax {_text(versions.get('jax'))} &middot; commit {_text(git)}</p>"
    )


def _cards(rows: Sequence[metrics.Row], summary: Mapping[str, Any]) -> str:
    last = rows[-1] if rows else {}
    seconds = summary.get("train_seconds", last.get("timing_s/train"))
    cards = {
        AXES[_axis(last)]: f"{int(last.get(_axis(last), 0)):,}",
        "updates": f"{int(last.get('updates', 0)):,}",
        "training time": metrics.clock(seconds) if seconds is not None else "-",
    }
    for kind, value in list(summary.get("after", {}).items())[:3]:
        if isinstance(value, int | float):
            cards[f"{_words(kind)}, after"] = f"{value:.3f}"
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span class="soft">{_text(name)}</span>'
            f"<b>{_text(value)}</b></div>"
            for name, value in cards.items()
        )
        + "</div>"
    )


def _credit(workdir: pathlib.Path) -> str:
    """The way to the credit page that lies beside, where there is one."""
    if not (workdir / "credit.html").exists():
        return ""
    return '<p><a href="credit.html">Credit: which steps earned the reward</a></p>'


def _alarms(summary: Mapping[str, Any]) -> str:
    """What a run had to warn of at its end, for runs that look for such."""
    if "alarms" not in summary:
        return ""
    if not summary["alarms"]:
        return '<p class="won">No alarm of drift.</p>'
    items = "".join(f'<li class="lost">{_text(one)}</li>' for one in summary["alarms"])
    return f"<h2>Alarms</h2><ul>{items}</ul>"


def _farthest(summary: Mapping[str, Any]) -> str:
    """The tasks on which a run went farthest from where it began."""
    rows = "".join(
        f'<tr><td>{_text(one["task"])}</td><td class="n">{_number(one["kl"])}</td>'
        f'<td class="n">{one["answers"]}</td></tr>'
        for one in summary.get("farthest", [])
    )
    if not rows:
        return ""
    return (
        "<h2>Farthest from the reference</h2><table><tr><th>task</th>"
        '<th class="n">nats a token</th><th class="n">answers</th></tr>'
        f"{rows}</table>"
    )


def _evaluation(folder: pathlib.Path) -> str:
    """One table for each panel: random play, before, after the last update."""
    numbered = sorted(folder.glob("[0-9]*.json"), key=lambda path: int(path.stem))
    after = read_json(numbered[-1]) if numbered else {"metrics": {}, "updates": 0}
    columns = [
        metrics.panels(_optional(folder / "random.json", {})),
        metrics.panels(_optional(folder / "before.json", {})),
        metrics.panels(after["metrics"]),
    ]
    if not columns[2]:
        return ""
    tables = []
    for panel, kinds in columns[2].items():
        rows = "".join(
            f"<tr><td>{_text(kind)}</td>"
            + "".join(
                f'<td class="n">{_number(column.get(panel, {}).get(kind))}</td>'
                for column in columns
            )
            + f'<td class="w">{_bar(value)}</td></tr>'
            for kind, value in kinds.items()
        )
        tables.append(
            f'<div class="table"><h3>{_text(_words(panel))}</h3><table><tr>'
            '<th>goal kind</th><th class="n">random</th><th class="n">before</th>'
            f'<th class="n">after</th><th></th></tr>{rows}</table></div>'
        )
    return (
        "<h2>Evaluation</h2><p>Success on fixed panels of scenes, after update "
        f'{after["updates"]:,}.</p><div class="tables">{"".join(tables)}</div>'
    )


def _axis(row: metrics.Row) -> str:
    return next((name for name in AXES if name in row), "env_steps")


def _label(rows: Sequence[metrics.Row]) -> str:
    return AXES[_axis(rows[-1])] if rows else AXES["env_steps"]


def _series(rows: Iterable[metrics.Row], name: str, label: str) -> figures.Series:
    held = [row for row in rows if row.get(name) is not None]
    return figures.Series(
        label, [row[_axis(row)] for row in held], [row[name] for row in held]
    )


def _names(rows: Iterable[metrics.Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _success_charts(rows: Sequence[metrics.Row]) -> str:
    names = _names(rows)
    charts = []
    training = [name for name in names if name.startswith("rollout/success")]
    if training:
        lines = [_series(rows, n, n.removeprefix("rollout/")) for n in training]
        charts.append(
            figures.line_chart("training episodes", lines, _label(rows), (0.0, 1.0))
        )
    panels = metrics.panels(dict.fromkeys(names, 0.0))
    for panel, kinds in panels.items():
        lines = [_series(rows, f"eval/{panel}/{kind}", kind) for kind in kinds]
        title = f"evaluation: {_words(panel)}"
        charts.append(
            figures.line_chart(title, lines, _label(rows), (0.0, 1.0), markers=True)
        )
    if not charts:
        return ""
    return f'<h2>Success</h2><div class="charts">{"".join(charts)}</div>'


def _metric_charts(rows: Sequence[metrics.Row]) -> str:
    names = [
        name
        for name in _names(rows)
        if "/" in name and not name.startswith(("eval/", "rollout/success"))
    ]
    names.sort(key=lambda name: _order(name.partition("/")[0]))
    charts = (
        figures.line_chart(name, [_series(rows, name, name)], _label(rows))
        for name in names
    )
    return f'<h2>Learning</h2><div class="charts">{"".join(charts)}</div>'


def _order(group: str) -> int:
    order = "train critic rollout replay offpolicy perf timing_s".split()
    return order.index(group) if group in order else len(order)


def _episodes(episodes: Sequence[Episode]) -> str:
    if not episodes:
        return ""
    parts = ["<h2>Sample episodes</h2>"]
    for number, episode in enumerate(episodes):
        outcome, shown = (
            ("won", "reached") if episode["success"] else ("lost", "failed")
        )
        note = f" &middot; {_text(episode['note'])}" if episode.get("note") else ""
        steps = len(episode["steps"])
        parts.append(
            f'<details class="episode"{" open" if number == 0 else ""}><summary>'
            f"<b>{_text(episode['goal'])}</b> &middot; "
            f'<b class="{outcome}">{shown}</b> <span class="soft">in {steps} '
            f"step{'s' * (steps != 1)}{note}</span></summary>"
            f"{_steps(episode['steps'])}</details>"
        )
    return "".join(parts)


def _steps(steps: Sequence[Step]) -> str:
    qs = [c["q"] for step in steps for c in step["commands"] if c["q"] is not None]
    low, high = min(qs, default=0.0), max(qs, default=1.0)
    return "".join(
        f'<div class="step"><div><h3>step {number}</h3>'
        f"<pre>{_text(step['observation'])}</pre>"
        f'<p class="soft">reward {step["reward"]:g}</p></div>'
        f"<div>{_commands(step['commands'], low, high)}</div></div>"
        for number, step in enumerate(steps, start=1)
    )


def _commands(commands: Sequence[Command], low: float, high: float) -> str:
    """The commands, likeliest first; Q bars share the episode's range."""
    ordered = sorted(commands, key=lambda c: -c["prob"])
    has_q = any(c["q"] is not None for c in ordered)
    head = '<tr><th>command</th><th class="n">prob.</th><th></th>' + (
        '<th class="n">Q</th><th></th></tr>' if has_q else "</tr>"
    )
    rows = []
    for c in ordered:
        cells = (
            f"<td>{_text(c['text'])}</td>"
            f'<td class="n">{c["prob"]:.3f}</td><td class="w">{_bar(c["prob"])}</td>'
        )
        if has_q:
            q = low if c["q"] is None else c["q"]
            share = (q - low) / (high - low) if high > low else 0.5
            cells += f'<td class="n">{_number(c["q"])}</td>'
            cells += f'<td class="w">{_bar(share, "q")}</td>'
        rows.append((c["chosen"], cells))
    # The chosen command is always in sight.
    first = [r for i, r in enumerate(rows) if i < _SHOWN_COMMANDS or r[0]]
    rest = [r for i, r in enumerate(rows) if i >= _SHOWN_COMMANDS and not r[0]]
    shown = f'<table class="commands">{head}{_rows(first)}</table>'
    if rest:
        shown += (
            f'<details><summary class="soft">{len(rest)} more</summary>'
            f'<table class="commands">{_rows(rest)}</table></details>'
        )
    return shown


def _rows(rows: Iterable[tuple[bool, str]]) -> str:
    name = {True: "chosen", False: "other"}
    return "".join(f'<tr class="{name[chosen]}">{cells}</tr>' for chosen, cells in rows)


def _settings(config: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{_text(key)}</td><td>{_text(value)}</td></tr>"
        for key, value in flatten(dict(config)).items()
    )
    return (
        '<h2>Settings</h2><details class="episode"><summary>config.json</summary>'
        f"<table>{rows}</table></details>"
    )


def _words(panel: str) -> str:
    return panel.replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bar(share: float, kind: str = "") -> str:
    percent = 100 * min(max(share, 0.0), 1.0)
    return f'<span class="bar {kind}"><i style="width:{percent:.1f}%"></i></span>'
