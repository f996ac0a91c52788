"""How far long work is: told to whoever asked, and to nobody else.

What it is told changes no answer; what the callable raises ends the work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from detmem.errors import UsageError

__all__ = ["Progress", "reporter"]

Progress = bool | Callable[[int, int], object] | None

_STEPS = 200  # lines renewed on a terminal at most: writing costs more than what it tells of


def reporter(progress: Progress, unit: str) -> Callable[[int, int], object]:
    """What to call with (done, total): nothing, the caller's callable, or for True a line on stderr."""
    if progress is None or progress is False or (progress is True and sys.stderr is None):
        return _to_nobody
    if progress is True:
        return _Line(unit)
    if callable(progress):
        return progress
    raise UsageError(f"progress: expected True or a callable, found {type(progress).__name__}")


def _to_nobody(done: int, total: int) -> None:
    pass


class _Line:
    """A line on stderr: renewed in place on a terminal, printed once at the end elsewhere."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._next = 0

    def __call__(self, done: int, total: int) -> None:
        line = f"{done} of {total} {self._unit}"
        if sys.stderr.isatty():
            if done >= self._next or done == total:
                self._next = done + total // _STEPS
                sys.stderr.write(f"\r{line}" + "\n" * (done == total))
                sys.stderr.flush()
        elif done == total:
            sys.stderr.write(f"{line}\n")
