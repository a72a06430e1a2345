"""Agents that learn adapters: one base in memory, never moved, never copied."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents import ppo_glam, sac_glam
from rljax.models import lora
from rljax.models.config import ModelConfig
from rljax.models.decoder import last_layers
from rljax.policy import networks
from rljax.text import trie
from rljax.types import Commands, Tokens, Transition
from tests.agents.on_devices import assert_eight_equal_one

B, P, V = 2, 4, 24
SMALL = ModelConfig(
    vocab_size=V, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    mlp_width=24, tied_embedding=True,
)  # fmt: skip
LORA = lora.LoraConfig(rank=2, alpha=8.0)
SEPARATE = sac_glam.Config(shared_trunk=False, kl_weight=0.1, learning_rate=0.01)


def read(obs):
    """Prompts that are given, and three commands of two tokens."""
    ids = jnp.broadcast_to(jnp.arange(2, 8).reshape(3, 2), (len(obs), 3, 2))
    lengths = jnp.full((len(obs), 3), 2)
    commands = Commands(ids, lengths, jnp.ones((len(obs), 3), bool))
    tries = jax.vmap(functools.partial(trie.build, num_nodes=6))(commands)
    return Tokens(obs, jnp.full(len(obs), P)), tries


def nets(config=SMALL, adapter=LORA):
    return networks.make(config, 0, (4,), adapter=adapter)


def base_of(config=SMALL):
    return nets(config, None).init_trunk(jax.random.key(7))


def prompts(seed=0, many=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, V, (B * many, P)), jnp.int32)


def sac_batch(size=B):
    many = size // B
    return Transition(
        prompts(0, many), jnp.tile(jnp.array([0, 2]), many),
        jnp.tile(jnp.array([1.0, 0.0]), many), jnp.tile(jnp.array([0.0, 0.9]), many),
        prompts(1, many),
    )  # fmt: skip


def ppo_batch():
    zero = jnp.zeros(B)
    return ppo_glam.Batch(prompts(), jnp.array([0, 2]), zero - 1, zero, zero + 1, zero)


AGENTS = {
    "sac": (lambda n: sac_glam.make(n, read, SEPARATE), sac_batch),
    "ppo": (lambda n: ppo_glam.make(n, read, ppo_glam.Config()), ppo_batch),
}


def pointers(tree):
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]


def size(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", AGENTS)
def test_one_base_is_held_and_never_moves(name):
    make, batch = AGENTS[name]
    agent, frozen = make(nets()), base_of()
    before = jax.tree.map(np.array, frozen)
    places = pointers(frozen)
    state = agent.init(jax.random.key(0), frozen)
    start = jax.tree.map(jnp.copy, state.params)
    rest = dataclasses.replace(state, frozen=None)
    # Everything else together: adapters, heads, moments. No array of the base's among
    # them, and no room for one.
    assert {x.shape for x in jax.tree.leaves(rest)}.isdisjoint(
        {x.shape for x in jax.tree.leaves(frozen) if x.ndim > 2}
    )
    assert len(set(pointers(state))) == len(pointers(state))
    update = jax.jit(agent.update, donate_argnums=0)
    constants = jax.make_jaxpr(agent.update)(state, batch()).consts
    assert size(constants) < 100
    for _ in range(3):
        state, _ = update(state, batch())
    assert pointers(state.frozen) == places  # the very same memory
    chex.assert_trees_all_equal(state.frozen, before)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, start)
    assert all(jax.tree.leaves(moved)), moved
    obs, keys = prompts(), jax.random.split(jax.random.key(1), B)
    action = agent.act(agent.params(state), obs, keys, 1.0)
    assert np.isfinite(action.log_pi).all()


def test_an_update_sees_the_merged_weights():
    # The same losses as of an agent whose whole trunks are the merged ones.
    rng = np.random.default_rng(3)

    def filled(tree):
        return jax.tree.map(
            lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), tree
        )

    frozen = base_of()
    config = dataclasses.replace(SEPARATE, entropy_in_target=0.5)
    agent = sac_glam.make(nets(), read, config)
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

    plain = sac_glam.make(nets(adapter=None), read, config)
    other = dataclasses.replace(
        plain.init(jax.random.key(0)),
        params=whole(state.params),
        target=whole(state.target),
        reference=merged(state.reference),
    )
    _, found = jax.jit(agent.update)(state, sac_batch())
    _, expected = jax.jit(plain.update)(other, sac_batch())
    for name in ("critic/loss", "train/policy_loss", "train/kl_to_initial"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=1e-6)
    assert float(found["train/kl_to_initial"]) > 1e-3
    assert size(state.params) < size(other.params)


def test_memory_of_an_update_does_not_grow_with_the_base():
    # A layer more may cost its activations, but no copy of its weights.
    def temporaries(layers):
        config = dataclasses.replace(
            SMALL, width=128, mlp_width=512, num_layers=layers, remat=True
        )
        agent = sac_glam.make(nets(config), read, SEPARATE)
        frozen = jax.eval_shape(lambda: base_of(config))
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(agent.init, key, frozen)
        layer = sum(x.size * 4 for x in jax.tree.leaves(frozen) if x.ndim > 1)
        layer = (layer - V * 128 * 4) / layers
        update = jax.jit(agent.update, donate_argnums=0)
        used = update.lower(state, sac_batch()).compile().memory_analysis()
        assert used is not None
        return used.temp_size_in_bytes, used.alias_size_in_bytes, layer

    few, _, layer = temporaries(2)
    many, aliased, _ = temporaries(6)
    assert (many - few) / 4 < 0.5 * layer
    assert aliased > 6 * layer  # donated, the base among it


def test_eight_devices_equal_one():
    def make(axis_name):
        agent = sac_glam.make(nets(), read, SEPARATE, axis_name=axis_name)
        return agent._replace(init=lambda key: agent.init(key, base_of()))

    assert_eight_equal_one(make, sac_batch(16), updates=2)


def test_a_whole_trunk_may_learn_in_its_last_layer_alone():
    mask = {"actor": last_layers(SMALL, 1), "q": True}
    agent = sac_glam.make(nets(adapter=None), read, sac_glam.Config(), trainable=mask)
    start = agent.init(jax.random.key(0))
    state, _ = jax.jit(agent.update)(start, sac_batch())
    for name, kept in mask["actor"].items():
        before, after = start.params["actor"][name], state.params["actor"][name]
        kept = np.broadcast_to(kept, before.shape)
        np.testing.assert_array_equal(after[~kept], before[~kept], name)
        assert np.any(np.asarray(after != before)[kept]) == kept.any(), name
    moved = jax.tree.map(
        lambda a, b: np.any(a != b), state.params["q"], start.params["q"]
    )
    assert all(jax.tree.leaves(moved))
    with pytest.raises(ValueError, match="count is 3; there are 2 layers"):
        last_layers(SMALL, 3)


def test_base_and_adapter_are_asked_for_and_refused_by_name():
    obs, keys = prompts(), jax.random.split(jax.random.key(1), B)
    agent = sac_glam.make(nets(), read, SEPARATE)
    state = agent.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"adapter needs the weights.*init\(key, fro"):
        agent.act(agent.params(state), obs, keys, 1.0)
    agent = sac_glam.make(nets(adapter=None), read, SEPARATE)
    state = agent.init(jax.random.key(0), base_of())
    with pytest.raises(ValueError, match="frozen weights were given to networks"):
        agent.act(agent.params(state), obs, keys, 1.0)
