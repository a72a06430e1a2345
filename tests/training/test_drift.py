"""Drift by hand: groups, means, and what raises an alarm."""

from typing import Any

import numpy as np
import pytest

from rljax.agents.offline import Reading
from rljax.training import drift
from rljax.types import Episode


def episode(said, reward, source="a", task="t"):
    ids = np.array([9, *said], np.int32)
    action = np.array([False] + [True] * len(said))
    return Episode(ids, action, action - 1, reward, task, source, 1)


def reading(log_ratio, kl, filling=2):
    def wide(values):
        return np.array([*values, *[50.0] * filling], np.float32)

    low = wide([-2.0 + x for x in log_ratio])
    reference = wide([-2.0] * len(log_ratio))
    columns: list[Any] = [low, low, wide(kl), reference, None]
    return Reading(*columns)


LOG = [
    episode([1], 1.0, "a", "x"),
    episode([2, 1], 0.0, "b", "x"),
    episode([3, 3, 1], 1.0, "b", "y"),
]
READINGS = [
    reading([0.5], [0.1]), reading([-1.0, 0.0], [0.2, 0.4]), reading([1, 2, 3], [3] * 3)
]  # fmt: skip
MASSES = [np.array(m + [9.0], np.float32) for m in ([0.1], [0.2, 0.3], [0.0, 0.0, 0.6])]


BOUNDS = drift.thirds([1, 2, 3])


def test_means_by_source_length_task_and_reward():
    told = drift.metrics(LOG, READINGS, MASSES, BOUNDS)
    # Log-ratios of a token are 0.5, -0.5 and 2; rewards 1, 0 and 1.
    every = np.exp([0.5, -0.5, 2.0])
    expected = {
        "reward/all": (every[0] + every[2]) / every.sum(), "reward/source_a": 1.0,
        "reward/source_b": every[2] / (every[1] + every[2]),
        "reward/length_short": 1.0, "reward/length_middle": 0.0,
        "reward/length_long": 1.0, "reward/right": 1.0, "reward/wrong": 0.0,
        "log_ratio/source_b_right": 2.0, "log_ratio/source_b_wrong": -0.5,
        "log_ratio/length_short_right": 0.5, "log_ratio/length_middle_wrong": -0.5,
        "log_ratio/all": (0.5 - 0.5 + 2) / 3, "log_ratio/right": 1.25,
        "log_ratio/wrong": -0.5, "log_ratio/length_long": 2.0,
        "log_ratio/source_b": 0.75,
        "kl/all": (0.1 + 0.3 + 3) / 3, "kl/source_a": 0.1, "kl/task_most": 3.0,
        "unseen": 1.2 / 6,
    }  # fmt: skip
    for name, value in expected.items():
        assert told[f"drift/{name}"] == pytest.approx(value), name


def test_reward_begins_as_the_logs_and_moves_with_the_policy():
    still = [reading([0.0] * n, [0.0] * n) for n in (1, 2, 3)]
    told = drift.metrics(LOG, still, MASSES, BOUNDS)
    assert told["drift/reward/all"] == pytest.approx(2 / 3)
    assert told["drift/reward/source_b"] == pytest.approx(0.5)
    # The wrong answer of source b gains, by ever more: its reward falls to nothing.
    found = []
    for gain in (1.0, 1000.0):
        moved = [still[0], reading([gain] * 2, [0.0] * 2), still[2]]
        found.append(drift.metrics(LOG, moved, MASSES, BOUNDS))
    assert found[0]["drift/reward/source_b"] == pytest.approx(1 / (1 + np.e))
    assert found[1]["drift/reward/source_b"] == 0.0
    assert found[1]["drift/reward/source_a"] == 1.0


def test_the_farthest_tasks_are_named():
    found = drift.farthest(LOG, READINGS, 2)
    assert [(one.task, one.answers) for one in found] == [("y", 1), ("x", 2)]
    assert [one.kl for one in found] == pytest.approx([3.0, 0.2])
    assert len(drift.farthest(LOG, READINGS, 1)) == 1
    odd = [*READINGS[:2], reading([1, 2, 3], [np.nan] * 3)]
    assert drift.farthest(LOG, odd, 1)[0].task == "y"
    far = {"drift/kl/task_most": 3.0}
    (alarm,) = drift.alarms(far, drift.Limits(), found)
    assert alarm.startswith("far from the reference on task y: drift/kl/task_most is 3")


def test_thirds_are_those_of_the_log_and_not_of_what_is_looked_at():
    short, long = drift.thirds(range(1, 10))
    where = drift.third_of(np.array([1, 3, 4, 6, 7, 99]), (short, long))
    assert [np.flatnonzero(x).tolist() for x in where.values()] == [
        [0, 1], [2, 3], [4, 5]
    ]  # fmt: skip
    told = drift.metrics(LOG, READINGS, MASSES, (short, long))
    assert told["drift/log_ratio/length_short"] == told["drift/log_ratio/all"]
    assert "drift/log_ratio/length_long" not in told


def test_one_source_and_one_length_make_no_groups_of_their_own():
    told = drift.metrics([LOG[0]] * 2, [READINGS[0]] * 2, [MASSES[0]] * 2, (1, 1))
    assert not [name for name in told if "source" in name or "wrong" in name]
    assert "drift/log_ratio/length_long" not in told


def test_many_sources_share_a_group_and_names_are_plain():
    log = [episode([1], 1.0, f"s/{i} <b>") for i in range(10) for _ in range(2)]
    told = drift.metrics(log, [READINGS[0]] * 20, [MASSES[0]] * 20, (1, 1))
    names = [name for name in told if name.startswith("drift/reward/source")]
    assert "drift/reward/source_s_0_b_" in names
    assert "drift/reward/source_others" in names
    assert len(names) == 9


def test_what_the_data_never_show():
    np.testing.assert_array_equal(
        drift.unseen(LOG, 6), [True, False, False, False, True, True]
    )


def test_a_sample_is_fixed_and_in_order():
    log = [episode([1], float(i)) for i in range(20)]
    rewards = [one.reward for one in drift.sample(log, 5, 0)]
    assert rewards == sorted(set(rewards))
    assert len(rewards) == 5
    assert rewards == [one.reward for one in drift.sample(log, 5, 0)]
    assert rewards != [one.reward for one in drift.sample(log, 5, 1)]
    assert drift.sample(log, 99, 0) == log


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("kl/all", 0.6, "far from the reference: drift/kl/all is 0.6, limit 0.5"),
        ("kl/source_web", 1.1, "far from the reference on source web"),
        ("kl/task_most", 1.1, "far from the reference on task most"),
        ("log_ratio/right", -0.3, "right answers of the log are becoming less likely"),
        (
            "log_ratio/source_web_right",
            -0.3,
            "right answers of source web are becoming",
        ),
        ("log_ratio/length_long", 0.5, "long answers gain over others"),
        ("log_ratio/length_long", -0.5, "short answers gain over others"),
        ("unseen", 0.03, "never show: drift/unseen is 0.03, limit 0.02"),
        ("kl/all", float("nan"), "far from the reference: drift/kl/all is nan"),
    ],
)
def test_each_number_out_of_bounds_raises_its_alarm(name, value, said):
    calm = {
        "drift/kl/all": 0.4, "drift/kl/source_web": 0.9, "drift/kl/task_most": 0.9,
        "drift/log_ratio/right": -0.2, "drift/log_ratio/length_long": 0.1,
        "drift/log_ratio/length_short": 0.0, "drift/unseen": 0.01, "eval/x": 9.0,
    }  # fmt: skip
    assert drift.alarms(calm, drift.Limits()) == []
    assert drift.alarms({}, drift.Limits()) == []
    (alarm,) = drift.alarms({**calm, f"drift/{name}": value}, drift.Limits())
    assert said in alarm
