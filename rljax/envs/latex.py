r"""Answers written in LaTeX, as in MATH: found, brought to one form, compared.

No algebra and nothing evaluated: answers are alike as strings, as numbers, or as lists
of such. So \sqrt{8} and 2\sqrt{2} differ.
"""

import fractions
import re

LONGEST = 500  # characters of an answer beyond which only the same string is equal
TOLERANCE = fractions.Fraction(1, 1000)  # between numbers, where one is a decimal
_DIGITS = 40  # of a number, at most; longer ones are compared as strings

_TOKEN = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed[ \t]+(?P<bare>[^\s${}\\]+)"
    r"|(?P<escape>\\[\s\S])|(?P<open>\{)|(?P<close>\})"
)

_UNIT = re.compile(
    r"(?<=[0-9}.])\\(?:text|mbox)\{[A-Za-z][^{}]*\}(?:\^(?:[0-9]|\{[0-9]\}))?\.?$"
)
_FORMS = [
    # A line break of two backslashes stays, whatever comes after it.
    (re.compile(r"(\\\\)|\\[!,;: ]|\\?[$%]|~|\s"), r"\1"),
    (_UNIT, ""),
    (re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|mathbf)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"\^(?:\\circ(?![A-Za-z])|\{\\circ\})"), ""),  # degrees
    (re.compile(r"\{,\}"), ","),  # 1{,}234
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\frac([^{\\])"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})([^{\\])"), r"\1{\2}"),
    (re.compile(r"\\sqrt([^{\[\\])"), r"\\sqrt{\1}"),
    (re.compile(r"^[A-Za-z]{1,2}(?:=|\\in(?![a-z]))(?=[^=]*$)"), ""),  # x=5
    (re.compile(r"(?<![0-9])\.(?=[0-9])"), "0."),
    (re.compile(r"\.$"), ""),
]

_DECIMAL = re.compile(r"([-+]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.([0-9]+))?")
_FRACTION = re.compile(
    r"(-?)([0-9]+(?=\\))?(?:\\frac\{(-?[0-9]+)\}\{([0-9]+)\}|(-?[0-9]+)/([0-9]+))"
)


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} holds whose braces are balanced; None without one.

    `\fbox{5}` and `\boxed 5` count, escaped braces do not. The innermost of nested
    boxes begins last.

    Args:
      text: any text; it is read once.
    """
    found = (-1, "")
    opened: list[int | None] = []  # where each open brace's box begins, if it is one
    for match in _TOKEN.finditer(text):
        if match["box"]:
            opened.append(match.end())
        elif match["bare"]:
            found = max(found, (match.start("bare"), match["bare"]))
        elif match["open"]:
            opened.append(None)
        elif match["close"] and opened:
            start = opened.pop()
            if start is not None and start > found[0]:
                found = (start, text[start : match.start()])
    return None if found[0] < 0 else found[1]


def equal(left: str, right: str) -> bool:
    r"""Whether two answers are the same.

    They are if their forms are (`normal`), or if both are numbers, equal exactly, or
    within 1e-3 if one is a decimal: an absolute tolerance, as in DeepSeekMath's
    evaluation. Lists are compared number by number: in order within ( or [, in
    any order otherwise. Answers beyond `LONGEST` characters must be the same string.

    Args:
      left: an answer, without its box.
      right: another.
    """
    left, right = left.strip(), right.strip()
    if left == right:
        return True
    if max(len(left), len(right)) > LONGEST:
        return False
    left, right = normal(left), normal(right)
    return _same(left, right) or _same_lists(left, right)


def normal(text: str) -> str:
    r"""An answer in one form: how it is set, and its unit, do not matter.

    Spaces, sizes of brackets, dollar and percent signs, degrees, units in \text, a
    variable before an equals sign and a full stop go; \frac12 becomes \frac{1}{2}.

    Args:
      text: an answer, without its box.
    """
    text = text.strip()
    for pattern, form in _FORMS:
        text = pattern.sub(form, text)
    return text


def number(text: str) -> tuple[fractions.Fraction, bool] | None:
    r"""The number that a normal form is, and whether it is written as a decimal.

    "1,234", "0.5", "1/2", "-\frac{1}{2}" and "3\frac{1}{2}" (three and a half) are
    numbers.

    Args:
      text: what `normal` gave.

    Returns:
      None for other text, a denominator of 0, or more than 40 digits.
    """
    if sum(character.isdigit() for character in text) > _DIGITS:
        return None
    if match := _DECIMAL.fullmatch(text):
        sign, whole, part = match.groups()
        value = fractions.Fraction(f"{whole.replace(',', '')}.{part or 0}")
        return (-value if sign == "-" else value), part is not None
    if match := _FRACTION.fullmatch(text):
        sign, whole, *parts = match.groups()
        above, below = (int(part) for part in parts if part is not None)
        if below == 0 or (whole is not None and above < 0):
            return None
        value = int(whole or 0) + fractions.Fraction(above, below)
        return (-value if sign == "-" else value), False
    return None


def _same(left: str, right: str) -> bool:
    """Whether two normal forms are one string, not empty, or one number."""
    if left == right:
        return left != ""
    ours, theirs = number(left), number(right)
    if ours is None or theirs is None:
        return False
    gap = abs(ours[0] - theirs[0])
    return gap == 0 or ((ours[1] or theirs[1]) and gap <= TOLERANCE)


def _same_lists(left: str, right: str) -> bool:
    (ends, ours), (other_ends, theirs) = _items(left), _items(right)
    if ends != other_ends or len(ours) != len(theirs) or len(ours) < 2:
        return False
    if ends[0] in ("(", "["):
        return all(map(_same, ours, theirs))
    return _matched(ours, theirs)


def _matched(ours: list[str], theirs: list[str]) -> bool:
    """Whether each of ours has one of theirs to itself."""
    left = list(theirs)
    for item in ours:
        at = next((i for i, other in enumerate(left) if _same(item, other)), None)
        if at is None:
            return False
        del left[at]
    return True


def _items(text: str) -> tuple[tuple[str, str], list[str]]:
    """The brackets around a list, and what stands between its outer commas."""
    ends = ("", "")
    for begin, end in (("(", ")"), ("[", "]"), ("(", "]"), ("[", ")"), (r"\{", r"\}")):
        if text.startswith(begin) and text.endswith(end):
            ends = (begin, end)
            text = text[len(begin) : len(text) - len(end)]
            break
    items, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return ends, items
