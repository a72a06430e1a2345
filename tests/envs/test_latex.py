"""Boxes against a plain scan, numbers against fractions, forms by hand."""

import fractions

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.envs import latex

PIECES = [r"\boxed{", r"\fbox {", "{", "}", r"\{", r"\}", r"\\", "a", "1", " ", "$"]
FRACTIONS = st.fractions(-(10**9), 10**9, max_denominator=10**6)  # below 40 digits


def scanned(text):
    """The last balanced box, looked for from every place where one begins."""
    for start in reversed(range(len(text))):
        backslashes = len(text[:start]) - len(text[:start].rstrip("\\"))
        for opening in (r"\boxed{", r"\fbox {"):
            if not text.startswith(opening, start) or backslashes % 2:
                continue
            depth, escaped = 1, False
            first = start + len(opening)
            for i in range(first, len(text)):
                if escaped:
                    escaped = False
                elif text[i] == "\\":
                    escaped = True
                else:
                    depth += (text[i] == "{") - (text[i] == "}")
                if depth == 0:
                    return text[first:i]
    return None


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_the_last_box_against_a_plain_scan(text):
    assert latex.last_boxed(text) == scanned(text)


@pytest.mark.parametrize(
    "text, held",
    [
        (r"$\boxed{5}$", "5"),
        (r"\boxed{1} then \boxed{\frac{1}{2}} then \boxed{6", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5} or \fbox{7}", "7"),
        (r"$\boxed 12$.", "12"),
        (r"\boxed 12 and \boxed{13}", "13"),
        (r"\boxed{13} and \boxed 12", "12"),
        (r"\boxed{\left\{1\right\}}", r"\left\{1\right\}"),
        (r"}}\boxed{a}", "a"),
        (r"\\boxed{5}", None),
        ("\\", None),
        ("", None),
    ],
)
def test_boxes(text, held):
    assert latex.last_boxed(text) == held


@pytest.mark.parametrize(
    "left, right",
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        (r"\frac{1}{2}", r"\tfrac{1}2"),
        (r"\frac{1}{2}", "1/2"),
        ("0.5", "1/2"),
        ("1/3", "0.333"),
        (r"3\frac{1}{2}", "3.5"),
        (r"-3\frac{1}{2}", "-3.5"),
        (r"-\frac{1}{2}", "-.5"),
        (r"\frac{-1}{2}", r"-\frac{1}{2}"),
        ("1,234", "1234"),
        ("1{,}234", "1234"),
        (r"10,\!000", "10000"),
        ("007", "7"),
        ("5.", "5.00"),
        ("+5", "5"),
        (r"\$5", "5"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"5\text{ cm}", "5"),
        (r"$5 \mbox{ cm}^2$.", "5"),
        (r"\frac{3}{56}\text{ miles}", "3/56"),
        ("x=5", "5"),
        (r"x \in [-2,7]", "[-2,7]"),
        (r"\text{(A)}", "(A)"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\sqrt{5}", r"\sqrt5"),
        (r"x^2 + 2x", "x^2+2x"),
        (r"\left(\frac{1}{2},3\right)", "(0.5, 3)"),
        ("1,-2", "-2, 1"),
        ("1, 1, 2", "2, 1, 1"),
        (r"\{1,2\}", r"\{2,1\}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"(-\infty,0]\cup[1,2)", r"(-\infty, 0] \cup [1, 2)"),
        (r"\frac 59", r"\frac{5}{9}"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
        (r"137 \frac{1}{2}", "137.5"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{ \sqrt 2 }{ 2 }"),
        (r"\$32,\!348", "32,348"),
        ("52_8", "52_8"),
        ("0.0010", "0.0015"),  # the tolerance is absolute
        ("9" * 600, "9" * 600),
    ],
)
def test_equal(left, right):
    assert latex.equal(left, right) and latex.equal(right, left)


@pytest.mark.parametrize(
    "left, right",
    [
        ("1/3", "0.33"),
        ("1/3", "333/1000"),  # no decimal: exact
        ("1000000", "1000001"),
        ("5", "-5"),
        ("5", "5x"),
        ("5", r"5\sqrt{2}"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "(1,2]"),
        ("(1,2)", "1,2"),
        ("(1,2)", "(1,2,2)"),
        ("1,1,2", "1,2,2"),
        ("1,234", "1,2,34"),
        ("1/0", "2/0"),
        ("1/0", "1/1"),
        ("$", "%"),
        ("", "5"),
        ("x=5", "y=6"),
        ("f(x)=5", "5"),
        ("9" * 499 + "8", "9" * 499 + "7"),
        ("9" * 501, "9" * 501 + ".0"),
        ("y " * 300, "y" * 300),  # one form, and too long to be given it
        (r"\sqrt{8}", r"2\sqrt{2}"),  # no algebra
        ("٥", "5"),
    ],
)
def test_not_equal(left, right):
    assert not latex.equal(left, right) and not latex.equal(right, left)


@settings(deadline=None)
@given(FRACTIONS, FRACTIONS, st.sampled_from([r"\frac{%d}{%d}", "%d/%d"]))
def test_fractions_are_equal_exactly(left, right, form):
    ours, theirs = (form % (x.numerator, x.denominator) for x in (left, right))
    assert latex.number(ours) == (left, False)
    assert latex.equal(ours, theirs) == (left == right)
    double = form % (2 * left.numerator, 2 * left.denominator)
    assert latex.equal(double, ours)


@settings(deadline=None)
@given(
    st.integers(-(10**8), 10**8),
    st.integers(-3000, 3000),
    st.integers(1, 6),
)
def test_decimals_are_equal_within_the_tolerance(units, gap, places):
    left = fractions.Fraction(units, 10**places)
    right = left + fractions.Fraction(gap, 10**6)
    expected = abs(gap) <= 1000
    assert latex.equal(f"{float(left):.{places}f}", f"{float(right):.7f}") == expected


def test_long_numbers_are_strings():
    assert latex.number("1" * 40) == (int("1" * 40), False)
    assert latex.number("1" * 41) is None
    assert latex.number(r"\frac{" + "1" * 20 + "}{" + "1" * 21 + "}") is None
    assert not latex.equal("1" * 41, "1" * 41 + ".0")
