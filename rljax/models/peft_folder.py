"""LoRA adapters as PEFT folders: `adapter_config.json`, `adapter_model.safetensors`.

PEFT keeps a pair for each layer of a site, turned round: `lora_A.weight` [r, I] and
`lora_B.weight` [O, r], of base_model.model.<module>; `lora_targets.modules` has the
names. Its factor is lora_alpha / r like ours, and is not in the weights. GPT-2's base
matrices are not turned, which its config calls fan_in_fan_out; the pairs are turned all
the same. A field of the config that would change what is computed, and that we do not
implement, is an error that names it.

Source: the LoRA configuration of peft 0.21.
"""

import json
import math
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from rljax.models.encdec_config import EncDecConfig
from rljax.models.lora import LoraConfig
from rljax.models.lora_targets import SITES, Config, modules, sites_of, spans, targets
from rljax.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Says nothing about the function computed.
_NOTES = frozenset(
    """
    auto_mapping base_model_name_or_path eva_config corda_config inference_mode
    loftq_config lora_dropout megatron_config megatron_core
    peft_version qalora_group_size revision runtime_config task_type
    ensure_weight_tying lora_ga_config
    """.split()
)
_READ = frozenset({"peft_type", "r", "lora_alpha", "target_modules"})
# Ways to draw an adapter that leave the base as it is: others (pissa, olora, loftq)
# move it, and then the adapter is not for the base that is named.
_DRAWN = (None, True, False, "gaussian")


def save(
    folder: str | os.PathLike[str],
    adapter: Params,
    lora: LoraConfig,
    config: Config,
    base_name: str,
) -> None:
    """Writes an adapter as a folder that PEFT and vLLM load.

    Args:
      folder: made where it is missing.
      adapter: as `lora.init` gives it; written as float32.
      lora: its settings.
      config: of the model.
      base_name: folder or hub id of the base model, for who loads it.

    Raises:
      ValueError: if the adapter does not fit its settings or the model.
    """
    wanted = _tensors(lora, config)
    found = {}
    sites = {site for site, *_ in wanted.values()}
    if set(adapter) != sites:
        raise ValueError(
            f"the adapter has {sorted(adapter)}, its settings {sorted(sites)}"
        )
    there = modules(config)
    for name, (site, layer, part, shape) in wanted.items():
        stacked, expected = adapter[site][part], (there[site][1], *shape[::-1])
        if stacked.shape != expected:
            raise ValueError(
                f"{site} has {part} of shape {stacked.shape}, expected {expected}"
            )
        array = np.asarray(stacked[layer], np.float32)
        found[name] = np.ascontiguousarray(array.T)
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    safetensors_numpy.save_file(found, path / WEIGHTS, {"format": "pt"})
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if _is_t5(config) else "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _is_gpt2(config),
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    (path / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def load(folder: str | os.PathLike[str], config: Config) -> tuple[Params, LoraConfig]:
    """Reads a PEFT folder.

    Args:
      folder: that holds both files.
      config: of the model it is for.

    Returns:
      The adapter, float32 as `lora.init` gives it, and its settings.

    Raises:
      ValueError: for a file that is missing or damaged, a field or a value that is not
        implemented, or tensors that are missing, misshapen or not expected; it names
        them.
    """
    path = pathlib.Path(folder)
    lora = _settings(_read_config(path), config)
    try:
        there = safetensors_numpy.load_file(path / WEIGHTS)
    except FileNotFoundError as error:
        raise ValueError(f"PEFT folder {path} has no {WEIGHTS}") from error
    except SafetensorError as error:
        raise ValueError(f"{path / WEIGHTS} is damaged: {error}") from error
    wanted = _tensors(lora, config)
    faults = [f"{name} is missing" for name in wanted if name not in there]
    for name, array in there.items():
        if name not in wanted:
            faults.append(f"{name} {array.shape} is not a part of this adapter")
        elif array.shape != wanted[name][-1]:
            faults.append(
                f"{name} has shape {array.shape}, expected {wanted[name][-1]}"
            )
    if faults:
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(
            f"the adapter in {path} does not fit the model:\n  "
            + "\n  ".join(faults[:20])
            + more
        )
    layers: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, (site, _, part, _) in wanted.items():  # layer after layer
        layers.setdefault(site, {}).setdefault(part, []).append(there[name].T)
    adapter = {
        site: {part: jnp.asarray(np.stack(x), jnp.float32) for part, x in pair.items()}
        for site, pair in layers.items()
    }
    return adapter, lora


def _is_t5(config: Config) -> bool:
    return isinstance(config, EncDecConfig)


def _is_gpt2(config: Config) -> bool:
    return not isinstance(config, EncDecConfig) and config.learned_positions


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads((path / CONFIG).read_text())
    except FileNotFoundError as error:
        what = "has no " + CONFIG if path.is_dir() else "does not exist"
        raise ValueError(f"PEFT folder {path} {what}") from error
    except ValueError as error:
        raise ValueError(f"{path / CONFIG} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path / CONFIG} holds no JSON object")
    return values


def _settings(values: dict[str, Any], config: Config) -> LoraConfig:
    """The settings a config describes, which must be ones we implement."""
    # PEFT goes by the model, whatever a folder says; its own say true.
    notes = _NOTES | ({"fan_in_fan_out"} if _is_gpt2(config) else set())
    missing = sorted(_READ - values.keys())
    if missing:
        raise ValueError(f"{CONFIG} has no {', '.join(missing)}")
    if values["peft_type"] != "LORA":
        raise ValueError(
            f"{CONFIG} has peft_type {values['peft_type']!r}; only 'LORA' is "
            "implemented"
        )
    for field, value in values.items():
        off = value in (None, False, {}, []) or (field == "bias" and value == "none")
        if field == "init_lora_weights" and value not in _DRAWN:
            raise ValueError(
                f"{CONFIG} has {field} = {value!r}, which may change the base model; "
                "only true, false and 'gaussian' are implemented"
            )
        if field not in notes | _READ | {"init_lora_weights"} and not off:
            raise ValueError(f"{CONFIG} has {field} = {value!r}, not implemented")
    wanted, known = values["target_modules"], targets(config)
    if not isinstance(wanted, list) or any(x not in known for x in wanted):
        raise ValueError(
            f"{CONFIG} has target_modules = {wanted!r}; a list of "
            f"{', '.join(known)} is implemented for this model"
        )
    rank, alpha = values["r"], values["lora_alpha"]
    if type(rank) is not int or rank < 1:
        raise ValueError(
            f"{CONFIG} has r = {rank!r}; it must be a whole number above 0"
        )
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise ValueError(
            f"{CONFIG} has lora_alpha = {alpha!r}; it must be a number above 0"
        )
    return LoraConfig(rank, alpha, tuple(wanted))


def _tensors(
    lora: LoraConfig, config: Config
) -> dict[str, tuple[str, int, str, tuple[int, int]]]:
    """Name in the file -> site, layer, "a" or "b", shape in the file."""
    found, there = {}, modules(config)
    for site in [name for name in sites_of(lora.targets) if name in there]:
        path, layers = there[site]
        parts = [spans(config)[part] for part in SITES[site].parts]
        outputs = sum(part.outputs for part in parts)
        shapes = {"a": (lora.rank, parts[0].inputs), "b": (outputs, lora.rank)}
        for i in range(layers):
            stem = f"base_model.model.{path.format(i)}"
            for part, shape in shapes.items():
                found[f"{stem}.lora_{part.upper()}.weight"] = (site, i, part, shape)
    return found
