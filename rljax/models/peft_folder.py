"""LoRA adapters as PEFT folders: `adapter_config.json`, `adapter_model.safetensors`.

PEFT keeps a pair for each layer, turned round: `lora_A.weight` [r, I] and
`lora_B.weight` [O, r], of base_model.model.model.layers.<i>.<part>.<target>. Its factor
is lora_alpha / r like ours, and is not in the weights. A field of the config that would
change what is computed, and that we do not implement, is an error that names it.

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

from rljax.models.config import ModelConfig
from rljax.models.lora import ATTENTION, TARGETS, LoraConfig, spans
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
    config: ModelConfig,
    base_name: str,
) -> None:
    """Writes an adapter as a folder that PEFT and vLLM load.

    Args:
      folder: made where it is missing.
      adapter: as `lora.init` gives it; written as float32.
      lora: its settings.
      config: of the decoder.
      base_name: folder or hub id of the base model, for who loads it.

    Raises:
      ValueError: if the adapter does not fit its settings or the decoder.
    """
    wanted = _tensors(lora, config)
    found = {}
    if set(adapter) != set(lora.targets):
        raise ValueError(
            f"the adapter has targets {sorted(adapter)}, its settings "
            f"{sorted(lora.targets)}"
        )
    for name, (target, layer, part, shape) in wanted.items():
        stacked = adapter[target][part]
        if stacked.shape != (config.num_layers, *shape[::-1]):
            raise ValueError(
                f"{target} has {part} of shape {stacked.shape}, expected "
                f"{(config.num_layers, *shape[::-1])}"
            )
        array = np.asarray(stacked[layer], np.float32)
        found[name] = np.ascontiguousarray(array.T)
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    safetensors_numpy.save_file(found, path / WEIGHTS, {"format": "pt"})
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(lora.targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    (path / CONFIG).write_text(json.dumps(values, indent=2) + "\n")


def load(
    folder: str | os.PathLike[str], config: ModelConfig
) -> tuple[Params, LoraConfig]:
    """Reads a PEFT folder.

    Args:
      folder: that holds both files.
      config: of the decoder it is for.

    Returns:
      The adapter, float32 as `lora.init` gives it, and its settings.

    Raises:
      ValueError: for a file that is missing or damaged, a field or a value that is not
        implemented, or tensors that are missing, misshapen or not expected; it names
        them.
    """
    path = pathlib.Path(folder)
    lora = _settings(_read_config(path))
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
    layers = {(t, part, i): there[name].T for name, (t, i, part, _) in wanted.items()}
    adapter = {
        target: {
            part: jnp.asarray(
                np.stack([layers[target, part, i] for i in range(config.num_layers)]),
                jnp.float32,
            )
            for part in "ab"
        }
        for target in lora.targets
    }
    return adapter, lora


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


def _settings(values: dict[str, Any]) -> LoraConfig:
    """The settings a config describes, which must be ones we implement."""
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
        if field not in _NOTES | _READ | {"init_lora_weights"} and not off:
            raise ValueError(f"{CONFIG} has {field} = {value!r}, not implemented")
    targets = values["target_modules"]
    if not isinstance(targets, list) or any(x not in TARGETS for x in targets):
        raise ValueError(
            f"{CONFIG} has target_modules = {targets!r}; a list of "
            f"{', '.join(TARGETS)} is implemented"
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
    return LoraConfig(rank, alpha, tuple(targets))


def _tensors(
    lora: LoraConfig, config: ModelConfig
) -> dict[str, tuple[str, int, str, tuple[int, int]]]:
    """Name in the file -> target, layer, "a" or "b", shape in the file."""
    found = {}
    for target in lora.targets:
        span = spans(config)[target]
        module = "self_attn" if target in ATTENTION else "mlp"
        for i in range(config.num_layers):
            stem = f"base_model.model.model.layers.{i}.{module}.{target}"
            shapes = {"a": (lora.rank, span.inputs), "b": (span.outputs, lora.rank)}
            for part, shape in shapes.items():
                name = f"{stem}.lora_{part.upper()}.weight"
                found[name] = (target, i, part, shape)
    return found
