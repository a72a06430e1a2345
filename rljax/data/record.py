"""One line of a log: what it may hold, and what is refused.

Shapes: T tokens, N tokens of the policy among them.

| key | value | |
|---|---|---|
| `reward` | a finite number, `true` or `false` | always |
| `prompt`, `response` | texts; the response without its end token | plain form |
| `conversations` | `[{"role", "content"}, ...]`, also `from` and `value` | chat form |
| `ids`, `action` | integers [T], booleans [T]: the policy said this | token form |
| `prompt_ids`, `response_ids` | the tokens of the two texts | plain form |
| `step` | integers [N], from 0 on, growing by 0 or 1 | with tokens |
| `steps` | texts that make up the response, a step each | plain form |
| `log_probs` | numbers [N] up to 0, of the policy that sampled | with tokens |
| `task`, `source` | texts (a task may be an integer) | |
| `truncated` | the sampler ran out of length: there is no end token | |

Where ids are given they are the tokens, whatever the texts say. Other keys do no harm
and are named in `Record.unknown`, so that a key that was spelt wrongly can be told.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rljax.text.template import POLICY, Message

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    POLICY: POLICY,
    "gpt": POLICY,
}
_ROUNDING = 1e-3  # of a log-probability that was computed in low precision


class Record(NamedTuple):
    """One attempt as it was logged."""

    line: int  # of the log, from 1 on
    reward: float
    prompt: str | None = None
    response: str | None = None
    messages: tuple[Message, ...] = ()
    prompt_ids: np.ndarray | None = None  # int32 [T - N]
    response_ids: np.ndarray | None = None  # int32 [N]
    ids: np.ndarray | None = None  # int32 [T]
    action: np.ndarray | None = None  # bool [T]
    step: np.ndarray | None = None  # int32 [N]
    steps: tuple[str, ...] = ()
    log_probs: np.ndarray | None = None  # float32 [N]
    task: str = ""
    source: str = ""
    truncated: bool = False
    unknown: tuple[str, ...] = ()  # keys that mean nothing here


def from_json(values: Any, line: int) -> Record:
    """The record of a parsed line.

    Args:
      values: what the JSON says.
      line: its number, from 1 on.

    Raises:
      ValueError: if a key is missing, a value is of another kind than the table
        says, or two of them cannot both be true.
    """
    if not isinstance(values, Mapping):
        hint = (
            "; one list with everything becomes lines with: jq -c '.[]'"
            if isinstance(values, list)
            else ""
        )
        raise ValueError(f"is {_named(values)}, expected an object {{...}}{hint}")
    # A key that is null says as much as one that is not there.
    there = {key: v for key, v in values.items() if v is not None or key == "reward"}
    missing = "reward" if "reward" not in there else _missing_form(there)
    if missing:
        raise ValueError(f"there is no {missing}, only {_listed(there)}")
    given = {key: read(there, key) for key, read in _KEYS.items() if key in there}
    if "conversations" in given:
        given["messages"] = given.pop("conversations")
    record = Record(line=line, **given)
    _check_together(record)
    return record._replace(unknown=tuple(key for key in values if key not in _KEYS))


def to_json(record: Record) -> dict[str, Any]:
    """What a line says of a record; without its number, and without what is absent."""
    out: dict[str, Any] = {}
    for key in _KEYS:
        value = getattr(record, "messages" if key == "conversations" else key)
        if key == "conversations":
            value = [{"role": role, "content": text} for role, text in value]
        elif isinstance(value, np.ndarray):
            value = value.tolist()
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None and not (key in _OPTIONAL and not value):
            out[key] = value
    reward = out["reward"]
    out["reward"] = int(reward) if float(reward).is_integer() else reward
    return out


def nearest(key: str) -> str | None:
    """The known key that one looks like, if there is one.

    Args:
      key: a short one, such as "id", looks like none.
    """
    if len(key) < 4:
        return None
    near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
    return near[0] if near else None


def num_actions(record: Record) -> int | None:
    """N, where the record gives tokens."""
    if record.ids is not None and record.action is not None:
        return int(record.action.sum())
    return None if record.response_ids is None else len(record.response_ids)


def _missing_form(values: Mapping[str, Any]) -> str:
    if any(key in values for key in ("conversations", "ids", "prompt_ids")):
        return ""
    absent = [key for key in ("prompt", "response") if key not in values]
    return " and no ".join(absent)


def _check_together(record: Record) -> None:
    """What the keys of a line must keep to among each other."""
    plain = record.prompt is not None or record.response is not None
    if plain and record.messages:
        raise ValueError("has conversations beside prompt and response: give one form")
    if plain and (record.prompt is None or record.response is None):
        raise ValueError("has only one of prompt and response")
    if (record.ids is None) != (record.action is None):
        raise ValueError("has only one of ids and action: each needs the other")
    if record.ids is not None and record.action is not None:
        _check_ids(record, record.ids, record.action)
    if record.prompt_ids is not None and record.response_ids is None:
        raise ValueError("has prompt_ids without response_ids")
    if record.response_ids is not None:
        if record.messages or (record.prompt_ids is None and record.prompt is None):
            raise ValueError(
                "has response_ids without prompt_ids, and without a prompt"
            )
        if not len(record.response_ids):
            raise ValueError("response_ids is empty: the policy said nothing")
    count = num_actions(record)
    for name in ("step", "log_probs"):
        value = getattr(record, name)
        if value is not None and count is None:
            raise ValueError(f"has {name} without the token ids that it is of")
        if value is not None and len(value) != count:
            raise ValueError(
                f"{name} has {len(value)} values for {count} tokens of the policy"
            )
    if record.steps and (record.response is None or count is not None):
        raise ValueError("has steps that are not of a response in text: give step")
    if record.steps and "".join(record.steps) != record.response:
        raise ValueError("steps, put together, are not the response")


def _check_ids(record: Record, ids: np.ndarray, action: np.ndarray) -> None:
    if record.response_ids is not None:
        raise ValueError("has ids beside response_ids: give one of them")
    if len(ids) != len(action):
        raise ValueError(f"has {len(ids)} ids and {len(action)} values of action")
    if not action.any():
        raise ValueError("action is false throughout: the policy said nothing")
    if action[0]:
        raise ValueError(
            "action begins with true: the policy must read something first"
        )


def _named(value: Any) -> str:
    """A value with its kind, short."""
    kinds = {str: "text", list: "a list", dict: "an object"}
    if type(value) not in kinds:
        return "null" if value is None else repr(value)[:60]
    return f"{kinds[type(value)]} {str(value)[:60]!r}"


def _listed(values: Mapping[str, Any]) -> str:
    """Keys, in a form that no terminal minds."""
    names = [key if key.isidentifier() else repr(key) for key in list(values)[:10]]
    return ", ".join([*names, "..."] if len(values) > 10 else names) or "nothing"


def _wrong(key: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{key} is {_named(value)}, expected {expected}")


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise _wrong(key, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} of {key} is half a surrogate pair, no text"
        ) from error
    return value


def _task(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    return str(value) if type(value) is int else _text(values, key)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values[key]
    if not isinstance(value, bool | int | float):
        raise _wrong(key, value, "a finite number, true or false")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    # It becomes float32 in training, where 1e300 is infinite.
    if not math.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
        raise _wrong(key, value, "a finite number (in float32)")
    return number


def _flag(values: Mapping[str, Any], key: str) -> bool:
    value = values[key]
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values[key]
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    return value


def _ids(values: Mapping[str, Any], key: str) -> np.ndarray:
    items = _list(values, key)
    for i, item in enumerate(items):
        if type(item) is not int or not 0 <= item < 2**31:
            raise _wrong(f"{key}[{i}]", item, "an integer from 0 to 2**31 - 1")
    return np.array(items, np.int32)


def _actions(values: Mapping[str, Any], key: str) -> np.ndarray:
    items = _list(values, key)
    for i, item in enumerate(items):
        if item not in (0, 1) or isinstance(item, float):
            raise _wrong(f"{key}[{i}]", item, "true or false (1 or 0)")
    return np.array(items, bool)


def _step(values: Mapping[str, Any], key: str) -> np.ndarray:
    step = _ids(values, key)
    if len(step):
        if step[0] or (np.diff(step) < 0).any() or (np.diff(step) > 1).any():
            raise ValueError("step must begin with 0 and grow by 0 or 1 a token")
    return step


def _log_probs(values: Mapping[str, Any], key: str) -> np.ndarray:
    items = _list(values, key)
    for i, item in enumerate(items):
        number = type(item) in (int, float)
        if not number or not math.isfinite(item) or item > _ROUNDING:
            raise _wrong(f"{key}[{i}]", item, "a finite number up to 0")
    return np.array(items, np.float32)


def _steps(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    steps = tuple(_text({key: item}, key) for item in _list(values, key))
    if not all(steps):
        raise ValueError("steps holds a step without text")
    return steps


def messages(items: Any, key: str = "conversations") -> tuple[Message, ...]:
    """A conversation.

    Args:
      items: what the JSON says of it.
      key: names it in errors.

    Raises:
      ValueError: if it is no list of messages, each with a known role and a text.
    """
    if not isinstance(items, list) or not items:
        raise _wrong(key, items, "a list of messages")
    found = []
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise _wrong(f"{key}[{i}]", item, "an object with role and content")
        names = [("role", "content"), ("from", "value")]
        pair = next((p for p in names if p[0] in item and p[1] in item), None)
        if pair is None:
            keys = _listed(item)
            raise ValueError(f"{key}[{i}] has {keys}, expected role and content")
        role = item[pair[0]]
        if not isinstance(role, str) or role not in ROLES:
            raise _wrong(f"{key}[{i}].{pair[0]}", role, f"one of {', '.join(ROLES)}")
        place = f"{key}[{i}].{pair[1]}"
        text = _text({place: item[pair[1]]}, place)
        found.append(Message(ROLES[role], text))
    return tuple(found)


def _messages(values: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    found = messages(values[key], key)
    if not any(message.role == POLICY for message in found):
        raise ValueError(f"{key} has no turn of the {POLICY}")
    return found


_KEYS: dict[str, Callable[[Mapping[str, Any], str], Any]] = {
    "prompt": _text,
    "response": _text,
    "conversations": _messages,
    "reward": _number,
    "task": _task,
    "source": _text,
    "prompt_ids": _ids,
    "response_ids": _ids,
    "ids": _ids,
    "action": _actions,
    "step": _step,
    "steps": _steps,
    "log_probs": _log_probs,
    "truncated": _flag,
}
_OPTIONAL = {"conversations", "task", "source", "steps", "truncated"}
