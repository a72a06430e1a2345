"""Our side of the benchmark is a whole step, and the model is the one it says."""

import dataclasses

import numpy as np
import pytest

from benchmarks import common, decode, decode_ways, grpo, grpo_peer
from rljax.models.config import ModelConfig
from rljax.training import online

MODEL = ModelConfig(
    vocab_size=37,
    width=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=12,
)
SIZE = grpo.Size(MODEL, groups=4, samples=3, prompt=5, new=7)


def test_a_step_draws_whole_answers_and_learns_from_them():
    params, clock = decode_ways.initial(MODEL), grpo.Clock()
    told = grpo.our_steps(SIZE, 0.04, params, clock)()
    assert told["rollout/length"] == SIZE.new and told["tokens"] == SIZE.tokens == 84
    assert told["rollout/sampler_gap"] < 1e-4
    assert told["train/grad_norm"] > 0 and told["train/skipped"] == 0
    (taken,) = clock.steps
    assert set(taken) == {"generate", "update", "whole"}
    assert taken["whole"] > taken["generate"] + taken["update"]
    assert grpo.split_of("step", clock).startswith("step, ms: generate ")


def test_a_fresh_agent_has_one_update_a_step():
    parts = grpo.parts_of(SIZE, 0.0, grpo.Clock())
    for more in (dict(batch_groups=2), dict(epochs=2)):
        sizes = dataclasses.replace(parts.sizes, **more)
        with pytest.raises(ValueError, match="fresh, but has 2 updates a step"):
            online.make(parts._replace(sizes=sizes))


def test_log_probs_are_of_the_answers():
    params = decode_ways.initial(MODEL)
    rng = np.random.default_rng(0)
    answers = rng.integers(0, MODEL.vocab_size, (SIZE.groups, SIZE.new)).tolist()
    prompts = grpo.prompts(SIZE)
    found = grpo.log_probs(MODEL, params, prompts, answers)
    assert found.shape == (SIZE.groups, SIZE.new)
    # The last token says nothing of those before it.
    other = [ids[:-1] + [(ids[-1] + 1) % MODEL.vocab_size] for ids in answers]
    changed = grpo.log_probs(MODEL, params, prompts, other) != found
    assert changed[:, -1].all() and not changed[:, :-1].any()
    assert (found < 0).all() and np.isfinite(found).all()


def test_both_sides_have_one_text_and_one_judge():
    ids = [3, 12, 36]
    text = grpo.Numbers().decode(ids)
    other = grpo_peer.Numbers(MODEL.vocab_size)
    assert other.decode(ids) == text and other.encode(text) == ids
    assert min(other.eos_id(), other.pad_id()) >= MODEL.vocab_size
    judge = grpo_peer.Judge()
    texts = [text, "1 2 3", "10 2"]
    assert judge([], texts) == [grpo.even("", text) for text in texts]
    assert judge.tokens == 8


def test_sizes_fit_and_a_missing_peer_is_said(monkeypatch, tmp_path, capsys):
    for size in grpo.SIZES.values():
        assert size.model.rope_theta == grpo.THETA
    monkeypatch.setenv("RLJAX_TUNIX", str(tmp_path / "none"))
    assert decode.python_of_peer(None, "RLJAX_TUNIX", "") is None
    assert "run `make peers`" in capsys.readouterr().err
    table = common.table([decode.row("step", np.ones(3), np.ones(3), grpo.TARGET)])
    assert ">= 2  MISSED" in table
