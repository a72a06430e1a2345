"""Adapters against the same decoder with W + scale A B put into its matrices."""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import lora
from tests.models.test_decoder import VARIANTS, apply, random_input, random_params

ALL = lora.LoraConfig(rank=2, alpha=6.0)
SOME = lora.LoraConfig(rank=3, alpha=4.5, targets=("v_proj", "up_proj"))
FIRST = 2  # first position whose hidden state is read


def random_adapter(config, settings, seed=1):
    rng = np.random.default_rng(seed)
    fresh = lora.init(jax.random.key(0), config, settings)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), fresh
    )


def merged_in_numpy(c, base, adapter, scale):
    """Each fused matrix cut into its parts by the widths of heads and MLP."""
    q, kv, f = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.mlp_width
    cuts = {
        "qkv": (("q_proj", q), ("k_proj", kv), ("v_proj", kv)),
        "out": (("o_proj", c.width),),
        "gate_up": (("gate_proj", f), ("up_proj", f)),
        "down": (("down_proj", c.width),),
    }
    whole = {name: np.asarray(x, np.float64) for name, x in base.items()}
    for name, parts in cuts.items():
        blocks, start = [], 0
        for target, width in parts:
            block = whole[name][..., start : start + width]
            if target in adapter:
                a, b = (np.asarray(adapter[target][k], np.float64) for k in "ab")
                block = block + scale * np.einsum("lir,lro->lio", a, b)
            blocks.append(block)
            start += width
        assert start == whole[name].shape[-1]
        whole[name] = np.concatenate(blocks, axis=-1)
    return {name: jnp.asarray(x, jnp.float32) for name, x in whole.items()}


@pytest.mark.parametrize("settings", [ALL, SOME], ids=["all", "two targets"])
@pytest.mark.parametrize("name", ["plain", "qwen2", "unrolled", "remat", "one_layer"])
def test_adapter_computes_what_the_changed_matrices_do(name, settings):
    c = VARIANTS[name]
    base, inputs = random_params(c), random_input()
    adapter = random_adapter(c, settings)
    whole = merged_in_numpy(c, base, adapter, settings.alpha / settings.rank)
    expected = apply(c, whole, *inputs, FIRST)
    attached = lora.attach(base, adapter, settings)
    folded = lora.fold(attached, c)
    chex.assert_trees_all_close(folded, whole, atol=1e-5)
    assert lora.fold(base, c) == base
    found = apply(c, attached, *inputs, FIRST)
    plain = apply(c, base, *inputs, FIRST)
    assert np.abs(expected - plain).max() > 0.1  # the adapter does something
    np.testing.assert_allclose(found, expected, atol=1e-5)
    merged = lora.merge(base, adapter, c, settings)
    assert merged.keys() == base.keys()
    chex.assert_trees_all_close(merged, whole, atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "unrolled"])
def test_fresh_adapter_changes_nothing(name):
    c = VARIANTS[name]
    base, inputs = random_params(c), random_input()
    fresh = lora.init(jax.random.key(0), c, ALL)
    found = apply(c, lora.attach(base, fresh, ALL), *inputs, FIRST)
    np.testing.assert_allclose(found, apply(c, base, *inputs, FIRST), atol=1e-6)
    chex.assert_trees_all_equal(lora.merge(base, fresh, c, ALL), base)
    for target, pair in fresh.items():
        edge = lora.spans(c)[target].inputs ** -0.5
        assert not np.any(pair["b"])
        assert 0.6 * edge < np.abs(pair["a"]).max() <= edge, target
        assert pair["a"].dtype == jnp.float32
    drawn = [np.asarray(pair["a"]).ravel()[:6] for pair in fresh.values()]
    assert len({x.tobytes() for x in drawn}) == len(drawn)  # a key of its own each


@pytest.mark.parametrize("name", ["plain", "unrolled_remat"])
def test_gradient_is_that_of_the_matrices_by_the_chain_rule(name):
    # y = x (W + s A B), so dA = s dW B^T and dB = s A^T dW.
    c = VARIANTS[name]
    base, inputs = random_params(c), random_input()
    adapter = random_adapter(c, ALL)
    scale = ALL.alpha / ALL.rank

    def loss(params):
        return jnp.sum(jnp.sin(apply(c, params, *inputs, FIRST)))

    found = jax.grad(lambda x: loss(lora.attach(base, x, ALL)))(adapter)
    of_whole = jax.grad(loss)(merged_in_numpy(c, base, adapter, scale))
    for target, span in lora.spans(c).items():
        d = of_whole[span.name][..., span.first : span.first + span.outputs]
        a, b = adapter[target]["a"], adapter[target]["b"]
        expected = {
            "a": scale * jnp.einsum("lio,lro->lir", d, b),
            "b": scale * jnp.einsum("lir,lio->lro", a, d),
        }
        assert np.abs(expected["a"]).max() > 1e-2
        chex.assert_trees_all_close(found[target], expected, rtol=1e-3, atol=2e-4)


def test_bfloat16_base_follows_float32():
    c = dataclasses.replace(VARIANTS["plain"], param_dtype="bfloat16", dtype="bfloat16")
    base, inputs = random_params(VARIANTS["plain"]), random_input()
    base = {name: x.astype(jnp.bfloat16) for name, x in base.items()}
    adapter = random_adapter(c, ALL)
    wide = {name: x.astype(jnp.float32) for name, x in base.items()}
    expected = apply(VARIANTS["plain"], lora.attach(wide, adapter, ALL), *inputs)
    found = apply(c, lora.attach(base, adapter, ALL), *inputs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=0.15)
    merged = lora.merge(base, adapter, c, ALL)
    assert all(x.dtype == jnp.bfloat16 for x in merged.values())
    np.testing.assert_allclose(apply(c, merged, *inputs), expected, atol=0.15)


def test_attach_shares_the_base():
    c = VARIANTS["plain"]
    base = random_params(c)
    params = lora.attach(base, random_adapter(c, SOME), SOME)
    assert all(params[name] is base[name] for name in base)
    assert set(params) - set(base) == {
        *("v_proj.a", "v_proj.b", "up_proj.a", "up_proj.b")
    }


def test_what_does_not_belong_together_is_refused():
    c = VARIANTS["plain"]
    base, adapter = random_params(c), random_adapter(VARIANTS["plain"], SOME)
    with pytest.raises(ValueError, match=r"targets \['up_proj', 'v_proj'\], its sett"):
        lora.attach(base, adapter, ALL)
    other = dataclasses.replace(SOME, rank=4)
    with pytest.raises(ValueError, match=r"up_proj .* rank 3 \(A\) and 3 \(B\).* 4"):
        lora.merge(base, adapter, c, other)
    with pytest.raises(ValueError, match="has an adapter already"):
        lora.attach(lora.attach(base, adapter, SOME), adapter, SOME)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"targets": ("q_proj", "lm_head")}, "lm_head"),
        ({"targets": ("q_proj", "q_proj")}, "each once"),
        ({"targets": ()}, "one or more"),
    )
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            lora.LoraConfig(**wrong)
