"""Checkpoints: exact, whole or absent, and never believed without a look."""

import dataclasses
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rljax.training import checkpoint
from rljax.training.files import RunError, plain, write_arrays
from tests.training import toy_run


@pytest.fixture(scope="module")
def state():
    made, _ = jax.jit(toy_run.iterate)(jax.jit(toy_run.init)())
    return made


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """A folder with checkpoints 2 and 4; tests that damage it take a copy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoint.save(folder, 2, state, {"calls": 1})
    checkpoint.save(folder, 4, state, {"calls": 2})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(plain(a)).tobytes() == np.asarray(plain(b)).tobytes()


def test_gives_back_every_bit(saved, state):
    target = jax.eval_shape(toy_run.init)
    assert_same(checkpoint.read_state(saved, 4, target), state)
    assert checkpoint.read_meta(saved, 2) == {"calls": 1}


def test_puts_leaves_where_the_target_says(saved, state):
    device = jax.devices()[3]
    there = jax.sharding.SingleDeviceSharding(device)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there),
        jax.eval_shape(toy_run.init),
    )
    restored = checkpoint.read_state(saved, 4, target)
    assert restored.params["w"].devices() == {device}
    assert_same(restored, state)


def test_keeps_the_newest(tmp_path, state):
    for update in (1, 3, 20, 100):
        checkpoint.save(tmp_path, update, state, {}, keep=2)
    assert checkpoint.updates(tmp_path) == [20, 100]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["100", "20"]
    checkpoint.save(tmp_path, 100, state, {"again": True}, keep=2)
    assert checkpoint.read_meta(tmp_path, 100) == {"again": True}


def test_what_a_killed_save_left_is_not_a_checkpoint(folder, state):
    (folder / "4").rename(folder / "part_6")
    assert checkpoint.updates(folder) == [2]
    assert checkpoint.latest(folder) == 2
    checkpoint.save(folder, 8, state, {})
    assert sorted(p.name for p in folder.iterdir()) == ["2", "8"]


def data_files(path: pathlib.Path) -> list[str]:
    return sorted(
        str(p.relative_to(path))
        for p in path.rglob("*")
        if p.is_file() and p.name != "meta.json"
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "missing": pathlib.Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_noticed(folder, damage):
    names = [*data_files(folder / "4"), "meta.json"]
    assert len(names) > 8
    for name in names:
        path = folder / "4" / name
        content = path.read_bytes()
        if content:
            DAMAGES[damage](path)
            with pytest.raises(checkpoint.DamagedError, match="4 is damaged") as raised:
                checkpoint.verify(folder, 4)
            assert f"({name}: " in str(raised.value)
            path.write_bytes(content)
    checkpoint.verify(folder, 4)


def test_orbax_alone_does_not_notice(folder, state):
    """Why we keep checksums: a flipped bit in the data comes back as a value."""
    ring = jnp.arange(4000, dtype=jnp.float32)
    checkpoint.save(folder, 6, {"ring": ring}, {})
    largest = max(
        (folder / "6" / name for name in data_files(folder / "6")),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(largest.read_bytes())
    content[-40] ^= 1
    largest.write_bytes(bytes(content))
    with pytest.raises(checkpoint.DamagedError, match="wrong checksum"):
        checkpoint.verify(folder, 6)


def test_a_damaged_newest_is_reported_and_the_one_before_used(folder):
    said = []
    flip(folder / "4" / data_files(folder / "4")[-1])
    assert checkpoint.latest(folder, said.append) == 2
    assert len(said) == 1
    assert f"warning: checkpoint {folder / '4'} is damaged" in said[0]
    assert "wrong checksum" in said[0]


def test_all_damaged_is_an_error(folder):
    for update in (2, 4):
        (folder / str(update) / "meta.json").unlink()
    with pytest.raises(RunError, match="all 2 checkpoints in .* are damaged"):
        checkpoint.latest(folder, lambda _: None)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "absent") is None


def test_another_state_is_refused_by_name(saved):
    target = jax.eval_shape(toy_run.init)
    target = dataclasses.replace(
        target,
        ring=jax.ShapeDtypeStruct((9,), jnp.bfloat16),
        skipped=jax.ShapeDtypeStruct((), jnp.float32),
    )
    with pytest.raises(RunError) as raised:
        checkpoint.read_state(saved, 4, target)
    assert str(raised.value).splitlines()[1:] == [
        "  .ring: bfloat16[8] there, bfloat16[9] here",
        "  .skipped: int32[] there, float32[] here",
    ]


def test_a_failing_save_is_told_and_leaves_the_others(folder, state, monkeypatch):
    def full(_, path, **__):
        path.mkdir(parents=True)  # a part is written, then the disk is full
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\n" + "x" * 999)

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    with pytest.raises(RunError) as raised:
        checkpoint.save(folder, 6, state, {})
    message = str(raised.value)
    assert "6 cannot be written" in message and "of disk free" in message
    assert message.endswith("RESOURCE_EXHAUSTED: No space left on device")
    assert sorted(p.name for p in folder.iterdir()) == ["2", "4"]


def test_a_full_disk_is_told_before_anything_is_written(folder, state, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=100)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    monkeypatch.delattr(ocp.Checkpointer, "save")
    with pytest.raises(RunError, match="100 B of disk free, state 116 B.*: no space"):
        checkpoint.save(folder, 6, state, {})


def test_later_ones_are_set_aside(folder):
    checkpoint.set_aside_after(folder, 2)
    assert sorted(p.name for p in folder.iterdir()) == ["2", "aside_4"]
    checkpoint.set_aside_after(folder, None)
    assert checkpoint.updates(folder) == []


def test_state_bytes():
    shapes = {"a": jax.ShapeDtypeStruct((3, 2), jnp.float32), "b": jnp.zeros(5, bool)}
    assert checkpoint.state_bytes(shapes) == 29


def test_write_arrays_takes_keys_and_names_leaves(tmp_path):
    tree = {"x": np.arange(3), "key": jax.random.key(1)}
    write_arrays(tmp_path / "new" / "batch.npz", tree)
    with np.load(tmp_path / "new" / "batch.npz") as back:
        assert set(back.files) == {"['x']", "['key']"}
        np.testing.assert_array_equal(back["['x']"], np.arange(3))
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["batch.npz"]


def test_digest_tells_any_change():
    weights = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(2, jnp.bfloat16)}
    found = checkpoint.digest(weights)
    assert found == checkpoint.digest(jax.tree.map(np.array, weights))
    changed = [
        weights | {"a": weights["a"].at[1, 2].add(1e-6)},
        weights | {"a": weights["a"].T.reshape(2, 3)},
        weights | {"a": weights["a"].reshape(3, 2)},
        weights | {"b": weights["b"].astype(jnp.float16)},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({found, *map(checkpoint.digest, changed)}) == 6


def test_reads_what_was_carried_beside_the_agent(tmp_path, state):
    """Of the agent nothing is read, and types are those that were asked for."""
    rest = toy_run.init()
    checkpoint.save(tmp_path, 4, (state, {"a": jnp.arange(3), "b": rest.ring}), {})
    like = {"a": np.zeros(3, np.int64), "b": np.zeros(8, np.float32)}
    found = checkpoint.read_rest(tmp_path, 4, like)
    assert isinstance(found["a"], np.ndarray) and found["a"].dtype == np.int64
    assert found["a"].tolist() == [0, 1, 2] and found["b"].dtype == np.float32
    found["a"][0] = 5  # the caller's own
    for wrong in ({"a": like["a"]}, like | {"a": np.zeros(4)}):
        with pytest.raises(RunError, match=r"holds another state: \[1\]"):
            checkpoint.read_rest(tmp_path, 4, wrong)
