"""Packed-trie scores of an encoder-decoder against one decoded text per command."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.encdec import EncDec, logits
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import networks, score, score_encdec
from rljax.text import trie
from rljax.types import Commands, Tokens

A, L, N, P, V, EOS, START, WIDTH = 6, 5, 24, 9, 9, 1, 3, 8
CONFIG = EncDecConfig(
    vocab_size=V,
    width=WIDTH,
    num_layers=2,
    num_decoder_layers=3,
    num_heads=2,
    head_dim=6,
    mlp_width=12,
    num_buckets=8,
    max_distance=7,
    start_id=START,
)
MODEL = EncDec(CONFIG)
GO, TO, RED, BEET, SEED, GRASP = 2, 3, 4, 5, 6, 7
BEETS = [[GO, TO, RED, BEET], [GO, TO, RED], [GO, TO, RED, SEED], [GRASP], [GO, TO]]
# No two share a token, so later nodes are far from the start in the sequence alone.
APART = [[2, 3, 4, 5, 6], [3, 4, 5, 6, 7], [4, 5, 6, 7, 8], [5, 6, 7, 8, 2]]


@functools.cache
def params(scale=0.5):
    row = jnp.zeros((1, 1), jnp.int32)
    init = jax.eval_shape(
        MODEL.init, jax.random.key(0), row, row == 0, row, row, row[None] == 0
    )
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * scale, jnp.float32)
        for name, x in sorted(init["params"].items())
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


def prompts() -> Tokens:
    ids = np.random.default_rng(3).integers(0, V, (3, P)).astype(np.int32)
    return Tokens(jnp.asarray(ids), jnp.asarray([P, 4, 4], jnp.int32))


def head(hidden):
    return jnp.sum(jnp.sin(hidden), axis=-1)


@functools.partial(jax.jit, static_argnums=3)
def packed(p, prompt, commands, end_id=EOS):
    tries = jax.vmap(lambda c: trie.build(c, N))(commands)
    hidden = score_encdec.encode(MODEL, p, prompt, tries, START, end_id)
    logp = score.command_log_probs(logits(p, hidden, CONFIG), tries, EOS)
    last = score.command_hidden(hidden, tries)
    return logp, last, score.q_of_path(head, hidden, tries), hidden[:, 0]


@jax.jit
def one_text_each(p, text, ids, length):
    """log p of commands and their ends after one prompt, their last hidden states, the
    sums of their `head`, and the start's hidden state; no padding before a token.
    """
    ids = jnp.pad(ids, ((0, 0), (1, 0)), constant_values=START)
    size = ids.shape[1]
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((size, size), bool)), (A, size, size))
    texts = jnp.broadcast_to(text, (A, len(text)))
    places = jnp.broadcast_to(jnp.arange(size), ids.shape)
    hidden = MODEL.apply({"params": p}, texts, texts >= 0, ids, places, seen)
    hidden = jnp.asarray(hidden)
    row, place = jnp.arange(A)[:, None], jnp.arange(size)
    at_end = place == length[:, None]
    nexts = jnp.where(at_end, EOS, jnp.roll(ids, -1, axis=1))
    logp = jax.nn.log_softmax(hidden @ p["unembedding"])[row, place, nexts]
    total = jnp.sum(jnp.where(place <= length[:, None], logp, 0.0), axis=1)
    said = (place > 0) & (place <= length[:, None])
    q = jnp.sum(jnp.where(said, head(hidden), 0.0), axis=1)
    return total, hidden[jnp.arange(A), length], q, hidden[0, 0]


def reference(p, prompt, commands, end_id=EOS):
    """Every command decoded by itself, after a prompt that is not padded."""
    states = []
    for i in range(len(prompt.ids)):
        text = np.asarray(prompt.ids[i, : int(prompt.length[i])])
        if end_id is not None:
            text = np.append(text, end_id)
        states.append(one_text_each(p, text, commands.ids[i], commands.length[i]))
    logp, *rest = (jnp.stack(found) for found in zip(*states, strict=True))
    return jnp.where(commands.mask, logp, -jnp.inf), *rest


CASES = {
    "prefixes": [BEETS, BEETS[::-1], BEETS[1:2]],
    "one_command": [[[GRASP]], [[], [GO, TO, RED, BEET]], [[], [], [], [GO]]],
    "apart": [APART, APART[::-1], APART],
    **{f"random_{seed}": random_states(seed) for seed in range(3)},
}


def assert_same(actual, expected, mask):
    logp, last, q, start = actual
    np.testing.assert_allclose(logp, expected[0], rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(last[mask], expected[1][mask], atol=3e-5)
    np.testing.assert_allclose(q[mask], expected[2][mask], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(start, expected[3], atol=3e-5)


@pytest.mark.parametrize("name", CASES)
def test_equals_one_text_for_each_command(name):
    p, prompt, commands = params(), prompts(), stack(CASES[name])
    mask = np.asarray(commands.mask)
    assert_same(packed(p, prompt, commands), reference(p, prompt, commands), mask)


def test_the_end_after_a_prompt_is_read_only_where_asked_for():
    p, prompt, commands = params(), prompts(), stack(CASES["prefixes"])
    mask = np.asarray(commands.mask)
    bare = packed(p, prompt, commands, None)
    assert_same(bare, reference(p, prompt, commands, None), mask)
    assert np.abs(bare[0] - packed(p, prompt, commands)[0])[mask].max() > 1e-2


@pytest.mark.parametrize("name", ["prefixes", "one_command", "apart", "random_0"])
def test_gradients_equal_those_of_one_text_for_each_command(name):
    p, prompt, commands = params(), prompts(), stack(CASES[name])
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((3, A)))

    def loss(run, p):
        scores, last, q, start = run(p, prompt, commands)
        log_pi = score.log_policy(scores, commands.mask)
        # A single command is certain: its score alone moves.
        log_pi = jnp.where(commands.mask, log_pi + 0.1 * scores, 0.0)
        last = jnp.where(commands.mask[..., None], last, 0.0)
        q = jnp.where(commands.mask, weights * q, 0.0)
        rest = jnp.sum(jnp.sin(last)) + jnp.sum(jnp.cos(start))
        return jnp.sum(weights * log_pi) + jnp.sum(q) + rest

    actual = jax.grad(lambda p: loss(packed, p))(p)
    expected = jax.grad(lambda p: loss(reference, p))(p)
    assert all(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(expected))
    chex.assert_trees_all_close(actual, expected, rtol=2e-3, atol=2e-4)


def test_padding_does_not_matter():
    p, prompt, commands = params(), prompts(), stack(CASES["prefixes"])
    place = np.arange(P)
    junk = jnp.where(place < prompt.length[:, None], prompt.ids, 8 - prompt.ids)
    pad = jnp.arange(L) >= commands.length[..., None]
    other = commands._replace(ids=jnp.where(pad, 2, commands.ids))
    logp = packed(p, prompt, commands)[0]
    chex.assert_trees_all_equal(packed(p, prompt._replace(ids=junk), other)[0], logp)


def test_a_text_may_stand_anywhere_in_the_sequence():
    # Depth is what counts: the same nodes, with others before them.
    p, prompt = params(), prompts()
    first, later = ([*APART[:k], [8, 7, 6, 5, 4]] for k in (0, 3))
    logp = [packed(p, prompt, stack([rows] * 3))[0] for rows in (first, later)]
    np.testing.assert_allclose(logp[0][:, 0], logp[1][:, 3], rtol=1e-5, atol=3e-5)


def test_networks_are_these_functions():
    p, prompt, commands = params(), prompts(), stack(CASES["prefixes"])
    made = networks.make_encdec(CONFIG, EOS, (4,))
    bare = networks.make_encdec(CONFIG, EOS, (4,), close_prompt=False)
    shapes = jax.eval_shape(made.init_trunk, jax.random.key(0))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, p)

    @jax.jit
    def run(p):
        tries = jax.vmap(lambda c: trie.build(c, N))(commands)
        hidden = made.encode(p, prompt, tries)
        v = made.init_v(jax.random.key(1))
        values = made.v(v, hidden), made.v(v, hidden[:, :1])
        log_pi = made.log_policy(p, hidden, tries)
        return log_pi, values, bare.encode(p, prompt, tries)[:, 0]

    log_pi, values, unclosed = run(p)
    logp = packed(p, prompt, commands)[0]
    expected = score.log_policy(logp, commands.mask)
    np.testing.assert_allclose(log_pi, expected, rtol=1e-5, atol=3e-5)
    np.testing.assert_array_equal(*values)
    expected = packed(p, prompt, commands, None)[3]
    np.testing.assert_allclose(unclosed, expected, atol=3e-5)
