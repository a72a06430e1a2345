"""What a run says while it goes and when it ends.

`metrics.jsonl` has one line per logging update, each with both axes (`updates`, and
`env_steps`, or `tokens` where a log is learnt from) and metrics in slash groups:
train/ critic/ rollout/ replay/ offpolicy/ eval/ perf/ timing_s/. `tb/` has the same
for TensorBoard, with the second axis as its step.
"""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
import tqdm

from rljax.training.files import RunError, write_json, write_text

Row = dict[str, float]  # one line: env_steps, updates, and metrics by name
Success = Mapping[str, float]  # goal kind -> success in [0, 1]

_PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal


def read_rows(path: pathlib.Path) -> list[Row]:
    """Rows of a metrics.jsonl; a half-written last line is left out.

    Raises:
      RunError: naming the line, if one before the last is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["updates"]
            rows.append(row)
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise RunError(f"{path}, line {number}: not a row: {line!r}") from error
    return rows


def truncate(path: pathlib.Path, updates: int | None) -> list[Row]:
    """Keeps the rows up to `updates` (none of them for None), atomically.

    A resumed run writes the rows past its checkpoint again, so that the file holds
    each update once.

    Returns:
      The rows kept.
    """
    kept = [
        r for r in read_rows(path) if updates is not None and r["updates"] <= updates
    ]
    write_text(path, "".join(_line(row) for row in kept))
    return kept


def numbers(metrics: Mapping[str, Any]) -> Row:
    """Scalars (arrays, numpy or Python) as Python numbers."""
    return {name: np.asarray(value).item() for name, value in metrics.items()}


def _line(row: Row) -> str:
    # JSON has no NaN: null, which every reader takes.
    clean = {
        k: v if v is not None and math.isfinite(v) else None for k, v in row.items()
    }
    return json.dumps(clean) + "\n"


class Writer:
    """The open files of a run, and its progress on the screen.

    Args:
      folder: the workdir.
      updates: update the run goes on from, None for a new run; later rows go.
      total_steps: environment steps of the whole run, for the bar.
      success: name of the metric shown as success, where a row has it.
      silent: write and show nothing, for the processes after the first.
      axis: what `total_steps` counts, beside updates.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        updates: int | None,
        total_steps: int,
        success: str = "rollout/success",
        silent: bool = False,
        axis: str = "env_steps",
    ) -> None:
        """Opens the files; see the class."""
        self.last_updates = -1 if updates is None else updates
        self._success = success
        self._total = total_steps
        self._silent = silent
        self._axis = axis
        self._start: tuple[float, int] | None = None
        self._printed = -math.inf
        self._file = self._board = self._bar = None
        if silent:
            return
        kept = truncate(folder / "metrics.jsonl", updates)
        if kept:
            self.last_updates = int(kept[-1]["updates"])
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        # TensorBoard hides events from `purge_step` on: those of the lost stretch.
        steps = int(kept[-1][axis]) + 1 if kept else 0
        self._board = tensorboardX.SummaryWriter(str(folder / "tb"), purge_step=steps)
        if sys.stderr.isatty():
            self._bar = tqdm.tqdm(
                total=total_steps,
                unit=self._unit(),
                unit_scale=True,
                dynamic_ncols=True,
            )

    def write(self, row: Row) -> None:
        """Appends a row; its `updates` must be past those of the row before."""
        if row["updates"] <= self.last_updates:
            raise ValueError(
                f"row of update {row['updates']} after one of {self.last_updates}"
            )
        self.last_updates = int(row["updates"])
        if self._file is None or self._board is None:
            return
        self._file.write(_line(row))
        self._file.flush()
        for name, value in row.items():
            # A kind no episode of which ended has no success: NaN, nothing to draw.
            if name != self._axis and value is not None and math.isfinite(value):
                self._board.add_scalar(name, value, int(row[self._axis]))

    def progress(self, row: Row, last: bool = False) -> None:
        """Shows how far the run is: the bar, or a plain line now and then."""
        if self._silent:
            return
        now, steps = time.monotonic(), int(row[self._axis])
        if self._start is None:
            self._start = (now, steps)  # after the compiling call, so speeds are true
        seconds, gained = now - self._start[0], steps - self._start[1]
        speed = gained / seconds if seconds > 0 and gained > 0 else 0.0
        success = row.get(self._success)
        known = success is not None and math.isfinite(success)
        shown = f"success {success:.2f}" if known else "success -"
        if self._bar is not None:
            self._bar.set_postfix_str(f"update {row['updates']:,}, {shown}", False)
            self._bar.update(steps - self._bar.n)
        elif last or now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            pace = ""
            if speed:
                left = clock((self._total - steps) / speed)
                pace = f" | {speed:,.0f} {self._unit()}s/s | {left} left"
            done = f"{steps:,} of {self._total:,} {self._unit()}s"
            print(
                f"update {row['updates']:,} | {done} | {shown}{pace}",
                flush=True,
            )

    def _unit(self) -> str:
        return self._axis.removeprefix("env_").removesuffix("s")

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif not self._silent:
            print(text, flush=True)

    def close(self) -> None:
        """Closes the files and the bar."""
        for each in (self._bar, self._file, self._board):
            if each is not None:
                each.close()


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(int(max(seconds, 0.0)), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def panels(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Splits `{"eval/<panel>/<kind>": success}` into a map for each panel."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        group, _, rest = name.partition("/")
        panel, slash, kind = rest.partition("/")
        if group == "eval" and slash:
            found.setdefault(panel, {})[kind] = value
    return found


def final_table(random: Success, before: Success, after: Success) -> str:
    """Success by goal kind: random play, before and after training, as text."""
    width = max([len("goal kind"), *map(len, after)])
    lines = [f"{'goal kind':<{width}}  random  before   after"]
    for kind in after:
        cells = (
            f"{column[kind]:8.3f}" if kind in column else f"{'-':>8}"
            for column in (random, before, after)
        )
        lines.append(f"{kind:<{width}}" + "".join(cells))
    return "\n".join(lines)


def write_summary(
    path: pathlib.Path,
    random: Success,
    before: Success,
    after: Success,
    train_seconds: float,
    env_steps: int,
    updates: int,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes summary.json: what `final_table` shows and what it took.

    Args:
      path: the file.
      random: success of random play by goal kind.
      before: success of the policy before training.
      after: success of the policy after it.
      train_seconds: in compiled calls, compiling included, evaluation not.
      env_steps: environment steps taken.
      updates: optimiser steps taken.
      more: other JSON values to hold beside these.
    """
    known = {
        "random": dict(random),
        "before": dict(before),
        "after": dict(after),
        "train_seconds": round(train_seconds, 3),
        "env_steps": int(env_steps),
        "updates": int(updates),
    }
    write_json(path, {**(more or {}), **known})
