"""What is counted as work is what a forward pass does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, grpo, offline
from rljax.models import decoder

SMALL = dataclasses.replace(
    accelerator.smollm2(),
    vocab_size=96, width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16,
    mlp_width=128, dtype="float32",
)  # fmt: skip


def test_work_is_what_the_compiler_counts():
    # XLA counts all pairs of tokens, we those that see each other: half and a diagonal.
    batch, length = 4, 32
    shape = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((batch, length, length), bool)
    model = decoder.Decoder(SMALL)
    params = jax.eval_shape(model.init, jax.random.key(0), shape, shape, mask)

    def forward(params, ids, places, mask):
        hidden = jnp.asarray(model.apply(params, ids, places, mask))
        return decoder.logits(params["params"], hidden, SMALL)

    compiled = jax.jit(forward).lower(params, shape, shape, mask).compile()
    costs = compiled.cost_analysis()
    assert costs is not None
    counted = costs["flops"]
    pairs = length * (length - 1) // 2 * batch
    unseen = 4 * SMALL.num_layers * SMALL.num_heads * SMALL.head_dim * pairs
    ours = accelerator.forward_flops(SMALL, [length] * batch) + unseen
    ours += accelerator.score_flops(SMALL, batch * length)
    # Norms, rotations and softmax are the rest.
    assert ours <= counted <= 1.15 * ours


def test_a_model_of_135_million_weights():
    config = accelerator.smollm2()
    weights = accelerator.trunk_weights(config) + config.vocab_size * config.width
    assert weights == pytest.approx(134.5e6, rel=0.01)


def test_rows_say_what_was_timed():
    rows = accelerator.oreo_rows(SMALL, 4, 1e9, 1, plain=True)
    assert [row.name for row in rows] == ["oreo_mfu", "oreo_speed", "oreo_memory"]
    share, speed, _ = rows
    log = offline.drawn(4, SMALL.vocab_size, 2 * offline.MEDIAN)
    lengths = [len(one.ids) for one in log]
    seconds = sum(lengths) / speed.ours  # the same in both rows
    work = 7 * accelerator.forward_flops(SMALL, lengths)
    work += 4 * accelerator.score_flops(SMALL, sum(one.action.sum() for one in log))
    assert share.ratio == pytest.approx(work / seconds / 1e9, rel=1e-6)
    assert speed.peer > 0 and np.isfinite(speed.ratio)
    size = grpo.Size(SMALL, groups=2, samples=2, prompt=8, new=8)
    rows, split = accelerator.grpo_rows(size, 1e9, 1)
    assert rows[1].unit == "tokens/s (alone)" and rows[1].ours > 0
    assert split.startswith("grpo, ms: generate")
