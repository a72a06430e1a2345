"""A tiny decoder and a log of random texts for the agents that learn from logs."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rljax.data import packing
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder, logits
from rljax.types import Episode

CONFIG = ModelConfig(
    vocab_size=11, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8,
    mlp_width=24, scan_layers=False,
)  # fmt: skip
LONGEST = 23  # of texts, or of a prompt with another answer


def weights(seed: int = 0):
    """Random ones, large enough that logits differ."""
    one = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(Decoder(CONFIG).init)
    found = init(jax.random.key(seed), one, one, one[None] == 0)["params"]
    return jax.tree.map(lambda x: 2 * x, found)


def log(count: int = 8, seed: int = 1) -> list[Episode]:
    """Texts of 5 to 12 tokens; each third one has an observation between answers."""
    rng = np.random.default_rng(seed)
    found = []
    for line in range(1, count + 1):
        size, begin = int(rng.integers(5, 13)), int(rng.integers(1, 4))
        action = np.arange(size) >= begin
        if line % 3 == 0:
            action[begin + 1] = False
        number = np.cumsum(rng.random(size) < 0.4)
        step = np.where(action, number - number[begin], -1)
        found.append(
            Episode(
                ids=rng.integers(1, CONFIG.vocab_size, size).astype(np.int32),
                action=action,
                step=step.astype(np.int32),
                reward=float(line % 2),
                task=f"task {line // 4}",
                source="",
                line=line,
            )
        )
    return found


def hidden_of(params, episodes: Sequence[Episode]) -> jax.Array:
    """Hidden states of texts, one to a row and padded, [N, T, D]."""
    ids = np.stack([np.pad(e.ids, (0, LONGEST - len(e.ids))) for e in episodes])
    places = jnp.broadcast_to(jnp.arange(LONGEST), ids.shape)
    mask = jnp.tril(jnp.ones((LONGEST, LONGEST), bool))
    mask = jnp.broadcast_to(mask, (len(ids), LONGEST, LONGEST))
    found = Decoder(CONFIG).apply({"params": params}, jnp.asarray(ids), places, mask)
    return jnp.asarray(found)


def log_probs_of(params, episodes: Sequence[Episode]) -> jax.Array:
    """log p of every token of the vocabulary after each prefix, [N, T, V]."""
    found = logits(params, hidden_of(params, episodes), CONFIG)
    return jax.nn.log_softmax(found)


def batch(items: Sequence[packing.Item], num_devices: int = 1):
    """One batch of all items."""
    plan = packing.make_plan(items, len(items), 1, 0, num_devices, tokens=32)
    return packing.pack(plan, list(items))
