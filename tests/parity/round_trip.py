"""rljax -> transformers -> rljax: folders we wrote, opened by transformers.

    python -m tests.parity.round_trip

For each golden fixture, with its own `config.json` and with one made of the
settings, and for decoders of our own sizes with a word-level tokenizer: transformers'
logits of our folder equal ours, and what transformers saves of it we read again with
not a bit changed. In shards, too.
"""

import dataclasses
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from rljax.models import config as model_config
from rljax.models import decoder, families, hf_folder
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.text import tokenizer as tokenizers
from tests.models import golden

TOLERANCE = 1e-4
SHARD_BYTES = 50_000


def ours(c: ModelConfig, params, ids: np.ndarray) -> np.ndarray:
    """Our logits of texts without padding."""
    t = ids.shape[1]
    positions = jnp.broadcast_to(jnp.arange(t), ids.shape)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((t, t), bool)), (len(ids), t, t))
    hidden = Decoder(c).apply({"params": params}, jnp.asarray(ids), positions, mask)
    return np.asarray(decoder.logits(params, jnp.asarray(hidden), c))


def check(name: str, c: ModelConfig, params, tokens, source) -> None:
    """Goes there and back.

    Raises:
      AssertionError: if anything but rounding changes on the way.
    """
    ids = np.random.default_rng(2).integers(3, c.vocab_size, (2, 24)).astype(np.int32)
    here = ours(c, params, ids)
    with tempfile.TemporaryDirectory() as place:
        there, back = pathlib.Path(place) / "there", pathlib.Path(place) / "back"
        hf_folder.save(there, params, c, tokens, source, shard_bytes=SHARD_BYTES)
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            there, attn_implementation="eager", output_loading_info=True
        )
        assert not any(told.values()), told
        with torch.no_grad():
            said = model.eval()(torch.tensor(ids, dtype=torch.long)).logits.numpy()
        off = float(np.abs(said - here).max())
        model.save_pretrained(back)
        values = json.loads((back / "config.json").read_text())
        again = families.config_of(values)
        again = dataclasses.replace(again, scan_layers=c.scan_layers)
        read = golden.params(back, again)
        jax.tree.map(np.testing.assert_array_equal, read, params)
        np.testing.assert_array_equal(ours(again, read, ids), here)
        assert len(tokenizers.load(there)) == len(tokens)
        assert model.generation_config.eos_token_id in (1, [1])
    print(f"{name}: logits off by {off:.1e}, their std {said.std():.2f}")
    assert off < TOLERANCE, off


def random_params(c: ModelConfig):
    """Large weights, norms and biases included."""
    rng = np.random.default_rng(0)
    zeros = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        Decoder(c).init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )["params"]
    return {
        name: jnp.asarray(
            rng.standard_normal(x.shape) * (0.2 if x.ndim > 2 else 0.5), x.dtype
        )
        for name, x in sorted(shapes.items())
    }


def main() -> None:
    """Every fixture, then decoders of our own."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    transformers.utils.logging.disable_progress_bar()
    tokens = tokenizers.word_level([f"w{i}" for i in range(94)])
    for name in golden.names():
        c = golden.config(name)
        params = golden.params(golden.ROOT / name, c)
        source = json.loads((golden.ROOT / name / "config.json").read_text())
        check(name, c, params, tokens, source)
        check(f"{name}, from its settings", c, params, tokens, None)
    tiny = model_config.tiny(len(tokens))
    own = {
        "tiny": tiny,
        "small": model_config.small(len(tokens)),
        "tiny as qwen2": dataclasses.replace(tiny, qkv_bias=True, tied_embedding=True),
        "tiny as qwen3": dataclasses.replace(tiny, qk_norm=True),
    }
    for name, c in own.items():
        check(name, c, random_params(c), tokens, None)


if __name__ == "__main__":
    main()
