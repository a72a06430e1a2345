"""PEFT folders: names, shapes, a round trip, and what is refused.

`tests/parity/peft_roundtrip.py` holds them against PEFT itself.
"""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rljax.models import lora, peft_folder
from tests.models.test_decoder import PLAIN

SETTINGS = lora.LoraConfig(rank=2, alpha=5.0, targets=("k_proj", "down_proj"))


def drawn():
    rng = np.random.default_rng(0)
    fresh = lora.init(jax.random.key(0), PLAIN, SETTINGS)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.standard_normal(x.shape), jnp.float32), fresh
    )


@pytest.fixture
def folder(tmp_path):
    peft_folder.save(tmp_path / "a", drawn(), SETTINGS, PLAIN, "some/base")
    return tmp_path / "a"


def change(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_names_shapes_and_factor_are_those_of_peft(folder):
    there = safetensors_numpy.load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.model.layers"
    expected = {}
    for i in range(PLAIN.num_layers):
        expected[f"{stem}.{i}.self_attn.k_proj.lora_A.weight"] = (2, 8)
        expected[f"{stem}.{i}.self_attn.k_proj.lora_B.weight"] = (12, 2)
        expected[f"{stem}.{i}.mlp.down_proj.lora_A.weight"] = (2, 10)
        expected[f"{stem}.{i}.mlp.down_proj.lora_B.weight"] = (8, 2)
    assert {name: x.shape for name, x in there.items()} == expected
    name = f"{stem}.1.self_attn.k_proj.lora_B.weight"
    np.testing.assert_array_equal(there[name], drawn()["k_proj"]["b"][1].T)
    values = json.loads((folder / "adapter_config.json").read_text())
    assert (values["peft_type"], values["r"], values["lora_alpha"]) == ("LORA", 2, 5)
    assert values["base_model_name_or_path"] == "some/base"


def test_round_trip(folder):
    # Notes of newer versions and switches that are off change nothing.
    change(folder, peft_version="9.9", use_something_new=False, rank_pattern={})
    adapter, settings = peft_folder.load(folder, PLAIN)
    assert settings == SETTINGS
    chex.assert_trees_all_equal(adapter, drawn())


@pytest.mark.parametrize(
    "values",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 8}},
        {"layers_to_transform": [0]},
        {"fan_in_fan_out": True},
        {"use_something_new": 3},
        {"peft_type": "IA3"},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": "all-linear"},
        {"r": 0},
        {"r": "4"},
        {"r": True},
        {"lora_alpha": "16"},
        {"target_modules": [["q_proj"]]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "pissa_niter_4"},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_is_not_implemented_is_named(folder, values):
    change(folder, **values)
    name = "has r = " if "r" in values else next(iter(values))
    with pytest.raises(ValueError, match=name):
        peft_folder.load(folder, PLAIN)


@pytest.mark.parametrize("start", [True, False, "gaussian", None])
def test_how_an_adapter_was_drawn_changes_nothing(folder, start):
    change(folder, init_lora_weights=start)
    chex.assert_trees_all_equal(peft_folder.load(folder, PLAIN)[0], drawn())


def test_files_and_tensors_that_do_not_fit_are_listed(folder, tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        peft_folder.load(tmp_path / "nowhere", PLAIN)
    path = folder / "adapter_model.safetensors"
    whole = safetensors_numpy.load_file(path)
    names = sorted(whole)
    broken = dict(whole)
    del broken[names[0]]
    broken[names[1]] = np.zeros((3, 3), np.float32)
    broken["base_model.model.lm_head.lora_A.weight"] = np.zeros((2, 8), np.float32)
    safetensors_numpy.save_file(broken, path)
    with pytest.raises(ValueError) as caught:
        peft_folder.load(folder, PLAIN)
    said = str(caught.value)
    assert f"{names[0]} is missing" in said
    assert f"{names[1]} has shape (3, 3), expected " in said
    assert "lm_head.lora_A.weight (2, 8) is not a part" in said
    path.write_bytes(b"\x08\x00\x00")
    with pytest.raises(ValueError, match="adapter_model.safetensors is damaged"):
        peft_folder.load(folder, PLAIN)
    path.unlink()
    with pytest.raises(ValueError, match="has no adapter_model.safetensors"):
        peft_folder.load(folder, PLAIN)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match="adapter_config.json is not JSON"):
        peft_folder.load(folder, PLAIN)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="has no adapter_config.json"):
        peft_folder.load(folder, PLAIN)


def test_an_adapter_of_another_model_is_not_written(tmp_path):
    adapter = drawn()
    adapter["k_proj"]["b"] = adapter["k_proj"]["b"][:, :, :5]
    with pytest.raises(ValueError, match=r"k_proj has b of shape \(3, 2, 5\), exp"):
        peft_folder.save(tmp_path, adapter, SETTINGS, PLAIN, "")
