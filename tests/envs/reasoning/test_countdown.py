"""Problems against Python's own arithmetic, and against a search for all solutions."""

import collections
import dataclasses
import fractions
import itertools
import re

import pytest

from rljax.envs.reasoning import countdown
from rljax.text import tokenizer as tokenizer_lib

SMALL = countdown.Config(numbers=(2, 3), largest=5, target=(5, 12))
CONFIGS = [
    countdown.Config(),
    countdown.Config(numbers=(2, 2), largest=9, target=(1, 81)),
    countdown.Config(numbers=(4, 6), largest=100, target=(100, 999)),
    SMALL,
]


def read(problem):
    """Numbers and target out of a prompt."""
    match = re.fullmatch(r"numbers ([0-9 ]+) make ([0-9]+)\n", problem.prompt)
    assert match is not None
    return [int(number) for number in match[1].split(" ")], int(match[2])


def reachable(numbers):
    """All that can be made of numbers by whole steps that do something."""
    if len(numbers) == 1:
        return {numbers[0]}
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        a, b = numbers[i], numbers[j]
        steps = [a + b, a - b]
        if 1 not in (a, b):
            steps += [a * b, *([a // b] if a % b == 0 else [])]
        for step in steps:
            if step >= 1:
                found |= reachable((*rest, step))
    return found


def everything(config):
    """The names of all problems, by brute force."""
    found = set()
    for size in range(config.numbers[0], config.numbers[1] + 1):
        pool = range(1, config.largest + 1)
        for numbers in itertools.combinations_with_replacement(pool, size):
            for target in reachable(numbers):
                if config.target[0] <= target <= config.target[1]:
                    given = " ".join(map(str, numbers))
                    found.add(f"countdown/{given}={target}")
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_every_line_is_true_and_the_last_makes_the_target(config):
    problems = countdown.make(config, seed=3, count=100)
    assert len({problem.task for problem in problems}) == 100
    sizes = set()
    for problem in problems:
        numbers, target = read(problem)
        sizes.add(len(numbers))
        assert all(1 <= number <= config.largest for number in numbers)
        assert config.target[0] <= target <= config.target[1]
        assert problem.answer == f"{' '.join(map(str, numbers))}={target}"
        *lines, last = problem.solution.split("\n")
        assert len(lines) == len(numbers) - 1
        left = collections.Counter(numbers)
        for line in lines:
            match = re.fullmatch(r"([0-9]+)([-+*/])([0-9]+)=([0-9]+)", line)
            assert match is not None
            first, sign, second, result = match.groups()
            assert eval(f"{first}{sign}{second}") == int(result) >= 1
            assert sign in "+-" or "1" not in (first, second)
            left.subtract([int(first), int(second)])
            assert min(left.values()) >= 0  # what is joined was there
            left[int(result)] += 1
        assert +left == {target: 1}
        mark, _, expression = last.partition(" ")
        assert mark == "####" and eval(expression) == target
        used = map(int, re.findall("[0-9]+", expression))
        assert sorted(used) == sorted(numbers)
        assert countdown.verify(problem.answer, problem.solution)
    assert sizes == set(range(config.numbers[0], config.numbers[1] + 1))


def test_written_expressions_have_no_needless_parentheses():
    for problem in countdown.make(CONFIGS[2], seed=0, count=200):
        expression = problem.solution.rpartition(" ")[2]
        value = eval(expression)
        for at, character in enumerate(expression):
            if character != "(":
                continue
            depth, end = 1, at + 1
            while depth:
                depth += (expression[end] == "(") - (expression[end] == ")")
                end += 1
            without = expression[:at] + expression[at + 1 : end - 1] + expression[end:]
            # They change the value; by chance they may not, as in 5-(3-3).
            same = eval(without) == value
            assert not same or expression[at - 1 : at] in ("-", "/", "*")


def test_all_problems_there_are_and_no_others():
    wanted = everything(SMALL)
    assert countdown.most_problems(SMALL) >= len(wanted)
    found = countdown.make(SMALL, seed=0, count=len(wanted))
    assert {problem.task for problem in found} == wanted
    with pytest.raises(ValueError, match=f"hardly more than {len(wanted)}: ask for"):
        countdown.make(SMALL, seed=0, count=len(wanted) + 1)


def test_parts_share_no_problem_in_whatever_order_the_numbers_stand():
    sizes = {"test": 40, "dev": 20, "train": 60}
    sets = countdown.split(SMALL, 5, sizes)
    assert {name: len(found) for name, found in sets.items()} == sizes
    names = []
    for problem in itertools.chain(*sets.values()):
        numbers, target = read(problem)
        names.append((*sorted(numbers), target))
    assert len(set(names)) == len(names)
    # What is named first stays when others change their size.
    fewer = countdown.split(SMALL, 5, sizes | {"train": 3})
    assert fewer["test"] == sets["test"] and fewer["dev"] == sets["dev"]
    assert fewer["train"] == sets["train"][:3]


def test_a_function_of_the_seed():
    first, again, other = (countdown.make(SMALL, seed, 50) for seed in (1, 1, 2))
    assert first == again != other
    (problem,) = countdown.make(countdown.Config(), seed=1, count=1)
    assert problem == countdown.make(countdown.Config(), seed=1, count=9)[0]


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("#### 3+25*7", True),
        ("#### 7*25+3", True),
        ("#### 25*7+3", True),
        ("25*7=175\n3+175=178\n####  ( 25 * 7 ) + 3 \nand more", True),
        ("#### 1\n#### 3+25*7", True),
        ("#### 3+25*7\n#### 1", False),
        ("3+25*7", False),  # no mark
        ("####", False),
        ("#### \n", False),
        ("#### 178", False),  # none of the numbers
        ("#### 3+25*7=178", False),
        ("#### 3+25*7.", False),
        ("#### 3+25*7+7-7", False),  # a number more than once
        ("#### 3+175", False),
        ("#### 3*25+7", False),  # another value
        ("#### -3+25*7+6", False),
        ("#### 3+257", False),
        ("#### " + "(" * 10**6, False),
    ],
)
def test_verdicts_by_hand(said, right):
    assert countdown.verify("3 25 7=178", said) is right


def test_fractions_on_the_way_are_exact():
    assert countdown.verify("3 3 8 8=24", "#### 8/(3-8/3)")
    # In floats 1/3*3 is 1, and 49*(1/49) is not.
    assert 49 * (1 / 49) != 1 == 49 * fractions.Fraction(1, 49)
    assert countdown.verify("49 1 49=1", "#### 49*(1/49)")
    assert not countdown.verify("3 3 8 8=24", "#### 8/(3-3)*8")


@pytest.mark.parametrize("answer", ["", "178", "3 25=", "3,25=75", "3  25=75", "a=1"])
def test_an_answer_that_is_none_is_an_error_of_the_data(answer):
    with pytest.raises(ValueError, match="is no '3 25 7=178'"):
        countdown.verify(answer, "#### 1")


def test_what_a_response_says():
    assert countdown.given_in("a\n####  3 + 4 \nb") == "3+4"
    assert countdown.given_in("3+4") is None and countdown.given_in("#### ") is None


def test_every_character_is_in_the_alphabet():
    tokens = tokenizer_lib.character_level(countdown.alphabet())
    for problem in countdown.make(countdown.Config(), seed=0, count=100):
        text = problem.prompt + problem.solution
        ids = tokens.encode(text)
        assert tokens.unk_token_id not in ids and tokens.decode(ids) == text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"numbers": (1, 3)}, r"numbers must be .* got \(1, 3\)"),
        ({"numbers": (3, 2)}, r"numbers must be .* got \(3, 2\)"),
        ({"numbers": (2, 9)}, r"most <= 8, got \(2, 9\)"),
        ({"largest": 0}, "largest must be in .* got 0"),
        ({"target": (0, 5)}, r"target must be .* got \(0, 5\)"),
        ({"target": (6, 5)}, r"target must be .* got \(6, 5\)"),
    ],
)
def test_impossible_settings_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(countdown.Config(), **change)


def test_impossible_numbers_of_problems_are_refused():
    with pytest.raises(ValueError, match="got -1 and 2"):
        countdown.make(SMALL, -1, 2)
    with pytest.raises(ValueError, match="has no more than"):
        countdown.make(SMALL, 0, 10**6)
    with pytest.raises(ValueError, match="the size of 'dev' must be at least 0"):
        countdown.split(SMALL, 0, {"dev": -1})
