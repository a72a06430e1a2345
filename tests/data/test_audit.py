"""Faults planted one at a time in a log without any: each is found, and it alone."""

import gzip

import pytest

from rljax.data import audit, audit_leaks, audit_rows, episodes, logs, packing
from rljax.data.audit_lengths import Room
from tests.data import auditing
from tests.data.auditing import clean, look, save
from tests.text import speaking

QUIET = {"reward range", "tasks", "lengths", "length bias", "sources", "leakage", "row"}
QUIET |= {"worst tasks"}


def lines_of(finding):
    """Of the one log that there is."""
    assert all(place.log == 0 for place in finding.places)
    return tuple(place.line for place in finding.places)


def found_in(result):
    return {
        finding.kind: (finding.severity, finding.count, lines_of(finding))
        for finding in result.findings
        if finding.severity != "note" or finding.kind not in QUIET
    }


def changed(place, **changes):
    rows = clean()
    rows[place] = rows[place] | changes
    return rows


def test_nothing_is_wrong_with_a_clean_log(tmp_path):
    result = look(save(tmp_path / "log", clean()), room=Room(64))
    assert found_in(result) == {}
    assert {finding.kind for finding in result.findings} == QUIET - {"row"}
    assert (result.errors, result.lines) == (0, 40)


IDS = {"prompt_ids": None, "response": "x", "response_ids": None}


def ids_of(text):
    return auditing.tokenizer()(text, add_special_tokens=False)["input_ids"]


def talk(*texts, **more):
    roles = ["user", "assistant"] * len(texts)
    messages = [
        {"role": role, "content": text}
        for role, text in zip(roles, texts, strict=False)
    ]
    return {"conversations": messages, "reward": 1, **more}


PLANTED = {
    "duplicates": (lambda: [*clean(), clean()[3]], "warning", 1, (41,)),
    "contradictions": (
        lambda: [*clean(), clean()[0] | {"reward": 1}], "warning", 1, (1, 41),
    ),
    "reward scale": (lambda: changed(1, reward=0.5), "warning", 1, (2,)),
    "unknown key": (lambda: changed(5, truncatd=True), "warning", 1, (6,)),
    "empty": (lambda: changed(5, response=""), "warning", 1, (6,)),
    "space": (lambda: changed(5, prompt="a ", response="\nb"), "warning", 1, (6,)),
    "special": (lambda: changed(5, prompt="<|bos|>a"), "note", 1, (6,)),
    "text": (
        lambda: changed(5, response_ids=[*ids_of(" answers"), 0]), "warning", 1, (6,),
    ),
    "no end": (
        lambda: changed(5, response_ids=ids_of(" answer b")), "warning", 1, (6,),
    ),
    "late end": (
        lambda: changed(5, response_ids=[0, 9, 0], response="!"), "warning", 1, (6,),
    ),
    "closing": (lambda: [*clean(), talk("a", "b", "c")], "note", 1, (41,)),
    "cut short": (lambda: changed(0, truncated=True), "note", 1, (1,)),
    "one task": (
        lambda: [*clean(), talk("a", "b"), talk("a", "c", reward=0)], "warning", 2,
        (41, 42),
    ),
    "mixed task": (
        lambda: [*clean()[:38], *(clean()[i] | {"task": "t"} for i in (1, 39))],
        "warning", 1, (39, 40),
    ),
    "single attempts": (
        lambda: [*clean(), clean()[0] | {"prompt": "z"}], "note", 1, (41,),
    ),
    "bad line": (lambda: [*clean(), "{"], "error", 1, (41,)),
    "too long": (lambda: changed(5, response=" b" * 64), "error", 1, (6,)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found(tmp_path, kind):
    rows, severity, count, lines = PLANTED[kind]
    result = look(save(tmp_path / "log", rows()), room=Room(64))
    found = found_in(result)
    assert found[kind] == (severity, count, lines)
    also = {
        "contradictions": {"duplicates"},
        "late end": {"text"},
        "closing": {"chat", "single attempts"},
        "one task": {"chat"},
        "mixed task": {"duplicates"},
        "space": {"single attempts"},
        "special": {"single attempts"},
    }.get(kind, set())
    assert found.keys() <= {kind} | also
    assert result.errors == (severity == "error")
    order = [audit_rows.SEVERITIES.index(f.severity) for f in result.findings]
    assert order == sorted(order)


QUOTE = "He said \u201c2."


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("round trip", {"prompt": "a", "response": QUOTE}),
        ("prompt changed", {"prompt": QUOTE, "response": " a"}),
        ("message changed", talk(QUOTE, "a")),
        ("message changed", talk("a", QUOTE)),
        ("message changed", talk("a", "b", QUOTE, "c")),
        (None, {"prompt": QUOTE, "prompt_ids": [9], "response_ids": [9, 0]}),
    ],
)
def test_a_tokenizer_that_changes_texts(tmp_path, kind, line):
    row = {**line, "reward": 1, "response": line.get("response", "x"), "task": "t"}
    if "conversations" in row:
        del row["response"]
    path = save(tmp_path / "log", [*clean(), row])
    changes = {"round trip", "prompt changed", "message changed"}
    found = found_in(look(path, tokens=auditing.folding()))
    assert found.keys() & changes == ({kind} if kind else set())
    if kind:
        assert found[kind] == ("warning", 1, (41,))
    assert not found_in(look(path)).keys() & changes


def test_messages_that_are_left_out_are_not_tried(tmp_path):
    path = save(tmp_path / "log", [*clean(), talk("a", "b", QUOTE)])
    assert "message changed" not in found_in(look(path, tokens=auditing.folding()))


def test_bad_lines_are_told_by_reason(tmp_path):
    rows = [
        *clean(),
        "{",
        '{"prompt": "p"}',
        "[1",
        *(r | {"reward": "1"} for r in clean()),
    ]
    rows += [{"prompt": "a", "response": f"<eos>{i}", "reward": 1} for i in range(3)]
    result = look(save(tmp_path / "log", rows))
    bad = [f for f in result.findings if f.kind == "bad line"]
    assert [f.count for f in bad] == [1, 1, 1, 40, 3]
    assert lines_of(bad[3]) == tuple(range(44, 84)) and "reward is text" in bad[3].text
    assert lines_of(bad[4]) == (84, 85, 86) and result.lines == 86


def test_a_broken_file_is_an_error(tmp_path):
    data = gzip.compress(save(tmp_path / "log", clean() * 50).read_bytes())
    (path := tmp_path / "log.gz").write_bytes(data[:-200])
    result = audit.audit(path)
    (broken,) = [f for f in result.findings if f.kind == "broken file"]
    assert broken.severity == "error" and lines_of(broken) == (result.lines,)


def test_an_empty_log_is_an_error(tmp_path):
    result = look(save(tmp_path / "log", []))
    assert found_in(result) == {"empty log": ("error", 0, ())}
    assert result.findings[0].text == f"{tmp_path / 'log'} is empty"
    result = look(save(tmp_path / "log", ["{"]))
    assert found_in(result).keys() == {"no attempt", "bad line"}


def test_several_logs_are_looked_over_as_one(tmp_path):
    logs_ = [
        save(tmp_path / "a", [*clean()[:20], "{"]),
        save(tmp_path / "b", [clean()[2] | {"reward": 1}, *clean()[20:], clean()[20]]),
        save(tmp_path / "c", []),
    ]
    test = save(tmp_path / "test", [{"prompt": clean()[38]["prompt"]}])
    result = look(logs_, test)
    assert result.logs == tuple(map(str, logs_)) and result.lines == 43
    found = {f.kind: f for f in result.findings}
    assert found["duplicates"].places == ((1, 1), (1, 22))
    assert found["duplicates"].text.endswith("; 1 of them were in another log")
    assert found["contradictions"].places == ((0, 3), (1, 1))
    assert found["leakage exact"].places == tuple((1, n) for n in (18, 19, 20, 21))
    assert found["bad line"].places == ((0, 21),)
    assert found["empty log"].text == f"{logs_[2]} is empty"
    assert "10 tasks with 4 to 5 attempts" in found["tasks"].text


def test_success_and_failure(tmp_path):
    none = [row | {"reward": 0} for row in clean()]
    result = look(save(tmp_path / "log", none))
    found = found_in(result)
    assert found["no success"] == ("error", 40, tuple(range(1, 41)))
    assert found["all wrong"] == ("warning", 10, tuple(range(1, 41)))
    every = [row | {"reward": 1} for row in clean()]
    found = found_in(look(save(tmp_path / "log", every)))
    assert found["no failure"][0] == "warning" and found["all right"][1] == 10
    few = [row | {"reward": int(i < 4)} for i, row in enumerate(clean())]
    found = found_in(look(save(tmp_path / "log", few)))
    assert found["all right"] == ("note", 1, (1, 2, 3, 4))
    assert found["all wrong"] == ("warning", 9, tuple(range(5, 41)))
    rare = [
        row | {"reward": int(i == 60), "response": f" b{i}"}
        for i, row in enumerate(clean() * 2)
    ]
    found = found_in(look(save(tmp_path / "log", rare)))
    assert found["class balance"] == ("warning", 1, (61,))


def test_cut_short_and_rewarded(tmp_path):
    result = look(save(tmp_path / "log", changed(1, truncated=True)))
    assert found_in(result) == {"cut short": ("warning", 1, (2,))}


def test_a_template_that_forgets(tmp_path):
    rows = [*clean(), talk("a", "b"), talk("a", "so</think>\n\nb", "c", "d")]
    found = found_in(look(save(tmp_path / "log", rows), jinja=speaking.FORGETS))
    assert found["template"] == ("warning", 1, (42,))
    found = found_in(look(save(tmp_path / "log", rows)))
    assert "template" not in found and found["chat"] == ("note", 2, (41, 42))


def test_leaks(tmp_path):
    words = "how many of the red cats are in the house"
    log = save(
        tmp_path / "log",
        [*clean(), {"prompt": "QUESTION  a?\n", "response": "x", "reward": 1}]
        + [{"prompt": f"Think. {words.upper()} ?", "response": "x", "reward": 0}]
        + [{"prompt": "other", "response": "x", "reward": 0, "task": "t"}]
        + [{"prompt": f"{words[:-5]} garden", "response": "x", "reward": 0}],
    )
    test = save(
        tmp_path / "test",
        [{"question": "question b?", "answer": "1"}, {"problem": words}]
        + [{"prompt": "unseen", "task": "t"}, talk("question c?", "x")]
        + [{"prompt": "Question a?"}],
    )
    found = found_in(look(log, test))
    del found["single attempts"]
    assert found == {
        "leakage exact": ("error", 8, tuple(range(5, 13))),
        "leakage normal": ("error", 5, (1, 2, 3, 4, 41)),
        "leakage inside": ("warning", 1, (42,)),
        "leakage task": ("error", 1, (43,)),
    }
    texts = {f.kind: f.text for f in look(log, test).findings}
    assert "2 of 5 (its lines 1, 4)" in texts["leakage exact"]
    test = save(tmp_path / "test", [{"prompt": "unseen"}])
    result = look(log, test)
    assert result.errors == 0
    assert (
        "among the 1 of the test file"
        in {f.kind: f.text for f in result.findings}["leakage"]
    )


def test_a_test_file_without_prompts_is_refused(tmp_path):
    for row, what in (
        ({"text": "a"}, "line 2: there is no prompt; any of prompt, question"),
        ("{", "line 2: is no JSON"),
    ):
        path = save(tmp_path / "test", [{"prompt": "a"}, row])
        with pytest.raises(logs.LogError, match=what):
            audit_leaks.held_out(path)
    with pytest.raises(logs.LogError, match="holds no prompt"):
        audit_leaks.held_out(save(tmp_path / "test", []))


def test_without_a_tokenizer(tmp_path):
    result = audit.audit(save(tmp_path / "log", clean()))
    assert found_in(result) == {"tokens": ("note", 0, ())}


def plan(log):
    items = [(episode,) for episode in log]
    return packing.make_plan(items, batch_size=8, epochs=2, seed=3, tokens=64)


def test_rows_are_filled_as_in_training(tmp_path):
    rows = changed(5, response=" b" * 64)
    path = save(tmp_path / "log", rows)
    result = look(path, room=Room(64, plan=plan))
    told = {f.kind: f for f in result.findings}
    assert lines_of(told["too long"]) == (6,)
    log = episodes.load(save(tmp_path / "fit", clean()), auditing.tokenizer()).episodes
    log.pop(5)
    real = plan(log)
    read = 2 * sum(len(episode.ids) for episode in log)
    padding = 1 - read / (real.updates * real.rows * 64)
    assert real.rows > 1 and padding > 0.05
    assert told["packing"].text == (
        f"{real.updates} updates of {real.rows} rows of 64 tokens: "
        f"{100 * padding:.1f} % of them is padding"
    )
    (table,) = [t for t in result.tables if t.title == "Episodes by length"]
    lengths = [len(ids_of(row["prompt"] + row["response"])) + 1 for row in rows]
    edges = [16, 32, 64, 128, 256]
    counts = [
        sum(low < x <= high for x in lengths)
        for low, high in zip([0, *edges[:-1]], edges, strict=True)
    ]
    assert counts[-1] == 1 and counts[0] < 40
    names = ["16", "32", "64, a row", "128", "256"]
    assert [row[:2] for row in table.rows] == list(zip(names, counts, strict=True))


def test_what_is_packed_is_as_long_as_the_log(tmp_path):
    rows = [row | {"prompt": "a" * n + row["prompt"]} for n, row in enumerate(clean())]
    path, seen = save(tmp_path / "log", rows), []

    def keep(log):
        seen.extend(log)
        return plan(log)

    look(path, room=Room(64, plan=keep))
    real = episodes.load(path, auditing.tokenizer()).episodes
    for one, other in zip(seen, real, strict=True):
        assert one.action.tolist() == other.action.tolist()
        assert len(one.ids) == len(one.step) == len(other.ids)
        assert (one.reward, one.task, one.line) == (
            other.reward, other.task, other.line,
        )  # fmt: skip


def test_batches_that_cannot_be_made(tmp_path):
    def refuse(log):
        raise ValueError(f"no use for {len(log)}")

    path = save(tmp_path / "log", clean())
    found = {f.kind: f for f in look(path, room=Room(64, plan=refuse)).findings}
    assert found["refused"].severity == "error"
    assert found["refused"].text == "training would be refused: no use for 40"


def test_longer_than_the_model_reads(tmp_path):
    path = save(tmp_path / "log", changed(5, response=" b" * 64))
    found = found_in(look(path, room=Room(None, 64)))
    assert found == {"context": ("error", 1, (6,))}


def test_without_a_row_that_is_said(tmp_path):
    found = {f.kind: f for f in look(save(tmp_path / "log", clean())).findings}
    assert "were not held against a row" in found["row"].text


def test_shapes_of_reasons():
    shape = audit_rows.shape
    assert shape("id 3 is 512, of [1 'a']") == shape("id 14 is 9,000, of [7 'b', 2]")
    assert shape("reward is nan") != shape("reward is null")
