"""The archive of whole runs in people's hands: looked at, annotated mid-run, seeded."""

import json
import shutil

import numpy as np
import pytest

from experiments import archive, reasoning
from rljax.policy import decode
from rljax.replay import cells
from rljax.training import checkpoint, online_parts
from rljax.training.files import RunError
from tests.experiments.logged_runs import rows, weights
from tests.experiments.online_runs import evenly, run, same

MUCH = (
    "--config.rollout.steps=4",
    "--config.log.keep_checkpoints=9",
    "--config.replay.share=1.0",
    "--config.replay.most=1.0",
    "--config.replay.solved_at=1.0",
    "--config.rollout.window=99",  # no problem counts as solved
    "--config.replay.dead_after=99",
    "--config.replay.proposes_below=1.0",
    "--config.replay.cells=4",
    "--config.replay.canonical=1",  # so that each problem has a state soon
    "--config.eval.split=train",  # the problems that have states
)
MARKED = "7=7\n"  # the state that people add


@pytest.fixture(scope="module", autouse=True)
def even():
    """Problems whose verifier counts characters."""
    with evenly():
        yield


@pytest.fixture(scope="module")
def heard(even):
    """What policies are given to go on from: (lengths of prompts compiled for, ids)."""
    given, make = [], decode.make

    def spied(config, settings, *more):
        made = make(config, settings, *more)

        def generate(params, prompts, *rest, **named):
            given.extend((settings.prompts, tuple(ids.tolist())) for ids in prompts)
            return made.generate(params, prompts, *rest, **named)

        return made._replace(generate=generate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "make", spied)
        yield given


@pytest.fixture(scope="module")
def whole(heard, tmp_path_factory):
    """Four steps of two updates, which nobody annotates."""
    return run("rrl", tmp_path_factory.mktemp("archive") / "whole", *MUCH)


def lines_of(workdir, path):
    assert archive.main([f"--workdir={workdir}", f"--out={path}"]) == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def annotated(whole, tmp_path_factory):
    """The run as of step 2, annotated, then gone on with; and what was forbidden.

    Of each problem all states are forbidden that begin with no other, and one is added.
    """
    place = tmp_path_factory.mktemp("annotated")
    path = shutil.copytree(whole, place / "run")
    for update in (6, 8):
        shutil.rmtree(path / "checkpoints" / str(update))
    lines = lines_of(path, place / "a.jsonl")
    names = [problem.task for problem in archive.open_run(str(path)).parts.problems]
    texts = {(line["problem"], line["text"]) for line in lines}
    some = [
        line
        for line in lines
        if not any(
            (line["problem"], line["text"][:n]) in texts
            for n in range(1, len(line["text"]))
        )
    ]
    added = [
        {"problem": name, "text": MARKED, "new_score": 0.5, "annotate": "promote"}
        for name in names
    ]
    wished = [line | {"annotate": "forbid"} for line in some]
    source = write(place / "b.jsonl", [*wished, *added])
    assert archive.main([f"--workdir={path}", f"--annotations={source}"]) == 0
    run("rrl", path, *MUCH, "--config.resume=4")
    return path, some, names


def test_an_evaluation_begins_at_the_bare_problem(whole, heard):
    """Of the problems that have states, and that rollouts go on from."""
    found = archive.open_run(str(whole))
    assert found.archive.used[:2].any(axis=1).all()
    bare = [tuple(ids.tolist()) for ids in found.parts.prompts]
    longest = found.config.rollout.prompt_tokens
    rollouts, evaluations = (
        {ids for sizes, ids in heard if sizes == one}
        for one in ((longest, longest + found.config.replay.state_tokens), (longest,))
    )
    assert evaluations == set(bare[:2])
    assert online_parts.context_of(found.parts).answered is found.parts.answered
    assert found.parts.answered("1\n#### 1\n") and not found.parts.answered("1\n")
    assert rollouts - set(bare)
    for ids in rollouts:  # each begins with a problem, and is that or goes on
        assert any(ids[: len(one)] == one for one in bare)


def test_what_is_forbidden_is_never_chosen_and_what_is_added_is(annotated, whole):
    path, forbidden, names = annotated
    assert len(forbidden) > 3
    assert rows(path)[:3] == rows(whole)[:3]
    row = rows(path)[3]  # the step after the checkpoint
    assert row["annotations/files"] == 1 and row["annotations/refused"] == 0
    assert row["annotations/forbidden"] == len(forbidden)
    assert row["annotations/added"] == len(names)
    assert not any(
        "annotations" in key for r in (*rows(whole), rows(path)[4]) for key in r
    )
    found = archive.open_run(str(path))
    numbers = {name: i for i, name in enumerate(names)}
    for line in forbidden:
        problem = numbers[line["problem"]]
        (place,) = np.flatnonzero(found.archive.serial[problem] == line["cell"])
        assert found.archive.mark[problem, place] == cells.FORBIDDEN
        assert found.archive.visits[problem, place] == line["visits"]
    people = found.archive.origin == cells.HUMAN
    assert people.sum() == len(names)
    assert found.archive.visits[people].sum() > 0
    assert found.archive.tries[people].sum() > 0


@pytest.mark.parametrize("update", [2, 6])
def test_annotated_and_gone_on_with_it_is_one_that_never_stopped(
    annotated, tmp_path, update
):
    """From before the annotations were taken up, and from after."""
    path, *_ = annotated
    again = shutil.copytree(path, tmp_path / "again")
    shutil.rmtree(again / "hf")
    run("rrl", again, *MUCH, f"--config.resume={update}")
    assert all(same(a, b) for a, b in zip(rows(again), rows(path), strict=True))
    assert weights(again) == weights(path)
    assert int(archive.open_run(str(again)).host.taken) == 1


def test_a_bad_file_put_there_by_hand_is_refused_and_the_run_goes_on(
    whole, tmp_path, capsys
):
    path = shutil.copytree(whole, tmp_path / "run")
    lines = lines_of(path, tmp_path / "a.jsonl")
    (path / "annotations").mkdir()
    bad = {"problem": lines[0]["problem"], "text": "7", "new_score": 1}
    write(path / "annotations" / "001.jsonl", [lines[0] | {"annotate": "forbid"}, bad])
    run("rrl", path, *MUCH, "--config.resume=6")
    said = capsys.readouterr().out
    assert "001.jsonl, before step 3: refused, and nothing of it done" in said
    assert "line 2: the state ends with '7', where no step does" in said
    ours, theirs = rows(path)[-1], rows(whole)[-1]
    assert ours["annotations/refused"] == 1
    assert same({k: v for k, v in ours.items() if "annotations" not in k}, theirs)
    assert weights(path) == weights(whole)


def test_the_command_refuses_before_the_run_sees_it(whole, tmp_path, capsys):
    lines = lines_of(whole, tmp_path / "a.jsonl")
    bad = write(tmp_path / "bad.jsonl", [lines[0], lines[1] | {"annotate": "love"}])
    assert archive.main([f"--workdir={whole}", f"--annotations={bad}"]) == 2
    assert "bad.jsonl, line 2: annotate is 'love'" in capsys.readouterr().err
    assert not (whole / "annotations").exists()


def test_an_ended_run_is_said_to_have_ended(whole, tmp_path, capsys):
    path = shutil.copytree(whole, tmp_path / "run")
    lines = lines_of(path, tmp_path / "a.jsonl")
    good = write(tmp_path / "good.jsonl", [lines[0] | {"annotate": "promote"}])
    assert archive.main([f"--workdir={path}", f"--annotations={good}"]) == 0
    said = capsys.readouterr().out
    assert "001.jsonl: 1 promoted" in said and "the run has ended" in said


def test_the_page_of_a_run(whole, tmp_path, capsys):
    page = tmp_path / "there" / "archive.html"
    assert archive.main([f"--workdir={whole}", f"--page={page}"]) == 0
    assert str(page) in capsys.readouterr().out
    found, text = archive.open_run(str(whole)), page.read_text()
    # All answers are counted once: bare ones by the history, others beside it.
    host = found.host
    assert host.history.tries.sum() + host.replayed[:, 0].sum() == host.counts[1]
    assert host.replayed[:, 0].sum() >= found.archive.tries.sum() > 0
    assert (host.replayed[:, 1] <= host.replayed[:, 0]).all()
    told = found.archive.used.any(axis=1) | (host.replayed[:, 0] > 0)
    assert text.count('<details class="problem') == told.sum() > 3
    assert text.count(">cell ") == found.archive.used.sum()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "nothing to do"),
        (["--page=x.html", "--problems=0"], "--problems=0: it must be at least 1"),
        (["--page=x.html", "--workdir=nowhere"], "not the workdir of a run with repl"),
    ],
)
def test_refuses_in_words(whole, more, said, capsys):
    assert archive.main([f"--workdir={whole}", *more]) == 2
    assert said in capsys.readouterr().err


def test_a_workdir_of_an_earlier_version_is_read(whole, tmp_path, capsys):
    """Settings that came later are what their defaults say."""
    path = shutil.copytree(whole, tmp_path / "old")
    record = json.loads((path / "config.json").read_text())
    kept = record["config"]
    for group, name in (
        ("replay", "proven"), ("replay", "anywhere"), ("replay", "target"),
        ("task", "verifier"), ("ppo", "least_deviation"), ("rollout", "tokens"),
    ):  # fmt: skip
        del kept[group][name]
    del kept["grpo"], kept["log"]
    (path / "config.json").write_text(json.dumps(record))
    assert lines_of(path, tmp_path / "a.jsonl") == lines_of(whole, tmp_path / "b.jsonl")
    config = archive.open_run(str(path)).config
    assert config.replay.proven == 0 and config.replay.target == 0.5
    assert config.replay.cells == 4 and config.ppo.warmup == 1  # its own
    kept["grpo"] = None
    (path / "config.json").write_text(json.dumps(record))
    assert archive.main([f"--workdir={path}", "--out=x.jsonl"]) == 2
    said = capsys.readouterr().err
    assert "config.grpo is None: it must be a group of settings" in said


def test_a_run_without_replay_has_none(tmp_path, capsys):
    run("grpo", tmp_path / "grpo", "--config.rollout.steps=1")
    assert archive.main([f"--workdir={tmp_path / 'grpo'}", "--page=x.html"]) == 2
    assert "experiments.rrl alone keeps an archive" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "grpo" / "checkpoints")
    assert not checkpoint.updates(tmp_path / "grpo" / "checkpoints")


SEEDED = ("--config.replay.canonical=2", "--config.replay.cells=3")
FIRST = "--config.rollout.steps=2"


def test_seeds_come_when_the_critic_has_warmed_up(tmp_path):
    path = run("rrl", tmp_path / "ppo", *MUCH, *SEEDED, FIRST)
    before, warm, first = rows(path)
    assert "replay/seeds_added" not in before | warm  # the step of the warm-up
    assert first["replay/seeds_added"] > 0
    found = archive.open_run(str(path))
    lines = lines_of(path, tmp_path / "a.jsonl")
    solutions = {problem.task: problem.solution for problem in found.parts.problems}
    seeds = [line for line in lines if line["origin"] == "canonical"]
    assert seeds and all(line["age"] == 1 for line in seeds)
    for line in seeds:
        assert solutions[line["problem"]].startswith(line["text"])
        assert line["text"].endswith("\n")
        assert np.isfinite(line["score"]) and line["score"] not in (1 / 3, 1 / 2, 2 / 3)
    assert sum(line["visits"] for line in seeds) > 0


def test_seeds_without_a_critic(tmp_path):
    path = run("rrl", tmp_path / "grpo", *SEEDED, FIRST, "--config.base=grpo")
    assert rows(path)[1]["replay/seeds_added"] > 0
    lines = lines_of(path, tmp_path / "a.jsonl")
    scores = {line["score"] for line in lines if line["origin"] == "canonical"}
    assert scores <= {np.float32(1 / 3), np.float32(2 / 3), 0.5}


def test_a_solution_that_is_wrong_gives_no_seed(tmp_path, monkeypatch, capsys):
    kind = reasoning.TASKS["arithmetic"]

    def some_wrong(task, put):
        return tuple(
            [one._replace(answer="0.5") if i % 2 else one for i, one in enumerate(some)]
            for some in kind.parts(task, put)
        )

    monkeypatch.setitem(reasoning.TASKS, "arithmetic", kind._replace(parts=some_wrong))
    path = run("rrl", tmp_path / "rrl", *SEEDED, FIRST, "--config.base=grpo")
    parts = archive.open_run(str(path)).parts
    wrong = {one.task for one in parts.problems if one.answer == "0.5"}
    said = f"{len(wrong)} of 6 written solutions are not right by the verifier: no"
    assert said in capsys.readouterr().out
    lines = lines_of(path, tmp_path / "a.jsonl")
    seeded = {one["problem"] for one in lines if one["origin"] == "canonical"}
    assert 0 < len(wrong) < 6 and seeded and not seeded & wrong


def test_seeds_need_written_solutions(tmp_path, monkeypatch):
    kind = reasoning.TASKS["arithmetic"]

    def bare(task, put):
        return tuple(
            [one._replace(solution="") for one in some]
            for some in kind.parts(task, put)
        )

    monkeypatch.setitem(reasoning.TASKS, "arithmetic", kind._replace(parts=bare))
    match = "replay.canonical is 2, and 6 of 6 problems have no written solution, arith"
    with pytest.raises(RunError, match=match):
        run("rrl", tmp_path / "x", *SEEDED)
    with pytest.raises(RunError, match="replay.canonical is 2: .*replay.cells, 1"):
        run("rrl", tmp_path / "x", SEEDED[0], "--config.replay.cells=1")
    assert not (tmp_path / "x").exists()
