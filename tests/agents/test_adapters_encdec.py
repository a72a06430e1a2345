"""Adapters of an encoder-decoder: one base, never moved, never copied."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents import sac_glam
from rljax.models import lora
from rljax.models.encdec_config import EncDecConfig
from rljax.policy import networks
from tests.agents.test_adapters import SEPARATE, V, pointers, read, sac_batch, size

SMALL = EncDecConfig(
    vocab_size=V, width=16, num_layers=2, num_decoder_layers=2, num_heads=2,
    head_dim=8, mlp_width=24, num_buckets=4, max_distance=8,
)  # fmt: skip
LORA = lora.of(SMALL, 2, 8.0)


def nets(config=SMALL, adapter: lora.LoraConfig | None = LORA):
    return networks.make_encdec(config, 0, (4,), adapter=adapter)


def base_of(config=SMALL):
    return nets(config, None).init_trunk(jax.random.key(7))


def test_an_update_sees_the_merged_weights_and_leaves_the_base():
    rng = np.random.default_rng(3)

    def filled(tree):
        return jax.tree.map(
            lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), tree
        )

    frozen = base_of()
    agent = sac_glam.make(nets(), read, SEPARATE)
    state = agent.init(jax.random.key(0), frozen)
    state = dataclasses.replace(
        state,
        params=filled(state.params),
        target=filled(state.target),
        reference=filled(state.reference),
    )

    def merged(adapter):
        return lora.merge(frozen, adapter, SMALL, LORA)

    def whole(params):
        trunks = {k: merged(x) for k, x in params.items() if k != "q"}
        return {**trunks, "q": params["q"]}

    plain = sac_glam.make(nets(adapter=None), read, SEPARATE)
    other = dataclasses.replace(
        plain.init(jax.random.key(0)),
        params=whole(state.params),
        target=whole(state.target),
        reference=merged(state.reference),
    )
    start, places = jax.tree.map(np.array, state), pointers(frozen)
    rest = dataclasses.replace(state, frozen=None)
    assert {x.shape for x in jax.tree.leaves(rest)}.isdisjoint(
        {x.shape for x in jax.tree.leaves(frozen) if x.ndim > 2}
    )
    _, expected = jax.jit(plain.update)(other, sac_batch())
    after, found = jax.jit(agent.update, donate_argnums=0)(state, sac_batch())
    for name in ("critic/loss", "train/policy_loss", "train/kl_to_initial"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6)
    assert pointers(after.frozen) == places  # the very same memory
    chex.assert_trees_all_equal(after.frozen, start.frozen)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after.params, start.params)
    assert all(jax.tree.leaves(moved)), moved
    assert size(start.params) < size(other.params)


def test_memory_of_an_update_does_not_grow_with_the_base():
    # A layer more of each stack may cost its activations, but no copy of its weights.
    def temporaries(layers):
        config = dataclasses.replace(
            SMALL, width=128, mlp_width=512, num_layers=layers,
            num_decoder_layers=layers, remat=True,
        )  # fmt: skip
        agent = sac_glam.make(nets(config), read, SEPARATE)
        frozen = jax.eval_shape(lambda: base_of(config))
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(agent.init, key, frozen)
        layer = sum(x.size * 4 for x in jax.tree.leaves(frozen) if x.ndim > 2) / layers
        update = jax.jit(agent.update, donate_argnums=0)
        used = update.lower(state, sac_batch()).compile().memory_analysis()
        assert used is not None
        return used.temp_size_in_bytes, used.alias_size_in_bytes, layer

    few, _, layer = temporaries(2)
    many, aliased, _ = temporaries(6)
    assert (many - few) / 4 < 0.5 * layer
    assert aliased > 6 * layer  # donated, the base among it
