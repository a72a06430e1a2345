"""Folders and workdirs converted at the command line."""

import json
import shlex
import shutil
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import convert
from rljax.models import config as model_config
from rljax.models import heads_file, hf_folder, loading
from rljax.models.heads import Head
from rljax.policy import networks
from rljax.text import tokenizer as tokenizers
from rljax.training import checkpoint
from rljax.training.workdir import open_workdir
from tests.models import golden

UPDATE = 7


@pytest.fixture(scope="module")
def words():
    return tokenizers.word_level([f"w{i}" for i in range(40)])


@pytest.fixture(scope="module")
def policy(words):
    config = model_config.tiny(len(words))
    return networks.make(config, words.eos_token_id, (5,))


def settings(**more):
    return {
        "seed": 3,
        "env": {"world": "a", "num_objects": 6, "sequences": False},
        "model": {"size": "tiny", "read_q": "path"},
        "warm_start": {"updates": 0},
        **more,
    }


def run(path, words, params, config):
    """What a run leaves: settings, tokenizer, checkpoint, summary."""
    place = open_workdir(path, config, say=lambda _: None)
    words.save_pretrained(path / "hf")
    # The rest has parameters, too, which are not the policy's.
    rest = State({"actor": jnp.ones(2)}, jnp.ones(5))
    state = (State(params, jnp.zeros(3)), rest)
    checkpoint.save(place.checkpoints, UPDATE, state, {})
    summary = {"after": {"grasp": 0.5}, "env_steps": 640, "updates": UPDATE}
    (path / "summary.json").write_text(json.dumps(summary))


@flax.struct.dataclass
class State:
    """Like an agent's: parameters and something else."""

    params: Any
    other: jax.Array


def trees_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_of_sac_becomes_a_folder(words, policy, tmp_path, monkeypatch):
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "actor": policy.init_trunk(keys[0]),
        "critic": policy.init_trunk(keys[1]),
        "q": policy.init_q(keys[2]),
    }
    config = settings(critic_error="sigmoid_cross_entropy")
    run(tmp_path / "run", words, params, config)
    out = tmp_path / "out"
    assert convert.main([f"--model={tmp_path / 'run'}", f"--out={out}"]) == 0
    c = model_config.tiny(len(words))
    trees_equal(golden.params(out, c), params["actor"])
    trees_equal(golden.params(out / "critic", c), params["critic"])
    heads, notes = heads_file.load(out)
    trees_equal(heads, {"q": params["q"]})
    assert notes == heads_file.Notes(64, 1, "path", "logit", "critic")
    hidden = np.ones((2, 64), np.float32)
    np.testing.assert_array_equal(
        Head((5,)).apply({"params": heads["q"]}, hidden),
        Head((5,)).apply({"params": params["q"]}, hidden),
    )
    card = (out / "README.md").read_text()
    for part in (
        "SAC-GLAM",
        "**Seeds**: 3",
        "640 environment steps",
        "| grasp | 0.5 |",
    ):
        assert part in card, part
    # The command of this process, as the workdir has it.
    assert shlex.join(["python", *sys.orig_argv[1:]]) in card
    assert tokenizers.load(out)("w3")["input_ids"] == words("w3")["input_ids"]
    # What was converted converts again, heads, critic and card included, and nothing
    # of it is put onto a device.
    loads, load_params = [], loading.load_params

    def watched(model, place=None, dtype=None):
        loads.append(place)
        return load_params(model, place, dtype)

    monkeypatch.setattr(loading, "load_params", watched)
    again = tmp_path / "again"
    assert convert.main([f"--model={out}", f"--out={again}", "--dtype=bfloat16"]) == 0
    assert loads == [convert._on_the_host] * 2
    trees_equal(heads_file.load(again)[0], heads)
    assert heads_file.load(again)[1] == notes
    assert (again / "README.md").read_text() == card
    for folder in (again, again / "critic"):
        kinds = {str(x.dtype) for x in load_file(folder / "model.safetensors").values()}
        assert kinds == {"bfloat16"}


def test_a_run_of_ppo_becomes_a_folder(words, policy, tmp_path, capsys):
    keys = jax.random.split(jax.random.key(1))
    params = {"actor": policy.init_trunk(keys[0]), "v": policy.init_v(keys[1])}
    run(tmp_path / "run", words, params, settings())
    model, out = f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"
    assert convert.main([model, out, f"--update={UPDATE}"]) == 0
    assert "parameters, heads v\n" in capsys.readouterr().out
    heads, notes = heads_file.load(tmp_path / "out")
    trees_equal(heads, {"v": params["v"]})
    assert (notes.trunk, notes.q_output) == (".", "value")
    assert "PPO-GLAM" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "critic").exists()
    assert convert.main([model, out, "--update=3"]) == 2
    assert f"--update=3: {tmp_path / 'run' / 'checkpoints'} has 7" in error(capsys)
    # A checkpoint that is not what was written is not converted.
    data = next(p for p in (tmp_path / "run" / "checkpoints").rglob("d/*"))
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    assert convert.main([model, out, f"--update={UPDATE}"]) == 2
    assert "is damaged" in error(capsys)


@pytest.mark.parametrize("name", golden.names())
def test_a_hugging_face_folder_becomes_one(name, words, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for path in (golden.ROOT / name).glob("*.[js]*"):
        (model / path.name).write_bytes(path.read_bytes())
    words.save_pretrained(model)
    said = {"eos_token_id": [2, 5], "temperature": 0.6, "max_new_tokens": 9}
    (model / "generation_config.json").write_text(json.dumps(said))
    assert convert.main([f"--model={model}", f"--out={tmp_path / 'out'}"]) == 0
    expected = load_file(model / "model.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    trees_equal(found, expected)
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert ends == {**said, "pad_token_id": words.pad_token_id}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "* **Base model**: model\n* **Method**: none: converted only" in card


def error(capsys) -> str:
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: None, "there is no model at"),
        (lambda p: p.mkdir(), "holds no config.json, but nothing"),
        (lambda p: config(p, "{"), "config.json cannot be read"),
        (lambda p: config(p, "[]"), "config.json holds no settings"),
        (lambda p: config(p, '{"model_type": "mamba"}'), "model_type 'mamba' is not"),
        (lambda p: shutil.copytree(golden.ROOT / "llama", p), "holds no tokenizer"),
    ],
)
def test_what_is_no_model_is_told(make, message, tmp_path, capsys):
    make(tmp_path / "model")
    words = [f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'out'}"]
    assert convert.main(words) == 2
    assert message in error(capsys)
    assert not (tmp_path / "out").exists()


def config(path, text: str) -> None:
    path.mkdir()
    (path / "config.json").write_text(text)


def test_the_source_is_not_overwritten(words, tmp_path, capsys):
    c = model_config.tiny(len(words))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes(c))
    hf_folder.save(tmp_path / "model", zeros, c, words)
    (tmp_path / "model" / hf_folder.RECORD).unlink()  # as if from elsewhere
    words = [f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'model'}"]
    assert convert.main(words) == 2
    assert "holds what is not of an earlier export" in error(capsys)


def shapes(c):
    policy = networks.make(c, 1, ())
    return jax.eval_shape(policy.init_trunk, jax.random.key(0))
