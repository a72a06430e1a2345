"""Who says what is right: the task's own verifier, or one out of a package."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments import border
from experiments.border import AT_LEAST_ONE, POSITIVE, ConfigError, pick
from rljax.envs import verifier_pool, verifiers
from rljax.envs.verifiers import Answered, JudgeAll, Verify

LIMITS = {
    "task.verifier_workers": AT_LEAST_ONE,
    "task.verifier_seconds": POSITIVE,
}
EXACT = "exact"  # the task's own, in this process


def _math_verify() -> Verify:
    from rljax.envs import math_verified

    return math_verified.verify


def _math_verify_stated() -> Verify:
    from rljax.envs import math_verified

    return math_verified.stated


def _gym() -> Verify:
    from rljax.envs.reasoning import gym

    return gym.verify


# The extra that brings a verifier's package, and what imports it.
PACKAGES: dict[str, tuple[str, Callable[[], Verify]]] = {
    "math_verify": ("math", _math_verify),
    "gym": ("gym", _gym),
}
# Where a package reads answers that the task's own verifier does not.
ANSWERED: dict[str, Answered] = {"math_verify": verifiers.marked_or_boxed}
# Those that look for answers where `verifiers.stated` does, in the places of others.
_STATED = {"math_verify": ("math", _math_verify_stated)}


@contextlib.contextmanager
def open_judge(config: Any, exact: Verify) -> Iterator[JudgeAll]:
    """What judges answers, with its processes where it has any.

    Args:
      config: `task.verifier` says who, `verifier_workers` and `verifier_seconds` how
        many processes it has and how long each answer may take.
      exact: the task's own verifier.

    Returns:
      A context whose value judges.

    Raises:
      ConfigError: for a verifier that there is not, or whose package is missing; or an
        impossible number.
    """
    name = verifier_of(config.task)
    if name == EXACT:
        yield verifiers.in_turn(exact)
        return
    border.limits(config, LIMITS)
    known = PACKAGES | (_STATED if exact is verifiers.stated else {})
    extra, find = pick(known, name, "task.verifier")
    verify = imported("task.verifier", name, extra, find)
    with contextlib.ExitStack() as stack:
        pool = verifier_pool.open_pool(
            verify, config.task.verifier_workers, float(config.task.verifier_seconds)
        )
        try:
            judge = stack.enter_context(pool)
        except RuntimeError as error:
            raise ConfigError(f"config.task.verifier is {name!r}: {error}") from error
        yield judge


def imported(key: str, name: str, extra: str, find: Callable[[], Any]) -> Any:
    """What needs a package that may be missing.

    Args:
      key: the setting that asks for it.
      name: its value.
      extra: what brings the package.
      find: imports it.

    Raises:
      ConfigError: if it cannot be imported, with what to do.
    """
    try:
        return find()
    except ImportError as error:
        raise ConfigError(
            f"config.{key} is {name!r}, whose package cannot be imported ({error}): "
            f"pip install 'rljax[{extra}]'"
        ) from error


def verifier_of(task: Any) -> str:
    """The name of a task's verifier; workdirs of earlier versions name none.

    Args:
      task: `config.task`.
    """
    return task.get("verifier", EXACT)
