"""Builds the golden fixtures: a tiny random model of each family, and what it says.

    python -m tests.parity.build tests/golden

It wants torch and transformers (the extra `parity`); the ordinary tests read what it
wrote. Weights are large and norms and biases random, so that every part of a model
moves its logits; windows and RoPE's first context are shorter than the texts.

Each folder holds a `config.json`, `model.safetensors` and `golden.npz`:

    ids, length       int32 [B, T] and [B]: texts, as long as that
    logits            float32 [B, T, V]: of whole rows, no padding
    right, left       the same of the texts padded on that side; junk in the padding
    greedy            int32 [B, N]: what `generate` adds to the texts, greedily

and, where older files spelt things otherwise, a `config_old.json`.
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

B, T, NEW, V = 3, 24, 12, 97
LENGTHS = (T, 15, 6)
WINDOW = 5
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0,
    "low_freq_factor": 0.5, "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
COMMON = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": V, "n_embd": 30, "n_layer": 3, "n_head": 5, "n_positions": 64,
    "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# Folder -> configuration class, its settings.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    # As SmolLM2 has them: three heads of query to one of keys, tied.
    "llama": (
        "Llama",
        {**COMMON, "num_attention_heads": 3, "num_key_value_heads": 1,
         "hidden_size": 30, "rope_parameters": LLAMA3},
    ),
    "llama_linear": (
        "Llama",
        {**COMMON, "head_dim": 12, "tie_word_embeddings": True,
         "rope_parameters": {
             "rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    ),
    "mistral": ("Mistral", {**COMMON, "sliding_window": WINDOW, "head_dim": 10}),
    "qwen2": (
        "Qwen2",
        {**COMMON, "num_attention_heads": 6, "num_key_value_heads": 2,
         "hidden_size": 36, "use_sliding_window": True, "sliding_window": WINDOW,
         "max_window_layers": 1},
    ),
    "qwen3": (
        "Qwen3",
        {**COMMON, "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 12,
         "tie_word_embeddings": True},
    ),
    "gemma2": (
        "Gemma2",
        {**COMMON, "head_dim": 10, "query_pre_attn_scalar": 7,
         "sliding_window": WINDOW, "attn_logit_softcapping": 3.0,
         "final_logit_softcapping": 4.0},
    ),
    "gemma3": (
        "Gemma3Text",
        {**COMMON, "head_dim": 10, "query_pre_attn_scalar": 9,
         "sliding_window": WINDOW, "num_hidden_layers": 4,
         "layer_types": [
             *["sliding_attention"] * 2, "full_attention", "sliding_attention"],
         "rope_parameters": {
             "full_attention": {
                 "rope_type": "linear", "factor": 2.0, "rope_theta": 5_000.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}},
    ),
    "gpt2": ("GPT2", GPT2),
}  # fmt: skip


def _old_rope(values: dict[str, Any]) -> dict[str, Any]:
    """RoPE's settings at the top level, as before transformers 5."""
    rope = dict(values.pop("rope_parameters"))
    values["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] == "linear":
        rope["type"] = rope.pop("rope_type")
    if rope.get("rope_type") != "default":
        values["rope_scaling"] = rope
    return values


def _old_windows(values: dict[str, Any]) -> dict[str, Any]:
    values.pop("layer_types")
    return values


def _old_gemma2(values: dict[str, Any]) -> dict[str, Any]:
    values = _old_windows(_old_rope(values))
    values.pop("tie_word_embeddings")  # true unless said otherwise
    return {**values, "cache_implementation": "hybrid"}


def _old_gemma3(values: dict[str, Any]) -> dict[str, Any]:
    rope = values.pop("rope_parameters")
    near, far = rope["sliding_attention"], dict(rope["full_attention"])
    values["rope_theta"] = far.pop("rope_theta")
    values["rope_local_base_freq"] = near["rope_theta"]
    values["rope_scaling"] = far
    # Layers 0 and 1 of every three slide: the same as the list that goes.
    values.pop("layer_types")
    values.pop("_sliding_window_pattern")
    values.pop("tie_word_embeddings")
    return {**values, "sliding_window_pattern": 3, "cache_implementation": "hybrid"}


# Folder -> its config.json as older files have it.
OLD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "llama": _old_rope,
    "llama_linear": _old_rope,
    "mistral": _old_rope,
    "qwen2": lambda values: _old_windows(_old_rope(values)),
    "qwen3": lambda values: _old_windows(_old_rope(values)),
    "gemma2": _old_gemma2,
    "gemma3": _old_gemma3,
}


def model_of(name: str) -> Any:
    """The model of a family, random but for its seed."""
    kind, settings = FAMILIES[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config,
        attn_implementation="eager",  # the others have no soft caps
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # norms and biases: not all ones and zeros
                weight.add_(torch.randn(weight.shape) * 0.3)
    return model


def texts() -> tuple[np.ndarray, np.ndarray]:
    """Random ids [B, T], and how many of each row are text."""
    rng = np.random.default_rng(1)
    ids = rng.integers(3, V, (B, T)).astype(np.int32)
    return ids, np.array(LENGTHS, np.int32)


def golden(model: Any) -> dict[str, np.ndarray]:
    """What the model says of the texts, in float32."""
    ids, length = texts()
    place = np.arange(T)
    found = {"ids": ids, "length": length, "logits": logits(model, ids, ids > -1)}
    found["right"] = logits(model, ids, place < length[:, None])
    moved, real = to_the_left(ids, length)
    found["left"] = logits(model, moved, real)
    with torch.no_grad():
        out = model.generate(
            torch.tensor(moved, dtype=torch.long),
            attention_mask=torch.tensor(real, dtype=torch.long),
            max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    found["greedy"] = out[:, T:].numpy().astype(np.int32)
    _require_clear_choices(model, moved, real, found["greedy"])
    return found


def to_the_left(ids: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text at the end of its row, and where it is."""
    moved = ids.copy()
    for row, n in enumerate(length):
        moved[row, T - n :] = ids[row, :n]
    return moved, np.arange(T) >= T - length[:, None]


def logits(model: Any, ids: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Of padded rows; positions count from the first real token."""
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    with torch.no_grad():
        out = model(
            torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(real, dtype=torch.long),
            position_ids=torch.tensor(positions),
        )
    return out.logits.numpy()


def _require_clear_choices(model, ids, real, greedy) -> None:
    """No two best tokens so near that rounding decides, and no idle caps."""
    whole = np.concatenate([ids, greedy], axis=1)
    seen = np.concatenate([real, np.ones_like(greedy, bool)], axis=1)
    said = logits(model, whole, seen)[:, T - 1 : -1]
    assert (said.argmax(-1) == greedy).all(), "generate is not greedy"
    best = np.sort(said, axis=-1)
    gap = float((best[..., -1] - best[..., -2]).min())
    assert gap > 1e-3, f"two tokens are as good to {gap:.1e}: take another seed"
    assert said.std() > 1, f"logits hardly differ: {said.std():.2f}"


def _require_same(model: Any, values: dict[str, Any], said) -> None:
    """Older spellings are the same model to transformers, too."""
    config = transformers.AutoConfig.for_model(**values)
    other = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager"
    )
    other.load_state_dict(model.state_dict())
    found = logits(other.eval(), said["ids"], said["ids"] > -1)
    np.testing.assert_array_equal(found, said["logits"])


def save(name: str, folder: pathlib.Path) -> None:
    """Writes a family's fixture."""
    model = model_of(name)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values.pop("transformers_version")
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    (folder / "model.safetensors").chmod(0o644)
    said = golden(model)
    if name in OLD:
        old = OLD[name](values)
        text = json.dumps(old, indent=2, sort_keys=True)
        (folder / "config_old.json").write_text(text + "\n")
        _require_same(model, old, said)
    np.savez(folder / "golden.npz", allow_pickle=False, **said)
    size = sum(p.stat().st_size for p in folder.iterdir())
    assert size < 500_000, f"{folder} takes {size:,} bytes"
    print(f"{name}: logits' std {said['logits'].std():.2f}, {size:,} bytes")


def main(out: str) -> None:
    """Writes every fixture under `out`."""
    for name in FAMILIES:
        folder = pathlib.Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        save(name, folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
