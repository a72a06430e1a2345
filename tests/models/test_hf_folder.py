"""Exported folders against the files that transformers wrote of the same weights."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from rljax.models import config as model_config
from rljax.models import hf_folder, safetensors_files
from rljax.models.decoder import Decoder
from rljax.text import tokenizer as tokenizers
from tests.models import golden, golden_t5

NAMES = golden.names()


@pytest.fixture(scope="module")
def words():
    return tokenizers.word_level([f"w{i}" for i in range(60)])


@pytest.fixture(scope="module")
def model():
    """A small tied model with grouped heads, and its parameters."""
    c = model_config.ModelConfig(63, 16, 3, 4, 2, 6, 10, tied_embedding=True)
    return c, random_params(c)


def random_params(c):
    rng = np.random.default_rng(0)
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        Decoder(c).init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )["params"]
    return {
        name: jnp.asarray(rng.standard_normal(x.shape), x.dtype)
        for name, x in sorted(shapes.items())
    }


@pytest.mark.parametrize("name", NAMES)
def test_writes_what_transformers_wrote(name, words, tmp_path):
    c = golden.config(name)
    source = json.loads((golden.ROOT / name / "config.json").read_text())
    params = golden.params(golden.ROOT / name, c)
    hf_folder.save(tmp_path / "out", params, c, words, source)
    expected = load_file(golden.ROOT / name / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, err_msg=key)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == {**source, "torch_dtype": "float32"}
    again = golden.params(tmp_path / "out", c)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_a_folder_is_whole(words, model, tmp_path):
    c, params = model
    hf_folder.save(tmp_path / "out", params, c, words)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["eos_token_id"], config["pad_token_id"]) == (1, 0)
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert ends == {"eos_token_id": [1], "pad_token_id": 0}
    other = tokenizers.load(tmp_path / "out")
    assert other("w3 w59")["input_ids"] == words("w3 w59")["input_ids"] == [6, 62]
    hf_folder.save(tmp_path / "two", params, c, words, eos_ids=(1, 7))
    ends = json.loads((tmp_path / "two" / "generation_config.json").read_text())
    assert ends["eos_token_id"] == [1, 7]


def test_how_a_model_generates_is_kept(words, model, tmp_path):
    c, params = model
    said = {
        "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.1, "do_sample": True,
        "max_new_tokens": 64, "bos_token_id": 9, "eos_token_id": 8, "pad_token_id": 7,
    }  # fmt: skip
    hf_folder.save(tmp_path / "out", params, c, words, generation=said, eos_ids=(1, 7))
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    # Of the ids, the tokenizer's where it has them: it has no first token.
    assert found == {**said, "eos_token_id": [1, 7], "pad_token_id": 0}


def test_an_encoder_decoder_says_what_a_text_begins_with(words, tmp_path):
    """Where transformers finds this file, it asks config.json for nothing."""
    config, params = golden_t5.read("t5_gated")
    values, _ = golden_t5.file_of("t5_gated")
    assert config.start_id == values["decoder_start_token_id"] != 0
    hf_folder.save(tmp_path / "out", params, config, words, values)
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert found["decoder_start_token_id"] == config.start_id


def test_shards_hold_each_tensor_once(words, model, tmp_path):
    c, params = model
    hf_folder.save(tmp_path / "one", params, c, words)
    hf_folder.save(tmp_path / "many", params, c, words, shard_bytes=3_000)
    index = json.loads((tmp_path / "many" / safetensors_files.INDEX).read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    found, sizes = {}, []
    for file in files:
        part = load_file(tmp_path / "many" / file)
        assert all(index["weight_map"][name] == file for name in part)
        found |= part
        sizes.append([array.nbytes for array in part.values()])
    # No file over the limit, but one that holds a single tensor of that size.
    assert all(sum(held) <= 3_000 or len(held) == 1 for held in sizes)
    assert max(map(sum, sizes)) > 3_000
    expected = load_file(tmp_path / "one" / "model.safetensors")
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in expected.values())
    assert not (tmp_path / "many" / safetensors_files.SINGLE).exists()
    jax.tree.map(
        np.testing.assert_array_equal, golden.params(tmp_path / "many", c), params
    )


@pytest.mark.parametrize(
    "dtype, kind", [("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)]
)
def test_another_type_is_rounded_once(dtype, kind, words, model, tmp_path):
    c, params = model
    hf_folder.save(tmp_path / "out", params, c, words, dtype=dtype)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {x.dtype for x in found.values()} == {np.dtype(kind)}
    embedding = np.asarray(params["embedding"])
    np.testing.assert_array_equal(
        found["model.embed_tokens.weight"], embedding.astype(kind)
    )
    assert np.any(embedding.astype(kind).astype(np.float32) != embedding)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"]) == (dtype, dtype)


def test_parameters_keep_their_type(words, model, tmp_path):
    c, params = model
    c = dataclasses.replace(c, param_dtype="bfloat16")
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    hf_folder.save(tmp_path / "out", params, c, words)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(x.dtype) for x in found.values()} == {"bfloat16"}


def test_holds_one_tensor_at_a_time(words, tmp_path):
    c = model_config.ModelConfig(1_000, 200, 12, 4, 2, 50, 600)
    params = random_params(c)
    largest = 4 * c.width * 2 * c.mlp_width  # gate and up of a layer are one of ours
    whole = 4 * sum(x.size for x in params.values())
    assert whole > 15 * largest
    tracemalloc.start()
    hf_folder.save(tmp_path / "out", params, c, words, shard_bytes=4_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * largest


@pytest.mark.parametrize(
    "value, dtype, message",
    [
        (1e6, "float16", r"layers.1.mlp.up_proj.weight holds .* not finite in float16"),
        (np.nan, None, r"layers.1.mlp.up_proj.weight holds .* not finite in float32"),
    ],
)
def test_what_is_not_finite_is_named(value, dtype, message, words, model, tmp_path):
    c, params = model
    broken = {**params, "gate_up": params["gate_up"].at[1, 3, -1].set(value)}
    with pytest.raises(ValueError, match=message):
        hf_folder.save(tmp_path / "out", broken, c, words, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_is_refused(words, model, tmp_path):
    c, params = model
    out = tmp_path / "out"
    out.mkdir()
    hf_folder.save(out, params, c, words)  # empty is as good as missing
    before = (out / "model.safetensors").read_bytes()
    hf_folder.save(out, jax.tree.map(lambda x: x + 1, params), c, words)
    assert (out / "model.safetensors").read_bytes() != before
    (out / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match=r"earlier export \(thesis.tex\): choose"):
        hf_folder.save(out, params, c, words)
    assert (out / "thesis.tex").exists()
    # A model somebody else put there, though it has the same files.
    (out / "thesis.tex").unlink()
    (out / hf_folder.RECORD).unlink()
    with pytest.raises(ValueError, match="not of an earlier export"):
        hf_folder.save(out, params, c, words)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not a folder"):
        hf_folder.save(tmp_path / "file", params, c, words)
    with pytest.raises(ValueError, match="there is no folder"):
        hf_folder.save(tmp_path / "no" / "out", params, c, words)


def test_a_full_disk_leaves_what_was_there(words, model, tmp_path, monkeypatch):
    c, params = model
    out = tmp_path / "out"
    hf_folder.save(out, params, c, words)
    before = (out / "model.safetensors").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(hf_folder, "write", full)
        with pytest.raises(OSError, match=r"cannot be written .*No space left") as told:
            hf_folder.save(out, jax.tree.map(lambda x: x + 1, params), c, words)
    assert told.value.errno == errno.ENOSPC
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OSError, match=r"\(100 bytes of disk are free, the weights need"
    ):
        hf_folder.save(out, params, c, words)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (out / "model.safetensors").read_bytes() == before


def test_extras_are_part_of_the_folder(words, model, tmp_path):
    def extra(part: pathlib.Path) -> None:
        (part / "sub").mkdir()
        (part / "sub" / "more.txt").write_text("more")

    c, params = model
    for _ in range(2):
        hf_folder.save(tmp_path / "out", params, c, words, extras=[extra])
    assert (tmp_path / "out" / "sub" / "more.txt").read_text() == "more"
    record = json.loads((tmp_path / "out" / hf_folder.RECORD).read_text())
    assert "sub/more.txt" in record["files"]


def test_what_does_not_belong_together_is_told(words, model, tmp_path):
    c, params = model
    with pytest.raises(ValueError, match="tokenizer has 63 tokens, .* vocabulary 60"):
        small = dataclasses.replace(c, vocab_size=60)
        hf_folder.save(tmp_path / "out", params, small, words)
    source = json.loads((golden.ROOT / "llama" / "config.json").read_text())
    with pytest.raises(ValueError, match="no longer that of its config.json:\n  vocab"):
        hf_folder.save(tmp_path / "out", params, c, words, source)
    with pytest.raises(ValueError, match="dtype is 'int8'; it must be one of float32"):
        hf_folder.save(tmp_path / "out", params, c, words, dtype="int8")
    with pytest.raises(ValueError, match="shard_bytes is 0"):
        hf_folder.save(tmp_path / "out", params, c, words, shard_bytes=0)
