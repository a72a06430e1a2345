"""The audit at the command line: one finding a line, a page, a JSON, an exit code."""

import html.parser
import json
import pathlib

import pytest

from experiments import (
    audit,
    border,
    dpo,
    kto,
    offline,
    oreo,
    prompts,
    rejection_sampling,
    sft,
)
from rljax.data import episodes, packing
from rljax.training import devices
from tests.data import auditing
from tests.data.auditing import clean, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tokenizer that has a chat template."""
    path = tmp_path_factory.mktemp("tokenizer")
    auditing.tokenizer().save_pretrained(path)
    return path


def run(capsys, *words):
    code = audit.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_a_clean_log(tmp_path, capsys, folder):
    test = save(tmp_path / "test", [{"prompt": "unseen"}])
    log = save(tmp_path / "log.jsonl", clean())
    code, lines, _ = run(
        capsys, f"--data={log}", f"--test={test}", f"--tokenizer={folder}", "--row=64"
    )
    assert code == 0
    assert lines[-1] == "clean: no error and no warning in 40 attempts"
    assert [line.split()[0] for line in lines[:-1]] == ["note"] * 7


ROOT = pathlib.Path(__file__).parents[2]
TRAINED = {
    "oreo": oreo,
    "sft": sft,
    "rejection_sampling": rejection_sampling,
    "dpo": dpo,
    "kto": kto,
}


def spec(method, scale="smoke"):
    return f"--config={ROOT / 'experiments' / 'configs' / method}.py:{scale}"


@pytest.mark.parametrize("method", TRAINED)
def test_batches_are_those_of_the_training(tmp_path, capsys, folder, method):
    rows = [
        row | {"prompt": "a" * (n // 4) + row["prompt"], "reward": int(n % 3 == 0)}
        for n, row in enumerate(clean())
    ]
    log = save(tmp_path / "log.jsonl", rows)
    words = [spec(method), "--config.data.batch_size=7", "--config.data.row_tokens=80"]
    code, lines, _ = run(capsys, f"--data={log}", f"--tokenizer={folder}", *words)
    assert code == 0
    config = border.read_command(words).config
    learnt = episodes.load(log, auditing.tokenizer()).episodes
    plan = offline.plan_of(
        config, TRAINED[method].method_of(config), learnt, devices.jit()
    )
    batches = [packing.batch_of(plan, n) for n in range(plan.updates)]
    padding = 1 - sum(map(packing.num_tokens, batches)) / (
        plan.updates * plan.rows * plan.tokens
    )
    (told,) = [line for line in lines if line.startswith("note    packing")]
    assert told.endswith(
        f"{plan.updates} updates of {plan.rows} rows of 80 tokens: "
        f"{100 * padding:.1f} % of them is padding"
    )


@pytest.mark.parametrize("way", ["pmap", "mesh"])
def test_a_batch_that_the_devices_cannot_share_is_told(tmp_path, capsys, folder, way):
    log = save(tmp_path / "log.jsonl", clean())
    words = [spec("oreo"), "--config.data.batch_size=7", f"--config.parallel={way}"]
    given = [f"--data={log}", f"--tokenizer={folder}", *words]
    code, lines, _ = run(capsys, *given, "--config.num_devices=4")
    said = "data.batch_size is 7: it must be a multiple of the 4 devices"
    assert code == 1 and any(said in line for line in lines)
    assert run(capsys, *given, "--config.num_devices=7")[0] == 0


def test_what_a_training_refuses_is_an_error(tmp_path, capsys, folder):
    log = save(tmp_path / "log.jsonl", [*clean(), clean()[0] | {"response": "b" * 600}])
    words = (f"--data={log}", f"--tokenizer={folder}")
    code, lines, _ = run(capsys, *words, spec("oreo", "arithmetic"))
    assert code == 1 and lines[0].startswith("error   too long                1  ")
    assert "longer than a row, 128 tokens" in lines[0]
    assert lines[0].endswith("[lines 41]")
    assert not any("not held against" in line for line in lines)
    for more in (["--row=640"], ["--config.data.row_tokens=640"]):
        assert run(capsys, *words, spec("oreo", "arithmetic"), *more)[0] == 0
    code, lines, _ = run(capsys, *words)
    assert code == 0 and lines[-1].endswith("; lengths were not held against a row")
    assert any(line.startswith("note    row") for line in lines)
    rows = [row | {"reward": int(row["prompt"] < "question c")} for row in clean()]
    log = save(tmp_path / "log.jsonl", rows)
    code, lines, _ = run(capsys, f"--data={log}", words[1], spec("dpo"))
    assert code == 1 and lines[0].startswith("error   refused")
    assert "none of the 10 tasks has a good answer" in lines[0]


def test_warnings_alone_are_no_failure(tmp_path, capsys):
    log = save(tmp_path / "log.jsonl", [*clean(), clean()[0]])
    code, lines, _ = run(capsys, f"--data={log}")
    assert code == 0
    assert lines[0].startswith("warning duplicates              1  attempts that are")
    assert lines[0].endswith("[lines 41]")
    assert lines[-1].startswith("fit to be trained on: 0 kinds of error and 1 of warn")


def test_faults_a_page_and_json(tmp_path, capsys, folder):
    rows = [*clean(), {"conversations": [], "reward": 1}, "{"]
    right = [row for row in clean() if row["reward"]]
    rows += [row | {"source": "<script>alert(1)</script>"} for row in right * 2]
    log = save(tmp_path / "a<b>.jsonl", rows)
    test = save(tmp_path / "test", [{"prompt": "question a?"}])
    out = tmp_path / "out"
    code, lines, _ = run(
        capsys, f"--data={log}", f"--test={test}", f"--tokenizer={folder}",
        f"--out={out}",
    )  # fmt: skip
    assert code == 1 and lines[-1].endswith("audit.json")
    assert lines[-2].startswith("not to be trained on: 3 kinds of error and 4 of warn")
    told = json.loads((out / "audit.json").read_text())
    assert (told["errors"], told["attempts"], told["data"]) == (3, 82, str(log))
    kinds = {finding["kind"]: finding for finding in told["findings"]}
    assert kinds["leakage exact"]["lines"] == {str(log): [1, 2, 3, 4, 43, 44, 63, 64]}
    assert len(kinds["duplicates"]["lines"][str(log)]) == 40
    assert kinds["duplicates"]["count"] == 40
    page = (out / "audit.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "a&lt;b&gt;.jsonl" in page
    for finding in told["findings"]:
        assert finding["kind"] in page
    assert well_formed(page)


@pytest.mark.parametrize("form", ["line", "chat", "deepseek_math"])
def test_a_log_of_test_questions_ends_with_1(tmp_path, capsys, folder, form):
    put = prompts.PROMPTS[form](auditing.tokenizer(), "Be good.")
    questions = ["How many in May?", "17+25*3=?"]
    rows = [
        {"prompt": put.write(questions[n % 2]), "response": f" {n}", "reward": n % 2}
        for n in range(4)
    ]
    test = save(tmp_path / "test", [{"question": text} for text in questions])
    words = (f"--data={save(tmp_path / 'log.jsonl', rows)}", f"--test={test}")
    for more in ((), (f"--tokenizer={folder}",)):
        code, lines, _ = run(capsys, *words, *more)
        assert code == 1 and lines[0].startswith("error   leakage")
        assert lines[0].endswith("2 of 2 (its lines 1, 2)  [lines 1-4]")


def test_several_logs(tmp_path, capsys):
    one = save(tmp_path / "one.jsonl", clean()[:20])
    two = save(tmp_path / "two.jsonl", [*clean()[20:], *clean()[:2], clean()[21]])
    test = save(tmp_path / "test", [{"prompt": clean()[0]["prompt"]}])
    out = tmp_path / "out"
    words = (f"--data={one},{two}", f"--test={test}", f"--out={out}")
    code, lines, _ = run(capsys, *words)
    assert code == 1 and "in 43 attempts" in lines[-2]
    (leak,) = [line for line in lines if "leakage exact" in line]
    assert leak.endswith(f"[{one}: lines 1-4; {two}: lines 21-22]")
    (twice,) = [line for line in lines if "duplicates" in line]
    assert twice.endswith(f"2 of them were in another log  [{two}: lines 21-23]")
    told = json.loads((out / "audit.json").read_text())
    kinds = {finding["kind"]: finding for finding in told["findings"]}
    assert kinds["leakage exact"]["lines"] == {
        str(one): [1, 2, 3, 4],
        str(two): [21, 22],
    }
    assert f"{two}: lines 21-23" in (out / "audit.html").read_text()
    code, _, error = run(capsys, f"--data={one},,{two}")
    assert code == 2 and "must be logs with one comma between two" in error


def test_every_task_is_in_the_json_and_the_worst_on_the_page(tmp_path, capsys):
    rows = [
        row | {"task": f"task {n:03}", "reward": int(n % 150 < 75)}
        for n, row in enumerate(clean() * 8)
    ]
    log, out = save(tmp_path / "log.jsonl", rows), tmp_path / "out"
    _, lines, _ = run(capsys, f"--data={log}", f"--out={out}")
    (told,) = [line for line in lines if line.startswith("note    worst tasks")]
    assert told.endswith("task 082 (0 of 1 right, line 83), and 142 more")
    tables = json.loads((out / "audit.json").read_text())["tables"]
    (table,) = [table for table in tables if table["title"] == "Success by task"]
    assert len(table["rows"]) == 320 and table["rows"][0][0] == "task 075"
    assert table["header"][:5] == ["task", "first", "attempts", "right", "share"]
    page = (out / "audit.html").read_text()
    assert "and 220 more, in audit.json" in page and well_formed(page)
    assert "task 075" in page and "task 000" not in page


VOID = {"meta", "br", "img", "link", "input"}


def well_formed(page):
    """Every tag is closed, nothing is fetched."""
    open_ = []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert not {"src", "href"} & {name for name, _ in attrs}
            if tag not in VOID:
                open_.append(tag)

        def handle_endtag(self, tag):
            assert open_.pop() == tag

    Reader().feed(page)
    return not open_


def test_what_cannot_begin(tmp_path, capsys, folder):
    log = save(tmp_path / "log.jsonl", clean())
    tokens = (f"--data={log}", f"--tokenizer={folder}")
    for words, what in (
        ([f"--data={tmp_path / 'none'}"], "there is no log"),
        ([f"--data={log}", f"--test={tmp_path / 'none'}"], "there is no log"),
        ([f"--data={log}", "--tokenizer=none"], "no tokenizer folder"),
        ([f"--data={log}", "--row=8"], "give --model or --tokenizer"),
        ([f"--data={log}", "--row=0", f"--tokenizer={folder}"], "at least 1"),
        ([f"--data={log}", spec("oreo")], "give --model or --tokenizer"),
        ([*tokens, spec("grpo")], "has no data.row_tokens"),
        ([*tokens, "--config.data.row_tokens=8"], "needs --config=FILE.py"),
        ([*tokens, spec("oreo", "none")], "scale is one of"),
        ([*tokens, spec("oreo"), "--config.data.row=8"], "is not a setting"),
    ):
        code, _, error = run(capsys, *words)
        assert code == 2 and what in error
    with pytest.raises(SystemExit):
        run(capsys, *tokens, "--rows=8")
    assert "unrecognized arguments: --rows=8" in capsys.readouterr().err


def test_ranges():
    assert audit.ranges([]) == ""
    assert audit.ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
    assert audit.ranges([1, 2, 3, 7, 9, 10], 1) == "1-3 and 3 more"
    assert audit.ranges([3, 3, 1]) == "1, 3"
