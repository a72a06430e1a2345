"""The language model a config names: from random weights, or from files.

Weights from files are either where the whole trunk starts, or, with a LoRA rank above
0, what stays frozen beside the adapters that learn.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import config_dict

from experiments.border import ConfigError, Limit, pick, require, typed
from rljax.envs.base import Env
from rljax.models import config as model_config
from rljax.models import loading, lora
from rljax.models.encdec_config import EncDecConfig
from rljax.models.lora import LoraConfig
from rljax.policy import networks, score
from rljax.text import chat, tokenizer
from rljax.text.rendering import Frame
from rljax.training import warm_start
from rljax.types import Params

SIZES = {
    "tiny": model_config.tiny,
    "small": model_config.small,
    "base": model_config.base,
}
READ_Q = {"path": score.q_of_path, "last_node": score.q_of_last_node}
DTYPES = ("float32", "bfloat16", "float16")
WARM_LIMITS = {
    "updates": Limit(0),
    "num_envs": Limit(1),
    "learning_rate": Limit(0, above=True),
}


class LanguageModel(NamedTuple):
    """A model that was chosen; none of its weights are read yet.

    Attributes:
      config: settings of the decoder, or of an encoder-decoder.
      tokenizer: a Hugging Face tokenizer.
      frame: text around every prompt, or None.
      adapter: what learns beside frozen weights; None where the whole trunk learns.
      weights: () -> the weights of its files; None where they are drawn.
      eos_ids: tokens that end a text: those of its files, and the tokenizer's own.
    """

    config: Any  # ModelConfig or EncDecConfig
    tokenizer: Any
    frame: Frame | None
    adapter: LoraConfig | None
    weights: Callable[[], Params] | None
    eos_ids: tuple[int, ...]


def choose(config: Any, words: Callable[[], Sequence[str]]) -> LanguageModel:
    """Reads what the config says of the model.

    Args:
      config: as `experiments.configs.playground.shared` gives it.
      words: the vocabulary of the world, for a tokenizer of its own.

    Raises:
      ConfigError: for a setting that is impossible, or a model that cannot be read.
    """
    rank = config.lora.rank
    require(rank is not None and rank >= 0, "lora.rank", rank, "at least 0")
    if config.model.path:
        opened = _open(config.model.path)
        require(
            not config.model.tokenizer, "model.tokenizer", config.model.tokenizer,
            "empty with model.path, whose model brings its own",
        )  # fmt: skip
        tokens, size = _ask(opened.tokenizer, "model.path"), opened.config
        size = dataclasses.replace(size, remat=config.model.remat)
    else:
        require(
            not rank, "lora.rank", rank,
            "0 without model.path: adapters learn beside weights that know something",
        )  # fmt: skip
        opened, tokens = None, _tokens(config, words)
        size = pick(SIZES, config.model.size, "model.size")(len(tokens))
    size = _with_dtypes(config, size)
    weights = None
    if opened is not None:
        model = opened

        def weights():
            return loading.load_params(model, dtype=size.param_dtype)

    adapter = adapter_of(config, size) if rank else None
    ends = _ends(() if opened is None else opened.eos_ids, tokens)
    return LanguageModel(size, tokens, _frame(config, tokens), adapter, weights, ends)


def of_run(run: Mapping[str, Any], tokens: Any) -> LanguageModel:
    """The model of a run that is over.

    Args:
      run: its config, as `config.json` has it.
      tokens: its tokenizer.

    Raises:
      ConfigError: if its files are no longer there.
    """
    config = config_dict.ConfigDict(dict(run))
    if config.model.get("path"):
        model = choose(config, lambda: ())
        return model._replace(tokenizer=tokens, eos_ids=_ends(model.eos_ids, tokens))
    size = pick(SIZES, config.model.size, "model.size")(len(tokens))
    size = _with_dtypes(config, size)
    return LanguageModel(size, tokens, None, None, None, _ends((), tokens))


def make_networks(config: Any, model: LanguageModel, env: Env) -> networks.Networks:
    """Trunk and heads; warm where the config says so.

    Raises:
      ConfigError: if the environment's texts do not fit the model's context, or a warm
        start is asked for where there can be none.
    """
    _check_context(config, model, env)
    read_q = pick(READ_Q, config.model.read_q, "model.read_q")
    widths = (config.model.head_width, config.model.head_width)
    end, std = model.tokenizer.eos_token_id, config.model.head_std
    if isinstance(model.config, EncDecConfig):
        policy = networks.make_encdec(
            model.config, end, widths, std, read_q, adapter=model.adapter
        )
    else:
        policy = networks.make(
            model.config, end, widths, std, read_q, adapter=model.adapter
        )
    warm = typed(config.warm_start, warm_start.Config, WARM_LIMITS, "warm_start")
    require(
        not warm.updates or model.weights is None, "warm_start.updates", warm.updates,
        "0 with model.path, whose weights are warm",
    )  # fmt: skip
    return warm_start.warm_start(policy, env, end, warm)


def _check_context(config: Any, model: LanguageModel, env: Env) -> None:
    """Whether the longest text fits; an encoder-decoder has no limit of its own."""
    if isinstance(model.config, EncDecConfig):
        return
    sizes, context = env.sizes, model.config.max_positions
    longest = sizes.prompt_tokens + sizes.command_tokens
    require(
        context is None or longest <= context, "model.path", config.model.path,
        f"a model whose context holds {longest} tokens, the longest prompt "
        f"({sizes.prompt_tokens}) and command ({sizes.command_tokens}); its context "
        f"is {context}",
    )  # fmt: skip


def _ends(ids: Sequence[int], tokens: Any) -> tuple[int, ...]:
    """A model's end tokens, and the one that commands end with."""
    return tuple(dict.fromkeys((*ids, tokens.eos_token_id)))


def adapter_of(config: Any, size: Any) -> LoraConfig:
    """The adapter that a config asks for beside a model.

    Raises:
      ConfigError: if there can be none such.
    """
    how = config.lora
    try:
        return lora.of(size, how.rank, how.alpha, tuple(how.targets))
    except ValueError as error:
        raise ConfigError(f"config.lora: {error}") from error


def _open(path: str) -> loading.Model:
    return _ask(lambda: loading.open_model(path), "model.path")


def _ask(question: Callable[[], Any], key: str) -> Any:
    """An answer, or what is wrong with the setting that was asked about."""
    try:
        return question()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"config.{key}: {error}") from error


def _tokens(config: Any, words: Callable[[], Sequence[str]]) -> Any:
    """The tokenizer of a folder, or of the world's own words."""
    if not config.model.tokenizer:
        return tokenizer.word_level(words())
    return _ask(lambda: tokenizer.load(config.model.tokenizer), "model.tokenizer")


def _with_dtypes(config: Any, size: Any) -> Any:
    """A model in the types the config names; empty leaves what it has."""
    for key in ("dtype", "param_dtype"):
        name = config.model.get(key, "")  # absent from runs of an earlier version
        require(
            name in ("", *DTYPES), f"model.{key}", name,
            f"one of {', '.join(DTYPES)}, or empty",
        )  # fmt: skip
        if name:
            size = dataclasses.replace(size, **{key: name})
    return size


def _frame(config: Any, tokens: Any) -> Frame | None:
    """The tokenizer's chat template around a prompt, where it is asked for."""
    if not config.model.chat:
        return None
    return _ask(lambda: chat.frame(chat.from_tokenizer(tokens)), "model.chat")
