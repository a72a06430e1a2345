"""archive.html: what retrospective replay did, problem by problem.

The page needs no other file. What a policy or a file of problems says is never markup:
texts are escaped.
"""

import html
from collections.abc import Sequence
from typing import NamedTuple

from rljax.training import archive_tree, report_page
from rljax.training.archive_style import SCRIPT, STYLE
from rljax.training.archive_tree import State, Told

_OPEN = 5  # problems that are unfolded at first
_LEGEND = (
    "Each row is a beginning of an answer that was kept, to go on from later. It shows "
    "what it adds to the row it hangs below, with which it begins. The score says how "
    "promising it is: the chance of a right answer as the critic sees it, or a guess. "
    "Right answers are those that went on from it; the first row tells the same of the "
    "bare problem, which is what counts. Chosen: as the start of so many groups of "
    "answers. Age: in steps. States that came to nothing, and those of problems that "
    "are solved, have gone; what came of them is counted in each problem's head."
)
_TAGS = {
    "canonical": ("canonical", "written solution"),
    "human": ("human", "added by people"),
    "promote": ("promote", "promoted"),
    "forbid": ("bad", "forbidden"),
}


class Facts(NamedTuple):
    """What stands above the problems."""

    title: str
    line: str


def page(facts: Facts, problems: Sequence[Told], most: int) -> str:
    """The whole page.

    Args:
      facts: its head.
      problems: all of the run, those first that replay helped most.
      most: how many are shown; those of which there is nothing to tell are not.

    Returns:
      HTML that needs no other file.
    """
    some = [one for one in problems if one.states or one.again[0]]
    shown = some[:most]
    told = [_problem(one, n < _OPEN) for n, one in enumerate(shown)]
    bar = (
        '<div id="bar"><input id="find" type="search" placeholder="find in problems '
        'and states" aria-label="find"><button id="open" type="button">open or close '
        'all</button><span class="soft" id="shown"></span></div>'
    )
    left_out = ""
    if len(some) > len(shown):
        left_out = f"; the first {len(shown):,} of {len(some):,} with states"
    nothing = "<p>No state was kept so far, and none was gone on from.</p>"
    body = [
        f"<style>{STYLE}</style><h1>{_text(facts.title)}</h1>",
        f'<p class="soft">{_text(facts.line)}</p>',
        _cards(problems),
        "<h2>Problems and their states</h2>",
        f'<p class="soft">{_text(_LEGEND)}</p>',
        f'<p class="soft">Those first that were solved from states alone, then those '
        f"with most right answers from states{left_out}.</p>",
        bar if shown else nothing,
        *told,
        f"<script>{SCRIPT}</script>" if shown else "",
    ]
    return report_page.page(f"{facts.title} | rljax", "".join(body))


def _text(value: object) -> str:
    return html.escape(str(value))


def _lines(text: str) -> str:
    """A text; the ends of its lines are signs, and the last one breaks no line."""
    sign = "<u>\u21b5</u>"
    escaped = _text(text).replace("\n", f"{sign}\n")
    return escaped[:-1] if escaped.endswith(f"{sign}\n") else escaped


def _cards(problems: Sequence[Told]) -> str:
    states = [one for told in problems for one in archive_tree.each(told.states)]
    bare, again = (
        tuple(sum(column) for column in zip(*pairs, strict=True))
        for pairs in ([one.bare for one in problems], [one.again for one in problems])
    )
    cards = {
        "problems": f"{len(problems):,}",
        "ever solved": f"{sum(one.solved for one in problems):,}",
        "only from a state": f"{sum(one.only_again for one in problems):,}",
        "states kept now": f"{len(states):,}",
        "right, bare": _share(bare),
        "right, from states": _share(again),
    }
    return (
        '<div class="cards">'
        + "".join(
            f'<div class="card"><span class="soft">{name}</span><b>{value}</b></div>'
            for name, value in cards.items()
        )
        + "</div>"
    )


def _share(pair: Sequence[int]) -> str:
    return f"{100 * pair[1] / pair[0]:.1f} %" if pair[0] else "-"


def _problem(one: Told, unfolded: bool) -> str:
    states = archive_tree.each(one.states)
    tag = ""
    if one.only_again:
        tag = '<span class="tag good">solved only from a state</span>'
    elif not one.solved:
        tag = '<span class="tag bad">never solved</span>'
    count = f"{len(states)} state{'' if len(states) == 1 else 's'}"
    kind = "problem only" if one.only_again else "problem"
    written = ""
    if one.answer or one.solution:
        written = (
            "<details><summary>right answer</summary>"
            f'<pre class="asked">{_lines(one.solution or one.answer)}</pre></details>'
        )
    rows = [
        '<div class="row head"><div class="said" style="--deep:0"></div>'
        '<div class="n">score</div><div class="n">right answers</div>'
        '<div class="n">chosen</div><div class="n">age</div></div>',
        _bare(one),
        *(_state(state, 0) for state in one.states),
    ]
    return (
        f'<details class="{kind}"{" open" if unfolded else ""}><summary>'
        f"<b>{_text(one.name)}</b>{tag}"
        f'<span class="soft">bare {_of(*one.bare)}</span>'
        f'<span class="soft">from states {_of(*one.again)}</span>'
        f'<span class="soft">{count}</span></summary><div class="inside">'
        f'<pre class="asked">{_lines(one.prompt)}</pre>{written}{"".join(rows)}'
        "</div></details>"
    )


def _of(tries: int, right: int) -> str:
    return f"{right:,} of {tries:,} right"


def _bare(one: Told) -> str:
    recent = "" if one.recent is None else f", {100 * one.recent:.0f} % right of late"
    return (
        '<div class="row bare"><div class="said" style="--deep:0">the bare problem'
        f'<span class="soft">{recent}</span></div><div class="n">-</div>'
        f'<div class="n">{_right(*one.bare)}</div><div class="n">-</div>'
        '<div class="n">-</div></div>'
    )


def _right(tries: int, right: int) -> str:
    """Right answers of all, and their share as a bar."""
    if not tries:
        return '<span class="soft">not tried</span>'
    width = 100 * right / tries
    return (
        f'{right:,} of {tries:,}<span class="bar right">'
        f'<i style="width:{width:.1f}%"></i></span>'
    )


def _state(one: State, deep: int) -> str:
    tags = "".join(
        f'<span class="tag {_TAGS[key][0]}">{_TAGS[key][1]}</span>'
        for key in (one.mark, one.origin)
        if key in _TAGS
    )
    grown = len(archive_tree.each(one.below))
    below = f"<span>{grown} grew from it</span>" if grown else ""
    width = 100 * min(max(one.score, 0.0), 1.0)  # rewards lie in [0, 1]
    return (
        f'<div class="row {one.mark}"><div class="said" style="--deep:{deep}"><div>'
        f"<pre>{_lines(one.text)}</pre><small><span>cell {one.cell}</span>"
        f"<span>{one.tokens} tokens</span>{below}{tags}</small></div></div>"
        f'<div class="n">{one.score:.3f}<span class="bar"><i style="width:'
        f'{width:.1f}%"></i></span></div>'
        f'<div class="n">{_right(one.tries, one.solves)}</div>'
        f'<div class="n">{one.visits:,}</div><div class="n">{one.age:,}</div></div>'
        + "".join(_state(state, deep + 1) for state in one.below)
    )
