"""The host's side of a run: call, log, evaluate, save, stop. It knows no agent.

A compiled call takes the state and returns the next one with metrics; here is what
happens between two calls. Whatever is timed by a clock (checkpoints, the screen)
leaves the state alone, and all else goes by the number of calls, so a run that was
killed and resumed equals one that was not, bit for bit.
"""

import contextlib
import dataclasses
import functools
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from rljax.training import checkpoint, metrics
from rljax.training.files import RunError, read_json, write_json
from rljax.training.metrics import Row
from rljax.training.workdir import Workdir
from rljax.types import Metrics, PyTree

NONFINITE = "train/skipped"  # updates skipped as non-finite, from the start of the run
IN_A_ROW = "train/skipped_in_row"  # of these, the unbroken run up to now
_DUMPS = 10  # bad batches kept

Read = Callable[[PyTree], PyTree]  # abstract state -> the checkpoint's state
Pause = Callable[[], None]  # raises PausedError where a signal waits


class PausedError(Exception):
    """A signal came during an evaluation, which is made up for when the run goes on."""


def _no_check(state: PyTree, row: Row) -> None:
    """Finds nothing wrong."""


def _no_dump(state: PyTree, path: pathlib.Path) -> None:
    """Writes nothing."""


class Program(NamedTuple):
    """What a run consists of: functions over a state the loop does not look into.

    Attributes:
      init: () -> State, jitted.
      iterate: State -> (State, metrics), compiled, two seconds at most. May donate.
        Its metrics hold `updates` and the `axis`, counted from the start of the
        run, and may hold NONFINITE and IN_A_ROW.
      evaluate: (State, final, pause) -> {"eval/<panel>/<kind>": success}; `final`
        before and after training, not in between, where fewer scenes will do. To
        call `pause` every two seconds or so lets a signal be served amid them.
      evaluate_random: (State, pause) -> the same for random play.
      check: raises where (state, metrics) shows a fault that compiled code can only
        flag, such as an empty command set.
      dump: writes the last bad batch the state holds to a path without suffix.
      restore: (read, meta) -> State; `read(target)` gives the state of the checkpoint.
        By default the target is `eval_shape(init)`. Pass one to give leaves their
        shardings or to refit a state saved with another number of devices.
      kept: State -> what of it a checkpoint holds, by default all. Weights that never
        move are left out here, and put back by `init` and `restore`.
      devices: the number the state is laid out for; `restore` finds it again in
        `meta["devices"]`.
      axis: what is counted beside updates: "env_steps", or "tokens" of a log.
    """

    init: Callable[[], PyTree]
    iterate: Callable[[PyTree], tuple[PyTree, Metrics]]
    evaluate: Callable[[PyTree, bool, Pause], Row]
    evaluate_random: Callable[[PyTree, Pause], Row]
    check: Callable[[PyTree, Row], None] = _no_check
    dump: Callable[[PyTree, pathlib.Path], None] = _no_dump
    restore: Callable[[Read, dict[str, Any]], PyTree] | None = None
    kept: Callable[[PyTree], PyTree] = lambda state: state
    devices: int = 1
    axis: str = "env_steps"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a run is and what happens how often, counted in calls."""

    calls: int  # of the whole run
    total_steps: int  # of the axis in them, for the bar
    most: int = 0  # of the axis: the call that reaches it is the last; 0: no limit
    log_every: int = 1  # a row holds the metrics of its own call
    eval_every: int = 0  # 0: only before and after
    save_every: int = 0  # 0: by the clock alone
    save_seconds: float = 60.0  # changes no result: a checkpoint holds everything
    keep: int = 3  # checkpoints
    nonfinite_limit: int = 10  # in a row, then the run stops


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run is; saved beside the state."""

    calls: int = 0
    updates: int = 0
    axis: int = 0  # environment steps, or tokens
    nonfinite: int = 0
    train_seconds: float = 0.0  # in compiled calls, compiling included


class Result(NamedTuple):
    """How a run ended."""

    state: PyTree
    position: Position
    random: Row | None  # {"eval/<panel>/<kind>": success}; None if stopped before it
    before: Row | None
    after: Row | None  # None if it was stopped
    stopped_by: str | None  # name of a signal


class _Run(NamedTuple):
    """What stays the same from call to call."""

    program: Program
    schedule: Schedule
    folder: pathlib.Path
    writer: metrics.Writer
    pause: Pause


def train(program: Program, schedule: Schedule, workdir: Workdir) -> Result:
    """Runs `program` to the end of `schedule`, or until a signal.

    SIGTERM and SIGINT are served after the call in progress, or, where there is one
    process, amid an evaluation: the state is saved and the function returns. A second
    one ends the process at once.

    Returns:
      The last state and the evaluations; `stopped_by` says whether to go on later.

    Raises:
      RunError: after `nonfinite_limit` non-finite updates in a row, if a checkpoint
        cannot be written, or from `program.check`.
    """
    state, position, owed = _begin(program, workdir)
    folder = workdir.path
    writer = metrics.Writer(
        folder,
        position.updates if position.calls else None,
        schedule.total_steps,
        silent=jax.process_index() > 0,
        axis=program.axis,
    )
    random = before = after = None
    saved_at, saved = time.monotonic(), position
    with _signals(writer.say) as stopped, contextlib.closing(writer):
        run = _Run(
            program, schedule, folder, writer, functools.partial(_pause, stopped)
        )
        try:
            new = position.calls == 0
            random = _first(
                folder, "random", new, lambda: program.evaluate_random(state, run.pause)
            )
            before = _first(
                folder, "before", new, lambda: program.evaluate(state, True, run.pause)
            )
            if new:
                writer.write({program.axis: 0, "updates": 0, **before})
            if owed is not None:
                after, owed = _tell(run, state, position, owed), None
                _save(program, schedule, workdir, state, position)
            if not _over(schedule, position):
                writer.say("compiling (once) ...")
            saved_at = time.monotonic()
            while not _over(schedule, position) and not _agree(bool(stopped)):
                state, position, owed = _call(run, state, position)
                after = _tell(run, state, position, owed)
                writer.progress(owed, _over(schedule, position))
                owed = None
                by_clock = time.monotonic() - saved_at >= schedule.save_seconds
                by_count = (
                    schedule.save_every and position.calls % schedule.save_every == 0
                )
                if _agree(bool(by_count or by_clock)):
                    _save(program, schedule, workdir, state, position)
                    saved_at, saved = time.monotonic(), position
        except PausedError:
            pass
        if position != saved or not checkpoint.updates(workdir.checkpoints):
            _save(program, schedule, workdir, state, position, owed)
        if not _over(schedule, position) or owed is not None or before is None:
            name = stopped[0] if stopped else "a signal to another process"
            writer.say(
                f"{name}: saved update {position.updates:,} in {folder}; "
                "the same command goes on from there"
            )
            return Result(state, position, random, before, None, name)
        if after is None:  # nothing was left to do
            run = run._replace(pause=lambda: None)
            after = _evaluate(run, state, position, True, again=False)
        return Result(state, position, random, before, after, None)


def _begin(program: Program, workdir: Workdir) -> tuple[PyTree, Position, Row | None]:
    """The first state of this process, and everything past it put aside.

    Third comes the row of a last call whose evaluation was broken off.
    """
    update = workdir.resume
    state, position, owed = None, Position(), None
    if update is not None:
        saved = checkpoint.read_meta(workdir.checkpoints, update)
        position, owed = Position(**saved["position"]), saved.get("owed")

        def read(target: PyTree) -> PyTree:
            return checkpoint.read_state(workdir.checkpoints, update, target)

        if program.restore is None:
            state = read(jax.eval_shape(program.init))
        else:
            state = program.restore(read, saved)
    if jax.process_index() == 0:
        checkpoint.set_aside_after(workdir.checkpoints, update)
        for path in (workdir.path / "eval").glob("[0-9]*.json"):
            if update is None or int(path.stem) > update:
                path.unlink()
    return (program.init() if state is None else state), position, owed


def _over(schedule: Schedule, position: Position) -> bool:
    """Whether no call is left.

    It goes by what a checkpoint holds, so that a resumed run ends where it would have
    ended.
    """
    spent = schedule.most and position.axis >= schedule.most
    return bool(position.calls >= schedule.calls or spent)


def _call(run: _Run, state: PyTree, position: Position) -> tuple[PyTree, Position, Row]:
    """One compiled call, and its metrics."""
    start = time.perf_counter()
    state, values = run.program.iterate(state)
    row = metrics.numbers(jax.device_get(values))  # waits for the call to end
    seconds = time.perf_counter() - start
    before, position = position, Position(
        calls=position.calls + 1,
        updates=int(row["updates"]),
        axis=int(row[run.program.axis]),
        nonfinite=int(row.get(NONFINITE, 0)),
        train_seconds=position.train_seconds + seconds,
    )  # fmt: skip
    run.program.check(state, row)
    _watch_nonfinite(run, state, before, position, row)
    row["timing_s/call"] = seconds
    row["timing_s/train"] = position.train_seconds
    gained = position.axis - before.axis
    row[f"perf/{run.program.axis}_per_second"] = gained / seconds
    row["perf/updates_per_second"] = (position.updates - before.updates) / seconds
    return state, position, row


def _tell(run: _Run, state: PyTree, position: Position, row: Row) -> Row | None:
    """Writes the row of a call, with an evaluation where one is due: that is given."""
    schedule = run.schedule
    last = _over(schedule, position)
    eval_due = schedule.eval_every and position.calls % schedule.eval_every == 0
    found = None
    if eval_due or last:
        start = time.perf_counter()
        found = _evaluate(run, state, position, last)
        row = {**row, **found, "timing_s/eval": time.perf_counter() - start}
    # While the replay fills there is no update yet, hence no row.
    logged = position.calls % schedule.log_every == 0 or eval_due or last
    if logged and position.updates > run.writer.last_updates:
        run.writer.write(row)
    return found


def _watch_nonfinite(
    run: _Run, state: PyTree, before: Position, position: Position, row: Row
) -> None:
    """Keeps the batches of non-finite updates; gives up after too many in a row."""
    if position.nonfinite == before.nonfinite:
        return
    path = run.folder / "nonfinite" / str(position.updates)
    if jax.process_index() == 0:
        path.parent.mkdir(exist_ok=True)
        if len(list(path.parent.iterdir())) < _DUMPS:
            run.program.dump(state, path)
    new = position.nonfinite - before.nonfinite
    where = f"between updates {before.updates:,} and {position.updates:,}"
    run.writer.say(
        f"warning: {new} non-finite update(s) skipped {where}; batch: {path.parent}"
    )
    if row.get(IN_A_ROW, 0) >= run.schedule.nonfinite_limit:
        raise RunError(
            f"{int(row[IN_A_ROW])} non-finite updates in a row {where} (limit "
            f"{run.schedule.nonfinite_limit}). The batch is in {path.parent}. Resume "
            "from an earlier checkpoint with a lower learning rate or a tighter "
            "gradient clip in a new workdir."
        )


def _evaluate(
    run: _Run, state: PyTree, position: Position, final: bool, again: bool = True
) -> Row:
    """Evaluates and writes eval/<update>.json, or reads it unless `again`."""
    path = run.folder / "eval" / f"{position.updates}.json"
    if not again and path.exists():
        return read_json(path)["metrics"]
    found = metrics.numbers(run.program.evaluate(state, final, run.pause))
    if jax.process_index() == 0:
        record = {"updates": position.updates, run.program.axis: position.axis}
        write_json(path, {**record, "metrics": found})
    return found


def _first(
    folder: pathlib.Path, name: str, new: bool, evaluate: Callable[[], Row]
) -> Row:
    """An evaluation made before training; a resumed run reads what was found then."""
    path = folder / "eval" / f"{name}.json"
    if not new and path.exists():
        return read_json(path)
    found = metrics.numbers(evaluate())
    if jax.process_index() == 0:
        write_json(path, found)
    return found


def _save(
    program: Program,
    schedule: Schedule,
    workdir: Workdir,
    state: PyTree,
    position: Position,
    owed: Row | None = None,
) -> None:
    meta = {
        "position": dataclasses.asdict(position),
        "devices": program.devices,
        "owed": owed,
    }
    checkpoint.save(
        workdir.checkpoints,
        position.updates,
        program.kept(state),
        meta,
        keep=schedule.keep,
    )


def _pause(stopped: list[str]) -> None:
    # Processes must go the same way, and a signal may have reached one alone.
    if stopped and jax.process_count() == 1:
        raise PausedError


def _agree(flag: bool) -> bool:
    """Whether any process says so: clocks and signals differ between them."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


@contextlib.contextmanager
def _signals(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Notes SIGTERM and SIGINT in the list it gives; the second one acts at once."""
    received: list[str] = []
    served = (signal.SIGTERM, signal.SIGINT)
    earlier = {number: signal.getsignal(number) for number in served}

    def note(number: int, frame: Any) -> None:
        received.append(signal.Signals(number).name)
        for each in served:
            signal.signal(each, earlier[each])
        say(f"{received[0]}: saving in a moment (again: stop at once)")

    for number in served:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number in served:
            signal.signal(number, earlier[number])
