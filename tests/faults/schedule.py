"""Threads that a seed schedules: one runs at a time, and who goes on is drawn at every lock, wait and disk call.

``Scheduler.threading`` stands in for the ``threading`` module in the rooms that use it.  Its locks, conditions, events
and threads behave as the real ones do, but a wait with a timeout may end at any moment: no clock is read here.  Equal
seeds give equal runs, so a failure replays; when nobody can go on, that is a deadlock, and it is reported.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

from detmem import database
from detmem.journal import log
from tests.faults.workloads import Broken

__all__ = ["Scheduler"]

_START_SECONDS = 60.0


class _Abort(BaseException):
    """Not an Exception: nothing under test may catch it."""


class _Task:
    def __init__(self, work: Callable[[], object], name: str) -> None:
        self.work = work
        self.name = name
        self.ready: Callable[[], bool] = lambda: True
        self.may_time_out = False
        self.done = False
        self.gate = threading.Semaphore(0)


class Scheduler:
    """``run`` starts one task; tasks may ``spawn`` others.  The first error of any is raised at the end."""

    def __init__(self, seed: object) -> None:
        self._rng = random.Random(f"schedule {seed}")
        self._tasks: list[_Task] = []
        self._current: _Task | None = None
        self._finished = threading.Event()
        self._failure: BaseException | None = None
        self.switches = 0
        self.threading = SimpleNamespace(
            RLock=lambda: _Lock(self),
            Lock=lambda: _Lock(self),
            Condition=lambda: _Condition(self),
            Event=lambda: _Event(self),
            Thread=lambda target, name="", daemon=False: _Thread(self, target, name),
            get_ident=threading.get_ident,
        )

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The rooms that know threads get these."""
        with (
            mock.patch.object(log, "threading", self.threading),
            mock.patch.object(database, "threading", self.threading),
        ):
            yield

    def run(self, work: Callable[[], object]) -> None:
        """Until every task has ended."""
        first = self.spawn(work, "first")
        self._current = first
        first.gate.release()
        if not self._finished.wait(_START_SECONDS):
            raise Broken("the scheduler itself hangs")
        if self._failure is not None:
            raise self._failure

    def spawn(self, work: Callable[[], object], name: str) -> _Task:
        """A task that will run when it is drawn."""
        task = _Task(work, name)
        self._tasks.append(task)
        threading.Thread(target=self._live, args=(task,), name=name, daemon=True).start()
        return task

    def join(self, task: _Task) -> None:
        """Go on when it has ended."""
        self.pause(lambda: task.done)

    def pause(self, ready: Callable[[], bool] = lambda: True, may_time_out: bool = False) -> None:
        """Whoever runs gives the turn away, and goes on when it is drawn again and ``ready``."""
        me = self._current
        assert me is not None
        me.ready, me.may_time_out = ready, may_time_out
        following = self._draw()
        if following is not me:
            self._switch(following)
            me.gate.acquire()
        if self._failure is not None:
            raise _Abort

    @property
    def current(self) -> object:
        """Who runs."""
        return self._current

    # -- inside

    def _live(self, task: _Task) -> None:
        task.gate.acquire()
        try:
            if self._failure is None:
                task.work()
        except _Abort:
            pass
        except BaseException as error:  # noqa: BLE001 - raised by ``run``
            self._failure = self._failure or error
        task.done = True
        rest = [other for other in self._tasks if not other.done]
        if not rest:
            self._finished.set()
        elif self._failure is not None:
            self._switch(rest[0])  # one after another, each unwinds
        else:
            self._switch(self._draw())

    def _draw(self) -> _Task:
        able = [task for task in self._tasks if not task.done and (task.may_time_out or task.ready())]
        if able:
            return self._rng.choice(able)
        waiting = [task.name for task in self._tasks if not task.done]
        self._failure = self._failure or Broken(f"a deadlock of {waiting}")
        return next(task for task in self._tasks if not task.done)

    def _switch(self, task: _Task) -> None:
        self.switches += 1
        self._current = task
        task.gate.release()


class _Lock:
    """Reentrant; detmem takes no lock twice where it asked for one that is not."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.owner: object = None
        self.depth = 0

    def acquire(self) -> bool:
        scheduler = self._scheduler
        me = scheduler.current
        if self.owner is not me:
            scheduler.pause(lambda: self.owner is None)
            self.owner = me
        self.depth += 1
        return True

    def release(self) -> None:
        assert self.owner is self._scheduler.current, "released by another"
        self.depth -= 1
        if self.depth == 0:
            self.owner = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        if self.owner is self._scheduler.current:  # else the run is being given up in the middle of a wait
            self.release()


class _Condition(_Lock):
    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._waiting: list[list[bool]] = []

    def wait(self, timeout: float | None = None) -> None:
        assert self.owner is self._scheduler.current, "wait() without the lock"
        me, depth, token = self.owner, self.depth, [False]
        self._waiting.append(token)
        self.owner, self.depth = None, 0
        self._scheduler.pause(lambda: token[0] and self.owner is None)
        self.owner, self.depth = me, depth

    def notify_all(self) -> None:
        assert self.owner is self._scheduler.current, "notify_all() without the lock"
        for token in self._waiting:
            token[0] = True
        self._waiting.clear()


class _Event:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._flag = False

    def set(self) -> None:
        self._flag = True

    def is_set(self) -> bool:
        return self._flag

    def wait(self, timeout: float | None = None) -> bool:
        self._scheduler.pause(lambda: self._flag, may_time_out=timeout is not None)
        return self._flag


class _Thread:
    def __init__(self, scheduler: Scheduler, target: Callable[[], object], name: str) -> None:
        self._scheduler = scheduler
        self._target = target
        self._name = name
        self._task: _Task | None = None

    def start(self) -> None:
        self._task = self._scheduler.spawn(self._target, self._name)

    def join(self) -> None:
        assert self._task is not None
        self._scheduler.join(self._task)
