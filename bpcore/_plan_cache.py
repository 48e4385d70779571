"""The plans that a model used last, compiled once, and for each the runs that no call is using."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from bpcore import _core

_PLANS = 8  # kept of a model
_RUNS = 8  # kept of a plan, idle
_caches: weakref.WeakSet[PlanCache] = weakref.WeakSet()


def _after_fork() -> None:
    """A thread that is not in the child may have held a lock."""
    for cache in _caches:
        cache.unlock()


os.register_at_fork(after_in_child=_after_fork)


class Entry:
    """A compiled plan (see _plans.Compiled), which is only read, and idle runs of it."""

    __slots__ = ("asked", "compiled", "idle")

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.idle: list[_core.Run] = []
        self.asked = 0  # the number of the call that asked last


class PlanCache:
    """Entries by what they were compiled for, those that were asked for last; any thread may ask."""

    def __init__(self) -> None:
        self.entries: dict[Any, Entry] = {}
        self._asked = 0
        self.unlock()
        _caches.add(self)

    def unlock(self) -> None:
        """A lock that nobody holds."""
        self._lock = threading.RLock()

    def entry(self, place: Any, compile_: Callable[[], Any]) -> Entry:
        """The entry at `place`; where several threads ask at once, one of them compiles the plan."""
        with self._lock:
            entry = self.entries.get(place)
            if entry is None:
                entry = self.entries[place] = Entry(compile_())
            self._asked += 1
            entry.asked = self._asked
            if len(self.entries) > _PLANS:
                del self.entries[min(self.entries, key=lambda other: self.entries[other].asked)]
            return entry


class Lent:
    """A run for one call, bound to theta and state.  `with` it, or give it back; where the call fails, it is
    dropped."""

    __slots__ = ("_entry", "compiled", "run")

    def __init__(self, entry: Entry, theta: Any, state: Any) -> None:
        self._entry, self.compiled = entry, entry.compiled
        try:
            self.run = entry.idle.pop()
        except IndexError:
            self.run = _core.Run(entry.compiled.plan)
        self.run.bind(theta, state)

    def __enter__(self) -> Lent:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.give_back()

    def give_back(self) -> None:
        """The run waits for the next call."""
        self.run.release()
        self._entry.idle.append(self.run)
        del self._entry.idle[_RUNS:]
