"""The recorded reference, replayed; and that a difference is found."""

import gzip
import json
import os
import pathlib

import pytest

from experiments import playground_replay

TRACES = (
    pathlib.Path(os.environ.get("RLJAX_DATA", "data"))
    / "playground_text"
    / "reference_traces.jsonl.gz"
)

# Spec by hand: water and a seed; going to the water and taking it.
EPISODE = {
    "kind": "grasp",
    "goal": "Grasp red water",
    "objects": [
        {
            "type": kind,
            "color": "red",
            "category": category,
            "pos": [x, 0.5],
            "size": 0.2,
            "grasped": False,
            "grown": False,
        }
        for kind, category, x in (("water", "supply", 0.5), ("beet", "plant", -0.5))
    ],
    "agent_pos": [0.0, 0.0],
    "obs0": "You see: red water, red beet seed\nYou are on: nothing\n"
    "Inventory (0/2): empty",
    "actions0": ["Go to red beet seed", "Grasp", "Go to red water"],
    "hindsight0": [],
    "steps": [
        {
            "action": "Go to red water",
            "obs": "You see: red water, red beet seed\nYou are on: red water\n"
            "Inventory (0/2): empty",
            "reward": 0.0,
            "hindsight": [],
            "possible_actions": ["Grasp", "Go to red water", "Go to red beet seed"],
        },
        {
            "action": "Grasp",
            "obs": "You see: red beet seed\nYou are on: nothing\n"
            "Inventory (1/2): red water",
            "reward": 1.0,
            "hindsight": [
                "Grasp red water",
                "Grasp red supply",
                "Grasp any water",
                "Grasp any supply",
                "Grasp any red thing",
            ],
            "possible_actions": ["Grasp", "Go to red beet seed", "Release red water"],
        },
    ],
}


def write(folder, episode):
    path = folder / "traces.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(episode) + "\n")
    return str(path)


@pytest.mark.skipif(not TRACES.exists(), reason=f"no recorded episodes: {TRACES}")
def test_the_recorded_reference_is_replayed_exactly():
    assert playground_replay.replay(str(TRACES)) == (44, 1573)


def test_an_episode_derived_by_hand_is_replayed(tmp_path, capsys):
    path = write(tmp_path, EPISODE)
    assert playground_replay.run(path) == 0
    assert capsys.readouterr().out == "1 episodes, 2 steps: all equal\n"


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("obs", "You see: red beet seed", "observation"),
        ("possible_actions", ["Grasp"], "commands"),
        ("hindsight", ["Grasp red water"], "hindsight"),
        ("reward", 0.0, "reward"),
    ],
)
def test_any_difference_stops_it_and_is_printed(tmp_path, capsys, key, value, name):
    *before, last = EPISODE["steps"]
    path = write(tmp_path, EPISODE | {"steps": [*before, last | {key: value}]})
    assert playground_replay.run(path) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{path}:1 step 2, 'Grasp', goal 'Grasp red water'")
    assert f"{name} differs" in printed
