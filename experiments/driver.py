"""Runs processes, a few at a time, each on cores of its own."""

import concurrent.futures
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rljax.training.files import RunError, as_json, read_json


def is_recorded(path: pathlib.Path, asked: Mapping[str, Any]) -> bool:
    """Whether the JSON of a run is there.

    Args:
      path: of the JSON.
      asked: what it must say of the run.

    Raises:
      RunError: if it says something else.
    """
    if not path.exists():
        return False
    record = read_json(path)
    for name, value in asked.items():
        there = record.get(name)
        if there != as_json(value):
            raise RunError(
                f"{path} has {name} {there!r}, asked is {value!r}: "
                "take another --out, or remove the file and its run"
            )
    return True


class Job(NamedTuple):
    """A process, and what is made of what it leaves.

    Attributes:
      name: in words.
      command: its words.
      folder: its workdir; what it prints goes to a .log beside that.
      finish: called when it has ended well and `summary.json` is there.
      result: file in the workdir that says it has ended well.
    """

    name: str
    command: list[str]
    folder: pathlib.Path
    finish: Callable[[], None] = lambda: None
    result: str = "summary.json"

    def is_done(self) -> bool:
        """Whether it has ended well, now or earlier."""
        return (self.folder / self.result).exists()


class Driver:
    """Runs jobs until all are done or a signal comes."""

    def __init__(self, jobs: int):
        """Deals the cores out to `jobs` workers."""
        self.jobs = jobs
        self.stopped = False
        self.live: set[subprocess.Popen] = set()
        # A process is begun and listed at once, as seen by a signal. Reentrant: a
        # second signal may come while the first is passed on.
        self.lock = threading.RLock()
        self.shares: queue.Queue[list[int]] = queue.Queue()
        cores: list[int] = []
        if sys.platform == "linux":
            cores = sorted(os.sched_getaffinity(0))
        for worker in range(jobs):
            self.shares.put(cores[worker::jobs] or cores)

    def listen(self) -> None:
        """From now on SIGINT and SIGTERM go to the processes, and no other starts."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.stop)

    def stop(self, number: int, frame: Any) -> None:
        """Passes a signal on: runs save and end, and no other starts."""
        with self.lock:
            self.stopped = True
            for process in list(self.live):
                process.send_signal(number)

    def all(self, jobs: Sequence[Job]) -> list[Job]:
        """Runs them, in their order; gives those that failed."""
        with concurrent.futures.ThreadPoolExecutor(
            self.jobs, initializer=self._pin
        ) as pool:
            good = pool.map(self._one, jobs)
            return [job for job, fine in zip(jobs, good, strict=True) if not fine]

    def _pin(self) -> None:
        # Of this thread alone; what it starts inherits it. Handed out in turn: a
        # driver may be asked more than once.
        share = self.shares.get()
        self.shares.put(share)
        if share:
            os.sched_setaffinity(0, share)

    def _one(self, job: Job) -> bool:
        if self.stopped:
            return True
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        log = job.folder.with_name(f"{job.folder.name}.log")
        print(f"begins   {job.name}: {' '.join(job.command[1:])}", flush=True)
        with log.open("a") as file:
            with self.lock:
                if self.stopped:
                    return True
                # Its own session: a Ctrl-C reaches it once, through `stop`.
                process = subprocess.Popen(
                    job.command, stdout=file, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
                self.live.add(process)
            code = process.wait()
            self.live.discard(process)
        if code == 0 and job.is_done():
            job.finish()
            print(f"done     {job.name}", flush=True)
            return True
        if self.stopped:
            print(f"stopped  {job.name}; the same command goes on", flush=True)
            return True
        tail = "\n  ".join(log.read_text(errors="replace").splitlines()[-5:])
        print(f"failed   {job.name} with code {code}, see {log}:\n  {tail}", flush=True)
        return False
