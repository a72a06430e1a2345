"""Adapters through PEFT and back: `python -m tests.parity.peft_roundtrip [FOLDER..]`.

Needs torch, transformers and peft (the extra `parity`); each FOLDER holds the
`config.json` and `model.safetensors` of a small model, by default the fixtures of all
families. Compared, in float32:

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

from rljax.models import decoder, encdec, families, lora, peft_folder
from rljax.models.encdec_config import EncDecConfig
from tests.models import golden, golden_t5

# In an environment of their own: see the extra `parity`.
peft: Any = importlib.import_module("peft")
torch: Any = importlib.import_module("torch")
transformers: Any = importlib.import_module("transformers")

LIMIT = 1e-4  # of logits, whose own spread is about 1
# Some of a family's targets; GPT-2's second name is of two matrices, T5's first of
# three, in two stacks.
SOME = {"gpt2": ("c_attn", "c_proj"), "t5": ("v", "wo")}


def cases(config, kind: str) -> dict[str, lora.LoraConfig]:
    """Adapters to try."""
    some = SOME.get(kind, ("v_proj", "down_proj"))
    return {"all": lora.of(config, 4, 6.0), "two": lora.of(config, 3, 3.0, some)}


def read(folder: pathlib.Path) -> tuple[Any, Any, str]:
    """Settings, parameters, and the model type."""
    values = json.loads((folder / "config.json").read_text())
    kind = values["model_type"]
    if kind == "t5":
        return *golden_t5.read(str(folder.resolve())), kind
    config = families.config_of(values)
    return config, golden.params(folder, config), kind


def logits_of(params, ids, config):
    """Logits [B, T, V] of a causal text; T5's prompt is the same turned round."""
    batch, length = ids.shape
    positions = jnp.broadcast_to(jnp.arange(length), ids.shape)
    mask = jnp.broadcast_to(
        jnp.tril(jnp.ones((length, length), bool)), (batch, length, length)
    )
    if isinstance(config, EncDecConfig):
        model, prompt = encdec.EncDec(config), ids[:, ::-1]
        seen = jnp.ones(ids.shape, bool)
        hidden = model.apply({"params": params}, prompt, seen, ids, positions, mask)
        return np.asarray(encdec.logits(params, jnp.asarray(hidden), config))
    hidden = decoder.Decoder(config).apply({"params": params}, ids, positions, mask)
    return np.asarray(decoder.logits(params, jnp.asarray(hidden), config))


def adapted(folder, kind: str, adapter: str | lora.LoraConfig):
    """The torch model with an adapter: loaded from a folder, or drawn."""
    auto = f"AutoModelFor{'Seq2SeqLM' if kind == 't5' else 'CausalLM'}"
    model = getattr(transformers, auto).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    if isinstance(adapter, str):
        return peft.PeftModel.from_pretrained(model, adapter).eval()
    made = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=adapter.rank, lora_alpha=adapter.alpha,
            task_type="SEQ_2_SEQ_LM" if kind == "t5" else "CAUSAL_LM",
            fan_in_fan_out=kind == "gpt2",
            target_modules=list(adapter.targets), init_lora_weights=False,
        ),
    )  # fmt: skip
    return made.eval()


def torch_logits(model, ids, kind: str):
    """Its logits."""
    text = torch.asarray(np.asarray(ids, np.int64))
    given = {"input_ids": text}
    if kind == "t5":
        given = {"input_ids": text.flip(1), "decoder_input_ids": text}
    with torch.no_grad():
        return model(**given).logits.numpy()


def check(folder: pathlib.Path) -> float:
    """The largest difference of logits over all cases, printed."""
    config, base, kind = read(folder)
    base = {name: jnp.asarray(x) for name, x in base.items()}
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, config.vocab_size, (2, 9)), jnp.int32)
    worst = 0.0
    for name, settings in cases(config, kind).items():
        drawn = jax.tree.map(
            lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32),
            lora.init(jax.random.key(0), config, settings),
        )
        with tempfile.TemporaryDirectory() as place:
            peft_folder.save(place, drawn, settings, config, str(folder))
            theirs = torch_logits(adapted(folder, kind, place), ids, kind)
            again, found = peft_folder.load(place, config)
        assert found == settings
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(drawn), strict=True):
            np.testing.assert_array_equal(a, b)
        beside = logits_of(lora.attach(base, drawn, settings), ids, config)
        merged = logits_of(lora.merge(base, drawn, config, settings), ids, config)
        model = adapted(folder, kind, settings)
        with tempfile.TemporaryDirectory() as place:
            model.save_pretrained(place)
            ours, found = peft_folder.load(place, config)
        assert found == settings
        of_theirs = logits_of(lora.attach(base, ours, settings), ids, config)
        moved = np.abs(theirs - logits_of(base, ids, config)).max()
        gaps = {
            "saved": np.abs(beside - theirs).max(),
            "merged": np.abs(merged - theirs).max(),
            "loaded": np.abs(of_theirs - torch_logits(model, ids, kind)).max(),
        }
        said = " ".join(f"{key} {gap:.1e}" for key, gap in gaps.items())
        print(f"{folder.name:14} {name:4} {said}   (adapter moves logits {moved:.2f})")
        assert moved > 0.05, "the adapter does nothing"
        worst = max(worst, *gaps.values())
    return worst


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    folders = [golden.ROOT / name for name in (*golden.names(), *golden_t5.KINDS)]
    given = [pathlib.Path(name) for name in sys.argv[1:]]
    found = max(check(folder) for folder in given or folders)
    if not found <= LIMIT:
        sys.exit(f"logits differ by {found:.1e}, more than {LIMIT:.0e}")
