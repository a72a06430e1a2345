"""Runs whose policy or critic begins elsewhere than at the reference; several logs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import credit, offline, oreo, starts
from experiments import critic as critic_lib
from rljax.data import logs
from rljax.models import hf_folder
from rljax.training import checkpoint
from rljax.training.files import RunError
from tests.experiments.logged_runs import on, rows, run, settings, weights

TINY = (
    "--config.eval.problems=2",
    "--config.eval.max_tokens=8",
    "--config.drift.sample=0",
    "--config.log.checkpoint_every_updates=2",
)
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def first(begun, tmp_path_factory):
    """An OREO run, whose policy and critic others begin with."""
    return run("oreo", tmp_path_factory.mktemp("first") / "run", *on(begun, *TINY))


def test_a_run_from_other_weights_keeps_its_reference_and_goes_on(
    begun, first, tmp_path
):
    shutil.copytree(first / "hf", tmp_path / "hf")
    more = on(
        begun, *TINY,
        f"--config.model.policy={tmp_path / 'hf'}",
        f"--config.critic.path={tmp_path / 'hf'}",
    )  # fmt: skip
    whole = run("oreo", tmp_path / "whole", *more)
    alone, other = rows(first)[1], rows(whole)[1]
    assert abs(alone["train/log_ratio_good"]) < 1e-6 < abs(alone["critic/grad_norm"])
    assert abs(other["train/log_ratio_good"]) > 1e-4
    assert alone["critic/value_good"] == 0 != other["critic/value_good"]
    records = [
        json.loads((path / "config.json").read_text())["config"]
        for path in (first, whole)
    ]
    assert records[0]["frozen"] == records[1]["frozen"]  # the reference
    assert "begun" not in records[0] and records[1]["begun"].startswith("crc32:")
    # The page reads such a run, beside its reference.
    found = credit.open_run(str(whole))
    assert found.reference and checkpoint.digest(found.state.frozen) == weights(
        begun / "sft"
    )

    shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "hf")
    again = run("oreo", tmp_path / "again", *more, "--config.resume=4")
    assert rows(again) == rows(whole) and weights(again) == weights(whole)
    # Neither a policy nor a critic of other weights goes on with it.
    for part in (".", "critic"):
        place = tmp_path / "hf" / part / WEIGHTS
        held = place.read_bytes()
        shutil.copy(begun / "sft" / "hf" / WEIGHTS, place)
        with pytest.raises(RunError, match="begun: 'crc32:.*there, 'crc32:.* here"):
            run("oreo", again, *more)
        place.write_bytes(held)
    run("oreo", again, *more)


def begun_state(config):
    """The state of a run before its first update, and where it begins."""
    start, method = starts.choose_start(config), oreo.method_of(config)
    agent = method.agent(start, 4, None)
    networks = offline._begun(config, start, method)
    return agent.init(jax.random.key(0), start.weights(), networks), start


def test_a_carried_critic_is_the_one_that_was_written(begun, first):
    path = f"--config.critic.path={first / 'hf'}"
    state, start = begun_state(settings("oreo", *on(begun, path)))
    learnt = credit.open_run(str(first)).state.params
    jax.tree.map(
        np.testing.assert_array_equal, state.params["critic"], learnt["critic"]
    )
    jax.tree.map(np.testing.assert_array_equal, state.params["actor"], start.weights())
    assert np.any(state.params["critic"]["head"])
    fresh, _ = begun_state(settings("oreo", *on(begun)))
    assert not np.any(fresh.params["critic"]["head"])


def test_a_head_on_the_policys_trunk_is_carried_alone(begun, tmp_path):
    _, start = begun_state(settings("oreo", *on(begun)))
    head = np.arange(1, start.config.width + 1, dtype=np.float32)
    hf_folder.save(
        tmp_path / "hf", start.weights(), start.config, start.tokenizer,
        extras=[critic_lib.export(start, None, jnp.asarray(head))],
    )  # fmt: skip
    path = f"--config.critic.path={tmp_path / 'hf'}"
    shared = "--config.value=shared_trunk"
    state, _ = begun_state(settings("oreo", *on(begun, path, shared)))
    np.testing.assert_array_equal(state.params["critic"]["head"], head)
    with pytest.raises(RunError, match="value is 'own_trunk': it must be shared_trunk"):
        begun_state(settings("oreo", *on(begun, path)))


def test_what_nothing_can_begin_as_is_refused(begun, first, tmp_path):
    def refused(match, *more, method="oreo"):
        with pytest.raises(RunError, match=match):
            run(method, tmp_path / "x", *on(begun), *more)

    policy = f"--config.model.policy={first / 'hf'}"
    critic = f"--config.critic.path={first / 'hf'}"
    refused("model.policy is .* empty with lora.rank=2", policy, "--config.lora.rank=2")
    refused("critic.path is .* empty with lora.rank=2", critic, "--config.lora.rank=2")
    refused("critic.path is .* with value=adapter", critic, "--config.value=adapter")
    refused("must be own_trunk with critic", critic, "--config.value=shared_trunk")
    refused("config.model.policy: .*nowhere", "--config.model.policy=nowhere")
    sft = begun / "sft" / "hf"
    refused("config.critic.path: .*no heads", f"--config.critic.path={sft}")
    wide = run(
        "sft", tmp_path / "wide", *TINY, "--config.model.width=16",
        "--config.task.solved_size=16", "--config.data.epochs=1",
    )  # fmt: skip
    refused(
        "config.model.policy: .* width is 16 there, 32 here",
        f"--config.model.policy={wide / 'hf'}", method="kto",
    )  # fmt: skip
    assert not (tmp_path / "x").exists()
    with pytest.raises(RunError, match="model.policy is .* empty without model.path"):
        run("sft", tmp_path / "x", policy)
    for method in ("collect", "search"):
        with pytest.raises(RunError, match="model.policy is not a setting"):
            settings(method, policy)


def test_several_logs_are_learnt_from_as_one(begun, first, tmp_path):
    records = list(logs.read(begun / "log.jsonl.gz"))
    names = [tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz"]
    logs.write(names[0], records[:10])
    logs.write(names[1], records[10:])
    path = f"--config.data.path={names[0]},{names[1]}"
    both = run("oreo", tmp_path / "run", *on(begun, *TINY), path)
    assert rows(both) == rows(first) and weights(both) == weights(first)
    digests = [
        json.loads((at / "config.json").read_text())["config"]["log_digest"]
        for at in (both, first)
    ]
    assert digests[0] == digests[1]
    assert credit.main([f"--workdir={both}", f"--data={names[1]}"]) == 0

    with names[0].open("a") as file:
        file.write('{"prompt": "1+1=?\\n"}\n')
    with pytest.raises(RunError, match=r"one.jsonl, line 11: "):
        run("oreo", tmp_path / "x", *on(begun, *TINY), path)
    with pytest.raises(RunError, match="must be logs with one comma between two"):
        run("oreo", tmp_path / "x", *on(begun, *TINY), f"{path},")
