"""Is an answer right? Pure functions of two texts; nothing is evaluated.

A `Verify` takes the true answer and a response, and says whether the response gives
that answer. A response may be any text, however long: it is right or wrong, never an
error. A true answer that cannot be one is an error of the data.
"""

import re
from collections.abc import Callable

Verify = Callable[[str, str], bool]  # (answer, response) -> right

MARK = "####"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = rf"(?P<sign>[-+]?)\$?(?P<whole>{_DIGITS}(?!,?[0-9]))?(?:\.(?P<part>[0-9]*))?"
# After a number: a unit sign, then the end, a space, or the full stop of a sentence.
_FINAL = re.compile(rf"\s*{_NUMBER}%?\.?(?=\s|$)")


def final_number(answer: str, response: str) -> bool:
    """Whether the number after the last "####" is the answer, exactly.

    "1,234", "1234.0" and "$1234" are one number; commas must part groups of three.
    What follows the number after a space does not count. Numbers are compared by their
    digits, so that their length does not matter.

    Args:
      answer: a number.
      response: any text.

    Raises:
      ValueError: if `answer` is no number.
    """
    truth = _canonical(answer)
    if truth is None:
        raise ValueError(
            f"the answer {answer[:80]!r} is no number such as 72, -1,234 or 0.5"
        )
    _, mark, after = response.rpartition(MARK)
    return bool(mark) and _canonical(after) == truth


def _canonical(text: str) -> str | None:
    """The number at the beginning of a text, written in one way."""
    match = _FINAL.match(text)
    if match is None or not (match["whole"] or match["part"]):
        return None
    whole = (match["whole"] or "").replace(",", "").lstrip("0")
    part = (match["part"] or "").rstrip("0")
    sign = "-" if match["sign"] == "-" and (whole or part) else ""
    return f"{sign}{whole or '0'}.{part or '0'}"
