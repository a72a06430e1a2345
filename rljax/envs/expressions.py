"""Arithmetic expressions read exactly; nothing is evaluated but + - * / of fractions.

    expression: term, then any number of + term or - term
    term:       factor, then any number of * factor or / factor
    factor:     a whole number, or an expression in parentheses

So products come first, and equals from left to right. There are no signs before
numbers, no powers, and no spaces but between parts.
"""

import fractions
import re
from typing import NamedTuple

LONGEST = 200  # characters; what is longer is no expression
DEEPEST = 20  # parentheses within each other
_PART = re.compile(r" *(?:(0|[1-9][0-9]{0,17})(?![0-9])|([-+*/()])) *")


class Expression(NamedTuple):
    """What an expression is worth, and the numbers it is made of, as they stand."""

    value: fractions.Fraction
    numbers: tuple[int, ...]


def read(text: str) -> Expression | None:
    """An expression; None for any other text, or where something is divided by 0.

    Args:
      text: of at most `LONGEST` characters and `DEEPEST` parentheses within each other;
        what exceeds them is no expression.
    """
    if len(text) > LONGEST or (parts := _parts(text)) is None:
        return None
    try:
        value, at = _expression(parts, 0, DEEPEST)
    except (_NoExpression, ZeroDivisionError):
        return None
    if at < len(parts):
        return None
    return Expression(value, tuple(int(part) for part in parts if part.isdigit()))


class _NoExpression(Exception):  # noqa: N818  it ends the descent, no one sees it
    pass


def _parts(text: str) -> list[str] | None:
    """Numbers, signs and parentheses; None if there is anything else."""
    parts, at = [], 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            return None
        parts.append(match[1] or match[2])
        at = match.end()
    return parts


def _expression(parts: list[str], at: int, room: int) -> tuple[fractions.Fraction, int]:
    """The value of what begins at a place, and where it ends."""
    value, at = _term(parts, at, room)
    while at < len(parts) and parts[at] in "+-":
        more, end = _term(parts, at + 1, room)
        value = value + more if parts[at] == "+" else value - more
        at = end
    return value, at


def _term(parts: list[str], at: int, room: int) -> tuple[fractions.Fraction, int]:
    value, at = _factor(parts, at, room)
    while at < len(parts) and parts[at] in "*/":
        more, end = _factor(parts, at + 1, room)
        value = value * more if parts[at] == "*" else value / more
        at = end
    return value, at


def _factor(parts: list[str], at: int, room: int) -> tuple[fractions.Fraction, int]:
    if at == len(parts):
        raise _NoExpression
    if parts[at].isdigit():
        return fractions.Fraction(int(parts[at])), at + 1
    if parts[at] != "(" or room == 0:
        raise _NoExpression
    value, end = _expression(parts, at + 1, room - 1)
    if end == len(parts) or parts[end] != ")":
        raise _NoExpression
    return value, end + 1
