r"""Answers judged as mathematics by the package math-verify, from the extra `math`.

What is compared is what our own verifiers would: the last \boxed{...} of a response,
or, without one, what its last "####" is followed by; for `stated`, what
`verifiers.stated` finds. math-verify alone says whether it is the answer, by SymPy:
\sqrt{8} and 2\sqrt{2} are one. It may take for ever, and its own limits of time are
signals; ask it in a `verifier_pool`.
"""

import math_verify

from rljax.envs import latex, verifiers


def verify(answer: str, response: str) -> bool:
    r"""Whether a response gives an answer that is equal to the true one.

    Args:
      answer: in LaTeX or as a number, without its box.
      response: any text. It is wrong if it gives nothing that math-verify can read.

    Raises:
      ValueError: if math-verify cannot read `answer`.
      Exception: whatever SymPy raises while it compares.
    """
    return _equal(answer, given_in(response))


def stated(answer: str, response: str) -> bool:
    r"""Whether the answer that `verifiers.stated` finds is equal to the true one.

    Args:
      answer: as of `verify`.
      response: the same.

    Raises:
      As `verify`.
    """
    found = verifiers.stated_in(response)
    return _equal(answer, found and found.strip().removesuffix("."))


def _equal(answer: str, found: str | None) -> bool:
    truth = _read(answer)
    if not truth:
        raise ValueError(f"math-verify cannot read the answer {answer[:80]!r}")
    said = [] if found is None else _read(found)
    if not said:
        return False
    return math_verify.verify(truth, said, timeout_seconds=None, raise_on_error=True)


def given_in(response: str) -> str | None:
    """What a response answers; None where it answers nothing.

    Args:
      response: any text.
    """
    found = latex.last_boxed(response)
    if found is None:
        _, mark, after = response.rpartition(verifiers.MARK)
        found = after.strip().split("\n", 1)[0] if mark else ""
    return found.strip() or None


def _read(text: str) -> list:
    r"""What math-verify makes of a text; nothing where that is no mathematics."""
    return math_verify.parse(
        rf"\boxed{{{text}}}", fallback_mode="no_fallback", parsing_timeout=None
    )
