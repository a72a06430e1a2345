"""The decoder against one written in plain numpy, one position at a time."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import config as model_config
from rljax.models.decoder import Decoder, unembedding

B, T, V = 2, 5, 11
PLAIN = model_config.ModelConfig(
    vocab_size=V,
    width=8,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=10,
    rope_theta=100.0,
    norm_eps=1e-5,
)
VARIANTS = {
    "plain": PLAIN,
    "tied": dataclasses.replace(PLAIN, tied_embedding=True),
    "qwen2": dataclasses.replace(PLAIN, qkv_bias=True, tied_embedding=True),
    "qwen3": dataclasses.replace(PLAIN, qk_norm=True),
    "one_kv_head": dataclasses.replace(PLAIN, num_kv_heads=1),
    "unrolled": dataclasses.replace(PLAIN, scan_layers=False),
    "remat": dataclasses.replace(PLAIN, remat=True),
    "unrolled_remat": dataclasses.replace(PLAIN, scan_layers=False, remat=True),
    "one_layer": dataclasses.replace(PLAIN, num_layers=1),
}


def norm(x, scale, eps):
    return x / np.sqrt(np.mean(x * x) + eps) * scale


def turn(x, position, theta):
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
        out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
    return out


def reference_layer(c, w, x, positions, mask):
    """One layer of one sequence; x [T, D] in float64."""
    heads, kv_heads, d = c.num_heads, c.num_kv_heads, c.head_dim
    q, k, v = {}, {}, {}
    for t in range(len(x)):
        qkv = norm(x[t], w["attention_norm"], c.norm_eps) @ w["qkv"]
        qkv = qkv + w.get("qkv_bias", 0.0)
        rows = qkv.reshape(heads + 2 * kv_heads, d)
        for h in range(heads):
            row = norm(rows[h], w["q_norm"], c.norm_eps) if c.qk_norm else rows[h]
            q[t, h] = turn(row, positions[t], c.rope_theta)
        for h in range(kv_heads):
            row = rows[heads + h]
            row = norm(row, w["k_norm"], c.norm_eps) if c.qk_norm else row
            k[t, h] = turn(row, positions[t], c.rope_theta)
            v[t, h] = rows[heads + kv_heads + h]
    out = np.empty_like(x)
    for t in range(len(x)):
        seen = np.flatnonzero(mask[t])
        attended = []
        for h in range(heads):
            g = h // (heads // kv_heads)
            e = np.exp([q[t, h] @ k[s, g] / math.sqrt(d) for s in seen])
            attended.append(sum(p * v[s, g] for p, s in zip(e / e.sum(), seen)))  # noqa: B905
        y = x[t] + np.concatenate(attended) @ w["out"]
        gate, up = np.split(norm(y, w["mlp_norm"], c.norm_eps) @ w["gate_up"], 2)
        out[t] = y + (gate / (1 + np.exp(-gate)) * up) @ w["down"]
    return out


def reference_hidden(c, params, ids, positions, mask):
    params = {name: np.asarray(x, np.float64) for name, x in params.items()}
    outer = ("embedding", "unembedding", "final_norm")
    out = []
    for row in range(len(ids)):
        x = params["embedding"][ids[row]]
        for i in range(c.num_layers):
            layer = {n: w[i] for n, w in params.items() if n not in outer}
            x = reference_layer(c, layer, x, positions[row], mask[row])
        out.append([norm(h, params["final_norm"], c.norm_eps) for h in x])
    return np.array(out)


def random_params(c):
    """Every leaf random, scales and biases too."""
    rng = np.random.default_rng(0)
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        Decoder(c).init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )
    return {
        name: jnp.asarray(rng.standard_normal(x.shape) * 0.5, jnp.float32)
        for name, x in sorted(shapes["params"].items())
    }


def random_input(seed=0):
    """Positions repeat and jump, and a position sees itself and some others."""
    rng = np.random.default_rng(seed)
    mask = (rng.random((B, T, T)) < 0.5) | np.eye(T, dtype=bool)
    return rng.integers(0, V, (B, T)), rng.integers(0, 9, (B, T)), mask


def apply(c, params, ids, positions, mask, first_output=0, in_order=False):
    run = jax.jit(Decoder(c).apply, static_argnums=(4, 5))
    return jnp.asarray(
        run({"params": params}, ids, positions, mask, first_output, in_order)
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_match_numpy(name):
    c = VARIANTS[name]
    params, inputs = random_params(c), random_input()
    expected = reference_hidden(c, params, *inputs)
    first = 0 if name == "plain" else 3
    hidden = apply(c, params, *inputs, first)
    assert hidden.dtype == jnp.float32
    logits = hidden @ unembedding(params, c)
    matrix = params["embedding"].T if c.tied_embedding else params["unembedding"]
    expected_logits = expected[:, first:] @ np.asarray(matrix, np.float64)
    assert np.abs(expected_logits).max() > 1  # the comparison says something
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)


def test_gradients_do_not_depend_on_how_layers_run():
    params, inputs = random_params(PLAIN), random_input()

    def grad(c, first_output):
        def loss(p):
            hidden = apply(c, p, *inputs, first_output)
            return jnp.sum(jnp.sin(hidden[:, 3 - first_output :]))

        return jax.jit(jax.grad(loss))(params)

    expected = grad(VARIANTS["unrolled"], 0)
    for name in ("remat", "unrolled_remat"):
        chex.assert_trees_all_close(
            grad(VARIANTS[name], 3), expected, rtol=1e-3, atol=1e-5
        )


def test_what_is_not_seen_does_not_matter():
    params, (ids, positions, mask) = random_params(PLAIN), random_input()
    mask = mask & (np.arange(T) != 2) | np.eye(T, dtype=bool)  # nobody sees 2
    hidden = apply(PLAIN, params, ids, positions, mask)
    ids[:, 2], positions[:, 2] = (ids[:, 2] + 1) % V, 77
    other = apply(PLAIN, params, ids, positions, mask)
    keep = np.arange(T) != 2
    chex.assert_trees_all_equal(hidden[:, keep], other[:, keep])
    # A row that sees nothing at all is finite, and so are gradients through it.
    mask[:, 2] = False

    def loss(p):
        return jnp.sum(apply(PLAIN, p, ids, positions, mask))

    chex.assert_tree_all_finite(jax.grad(loss)(params))


def test_order_of_packing_does_not_matter():
    params, (ids, positions, mask) = random_params(PLAIN), random_input()
    order = np.array([3, 0, 4, 2, 1])
    hidden = apply(PLAIN, params, ids, positions, mask)
    moved = apply(
        PLAIN, params, ids[:, order], positions[:, order], mask[:, order][:, :, order]
    )
    np.testing.assert_allclose(moved, hidden[:, order], atol=2e-5)


def test_bfloat16_is_near_float32():
    c = dataclasses.replace(PLAIN, dtype="bfloat16", qk_norm=True, qkv_bias=True)
    params = jax.tree.map(lambda x: 0.3 * x, random_params(c))
    inputs = random_input()
    hidden = apply(c, params, *inputs)
    assert hidden.dtype == jnp.float32
    exact = apply(dataclasses.replace(c, dtype="float32"), params, *inputs)
    # 8 bits of mantissa are 0.4 % a rounding, over about ten of them.
    np.testing.assert_allclose(hidden, exact, atol=0.05 * np.abs(exact).max())
    assert np.abs(hidden - exact).max() > 0


def test_parameters_keep_their_type_and_start_calm():
    c = dataclasses.replace(PLAIN, param_dtype="bfloat16", width=64)
    ids = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(Decoder(c).init)(
        jax.random.key(0), ids, ids, jnp.ones((1, 2, 2), bool)
    )["params"]
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    hidden = apply(c, params, ids, ids, jnp.ones((1, 2, 2), bool))
    logits = hidden @ unembedding(params, c).astype(jnp.float32)
    assert np.abs(logits).max() < 1  # near uniform


@pytest.mark.parametrize(
    "preset, low, high",
    [(model_config.tiny, 1e5, 1.2e5), (model_config.small, 3e6, 3.6e6)],
)
def test_presets_have_the_size_they_name(preset, low, high):
    c = preset(60)
    ids = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(
        Decoder(c).init, jax.random.key(0), ids, ids, jnp.ones((1, 2, 2), bool)
    )
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert low < count < high
    assert model_config.base(60).num_layers == 12


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_layers": 0}, "num_layers is 0; it must be > 0"),
        ({"num_kv_heads": 3}, "num_heads is 4; it must be a multiple of .* 3"),
        ({"head_dim": 5}, "head_dim is 5; RoPE needs an even one"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be float32"),
        ({"param_dtype": "fp32"}, "param_dtype is 'fp32'; it must be float32"),
    ],
)
def test_config_names_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAIN, **change)
