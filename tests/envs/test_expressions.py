"""Expressions against Python's own reading of them, worked out in fractions."""

import ast
import fractions
import operator
import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.envs import expressions

SIGNS: dict[type[ast.operator], Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
NUMBERS = st.integers(0, 10**6).map(str)
# Whatever is put together by the rules, parentheses needless or not.
WELL_FORMED = st.recursive(
    NUMBERS,
    lambda inside: st.one_of(
        st.tuples(inside, st.sampled_from("+-*/"), inside).map("".join),
        inside.map("({})".format),
        inside.map(" {} ".format),
    ),
    max_leaves=12,
)
JUNK = st.text("0123456789+-*/() .", max_size=12)


def by_python(text):
    """The value and the numbers of an expression; None where there are none."""

    def value(node):
        if isinstance(node, ast.BinOp):
            return SIGNS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return fractions.Fraction(node.value)
        raise ValueError(node)

    # Python also knows **, //, signs before numbers, tuples, calls, decimals, and zeros
    # before a 0.
    if re.search(r"(?<![0-9])0[0-9]", text):
        return None
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        worth = value(tree)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError):
        return None
    # Numbers in their order: the order of places, since the tree may have another.
    numbers = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    numbers.sort(key=lambda node: node.col_offset)
    return worth, tuple(node.value for node in numbers)


@settings(max_examples=500, deadline=None)
@given(WELL_FORMED)
def test_what_is_well_formed_is_worth_what_python_says(text):
    found, expected = expressions.read(text), by_python(text)
    if len(text) > expressions.LONGEST or expected is None:
        assert found is None  # too long, or divided by 0
    else:
        assert found == expected


@settings(max_examples=1_000, deadline=None)
@given(JUNK)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of Python, at "1(2)"
def test_anything_else_is_read_as_python_does_or_not_at_all(text):
    assert expressions.read(text) == by_python(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-3", "+3", "3+-2", "2**3", "7//2", "3 4", "03", "1.5", "1e3", "x",
        "3+", "*3", "()", "(3", "3)", ")3(", "(3)(4)", "3(4)", "1/0", "1/(2-2)",
        "1,000", "3=3", "\u0663", "\u00b2", "3\n+4", "__import__('os')", "9" * 19,
    ],
)  # fmt: skip
def test_what_is_no_expression(text):
    assert expressions.read(text) is None


def test_an_expression_by_hand():
    # 8/(3-8/3) = 8/(1/3) = 24, the one way to make 24 out of 3, 3, 8 and 8.
    assert expressions.read("8/(3-8/3)") == (24, (8, 3, 8, 3))
    assert expressions.read("10-4-3") == (3, (10, 4, 3))
    assert expressions.read("12/2/3") == (2, (12, 2, 3))
    half = expressions.read(" ( 1 + 2 ) / 6 ")
    assert half == (fractions.Fraction(1, 2), (1, 2, 6))


def test_limits_of_length_and_depth():
    deep = expressions.DEEPEST
    assert expressions.read("(" * deep + "7" + ")" * deep) == (7, (7,))
    assert expressions.read("(" * (deep + 1) + "7" + ")" * (deep + 1)) is None
    # Side by side they are not within each other.
    assert expressions.read("+".join(["(1)"] * (deep + 10))) is not None
    assert expressions.read("1" + " " * (expressions.LONGEST - 1)) == (1, (1,))
    assert expressions.read("1" + " " * expressions.LONGEST) is None
    assert expressions.read("(" * 1_000_000) is None  # and at once
