"""A run that learns adapters: its base is in no checkpoint, and a resume checks it."""

import json

import jax
import numpy as np
import pytest

from experiments import playground, run, sac_glam
from experiments.configs.sac_glam import get_config
from rljax.models.config import ModelConfig
from rljax.models.lora import LoraConfig
from rljax.policy import networks
from rljax.training import checkpoint
from rljax.training.files import RunError, plain

CALL = 64  # environment steps


@pytest.fixture
def train(monkeypatch):
    """(folder, calls, base seed) -> runs SAC-GLAM on an adapter of a random base."""
    make_task = playground.make_task

    def main(folder, calls, base_seed=0):
        def with_adapter(config):
            task = make_task(config)
            size = ModelConfig(len(task.tokenizer), 16, 1, 2, 2, 8, 16)
            end = task.tokenizer.eos_token_id
            base = networks.make(size, end, (8,)).init_trunk
            lora = LoraConfig(2, 4.0)
            return task._replace(
                networks=networks.make(size, end, (8,), adapter=lora),
                frozen=lambda: base(jax.random.key(base_seed)),
            )

        monkeypatch.setattr(playground, "make_task", with_adapter)
        config = get_config("smoke")
        config.agent.shared_trunk = False
        config.total_env_steps = calls * CALL
        config.eval.scenes = config.eval.final_scenes = 2
        config.eval.episodes_shown = 1
        sac_glam.main(config, str(folder))

    return main


def saved(folder):
    """The last checkpoint's update, and what it holds."""
    at = checkpoint.updates(folder / "checkpoints")[-1]
    meta = json.loads((folder / "checkpoints" / str(at) / "meta.json").read_text())
    shapes = meta["leaves"]
    assert not [x for x in shapes if "frozen" in x or "embedding" in x]
    assert [x for x in shapes if "critic" in x and "q_proj" in x]
    return at, shapes


def test_goes_on_bit_for_bit_and_only_beside_the_same_base(
    train, tmp_path, monkeypatch
):
    ends = []
    loop_train = run.loop.train

    def watched(*args):
        ends.append(loop_train(*args))
        return ends[-1]

    monkeypatch.setattr(run.loop, "train", watched)
    train(tmp_path / "whole", 4)
    train(tmp_path / "parts", 2)
    train(tmp_path / "parts", 4)
    assert saved(tmp_path / "whole") == saved(tmp_path / "parts")
    whole, parts = (jax.tree.leaves(end.state) for end in (ends[0], ends[2]))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(np.asarray(plain(a)), np.asarray(plain(b)))
    record = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert record["config"]["frozen"].startswith("crc32:")
    with pytest.raises(RunError, match="frozen: 'crc32:.*there, 'crc32:.* here"):
        train(tmp_path / "parts", 6, base_seed=1)
