"""Right and wrong answers; responses that hold anything."""

import decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rljax.envs import verifiers

ALL = [verifiers.final_number, verifiers.boxed, verifiers.stated]
NOISE = st.lists(
    st.one_of(
        st.sampled_from(["####", "#", r"\boxed{", "{", "}", "\\", "$", "%", ",", "-"]),
        st.sampled_from(
            ["5", "12", ".", " ", "\n", "he answer is", r"\frac", "/", "0"]
        ),
        st.sampled_from(
            ["\x00", "\ud800", "\u0665", "\u2028", "\u00bd", "x", "(", "]"]
        ),
    ),
    max_size=14,
).map("".join)


@pytest.mark.parametrize(
    "answer, response",
    [
        ("72", "48+24=72\n#### 72"),
        ("72", "####72"),
        ("72", "#### 72 clips\n"),
        ("72", "#### 72.\n"),
        ("72", "####\n72"),
        ("72", "#### $72"),
        ("72", "#### 72%"),
        ("72", "#### 71\nNo.\n#### 72"),
        ("72", "##### 072.00"),
        ("1,234", "#### 1234"),
        ("1234", "#### 1,234"),
        ("1234567", "#### 1,234,567.0"),
        ("3", "#### 3.0"),
        ("0.5", "#### .50"),
        ("-5", "#### -5"),
        ("-5", "#### -$5"),
        ("-5", "#### $-5"),
        ("5", "#### +5"),
        ("0", "#### -0"),
        (" 7 ", "#### 7"),
    ],
)
def test_final_numbers_that_are_right(answer, response):
    assert verifiers.final_number(answer, response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "72",
        "### 72",
        "#### ",
        "####",
        "#### 72\n####",
        "#### 72\n#### 71",
        "#### 7 2",
        "#### 72x",
        "#### x72",
        "#### 72.5",
        "#### 72.0.0",
        "#### 72,",
        "#### 7,2",
        "#### -72",
        "#### --72",
        "#### 72/1",
        "#### 7.2e1",
        "#### 0x48",
        "#### 72-0",
        "#### ٧٢",
        "#### 72\x00",
        "#### 72" + "0" * 10_000,
        "#### nan",
        "#### .",
        "#### -",
    ],
)
def test_final_numbers_that_are_wrong(response):
    assert not verifiers.final_number("72", response)


@settings(deadline=None)
@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.decimals(allow_nan=False, allow_infinity=False, places=2),
    st.booleans(),
)
def test_final_numbers_against_decimal(left, right, commas):
    shown = f"{right:,f}" if commas else f"{right:f}"
    with decimal.localcontext() as context:
        context.prec = 1000
        same = left == right
    assert verifiers.final_number(f"{left:f}", f"so #### {shown}") == same
    assert verifiers.final_number(f"{right:f}", f"so #### {shown}")


@pytest.mark.parametrize("answer", ["", "x", "72 clips", "1/2", "12,34", "--1", "1\n2"])
def test_an_answer_that_is_no_number_is_an_error(answer):
    with pytest.raises(ValueError, match="is no number such as"):
        verifiers.final_number(answer, "#### 1")


@pytest.mark.parametrize(
    "response, right",
    [
        (r"so \boxed{\frac{1}{2}}", True),
        (r"\boxed{1/3}, no: \boxed{0.5}.", True),
        (r"\boxed{0.5}, no: \boxed{1/3}.", False),
        (r"\boxed{\dfrac12}, or \boxed{1/3", True),  # the last that is balanced
        (r"0.5", False),
        (r"\boxed{}", False),
        (r"\boxed{0.5} \boxed{}", False),
        (r"boxed{0.5}", False),
        ("#### 0.5", False),
    ],
)
def test_boxed(response, right):
    assert verifiers.boxed(r"\frac{1}{2}", response) == right


@pytest.mark.parametrize(
    "response, right",
    [
        (r"3 and \boxed{12}, the answer is 4, or 5", True),
        ("3. The answer is 12. It was 4.", True),
        ("the answer is: $12$.\n4", True),
        ("the answer is 4. The answer is\n12.0", True),
        ("The answer is 4. That is 12", False),
        ("first 4, then 12.", True),
        ("first 4, then 12 = 12.", True),
        ("12, then 4", False),
        ("it is -12", False),
        ("x12", True),
        ("twelve", False),
        ("", False),
        ("the answer is", False),
    ],
)
def test_stated(response, right):
    assert verifiers.stated("12", response) == right


@pytest.mark.parametrize("verify", [verifiers.boxed, verifiers.stated])
def test_an_empty_answer_is_an_error(verify):
    with pytest.raises(ValueError, match="the answer is empty"):
        verify(" \n", r"\boxed{}")


@settings(deadline=None)
@given(NOISE)
def test_any_response_is_right_or_wrong(response):
    for verify in ALL:
        assert verify("5", response) in (True, False)
        assert verify("0.5", response) in (True, False)


@settings(deadline=None)
@given(NOISE.filter(str.strip), NOISE)
def test_any_two_answers_can_be_compared(answer, response):
    for verify in (verifiers.boxed, verifiers.stated):
        assert verify(answer, rf"\boxed{{{response}}}") in (True, False)


# Each of these takes hours where time goes with the square of the length.
LONG = 300_000
ENDLESS = [
    "\\boxed{" * LONG,
    "\\boxed{" * LONG + "}" * LONG,
    "\\boxed" + " " * LONG,
    "\\boxed{" + "(" * LONG + "}",
    "\\boxed{" + "1" * LONG + "}",
    "####" * LONG,
    "#### " + "1" * LONG,
    "#### 1" + ",111" * LONG + "x",
    "#### " + " " * LONG + "x",
    "#### 1." + "0" * LONG + "x",
    "he answer is" * LONG,
    "he answer is a" + " " * LONG + "a",
    "1," * LONG,
    "-" * LONG,
    "." * LONG,
    "{" * LONG,
]


@pytest.mark.parametrize("response", ENDLESS, ids=range(len(ENDLESS)))
def test_long_responses_are_soon_judged(response):
    for verify in ALL:
        assert not verify("5", response)


ANSWERED = [
    verifiers.marked, verifiers.closed_box, verifiers.marked_or_boxed,
    verifiers.boxed_or_told,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3*3=9\n", [False, False, False, False]),
        ("3*3=9\n### 9", [False, False, False, False]),
        ("3*3=9\n####", [True, False, True, False]),
        (r"so \boxed{9", [False, False, False, False]),
        (r"so \boxed{9}. Now", [False, True, True, True]),
        (r"so \boxed 9", [False, True, True, True]),
        ("The answer is 9.\n", [False, False, False, True]),
    ],
)
def test_what_states_an_answer(text, expected):
    assert [answered(text) for answered in ANSWERED] == expected


@pytest.mark.parametrize("answered", ANSWERED)
@given(text=NOISE, more=NOISE)
@settings(deadline=None)
def test_an_answer_that_is_stated_stays_so(answered, text, more):
    assert answered(text + more) or not answered(text)
