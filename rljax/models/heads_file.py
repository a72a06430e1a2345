"""Q and V heads beside an exported model: `heads/heads.safetensors` and `heads.json`.

Hugging Face folders have no place for them, and vLLM takes every `.safetensors` beside
`config.json` for a part of the model: so the weights lie in a folder of
their own. The tensors are `<head>.Dense_<i>.kernel` ([in, out]) and `.bias`, in
float32; the JSON says what a reader must know to use them.
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rljax.models.safetensors_files import tensors
from rljax.models.safetensors_out import Entry, write
from rljax.types import Params

WEIGHTS, NOTES = "heads/heads.safetensors", "heads.json"
_BESIDE = "heads.safetensors"  # where earlier exports have the weights
READ_Q = ("path", "last_node")
READ_V = ("prompt", "every_token", "step_begins")
OUTPUTS = ("value", "logit")
# What a head is fed, by how its value is read; written down for readers elsewhere.
FED = {
    "prompt": "the hidden state, after the last norm; in a decoder: of the prompt's "
    "last token, in an encoder-decoder: of the decoder's start token",
    "every_token": "the hidden state, after the last norm, of any token but one that "
    "ends an answer: V of the text up to it",
    "step_begins": "the hidden state, after the last norm, of the token before a step "
    "of an answer: V of the text up to it; it was learnt of no other token",
    "path": "the hidden state, after the last norm, of every token of a command; "
    "Q is the sum over the command",
    "last_node": "the hidden state, after the last norm, of a command's last token",
}


class Notes(NamedTuple):
    """What the weights do not say."""

    width: int  # D of the hidden states
    eos_id: int  # ends every command
    read_q: str = "path"  # or last_node: see `policy.score`
    q_output: str = "value"  # or logit: Q is its sigmoid
    trunk: str = "."  # folder, from this one, of the model that Q, or V alone, reads
    read_v: str = "prompt"  # or every_token, or step_begins


def save(folder: pathlib.Path, heads: Mapping[str, Params], notes: Notes) -> None:
    """Writes heads into a folder.

    Args:
      folder: of the exported model.
      heads: name (v, q, or q1 and so on) -> parameters of a `models.heads.Head`.
      notes: how to use them.

    Raises:
      ValueError: for no heads, a name that is neither, notes that cannot be, or
        parameters that are not a head's on hidden states of this width.
    """
    _check(notes)
    if not heads or any(not re.fullmatch(r"v|q\d*", name) for name in heads):
        raise ValueError(f"heads are named v, q or q1 and so on; got {sorted(heads)}")
    flat = {}
    for name, params in heads.items():
        widths = _widths(name, params, notes.width)
        for key in _shapes(notes.width, widths):
            layer, kind = key.split(".")
            array = np.asarray(params[layer][kind], np.float32)
            if not np.all(np.isfinite(array)):
                raise ValueError(f"head {name}: {key} holds values that are not finite")
            flat[f"{name}.{key}"] = array
    entries = [Entry(name, x.dtype, x.shape) for name, x in flat.items()]
    (folder / WEIGHTS).parent.mkdir(exist_ok=True)
    write(folder / WEIGHTS, entries, flat.values())
    told = {
        "format": 1,
        **notes._asdict(),
        "heads": {
            name: {
                "widths": list(_widths(name, params, notes.width)),
                "activation": "relu",
                "fed": FED[notes.read_v if name == "v" else notes.read_q],
            }
            for name, params in heads.items()
        },
    }
    (folder / NOTES).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def load(folder: pathlib.Path) -> tuple[dict[str, Params], Notes]:
    """Reads what `save` wrote.

    Args:
      folder: of the exported model.

    Returns:
      Name -> parameters, float32; and the notes.

    Raises:
      ValueError: if a file is missing or damaged, or the two do not agree; it lists
        the tensors that are missing, not expected or misshapen.
    """
    weights = folder / WEIGHTS
    if not weights.is_file() and (folder / _BESIDE).is_file():
        weights = folder / _BESIDE
    for name in (weights, folder / NOTES):
        if not name.is_file():
            missing = name.relative_to(folder)
            raise ValueError(f"{folder} holds no heads: there is no {missing}")
    path = folder / NOTES
    try:
        told = json.loads(path.read_bytes())
        if told["format"] != 1:
            raise ValueError(f"{path} is of format {told['format']}, expected 1")
        told.setdefault("read_v", "prompt")  # older files do not say
        notes = Notes(**{key: told[key] for key in Notes._fields})
        widths = {
            name: tuple(int(x) for x in head["widths"])
            for name, head in told["heads"].items()
        }
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not describe heads: {error!r}") from error
    _check(notes)
    wanted = {
        f"{name}.{key}": shape
        for name, inner in widths.items()
        for key, shape in _shapes(notes.width, inner).items()
    }
    heads: dict[str, Any] = {name: {} for name in widths}
    faults = []
    for name, array in tensors(weights):
        shape = wanted.pop(name, None)
        if shape is None:
            faults.append(f"{name} {array.shape} is of no head")
        elif array.shape != shape:
            faults.append(f"{name} has shape {array.shape}, expected {shape}")
        else:
            head, layer, kind = name.split(".")
            # A copy: the file need not stay.
            heads[head].setdefault(layer, {})[kind] = np.array(array, np.float32)
    faults += [f"{name} is missing" for name in sorted(wanted)]
    if faults:
        raise ValueError(f"{weights} is not as {NOTES} says:\n  " + "\n  ".join(faults))
    return heads, notes


def _check(notes: Notes) -> None:
    for name, value, known in (
        ("read_q", notes.read_q, READ_Q),
        ("read_v", notes.read_v, READ_V),
        ("q_output", notes.q_output, OUTPUTS),
    ):
        if value not in known:
            raise ValueError(
                f"{name} of the heads is {value!r}; it must be {' or '.join(known)}"
            )
    for name in ("width", "eos_id"):
        value = getattr(notes, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} of the heads is {value!r}; it must be a count")


def _shapes(width: int, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Tensors of a head, as `Head` names them."""
    found: dict[str, tuple[int, ...]] = {}
    for i, (left, right) in enumerate(zip((width, *widths), (*widths, 1), strict=True)):
        found[f"Dense_{i}.kernel"] = (left, right)
        found[f"Dense_{i}.bias"] = (right,)
    return found


def _widths(name: str, params: Params, width: int) -> tuple[int, ...]:
    """Inner widths of a head's parameters."""
    shapes = {
        f"{layer}.{kind}": tuple(array.shape)
        for layer, kinds in params.items()
        for kind, array in kinds.items()
    }
    widths = tuple(
        shapes.get(f"Dense_{i}.bias", (0,))[0] for i in range(len(params) - 1)
    )
    if shapes != _shapes(width, widths):
        raise ValueError(
            f"head {name} is no MLP from {width} features to 1: it holds {shapes}"
        )
    return widths
