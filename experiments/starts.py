"""The model that a run on texts begins from: out of files, or of random weights."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments import border
from experiments.border import AT_LEAST_ONE, ConfigError, Limit
from experiments.language_model import adapter_of
from rljax.envs.reasoning import arithmetic, countdown
from rljax.models import loading
from rljax.models.config import ModelConfig
from rljax.models.decoder import Decoder
from rljax.models.lora import LoraConfig
from rljax.policy import texts as texts_lib
from rljax.policy.texts import Texts
from rljax.text import tokenizer as tokenizers
from rljax.types import Params

LIMITS = {
    "seed": Limit(0, 2**32 - 1),
    "model.width": AT_LEAST_ONE,
    "model.layers": AT_LEAST_ONE,
    "model.heads": AT_LEAST_ONE,
    "model.mlp_width": AT_LEAST_ONE,
}
# Characters of the tasks that a model of random weights can be asked.
ALPHABETS = {"arithmetic": arithmetic.alphabet, "countdown": countdown.alphabet}
# Settings of a decoder that say how it computes, and not what.
_HOW = {"scan_layers", "remat", "param_dtype", "dtype"}


class Start(NamedTuple):
    """Where a run begins.

    Attributes:
      config: the decoder's.
      tokenizer: its tokenizer.
      eos_ids: tokens that end an answer.
      texts: the policy.
      adapter: what learns beside frozen weights, None where all weights do.
      weights: () -> the weights to start from, the same bits at each call.
      origin: in words.
    """

    config: ModelConfig
    tokenizer: Any
    eos_ids: tuple[int, ...]
    texts: Texts
    adapter: LoraConfig | None
    weights: Callable[[], Params]
    origin: str


def choose_start(config: Any) -> Start:
    """The model that a config names, or one of random weights.

    Args:
      config: with `seed`, `model` and `task`; without `lora` nothing stands beside the
        weights.

    Raises:
      ConfigError: for an impossible setting or a model that cannot be read.
    """
    border.limits(config, LIMITS)
    if "lora" in config:
        border.limits(config, {"lora.rank": Limit(0)})
    if config.model.path:
        return _from_files(config)
    border.require(
        not _rank(config), "lora.rank", _rank(config),
        "0 without model.path: adapters learn beside weights that know something",
    )  # fmt: skip
    border.require(
        config.task.name in ALPHABETS, "model.path", config.model.path,
        f"a model, but for {' and '.join(ALPHABETS)}, whose characters are all that a "
        "new one can read",
    )  # fmt: skip
    tokens = tokenizers.character_level(ALPHABETS[config.task.name]())
    model = config.model
    border.require(
        model.width % (2 * model.heads) == 0, "model.width", model.width,
        f"a multiple of twice model.heads, {2 * model.heads}",
    )  # fmt: skip
    size = ModelConfig(
        vocab_size=len(tokens),
        width=model.width,
        num_layers=model.layers,
        num_heads=model.heads,
        num_kv_heads=model.heads,
        head_dim=model.width // model.heads,
        mlp_width=model.mlp_width,
    )
    size = _with_types(config, size)

    def drawn():
        one = jax.numpy.zeros((1, 1), jax.numpy.int32)
        init = jax.jit(Decoder(size).init)
        return init(jax.random.key(config.seed), one, one, one[None] == 0)["params"]

    texts = texts_lib.make(size)
    end = (tokens.eos_token_id,)
    return Start(size, tokens, end, texts, None, drawn, "random weights")


def other_weights(config: Any, start: Start) -> Params | None:
    """What a policy begins as where that is not the reference; None: it is.

    Args:
      config: `model.policy` is the model; empty for the reference, `model.path`.
      start: of the same config.

    Raises:
      ConfigError: if there is no reference, or an adapter learns beside it; or for a
        model that cannot be read or is not of the reference's kind.
    """
    path = config.model.policy
    if not path:
        return None
    border.require(
        bool(config.model.path), "model.policy", path, "empty without model.path"
    )
    border.require(
        not config.lora.rank, "model.policy", path,
        f"empty with lora.rank={config.lora.rank}: an adapter begins as the reference",
    )  # fmt: skip
    return fitting_weights(path, start.config, "model.policy")


def fitting_weights(path: str | pathlib.Path, size: ModelConfig, key: str) -> Params:
    """Weights of a model that computes as `size` says.

    Args:
      path: as of `loading.open_model`.
      size: settings of the model it has to be like; the weights get its type.
      key: the setting that names it, for messages.

    Raises:
      ConfigError: if it cannot be read, or is another kind of model.
    """
    try:
        model = loading.open_model(path)
        wrong = [
            f"{field.name} is {there!r} there, {here!r} here"
            for field in dataclasses.fields(size)
            if field.name not in _HOW
            and (there := getattr(model.config, field.name, None))
            != (here := getattr(size, field.name))
        ]
        if wrong:
            raise ValueError(
                f"{path} is not a model like config.model.path: {'; '.join(wrong)}"
            )
        return loading.load_params(model, dtype=size.param_dtype)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"config.{key}: {error}") from error


def _from_files(config: Any) -> Start:
    try:
        model = loading.open_model(config.model.path)
        tokens = model.tokenizer()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"config.model.path: {error}") from error
    border.require(
        isinstance(model.config, ModelConfig), "model.path", config.model.path,
        "a decoder: an encoder-decoder reads no packed texts",
    )  # fmt: skip
    size = _with_types(config, dataclasses.replace(model.config, scan_layers=True))
    adapter = adapter_of(config, size) if _rank(config) else None
    return Start(
        size,
        tokens,
        model.eos_ids or (tokens.eos_token_id,),
        texts_lib.make(size, adapter),
        adapter,
        lambda: loading.load_params(model, dtype=size.param_dtype),
        model.origin,
    )


def _rank(config: Any) -> int:
    """Of the adapter, 0 where there is none."""
    return config.lora.rank if "lora" in config else 0


def _with_types(config: Any, size: ModelConfig) -> ModelConfig:
    changes: dict[str, Any] = {"remat": config.model.remat}
    for key in ("dtype", "param_dtype"):
        name = config.model[key]
        border.require(
            name in ("", "float32", "bfloat16"), f"model.{key}", name,
            "float32, bfloat16 or empty",
        )  # fmt: skip
        if name:
            changes[key] = name
    return dataclasses.replace(size, **changes)
