"""The host's part of generation: a queue of prompts, and who sits in which slot.

Between two compiled calls the host takes away what has ended, fills free slots, and
changes the size of the batch or of the cache where that pays. Where there are several
desks each has its share of the slots and of the queue, and a thread of its own: on a
CPU much of a turn runs on one core, and two desks keep two of them busy.
"""

import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.policy.slots import Slots
from rljax.types import Params

_MULTIPLE = 16  # columns of a cache come in these
_FOREVER = np.iinfo(np.int32).max
_LINUX = hasattr(os, "sched_getaffinity")
_TEXT = threading.Lock()  # tokenizers are not made for two threads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of generation, each of which is compiled for.

    Raises:
      ValueError: a size is impossible; it names it.
    """

    slots: int = 32  # texts under way at a time
    prompts: tuple[int, ...]  # buckets of prompts' lengths, rising
    longest: int  # tokens sampled in a text, at most
    prefill: int = 8  # prompts prefilled at a time
    free: int = 4  # slots that have ended before they are filled again
    check: int = 16  # tokens of a text between two looks for stop strings
    desks: int = 0  # that share all these; 0 is two on a CPU with the cores, else one

    def __post_init__(self) -> None:
        if self.desks < 0:
            raise ValueError(f"desks is {self.desks}; it must be >= 0")
        for field in ("slots", "longest", "prefill", "free", "check"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be >= 1")
        rising = all(a < b for a, b in zip((0, *self.prompts), self.prompts))  # noqa: B905
        if not self.prompts or not rising:
            raise ValueError(
                f"prompts is {self.prompts}; it must be lengths from 1 on that rise"
            )

    def of_desk(self, prompts: int) -> "Settings":
        """The share of each desk of a queue of so many prompts.

        Args:
          prompts: in the queue. A desk prefills its own, so that each is prefilled
            once; where there are fewer of them than desks, one serves them all.

        Returns:
          Settings with `desks` of at least 1.
        """
        desks = self.desks
        if not desks:
            cores = len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count() or 1
            crowded = self.slots < 16 or cores < 2 or jax.default_backend() != "cpu"
            desks = 1 if crowded else 2
        if prompts < desks:
            desks = 1
        slots, prefill = -(-self.slots // desks), -(-self.prefill // desks)
        return dataclasses.replace(self, slots=slots, prefill=prefill, desks=desks)

    @property
    def columns(self) -> tuple[int, ...]:
        """Sizes of the cache: what the longest text needs, its half, and so on."""
        needed = self.prompts[-1] + self.longest - 1  # the last token is not read
        sizes = [round_up(needed)]
        while round_up(sizes[0] // 2) >= self.prompts[0] + 2 * _MULTIPLE:
            if round_up(sizes[0] // 2) == sizes[0]:
                break
            sizes.insert(0, round_up(sizes[0] // 2))
        return tuple(sizes)

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of slots: all, and a quarter for the end of the queue."""
        return (self.slots, self.slots // 4) if self.slots >= 8 else (self.slots,)

    @property
    def decoded(self) -> "Settings":
        """The same where an encoder reads prompts: the cache holds what is decoded.

        That is a prompt of one token, the start, as it were.
        """
        return dataclasses.replace(self, prompts=(1,))

    @property
    def most_programs(self) -> int:
        """How many programs are compiled at most, for a desk of these sizes."""
        c = max(len(self.columns), len(self.decoded.columns))
        p, b = len(self.prompts), len(self.batches)
        moves = c * c * (b * (b + 1) // 2)
        return 1 + p + c + p * c + b * c + moves


class Programs(NamedTuple):
    """The compiled parts, as `decode.make` binds them; see `slots` and `Stepwise`."""

    arrange: Callable
    prefill: Callable
    start: Callable
    place: Callable
    take: Callable
    run: Callable


class Work(NamedTuple):
    """What a call of `generate` asks for; job = prompt * samples + sample."""

    prompts: list[np.ndarray]
    keys: np.ndarray  # uint32 [jobs, words of a key]
    samples: int
    limits: list[int]
    temperature: float
    stop_strings: tuple[str, ...]
    text: Callable[[list[int]], str] | None  # there where there are stop strings
    start_id: int | None = None  # what texts begin with, where an encoder reads prompts


class Row(NamedTuple):
    """What was sampled for a job."""

    ids: np.ndarray  # int32 [tokens]
    log_probs: np.ndarray  # float32 [tokens]
    by_string: bool  # ended by a stop string


def round_up(size: int) -> int:
    """The next multiple that a length may have."""
    return -(-size // _MULTIPLE) * _MULTIPLE


def serve(
    programs: Programs, settings: Settings, params: Params, work: Work
) -> dict[int, Row]:
    """Serves the queue until it is empty and all slots are done.

    Args:
      programs: the compiled parts, for the slots of one desk.
      settings: sizes of one desk, and their number, from `Settings.of_desk`.
      params: the model's.
      work: the queue. Prompts are dealt out in turn, whoever is faster, so that what
        is computed together does not depend on the clock.

    Returns:
      What was sampled, by job.
    """
    weights = programs.arrange(params)
    if settings.desks == 1:
        return _serve(programs, settings, weights, work)
    shares = [_share(work, first, settings.desks) for first in range(settings.desks)]
    done = {}
    with concurrent.futures.ThreadPoolExecutor(settings.desks) as threads:
        served = [
            threads.submit(_serve, programs, settings, weights, part)
            for part, _ in shares
        ]
        for (_, jobs), rows in zip(shares, served, strict=True):
            done |= {jobs[own]: row for own, row in rows.result().items()}
    return done


def _share(work: Work, first: int, desks: int) -> tuple[Work, list[int]]:
    """Every so many-th prompt, and which jobs of the whole its jobs are."""
    prompts = range(first, len(work.prompts), desks)
    jobs = [p * work.samples + j for p in prompts for j in range(work.samples)]
    return work._replace(
        prompts=[work.prompts[p] for p in prompts],
        keys=work.keys[jobs],
        limits=[work.limits[p] for p in prompts],
        text=None if work.text is None else functools.partial(_alone, work.text),
    ), jobs


def _alone(text: Callable, ids: list[int]) -> str:
    with _TEXT:
        return text(ids)


def _serve(
    programs: Programs, settings: Settings, weights: Any, work: Work
) -> dict[int, Row]:
    desk = _Desk(programs, settings, weights, work)
    while len(desk.done) < len(work.keys):
        desk.fill()
        desk.fit()
        desk.run()
        desk.collect()
    return desk.done


class _Desk:
    """What the host knows of the slots."""

    def __init__(
        self, programs: Programs, settings: Settings, weights: Any, work: Work
    ):
        """Nothing is under way yet."""
        self.programs, self.settings, self.work = programs, settings, work
        self.weights = weights
        self.jobs = np.full(settings.slots, -1)  # in each slot; -1 is free
        self.reach = np.zeros(settings.slots, int)  # columns each slot needs by now
        self.looked = np.zeros(settings.slots, int)  # tokens looked at for strings
        self.next_job = 0
        self.done: dict[int, Row] = {}
        self.store: dict[int, Any] = {}  # prompts prefilled last, by group
        held = settings if work.start_id is None else settings.decoded
        self.sizes = held.columns
        self.columns = self._size_for(held.prompts[0])
        self.slots: Slots = programs.start(self.columns)

    def working(self) -> list[int]:
        """Slots with a text under way."""
        return [int(i) for i in np.flatnonzero(self.jobs >= 0)]

    def waiting(self) -> bool:
        """Whether a job has no slot yet."""
        return self.next_job < len(self.work.keys)

    def fill(self) -> None:
        """Puts waiting jobs into free slots, a group of prompts at a time."""
        free = [int(i) for i in np.flatnonzero(self.jobs < 0)]
        while free and self.waiting():
            group = self._group_of(self.next_job)
            lanes = []
            while free and self.waiting() and self._group_of(self.next_job) == group:
                lanes.append((self.next_job, free.pop(0)))
                self.next_job += 1
            self._place(group, lanes)

    def _group_of(self, job: int) -> int:
        return job // self.work.samples // self.settings.prefill

    def _place(self, group: int, lanes: list[tuple[int, int]]) -> None:
        """Begins (job, slot) pairs whose prompts are of one group."""
        work, size = self.work, self.settings.prefill
        if group not in self.store:
            self.store = {group: self._prefill(group)}
        prompts = self.store[group]
        self._widen(self._columns_of(group))
        fields = np.zeros((5, self.settings.slots), np.int32)
        fields[1] = self.settings.slots  # beyond the last: nowhere
        keys = np.zeros((self.settings.slots, work.keys.shape[1]), np.uint32)
        for lane, (job, slot) in enumerate(lanes):
            prompt = job // work.samples
            ids = work.prompts[prompt]
            at, last = len(ids) - 1, int(ids[-1])
            if work.start_id is not None:
                at, last = 0, work.start_id
            row = (prompt - group * size, slot, last, at)
            fields[:, lane] = (*row, work.limits[prompt])
            keys[lane] = work.keys[job]
            self.jobs[slot], self.looked[slot] = job, 0
            self.reach[slot] = at + 1
        count = np.int32(len(lanes))
        self.slots = self.programs.place(self.slots, prompts, fields, count, keys)

    def _prompts_of(self, group: int) -> tuple[list[np.ndarray], int]:
        """The prompts of a group, and the bucket that holds them."""
        size = self.settings.prefill
        rows = self.work.prompts[group * size : (group + 1) * size]
        longest = max(map(len, rows))
        return rows, next(b for b in self.settings.prompts if b >= longest)

    def _columns_of(self, group: int) -> int:
        """Columns of the cache that its prompts take."""
        return 1 if self.work.start_id is not None else self._prompts_of(group)[1]

    def _prefill(self, group: int) -> Any:
        rows, bucket = self._prompts_of(group)
        ids = np.zeros((self.settings.prefill, bucket), np.int32)
        length = np.ones(self.settings.prefill, np.int32)
        for i, prompt in enumerate(rows):
            ids[i, : len(prompt)], length[i] = prompt, len(prompt)
        return self.programs.prefill(self.weights, ids, length)

    def _coming(self) -> int:
        """Columns of the prompts placed last and of those that the next refill places.

        Room that is given up between the two is copied twice for nothing.
        """
        last = min(self.next_job + self.settings.free, len(self.work.keys)) - 1
        first = self._group_of(self.next_job)
        groups = {*self.store, *range(first, self._group_of(last) + 1)}
        return max(self._columns_of(group) for group in groups)

    def _widen(self, columns: int) -> None:
        """Makes the cache wide enough for prompts of so many columns."""
        if columns > self.columns:
            self.columns = self._size_for(max(columns, *self.reach))
            self._take(range(len(self.jobs)))

    def _size_for(self, columns: int) -> int:
        """A size with room for some more tokens, or the largest there is."""
        room = columns + 2 * _MULTIPLE
        return next((s for s in self.sizes if s >= room), self.sizes[-1])

    def fit(self) -> None:
        """Changes batch and cache to what is under way."""
        working = self.working()
        needed = max(self.reach[i] for i in working)
        size = self._size_for(needed)
        if self.columns >= needed and size > self.columns:
            size = self.columns  # it does for now
        if size < self.columns and self.waiting():
            size = min(self.columns, max(size, self._size_for(self._coming())))
        rows, fewer = list(range(len(self.jobs))), self.settings.batches[-1]
        if not self.waiting() and len(working) <= fewer < len(rows):
            rows = working + [-1] * (fewer - len(working))
        if size == self.columns and len(rows) == len(self.jobs):
            return
        self.columns = size
        self.jobs = np.array([self.jobs[i] if i >= 0 else -1 for i in rows])
        self.reach, self.looked = self.reach[rows], self.looked[rows]
        self._take(rows)

    def _take(self, rows: Sequence[int]) -> None:
        moved = np.array(rows, np.int32)
        self.slots = self.programs.take(self.slots, moved, self.columns)

    def run(self) -> None:
        """Samples until there is something to do for the host."""
        batch, settings, work = len(self.jobs), self.settings, self.work
        leave_at = 0
        if self.waiting():
            leave_at = max(batch - settings.free, 0)
        elif batch > settings.batches[-1]:
            leave_at = settings.batches[-1]
        self.slots = self.programs.run(
            self.weights,
            self.slots,
            self.jobs >= 0,
            np.float32(work.temperature),
            np.int32(leave_at),
            np.int32(settings.check if work.stop_strings else _FOREVER),
        )

    def collect(self) -> None:
        """Takes away texts that have ended."""
        slots = self.slots
        active, count, position = jax.device_get(
            (slots.active, slots.count, slots.position)
        )
        before, self.reach = self.reach, position + 1
        if np.array_equal(before, self.reach):
            raise RuntimeError(f"no slot moved on; they have reached {before.tolist()}")
        ended = [i for i in self.working() if not active[i]]
        if not ended and not self.work.stop_strings:
            return
        ids, log_probs = jax.device_get((slots.ids, slots.log_probs))
        for i in self.working():
            end = self._end_by_string(i, ids[i, : count[i]])
            if end is None and active[i]:
                continue
            kept = count[i] if end is None else end
            row = Row(ids[i, :kept].copy(), log_probs[i, :kept].copy(), end is not None)
            self.done[int(self.jobs[i])] = row
            self.jobs[i] = -1

    def _end_by_string(self, slot: int, ids: np.ndarray) -> int | None:
        """Tokens up to the first at which the text holds a stop string."""
        strings, text = self.work.stop_strings, self.work.text
        if not strings or text is None:
            return None

        def holds(length):
            found = text(ids[:length].tolist())
            return any(string in found for string in strings)

        looked, self.looked[slot] = self.looked[slot], len(ids)
        if not holds(len(ids)):
            return None
        return next(n for n in range(looked + 1, len(ids) + 1) if holds(n))
