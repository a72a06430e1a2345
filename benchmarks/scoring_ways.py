"""Ways to score the commands of a state: the packed trie and its alternatives.

Each makes a function (params, prompt [B], commands [B]) -> log p(command) [B, A] of
the same decoder, and all give the same numbers; `tests/benchmarks` compares them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.models import block, decoder
from rljax.models.attention import attend
from rljax.models.config import ModelConfig
from rljax.models.layers import rms_norm, rope_angles, rope_frequencies
from rljax.policy import score
from rljax.text import trie
from rljax.types import Commands, Params, Tokens

Score = Callable[[Params, Tokens, Commands], jax.Array]


class States(NamedTuple):
    """Prompts and commands of a batch of states."""

    prompt: Tokens  # [B, P]
    commands: Commands  # [B, A, L]
    num_nodes: int
    eos_id: int


def packed_trie(states: States, config: ModelConfig, skip: bool = True) -> Score:
    """Ours: the trie is built and scored in one program.

    Args:
      states: the shapes.
      config: the decoder's settings.
      skip: whether the last layer skips the prompt, as `score.encode` has it.
    """
    model = decoder.Decoder(config)

    def run(params, prompt, commands):
        tries = jax.vmap(lambda c: trie.build(c, states.num_nodes))(commands)
        if skip:
            hidden = score.encode(model, params, prompt, tries)
        else:
            hidden = model.apply({"params": params}, *score.pack(prompt, tries))
            hidden = jnp.asarray(hidden)[:, prompt.ids.shape[1] - 1 :]
        logits = decoder.logits(params, jnp.asarray(hidden), config)
        return score.command_log_probs(logits, tries, states.eos_id)

    return run


def one_sequence_each(states: States, config: ModelConfig, skip: bool = False) -> Score:
    """A pass over prompt + command for every slot; logits only where they count.

    Args:
      states: the shapes.
      config: the decoder's settings.
      skip: whether the last layer skips the prompt, as ours does; right only where
        prompts fill their P tokens.
    """
    model = decoder.Decoder(config)

    def run(params, prompt, commands):
        (b, p), (_, a, n) = prompt.ids.shape, commands.ids.shape
        place = jnp.arange(p + n)
        start = prompt.length[:, None, None]  # the command follows the prompt at once
        inside = jnp.clip(place - start, 0, n - 1)
        tail = jnp.take_along_axis(
            commands.ids, jnp.broadcast_to(inside, (b, a, p + n)), 2
        )
        head = jnp.pad(prompt.ids, ((0, 0), (0, n)))[:, None]
        ids = jnp.where(place < start, head, tail).reshape(b * a, p + n)
        causal = jnp.tril(jnp.ones((p + n, p + n), bool))
        hidden = model.apply(
            {"params": params},
            ids,
            jnp.broadcast_to(place, ids.shape),
            jnp.broadcast_to(causal, (b * a, p + n, p + n)),
            p - 1 if skip else 0,
        )
        read = prompt.length[:, None] - 1 + jnp.arange(n + 1) - (p - 1 if skip else 0)
        read = jnp.repeat(read, a, axis=0)[..., None]
        hidden = jnp.take_along_axis(jnp.asarray(hidden), read, axis=1)
        matrix = decoder.unembedding(params, config)
        return _sum_log_probs(hidden, matrix, commands, states.eos_id)

    return run


def cached_prompt(states: States, config: ModelConfig) -> Score:
    """The prompt's keys and values once, then one row for each command.

    The cache is not copied to the rows: all queries of a state read the one it has.
    """
    c = config

    def run(params, prompt, commands):
        (b, p), (_, a, n) = prompt.ids.shape, commands.ids.shape
        outer = ("embedding", "unembedding", "final_norm")
        layers = {k: w for k, w in params.items() if k not in outer}
        place = jnp.broadcast_to(jnp.arange(p), (b, p))
        real = place < prompt.length[:, None]
        causal = jnp.tril(jnp.ones((p, p), bool)) & real[:, None]
        after = prompt.length[:, None, None] + jnp.arange(n)
        after = jnp.broadcast_to(after, (b, a, n)).reshape(b, a * n)
        turns = rope_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)
        near, far = rope_angles(place, turns), rope_angles(after, turns)
        project = functools.partial(block.queries_keys_values, first_output=0, config=c)

        def step(carry, layer):
            x, y = carry
            q, k, v = project(layer, x, near)
            x = block.finish(layer, x, attend(q, k, v, causal), c)
            q, k_own, v_own = project(layer, y, far)
            attended = _attend_cache_and_row(q, (k, v), (k_own, v_own), real, n)
            return (x, block.finish(layer, y, attended, c)), None

        embedding = params["embedding"]
        start = (embedding[prompt.ids], embedding[commands.ids.reshape(b, a * n)])
        (x, y), _ = jax.lax.scan(step, start, layers)
        last = x[jnp.arange(b), prompt.length - 1]
        last = jnp.broadcast_to(last[:, None, None], (b, a, 1, c.width))
        hidden = jnp.concatenate([last, y.reshape(b, a, n, c.width)], axis=2)
        hidden = rms_norm(hidden, params["final_norm"], c.norm_eps)
        hidden = hidden.reshape(b * a, n + 1, c.width)
        matrix = decoder.unembedding(params, c)
        return _sum_log_probs(hidden, matrix, commands, states.eos_id)

    return run


def _attend_cache_and_row(q, cache, own, real, n):
    """One softmax over the shared prompt and the tokens of a query's own row."""
    (b, t, h, d), (k, v), groups = q.shape, cache, cache[0].shape[2]
    q = q.reshape(b, t, groups, h // groups, d) * d**-0.5
    far = jnp.einsum("btkgd,bskd->btkgs", q, k)
    far = jnp.where(real[:, None, None, None], far, -1e30)
    rows = (b, t // n, n, groups)
    k_own, v_own = (x.reshape(*rows, d) for x in own)
    near = jnp.einsum("bankgd,bamkd->bankgm", q.reshape(*rows, h // groups, d), k_own)
    causal = jnp.tril(jnp.ones((n, n), bool))[:, None, None]
    near = jnp.where(causal, near, -1e30).reshape(*far.shape[:-1], n)
    weights = jax.nn.softmax(jnp.concatenate([far, near], axis=-1), axis=-1)
    far, near = jnp.split(weights, [k.shape[1]], axis=-1)
    out = jnp.einsum("btkgs,bskd->btkgd", far, v)
    near = near.reshape(*rows, h // groups, n)
    out_own = jnp.einsum("bankgm,bamkd->bankgd", near, v_own)
    return (out + out_own.reshape(out.shape)).reshape(b, t, h * d)


def _sum_log_probs(hidden, matrix, commands, eos_id):
    """Sums over rows: hidden [B * A, 1 + L, D], before each token and the end."""
    b, a, n = commands.ids.shape
    logits = hidden @ matrix
    place = jnp.arange(n + 1)
    length = commands.length.reshape(b * a, 1)
    ids = jnp.pad(commands.ids.reshape(b * a, n), ((0, 0), (0, 1)))
    ids = jnp.where(place == length, eos_id, ids)
    picked = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    logp = picked - jax.nn.logsumexp(logits, axis=-1)
    total = jnp.sum(jnp.where(place <= length, logp, 0.0), axis=-1).reshape(b, a)
    return jnp.where(commands.mask, total, -jnp.inf)
