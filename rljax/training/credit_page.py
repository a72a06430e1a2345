"""credit.html: every token of logged answers in the colour of a number, and why.

The page needs no other file. What a log says is never markup: texts are escaped, and
the numbers lie in a block of JSON in which no tag can end.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rljax.training import credit, report_page
from rljax.training.credit import Answer
from rljax.training.credit_style import SCRIPT, STYLE
from rljax.types import GOOD

_TITLES = {
    "value": "V",
    "advantage": "advantage",
    "log_ratio": "log-ratio",
    "kl": "KL",
    "log_prob": "log-probability",
    "entropy": "entropy",
}
_EXPLAINED = {
    "advantage": "From the value before a step to the value after it. What the reward "
    "adds at the end beyond the last value is each answer's surprise, and no step's.",
    "log_ratio": "The run has no value: sums of log pi - log pi_ref over the tokens of "
    "a step, what the policy has learnt to say more or less often.",
    "log_prob": "The run knows neither a value nor a reference: sums of log pi over "
    "the tokens of a step, the least likely first.",
}
_RANKED = 12  # steps in each of the two lists
_WIDE, _HIGH = 150, 34  # of the line of V, in pixels
_LONG = 2_000  # characters of a prompt that are shown unfolded


class Facts(NamedTuple):
    """What stands above the answers."""

    title: str
    lines: Sequence[str]  # in words, one below the other


class _Shown(NamedTuple):
    """What all answers of a page are measured by."""

    ranks: Mapping[tuple[int, int], int]  # of the steps, the greatest fall first
    most: float  # greatest change of a step
    low: float  # of V
    high: float


def page(
    facts: Facts, answers: Sequence[Answer], groups: Sequence[Sequence[int]]
) -> str:
    """The whole page.

    Args:
      facts: its head.
      answers: at least one.
      groups: for each problem the places of its answers.

    Returns:
      HTML that needs no other file.
    """
    ranks = {at: n for n, at in enumerate(credit.ranked(answers))}
    values = [_seen(one.columns["value"]) for one in answers if "value" in one.columns]
    shown = _Shown(
        ranks,
        max((abs(_step(answers, at).change) for at in ranks), default=1.0),
        min((float(v.min()) for v in values), default=0.0),
        max((float(v.max()) for v in values), default=1.0),
    )
    body = [
        f"<style>{STYLE}</style><h1>{_text(facts.title)}</h1>",
        *(f'<p class="soft">{_text(line)}</p>' for line in facts.lines),
        _cards(answers, groups),
        _bar(answers),
        _moved(answers, list(ranks)),
        "<h2>Answers to the same problem</h2>",
        *(_problem(answers, group, shown) for group in groups),
        _data(answers),
        f"<script>{SCRIPT}</script>",
    ]
    return report_page.page(f"{facts.title} | rljax", "".join(body))


def _text(value: object) -> str:
    return html.escape(str(value))


def _data(answers: Sequence[Answer]) -> str:
    """Numbers for the script; `<` is written so that no tag can end the block."""
    scales = credit.scales(answers)
    told = {
        "columns": [
            {
                "name": name,
                "title": _TITLES[name],
                "about": credit.COLUMNS[name],
                "signed": name in credit.SIGNED,
                "value": name == "value",
                "low": low,
                "high": high,
            }
            for name, (low, high) in scales.items()
        ],
        "answers": [
            {
                "ids": one.ids.tolist(),
                "step": _step_of(one),
                "columns": {k: _numbers(v) for k, v in one.columns.items()},
            }
            for one in answers
        ],
    }
    text = json.dumps(told, separators=(",", ":"), allow_nan=False)
    for sign, code in (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e")):
        text = text.replace(sign, code)
    return f'<script type="application/json" id="credit">{text}</script>'


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in values]


def _step_of(one: Answer) -> list[int]:
    """Number of the step of each token, from 1 on; 0 for none."""
    found = [0] * len(one.tokens)
    for number, step in enumerate(one.steps, 1):
        for i in range(step.first, step.stop):
            found[i] = number if one.action[i] else 0
    return found


def _cards(answers: Sequence[Answer], groups: Sequence[Sequence[int]]) -> str:
    right = [one for one in answers if one.reward > GOOD]
    wrong = [one for one in answers if one.reward <= GOOD]
    cards = {
        "problems": f"{len(groups):,}",
        "right answers": f"{len(right):,}",
        "wrong answers": f"{len(wrong):,}",
    }
    if "value" in answers[0].columns:
        for name, some in (("right", right), ("wrong", wrong)):
            if some:
                ends = [_seen(one.columns["value"])[-1] for one in some]
                cards[f"last V, {name}"] = f"{np.mean(ends):.3f}"
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span class="soft">{_text(name)}</span>'
            f"<b>{_text(value)}</b></div>"
            for name, value in cards.items()
        )
        + "</div>"
    )


def _seen(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _bar(answers: Sequence[Answer]) -> str:
    """What is switched: one button for each column."""
    first = next(iter(answers[0].columns))
    if "advantage" in answers[0].columns:
        first = "advantage"
    buttons = "".join(
        f'<label><input type="radio" name="column" value="{name}"'
        f"{' checked' if name == first else ''}><span>{_text(_TITLES[name])}</span>"
        "</label>"
        for name in answers[0].columns
    )
    return (
        f'<div id="bar"><span class="soft">colour by</span><div class="pick">{buttons}'
        '</div><div class="scale"><span id="low"></span><i id="ramp"></i>'
        '<span id="high"></span></div><span class="soft" id="about"></span></div>'
    )


def _moved(answers: Sequence[Answer], order: Sequence[tuple[int, int]]) -> str:
    name = credit.credit_column(answers[0].columns)
    what = "V" if name == "advantage" else _TITLES[name]
    down = [at for at in order if _step(answers, at).change < 0][:_RANKED]
    up = [at for at in reversed(order) if _step(answers, at).change > 0][:_RANKED]
    most = max((abs(_step(answers, at).change) for at in order), default=1.0)
    return (
        f"<h2>Steps that moved {_text(what)} most</h2>"
        f'<p class="soft">{_text(_EXPLAINED[name])}</p>'
        '<div class="tables">'
        f"{_list('down', down, answers, most)}{_list('up', up, answers, most)}</div>"
    )


def _step(answers: Sequence[Answer], at: tuple[int, int]) -> credit.Step:
    return answers[at[0]].steps[at[1]]


def _list(
    title: str,
    places: Sequence[tuple[int, int]],
    answers: Sequence[Answer],
    most: float,
) -> str:
    rows = []
    for a, s in places:
        one, step = answers[a], answers[a].steps[s]
        words = "".join(one.tokens[step.first : step.stop]).strip()
        name, said = _verdict(one)
        rows.append(
            f'<tr><td class="n {_side(step.change)}">{step.change:+.3f}</td>'
            f'<td class="w">{_share(step.change, most)}</td>'
            f'<td class="words"><a class="go" data-to="a{a}s{s}" tabindex="0">'
            f"{_text(words or '(no text)')}</a></td>"
            f'<td class="{name} where">{said}, {_where(one)}, step {s + 1} of '
            f"{len(one.steps)}</td></tr>"
        )
    return (
        f'<div class="table"><h3>{title}</h3><table class="moved">{"".join(rows)}'
        "</table></div>"
    )


def _where(one: Answer) -> str:
    return f"{_text(one.log)}, line {one.line}" if one.log else f"line {one.line}"


def _verdict(one: Answer) -> tuple[str, str]:
    if one.reward in (0.0, 1.0):
        return ("won", "right") if one.reward else ("lost", "wrong")
    return ("won" if one.reward > GOOD else "lost"), f"reward {one.reward:g}"


def _side(change: float) -> str:
    return "up" if change > 0 else "down"


def _share(change: float, most: float) -> str:
    width = 100 * min(abs(change) / (most or 1.0), 1.0)
    return (
        f'<span class="bar {_side(change)}"><i style="width:{width:.1f}%"></i></span>'
    )


def _problem(answers, group: Sequence[int], shown: _Shown) -> str:
    one = answers[group[0]]
    sides = [
        [i for i in group if (answers[i].reward > GOOD) == right]
        for right in (True, False)
    ]
    told = [
        "".join(_answer(i, answers[i], shown) for i in side) for side in sides if side
    ]
    columns = "".join(f'<div class="side">{side}</div>' for side in told)
    prompt = f'<pre class="prompt">{_text(one.prompt.strip())}</pre>'
    if len(one.prompt) > _LONG:
        prompt = f"<details><summary>prompt</summary>{prompt}</details>"
    return (
        f'<section class="problem"><h3>{_text(one.task)}</h3>{prompt}'
        f'<div class="pair n{sum(map(bool, sides))}">{columns}</div></section>'
    )


def _answer(number: int, one: Answer, shown: _Shown) -> str:
    name, said = _verdict(one)
    source = f" &middot; {_text(one.source)}" if one.source else ""
    rows, at = [], 0
    for s, step in enumerate(one.steps):
        if step.first > at:
            rows.append(_between(one, at, step.first))
        start = "" if step.start is None else f"V {step.start:.2f}"
        rank, last = shown.ranks[number, s], len(shown.ranks) - 1
        place = min(rank, last - rank) + 1
        way = "fall" if rank <= last - rank else "rise"
        rows.append(
            f'<div class="srow" id="a{number}s{s}"><div class="gain" '
            f'title="{way} number {place:,} of all {last + 1:,} steps shown">'
            f'<b class="{_side(step.change)}">{step.change:+.3f}</b>'
            f'{_share(step.change, shown.most)}<span class="soft">{start}</span></div>'
            f'<div class="toks">{_tokens(one, step.first, step.stop)}</div></div>'
        )
        at = step.stop
    if at < len(one.tokens):
        rows.append(_between(one, at, len(one.tokens)))
    return (
        f'<article class="answer of-{name}" data-a="{number}"><header>'
        f'<b class="{name}">{said}</b> '
        f'<span class="soft">{_where(one)}{source}</span>'
        f"{_line_of_values(one, shown)}</header>{''.join(rows)}</article>"
    )


def _between(one: Answer, first: int, stop: int) -> str:
    """Words of others, between two turns of the policy."""
    return (
        f'<div class="srow other"><div class="gain"></div>'
        f'<div class="toks">{_tokens(one, first, stop)}</div></div>'
    )


def _tokens(one: Answer, first: int, stop: int) -> str:
    return "".join(
        f'<i class="{"t" if one.action[i] else "o"}" data-i="{i}">'
        f"{_shown(one.tokens[i])}</i>"
        for i in range(first, stop)
    )


def _shown(token: str) -> str:
    """A token's text; ends of lines are signs, a part of a character is a dot."""
    return _text(token or "\u00b7").replace("\n", "<u>\u21b5</u>")


def _line_of_values(one: Answer, shown: _Shown) -> str:
    """V over the answer as a line on the page's scale, and what the reward adds."""
    if one.surprise is None:
        return ""
    values = [*map(float, _seen(one.columns["value"]))]
    span = (shown.high - shown.low) or 1.0

    def place(i: int, value: float) -> str:
        x = 3 + (_WIDE - 6) * i / max(len(values) - 1, 1)
        return f"{x:.1f},{3 + (_HIGH - 6) * (shown.high - value) / span:.1f}"

    points = " ".join(place(i, value) for i, value in enumerate(values))
    x, y = place(len(values) - 1, values[-1]).split(",")
    return (
        f'<span class="soft ends">V {values[0]:.2f} \u2192 {values[-1]:.2f}, '
        f"surprise {one.surprise:+.2f}</span>"
        f'<svg class="vline" viewBox="0 0 {_WIDE} {_HIGH}" role="img">'
        f"<title>V, from {shown.low:.3f} to {shown.high:.3f}</title>"
        f'<polyline points="{points}"></polyline>'
        f'<circle cx="{x}" cy="{y}" r="3"></circle></svg>'
    )
