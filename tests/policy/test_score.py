"""Packed-trie scores against one sequence for each command."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder, logits, unembedding
from rljax.policy import score
from rljax.text import trie
from rljax.types import Commands, Tokens

A, L, N, P, V, EOS, HIDDEN = 6, 4, 16, 7, 9, 1, 8
CONFIG = ModelConfig(
    vocab_size=V,
    width=HIDDEN,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=12,
    qk_norm=True,
)
DECODER = Decoder(CONFIG)
GO, TO, RED, BEET, SEED, GRASP = 2, 3, 4, 5, 6, 7
BEETS = [[GO, TO, RED, BEET], [GO, TO, RED], [GO, TO, RED, SEED], [GRASP], [GO, TO]]
# No two share a token, so the trie has as many nodes as the budget: 4 x 4.
LARGEST = [[2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7, 8]]


def params():
    rng = np.random.default_rng(0)
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        DECODER.init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * 0.5, jnp.float32)
        for name, x in sorted(shapes["params"].items())
    }


def pack(rows: list[list[int]]) -> Commands:
    """One state; an empty row is a masked slot."""
    rows = [*rows, *([[]] * (A - len(rows)))]
    ids = np.full((A, L), 8, np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    length = np.array([len(row) for row in rows], np.int32)
    return Commands(jnp.asarray(ids), jnp.asarray(length), jnp.asarray(length > 0))


def stack(states: list[list[list[int]]]) -> Commands:
    return jax.tree.map(lambda *x: jnp.stack(x), *map(pack, states))


def random_states(seed: int) -> list[list[list[int]]]:
    """Few distinct tokens, so that prefixes are often shared."""
    rng = np.random.default_rng(seed)
    return [
        [rng.integers(2, 4, rng.integers(1, L + 1)).tolist() for _ in range(4)]
        for _ in range(3)
    ]


def prompts(size: int) -> Tokens:
    rng = np.random.default_rng(3)
    ids = rng.integers(0, V, (size, P)).astype(np.int32)
    return Tokens(jnp.asarray(ids), jnp.asarray([P, 3, 1][:size], jnp.int32))


@jax.jit
def packed(p, prompt, commands):
    tries = jax.vmap(lambda c: trie.build(c, N))(commands)
    hidden = score.encode(DECODER, p, prompt, tries)
    logp = score.command_log_probs(logits(p, hidden, CONFIG), tries, EOS)
    last = score.command_hidden(hidden, tries)
    return logp, last, score.q_of_path(head, hidden, tries)


def head(hidden):
    return jnp.sum(jnp.sin(hidden), axis=-1)


@jax.jit
def one_sequence_each(p, ids, start, length):
    """log p of ids[start:length], the last hidden state, the sum of the command's
    `head`; rows are commands.
    """
    size = P + L + 1
    causal = jnp.tril(jnp.ones((size, size), bool))
    causal = jnp.broadcast_to(causal, (len(ids), size, size))
    places = jnp.broadcast_to(jnp.arange(size), ids.shape)
    hidden = jnp.asarray(DECODER.apply({"params": p}, ids, places, causal))
    logp = jax.nn.log_softmax(hidden @ unembedding(p, CONFIG))[:, :-1]
    picked = jnp.take_along_axis(logp, ids[:, 1:, None], axis=2)[..., 0]
    place = jnp.arange(1, P + L + 1)
    scored = (place >= start[:, None]) & (place < length[:, None])
    last = hidden[jnp.arange(len(ids)), length - 2]  # before the end token
    of_command = scored[:, :-1] & (place[:-1] < length[:, None] - 1)
    q = jnp.sum(jnp.where(of_command, head(hidden[:, 1:-1]), 0.0), axis=1)
    return jnp.sum(jnp.where(scored, picked, 0.0), axis=1), last, q


def reference(p, prompt, commands):
    """Every command written after its prompt and closed by the end token."""
    b = len(prompt.ids)
    ids = np.zeros((b * A, P + L + 1), np.int32)
    start, length = np.ones(b * A, int), np.full(b * A, 2)
    for i, a in np.ndindex(b, A):
        if commands.mask[i, a]:
            text = np.asarray(prompt.ids[i, : prompt.length[i]])
            row = [*text, *commands.ids[i, a, : commands.length[i, a]], EOS]
            ids[i * A + a, : len(row)] = row
            start[i * A + a], length[i * A + a] = len(text), len(row)
    logp, last, q = one_sequence_each(p, ids, start, length)
    logp = jnp.where(commands.mask, logp.reshape(b, A), -jnp.inf)
    return logp, last.reshape(b, A, HIDDEN), q.reshape(b, A)


CASES = {
    "prefixes": [BEETS, BEETS[::-1], BEETS[1:2]],
    "one_command": [[[GRASP]], [[], [GO, TO, RED, BEET]], [[], [], [], [GO]]],
    "largest": [LARGEST, LARGEST[::-1], LARGEST],
    "duplicates": [[[GO, TO], [GO, TO], [GO]], [[GO]] * 6, [[GRASP], [], [GRASP]]],
    **{f"random_{seed}": random_states(seed) for seed in range(4)},
}


@pytest.mark.parametrize("name", CASES)
def test_equals_one_sequence_for_each_command(name):
    p, prompt, commands = params(), prompts(3), stack(CASES[name])
    mask = np.asarray(commands.mask)
    logp, last, q = packed(p, prompt, commands)
    expected, expected_last, expected_q = reference(p, prompt, commands)
    np.testing.assert_allclose(logp, expected, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(last[mask], expected_last[mask], atol=2e-5)
    np.testing.assert_allclose(q[mask], expected_q[mask], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(q[~mask], 0.0)


@pytest.mark.parametrize("name", ["prefixes", "random_0", "one_command", "largest"])
def test_gradients_equal_those_of_one_sequence_for_each_command(name):
    p, prompt, commands = params(), prompts(3), stack(CASES[name])
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((3, A)))

    def loss(run, p):
        scores, last, q = run(p, prompt, commands)
        log_pi = score.log_policy(scores, commands.mask)
        # A single command is certain: its score alone moves.
        log_pi = jnp.where(commands.mask, log_pi + 0.1 * scores, 0.0)
        last = jnp.where(commands.mask[..., None], last, 0.0)
        q = jnp.where(commands.mask, weights * q, 0.0)
        return jnp.sum(weights * log_pi) + jnp.sum(jnp.sin(last)) + jnp.sum(q)

    actual = jax.grad(lambda p: loss(packed, p))(p)
    expected = jax.grad(lambda p: loss(reference, p))(p)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(expected))
    chex.assert_trees_all_close(actual, expected, rtol=2e-3, atol=2e-4)


def test_q_of_the_last_node_reads_only_that():
    p, prompt, commands = params(), prompts(3), stack(CASES["prefixes"])
    tries = jax.vmap(lambda c: trie.build(c, N))(commands)
    hidden = score.encode(DECODER, p, prompt, tries)
    q = score.q_of_last_node(head, hidden, tries)
    _, last, _ = reference(p, prompt, commands)
    mask = np.asarray(commands.mask)
    np.testing.assert_allclose(q[mask], head(last)[mask], rtol=1e-5, atol=1e-4)


def test_padding_does_not_matter():
    p, prompt, commands = params(), prompts(3), stack(CASES["prefixes"])
    logp, *_ = packed(p, prompt, commands)
    place = np.arange(P)
    junk = jnp.where(place < prompt.length[:, None], prompt.ids, 8 - prompt.ids)
    pad = jnp.arange(L) >= commands.length[..., None]
    other = commands._replace(ids=jnp.where(pad, 2, commands.ids))
    chex.assert_trees_all_equal(packed(p, prompt._replace(ids=junk), other)[0], logp)


def test_slots_may_come_in_any_order():
    p, prompt, commands = params(), prompts(3), stack(CASES["prefixes"])
    order = np.array([4, 2, 5, 0, 3, 1])
    moved = Commands(*(x[:, order] for x in commands))
    logp, *_ = packed(p, prompt, commands)
    np.testing.assert_allclose(
        packed(p, prompt, moved)[0], logp[:, order], rtol=1e-5, atol=2e-5
    )


def test_probabilities_of_all_texts_sum_to_at_most_one():
    # Commands are distinct events, each closed by its end: never more than 1 in all.
    logp, *_ = packed(params(), prompts(3), stack(CASES["prefixes"]))
    assert (np.exp(logp).sum(axis=1) < 1).all()


def test_vmap_over_ensembles_of_weights():
    p, prompt, commands = params(), prompts(3), stack(CASES["random_1"])
    pair = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), p)
    together = jax.vmap(packed, in_axes=(0, None, None))(pair, prompt, commands)
    half = packed(jax.tree.map(lambda x: 0.5 * x, p), prompt, commands)
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[1], together), half, rtol=1e-5, atol=2e-5
    )


def test_a_command_beyond_the_node_budget_is_nan():
    commands = stack([[*LARGEST, [8]], [[GRASP]], [[GO]]])  # 17 nodes of 16
    logp, _, q = packed(params(), prompts(3), commands)
    # By depth then command, the last node is that of LARGEST[3]'s last token.
    for value in (logp, q):
        np.testing.assert_array_equal(
            np.isnan(value[0]), [False, False, False, True, False, False]
        )
    assert np.isfinite(logp[1, 0])


def test_log_policy_by_hand():
    scores = jnp.array([[0.0, np.log(3.0), 7.0], [5.0, 5.0, 5.0]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    expected = [[np.log(0.25), np.log(0.75), -np.inf], [-np.inf] * 3]
    np.testing.assert_allclose(score.log_policy(scores, mask), expected, rtol=1e-6)


def test_gradients_are_finite_on_masked_rows():
    p, prompt = params(), prompts(3)
    commands = stack([BEETS, [[], [GO]], []])  # the last state allows nothing

    def loss(p):
        scores, *_ = packed(p, prompt, commands)
        log_pi = score.log_policy(scores, commands.mask)
        return jnp.sum(jnp.where(commands.mask, log_pi, 0.0))

    grad = jax.grad(loss)(p)
    chex.assert_tree_all_finite(grad)
    assert np.abs(grad["qkv"]).max() > 0
    only = jax.grad(lambda s: score.log_policy(s, jnp.array([True, False]))[0])
    np.testing.assert_array_equal(only(jnp.array([-3.0, -jnp.inf])), [0.0, 0.0])


def test_skipping_the_prompt_in_the_last_layer_changes_nothing():
    p, prompt, commands = params(), prompts(3), stack(CASES["prefixes"])
    unrolled = Decoder(dataclasses.replace(CONFIG, scan_layers=False))

    @jax.jit
    def both(p):
        tries = jax.vmap(lambda c: trie.build(c, N))(commands)
        whole = unrolled.apply({"params": p}, *score.pack(prompt, tries))
        return score.encode(DECODER, p, prompt, tries), jnp.asarray(whole)[:, P - 1 :]

    chex.assert_trees_all_close(*both(p), atol=2e-5)
