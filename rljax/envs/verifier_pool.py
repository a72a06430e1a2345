"""Verifiers in processes of their own: one that hangs or dies costs its own answer.

A worker is started afresh, not forked, and imports the verifier and nothing of the run:
JAX and its threads stay here. It is given one answer at a time, so that it is known
which answer a worker that says nothing any more was at. Texts travel as JSON.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, NamedTuple

from rljax.envs.verifiers import Failure, JudgeAll, Verify

START = 120.0  # seconds that a worker may take to import its verifier
GRACE = 10.0  # seconds more, after which a worker that nobody ended does so itself
_IDLE, _STARTING = -1, -2


class _Worker(NamedTuple):
    process: subprocess.Popen
    line: connection.Connection
    item: int  # it is at, or one of the two above
    deadline: float  # of `time.monotonic`


@contextlib.contextmanager
def open_pool(verify: Verify, workers: int, seconds: float) -> Iterator[JudgeAll]:
    """Workers that judge answers for as long as the context is open.

    Verdicts come in the order of the answers, whichever worker gave them. A verifier
    that raises, ends its process or takes too long gives a `Failure` for that answer;
    in the last two cases its worker is replaced, while the others go on.

    Args:
      verify: a function at the top of a module, by whose name workers import it. The
        time the import takes is not that of an answer.
      workers: their number.
      seconds: given to each answer.

    Returns:
      A context whose value judges; nothing is left of the workers after it.

    Raises:
      ValueError: for a verifier that cannot be imported by its name, or an impossible
        number.
      RuntimeError: if a worker does not start, with what it says; also later, where
        one is replaced.
    """
    if workers < 1 or not seconds > 0:
        raise ValueError(
            "a pool needs at least 1 worker and more than 0 seconds, got "
            f"{workers} and {seconds}"
        )
    name = name_of(verify)
    crew: list[_Worker] = []

    def hire() -> _Worker:
        return _hired(name, seconds)

    try:
        for _ in range(workers):
            crew.append(hire())
        _all_started(crew)
        yield lambda pairs: _judged(crew, hire, seconds, pairs)
    finally:
        for worker in crew:
            _dismiss(worker)


def name_of(verify: Verify) -> str:
    """The name by which another process imports a function, "module:function".

    Args:
      verify: a function at the top of a module.

    Raises:
      ValueError: for any other.
    """
    module = getattr(verify, "__module__", None)
    name = getattr(verify, "__qualname__", "")
    found = getattr(sys.modules.get(module or ""), name, None)
    if found is not verify or module == "__main__":
        raise ValueError(
            f"{verify!r} must be a function at the top of a module that is not the "
            "program itself: a worker imports it by its name"
        )
    return f"{module}:{name}"


def _hired(name: str, seconds: float) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    paths = [path or os.getcwd() for path in sys.path]
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rljax.envs.verifier_worker"]
            + [str(theirs.fileno()), name, str(seconds + GRACE)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the run's, and what it starts is ours
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Worker(process, ours, _STARTING, time.monotonic() + START)


def _dismiss(worker: _Worker) -> None:
    worker.line.close()
    with contextlib.suppress(OSError):  # it is gone already
        os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.wait()


def _all_started(crew: list[_Worker]) -> None:
    while any(worker.item == _STARTING for worker in crew):
        for i, said in _said(crew):
            crew[i] = _started(crew[i], said)


def _said(crew: Sequence[_Worker]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Waits until some worker says something, is gone, or is late."""
    at_work = {w.line: i for i, w in enumerate(crew) if w.item != _IDLE}
    soonest = min(crew[i].deadline for i in at_work.values())
    ready = connection.wait(list(at_work), max(0.0, soonest - time.monotonic()))
    now = time.monotonic()
    for line, i in at_work.items():
        if line in ready:
            try:
                yield i, json.loads(crew[i].line.recv_bytes())
            except (EOFError, OSError):
                yield i, {"gone": True}
        elif now >= crew[i].deadline:
            yield i, {"late": True}


def _started(worker: _Worker, said: dict[str, Any]) -> _Worker:
    if said.get("ready"):
        return worker._replace(item=_IDLE)
    reason = said.get("refused") or (
        f"not ready within {START:g} s" if "late" in said else _ended(worker)
    )
    raise RuntimeError(f"a verifier's process did not start: {reason}")


def _ended(worker: _Worker) -> str:
    """How a process ended whose line is closed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return f"it ended with status {worker.process.wait(timeout=5)}"
    return "it closed its line"


def _judged(
    crew: list[_Worker],
    hire: Callable[[], _Worker],
    seconds: float,
    pairs: Sequence[tuple[str, str]],
) -> list[bool | Failure]:
    def replace(i: int) -> None:
        _dismiss(crew[i])
        crew[i] = hire()

    for i, worker in enumerate(crew):
        if worker.item >= 0:  # of a call that was broken off
            replace(i)
    found: dict[int, bool | Failure] = {}
    asked = 0
    while len(found) < len(pairs):
        for i, worker in enumerate(crew):
            if worker.item == _IDLE and asked < len(pairs):
                try:
                    worker.line.send_bytes(json.dumps(pairs[asked]).encode())
                except OSError:  # it died while nothing was asked of it
                    replace(i)
                    continue
                crew[i] = worker._replace(
                    item=asked, deadline=time.monotonic() + seconds
                )
                asked += 1
        for i, said in _said(crew):
            if crew[i].item == _STARTING:
                crew[i] = _started(crew[i], said)
                continue
            found[crew[i].item] = _verdict(crew[i], said, seconds)
            if "late" in said or "gone" in said:
                replace(i)
            else:
                crew[i] = crew[i]._replace(item=_IDLE)
    return [found[item] for item in range(len(pairs))]


def _verdict(worker: _Worker, said: dict[str, Any], seconds: float) -> bool | Failure:
    if "late" in said:
        return Failure(f"no verdict within {seconds:g} s", timed_out=True)
    if "gone" in said:
        return Failure(f"its process is gone: {_ended(worker)}")
    if "raised" in said:
        return Failure(said["raised"])
    return bool(said["right"])
