"""The credit page of runs that learnt from a log."""

import json
import pathlib

import numpy as np
import pytest

from experiments import credit, dpo, oreo, rejection_sampling, sft
from experiments.configs import dpo as dpo_config
from experiments.configs import oreo as oreo_config
from experiments.configs import rejection_sampling as rejection_config
from experiments.configs import sft as sft_config
from rljax.data import episodes, logs
from rljax.data.record import Record


def small(config):
    config.task.update(operations=(1, 2), largest=5, train_size=16, dev_size=2)
    config.task.test_size = 2
    config.data.epochs = 1
    config.data.row_tokens = 64
    config.eval.max_tokens = 8
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A log, and runs of sft, oreo and dpo."""
    place = tmp_path_factory.mktemp("credit")
    rows = [
        ("1+1=?\n", "1+1=2\n#### 2", 1.0), ("1+1=?\n", "1+1=3\n#### 3", 0.0),
        ("2+1=?\n", "2+1=3\n#### 3", 1.0), ("2+1=?\n", "#### 1", 0.0),
        ("2-1=?\n", "#### 2", 0.0),
    ]  # fmt: skip
    logs.write(
        place / "log.jsonl",
        [
            Record(line=n, prompt=p, response=r, reward=x)
            for n, (p, r, x) in enumerate(rows, 1)
        ],
    )
    sft.main(small(sft_config.get_config("smoke")), str(place / "sft"))
    for name, configs, module in (
        ("oreo", oreo_config, oreo),
        ("dpo", dpo_config, dpo),
        ("rejection", rejection_config, rejection_sampling),
    ):
        config = small(configs.get_config("smoke"))
        config.model.path = str(place / "sft" / "hf")
        config.data.path = str(place / "log.jsonl")
        config.data.batch_size = 2
        module.main(config, str(place / name))
    return place


def told(page):
    text = page.read_text()
    begin = text.index('id="credit">') + len('id="credit">')
    return json.loads(text[begin : text.index("</script>", begin)])


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("oreo", "value advantage log_ratio kl log_prob entropy"),
        ("dpo", "log_ratio kl log_prob entropy"),
        ("sft", "log_prob entropy"),
    ],
)
def test_a_page_for_every_method(runs, name, columns, capsys):
    out = runs / f"{name}.html"
    words = [f"--workdir={runs / name}", f"--data={runs / 'log.jsonl'}"]
    assert credit.main([*words, f"--out={out}"]) == 0
    found = told(out)
    assert [c["name"] for c in found["columns"]] == columns.split()
    assert len(found["answers"]) == 5
    assert str(out) in capsys.readouterr().out


def test_answers_of_several_logs(runs, capsys):
    lines = (runs / "log.jsonl").read_text().splitlines(keepends=True)
    names = [runs / "right.jsonl", runs / "wrong.jsonl"]
    names[0].write_text(lines[0] + lines[2])
    names[1].write_text(lines[1] + lines[3])
    out = runs / "several.html"
    data = f"--data={names[0]},{names[1]}"
    assert credit.main([f"--workdir={runs / 'sft'}", data, f"--out={out}"]) == 0
    page = out.read_text()
    assert len(told(out)["answers"]) == 4
    for name in names:
        assert f"{name}, line 1" in page and f"{name}, line 2" in page
    assert credit.main([f"--workdir={runs / 'sft'}", f"{data},"]) == 2
    assert "one comma between two" in capsys.readouterr().err


def test_numbers_are_those_of_the_run(runs):
    found = credit.open_run(str(runs / "oreo"))
    log = episodes.load(
        runs / "log.jsonl", found.start.tokenizer, end_id=found.start.eos_ids[0]
    ).episodes
    readings = credit.read(found, log)
    for one, alone in zip(log, readings, strict=True):
        (again,) = credit.read(found, [one])
        count = int(one.action.sum())
        for key in ("value", "log_prob", "kl", "reference_log_prob"):
            np.testing.assert_allclose(
                getattr(alone, key)[:count], getattr(again, key)[:count], atol=1e-5
            )
    assert any(np.any(r.value != 0) for r in readings)


def test_a_run_with_a_value_leaves_the_page_of_its_sample(runs):
    page = runs / "oreo" / "credit.html"
    found = told(page)
    assert [c["name"] for c in found["columns"]][:2] == ["value", "advantage"]
    assert len(found["answers"]) == 5  # all of the log: the sample is larger
    again = runs / "again.html"
    words = [f"--workdir={runs / 'oreo'}", f"--data={runs / 'log.jsonl'}"]
    assert credit.main([*words, f"--out={again}"]) == 0
    assert told(again)["answers"] == found["answers"]
    link = '<a href="credit.html">'
    for name, there in (("oreo", True), ("dpo", False), ("sft", False)):
        assert (runs / name / "credit.html").exists() == there
        assert (link in (runs / name / "report.html").read_text()) == there


def test_runs_watch_their_drift(runs):
    for name in ("oreo", "dpo", "sft", "rejection"):
        before = json.loads((runs / name / "eval" / "before.json").read_text())
        lines = (runs / name / "metrics.jsonl").read_text().splitlines()
        after = json.loads(lines[-1])
        for told in (before, after):
            assert 0 <= told["drift/unseen"] <= 1
            assert told["drift/kl/task_most"] >= told["drift/kl/all"] - 1e-6
        assert before["drift/kl/all"] == pytest.approx(0, abs=1e-6)
        assert before["drift/log_ratio/right"] == pytest.approx(0, abs=1e-5)
        assert after["drift/kl/all"] > 0 and after["drift/log_ratio/right"] != 0
        moved = after["drift/reward/all"] != before["drift/reward/all"]
        assert moved == (name != "sft")  # whose written solutions are all right
        farthest = json.loads((runs / name / "summary.json").read_text())["farthest"]
        assert farthest[0]["kl"] == pytest.approx(after["drift/kl/task_most"])
        assert farthest[0]["task"] in (runs / name / "report.html").read_text()
        # A model that has learnt next to nothing says what the data never show.
        (alarm,) = json.loads((runs / name / "summary.json").read_text())["alarms"]
        assert "tokens that the data never show" in alarm
        assert alarm in (runs / name / "report.html").read_text()


def test_what_cannot_be_shown_is_told(runs, tmp_path, capsys):
    def said(*words):
        assert credit.main(list(words)) == 2
        return capsys.readouterr().err

    data = f"--data={runs / 'log.jsonl'}"
    workdir = f"--workdir={runs / 'oreo'}"
    assert "not the workdir" in said(f"--workdir={tmp_path}", data)
    assert "no such problem" in said(workdir, data, "--task=none")
    assert "--each=0" in said(workdir, data, "--each=0")
    assert "none.jsonl" in said(workdir, f"--data={tmp_path}/none.jsonl")
    pathlib.Path(tmp_path, "config.json").write_text('{"config": {"task": 3}}')
    assert "not the workdir" in said(f"--workdir={tmp_path}", data)
