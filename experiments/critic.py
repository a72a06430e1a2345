"""The V of an OREO run beside its policy: written by `oreo`, read by it and `search`.

`hf/` has `heads.json` and `heads/` with a linear head "v", and `critic/`, a Hugging
Face folder of the trunk that it reads; no such folder where that is the
policy's own. V(text) = head . hidden state of the text's last token.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.border import ConfigError
from experiments.starts import Start, fitting_weights
from rljax.models import heads_file, hf_folder, loading, lora
from rljax.models.config import ModelConfig
from rljax.models.heads import Head
from rljax.search import values
from rljax.types import Params

FOLDER = "critic"
PATHS = ("model.path", "critic.path")  # of the policy's V, and of another's
# Where V was learnt -> where a search reads it.
READINGS = {
    "every_token": values.at_end,
    "step_begins": values.where_steps_begin,
}
_WANTED = "a folder with V in it, such as hf/ of an oreo workdir"


class Critic(NamedTuple):
    """What V is computed with.

    Attributes:
      config: of the trunk.
      params: of the trunk; None where it is the policy's.
      head: hidden states [..., D] -> V [...], float32.
      reading: where V of a step is read.
    """

    config: ModelConfig
    params: Params | None
    head: Callable[[jax.Array], jax.Array]
    reading: values.Reading


def export(
    start: Start,
    trunk: Params | None,
    head: jax.Array,
    learnt_at: str = "every_token",
) -> hf_folder.Extra:
    """What writes V into the folder of a policy.

    Args:
      start: model and tokenizer of the run.
      trunk: whole weights, with an adapter beside them or not; None: the policy's.
      head: [D], no bias.
      learnt_at: where V was learnt, one of READINGS.
    """
    kernel = np.asarray(head, np.float32)[:, None]
    params = {"Dense_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    notes = heads_file.Notes(
        width=start.config.width,
        eos_id=start.eos_ids[0],
        trunk="." if trunk is None else FOLDER,
        read_v=learnt_at,
    )

    def write(part: pathlib.Path) -> None:
        heads_file.save(part, {"v": params}, notes)
        if trunk is not None:
            hf_folder.save(
                part / FOLDER, lora.fold(trunk, start.config), start.config,
                start.tokenizer, eos_ids=start.eos_ids,
            )  # fmt: skip

    return write


def load(where: str, policy: ModelConfig, apart: bool = False) -> Critic:
    """Reads what `export` wrote.

    Args:
      where: a folder with V.
      policy: settings of the policy that is searched with.
      apart: whether the folder is of another policy, `critic.path`. A trunk that V
        shares with that one is read, too.

    Raises:
      ConfigError: if there is no V, or none of whole texts, or it does not fit.
    """
    folder, key = pathlib.Path(where).expanduser(), PATHS[apart]
    v, notes = _head(folder, key)
    config, params = policy, None
    try:
        if apart or notes.trunk != ".":
            model = loading.open_model(folder / notes.trunk)
            config, params = model.config, loading.load_params(model)
    except (OSError, ValueError) as error:
        raise ConfigError(f"config.{key}: {error}") from error
    if config.width != notes.width or config.vocab_size != policy.vocab_size:
        raise ConfigError(
            f"config.{key}: {folder} has a head for {notes.width} features, a "
            f"critic of {config.width} with {config.vocab_size:,} tokens and a policy "
            f"with {policy.vocab_size:,}; they do not belong together"
        )
    head = Head(tuple(x["bias"].size for _, x in sorted(v.items())[:-1]))

    def apply(hidden: jax.Array) -> jax.Array:
        return jnp.asarray(head.apply({"params": v}, hidden))

    return Critic(config, params, apply, READINGS[notes.read_v])


def begin(where: str, start: Start) -> tuple[Params | None, jax.Array]:
    """What `export` wrote, to be learnt on.

    Args:
      where: folder of a policy, `critic.path`.
      start: the model that the critic's trunk has to be like.

    Returns:
      Trunk, None where it was the policy's; and the head, float32 [D].

    Raises:
      ConfigError: as `load`, or if V is no linear function of hidden states.
    """
    folder = pathlib.Path(where).expanduser()
    v, notes = _head(folder, "critic.path")
    if set(v) != {"Dense_0"} or np.any(v["Dense_0"]["bias"]):
        raise ConfigError(
            f"config.critic.path: V of {folder} is not linear; give {_WANTED}"
        )
    if notes.width != start.config.width:
        raise ConfigError(
            f"config.critic.path: {folder} has a head for {notes.width} features, and "
            f"the model of config.model.path has {start.config.width}"
        )
    head = jnp.asarray(v["Dense_0"]["kernel"][:, 0])
    if notes.trunk == ".":
        return None, head
    trunk = fitting_weights(folder / notes.trunk, start.config, "critic.path")
    return trunk, head


def _head(folder: pathlib.Path, key: str) -> tuple[Params, heads_file.Notes]:
    """Parameters of V, and what is to be known of it."""
    try:
        heads, notes = heads_file.load(folder)
    except ValueError as error:
        raise ConfigError(f"config.{key}: {error}; give {_WANTED}") from error
    if "v" not in heads or notes.read_v not in READINGS:
        raise ConfigError(
            f"config.{key}: {folder} has the heads {sorted(heads)}, and V reads "
            f"the {notes.read_v.replace('_', ' ')}; give {_WANTED}"
        )
    return heads["v"], notes
