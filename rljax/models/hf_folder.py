"""A model written as a Hugging Face folder, which transformers and vLLM open.

    config.json              the loaded model's own, or one with the same features
    generation_config.json   the loaded model's own, with the tokens that end a text
    model.safetensors        or shards with an index, under Hugging Face's names
    tokenizer files          whatever the tokenizer writes
    heads/, heads.json       Q and V heads, where there are any
    README.md                the model card
    rljax.json               the list of these files

It is built beside its place and renamed when it is whole. An earlier export, known by
its list, is replaced; a folder that holds anything else is refused.
"""

import errno
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rljax.models import families_t5, hf_config, pretrained
from rljax.models.config import ModelConfig
from rljax.models.encdec_config import EncDecConfig
from rljax.models.safetensors_files import INDEX, SINGLE
from rljax.models.safetensors_out import Entry, write
from rljax.types import Params

RECORD = "rljax.json"
SHARD_BYTES = 5_000_000_000
TYPES = ("float32", "bfloat16", "float16")
Config = ModelConfig | EncDecConfig
Extra = Callable[[pathlib.Path], None]  # writes more files into the folder


def save(
    folder: str | os.PathLike[str],
    params: Params,
    config: Config,
    tokenizer: Any,
    source: Mapping[str, Any] | None = None,
    *,
    generation: Mapping[str, Any] | None = None,
    eos_ids: Sequence[int] = (),
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    extras: Sequence[Extra] = (),
) -> None:
    """Writes a model; host memory beyond the parameters is about one tensor.

    Args:
      folder: where to; its parent must exist.
      params: of the decoder, or encoder-decoder.
      config: its settings.
      tokenizer: a Hugging Face tokenizer.
      source: the parsed `config.json` of the model that was loaded; without it one
        with the same features is written, of a decoder.
      generation: the parsed `generation_config.json` of the model that was loaded; all
        of it is kept but the ids of tokens, which are those of here.
      eos_ids: tokens that end a text; the tokenizer's own where empty.
      dtype: float32, bfloat16 or float16; as the parameters are where None.
      shard_bytes: most bytes of a weights file, unless one tensor has more.
      extras: functions that write more files (heads, the model card) into the folder
        they are given.

    Raises:
      ValueError: if `folder` holds other things, `source` describes another model, no
        family has the features of `config`, the tokenizer does not fit it, or a
        weight is not finite in `dtype`.
      OSError: if it cannot be written; it says what is free and what is needed.
    """
    folder = pathlib.Path(folder).expanduser().absolute()
    dtype = config.param_dtype if dtype is None else dtype
    if dtype not in TYPES:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(TYPES)}")
    if shard_bytes <= 0:
        raise ValueError(f"shard_bytes is {shard_bytes}; it must be > 0")
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model's vocabulary "
            f"{config.vocab_size:,}"
        )
    values = _config_values(config, source, tokenizer, dtype)
    ends = list(eos_ids) or [tokenizer.eos_token_id]
    how = {**(generation or {}), **_generation_ids(config, tokenizer, ends)}
    entries = _entries(params, config, np.dtype(jnp.dtype(dtype)))

    def fill(part: pathlib.Path) -> None:
        _write_json(part / "config.json", values)
        _write_json(part / "generation_config.json", how)
        tokenizer.save_pretrained(part)
        _write_weights(part, params, config, entries, shard_bytes)
        for extra in extras:
            extra(part)

    write_folder(folder, fill, sum(entry.size for entry in entries))


def write_folder(folder: pathlib.Path, fill: Extra, needed_bytes: int = 0) -> None:
    """Builds a folder beside its place and renames it when it is whole.

    Args:
      folder: where to; missing, empty, or an earlier export.
      fill: writes the files into the folder it is given.
      needed_bytes: what they will take, as far as is known.

    Raises:
      ValueError: if `folder` holds other things.
      OSError: if it cannot be written; whatever was there stays.
    """
    _require_ours(folder)
    parent = folder.parent
    if not parent.is_dir():
        raise ValueError(f"{folder} cannot be written: there is no folder {parent}")
    part = None
    try:
        free = shutil.disk_usage(parent).free
        if free < needed_bytes:
            raise OSError(errno.ENOSPC, "no space left on the disk")
        part = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        part.chmod(0o755)
        fill(part)
        names = sorted(str(p.relative_to(part)) for p in part.rglob("*"))
        _write_json(part / RECORD, {"format": 1, "files": names})
        _swap(part, folder)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} cannot be written ({_free(parent)} bytes of disk are free, the "
            f"weights need {needed_bytes:,}): {error.strerror or error}",
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _require_ours(folder: pathlib.Path) -> None:
    """Refuses a folder with anything in it that an export did not write."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} is not a folder: choose another name")
    if not folder.is_dir():
        return
    there = {str(p.relative_to(folder)) for p in folder.rglob("*")} - {RECORD}
    try:
        ours = set(json.loads((folder / RECORD).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if there - ours:
        shown = ", ".join(sorted(there - ours)[:5])
        raise ValueError(
            f"{folder} holds what is not of an earlier export ({shown}): choose a new "
            "or empty folder"
        )


def _swap(part: pathlib.Path, folder: pathlib.Path) -> None:
    """Puts the new folder in the old one's place."""
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_name(part.name + "-old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _config_values(
    config: Config, source: Mapping[str, Any] | None, tokenizer: Any, dtype: str
) -> dict[str, Any]:
    """What `config.json` will say."""
    if source is None:
        if isinstance(config, EncDecConfig):
            raise ValueError(
                "an encoder-decoder is written with the config.json it was loaded with"
            )
        values = hf_config.values_of(config)
        for name in ("bos", "eos", "pad"):
            values[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
    else:
        values = dict(source)
        differing = hf_config.differences(values, config, tuple(_places(config)))
        if differing:
            raise ValueError(
                "the model is no longer that of its config.json:\n  "
                + "\n  ".join(differing)
            )
    # Both spellings, since programs differ in which of them they read.
    return {**values, "dtype": dtype, "torch_dtype": dtype}


def _generation_ids(
    config: Config, tokenizer: Any, eos: Sequence[int]
) -> dict[str, Any]:
    """What generation begins, ends and pads with, as far as it is known."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # transformers does not look for it in config.json once this file is there.
    if isinstance(config, EncDecConfig):
        ids["decoder_start_token_id"] = config.start_id
    return {name: found for name, found in ids.items() if found is not None}


def _places(config: Config) -> dict[str, pretrained.Place]:
    """Where the tensors of a file are in our parameters."""
    if isinstance(config, EncDecConfig):
        return families_t5.places(config)
    return pretrained.places(config)


def _entries(params: Params, config: Config, dtype: np.dtype) -> list[Entry]:
    """Names, type and shapes of the tensors, in the order they are written."""
    found = []
    for name, place in _places(config).items():
        shape = params[place.name].shape
        shape = shape[1:] if place.layer is not None else shape
        shape = (*shape[:-1], place.columns[1] - place.columns[0])
        found.append(Entry(name, dtype, shape[::-1] if place.turned else shape))
    return found


def _tensors(
    params: Params, config: Config, entries: Sequence[Entry]
) -> Iterator[np.ndarray]:
    """The tensors of `entries`, one at a time.

    Raises:
      ValueError: for one that is not finite once it is of its type.
    """
    places = _places(config)
    for entry in entries:
        place = places[entry.name]
        whole = params[place.name]
        array = np.asarray(whole if place.layer is None else whole[place.layer])
        array = array[..., slice(*place.columns)]
        with np.errstate(over="ignore"):  # told below, by name
            array = (array.T if place.turned else array).astype(entry.dtype)
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"{entry.name} holds values that are not finite in {entry.dtype}"
            )
        yield array


def _write_weights(
    part: pathlib.Path,
    params: Params,
    config: Config,
    entries: Sequence[Entry],
    shard_bytes: int,
) -> None:
    """One file, or shards of at most `shard_bytes` and an index of them."""
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        held = sum(other.size for other in shards[-1])
        if shards[-1] and held + entry.size > shard_bytes:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        write(part / SINGLE, entries, _tensors(params, config, entries))
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write(part / name, shard, _tensors(params, config, shard))
        weight_map |= {entry.name: name for entry in shard}
    total = sum(entry.size for entry in entries)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(part / INDEX, index)


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _free(folder: pathlib.Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "unknown"
