"""The host's part of generation: a queue of prompts, and who sits in which slot.

Between two compiled calls the host takes away what has ended, fills free slots, and
changes the size of the batch or of the cache where that pays.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rljax.models import cache as cache_lib
from rljax.policy.slots import Slots
from rljax.types import Params

_MULTIPLE = 16  # columns of a cache come in these
_FOREVER = np.iinfo(np.int32).max


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

    def __post_init__(self) -> None:
        for field in ("slots", "longest", "prefill", "free", "check"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}; it must be >= 1")
        rising = all(a < b for a, b in zip((0, *self.prompts), self.prompts))  # noqa: B905
        if not self.prompts or not rising:
            raise ValueError(
                f"prompts is {self.prompts}; it must be lengths from 1 on that rise"
            )

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
    def most_programs(self) -> int:
        """How many programs are compiled at most."""
        c, p, b = len(self.columns), len(self.prompts), len(self.batches)
        moves = c * c * (b * (b + 1) // 2)
        return 1 + p + c + p * c + b * c + moves


class Programs(NamedTuple):
    """The compiled parts, as `decode.make` binds them; see `slots` and `cache`."""

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
      programs: the compiled parts.
      settings: sizes.
      params: the decoder's.
      work: the queue.

    Returns:
      What was sampled, by job.
    """
    desk = _Desk(programs, settings, params, work)
    while len(desk.done) < len(work.keys):
        desk.fill()
        desk.fit()
        desk.run()
        desk.collect()
    return desk.done


class _Desk:
    """What the host knows of the slots."""

    def __init__(
        self, programs: Programs, settings: Settings, params: Params, work: Work
    ):
        """Nothing is under way yet."""
        self.programs, self.settings, self.work = programs, settings, work
        self.weights = programs.arrange(params)
        self.jobs = np.full(settings.slots, -1)  # in each slot; -1 is free
        self.reach = np.zeros(settings.slots, int)  # columns each slot needs by now
        self.looked = np.zeros(settings.slots, int)  # tokens looked at for strings
        self.next_job = 0
        self.done: dict[int, Row] = {}
        self.store: dict[int, cache_lib.Cache] = {}  # prompts prefilled last, by group
        self.columns = self._size_for(settings.prompts[0])
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
        self._widen(prompts.values[0].shape[2])
        fields = np.zeros((5, self.settings.slots), np.int32)
        fields[1] = self.settings.slots  # beyond the last: nowhere
        keys = np.zeros((self.settings.slots, work.keys.shape[1]), np.uint32)
        for lane, (job, slot) in enumerate(lanes):
            prompt = job // work.samples
            ids = work.prompts[prompt]
            row = (prompt - group * size, slot, ids[-1], len(ids) - 1)
            fields[:, lane] = (*row, work.limits[prompt])
            keys[lane] = work.keys[job]
            self.jobs[slot], self.looked[slot] = job, 0
            self.reach[slot] = len(ids)
        count = np.int32(len(lanes))
        self.slots = self.programs.place(self.slots, prompts, fields, count, keys)

    def _prefill(self, group: int) -> cache_lib.Cache:
        size = self.settings.prefill
        rows = self.work.prompts[group * size : (group + 1) * size]
        longest = max(map(len, rows))
        bucket = next(b for b in self.settings.prompts if b >= longest)
        ids = np.zeros((size, bucket), np.int32)
        for i, prompt in enumerate(rows):
            ids[i, : len(prompt)] = prompt
        return self.programs.prefill(self.weights, ids)

    def _widen(self, columns: int) -> None:
        """Makes the cache wide enough for prompts of so many columns."""
        if columns > self.columns:
            self.columns = self._size_for(max(columns, *self.reach))
            self._take(range(len(self.jobs)))

    def _size_for(self, columns: int) -> int:
        """A size with room for some more tokens, or the largest there is."""
        sizes = self.settings.columns
        return next((s for s in sizes if s >= columns + 2 * _MULTIPLE), sizes[-1])

    def fit(self) -> None:
        """Changes batch and cache to what is under way."""
        working = self.working()
        needed = max(self.reach[i] for i in working)
        size = self._size_for(needed)
        if self.columns >= needed and size > self.columns:
            size = self.columns  # it does for now
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
