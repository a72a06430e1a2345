"""Logs as people really have them: each fault is told with its line."""

import gzip
import json
import lzma
import math

import numpy as np
import pytest

from rljax.data import logs, record
from rljax.data.record import Record
from rljax.text.template import Message

GOOD = {"prompt": "1 + 1?", "response": " 2", "reward": 1}


def line(**changes):
    return json.dumps({**GOOD, **changes})


def save(path, *lines, end="\n"):
    path.write_bytes(b"".join(_bytes(text) + end.encode() for text in lines))
    return path


def _bytes(text):
    return text if isinstance(text, bytes) else text.encode()


def same(one, other):
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


def check(found, want, dtype):
    assert found is not None and found.dtype == dtype and found.tolist() == want


def test_forms_by_hand(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"from": "gpt", "value": "Ho"}]
    path = save(
        tmp_path / "log.jsonl",
        line(task=7, source="a", truncated=True, id="x", prompt_ids=None),
        json.dumps({"conversations": talk, "reward": False}),
        line(response_ids=[4, 1], log_probs=[-0.5, 0], step=[0, 1]),
        json.dumps({"ids": [3, 4, 1], "action": [False, 1, True], "reward": -0.25}),
        line(response="a\nb", steps=["a\n", "b"]),
    )
    one, two, three, four, five = logs.read(path)
    assert one == Record(
        1, 1.0, "1 + 1?", " 2", task="7", source="a", truncated=True, unknown=("id",)
    )
    messages = (Message("user", "Hi"), Message("assistant", "Ho"))
    assert two == Record(2, 0.0, messages=messages)
    check(three.response_ids, [4, 1], np.int32)
    check(three.step, [0, 1], np.int32)
    check(three.log_probs, [-0.5, 0], np.float32)
    check(four.ids, [3, 4, 1], np.int32)
    check(four.action, [False, True, True], bool)
    assert (four.reward, five.steps) == (-0.25, ("a\n", "b"))
    assert [record.num_actions(r) for r in (one, three, four)] == [None, 2, 2]


def test_what_is_no_fault(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + line().encode() + b"\r\n\r\n  \t\n" + line(reward=0).encode()
    )
    assert [(r.line, r.reward) for r in logs.read(path)] == [(1, 1.0), (4, 0.0)]


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz", "log.jsonl.xz"])
def test_written_is_read_again(tmp_path, name):
    given = [
        Record(1, 1.0, "é\u2028\n", "", task="t", source="s", truncated=True),
        Record(2, 0.125, messages=(Message("user", "a"), Message("assistant", ""))),
        Record(
            3, 0.0, "p", "r", prompt_ids=np.array([5], np.int32),
            response_ids=np.array([6, 1], np.int32), step=np.array([0, 0], np.int32),
            log_probs=np.array([-0.1, -1e-20], np.float32),
        ),
        Record(
            4, -3.0, ids=np.array([2**31 - 1, 0], np.int32),
            action=np.array([False, True]),
        ),
        Record(5, 1.0, "p", "ab", steps=("a", "b")),
    ]  # fmt: skip
    path = tmp_path / name
    assert logs.write(path, iter(given)) == 5
    again = list(logs.read(path))
    assert len(again) == 5 and all(map(same, given, again))
    before = path.read_bytes()
    logs.write(path, again)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.suffix != ".gz" or before[4:8] == bytes(4)  # no time in it
    packed = {".gz": gzip.decompress, ".xz": lzma.decompress}
    text = packed.get(path.suffix, bytes)(before)
    assert text.count(b"\n") == 5 and json.loads(text.splitlines()[0])["reward"] == 1


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = save(tmp_path / "log.jsonl", line())
    before = path.read_bytes()
    bad = [Record(1, 1.0, "p", "r"), Record(2, math.nan, "p", "r")]
    with pytest.raises(ValueError, match="record 2 of .*reward is nan"):
        logs.write(path, bad)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_parts_of_a_compressed_log_may_be_joined(tmp_path):
    for pack, name in ((gzip.compress, "a.gz"), (lzma.compress, "a.xz")):
        path = tmp_path / name
        text = line().encode() + b"\n"
        path.write_bytes(pack(text) + pack(text * 2))
        assert [r.line for r in logs.read(path)] == [1, 2, 3]


def test_compression_is_told_by_content(tmp_path):
    (path := tmp_path / "log.jsonl").write_bytes(gzip.compress(line().encode()))
    assert [r.reward for r in logs.read(path)] == [1.0]


TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
IDS = {"ids": [3, 4], "action": [False, True], "reward": 1}
BAD = {
    line(reward=math.nan): "reward is nan, expected a finite number",
    line(reward=math.inf): "reward is inf",
    line(reward=1e39): "reward is 1e[+]39, .*float32",
    '{"prompt": "p", "response": "r", "reward": 1' + "0" * 400 + "}": "reward is 1000",
    line(reward="1"): "reward is text '1', expected a finite number",
    line(reward=None): "reward is null",
    line(reward=[1]): "reward is a list",
    '{"prompt": "p", "response": "r"}': "no reward, only prompt, response",
    '{"prompt": "p", "reward": 1}': "no response, only prompt, reward",
    '{"text": "p", "reward": 1}': "no prompt and no response, only text, reward",
    line(prompt=None): "no prompt, only response, reward",
    line(prompt=3): "prompt is 3, expected text",
    line(response="\ud800"): "character 1 of response is half a surrogate",
    line(conversations=TALK): "conversations beside prompt",
    json.dumps({"conversations": [], "reward": 1}): "conversations is a list",
    json.dumps({"conversations": TALK[:1], "reward": 1}): "no turn of the assistant",
    json.dumps({"conversations": [*TALK, "x"], "reward": 1}): r"conversations\[2\] is",
    json.dumps({"conversations": [{"role": "tool", "content": ""}], "reward": 1}): (
        r"conversations\[0\].role is text 'tool', expected one of system, user"
    ),
    json.dumps({"conversations": [{"role": "user"}], "reward": 1}): "expected role and",
    json.dumps(IDS | {"action": None}): "only one of ids and action",
    json.dumps(IDS | {"action": [True]}): "2 ids and 1 values of action",
    json.dumps(IDS | {"action": [False, False]}): "false throughout",
    json.dumps(IDS | {"action": [True, True]}): "begins with true",
    json.dumps(IDS | {"action": [False, 2]}): r"action\[1\] is 2",
    json.dumps(IDS | {"ids": [3, -1]}): r"ids\[1\] is -1, expected an integer",
    json.dumps(IDS | {"ids": [3, True]}): r"ids\[1\] is True",
    json.dumps(IDS | {"ids": [3, 2**31]}): r"ids\[1\] is 2147483648",
    json.dumps(IDS | {"response_ids": [1]}): "ids beside response_ids",
    line(prompt_ids=[1]): "prompt_ids without response_ids",
    line(response_ids=[]): "response_ids is empty",
    json.dumps({"response_ids": [1], "reward": 1}): "no prompt and no response",
    line(log_probs=[-1.0]): "log_probs without the token ids",
    line(response_ids=[1], log_probs=[-1, -1]): "log_probs has 2 values for 1 tokens",
    line(response_ids=[1], log_probs=[0.5]): r"log_probs\[0\] is 0.5, .*up to 0",
    line(response_ids=[1], log_probs=[-math.inf]): r"log_probs\[0\] is -inf",
    line(response_ids=[1, 1], step=[0, 2]): "step must begin with 0 and grow by 0 or 1",
    line(response_ids=[1, 1], step=[1, 1]): "step must begin",
    line(steps=["2"]): "steps, put together, are not the response",
    line(steps=["", " 2"]): "a step without text",
    line(truncated="no"): "truncated is text 'no', expected true or false",
    line(task=1.5): "task is 1.5, expected text",
    line()[:-1]: "no JSON: .* at character",
    '{"prompt": "p", "reward": 0, "reward": 1}': "key 'reward' comes twice",
    "[" + line() + "]": "a list .*jq -c",
    "[": "no JSON: .*over several lines .*jq -c",
    '"text"': "text 'text', expected an object",
    "[" * 100_000: "too many brackets",
    b'{"prompt": "\xff"}': "byte 13 is no UTF-8",
    b"\x00\x00": "no JSON",
}


@pytest.mark.parametrize("text", BAD, ids=[reason[:24] for reason in BAD.values()])
def test_each_fault_is_told(tmp_path, text):
    path = save(tmp_path / "log.jsonl", line(), "", text, line())
    with pytest.raises(logs.LogError, match=f"log.jsonl, line 3: .*{BAD[text]}"):
        list(logs.read(path))
    rejects = tmp_path / "rejects.jsonl"
    with logs.skipping(rejects) as (refuse, skipped):
        assert [r.line for r in logs.read(path, refuse)] == [1, 4]
    told = [json.loads(row) for row in rejects.read_text().splitlines()]
    assert [(row["line"], row["reason"]) for row in told] == [(3, skipped[0].reason)]
    assert told[0]["raw"] == _bytes(text).decode(errors="backslashreplace")


def test_a_line_without_end_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "LONGEST_LINE", 200)
    path = save(
        tmp_path / "log.jsonl", line(), b"x" * 5000, line(), line(task="y" * 99)
    )
    found = list(logs.scan(path))
    assert [f.line for f in found] == [1, 2, 3, 4]
    assert isinstance(found[1], logs.BadLine)
    assert found[1].reason == "has 5,001 bytes; a line may have 200"
    assert found[1].raw == "x" * 201


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_file_that_breaks_off_stops_in_any_case(tmp_path, pack):
    rows = [line(task=str(i), source=str(i * i)) for i in range(20_000)]
    data = pack("\n".join(rows).encode())
    (path := tmp_path / "log").write_bytes(data[: len(data) // 2])
    read = []
    with logs.skipping(tmp_path / "rejects") as (refuse, skipped):
        with pytest.raises(logs.LogError, match=r"line \d+: .*break off"):
            for found in logs.read(path, refuse):
                read.append(found.line)
    *_, last = logs.scan(path)
    assert isinstance(last, logs.BadLine) and last.fatal
    # The last line of all that were whole may be lost with what was not.
    assert 0 < len(read) < 20_000 and last.line == len(read) + 1 and not skipped


def test_damaged_data_are_told(tmp_path):
    data = bytearray(gzip.compress(("\n".join([line()] * 5000)).encode()))
    data[-6] ^= 1  # in its checksum
    (path := tmp_path / "log").write_bytes(data)
    with pytest.raises(logs.LogError, match=r"damaged here \(CRC"):
        list(logs.read(path))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PAR1xxxx", "Parquet"),
        (b"\x28\xb5\x2f\xfdx", "zstd"),
        (b"\xff\xfe{", "UTF-16"),
    ],
)
def test_other_files_are_named(tmp_path, data, kind):
    (path := tmp_path / "log").write_bytes(data)
    with pytest.raises(logs.LogError, match=f"is a {kind} file"):
        list(logs.read(path))


def test_no_file_and_folder(tmp_path):
    with pytest.raises(logs.LogError, match="there is no log"):
        list(logs.read(tmp_path / "none"))
    with pytest.raises(logs.LogError, match="is a folder, .*cat"):
        list(logs.read(tmp_path))
    assert list(logs.read(save(tmp_path / "empty"))) == []


def test_memory_holds_a_line(tmp_path):
    """Only what was asked for has been read."""
    path = save(tmp_path / "log.jsonl", *[line()] * 3, "broken")
    found = logs.read(path)
    assert [next(found).line for _ in range(3)] == [1, 2, 3]
    with pytest.raises(logs.LogError, match="line 4"):
        next(found)
