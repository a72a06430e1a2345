"""Problems against Python's own arithmetic, and against all that there are."""

import dataclasses
import itertools
import re

import pytest

from rljax.envs import verifiers
from rljax.envs.reasoning import arithmetic
from rljax.envs.reasoning import problems as problems_lib
from rljax.text import tokenizer as tokenizer_lib

SMALL = arithmetic.Config(operations=(1, 3), largest=2, factor=3, products=0.4)
CONFIGS = [
    arithmetic.Config(),
    arithmetic.Config(signed=True, operations=(2, 6), largest=999, factor=12),
    arithmetic.Config(rewrite=True, products=1),
    arithmetic.Config(rewrite=True, signed=True, signs="-", products=0),
    arithmetic.Config(operations=(1, 1), products=0.5),
]


def expression_of(problem):
    assert problem.prompt.endswith("=?\n")
    return problem.prompt.removesuffix("=?\n")


def totals(expression):
    """Every result on the way, products first, then from left to right."""
    products = [eval(found) for found in re.findall(r"[0-9]+\*[0-9]+", expression)]
    flat = re.sub(r"[0-9]+\*[0-9]+", lambda found: str(eval(found[0])), expression)
    parts = re.findall(r"[-+]?[0-9]+", flat)
    sums = list(itertools.accumulate(map(int, parts)))
    return products, sums[1:]


def everything(config):
    """All expressions of a config, by brute force."""
    numbers = [str(n) for n in range(config.largest + 1)]
    products = [
        f"{a}*{b}"
        for a in range(2, config.largest + 1)
        for b in range(2, config.factor + 1)
        if config.products
    ]
    found = set()
    for summands in range(1, config.operations[1] + 2):
        for terms in itertools.product(numbers + products, repeat=summands):
            for signs in itertools.product(config.signs, repeat=summands - 1):
                text = terms[0] + "".join(
                    sign + term for sign, term in zip(signs, terms[1:], strict=True)
                )
                operations = sum(text.count(sign) for sign in "+-*")
                if config.operations[0] <= operations <= config.operations[1]:
                    if config.signed or min(totals(text)[1], default=0) >= 0:
                        found.add(text)
    return found


def test_an_example():
    (problem,) = arithmetic.make(arithmetic.Config(), seed=0, count=1)
    # 91*9=819 and 44*6=264, then 819-31=788, 788-68=720, 720+264=984.
    assert problem.prompt == "91*9-31-68+44*6=?\n"
    assert problem.task == "arithmetic/91*9-31-68+44*6"
    assert problem.answer == "984"
    assert problem.solution == (
        "91*9=819\n44*6=264\n819-31=788\n788-68=720\n720+264=984\n#### 984"
    )
    config = arithmetic.Config(rewrite=True)
    (problem,) = arithmetic.make(config, seed=0, count=1)
    assert problem.solution == (
        "819-31-68+44*6\n819-31-68+264\n788-68+264\n720+264\n984\n#### 984"
    )


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_every_line_is_true_and_leads_to_the_answer(config):
    problems = arithmetic.make(config, seed=3, count=300)
    assert len({p.prompt for p in problems}) == len({p.task for p in problems}) == 300
    for problem in problems:
        expression = expression_of(problem)
        *lines, last = problem.solution.split("\n")
        answer = str(eval(expression))
        assert problem.answer == answer and last == f"#### {answer}"
        assert verifiers.final_number(problem.answer, problem.solution)
        operations = sum(expression.count(sign) for sign in "+-*")
        assert config.operations[0] <= operations <= config.operations[1]
        assert len(lines) == operations
        if config.rewrite:
            for line, more in zip(lines, [expression, *lines], strict=False):
                assert eval(line) == eval(expression)
                assert len(re.findall("[0-9]+", more)) == 1 + len(
                    re.findall("[0-9]+", line)
                )
        else:
            products, sums = totals(expression)
            sides = [line.split("=") for line in lines]
            assert all(str(eval(left)) == right for left, right in sides)
            assert [int(right) for _, right in sides] == products + sums
        if not config.signed:
            assert min(totals(expression)[1], default=0) >= 0


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("chance", [0.0, 0.6, 1.0])
def test_merged_lines_take_more_operations_and_stay_true(signed, chance):
    plain = arithmetic.Config(operations=(1, 5), largest=20, factor=5, signed=signed)
    config = dataclasses.replace(plain, merged=chance)
    problems = zip(
        arithmetic.make(plain, 3, 400), arithmetic.make(config, 3, 400), strict=True
    )
    more = could = 0
    for other, problem in problems:
        assert (problem.prompt, problem.answer) == (other.prompt, other.answer)
        left = expression_of(problem)
        *lines, last = problem.solution.split("\n")
        assert last == f"#### {problem.answer}"
        for line in lines:
            part, result = line.split("=")
            assert eval(part) == int(result)
            # All beginnings of two operations or more that may stand by themselves.
            heads = [
                head
                for count in range(2, 6)
                if (found := re.match(rf"-?\d+([-+*]\d+){{{count}}}(?![\d*])", left))
                for head in [found[0]]
            ]
            if part in heads:  # a draw for each taken, and one that ends it
                more += heads.index(part) + 1
                could += heads.index(part) + 1 + (part != heads[-1])
            else:
                assert len(re.findall(r"(?<=\d)[-+*]", part)) == 1
                could += bool(heads)
            before = eval(left)
            at = left.index(part)
            left = left[:at] + result + left[at + len(part) :]
            assert eval(left) == before
        assert left == problem.answer
        assert arithmetic.first_error(expression_of(problem), [*lines, last]) == -1
    assert could > 300
    assert more / could == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_numbers_are_within_their_limits(config):
    for problem in arithmetic.make(config, seed=0, count=400):
        expression = expression_of(problem)
        assert not re.search(r"\*[0-9]+\*", expression)
        for left, right in re.findall(r"([0-9]+)\*([0-9]+)", expression):
            assert 2 <= int(left) <= config.largest and 2 <= int(right) <= config.factor
        assert max(map(int, re.findall("[0-9]+", expression))) <= config.largest
        assert set(expression) <= set("0123456789*" + config.signs)
        assert ("*" in expression) <= (config.products > 0)


def test_draws_reach_the_ends_of_every_range():
    config = arithmetic.Config(operations=(1, 2), largest=12, factor=4)
    texts = [expression_of(p) for p in arithmetic.make(config, seed=0, count=1500)]
    numbers = {int(n) for text in texts for n in re.findall("[0-9]+", text)}
    assert numbers == set(range(13))
    factors = {int(n) for text in texts for n in re.findall(r"\*([0-9]+)", text)}
    assert factors == {2, 3, 4}
    firsts = {int(n) for text in texts for n in re.findall(r"([0-9]+)\*", text)}
    assert firsts == set(range(2, 13))


def test_lengths_are_equally_likely_though_long_sums_fall_below_zero_more_often():
    config = arithmetic.Config(signs="-", products=0.2)
    problems = arithmetic.make(config, seed=0, count=3000)
    lines = [p.solution.count("\n") for p in problems]
    # 1000 of each are expected, with a standard deviation of 26.
    assert all(abs(lines.count(n) - 1000) < 130 for n in (3, 4, 5))


def test_share_of_products():
    # With one operation a product may always stand: 2000 draws, deviation 21.
    config = arithmetic.Config(operations=(1, 1), largest=9999, signed=True)
    texts = [p.prompt for p in arithmetic.make(config, seed=1, count=2000)]
    assert abs(sum("*" in text for text in texts) - 700) < 105


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("products", [0, 0.4, 1])
@pytest.mark.parametrize("signs", ["+-", "-"])
def test_all_problems_are_found_and_no_more_are_promised(
    signed, products, signs, monkeypatch
):
    monkeypatch.setattr(arithmetic, "PATIENCE", 50_000)
    config = arithmetic.Config((1, 3), 2, 3, products, signs, signed)
    expected = everything(config)
    if products == 1:  # wherever a product may stand there is one
        expected = {
            text for text in expected if not re.search(r"(^|[-+])[0-9]+[-+]", text)
        }
    most = arithmetic.most_problems(config)
    assert most == len(expected) if signed else most >= len(expected)
    problems = arithmetic.make(config, 0, len(expected))
    assert {expression_of(p) for p in problems} == expected
    with pytest.raises(ValueError, match=f"{len(expected) + 1} distinct problems"):
        arithmetic.make(config, 0, len(expected) + 1)


def test_refuses_at_once_what_no_space_gives():
    with pytest.raises(ValueError, match="has no more than 38755683337728: ask for"):
        arithmetic.make(arithmetic.Config(), 0, 10**30)


def test_a_seed_gives_the_same_problems_and_fewer_are_the_first_of_more():
    config = arithmetic.Config()
    many = arithmetic.make(config, 7, 50)
    assert arithmetic.make(config, 7, 50) == many
    assert arithmetic.make(config, 7, 20) == many[:20]
    firsts = {arithmetic.make(config, seed, 1)[0] for seed in [*range(20), 2**64]}
    assert len(firsts) == 21
    assert arithmetic.make(config, 7, 0) == []


def test_sets_are_disjoint_and_stay_when_later_ones_grow():
    sizes = {"test": 30, "dev": 20, "train": 100}
    sets = arithmetic.split(SMALL, 5, sizes)
    assert {name: len(problems) for name, problems in sets.items()} == sizes
    prompts = [p.prompt for problems in sets.values() for p in problems]
    assert len(set(prompts)) == 150
    more = arithmetic.split(SMALL, 5, sizes | {"train": 200})
    assert more["test"] == sets["test"] and more["dev"] == sets["dev"]
    assert more["train"][:100] == sets["train"]
    with pytest.raises(ValueError, match="the size of 'dev' must be .* got -1"):
        arithmetic.split(SMALL, 5, {"test": 3, "dev": -1})


@pytest.mark.parametrize("seed, count", [(-1, 3), (0, -3)])
def test_refuses_negative_seeds_and_counts(seed, count):
    with pytest.raises(ValueError, match=f"got {seed} and {count}"):
        arithmetic.make(SMALL, seed, count)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"operations": (0, 2)}, r"1 <= least <= most, got \(0, 2\)"),
        ({"operations": (3, 2)}, r"got \(3, 2\)"),
        ({"largest": 0}, "largest must be at least 1, got 0"),
        ({"products": 1.1}, r"within \[0, 1\], got 1.1"),
        ({"products": float("nan")}, "got nan"),
        ({"factor": 1}, "at least 2 where products > 0, got 1 and 99"),
        ({"largest": 1}, "got 9 and 1"),
        ({"signs": ""}, "got ''"),
        ({"signs": "*"}, "got '\\*'"),
        ({"merged": -0.1}, r"merged must be within \[0, 1\], got -0.1"),
        ({"merged": float("nan")}, "merged must be within"),
        ({"merged": 0.5, "rewrite": True}, "take one"),
        ({"careless": 1.5}, r"careless must be within \[0, 1\], got 1.5"),
        ({"hasty": -0.5}, r"hasty must be within \[0, 1\], got -0.5"),
        ({"modulus": 99}, "above largest and factor, 99 and 9, or 0, got 99"),
        ({"modulus": -1}, "got -1"),
        ({"merged": 0.5, "careless": 0.1}, "take one"),
        ({"hasty": 0.5, "careless": 0.1}, "take one"),
        ({"hasty": 0.5, "rewrite": True}, "take one"),
        ({"rewrite": True, "careless": 0.1}, "take one"),
    ],
)
def test_refuses_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        arithmetic.Config(**settings)
    arithmetic.Config(products=0, factor=1, largest=1)


def test_the_alphabet_writes_everything():
    words = tokenizer_lib.character_level(arithmetic.alphabet())
    texts = [
        problem.prompt + problem.solution
        for config in CONFIGS
        for problem in arithmetic.make(config, 0, 100)
    ]
    assert set("".join(texts)) == set(arithmetic.alphabet())
    for text, ids in zip(texts, tokenizer_lib.encode(words, texts), strict=True):
        assert len(ids) == len(text) and words.decode(ids) == text


def test_default_problems_are_short():
    problems = arithmetic.make(arithmetic.Config(), 0, 2000)
    assert max(len(p.prompt) for p in problems) < 30
    lengths = sorted(len(p.solution) for p in problems)
    assert 20 < lengths[0] and lengths[-1] < 80
    assert 30 < lengths[200] and lengths[1800] < 70


@pytest.mark.parametrize(
    "response, line",
    [
        ("2*3=6\n1+6=7\n#### 7", -1),
        ("2*3=6\n1+6=7\n#### 7\n ", -1),
        ("2*3=5\n1+5=6\n#### 6", 0),
        ("2*3=6\n1+6=8\n#### 8", 1),
        ("2*3=6\n1+6=7\n#### 8", 2),
        ("2*3=6", 1),
        ("2*3=6\n1+6=7\n#### 7\n#### 7", 3),
        ("", 0),
    ],
)
def test_first_wrong_line(response, line):
    problem = problems_lib.Problem("t", "1+2*3=?\n", "7", "2*3=6\n1+6=7\n#### 7")
    assert arithmetic.first_wrong_line(problem, response) == line


@pytest.mark.parametrize(
    ("expression", "lines", "line"),
    [
        ("1+2*3", "2*3=6|1+6=7|#### 7", -1),
        ("1+2*3", "2*3=5|1+5=6|#### 6", 0),
        ("1+2*3", "2*3=6|1+6=8|#### 8", 1),
        ("1+2*3", "2*3=6|1+6=7|#### 8", 2),
        ("1+2*3", "2*3=6", -1),  # breaks off
        ("1+2*3", "", -1),
        ("1+2*3", "1+2=3|3*3=9|#### 9", 0),  # true, but not what is asked
        ("1+2*3", "2*3=6|2+6=8|#### 8", 1),  # true, of another expression
        ("9-4+3", "9-4=5|5+3=8|#### 8", -1),
        ("9-4+3", "4+3=7|9-7=2|#### 2", 0),  # not from left to right
        ("9+4-3", "4-3=1|9+1=10|#### 10", -1),  # another way that is right
        ("2*3+4*5", "4*5=20|2*3=6|6+20=26|#### 26", -1),
        ("3+3+3+3", "3+3=6|3+3=6|6+6=12|#### 12", -1),  # which 3+3 is not said
        ("3+5-9", "5-9=-4|3+-4=-1|#### -1", -1),
        ("1+2*3", "#### 7", -1),  # lines left out, and no wrong one
        ("1+2*3", "2*3=6|2*3=6|#### 7", 1),  # said twice
        ("1+2*3", "2*3=06|1+6=7", 0),
        ("1+2*3", "so 2*3=6", 0),
        ("1+2*3", "2*3=6|1+6=7|#### 7|#### 7|1", 4),
        ("1+2", "1+2=" + "9" * 5000, 0),
        ("1+2*3-4", "1+2*3=7|7-4=3|#### 3", -1),  # two at once
        ("1+2*3-4", "1+2*3=9|9-4=5|#### 5", 0),
        ("1+2*3-4", "2*3=6|1+6-4=2|#### 2", 1),
        ("9-4+3*2", "9-4+3=8|8*2=16|#### 16", 0),  # true, but not what is asked
        ("9-4+3-1", "4+3-1=6|9-6=3|#### 3", 0),
        ("1+2*3-4", "1+2*3-4=3|#### 3", -1),  # all at once
        ("3+5-9+2", "3+5-9=-1|-1+2=1|#### 1", -1),
    ],
)
def test_first_error(expression, lines, line):
    found = arithmetic.first_error(expression, lines.split("|") if lines else [])
    assert found == line


def test_first_error_is_the_first_wrong_line_of_the_written_way():
    config = arithmetic.Config(operations=(2, 5), largest=20, factor=5, signed=True)
    for n, problem in enumerate(arithmetic.make(config, 3, 200)):
        lines = problem.solution.split("\n")
        expression = expression_of(problem)
        assert arithmetic.first_error(expression, lines) == -1
        place = n % len(lines)
        number = re.search(r"-?[0-9]+$", lines[place])
        assert number is not None
        wrong = f"{lines[place][: number.start()]}{int(number[0]) + 1 + n % 3}"
        changed = [*lines[:place], wrong, *lines[place + 1 :]]
        assert arithmetic.first_error(expression, changed) == place
        assert arithmetic.first_wrong_line(problem, "\n".join(changed)) == place


def test_first_error_wants_an_expression():
    with pytest.raises(ValueError, match="is no expression"):
        arithmetic.first_error("1+2=?", [])


def test_drills_are_sums_that_are_right():
    habits = arithmetic.Config(
        operations=(5, 5), largest=9, factor=4, products=1.0, signs="+", hasty=1.0
    )
    found = arithmetic.drills(habits, 3, 200)
    numbers = [list(map(int, re.findall(r"\d+", one.prompt))) for one in found]
    assert {len(some) for some in numbers} == {2, 3, 4}
    assert 30 < max(max(some) for some in numbers) <= 36  # 9 * 4
    for one, some in zip(found, numbers, strict=True):
        assert "*" not in one.prompt and one.answer == str(sum(some))
        assert one.solution.endswith(f"#### {sum(some)}")
    assert arithmetic.drills(habits, 3, 5) == found[:5]


def test_no_drill_may_be_a_problem_of_the_test():
    some = arithmetic.Config(products=0.9)
    with pytest.raises(ValueError, match="with products = 0.9 a problem of the test"):
        arithmetic.drills(some, 1, 1)
    # Nothing is asked of a config where no drills are: 9 * 4 is not below 10.
    digits = arithmetic.Config(largest=9, factor=4, products=1.0, modulus=10)
    assert arithmetic.drills(digits, 1, 0) == []
    with pytest.raises(ValueError, match="modulus must be above largest"):
        arithmetic.drills(digits, 1, 1)
    mixed = dataclasses.replace(digits, modulus=0, operations=(1, 3))
    assert all("*" in one.prompt for one in arithmetic.make(mixed, 1, 200))
