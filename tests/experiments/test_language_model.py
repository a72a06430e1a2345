"""Runs on models that come from files, whole and beside adapters."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import convert, language_model, playground, run, sac_glam
from experiments.border import ConfigError
from experiments.configs.sac_glam import get_config
from rljax.agents import ppo_glam
from rljax.agents import sac_glam as sac_glam_agent
from rljax.models import families, families_t5, hf_folder, loading, lora, peft_folder
from rljax.models.config import ModelConfig
from rljax.policy import networks
from rljax.training import checkpoint
from tests.models import golden_t5

CALL = 64  # environment steps


@pytest.fixture(scope="module")
def words():
    """The smoke world's own tokenizer."""
    return playground.make_task(get_config("smoke")).tokenizer


@pytest.fixture(scope="module")
def folder(words, tmp_path_factory):
    """A Hugging Face folder with a small random model that knows the world's words."""
    size = ModelConfig(len(words) + 3, 16, 2, 2, 1, 8, 24, max_positions=128)
    params = networks.make(size, words.eos_token_id, (4,)).init_trunk(jax.random.key(5))
    path = tmp_path_factory.mktemp("models") / "small"
    # Two tokens end a text, as in the chat models of several families.
    ends, said = (words.eos_token_id, 5), {"temperature": 0.6}
    hf_folder.save(path, params, size, words, eos_ids=ends, generation=said)
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**values, "initializer_range": 0.3}))
    return path


def settings(folder, **lora_settings):
    config = get_config("smoke")
    config.model.path = str(folder)
    config.lora.update(lora_settings)
    config.total_env_steps = 2 * CALL
    config.eval.scenes = config.eval.final_scenes = 2
    config.eval.episodes_shown = 1
    return config


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_whole_model_starts_from_its_folder(folder, monkeypatch, tmp_path):
    ends = []
    loop_train = run.loop.train

    def watched(program, schedule, place):
        ends.append(jax.device_get(program.init()[0].params["actor"]))
        return loop_train(program, schedule, place)

    monkeypatch.setattr(run.loop, "train", watched)
    monkeypatch.setenv("HOME", str(folder.parent))
    sac_glam.main(settings("~/small"), str(tmp_path / "run"))
    loaded = loading.load_params(loading.open_model(folder))
    equal(ends[0], jax.device_get(loaded))
    convert.convert(str(tmp_path / "run"), str(tmp_path / "out"))
    out = jax.device_get(loading.load_params(loading.open_model(tmp_path / "out")))
    assert np.abs(out["embedding"] - loaded["embedding"]).max() > 0  # it has learnt
    at = checkpoint.updates(tmp_path / "run" / "checkpoints")[-1]
    saved = checkpoint.read_params(tmp_path / "run" / "checkpoints", at)
    equal(out, saved["actor"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "~/small" in card and "SAC-GLAM" in card
    # The base's own notes, its end tokens, and how it is sampled are kept.
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["initializer_range"] == 0.3
    said = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (said["eos_token_id"], said["temperature"]) == ([1, 5], 0.6)
    assert loading.open_model(tmp_path / "out").eos_ids == (1, 5)


def test_an_adapter_learns_beside_its_folder(folder, tmp_path):
    config = settings(folder, rank=2, alpha=4.0)
    config.agent.shared_trunk = False
    sac_glam.main(config, str(tmp_path / "run"))
    convert.convert(str(tmp_path / "run"), str(tmp_path / "out"))
    base = loading.load_params(loading.open_model(folder))
    model = loading.open_model(tmp_path / "out")
    adapter, how = peft_folder.load(tmp_path / "out" / convert.ADAPTER, model.config)
    assert how == lora.LoraConfig(2, 4.0) and np.any(adapter["q_proj"]["b"])
    merged = lora.merge(base, adapter, model.config, how)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        merged, loading.load_params(model),
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / convert.ADAPTER / "adapter_config.json")
                        .read_text())  # fmt: skip
    assert record["base_model_name_or_path"] == str(folder)
    # An export that is converted, be it onto itself, keeps its adapter.
    place = tmp_path / "out" / convert.ADAPTER
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    for out in ("again", "out"):
        convert.convert(str(tmp_path / "out"), str(tmp_path / out))
        place = tmp_path / out / convert.ADAPTER
        assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    # A base that is no longer what the run learnt beside is refused.
    moved = jax.tree.map(lambda x: x + 1, base)
    hf_folder.save(folder.parent / "moved", moved, model.config, model.tokenizer())
    told = json.loads((tmp_path / "run" / "config.json").read_text())
    told["config"]["model"]["path"] = str(folder.parent / "moved")
    (tmp_path / "run" / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="learnt beside weights with crc32:.* now has"):
        convert.read(str(tmp_path / "run"))


def test_ppo_takes_the_same_weights(folder):
    task = playground.make_task(settings(folder))
    assert task.start is not None and task.frozen is None
    agent = ppo_glam.make(task.networks, task.read, ppo_glam.Config())
    start = task.start()
    state = agent.init(jax.random.key(0), trunk=start)
    equal(state.params["actor"], start)


def test_the_policy_is_the_folders(folder, words):
    """Log-probabilities of commands are those of the model opened by itself."""
    task = playground.make_task(settings(folder, rank=2))
    assert task.frozen is not None and task.start is None
    states = playground.panel(task, "train", None, 0, 4)
    obs = jax.vmap(task.env.observe)(states)
    prompt, tries = task.read(obs)
    weights = task.networks.join(
        task.frozen(), task.networks.init_trunk(jax.random.key(0))
    )
    found = task.networks.log_policy(
        weights, task.networks.encode(weights, prompt, tries), tries
    )
    model = loading.open_model(folder)
    plain = networks.make(model.config, words.eos_token_id, (4,))
    params = loading.load_params(model)
    wanted = plain.log_policy(params, plain.encode(params, prompt, tries), tries)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_types_of_weights_and_activations(folder):
    config = settings(folder)
    config.model.param_dtype = "bfloat16"
    task = playground.make_task(config)
    assert task.start is not None
    assert {x.dtype for x in jax.tree.leaves(task.start())} == {jnp.dtype("bfloat16")}


def save_t5(words, folder):
    """Tiny random weights, since no T5 installs without a hub."""
    values, _ = golden_t5.file_of("t5_gated")
    values |= {"vocab_size": len(words), "scale_decoder_outputs": True}
    config = families_t5.config_of(values)
    start = networks.make_encdec(config, words.eos_token_id, (4,)).init_trunk
    params = start(jax.random.key(3))
    hf_folder.save(folder, params, config, words, values)
    return params


def test_a_t5_learns_and_is_written(words, tmp_path):
    params = save_t5(words, tmp_path / "t5")
    equal(loading.load_params(loading.open_model(tmp_path / "t5")), params)
    sac_glam.main(settings(tmp_path / "t5"), str(tmp_path / "run"))
    convert.convert(str(tmp_path / "run"), str(tmp_path / "out"))
    learnt = loading.load_params(loading.open_model(tmp_path / "out"))
    at = checkpoint.updates(tmp_path / "run" / "checkpoints")[-1]
    saved = checkpoint.read_params(tmp_path / "run" / "checkpoints", at)["actor"]
    equal(learnt, saved)
    assert all(np.any(learnt[name] != params[name]) for name in params)


def test_an_adapter_of_a_t5_learns_and_is_written(words, tmp_path):
    """The scale that is for it, cut down to a smoke run."""
    base = save_t5(words, tmp_path / "t5")
    config, smoke = get_config("flan_t5"), settings(tmp_path / "t5", rank=2, alpha=4.0)
    assert not config.agent.shared_trunk
    config.update({k: smoke[k] for k in ("env", "eval", "log", "loop", "lora")})
    config.model.path, config.model.dtype = str(tmp_path / "t5"), ""
    config.total_env_steps, config.agent.warmup_updates = 2 * CALL, 1
    sac_glam.main(config, str(tmp_path / "run"))
    convert.convert(str(tmp_path / "run"), str(tmp_path / "out"))
    model = loading.open_model(tmp_path / "out")
    adapter, how = peft_folder.load(tmp_path / "out" / convert.ADAPTER, model.config)
    assert how == lora.LoraConfig(2, 4.0, ("q", "k", "v", "o", "wi_0", "wi_1", "wo"))
    assert all(np.any(pair["b"]) for pair in adapter.values())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        lora.merge(base, adapter, model.config, how), loading.load_params(model),
    )  # fmt: skip
    at = checkpoint.updates(tmp_path / "run" / "checkpoints")[-1]
    saved = checkpoint.read_params(tmp_path / "run" / "checkpoints", at)
    equal(adapter, saved["actor"])
    assert saved["critic"].keys() == adapter.keys()  # beside the same base
    sizes = {
        x.size for x in jax.tree.leaves({k: saved[k] for k in ("actor", "critic")})
    }
    assert max(sizes) < base["embedding"].size


def test_adapters_beside_gpt2(words, tmp_path):
    size = ModelConfig(
        len(words), 16, 1, 2, 2, 8, 24, max_positions=128, learned_positions=True,
        layer_norm=True, gated_mlp=False, gate=families.GELU_TANH, qkv_bias=True,
        output_biases=True, tied_embedding=True, norm_eps=1e-5,
    )  # fmt: skip
    params = networks.make(size, words.eos_token_id, (4,)).init_trunk(jax.random.key(5))
    hf_folder.save(tmp_path / "gpt2", params, size, words)
    config = settings(tmp_path / "gpt2", rank=2)
    config.lora.targets = ("q_proj",)
    with pytest.raises(
        ConfigError, match="model has no q_proj, but c_attn, c_proj, c_"
    ):
        playground.make_task(config)
    config.lora.targets = ()
    task = playground.make_task(config)
    assert task.frozen is not None
    agent = sac_glam_agent.make(task.networks, task.read, sac_glam_agent.Config())
    state = agent.init(jax.random.key(0), task.frozen())
    sites = {"c_attn", "attn_c_proj", "c_fc", "mlp_c_proj"}
    assert state.params["actor"].keys() == sites
    equal(state.frozen, params)


def test_a_run_ends_a_text_with_its_own_token_too(folder, words):
    """Whatever the files of its model say."""
    (folder.parent / "other").mkdir()
    for path in folder.iterdir():
        (folder.parent / "other" / path.name).write_bytes(path.read_bytes())
    said = json.dumps({"eos_token_id": [5, 6]})
    (folder.parent / "other" / "generation_config.json").write_text(said)
    config = settings(folder.parent / "other")
    found = language_model.of_run(config.to_dict(), words)
    assert found.eos_ids == (5, 6, words.eos_token_id)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"path": "/nowhere"}, "config.model.path: there is no model at /nowhere"),
        ({"path": "https://x/y"}, "config.model.path: https://x/y is an address"),
        ({"path": "Qwen/Qwen2-0.5B"}, "If it is a name on a hub, nothing is"),
        ({"path": ""}, "lora.rank is 2: it must be 0 without model.path"),
        ({"dtype": "int8"}, "model.dtype is 'int8': it must be one of float32"),
        ({"tokenizer": "there"}, "model.tokenizer is 'there': it must be empty with"),
        ({"chat": True}, "config.model.chat: "),
    ],
)
def test_what_cannot_be_is_refused(folder, change, message):
    config = settings(folder, rank=2)
    config.model.update(change)
    with pytest.raises(ConfigError) as error:
        playground.make_task(config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rank": -1}, "lora.rank is -1: it must be at least 0"),
        ({"rank": 1, "alpha": 0.0}, "config.lora: alpha is 0.0; it must be > 0"),
        ({"rank": 1, "targets": ("q",)}, "config.lora: targets is ('q',)"),
    ],
)
def test_adapters_that_cannot_be_are_refused(folder, change, message):
    with pytest.raises(ConfigError) as error:
        playground.make_task(settings(folder, **change))
    assert message in str(error.value)


def test_a_context_too_short_is_refused(folder, words, tmp_path):
    size = ModelConfig(len(words), 16, 1, 2, 1, 8, 24, max_positions=10)
    params = networks.make(size, words.eos_token_id, (4,)).init_trunk(jax.random.key(5))
    hf_folder.save(tmp_path / "short", params, size, words)
    with pytest.raises(
        ConfigError, match=r"longest prompt \(\d+\).* its context is 10"
    ):
        playground.make_task(settings(tmp_path / "short"))


def test_a_warm_start_of_what_is_warm_is_refused(folder):
    config = settings(folder)
    config.warm_start.updates = 1
    with pytest.raises(ConfigError, match="warm_start.updates is 1: it must be 0"):
        playground.make_task(config)
