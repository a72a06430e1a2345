"""Annotations taken up by a run: in order, once, before the same step, or refused."""

import json

import jax
import numpy as np
import pytest

from rljax.data import logs
from rljax.replay import annotate, cells
from rljax.replay.cells import FORBIDDEN, HUMAN, NONE, PROMOTED
from rljax.training import annotations
from rljax.training.files import RunError
from tests.data.test_archive_file import ARCHIVE, CONTEXT, texts

PROMOTE = {"problem": "sums/0", "cell": 1, "annotate": "promote"}
FORBID = {"problem": "sums/0", "cell": 1, "annotate": "forbid"}
CLEAR = {"problem": "sums/0", "cell": 1, "annotate": "clear"}
NEW = {"problem": "sums/1", "text": "5+4\n", "new_score": 0.5}
BAD = {"problem": "sums/1", "text": "5+4", "new_score": 0.5}


def drop(workdir, name, *rows):
    folder = workdir / annotations.FOLDER
    folder.mkdir(exist_ok=True)
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(text))


@pytest.fixture
def run(tmp_path):
    """(archive, last, step) -> what the run has then, and what was said."""
    said = []
    take = annotations.taker(tmp_path, CONTEXT, said.append)
    return lambda archive, last, step: (take(archive, last, step), said)


def told_at(workdir, number):
    return json.loads((workdir / "annotations" / f"{number}.json").read_text())


def test_without_files_nothing_is_touched(run, tmp_path):
    found, said = run(ARCHIVE, 0, 3)
    assert found.archive is ARCHIVE and found.last == 0
    assert not found.told and not said and not list(tmp_path.iterdir())


def test_files_are_taken_in_order_and_once(run, tmp_path):
    drop(tmp_path, "10.jsonl", FORBID)  # ten comes after nine
    drop(tmp_path, "9.jsonl", PROMOTE, NEW)
    found, said = run(ARCHIVE, 0, 3)
    assert found.last == 10 and found.archive.mark[0].tolist() == [NONE, FORBIDDEN, 0]
    assert found.archive.origin[1].tolist() == [0, HUMAN, 0]
    assert found.archive.added[1].tolist() == [10, 3, 0]
    assert found.told == {
        "annotations/files": 2, "annotations/refused": 0, "annotations/promoted": 1,
        "annotations/forbidden": 1, "annotations/cleared": 0, "annotations/scored": 0,
        "annotations/added": 1, "annotations/gone": 0,
    }  # fmt: skip
    assert len(said) == 2 and "9.jsonl, before step 3: 1 promoted, 1 added" in said[0]
    assert told_at(tmp_path, "9") == {"step": 3, "done": "1 promoted, 1 added"}
    cleared = annotate.mark(found.archive, 0, 1, NONE)
    again, _ = run(cleared, found.last, 4)
    assert again.archive is cleared and not again.told and len(said) == 2


def test_a_resumed_run_takes_a_file_up_before_the_same_step(run, tmp_path):
    """A checkpoint of step 5, a file of step 7, one that came since."""
    drop(tmp_path, "001.jsonl", PROMOTE)
    first, _ = run(ARCHIVE, 0, 7)
    assert first.last == 1
    drop(tmp_path, "002.jsonl", CLEAR)
    for step in (5, 6):
        early, _ = run(ARCHIVE, 0, step)
        assert early.archive is ARCHIVE and early.last == 0 and not early.told
    found, _ = run(ARCHIVE, 0, 7)
    assert found.last == 2 and found.told["annotations/files"] == 2
    assert not found.archive.mark.any()  # promoted, then cleared
    assert [told_at(tmp_path, name)["step"] for name in ("001", "002")] == [7, 7]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ((PROMOTE, BAD), "001.jsonl, line 2: .*where no step does"),
        ((PROMOTE, "{"), "line 2: is no JSON"),
        ((PROMOTE, NEW | {"text": "\ud800\n"}), "line 2: .*surrogates"),
        ((PROMOTE, NEW | {"annotate": ["promote"]}), "line 2: annotate is .'promote'"),
        ((PROMOTE, FORBID | {"cell": 10**30}), "line 2: cell is 1000000"),
        ((PROMOTE, NEW | {"new_score": 10**400}), "line 2: new_score is 1000000"),
        ((PROMOTE, NEW | {"new_score": 1e300}), "line 2: new_score is 1e.300, expec"),
        ((PROMOTE, PROMOTE), "line 2: cell 1 is annotated in line 1, too"),
        (("\x1f\x8b",), "line 1"),
    ],
)
def test_a_bad_file_is_refused_whole_and_the_run_goes_on(run, tmp_path, rows, reason):
    drop(tmp_path, "001.jsonl", *rows)
    drop(tmp_path, "002.jsonl", NEW)
    found, said = run(ARCHIVE, 0, 3)
    assert found.last == 2 and not found.archive.mark.any()
    assert set(texts(found.archive, 1)) == {"9\n", "5+4\n"}  # of the file after it
    assert found.told["annotations/refused"] == 1
    with pytest.raises(AssertionError, match=f"(?s)refused, and nothing .*{reason}"):
        raise AssertionError(said[0])
    assert told_at(tmp_path, "001")["done"].startswith("refused")
    run(found.archive, found.last, 4)
    assert len(said) == 2  # not tried again


def test_a_file_that_is_never_taken_up_is_told_of_once(run, tmp_path):
    drop(tmp_path, "mine.jsonl", PROMOTE)
    drop(tmp_path, "002.jsonl", PROMOTE)
    found, said = run(ARCHIVE, 3, 3)
    run(ARCHIVE, 3, 4)
    assert found.archive is ARCHIVE and len(said) == 2
    assert all("a number above 3, as 004.jsonl" in line for line in said)


def offered(workdir, *rows, archive=ARCHIVE, last=0):
    source = workdir / "source.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows))
    return annotations.offer(workdir, source, archive, last, CONTEXT, 5)


def test_what_is_offered_is_what_is_taken(run, tmp_path):
    one = offered(tmp_path, PROMOTE)
    assert one.path.name == "001.jsonl" and one.done.promoted == 1
    # Checked on top of what still waits: the state is there already by then.
    offered(tmp_path, NEW)
    with pytest.raises(logs.LogError, match="line 1: the state is there already"):
        offered(tmp_path, NEW)
    found, _ = run(ARCHIVE, 0, 6)
    assert found.last == 2 and found.archive.mark[0, 1] == PROMOTED
    assert offered(tmp_path, CLEAR, archive=found.archive, last=2).path.stem == "003"
    assert offered(tmp_path, CLEAR, archive=found.archive, last=7).path.stem == "008"
    names = sorted(p.name for p in (tmp_path / "annotations").iterdir())
    assert names == [
        "001.json", "001.jsonl", "002.json", "002.jsonl", "003.jsonl", "008.jsonl"
    ]  # fmt: skip
    assert not ARCHIVE.mark.any()


def test_what_is_wrong_never_reaches_the_run(tmp_path):
    with pytest.raises(logs.LogError, match="source.jsonl, line 2: .*no step does"):
        offered(tmp_path, PROMOTE, BAD)
    with pytest.raises(RunError, match="asks for nothing"):
        offered(tmp_path, {"problem": "sums/0", "cell": 1})
    assert not (tmp_path / "annotations").exists()


def test_a_number_that_was_just_taken_is_not_written_over(tmp_path, monkeypatch):
    link, tried = annotations.os.link, []

    def busy(source, path):
        if not tried:  # somebody else writes in between
            tried.append(path)
            path.write_text("theirs")
        link(source, path)

    monkeypatch.setattr(annotations.os, "link", busy)
    assert offered(tmp_path, PROMOTE).path.name == "002.jsonl"
    assert (tmp_path / "annotations" / "001.jsonl").read_text() == "theirs"


def test_the_archive_that_was_given_stays_as_it_is(run, tmp_path):
    before = cells.on_host(ARCHIVE)
    drop(tmp_path, "001.jsonl", FORBID, NEW)
    run(ARCHIVE, 0, 3)
    jax.tree.map(np.testing.assert_array_equal, ARCHIVE, before)
