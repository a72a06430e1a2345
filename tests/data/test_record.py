"""Whatever a line holds, it is a record that can be written again, or refused."""

import json

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rljax.data import logs, record
from rljax.data.record import Record

TEXT = st.text(max_size=6)
NUMBERS = st.integers(-2, 600) | st.floats() | st.booleans()
LISTS = st.lists(st.integers(0, 9), max_size=4) | st.lists(st.booleans(), max_size=4)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "gpt", "x"]), "content": TEXT}
    ),
    max_size=3,
)
ANY = st.none() | NUMBERS | TEXT | LISTS | MESSAGES | st.dictionaries(TEXT, NUMBERS)
KEYS = [
    *"prompt response conversations reward task source prompt_ids response_ids".split(),
    *"ids action step steps log_probs truncated other".split(),
]
WILD = st.dictionaries(st.sampled_from(KEYS), ANY, max_size=8)
LIKELY = st.fixed_dictionaries(
    {"reward": st.integers(0, 1)},
    optional={
        "prompt": TEXT, "response": TEXT, "conversations": MESSAGES, "task": TEXT,
        "response_ids": LISTS, "prompt_ids": LISTS, "ids": LISTS, "action": LISTS,
        "log_probs": st.lists(st.floats(-5, 0), max_size=3), "truncated": st.booleans(),
    },
)  # fmt: skip


def same(one, other):
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


@settings(max_examples=300, deadline=None)
@given(values=WILD | LIKELY)
def test_a_record_or_a_reason(values):
    try:
        found = record.from_json(values, 1)
    except ValueError as error:
        assert str(error)
        return
    again = record.from_json(json.loads(logs.dumps(record.to_json(found))), 1)
    assert same(again, found._replace(unknown=()))


@settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.binary(max_size=80) | WILD.map(lambda v: json.dumps(v).encode()))
def test_no_bytes_surprise_the_reader(tmp_path, data):
    (path := tmp_path / "log").write_bytes(data)
    try:
        found = list(logs.scan(path))
    except logs.LogError:
        return
    for one in found:
        assert isinstance(one, Record | logs.BadLine)
        str(one).encode()
