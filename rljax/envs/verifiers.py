"""Is an answer right? Pure functions of two texts; nothing is evaluated.

A `Verify` takes the true answer and a response, and says whether the response gives
that answer. A response may be any text, however long: it is right or wrong, never an
error. A true answer that cannot be one is an error of the data.
A `JudgeAll` asks a verifier of many: in this process by `in_turn`, in others by
`verifier_pool`, for verifiers of somebody else that may raise, hang or die.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rljax.envs import latex

Verify = Callable[[str, str], bool]  # (answer, response) -> right
# Beginning of a response -> whether it states an answer, right or wrong. Once it does
# it does so however it goes on.
Answered = Callable[[str], bool]


class Failure(NamedTuple):
    """Why a verifier gave no verdict on an answer."""

    reason: str
    timed_out: bool = False


# Of each (answer, response), in their order.
JudgeAll = Callable[[Sequence[tuple[str, str]]], list[bool | Failure]]

MARK = "####"
PHRASE = "he answer is"
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
# After a number: a unit sign, then the end, a space, or the full stop of a sentence.
_FINAL = re.compile(
    rf"\s*\$?(?P<sign>[-+]?)\$?(?P<whole>{_DIGITS})?"
    r"(?:\.(?P<part>[0-9]*))?%?\.?(?=\s|$)"
)

_ANY_NUMBER = re.compile(r"-?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)")


def in_turn(verify: Verify) -> JudgeAll:
    """Judges one answer after the other; one that raises costs itself alone.

    Args:
      verify: says what is right.
    """

    def judge_one(pair: tuple[str, str]) -> bool | Failure:
        try:
            return bool(verify(*pair))
        except Exception as error:  # whatever a verifier of somebody else raises
            return Failure(told(error))

    return lambda pairs: [judge_one(pair) for pair in pairs]


def told(error: Exception) -> str:
    """An error in one short line.

    Args:
      error: of a verifier.
    """
    return f"{type(error).__name__}: {error}"[:200]


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
    if not is_number(answer):
        raise ValueError(
            f"the answer {answer[:80]!r} is no number such as 72, -1,234 or 0.5"
        )
    return number_of(response) == _canonical(answer)


def number_of(response: str) -> str | None:
    """The number after the last "####", written in one way; None without one.

    Two responses give the same answer where this is the same.

    Args:
      response: any text.
    """
    _, mark, after = response.rpartition(MARK)
    return _canonical(after) if mark else None


def marked(response: str) -> bool:
    """Whether a "####" stands anywhere: what comes from it on is an answer.

    Args:
      response: any text.
    """
    return MARK in response


def is_number(text: str) -> bool:
    """Whether a text is a number that `final_number` can compare with.

    Args:
      text: any text.
    """
    return bool(_FINAL.fullmatch(text.strip())) and _canonical(text) is not None


def boxed(answer: str, response: str) -> bool:
    r"""Whether the last balanced \boxed{...} holds the answer.

    Answers are compared by `latex.equal`: as strings in one form, as numbers exactly or
    within 1e-3 where one is a decimal, as lists. A response without a box is wrong.

    Args:
      answer: in LaTeX, without its box.
      response: any text.

    Raises:
      ValueError: if `answer` is empty.
    """
    _require(answer)
    found = latex.last_boxed(response)
    return found is not None and latex.equal(answer, found)


def closed_box(response: str) -> bool:
    r"""Whether a \boxed{...} is closed.

    Args:
      response: any text.
    """
    return latex.last_boxed(response) is not None


def marked_or_boxed(response: str) -> bool:
    """Whether there is a closed box or a "####".

    Args:
      response: any text.
    """
    return marked(response) or closed_box(response)


def boxed_or_told(response: str) -> bool:
    """Whether there is a closed box or "he answer is".

    The third way of `stated`, a text's last number, is not asked for: every step of
    a solution would be an answer by it.

    Args:
      response: any text.
    """
    return PHRASE in response or closed_box(response)


def any_of(ways: Sequence[Answered]) -> Answered:
    """Whether a response states an answer in one of several ways.

    Args:
      ways: of stating one.
    """
    return lambda response: any(way(response) for way in ways)


def stated(answer: str, response: str) -> bool:
    r"""Whether the answer is given in any of three ways.

    The first that a response has is compared as in `boxed`: its last \boxed{...}; what
    stands after its last "he answer is" up to the end of the sentence; its last number.
    So DeepSeekMath's evaluation (https://arxiv.org/abs/2402.03300) finds answers. As a
    reward it is less strict than `boxed`: a text that ends in a number always answers.

    Args:
      answer: in LaTeX, without its box.
      response: any text.

    Raises:
      ValueError: if `answer` is empty.
    """
    _require(answer)
    found = stated_in(response)
    return found is not None and latex.equal(answer, found)


def stated_in(response: str) -> str | None:
    """What `stated` compares: the answer that a response gives, None without one.

    Args:
      response: any text.
    """
    found = latex.last_boxed(response)
    if found is None and PHRASE in response:
        line = response.rpartition(PHRASE)[2].lstrip(" :\n").split("\n", 1)[0]
        found = line.split(". ", 1)[0]
    elif found is None:
        for match in _ANY_NUMBER.finditer(response):
            found = match[0]
    return found


def _require(answer: str) -> None:
    if not answer.strip():
        raise ValueError("the answer is empty, and no response could give it")


def _canonical(text: str) -> str | None:
    """The number that a text begins with, written in one way; None if it does not."""
    match = _FINAL.match(text)
    if match is None or not (match["whole"] or match["part"]):
        return None
    whole = (match["whole"] or "").replace(",", "").lstrip("0")
    part = (match["part"] or "").rstrip("0")
    sign = "-" if match["sign"] == "-" and (whole or part) else ""
    return f"{sign}{whole or '0'}.{part or '0'}"
