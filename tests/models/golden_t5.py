"""The tiny T5 models of tests/golden, as our settings and parameters."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import families_t5, pretrained, safetensors_files
from rljax.models.encdec import EncDec
from rljax.models.encdec_config import EncDecConfig

FOLDER = pathlib.Path(__file__).parent.parent / "golden"
KINDS = ("t5_gated", "t5_relu")


def shapes_of(config: EncDecConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that the model asks for."""
    row = jnp.zeros((1, 1), jnp.int32)
    mask = row == 0
    init = EncDec(config).init
    found = jax.eval_shape(init, jax.random.key(0), row, mask, row, row, mask[None])
    return {name: leaf.shape for name, leaf in found["params"].items()}


def file_of(kind: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and tensors of a golden folder."""
    values = json.loads((FOLDER / kind / "config.json").read_text())
    path = FOLDER / kind / "model.safetensors"
    return values, dict(safetensors_files.tensors(path))


def fill(config: EncDecConfig, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of tensors; NaN where nothing was put."""
    shapes = shapes_of(config)
    params = {n: np.full(shape, np.nan, np.float32) for n, shape in shapes.items()}

    def put(place, array):
        whole = params[place.name]
        part = whole if place.layer is None else whole[place.layer]
        part[..., slice(*place.columns)] = array

    pretrained.load(
        tensors.items(), families_t5.places(config), shapes, put,
        families_t5.copies(config), families_t5.UNUSED,
    )  # fmt: skip
    return params


def read(kind: str) -> tuple[EncDecConfig, dict[str, np.ndarray]]:
    """Settings and parameters of a golden folder."""
    values, tensors = file_of(kind)
    config = families_t5.config_of(values, tensors)
    return config, fill(config, tensors)
