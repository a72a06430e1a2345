"""Adapters through PEFT and back: `python -m tests.parity.peft_roundtrip [FOLDER..]`.

Needs torch, transformers and peft (the extra `parity`); each FOLDER holds the
`config.json` and `model.safetensors` of a small model, by default the fixtures of the
families that adapters are for. Compared, in float32:

* an adapter written here, loaded by peft: logits with ours beside the base;
* the same merged here, as weights of the plain decoder: logits with peft's;
* an adapter written by peft, loaded here: logits.
"""

import importlib
import json
import pathlib
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import decoder, families, lora, peft_folder
from tests.models import golden

# In an environment of their own: see the extra `parity`.
peft: Any = importlib.import_module("peft")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

LIMIT = 1e-4  # of logits, whose own spread is about 1
CASES = {
    "all": lora.LoraConfig(rank=4, alpha=6.0),
    "two": lora.LoraConfig(rank=3, alpha=3.0, targets=("v_proj", "down_proj")),
}


def logits_of(params, ids, config):
    """Logits [B, T, V] of a causal text."""
    batch, length = ids.shape
    positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
    mask = jnp.broadcast_to(
        jnp.tril(jnp.ones((length, length), bool)), (batch, length, length)
    )
    hidden = decoder.Decoder(config).apply({"params": params}, ids, positions, mask)
    return np.asarray(decoder.logits(params, jnp.asarray(hidden), config))


def adapted(folder, adapter: str | lora.LoraConfig):
    """The torch model with an adapter: loaded from a folder, or drawn."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    if isinstance(adapter, str):
        return peft.PeftModel.from_pretrained(model, adapter).eval()
    made = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha, task_type="CAUSAL_LM",
            target_modules=list(adapter.targets), init_lora_weights=False,
        ),
    )  # fmt: skip
    return made.eval()


def torch_logits(model, ids):
    """Its logits."""
    with torch.no_grad():
        return model(torch.asarray(np.asarray(ids, np.int64))).logits.numpy()


def check(folder: pathlib.Path) -> float:
    """The largest difference of logits over all cases, printed."""
    config = families.config_of(json.loads((folder / "config.json").read_text()))
    base = golden.params(folder, config)
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, config.vocab_size, (2, 9)), jnp.int32)
    worst = 0.0
    for name, settings in CASES.items():
        drawn = jax.tree.map(
            lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32),
            lora.init(jax.random.key(0), config, settings),
        )
        with tempfile.TemporaryDirectory() as place:
            peft_folder.save(place, drawn, settings, config, str(folder))
            theirs = torch_logits(adapted(folder, place), ids)
            again, read = peft_folder.load(place, config)
        assert read == settings
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(drawn), strict=True):
            np.testing.assert_array_equal(a, b)
        beside = logits_of(lora.attach(base, drawn, settings), ids, config)
        merged = logits_of(lora.merge(base, drawn, config, settings), ids, config)
        model = adapted(folder, settings)
        with tempfile.TemporaryDirectory() as place:
            model.save_pretrained(place)
            ours, read = peft_folder.load(place, config)
        assert read == settings
        of_theirs = logits_of(lora.attach(base, ours, settings), ids, config)
        moved = np.abs(theirs - logits_of(base, ids, config)).max()
        gaps = {
            "saved": np.abs(beside - theirs).max(),
            "merged": np.abs(merged - theirs).max(),
            "loaded": np.abs(of_theirs - torch_logits(model, ids)).max(),
        }
        said = " ".join(f"{key} {gap:.1e}" for key, gap in gaps.items())
        print(f"{folder.name:14} {name:4} {said}   (adapter moves logits {moved:.2f})")
        assert moved > 0.05, "the adapter does nothing"
        worst = max(worst, *gaps.values())
    return worst


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    folders = [
        golden.ROOT / name for name in golden.names() if name != "gpt2"
    ]  # no gate
    given = [pathlib.Path(name) for name in sys.argv[1:]]
    found = max(check(folder) for folder in given or folders)
    if not found <= LIMIT:
        sys.exit(f"logits differ by {found:.1e}, more than {LIMIT:.0e}")
