"""How the writers of arithmetic's solutions go wrong, line by line."""

import dataclasses
import re

import pytest

from rljax.envs.reasoning import arithmetic


def expression_of(problem):
    return problem.prompt.removesuffix("=?\n")


@pytest.mark.parametrize("chance", [0.3, 1.0])
def test_careless_solutions_go_from_left_to_right(chance):
    plain = arithmetic.Config(operations=(1, 4), signed=True)
    config = dataclasses.replace(plain, careless=chance)
    problems = zip(
        arithmetic.make(plain, 3, 600), arithmetic.make(config, 3, 600), strict=True
    )
    careless = could = 0
    for right, problem in problems:
        assert (problem.prompt, problem.answer) == (right.prompt, right.answer)
        numbers = re.findall(r"[0-9]+", expression_of(problem))
        signs = re.findall(r"[-+*]", expression_of(problem))
        total, lines = numbers[0], []
        for sign, number in zip(signs, numbers[1:], strict=True):
            result = str(eval(f"{total}{sign}{number}"))
            lines.append(f"{total}{sign}{number}={result}")
            total = result
        written = "\n".join([*lines, f"#### {total}"])
        assert problem.solution in (right.solution, written)
        could += written != right.solution
        careless += problem.solution != right.solution
    assert could > 200
    assert careless / could == pytest.approx(chance, abs=0.06)


@pytest.mark.parametrize("chance", [0.3, 1.0])
def test_each_hasty_line_takes_the_first_operation(chance):
    plain = arithmetic.Config(operations=(4, 6), largest=9, factor=3, products=0.6)
    config = dataclasses.replace(plain, hasty=chance)
    hasty = could = 0
    for problem, right in zip(
        arithmetic.make(config, 3, 300), arithmetic.make(plain, 3, 300), strict=True
    ):
        assert (problem.prompt, problem.answer) == (right.prompt, right.answer)
        parts = re.findall(r"\d+|[-+*]", problem.prompt)
        *lines, final = problem.solution.split("\n")
        for line in lines:
            first = "".join(parts[:3])
            at = parts.index("*") if "*" in parts else 1
            product = "".join(parts[at - 1 : at + 2])
            taken, result = line.split("=")
            if product != first:
                could += 1
                hasty += taken == first
            assert taken in (first, product)
            start = 0 if taken == first else at - 1
            assert int(result) == eval(taken)
            parts[start : start + 3] = [result]
        assert final == f"#### {parts[0]}"
    assert could > 300 and hasty / could == pytest.approx(chance, abs=0.06)


def test_results_modulo_a_number():
    config = arithmetic.Config(operations=(3, 6), largest=9, modulus=10, signed=True)
    for problem in arithmetic.make(config, 3, 200):
        *lines, final = problem.solution.split("\n")
        for line in lines:
            taken, result = line.split("=")
            assert int(result) == eval(taken) % 10
        answer = eval(expression_of(problem)) % 10
        assert final == f"#### {answer}" and problem.answer == str(answer)
