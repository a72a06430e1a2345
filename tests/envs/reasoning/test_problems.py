"""Files of problems, and all that may be wrong with a line."""

import gzip
import json
import lzma
import os
import pathlib

import pytest

from rljax.envs import verifiers
from rljax.envs.reasoning import problems as problems_lib

DATA = pathlib.Path(os.environ.get("RLJAX_DATA", "data"))
GSM8K = [
    {
        "question": "Two and two?",
        "answer": "It is 2+2 = <<2+2=4>>4 or $<<4*1=4>>4.\n#### 4",
    },
    {"question": "And a thousand?", "answer": "<<4+996=1000>>\n####  1,000 \n"},
]
MATH = [
    {
        "problem": "Half of $x$?",
        "solution": r"First \boxed{x}, no: \boxed{\frac{x}{2}}.",
        "level": "Level 1",
        "type": "Algebra",
    },
    {"problem": "P?", "solution": r"\boxed{1}", "answer": "1"},
    {"problem": "Q?", "answer": "(1,2)", "unique_id": "test/1.json"},
]


def written(path, rows):
    text = "".join(
        (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows
    )
    openers = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "wb") as file:
        file.write(text.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz", "train.jsonl.xz"])
def test_gsm8k(tmp_path, name):
    path = written(tmp_path / name, [GSM8K[0], "", GSM8K[1]])
    first, second = problems_lib.read_gsm8k(path)
    assert first == problems_lib.Problem(
        task="gsm8k/train/1",
        prompt="Two and two?\n",
        answer="4",
        solution="It is 2+2 = <<2+2=4>>4 or $<<4*1=4>>4.\n#### 4",
    )
    assert (second.task, second.answer) == ("gsm8k/train/3", "1,000")
    plain, bare = problems_lib.read_gsm8k(str(path), annotations=False)
    assert plain.solution == "It is 2+2 = 4 or $4.\n#### 4"
    assert bare.solution == "\n####  1,000 \n"
    assert plain._replace(solution="") == first._replace(solution="")


def test_math(tmp_path):
    rows = problems_lib.read_math(written(tmp_path / "algebra.test.jsonl", MATH))
    assert [p.task for p in rows] == [f"math/algebra/{n}" for n in (1, 2, 3)]
    assert [p.answer for p in rows] == [r"\frac{x}{2}", "1", "(1,2)"]
    assert [p.solution for p in rows] == [row.get("solution", "") for row in MATH]
    assert rows[0].prompt == "Half of $x$?\n"
    assert verifiers.boxed(rows[0].answer, r"\boxed{\dfrac{x}{2}}")


def test_prompts_are_made_by_a_function(tmp_path):
    path = written(tmp_path / "a.jsonl", MATH)
    (alone, *_) = problems_lib.read_math(path, problems_lib.question_only)
    assert alone.prompt == "Half of $x$?"
    (asked, *_) = problems_lib.read_math(path, problems_lib.deepseek_math)
    assert asked.prompt == (
        "User: Half of $x$?\nPlease reason step by step, and put your final answer "
        "within \\boxed{}.\n\nAssistant:"
    )
    path = written(tmp_path / "b.jsonl", GSM8K)
    (shouted, _) = problems_lib.read_gsm8k(path, prompt=str.upper)
    assert shouted.prompt == "TWO AND TWO?"


def without(row, field):
    return {name: value for name, value in row.items() if name != field}


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "no JSON in UTF-8"),
        ("[" * 100_000, "no JSON in UTF-8"),
        ("[]", "expected an object with fields, found list"),
        ("null", "found NoneType"),
        ({}, "no field 'question', only none"),
        (without(GSM8K[0], "answer"), "no field 'answer', only question"),
        (GSM8K[0] | {"question": 3}, "'question' must be text, found 3"),
        (GSM8K[0] | {"question": " \n"}, "'question' must be text, found ' "),
        (GSM8K[0] | {"answer": None}, "'answer' must be text, found None"),
        (GSM8K[0] | {"question": "\ud800"}, "'question' holds half of a surrogate"),
        ('{"question": "\ud800", "answer": "#### 4"}', "no JSON in UTF-8"),
        (GSM8K[0] | {"answer": "4"}, "must end with '#### ' and a number, .* '4'"),
        (GSM8K[0] | {"answer": "#### four"}, "and ends with '#### four'"),
        (GSM8K[0] | {"answer": "#### 4 clips"}, "and ends with '#### 4 clips'"),
    ],
)
def test_a_bad_line_of_gsm8k_is_named(tmp_path, line, message):
    path = written(tmp_path / "bad.jsonl.gz", [GSM8K[0], "  ", line, GSM8K[1]])
    with pytest.raises(ValueError, match=f"bad.jsonl.gz, line 3: .*{message}"):
        problems_lib.read_gsm8k(path)


@pytest.mark.parametrize(
    "line, message",
    [
        (without(MATH[0], "problem"), "no field 'problem', only solution, level, type"),
        (without(MATH[0], "solution"), "no answer: give an 'answer', or a 'solution'"),
        (MATH[0] | {"solution": r"It is \boxed{5"}, r"ends with 'It is \\\\boxed\{5'"),
        (MATH[0] | {"solution": r"\boxed{ }"}, "no answer"),
        (MATH[1] | {"answer": 1}, "'answer' must be text, found 1"),
    ],
)
def test_a_bad_line_of_math_is_named(tmp_path, line, message):
    path = written(tmp_path / "bad.jsonl", [MATH[0], line])
    with pytest.raises(ValueError, match=f"bad.jsonl, line 2: .*{message}"):
        problems_lib.read_math(path)


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_a_file_that_is_cut_short_or_no_archive_is_named(tmp_path, suffix):
    path = written(tmp_path / f"cut.jsonl.{suffix}", GSM8K * 50)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match=f"cut.jsonl.{suffix} cannot be unpacked after"
    ):
        problems_lib.read_gsm8k(path)
    path.write_text(json.dumps(GSM8K[0]))
    with pytest.raises(ValueError, match="cannot be unpacked after line 0"):
        problems_lib.read_gsm8k(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.jsonl"):
        problems_lib.read_math(tmp_path / "absent.jsonl")


def test_every_official_solution_is_right():
    path = DATA / "gsm8k" / "train.jsonl.xz"
    if not path.is_file():
        pytest.skip(f"needs {path} (set RLJAX_DATA)")
    kept = problems_lib.read_gsm8k(path)
    bare = problems_lib.read_gsm8k(path, annotations=False)
    assert len(kept) == len({p.task for p in kept}) == 7473
    wrong = [p for p in kept + bare if not verifiers.final_number(p.answer, p.solution)]
    assert not wrong
    assert sum("<<" in p.solution for p in kept) > 7000
    assert not any("<<" in p.solution or ">>" in p.solution for p in bare)
    # Another problem's solution is wrong unless the numbers are the same.
    for ours, other in zip(kept, kept[1:], strict=False):
        same = ours.answer.replace(",", "") == other.answer.replace(",", "")
        assert verifiers.final_number(ours.answer, other.solution) == same
