"""Opens model files, and loads their weights into our parameters.

What can be opened: a Hugging Face folder with safetensors, a GGUF file, a llama2.c
file, and `smollm2`, the GGUF of an installed package. Nothing is downloaded, nothing
unpickled, no code of a folder is run.
"""

import json
import math
import pathlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import (
    families_t5,
    gguf_files,
    llama2c,
    pretrained,
    safetensors_files,
)
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.models.encdec import EncDec
from rljax.models.encdec_config import EncDecConfig
from rljax.models.families import config_of
from rljax.text import tokenizer as tokenizers
from rljax.types import Params

# (parameter, whole array on the host) -> the array where it is wanted.
Put = Callable[[str, np.ndarray], jax.Array]
_COLUMNS = 256  # written together: a matrix turned in blocks takes 2/3 of the time
Tensors = Iterator[tuple[str, np.ndarray]]


class Model(NamedTuple):
    """A model that was opened; its weights are still in their files.

    Attributes:
      config: settings of the decoder, or of an encoder-decoder.
      places: name of a tensor -> where it goes in our parameters.
      copies: name of a tensor -> the one it must equal, if it is there.
      tensors: () -> names and arrays, read one at a time.
      tokenizer: () -> the tokenizer, with its chat template; it takes seconds.
      eos_ids: tokens that end a text, the usual one first. Where the files do not
        say, none.
      origin: what the weights are, for people.
      stored: the widest type the weights are stored in; float32 where they are
        dequantised.
      unused: tensors that may be there and compute nothing.
    """

    config: Any  # ModelConfig or EncDecConfig
    places: dict[str, pretrained.Place]
    copies: dict[str, str]
    tensors: Callable[[], Tensors]
    tokenizer: Callable[[], tokenizers.Tokenizer]
    eos_ids: tuple[int, ...]
    origin: str
    stored: str = "float32"
    unused: Collection[str] = ()


def open_model(path: str | pathlib.Path) -> Model:
    """Reads what a model is; weights and tokenizer are read when they are asked for.

    Args:
      path: a Hugging Face folder, a `.gguf` file, a llama2.c `.bin` file with its
        tokenizer beside it, or `smollm2`.

    Raises:
      ValueError: if there is no such thing, or it cannot be read or is damaged, or
        holds a model that is not implemented. It says what was found and what to do.
    """
    if str(path) == "smollm2":
        return _gguf(gguf_files.smollm2())
    where = pathlib.Path(path).expanduser()
    if "://" in str(path) or not where.exists():
        raise ValueError(_absent(str(path)))
    if where.is_dir():
        return _folder(where)
    if where.suffix == ".gguf":
        return _gguf(where)
    if where.suffix == ".bin" and not safetensors_files.is_pickle(where):
        return _llama2c(where)
    advice = "a folder with config.json and safetensors, a .gguf or a llama2.c .bin"
    if safetensors_files.is_pickle(where):
        advice = f"pickles can run any code and are never read; expected {advice}"
    elif where.suffix == ".safetensors":
        advice = f"give its folder, {where.parent}, which must hold config.json too"
    raise ValueError(f"{where} is not a model that can be read: {advice}")


def load_params(
    model: Model, place: Put | None = None, dtype: str | None = None
) -> Params:
    """The weights of a model, as parameters of our decoder.

    A tensor is read, written into its part of one of our arrays, and dropped, so the
    host holds at most the parameters and one tensor. An array that is complete goes
    to its device; on a CPU it stays where it is.

    Args:
      model: what `open_model` returned.
      place: (parameter, array) -> array on its device or devices; None is the first
        device.
      dtype: of the parameters; None is what the model's settings say.

    Raises:
      ValueError: if the files are damaged, do not fit the model, or hold a value that
        `dtype` cannot; it lists the tensors.
    """
    place = place or (lambda name, array: jax.device_put(array))
    shapes = shapes_of(model.config)
    kind = jax.dtypes.canonicalize_dtype(jnp.dtype(dtype or model.config.param_dtype))
    filling: dict[str, np.ndarray] = {}
    left = {name: math.prod(shape) for name, shape in shapes.items()}
    params: dict[str, jax.Array] = {}

    def put(where: pretrained.Place, part: np.ndarray) -> None:
        name = where.name
        if name not in filling:
            filling[name] = _aligned(shapes[name], kind)
        whole = filling[name] if where.layer is None else filling[name][where.layer]
        _convert(part, whole[..., slice(*where.columns)], where)
        left[name] -= part.size
        if not left[name]:
            params[name] = place(name, filling.pop(name))

    pretrained.load(
        model.tensors(), model.places, shapes, put, model.copies, model.unused
    )
    if filling or any(left.values()):
        raise AssertionError(f"no place fills all of {[n for n in left if left[n]]}")
    return params


def shapes_of(config: ModelConfig | EncDecConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters, by name."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    real = jax.ShapeDtypeStruct((1, 1), bool)
    mask = jax.ShapeDtypeStruct((1, 1, 1), bool)
    key = jax.random.key(0)
    if isinstance(config, EncDecConfig):
        found = jax.eval_shape(EncDec(config).init, key, ids, real, ids, ids, mask)
    else:
        found = jax.eval_shape(Decoder(config).init, key, ids, ids, mask)
    return {name: leaf.shape for name, leaf in found["params"].items()}


def check_vocabulary(tokenizer: tokenizers.Tokenizer, rows: int, origin: str) -> None:
    """Every token must have a row in the embedding; rows to spare are padding.

    Args:
      tokenizer: of the model.
      rows: of the embedding.
      origin: what to call the tokenizer.

    Raises:
      ValueError: if there are more ids than rows.
    """
    token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if last >= rows:
        raise ValueError(
            f"the tokenizer of {origin} gives {token!r} the id {last}, but the "
            f"embedding has {rows} rows, 0 to {rows - 1}: they do not belong together"
        )


def _convert(part: np.ndarray, target: np.ndarray, where: pretrained.Place) -> None:
    """Writes a part into its place, in the type of the place."""
    top = float(jnp.finfo(target.dtype).max)
    narrower = float(jnp.finfo(part.dtype).max) > top
    for i in range(0, part.shape[-1], _COLUMNS):
        block, source = target[..., i : i + _COLUMNS], part[..., i : i + _COLUMNS]
        with np.errstate(over="ignore"):  # told below; not every cast would raise
            block[...] = source
        if not narrower or np.isfinite(block).all():
            continue
        if not np.array_equal(np.isfinite(block), np.isfinite(source)):
            wider = "float32" if top > 1e5 else "bfloat16 or float32"
            raise ValueError(
                f"{where.name} (layer {where.layer}) holds values beyond {top:g}, the "
                f"largest {target.dtype}: load it as {wider}"
            )


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array not yet written to, that a CPU device takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)


def _folder(folder: pathlib.Path) -> Model:
    """A Hugging Face folder."""
    if not (folder / "config.json").is_file():
        found = sorted(p.name for p in folder.iterdir())[:20]
        advice = "expected a Hugging Face model folder"
        if "adapter_config.json" in found:
            advice = "it is an adapter: give the folder of its base model"
        elif any(name.endswith(".gguf") for name in found):
            advice = "give the path of the .gguf file itself"
        raise ValueError(
            f"{folder} holds no config.json, but {found or 'nothing'}: {advice}"
        )
    values = _json(folder / "config.json")
    try:
        if values.get("model_type") != "t5":  # which is told apart by its tensors too
            config_of(values)
        files = safetensors_files.files_of(folder)
        # Damage is told now, not after loading half.
        entries = [x for file in files for x in safetensors_files.entries(file)]
        names = {x.name for x in entries}
        config, places, copies, unused, spelt = _layout(values, names)
    except ValueError as error:
        raise ValueError(_with_folder(folder, error)) from error

    def tensors() -> Tensors:
        for file in files:
            for name, array in safetensors_files.tensors(file):
                yield spelt(name), array

    def tokenizer() -> tokenizers.Tokenizer:
        found = tokenizers.load(folder)
        check_vocabulary(found, config.vocab_size, str(folder))
        return found

    return Model(
        config=config,
        places=places,
        copies=copies,
        tensors=tensors,
        tokenizer=tokenizer,
        eos_ids=_eos_ids(folder, values),
        origin=str(values.get("_name_or_path") or folder.resolve().name),
        stored=_widest({x.dtype for x in entries}),
        unused=unused,
    )


def _with_folder(folder: pathlib.Path, error: ValueError) -> str:
    """A message that names the folder, once."""
    return str(error) if str(folder) in str(error) else f"{folder}: {error}"


def _layout(values: dict[str, Any], names: Collection[str]) -> tuple[Any, ...]:
    """Settings, places, copies, unused tensors and spelling of a model's folder."""
    if values.get("model_type") == "t5":
        config = families_t5.config_of(values, names)
        places, copies = families_t5.places(config), families_t5.copies(config)
        return config, places, copies, families_t5.UNUSED, str
    config = config_of(values)
    places, copies = pretrained.places(config), pretrained.copies(config)
    return config, places, copies, (), pretrained.spelling(config, names)


def _widest(kinds: Collection[np.dtype]) -> str:
    """The type that holds all of these floating-point types."""
    floats = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
    return str(jnp.result_type(*floats)) if floats else "float32"


def _eos_ids(folder: pathlib.Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    """What generation stops at: generation_config.json, or else config.json."""
    file = folder / "generation_config.json"
    found = _json(file).get("eos_token_id") if file.is_file() else None
    if found is None:
        found = values.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(type(i) is int for i in ids):
        raise ValueError(f"{folder} has eos_token_id {found!r}; expected ids")
    return tuple(ids)


def _gguf(path: pathlib.Path) -> Model:
    file = gguf_files.read(path)
    config = config_of(gguf_files.config_values(file))

    def tokenizer() -> tokenizers.Tokenizer:
        found = gguf_files.tokenizer(file)
        check_vocabulary(found, config.vocab_size, str(path))
        return found

    return Model(
        config=config,
        places=pretrained.places(config),
        copies=pretrained.copies(config),
        tensors=lambda: gguf_files.tensors(file),
        tokenizer=tokenizer,
        eos_ids=gguf_files.eos_ids(file),
        origin=f"{file.fields.get('general.name', path.stem)} ({path.name})",
    )


def _llama2c(path: pathlib.Path) -> Model:
    header = llama2c.read(path)

    def tokenizer() -> tokenizers.Tokenizer:
        found = llama2c.tokenizer(llama2c.tokenizer_beside(path, header), header)
        check_vocabulary(found, header.config.vocab_size, str(path))
        return found

    return Model(
        config=header.config,
        places=pretrained.places(header.config),
        copies=pretrained.copies(header.config),
        tensors=lambda: llama2c.tensors(path, header),
        tokenizer=tokenizer,
        eos_ids=(llama2c.BOS, llama2c.EOS),
        origin=path.name,
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _absent(path: str) -> str:
    """Nothing is at this path: what it may have been meant as."""
    if "://" in path:
        return (
            f"{path} is an address, and nothing is downloaded: fetch the files and "
            "give their folder"
        )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path) and not path.startswith("."):
        return (
            f"there is no folder {path}. If it is a name on a hub, nothing is "
            f"downloaded: fetch it (hf download {path} --local-dir DIR) and give DIR"
        )
    return (
        f"there is no model at {path}: expected a Hugging Face folder, a .gguf file, "
        "a llama2.c .bin file, or smollm2"
    )
