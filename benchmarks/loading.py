"""Load time and peak memory of model files: `python -m benchmarks.loading`.

A child process for each row loads a model and says how far its resident memory rose.
The peer reads all tensors before the first is put into place. Rows `*_peak` compare
with what must be there at least: the parameters and the largest tensor.

SmolLM2 is measured where its package is installed. Needs Linux's /proc.
"""

import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.common import Row, finish, parse_arguments

VALUES = {  # about 100 million parameters, in float32 about 400 MB
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = parse_arguments(__doc__ or "")
    rounds = min(arguments.rounds, 5)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            "single": write(pathlib.Path(folder, "single"), shards=1),
            "sharded": write(pathlib.Path(folder, "sharded"), shards=3),
        }
        rows = []
        for name, path in models.items():
            rows += measure(name, str(path), "float32", rounds)
        rows += measure("single_bfloat16", str(models["single"]), "bfloat16", rounds)
    try:
        rows += measure("smollm2", "smollm2", "float32", rounds)
    except subprocess.CalledProcessError as error:
        print(f"smollm2 is left out: {error.stderr.splitlines()[-1]}", file=sys.stderr)
    finish(rows, arguments.json)


def write(folder: pathlib.Path, shards: int) -> pathlib.Path:
    """A Llama of random weights as a Hugging Face folder.

    Args:
      folder: to be made.
      shards: files.
    """
    from safetensors.numpy import save_file

    from rljax.models import families, loading, pretrained

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(VALUES))
    config, rng = families.config_of(VALUES), np.random.default_rng(0)
    shapes, tensors = loading.shapes_of(config), {}
    for name, place in pretrained.places(config).items():
        shape = pretrained.shape_of(place, shapes)
        shape = shape[::-1] if place.turned else shape
        tensors[name] = rng.standard_normal(shape, np.float32)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    table = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[i::shards]}
        save_file(part, folder / file)
        table |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    return folder


def measure(name: str, path: str, dtype: str, rounds: int) -> list[Row]:
    """Rows of one model.

    Args:
      name: of the rows.
      path: of the model.
      dtype: of the parameters.
      rounds: child processes of each kind; the medians count.
    """
    ours = median([_child(path, dtype, False) for _ in range(rounds)])
    peer = median([_child(path, dtype, True) for _ in range(rounds)])
    least = ours["model"] + ours["largest"]
    peak, other = ours["peak"], peer["peak"]
    return [
        Row(f"{name}_peak", peak, least, "MB", peak / least, 1.05, "lower"),
        Row(f"{name}_memory", peak, other, "MB", peak / other, None, "lower"),
        Row(f"{name}_time", ours["seconds"], peer["seconds"], "s",
            ours["seconds"] / peer["seconds"], None, "lower"),
    ]  # fmt: skip


def median(found: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure by itself."""
    return {key: float(np.median([one[key] for one in found])) for key in found[0]}


def child(path: str, dtype: str, at_once: bool) -> None:
    """Loads a model and prints its figures in JSON, in MB and seconds.

    Args:
      path: of the model.
      dtype: of the parameters.
      at_once: read all tensors first.
    """
    import jax

    from rljax.models import loading

    model = loading.open_model(path)
    shapes = loading.shapes_of(model.config)
    jax.block_until_ready(jax.device_put(np.zeros(1)))
    largest = 0

    def one_by_one():
        nonlocal largest
        tensors = model.tensors()
        for name, array in list(tensors) if at_once else tensors:
            largest = max(largest, array.nbytes)
            yield name, array

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    start, begin = _resident("VmRSS"), time.perf_counter()
    measured = model._replace(tensors=one_by_one)
    jax.block_until_ready(loading.load_params(measured, dtype=dtype))
    seconds, peak = time.perf_counter() - begin, _resident("VmHWM") - start
    size = sum(map(math.prod, shapes.values())) * jax.numpy.dtype(dtype).itemsize
    figures = {"peak": peak, "seconds": seconds, "model": size / 1e6}
    print(json.dumps({**figures, "largest": largest / 1e6}))


def _child(path: str, dtype: str, at_once: bool) -> dict[str, Any]:
    code = (
        f"from benchmarks import loading; loading.child({path!r}, {dtype!r}, {at_once})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _resident(field: str) -> float:
    """A figure of /proc/self/status, in MB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[field].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    main()
