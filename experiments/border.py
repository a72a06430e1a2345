"""Where settings from the command line become typed ones, or errors that help.

A main is `border.run(main, __doc__)`; its config is an `ml_collections.ConfigDict` from
`--config=FILE[:scale]`, changed by `--config.key=value`. `typed` turns a part of it
into a frozen dataclass of the library, which never sees a ConfigDict.
"""

import argparse
import ast
import dataclasses
import difflib
import logging
import math
import pathlib
import runpy
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ml_collections import config_dict

from rljax.training.files import RunError

T = TypeVar("T")

_TYPE = "of type %s"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of a command with arguments of its own, its help the module's docstring."""
    return argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class ConfigError(RunError):
    """A setting that cannot be used: names the key, the value and the limit."""


class Limit(NamedTuple):
    """Values a number may take: low <= x <= high, or low < x with `above`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False  # low itself is ruled out

    def holds(self, value: float) -> bool:
        """Whether `value` is allowed; NaN never is."""
        over = value > self.low if self.above else value >= self.low
        return over and value <= self.high

    def __str__(self) -> str:
        """The limit in words."""
        low, high = (x if isinstance(x, int) else f"{x:g}" for x in self[:2])
        if math.isinf(self.high):
            return f"{'above' if self.above else 'at least'} {low}"
        if math.isinf(self.low):
            return f"at most {high}"
        return f"in {'(' if self.above else '['}{low}, {high}]"


POSITIVE = Limit(0, above=True)
AT_LEAST_ONE = Limit(1)
SHARE = Limit(0, 1)
SEED = Limit(0, 2**32 - 1)  # jax.random.key takes no more bits of it


def require(holds: bool, key: str, value: Any, limit: str) -> None:
    """Raises a ConfigError "key is value: limit" unless `holds`.

    For what a single key cannot know: `require(batch <= ring, "batch_size", batch,
    f"at most replay.capacity, {ring}")`.
    """
    if not holds:
        raise ConfigError(f"config.{key} is {value!r}: it must be {limit}")


def limits(config: Any, allowed: Mapping[str, Limit]) -> None:
    """Checks numbers of a config against their limits.

    Args:
      config: the whole of it.
      allowed: dotted key -> limit.

    Raises:
      ConfigError: naming the key, the value and the limit.
    """
    for key, limit in allowed.items():
        value = config
        for name in key.split("."):
            if name not in value:  # as in a workdir of an earlier version
                raise ConfigError(f"config.{key} is missing")
            value = value[name]
        require(value is not None and limit.holds(value), key, value, str(limit))


def pick(table: Mapping[str, Any], name: str, key: str) -> Any:
    """What a flag names.

    Raises:
      ConfigError: naming the key, the value and what it may be.
    """
    require(name in table, key, name, f"one of {', '.join(table)}")
    return table[name]


def typed(
    config: Mapping[str, Any] | config_dict.ConfigDict,
    cls: type[T],
    limits: Mapping[str, Limit | Sequence[Any]] | None = None,
    prefix: str = "",
) -> T:
    """Builds the dataclass `cls` from a part of a config.

    Args:
      config: a ConfigDict or dict whose keys are fields of `cls`.
      cls: a dataclass whose fields are annotated with int, float, bool, str, a
        Literal, a tuple of these, an optional one, or another such dataclass.
      limits: for dotted keys inside this part, a Limit or the values allowed.
      prefix: dotted key of this part in the whole config, for messages.

    Returns:
      An instance; a field without a key keeps its default.

    Raises:
      ConfigError: for an unknown or missing key, a wrong type or a value out of its
        limit; it names the key, the value and the limit.
    """
    build: Callable[..., T] = cls
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls!r} is not a dataclass")
    dot = f"{prefix}." if prefix else ""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    for key in config:
        if key not in fields:
            raise ConfigError(unknown_key(f"{dot}{key}", [dot + f for f in fields]))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in config:
            within = {
                key.removeprefix(f"{name}."): limit
                for key, limit in (limits or {}).items()
                if key == name or key.startswith(f"{name}.")
            }
            values[name] = _value(config[name], hints[name], within, dot + name)
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"config.{dot}{name} is missing")
    return build(**values)


def _value(
    value: Any,
    hint: Any,
    limits: Mapping[str, Limit | Sequence[Any]],
    key: str,
) -> Any:
    """One value, of the type `hint` and within its limit."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        require(isinstance(value, Mapping | config_dict.ConfigDict), key, value, "keys")
        return typed(value, hint, limits, key)
    value = _convert(value, hint, key)
    limit = limits.get(key.rpartition(".")[2])
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if part is None or limit is None:
            continue
        if isinstance(limit, Limit):
            require(limit.holds(part), key, value, str(limit))
        else:
            require(part in limit, key, value, f"one of {list(limit)}")
    return value


def _convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as a `hint`: only an int where a float is due changes its type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), key)
    if origin is typing.Literal:
        require(value in arguments, key, value, f"one of {list(arguments)}")
        return value
    if origin is tuple:
        require(isinstance(value, tuple | list), key, value, "a tuple")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        require(len(value) == len(arguments), key, value, f"{len(arguments)} values")
        return tuple(_convert(v, a, key) for v, a in zip(value, arguments, strict=True))
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    require(type(value) is hint, key, value, _TYPE % hint.__name__)
    return value


def unknown_key(key: str, known: Sequence[str]) -> str:
    """What to say of a key that is not there, with the nearest one that is."""
    last = key.rpartition(".")[2]
    near = [name for name in known if name.rpartition(".")[2] == last]  # other group
    near += difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    hint = f"did you mean config.{near[0]}?" if near else f"known: {', '.join(known)}"
    return f"config.{key} is not a setting; {hint}"


def parse_resume(value: Any) -> str | int:
    """The value of `config.resume`: "auto", "never" or the update of a checkpoint."""
    if value in ("auto", "never"):
        return value
    text = str(value)
    limit = "'auto', 'never' or the number of a checkpoint's update"
    require(text.isascii() and text.isdecimal(), "resume", value, limit)
    return int(text)


def keys(config: config_dict.ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every setting with its value, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            found |= keys(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def describe(config: config_dict.ConfigDict) -> str:
    """What `--help` lists: each key as it is given on the command line."""
    flat = keys(config)
    width = max(map(len, flat), default=0)
    return "\n".join(f"  --config.{key:<{width}}  {flat[key]!r}" for key in flat)


class Command(NamedTuple):
    """A command line, read."""

    config: config_dict.ConfigDict
    workdir: str | None
    wants_help: bool


def read_command(
    words: Sequence[str], groups: Mapping[str, type] | None = None
) -> Command:
    """Reads `--config=FILE[:scale] --workdir=DIR --config.key=value ...`.

    Args:
      words: the command line without the program; "--name value" is as good as
        "--name=value".
      groups: for groups of settings the dataclass they become, which says what may be
        None. Elsewhere that is only what is None in the file.

    Raises:
      ConfigError: for a file, a flag, a key or a value that cannot be used.
    """
    given: dict[str, str] = {}
    rest = list(words)
    wants_help = False
    while rest:
        word = rest.pop(0)
        name, equals, text = word.removeprefix("--").partition("=")
        if word in ("-h", "--help"):
            wants_help = True
            continue
        known = name in ("config", "workdir") or name.startswith("config.")
        if not word.startswith("--") or not known:
            raise ConfigError(
                f"{word!r} is not a flag: there are --config=FILE.py[:scale], "
                "--workdir=DIR and --config.key=value"
            )
        if not equals and (not rest or rest[0].startswith("--")):
            raise ConfigError(f"{word} has no value: write {word}=value")
        given[name] = text if equals else rest.pop(0)
    if "config" not in given:
        raise ConfigError("--config=FILE.py[:scale] is missing")
    config = load_config(given.pop("config"))
    workdir = given.pop("workdir", None)
    for name, text in given.items():
        _set(config, name.removeprefix("config."), text, groups or {})
    return Command(config.lock(), workdir, wants_help)


def load_config(spec: str) -> config_dict.ConfigDict:
    """The config of `FILE.py` or `FILE.py:scale`: what its get_config returns."""
    name, _, scale = spec.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        raise ConfigError(f"--config={spec}: there is no file {path}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
    except SyntaxError as error:
        raise ConfigError(
            f"--config={spec}: {path} is not Python, line {error.lineno}: {error.msg}; "
            "expected a file that defines get_config, as those of experiments/configs"
        ) from error
    if get_config is None:
        raise ConfigError(f"--config={spec}: {path} defines no get_config")
    try:
        return get_config(scale) if scale else get_config()
    except ValueError as error:  # a scale it does not know
        raise ConfigError(f"--config={spec}: {error}") from error


def _set(
    config: config_dict.ConfigDict, key: str, text: str, groups: Mapping[str, type]
) -> None:
    """Sets the setting with a dotted key to what `text` says, keeping its type."""
    known = keys(config)
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        if inside:
            raise ConfigError(f"config.{key} is a group; set config.{inside[0]} or so")
        raise ConfigError(unknown_key(key, list(known)))
    group, _, last = key.rpartition(".")
    for name in filter(None, group.split(".")):
        config = config[name]
    optional = config[last] is None or _takes_none(groups.get(group), last)
    config[last] = _parse(text, config.get_type(last), key, optional)


def _takes_none(cls: type | None, field: str) -> bool:
    """Whether a field of a dataclass may be None."""
    hint = None if cls is None else typing.get_type_hints(cls).get(field)
    return type(None) in typing.get_args(hint)


def _parse(text: str, kind: type, key: str, optional: bool) -> Any:
    """The value of type `kind` (of any, where the setting holds None) in `text`."""
    if kind is str:
        return text
    try:
        value = ast.literal_eval(text.capitalize() if kind is bool else text)
    except (ValueError, SyntaxError):
        value = text
    if value is None and optional:
        return None
    if kind is tuple and value is not None:
        value = tuple(value) if isinstance(value, tuple | list) else (value,)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e6
    if kind is not type(None):
        require(type(value) is kind, key, value, _TYPE % kind.__name__)
    return value


def run(
    main: Callable[[config_dict.ConfigDict, str], int | None],
    doc: str,
    groups: Mapping[str, type] | None = None,
) -> None:
    """Reads the command line, calls `main(config, workdir)`, exits with its code.

    A RunError, a wrong flag included, ends the process with its message and code 2.
    `--help` lists what can be set.

    Args:
      main: the experiment; None counts as code 0.
      doc: printed above the settings by `--help`; a main passes `__doc__`.
      groups: see `read_command`.
    """
    logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax tells every step
    words = sys.argv[1:]
    try:
        if {"-h", "--help"} & set(words) and not any(map(_names_config, words)):
            print(f"{doc}\n--config=FILE.py --help lists the settings of that file.")
            sys.exit(0)
        command = read_command(words, groups)
        if command.wants_help:
            print(f"{doc}\nSettings:\n{describe(command.config)}")
            sys.exit(0)
        if not command.workdir:
            raise ConfigError("--workdir=DIR is missing")
        sys.exit(main(command.config, command.workdir) or 0)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _names_config(word: str) -> bool:
    return word.partition("=")[0] == "--config"
