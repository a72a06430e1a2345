"""The plain update and the real one are one, and a difference is seen."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from benchmarks import offline, offline_plain
from rljax.agents.offline import Optimizer
from rljax.models.config import ModelConfig

SMALL = ModelConfig(20, 8, 1, 1, 1, 8, 8)


@pytest.fixture(scope="module")
def case():
    """Few arithmetic texts on a small decoder."""
    whole = offline.arithmetic_case(6)
    return whole._replace(config=SMALL, row_tokens=128)


@pytest.fixture(scope="module")
def ways(case):
    return offline.ways_of(case)


def test_all_ways_give_the_same_losses_and_gradients(ways):
    offline.check(ways)
    state, told = ways["plain"]()
    # V does not read its trunk's unembedding; all else is learnt.
    assert sum(not np.any(x) for x in offline._moments(state)) == 1
    unread = optax.tree.get(state.opt_state["critic"], "mu")["trunk"]["unembedding"]
    assert not np.any(unread)
    assert min(map(float, told.values())) > 0
    # The agent's own test holds it to equations 8 and 9.
    assert np.isfinite(ways["ours"]()[1]["train/entropy"])


def test_batches_are_what_they_are_called(case, ways):
    longest = max(len(one.ids) for one in case.log)
    assert ways["plain"].batch.ids.shape == (6, longest)
    assert ways["padded_fused"].batch.ids.shape == (6, longest)
    rows, wide = ways["ours"].batch.ids.shape
    assert wide == 128 and rows < 6
    assert ways["packed_unfused"].batch.ids.shape == (rows, wide)
    packed, padded = ways["ours"].batch, ways["plain"].batch
    for one in (packed, padded):
        ids = np.asarray(one.ids).reshape(-1)
        after = np.where(one.mask, ids[np.asarray(one.at) + 1], 0)
        np.testing.assert_array_equal(after, one.action)
    for key in ("action", "mask", "step", "reward", "line"):
        np.testing.assert_array_equal(getattr(packed, key), getattr(padded, key))


@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(offline.SETTINGS, beta=0.0301),
        dataclasses.replace(offline.SETTINGS, kl_weight=0.0101),
        # Only the moments tell.
        dataclasses.replace(offline.SETTINGS, critic=Optimizer(b1=0.8999)),
    ],
)
def test_another_update_is_found_out(case, ways, settings):
    state, batch = ways["plain"].state, ways["plain"].batch
    other = offline_plain.make(case.config, settings)
    program = jax.jit(other).lower(state, batch).compile()
    with pytest.raises(AssertionError, match="plain|ours|packed_unfused"):
        offline.check({**ways, "plain": ways["plain"]._replace(program=program)})


def test_rows(case, capsys):
    found = {row.name: row for row in offline.rows_of(case, rounds=1)}
    assert list(found) == [
        f"arithmetic{part}_{kind}"
        for part in ("", "_packed_unfused", "_padded_fused")
        for kind in ("speed", "memory")
    ]
    for name, row in found.items():
        assert row.ratio > 0 and (row.target is None) == ("fused" in name)
        assert row.better == ("higher" if row.unit == "tokens/s" else "lower")
    assert "6 x" in capsys.readouterr().out


def test_texts_of_the_large_vocabulary_have_a_long_tail():
    case = offline.vocabulary_case(2_000)
    lengths = np.array([len(one.ids) for one in case.log])
    assert abs(np.median(lengths) / 69 - 1) < 0.05
    assert abs(np.std(np.log(lengths)) - 0.39) < 0.02
    said = np.array([one.action.sum() for one in case.log])
    assert abs(np.mean(said / lengths) - 0.54) < 0.01
    assert max(int(one.ids.max()) for one in case.log) < case.config.vocab_size
