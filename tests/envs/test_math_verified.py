"""math-verify against answers by hand; skipped where it is not installed."""

import importlib.util

import pytest

from rljax.envs import verifier_pool

if importlib.util.find_spec("math_verify") is None:
    pytest.skip("math-verify is not installed", allow_module_level=True)

from rljax.envs import math_verified

VERDICTS = [
    ("1/2", r"so \boxed{\frac12}", True),
    (r"2\sqrt{2}", r"\boxed{\sqrt{8}}", True),  # what `latex.equal` cannot know
    ("x^2-1", r"\boxed{(x-1)(x+1)}", True),
    ("72", "60+12=72\n#### 72", True),
    ("1234", "#### 1,234", True),
    ("72", "#### 73", False),
    ("72", "72", False),  # neither a box nor a mark
    ("72", r"\boxed{72} or \boxed{73}", False),  # the last box counts
    ("72", r"\boxed{72} #### 73", True),  # a box before a mark
    ("3", r"\boxed{}", False),
    ("3", r"\boxed{}}{{\frac}", False),
    ("3", "#### }", False),
    ("3", r"\boxed{1/0}", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{3}", False),
]


@pytest.mark.parametrize(("answer", "said", "right"), VERDICTS)
def test_verdicts_by_hand(answer, said, right):
    assert math_verified.verify(answer, said) is right


STATED = [
    (r"2\sqrt{2}", r"The answer is $\sqrt{8}$.", True),
    ("72", "8+64=72", True),
    ("72", "8+64=71", False),
    ("0.5", r"the answer is 3, no: \boxed{\frac12}", True),
    ("72", "", False),
]


@pytest.mark.parametrize(("answer", "said", "right"), STATED)
def test_stated_answers_by_hand(answer, said, right):
    assert math_verified.stated(answer, said) is right


def test_an_answer_that_is_no_mathematics_is_an_error_of_the_data():
    with pytest.raises(ValueError, match="cannot read the answer"):
        math_verified.verify("", "#### 1")


def test_in_processes_what_takes_for_ever_costs_itself_alone():
    asked = [(answer, said) for answer, said, _ in VERDICTS]
    endless = ("3", r"\boxed{2^{3^{4^{5^6}}}}")
    with verifier_pool.open_pool(math_verified.verify, 2, 10.0) as judge:
        found = judge([*asked[:5], endless, *asked[5:]])
    assert found.pop(5) is not True  # want of time, or a verdict of a newer SymPy
    assert found == [right for *_, right in VERDICTS]
