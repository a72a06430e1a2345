"""Each family against what transformers said of the same weights.

The fixtures come from tests/parity/build.py; `make parity` builds them again.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import decoder, layers
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.policy import score
from rljax.text import trie
from rljax.types import Commands, Tokens
from tests.models import golden

NAMES = golden.names()
TOLERANCE = 1e-4  # of a logit; their standard deviation is above 1


@functools.cache
def model(name: str):
    c = golden.config(name)
    return c, golden.params(golden.ROOT / name, c)


def eager_logits(c: ModelConfig, params, ids, real):
    """Positions count from a row's first real token; a row sees what is real."""
    positions = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
    t = ids.shape[1]
    mask = jnp.tril(jnp.ones((t, t), bool)) & real[:, None]
    hidden = Decoder(c).apply({"params": params}, ids, positions, mask)
    return decoder.logits(params, jnp.asarray(hidden), c)


logits = jax.jit(eager_logits, static_argnums=0)


def to_the_left(ids, length):
    moved = ids.copy()
    for row, n in enumerate(length):
        moved[row, ids.shape[1] - n :] = ids[row, :n]
    return moved


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, scanned):
    c, params = model(name)
    said = golden.said(name)
    c = dataclasses.replace(c, scan_layers=scanned)
    ids, place = said["ids"], np.arange(said["ids"].shape[1])
    assert said["logits"].std() > 1
    right = place < said["length"][:, None]
    left = right[:, ::-1]
    assert not right.all()
    for key, rows, real in (
        ("logits", ids, np.ones_like(right)),
        ("right", ids, right),
        ("left", to_the_left(ids, said["length"]), left),
    ):
        found = np.asarray(logits(c, params, rows, real))
        np.testing.assert_allclose(
            found[real], said[key][real], atol=TOLERANCE, rtol=0, err_msg=key
        )


@pytest.mark.parametrize("name", NAMES)
def test_old_and_new_spellings_are_one_model(name):
    if not (golden.ROOT / name / "config_old.json").exists():
        pytest.skip("this family's files were always spelt so")
    assert golden.config(name, "config_old.json") == golden.config(name)


# What may be taken out of a model, and what a model has that it can be taken from.
FEATURES: dict[str, dict[str, Any]] = {
    "window": {"window": None, "window_layers": ()},
    "window_layers": {"window_layers": (0,)},
    "rope_scaling": {"rope_scaling": None},
    "local_rope_theta": {"local_rope_theta": None},
    "norm_offset": {"norm_offset": 0.0},
    "gate": {"gate": functools.partial(jax.nn.gelu, approximate=False)},
    "embedding_scale": {"embedding_scale": 1.0},
    "query_scale": {"query_scale": None},
    "attention_softcap": {"attention_softcap": None},
    "logit_softcap": {"logit_softcap": None},
    "qkv_bias": {"qkv_bias": False},
    "position_embedding": {},
    "output_biases": {},
    "layer_norm": {},
    "rope_theta": {"rope_theta": 20_000.0},
    "norm_eps": {"norm_eps": 1e-3},
}
# Features that are taken out by weights of zero.
BIASES = {
    "qkv_bias": ("qkv_bias",),
    "position_embedding": ("position_embedding",),
    "output_biases": ("out_bias", "up_bias", "down_bias"),
    "layer_norm": ("attention_norm_bias", "mlp_norm_bias", "final_norm_bias"),
}
PLAIN = ModelConfig(4, 4, 3, 1, 1, 2, 4)


def has(c: ModelConfig, feature: str) -> bool:
    if feature in ("rope_theta", "position_embedding"):
        return c.learned_positions == (feature == "position_embedding")
    return feature == "norm_eps" or getattr(c, feature) != getattr(PLAIN, feature)


@pytest.mark.parametrize("name", NAMES)
def test_the_fixture_would_tell(name):
    """Every feature of a family moves its logits by much more than the tolerance."""
    c, params = model(name)
    c = dataclasses.replace(c, scan_layers=False)
    said = golden.said(name)
    ids, real = said["ids"], np.ones_like(said["ids"], bool)
    for feature, change in FEATURES.items():
        if not has(c, feature):
            continue
        if feature == "window_layers" and c.window_layers == (0,):
            continue
        kept = {
            **params,
            **{name: 0 * params[name] for name in BIASES.get(feature, ())},
        }
        change = {} if feature in BIASES else change
        # Operation by operation: these shapes are compiled once for all changes.
        other = dataclasses.replace(c, **change)
        found = np.asarray(eager_logits(other, kept, ids, real))
        moved = np.abs(found - said["logits"]).max()
        floor = 2 if feature in ("norm_eps", "gate") else 50
        assert moved > floor * TOLERANCE, (feature, moved)


B, T, P, A, L, N, EOS = 3, 24, 12, 5, 4, 16, 2
COMMANDS = [
    [[5, 6, 7, 8], [5, 6], [5, 6, 7], [9], [10, 6, 7, 8]],
    [[11], [11, 12, 13, 14], [11, 12, 20], [], []],
    [[7, 7, 7, 7], [7, 7], [], [3, 4], []],
]


@pytest.mark.parametrize("name", NAMES)
def test_a_trie_is_scored_as_each_command_alone(name):
    """Prompts of 12, 9 and 2 tokens: windows of 5 end in a prompt and in a trie."""
    c, params = model(name)
    prompts = said_prompts(name)
    commands = jax.tree.map(lambda *x: jnp.stack(x), *map(pack, COMMANDS))
    found = np.asarray(by_trie(c, params, prompts, commands))
    expected = np.full((len(COMMANDS), A), -np.inf)
    texts = [
        (row, slot, np.asarray(prompts.ids[row, : prompts.length[row]]).tolist(), text)
        for row, state in enumerate(COMMANDS)
        for slot, text in enumerate(state)
        if text
    ]
    for i in range(0, len(texts), B):
        rows, slots, starts, parts = zip(*texts[i : i + B], strict=True)
        expected[rows, slots] = alone(c, params, starts, parts)
    assert np.ptp(expected[np.isfinite(expected)]) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=TOLERANCE)


def said_prompts(name: str) -> Tokens:
    ids = golden.said(name)["ids"][:, :P]
    return Tokens(jnp.asarray(ids), jnp.array([P, 9, 2], jnp.int32))


def pack(rows: list[list[int]]) -> Commands:
    ids = np.full((A, L), 8, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    length = np.array([len(row) for row in rows], np.int32)
    return Commands(jnp.asarray(ids), jnp.asarray(length), jnp.asarray(length > 0))


@functools.partial(jax.jit, static_argnums=0)
def by_trie(c: ModelConfig, params, prompts, commands):
    tries = jax.vmap(lambda row: trie.build(row, N))(commands)
    hidden = score.encode(Decoder(c), params, prompts, tries)
    said = decoder.logits(params, hidden, c)
    return score.command_log_probs(said, tries, EOS)


def alone(c: ModelConfig, params, starts, texts) -> np.ndarray:
    """log p of commands and of the end after them, each written after its prompt."""
    ids, real = np.zeros((B, T), np.int32), np.zeros((B, T), bool)
    wholes = [[*start, *text, EOS] for start, text in zip(starts, texts, strict=True)]
    for row, whole in enumerate(wholes):
        ids[row, : len(whole)], real[row, : len(whole)] = whole, True
    logp = np.asarray(jax.nn.log_softmax(logits(c, params, ids, real)))
    return np.array([
        sum(logp[row, i - 1, whole[i]] for i in range(len(starts[row]), len(whole)))
        for row, whole in enumerate(wholes)
    ])  # fmt: skip


def test_rope_scaling_is_in_reach():
    """All three ranges of Llama 3's scaling hold some frequency of the fixture."""
    c, _ = model("llama")
    plain = layers.rope_frequencies(c.head_dim, c.rope_theta)
    ratio = plain / layers.rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
    assert c.rope_scaling is not None
    assert np.any(ratio == 1) and np.any(np.isclose(ratio, c.rope_scaling.factor))
    assert np.any((ratio > 1.01) & (ratio < c.rope_scaling.factor - 0.01))
