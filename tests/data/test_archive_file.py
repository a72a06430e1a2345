"""An archive in people's hands: written, annotated, taken back mid-run, or refused."""

import json

import jax
import numpy as np
import pytest

from rljax.data import archive_file, logs
from rljax.envs import verifiers
from rljax.replay import archive as archive_lib
from rljax.replay import cells
from rljax.replay.cells import FORBIDDEN, HUMAN, NONE, PROMOTED
from rljax.text import tokenizer
from tests.replay.archiving import contents, proposals

WORDS = tokenizer.character_level("0123456789+=#\n")
END = WORDS.eos_token_id
CONTEXT = archive_file.Context(
    names=["sums/0", "sums/1"],
    prompts=["1+2+3=\n", "4+5=\n"],
    tokenizer=WORDS,
    end_ids=[END],
    answered=verifiers.marked,
)


def ids(text) -> list[int]:
    return tokenizer.encode(WORDS, [text])[0].tolist()


def made(*rows, count=3):
    """An archive with rows (problem, text, score)."""
    given = proposals(*((i, ids(text), score) for i, text, score in rows))
    archive = cells.empty(np.full(2, 12), count, 12)
    return archive_lib.add(archive, given, 10, end_ids=[END])[0]


ARCHIVE = made((0, "3+3\n", 0.25), (0, "1+5\n", 0.5), (1, "9\n", 0.75))


@pytest.fixture
def lines(tmp_path):
    """What `export` wrote of ARCHIVE, and a function that applies lines."""
    path = tmp_path / "archive.jsonl"
    archive_file.export(path, ARCHIVE, CONTEXT, update=25)
    written = [json.loads(line) for line in path.read_text().splitlines()]

    def apply(*rows, archive=ARCHIVE, refuse=logs.stop):
        text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(text))
        return archive_file.apply(path, archive, CONTEXT, 30, refuse)

    return written, apply


def texts(archive, problem) -> dict[str, float]:
    return {WORDS.decode(k): score for k, score in contents(archive, problem).items()}


def test_export_says_what_a_cell_holds(lines):
    written, _ = lines
    assert [line["text"] for line in written] == ["1+5\n", "3+3\n", "9\n"]
    assert written[0] == {
        "problem": "sums/0", "cell": 1, "text": "1+5\n", "tokens": ids("1+5\n"),
        "score": 0.5, "visits": 0, "tries": 0, "solves": 0, "age": 15,
        "origin": "rollout", "mark": "",
    }  # fmt: skip


def test_what_was_not_annotated_changes_nothing(lines):
    written, apply = lines
    done = apply(*written)
    assert done.untouched == 3 and done.gone == ()
    jax.tree.map(np.testing.assert_array_equal, done.archive, ARCHIVE)


def test_annotations_are_done(lines):
    written, apply = lines
    done = apply(
        written[0] | {"annotate": "promote", "new_score": 0.875},
        written[1] | {"annotate": "forbid"},
        written[2] | {"new_score": -1},
        {"problem": "sums/1", "text": "5+4\n", "new_score": 0.5, "annotate": "promote"},
        {"problem": "sums/1", "tokens": ids("4\n"), "new_score": 0.1},
    )
    assert done._replace(archive=ARCHIVE) == archive_file.Applied(
        ARCHIVE, promoted=2, forbidden=1, scored=2, added=2
    )
    archive = done.archive
    assert texts(archive, 0) == {"3+3\n": 0.25, "1+5\n": 0.875}
    assert archive.mark[0].tolist() == [FORBIDDEN, PROMOTED, NONE]
    assert texts(archive, 1) == {"9\n": -1.0, "5+4\n": 0.5, "4\n": np.float32(0.1)}
    assert archive.mark[1].tolist() == [NONE, PROMOTED, NONE]
    assert archive.origin[1].tolist() == [0, HUMAN, HUMAN]
    assert archive.added[1].tolist() == [10, 30, 30]
    # What people wrote is what is played on from, and what is left out.
    _, starts = archive_lib.choose(
        archive, np.zeros(9, int), np.ones(9, bool), np.arange(9) / 9,
        lambda there: np.ones(3),
    )  # fmt: skip
    assert set(starts.serial.tolist()) == {1}
    assert apply(written[1] | {"annotate": "clear"}, archive=archive).cleared == 1
    assert not ARCHIVE.mark.any()


def test_the_run_may_have_gone_on(lines):
    """Cells 0 and 1 went; 2 is known by its name wherever it is."""
    written, apply = lines
    archive, _ = archive_lib.evict(ARCHIVE, np.array([[True], [False]]))
    done = apply(
        written[0] | {"annotate": "promote"},
        written[1] | {"new_score": 0.9},
        written[2] | {"annotate": "forbid"},
        archive=archive,
    )
    assert done.gone == (2,) and done.added == 1
    assert texts(done.archive, 0) == {"1+5\n": 0.5}  # back, with the score it had
    assert done.archive.mark[0, 0] == PROMOTED
    assert done.archive.mark[1, 0] == FORBIDDEN
    again = apply(written[0] | {"annotate": "forbid"}, archive=archive)
    assert again.archive.mark[0, 0] == FORBIDDEN and again.gone == ()


NEW = {"problem": "sums/0", "text": "6\n", "new_score": 0.5}
OWN = {"problem": "sums/0", "cell": 1, "text": "1+5\n", "tokens": ids("1+5\n")}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "is no JSON"),
        ("[1]", "is no object"),
        (NEW | {"anotate": "promote"}, "key 'anotate' means nothing.*'annotate' meant"),
        (NEW | {"problem": "sums/7"}, "the problem 'sums/7' is unknown"),
        (NEW | {"problem": 0}, "the problem 0 is unknown"),
        (OWN | {"annotate": "love"}, "annotate is 'love', expected one of"),
        (OWN | {"annotate": ["promote"]}, r"annotate is \['promote'\], expected one"),
        (OWN | {"annotate": {}}, "annotate is {}, expected one of .'promote'"),
        (OWN | {"annotate": True}, "annotate is True, expected one of"),
        (OWN | {"cell": True, "new_score": 1}, "cell is True, expected an integer"),
        (OWN | {"cell": 2**31, "new_score": 1}, "integer from 0 to 2147483647"),
        (
            OWN | {"cell": 10**30, "annotate": "forbid"},
            "cell is 10{30}, expected an in",
        ),
        (OWN | {"cell": -1, "new_score": 1}, "cell is -1, expected an integer from 0"),
        (OWN | {"cell": 1.0, "new_score": 1}, "cell is 1.0, expected an integer"),
        (OWN | {"new_score": "1"}, "new_score is '1', expected a finite number"),
        (OWN | {"new_score": [1]}, r"new_score is \[1\], expected a finite number"),
        (OWN | {"new_score": 1e300}, "new_score is 1e.300, expected .* -3.4e.38..3.4e"),
        (OWN | {"new_score": -3.5e38}, "new_score is -3.5e.38, expected a finite num"),
        (OWN | {"new_score": 10**400}, "new_score is 10{39}, expected a finite number"),
        (OWN | {"score": 10**400, "new_score": 1}, "score is 10{39}, expected a fini"),
        (NEW | {"new_score": 1e300}, "new_score is 1e.300, expected a finite number"),
        (OWN | {"new_score": float("nan")}, "new_score is nan, expected a finite"),
        (OWN | {"new_score": True}, "new_score is True, expected a finite number"),
        (OWN | {"text": "1+4\n"}, "text and tokens differ: the tokens say '1.5.n'"),
        (OWN | {"text": "1+4\n", "tokens": None}, "not that of cell 1: to add another"),
        (
            {"problem": "sums/0", "cell": 1, "text": "3\n", "annotate": "promote"},
            "not that of cell 1: to add another",
        ),
        (NEW | {"new_score": None}, "a state that is added needs new_score"),
        (
            {"problem": "sums/0", "text": "6\n", "score": 0.5, "annotate": "promote"},
            "a state that is added needs new_score",
        ),
        (NEW | {"text": None}, "a state that is added needs text or tokens"),
        (NEW | {"new_score": None, "annotate": "clear"}, "there is no cell to clear"),
        (NEW | {"text": "6"}, r"ends with '6', where no step does: expected \['.n'\]"),
        (NEW | {"text": "6\n####6\n"}, "ends with '6.n####6.n' and states an answer"),
        (NEW | {"text": "####6\n", "annotate": "forbid"}, "a finished answer is no st"),
        (NEW | {"text": None, "tokens": ids("####6\n")}, "states an answer already"),
        (NEW | {"text": "six\n"}, "the tokenizer does not know 's'"),
        (
            NEW | {"text": None, "tokens": [3, 99]},
            "tokens is .3, 99., expected integer",
        ),
        (NEW | {"text": None, "tokens": [3, END]}, "token 1 is special, "),
        (
            {"problem": "sums/0", "text": "6<unk>\n", "new_score": 1},
            "does not know|is special",
        ),
        (NEW | {"text": "\ud800\n"}, "surrogates not allowed"),
        (NEW | {"text": "1+1+1+1+1+1+1\n"}, "has 14 tokens, expected 1 to 12"),
        (NEW | {"text": ""}, "ends with '', where no step does"),
        (NEW | {"text": "1+5\n"}, "the state is there already, as cell 1"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_reason(lines, row, said):
    written, apply = lines
    good = written[2] | {"annotate": "promote"}
    with pytest.raises(logs.LogError, match=f"(?s)archive.jsonl, line 2: .*{said}"):
        apply(good, row)
    refused = []
    done = apply(good, row, NEW | {"text": "0\n"}, refuse=refused.append)
    assert [bad.line for bad in refused] == [2]
    assert (done.promoted, done.added) == (1, 1)  # the others are done
    assert not ARCHIVE.mark.any()


ODD = [
    None, True, -1, 0, 1, 10**30, 10**400, 0.5, 1e300, float("inf"), float("nan"), "",
    "1", "promote", "\ud800", [], [1], [10**30], ["promote"], [[]], {}, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("key", [*OWN, "annotate", "new_score", "score", "mark"])
def test_whatever_a_line_holds_it_is_done_or_refused(lines, key):
    """Never another error: a run that takes up a file would end with it."""
    _, apply = lines
    for value in ODD:
        for base in (NEW, OWN, OWN | {"annotate": "promote"}, OWN | {"new_score": 1}):
            refused = []
            done = apply(base | {key: value}, refuse=refused.append)
            held = done.archive.score[done.archive.used]
            assert np.isfinite(held).all() and len(refused) <= 1


def test_what_a_policy_said_comes_back_as_it_is(lines, tmp_path):
    """A special token amid an answer is no reason to refuse the line of its cell."""
    _, apply = lines
    given = proposals((0, [*ids("3"), WORDS.unk_token_id, *ids("\n")], 0.5))
    archive = cells.empty(np.full(2, 12), 3, 12)
    archive, _ = archive_lib.add(archive, given, 10, end_ids=[END])
    path = tmp_path / "odd.jsonl"
    archive_file.export(path, archive, CONTEXT, update=25)
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["text"] == "3<unk>\n"
    assert apply(row, archive=archive).untouched == 1
    done = apply(row | {"annotate": "promote"}, archive=archive)
    assert done.archive.mark[0, 0] == PROMOTED
    gone = cells.empty(np.full(2, 12), 3, 12)  # it comes back as it was said
    back = apply(row | {"annotate": "promote"}, archive=gone)
    assert back.added == 1
    assert cells.state_of(back.archive, 0, 0).tolist() == row["tokens"]


def test_a_cell_is_annotated_once(lines):
    written, apply = lines
    row = written[0]
    with pytest.raises(
        logs.LogError, match="line 3: cell 1 is annotated in line 1, to"
    ):
        apply(row | {"annotate": "promote"}, written[1], row | {"new_score": 1})


def test_half_a_line_is_not_done(lines):
    """The score was fine, the mark was not: neither is set."""
    written, apply = lines
    archive = made((0, "3\n", 0.25), (0, "3\n4\n", 0.5))
    archive.mark[0, 1] = PROMOTED
    refused = []
    row = {"problem": "sums/0", "cell": 0, "new_score": 1, "annotate": "forbid"}
    done = apply(row, archive=archive, refuse=refused.append)
    assert "promoted: clear it first" in refused[0].reason
    jax.tree.map(np.testing.assert_array_equal, done.archive, archive)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["a"]}, "there are 2 problems, 1 names and 2 prompts"),
        ({"names": ["a", "a"]}, "the name 'a' is that of two problems"),
    ],
)
def test_refuses_names(tmp_path, change, said):
    context = CONTEXT._replace(**change)
    with pytest.raises(ValueError, match=said):
        archive_file.export(tmp_path / "a.jsonl", ARCHIVE, context, 0)
    assert not (tmp_path / "a.jsonl").exists()


def test_compressed_and_back(tmp_path):
    path = tmp_path / "archive.jsonl.gz"
    assert archive_file.export(path, ARCHIVE, CONTEXT, 0) == 3
    assert archive_file.apply(path, ARCHIVE, CONTEXT, 0).untouched == 3
