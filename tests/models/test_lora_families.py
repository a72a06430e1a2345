"""Adapters of GPT-2 and T5 against their files' tensors, changed by hand.

PEFT's file says of which tensor a pair is; W + alpha / rank (B A) is put into that
tensor, and the model read anew. `tests/parity/peft_roundtrip.py` holds the files
against PEFT itself, `test_lora.py` what all families share.
"""

import dataclasses
import functools
import json
import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from rljax.models import decoder, lora, lora_targets, peft_folder
from rljax.models.encdec import EncDec
from rljax.models.encdec import logits as encdec_logits
from tests.models import golden, golden_t5
from tests.models.test_decoder import VARIANTS, random_params

CASES = {
    ("gpt2", "all"): ("c_attn", "c_proj", "c_fc"),
    ("gpt2", "some"): ("c_attn",),
    ("t5_gated", "all"): ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    ("t5_gated", "some"): ("v", "wi_1"),
    ("t5_relu", "all"): ("q", "k", "v", "o", "wi", "wo"),
}
RANK, ALPHA = 2, 3.0


@functools.cache
def base(kind) -> tuple[Any, Any]:
    """Settings and parameters."""
    if kind == "gpt2":
        config = golden.config(kind)
        return config, golden.params(golden.ROOT / kind, config)
    config, params = golden_t5.read(kind)
    return config, {name: jnp.asarray(x) for name, x in params.items()}


@functools.partial(jax.jit, static_argnums=1)
def logits_of(params, config):
    """Of two short texts, or of two after prompts that are padded."""
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(3, 75, (2, 6)))
    places = jnp.broadcast_to(jnp.arange(6), (2, 6))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((6, 6), bool)), (2, 6, 6))
    if hasattr(config, "num_decoder_layers"):
        prompt = jnp.asarray(rng.integers(3, 75, (2, 5)))
        real = jnp.arange(5) < jnp.array([[5], [3]])
        model = EncDec(config)
        hidden = model.apply({"params": params}, prompt, real, ids, places, mask)
        return encdec_logits(params, jnp.asarray(hidden), config)
    hidden = decoder.Decoder(config).apply({"params": params}, ids, places, mask)
    return decoder.logits(params, jnp.asarray(hidden), config)


def drawn(config, settings):
    rng = np.random.default_rng(1)
    fresh = lora.init(jax.random.key(0), config, settings)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), fresh
    )


def changed_by_hand(kind, pairs, scale, place):
    """The model of the files with the pairs of PEFT's file in its tensors."""
    folder = golden.ROOT / kind
    tensors = safetensors_numpy.load_file(folder / "model.safetensors")
    done = 0
    for name, b in pairs.items():
        if "lora_B" not in name:
            continue
        module = re.fullmatch(r"base_model\.model\.(.*)\.lora_B\.weight", name)
        assert module is not None, name
        a = pairs[name.replace("lora_B", "lora_A")]
        product = scale * (b.astype(np.float64) @ a.astype(np.float64))  # [O, I]
        name = f"{module[1]}.weight"
        if kind == "gpt2":  # whose files have [I, O]
            product = product.T
        assert product.shape == tensors[name].shape
        tensors[name] = (tensors[name] + product).astype(np.float32)
        done += 2
    assert done == len(pairs)
    if kind != "gpt2":
        config, _ = base(kind)
        return golden_t5.fill(config, tensors)
    safetensors_numpy.save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return golden.params(place, base(kind)[0])


@pytest.mark.parametrize(("kind", "which"), CASES, ids=["_".join(x) for x in CASES])
def test_a_pair_is_of_the_tensor_that_peft_names(kind, which, tmp_path):
    (config, params), targets = base(kind), CASES[kind, which]
    settings = lora.LoraConfig(RANK, ALPHA, targets)
    adapter = drawn(config, settings)
    peft_folder.save(tmp_path / "peft", adapter, settings, config, "some/base")
    pairs = safetensors_numpy.load_file(tmp_path / "peft" / peft_folder.WEIGHTS)
    whole = changed_by_hand(kind, pairs, ALPHA / RANK, tmp_path)
    expected = logits_of(whole, config)
    assert np.abs(expected - logits_of(params, config)).max() > 0.3
    attached = lora.attach(params, adapter, settings)
    np.testing.assert_allclose(logits_of(attached, config), expected, atol=2e-4)
    merged = lora.merge(params, adapter, config, settings)
    chex.assert_trees_all_close(merged, whole, atol=1e-6)
    chex.assert_trees_all_close(lora.fold(attached, config), whole, atol=1e-6)
    again, read = peft_folder.load(tmp_path / "peft", config)
    assert read == settings
    chex.assert_trees_all_equal(again, adapter)
    # How many matrices there are, by the families' own structure.
    layers = {"gpt2": 3}.get(kind)
    if layers:
        count = layers * (4 if which == "all" else 1)
    else:  # two layers of 4 and the MLP, three of 8 and the MLP
        mlp = len(targets) - 4
        count = 2 * (4 + mlp) + 3 * (8 + mlp)
        count = count if which == "all" else 2 * 2 + 3 * 3
    assert len(pairs) == 2 * count


@pytest.mark.parametrize("kind", ["gpt2", "t5_relu"])
def test_a_fresh_adapter_changes_nothing_and_learns_everywhere(kind):
    config, params = base(kind)
    settings = lora.of(config, RANK, ALPHA)
    assert settings.targets == CASES[kind, "all"]
    fresh = lora.init(jax.random.key(0), config, settings)
    chex.assert_trees_all_equal(lora.merge(params, fresh, config, settings), params)
    attached = lora.attach(params, fresh, settings)
    assert all(attached[name] is params[name] for name in params)
    np.testing.assert_allclose(
        logits_of(attached, config), logits_of(params, config), atol=1e-5
    )
    for site, pair in fresh.items():
        inputs = pair["a"].shape[1]
        assert 0.6 * inputs**-0.5 < np.abs(pair["a"]).max() <= inputs**-0.5, site
        assert not np.any(pair["b"])

    def loss(whole):
        return jnp.mean(jnp.sin(logits_of(whole, config)))

    adapter = drawn(config, settings)
    beside, inside = (
        jax.jit(jax.grad(lambda x, way=way: loss(way(x))))(adapter)
        for way in (
            lambda x: lora.attach(params, x, settings),
            lambda x: lora.merge(params, x, config, settings),
        )
    )
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(beside))
    chex.assert_trees_all_close(beside, inside, rtol=1e-3, atol=1e-5)


def test_what_peft_is_told_of_each_family(tmp_path):
    said = {}
    for kind in ("gpt2", "t5_gated"):
        config, _ = base(kind)
        settings = lora.of(config, RANK, ALPHA)
        adapter = lora.init(jax.random.key(0), config, settings)
        peft_folder.save(tmp_path / kind, adapter, settings, config, "")
        path = tmp_path / kind / peft_folder.CONFIG
        said[kind] = json.loads(path.read_text())
        # PEFT goes by GPT-2's own layers, whatever stands there; for T5 it is off.
        other = not said[kind]["fan_in_fan_out"]
        path.write_text(json.dumps(said[kind] | {"fan_in_fan_out": other}))
        if kind == "gpt2":
            assert peft_folder.load(tmp_path / kind, config)[1] == settings
        else:
            with pytest.raises(ValueError, match="has fan_in_fan_out = True, not imp"):
                peft_folder.load(tmp_path / kind, config)
    keys = ("task_type", "fan_in_fan_out", "target_modules")
    assert [said["gpt2"][key] for key in keys] == [
        "CAUSAL_LM", True, ["c_attn", "c_proj", "c_fc"],
    ]  # fmt: skip
    assert [said["t5_gated"][key] for key in keys] == [
        "SEQ_2_SEQ_LM", False, ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
    ]  # fmt: skip


def test_targets_that_a_model_has_not_are_named(tmp_path):
    config, params = base("t5_gated")
    with pytest.raises(ValueError, match=r"model has no c_fc, wi, but q, k, v, o, wi_"):
        lora.of(config, 2, 4.0, ("q", "wi", "c_fc"))
    with pytest.raises(ValueError, match="this model has no q_proj, k_proj"):
        lora.init(jax.random.key(0), config, lora.LoraConfig(2))
    settings = lora.LoraConfig(2, 4.0, ("q", "o"))
    adapter = lora.init(jax.random.key(0), config, settings)
    del adapter["cross_o"]
    with pytest.raises(ValueError, match="its settings .*'cross_o'"):
        peft_folder.save(tmp_path, adapter, settings, config, "")
    gpt2 = golden.config("gpt2")
    other = lora.of(gpt2, 2, 4.0)
    folder = tmp_path / "gpt2"
    fresh = lora.init(jax.random.key(0), gpt2, other)
    peft_folder.save(folder, fresh, other, gpt2, "")
    said = json.loads((folder / peft_folder.CONFIG).read_text())
    said["fan_in_fan_out"] = False
    (folder / peft_folder.CONFIG).write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"target_modules = \['c_attn'.* for this mod"):
        peft_folder.load(folder, config)
    with pytest.raises(ValueError, match="targets .*'c_attn'.*its settings"):
        lora.attach(params, fresh, settings)
    mixed = dataclasses.replace(gpt2, gated_mlp=True)
    with pytest.raises(ValueError, match="gated_mlp True, learned_positions True"):
        lora_targets.spans(mixed)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5_gated", "t5_relu"])
def test_an_adapter_of_another_family_is_refused(kind):
    made = {
        "llama": (VARIANTS["plain"], random_params(VARIANTS["plain"])),
        **{name: base(name) for name in ("gpt2", "t5_gated", "t5_relu")},
    }
    config, params = made[kind]
    assert lora_targets.targets_of(params.keys()) == lora_targets.targets(config)
    for other, (theirs, _) in made.items():
        settings = lora.of(theirs, RANK, ALPHA)
        adapter = lora.init(jax.random.key(0), theirs, settings)
        if other == kind:
            lora.attach(params, adapter, settings)
            continue
        first = next(x for x in settings.targets if x not in lora.targets(config))
        for join in (lora.attach, lambda b, a, s: lora.merge(b, a, config, s)):
            with pytest.raises(
                ValueError, match=rf"base has no {first}\b.*another fam"
            ):
                join(params, adapter, settings)


def test_an_adapter_with_a_site_missing_is_refused():
    config, params = base("t5_gated")
    settings = lora.LoraConfig(2, 4.0, ("q", "o"))
    adapter = lora.init(jax.random.key(0), config, settings)
    del adapter["cross_o"]
    with pytest.raises(ValueError, match="targets are .*'cross_o'"):
        lora.attach(params, adapter, settings)
    with pytest.raises(ValueError, match="norm, head are the parameters of none"):
        lora.attach({"norm": 0, "head": 0}, adapter | {"cross_o": {}}, settings)
