"""The golden fixtures that tests/parity/build.py wrote, read by our own code."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import families, pretrained, safetensors_files
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.types import Params

ROOT = pathlib.Path(__file__).parents[1] / "golden"


def names() -> list[str]:
    """Fixtures of the families that our decoder knows."""
    folders = sorted(path.parent for path in ROOT.glob("*/golden.npz"))
    return [
        folder.name
        for folder in folders
        if json.loads((folder / "config.json").read_text())["model_type"]
        in families.FAMILIES
    ]


def config(name: str, file: str = "config.json") -> ModelConfig:
    """Settings that a fixture's file describes."""
    return families.config_of(json.loads((ROOT / name / file).read_text()))


def said(name: str) -> dict[str, np.ndarray]:
    """What transformers said; tests/parity/build.py has the table."""
    with np.load(ROOT / name / "golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def params(folder: pathlib.Path, c: ModelConfig) -> Params:
    """Weights of a folder, every one of them from its files."""
    zeros = jnp.zeros((1, 1), jnp.int32)
    abstract = jax.eval_shape(
        Decoder(c).init, jax.random.key(0), zeros, zeros, zeros[None] == 0
    )["params"]
    shapes = {key: leaf.shape for key, leaf in abstract.items()}
    found = {
        key: np.full(leaf.shape, np.nan, leaf.dtype) for key, leaf in abstract.items()
    }

    def put(place: pretrained.Place, array: np.ndarray) -> None:
        whole = found[place.name]
        target = whole if place.layer is None else whole[place.layer]
        target[..., slice(*place.columns)] = array

    tensors = (
        pair
        for file in safetensors_files.files_of(folder)
        for pair in safetensors_files.tensors(file)
    )
    pretrained.load(tensors, pretrained.places(c), shapes, put, pretrained.copies(c))
    assert not any(np.isnan(x).any() for x in found.values())
    return {key: jnp.asarray(array) for key, array in found.items()}
