"""The benchmarked ways give one answer, and the committed set is what it says."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common, scoring, scoring_ways
from rljax.models.config import ModelConfig
from rljax.types import Tokens

CONFIG = ModelConfig(
    vocab_size=scoring.VOCABULARY,
    width=8,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=8,
)


def test_the_fixed_set_is_what_its_name_says():
    states = scoring.fixed_states()
    assert states.commands.mask.sum(axis=1).tolist() == [42] * 8
    assert states.commands.length.sum(axis=1).tolist() == [204] * 8
    assert states.prompt.ids.shape == (8, 120)
    assert states.num_nodes == 96
    assert int(states.prompt.ids.max()) < scoring.VOCABULARY
    assert scoring.fixed_states(2).commands.mask.shape == (8, 2)


def test_all_ways_give_the_same_scores():
    states = scoring.fixed_states(5)
    short = Tokens(states.prompt.ids[:3, :6], jnp.array([6, 2, 1]))
    commands = jax.tree.map(lambda x: x[:3], states.commands)
    commands = commands._replace(mask=commands.mask.at[1, 2:].set(False))
    states = states._replace(prompt=short, commands=commands)
    params = scoring.initial(CONFIG)
    params = {name: 2 * weight for name, weight in params.items()}
    expected = scoring.forward(
        scoring_ways.one_sequence_each(states, CONFIG), params, states
    )()
    for way in (scoring_ways.packed_trie, scoring_ways.cached_prompt):
        actual = scoring.forward(way(states, CONFIG), params, states)()
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    skip = scoring_ways.one_sequence_each(states, CONFIG, skip=True)
    actual = scoring.forward(skip, params, states)()
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)  # a full prompt
    assert np.isneginf(expected[1, 2:]).all()


def test_ratios_by_hand(tmp_path, capsys):
    times = {"a": np.array([1.0, 2.0, 10.0]), "b": np.array([4.0, 6.0, 10.0])}
    # Turn by turn b takes 4, 3 and 1 times as long: the median is 3.
    rows = [
        common.speedup("fast", times, "a", "b", 2.5),
        common.speedup("slow", times, "a", "b", 3.5),
        common.growth("grown", times, "b", "a", 2),
        common.speedup("free", times, "a", "b", None),
    ]
    assert [row.ratio for row in rows] == [3.0, 3.0, 3.0, 3.0]
    assert [row.reached for row in rows] == [True, False, False, True]
    assert (rows[0].ours, rows[0].peer) == (2000.0, 6000.0)
    common.finish(rows, tmp_path / "new" / "rows.json")
    assert capsys.readouterr().out.count("MISSED") == 2
    stored = (tmp_path / "new" / "rows.json").read_text()
    assert '"name": "fast"' in stored
    assert '"better": "lower"' in stored


def test_interleaved_turns():
    calls = []
    runs = {k: lambda k=k: calls.append(k) for k in "ab"}
    times = common.interleave(runs, rounds=3, warm="a")
    assert calls == list("ab" + "aab" * 3)  # one to compile, then three turns
    assert {k: len(v) for k, v in times.items()} == {"a": 3, "b": 3}
