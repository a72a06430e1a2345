"""Who may use a run folder, and what an opened one holds."""

import collections
import json
import shutil

import pytest

from rljax.training import checkpoint
from rljax.training.files import RunError, as_json, read_json, write_json
from rljax.training.workdir import flatten, open_workdir, own

CONFIG = {"seed": 1, "agent": {"learning_rate": 0.001, "widths": (4, 4)}}
Usage = collections.namedtuple("Usage", "total used free")


def with_checkpoints(path, *updates):
    """A run folder whose checkpoints hold no state: what a resume looks at."""
    opened = open_workdir(path, CONFIG, say=lambda _: None)
    for update in updates:
        part = opened.checkpoints / str(update)
        part.mkdir()
        (part / "data").write_bytes(b"x" * update)
        checkpoint._seal(part, {"update": update, "meta": {}, "leaves": {}})
    return opened


def test_a_new_folder_holds_what_it_should(tmp_path):
    opened = open_workdir(tmp_path / "deep" / "run", CONFIG)
    assert opened.resume is None
    names = {p.name for p in opened.path.iterdir()}
    assert names == {"config.json", "checkpoints", "eval", "hf", "rollouts", "tb"}
    record = json.loads((opened.path / "config.json").read_text())
    assert record["config"]["agent"] == {"learning_rate": 0.001, "widths": [4, 4]}
    assert record["versions"]["jax"] and record["devices"]["platform"] == "cpu"
    assert record["devices"]["count"] == 8  # the simulated ones of these tests


def test_the_same_config_goes_on_and_says_so_in_one_line(tmp_path):
    said = []
    with_checkpoints(tmp_path, 4, 1200)
    assert open_workdir(tmp_path, CONFIG, say=said.append).resume == 1200
    assert said == [f"workdir {tmp_path}: going on from update 1,200"]


def test_a_run_without_a_checkpoint_starts_anew(tmp_path):
    said = []
    with_checkpoints(tmp_path)
    assert open_workdir(tmp_path, CONFIG, say=said.append).resume is None
    assert said == [f"workdir {tmp_path}: no checkpoint yet, starting anew"]


def test_a_half_written_config_is_not_foreign(tmp_path):
    (tmp_path / "config.json.tmp").write_text("{")  # killed in the first moment
    assert open_workdir(tmp_path, CONFIG).resume is None


@pytest.mark.parametrize("name, text", [("notes.txt", "hi"), ("config.json", "{}")])
def test_refuses_a_foreign_folder(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(RunError, match="is not empty and holds no run of ours"):
        open_workdir(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # and leaves it alone


def test_refuses_another_config_and_shows_the_keys(tmp_path):
    with_checkpoints(tmp_path)
    other = {"seed": 1, "agent": {"learning_rate": 0.1, "widths": (4, 4), "tied": True}}
    with pytest.raises(RunError) as raised:
        open_workdir(tmp_path, other)
    assert str(raised.value).splitlines()[1:-1] == [
        "  agent.learning_rate: 0.001 there, 0.1 here",
        "  agent.tied: '(absent)' there, True here",
    ]


def test_some_keys_may_differ(tmp_path):
    with_checkpoints(tmp_path, 3)
    longer = {**CONFIG, "seed": 2}
    with pytest.raises(RunError, match="seed: 1 there, 2 here"):
        open_workdir(tmp_path, longer, may_differ={"agent.seed"})
    assert open_workdir(tmp_path, longer, may_differ={"seed"}).resume == 3
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["config"]["seed"] == 2  # the folder tells what runs now


def test_never_resumes_on_request(tmp_path):
    assert open_workdir(tmp_path / "a", CONFIG, "never").resume is None
    with pytest.raises(RunError, match="holds a run and resume is 'never'"):
        open_workdir(tmp_path / "a", CONFIG, "never")


def test_resumes_a_given_update(tmp_path):
    opened = with_checkpoints(tmp_path, 3, 5)
    assert open_workdir(tmp_path, CONFIG, 3).resume == 3
    with pytest.raises(RunError, match=r"resume is 4, .* no such .*\(there: 3, 5\)"):
        open_workdir(tmp_path, CONFIG, 4)
    (opened.checkpoints / "3" / "data").write_bytes(b"xxy")
    with pytest.raises(RunError, match=r"resume is 3, .* damaged \(data: wrong checks"):
        open_workdir(tmp_path, CONFIG, 3)


def test_tells_of_other_versions(tmp_path):
    with_checkpoints(tmp_path, 3)
    record = json.loads((tmp_path / "config.json").read_text())
    record["versions"]["jax"] = "0.1"
    (tmp_path / "config.json").write_text(json.dumps(record))
    said = []
    open_workdir(tmp_path, CONFIG, say=said.append)
    assert "not bit for bit the same run: jax 0.1 then" in said[1]


def test_a_full_disk_is_known_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 3_000_000))
    assert open_workdir(tmp_path / "a", CONFIG, needed_bytes=2_000_000)
    with pytest.raises(RunError, match="3.0 MB of disk are free, .* about 50.0 MB"):
        open_workdir(tmp_path / "b", CONFIG, needed_bytes=50_000_000)


def test_an_unwritable_folder_is_known_before_training(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunError, match="file.* cannot be used: .*Not a directory"):
        open_workdir(tmp_path / "file" / "run", CONFIG)
    with pytest.raises(RunError, match="file.* cannot be used: .*File exists"):
        open_workdir(tmp_path / "file", CONFIG)


@pytest.mark.parametrize("opened", [open_workdir, own])
def test_a_failing_write_is_an_error(opened, tmp_path, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rljax.training.workdir.write_json", fail)
    with pytest.raises(RunError, match="cannot be written: .*Permission denied"):
        opened(tmp_path, CONFIG)


def test_a_folder_of_several_runs_is_one_configs(tmp_path):
    path = tmp_path / "several"
    assert own(path, CONFIG) == own(str(path), CONFIG) == path
    assert [p.name for p in path.iterdir()] == ["config.json"]
    other = CONFIG | {"seed": 2}
    with pytest.raises(RunError, match="seed: 1 there, 2 here"):
        own(path, other)
    own(path, other, {"seed"})
    assert json.loads((path / "config.json").read_text())["config"]["seed"] == 2
    (tmp_path / "notes.txt").write_text("hi")
    with pytest.raises(RunError, match="holds no run of ours"):
        own(tmp_path, CONFIG)


def test_a_value_as_a_file_gives_it_back(tmp_path):
    value = {"a": (1, (2.5, None)), "b": {"c": [True, ("x",)]}}
    write_json(tmp_path / "x.json", value)
    assert as_json(value) == read_json(tmp_path / "x.json") != value
    assert as_json(value) == {"a": [1, [2.5, None]], "b": {"c": [True, ["x"]]}}


def test_flatten():
    tree = {"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]}
    assert flatten(tree) == {"a.b.c": 1, "a.d": {}, "e": [1, {"f": 2}]}
