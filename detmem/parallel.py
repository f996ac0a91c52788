"""Threads for searches: tasks in, nothing out.  Which thread runs a task cannot show in an answer.  And a word to who
waits.

The kernels let go of the interpreter's lock, so tasks run side by side; the caller's thread works as well.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from detmem.errors import UsageError
from detmem.journal.disk import cpu_count, environment

__all__ = ["Workers", "said_if_long", "thread_count"]

Task = Callable[[], None]


class Workers:
    """``threads`` threads, the caller's among them; the others are started when they are first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None

    def run(self, tasks: Sequence[Task]) -> None:
        """Return once all have run; the first error of one is raised."""
        rest = iter(tasks)
        helpers = min(self.threads, len(tasks)) - 1
        if helpers <= 0:
            _drain(rest)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="detmem search")
        futures: list[Future[None]] = []
        try:
            while len(futures) < helpers:
                futures.append(self._pool.submit(_drain, rest))
        except RuntimeError as error:  # closed meanwhile, or the interpreter is about to end: the caller does all
            if not str(error).startswith("cannot schedule new futures"):
                raise
        try:
            _drain(rest)
        finally:
            for future in futures:
                future.result()

    def close(self) -> None:
        """Let the threads end; what runs is finished first."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def after_fork(self) -> None:
        """In a forked child there are no threads but its own."""
        self._pool = None


def thread_count() -> int:
    """NUMBA_NUM_THREADS, or the CPUs that this process may use.  ``UsageError`` if the variable is no such number."""
    text = environment("NUMBA_NUM_THREADS")
    if text is None:
        return cpu_count()
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0:
        raise UsageError(f"NUMBA_NUM_THREADS: expected a number of threads, found {text!r}")
    return int(text)


@contextmanager
def said_if_long(message: str, seconds: float) -> Iterator[None]:
    """Write a line to stderr if the block is still running after so many seconds."""
    timer = threading.Timer(seconds, _say, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(message: str) -> None:
    if sys.stderr is not None:  # a program without a console has none
        sys.stderr.write(message + "\n")


def _drain(tasks: Iterator[Task]) -> None:
    for task in tasks:
        task()
