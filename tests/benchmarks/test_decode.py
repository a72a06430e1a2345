"""Both sides of the benchmark do the same work."""

import json

import jax
import numpy as np
import pytest

from benchmarks import common, decode, decode_ways
from rljax.models import families, pretrained, safetensors_files
from rljax.models.config import ModelConfig
from rljax.policy.truncate import Truncation

CONFIG = ModelConfig(
    vocab_size=37,
    width=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=12,
)


def test_lengths_are_as_the_file_says():
    stored = json.loads(decode.LENGTHS.read_text())
    drawn = np.random.default_rng(20240).geometric(1 / 48, 256)
    assert stored["lengths"] == np.minimum(drawn, 512).tolist() == decode.lengths()
    assert 44 < np.mean(stored["lengths"]) < 52


def test_the_peer_gets_our_weights(tmp_path):
    params = decode_ways.initial(CONFIG)
    decode.save(params, CONFIG, tmp_path)
    read = families.config_of(json.loads((tmp_path / "config.json").read_text()))
    assert (read.width, read.num_kv_heads, read.norm_eps) == (8, 1, CONFIG.norm_eps)
    found = {name: np.full(x.shape, np.nan) for name, x in params.items()}

    def put(place, array):
        whole = found[place.name]
        whole = whole if place.layer is None else whole[place.layer]
        whole[..., slice(*place.columns)] = array

    (file,) = safetensors_files.files_of(tmp_path)
    shapes = {name: x.shape for name, x in params.items()}
    wanted = pretrained.places(read)
    pretrained.load(safetensors_files.tensors(file), wanted, shapes, put)
    for name, weight in params.items():
        np.testing.assert_array_equal(found[name], weight)


def test_all_ways_sample_the_same():
    params = decode_ways.initial(CONFIG)
    arranged = decode_ways.cache.arrange(params, CONFIG)
    draw = decode_ways.sampled(Truncation())
    nucleus = decode_ways.sampled(decode_ways.NUCLEUS)

    def ids(*way):
        return jax.device_get(decode_ways.loop(CONFIG, *way)().ids)

    expected = ids(arranged, lambda w: w, draw)
    straight = decode_ways.straight(arranged)
    np.testing.assert_array_equal(ids(straight, lambda w: w, draw), expected)
    stacked = ids(params, lambda p: decode_ways.sliced(p, CONFIG), draw)
    np.testing.assert_array_equal(stacked, expected)
    kept = ids(arranged, lambda w: w, nucleus)
    sort = ids(arranged, lambda w: w, decode_ways.by_sort)
    np.testing.assert_array_equal(sort, kept)
    assert (kept != expected).any()


def test_without_a_peer_a_row_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RLJAX_PEER", str(tmp_path / "none"))
    assert decode.python_of_peer(None) is None
    assert "run `make peers`" in capsys.readouterr().err
    row = decode.alone("long_tail", lambda: None, 10, 2)
    assert "peer absent" in common.table([row])
    with pytest.raises(SystemExit, match="there is no such file"):
        decode.python_of_peer(str(tmp_path / "none"))


def test_flags():
    found = decode.parse(["--rounds=3", "--parts"])
    assert (found.rounds, found.parts, found.how) == (3, True, "plain")
    with pytest.raises(SystemExit):
        decode.parse(["--rounds=0"])
