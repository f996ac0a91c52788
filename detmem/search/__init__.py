"""Exact nearest neighbours: the door, and the choice of the kernel.

One definition (``reference``), and kernels that give the same bits faster: they read planes of bytes, prove by integer
bounds which rows cannot answer, and decide by exact values (spec/search.md).  The choice is made by the size of the
work and by what the machine can run, never by a clock, and cannot show in an answer.

Nothing here knows files, threads or the environment: a forced kernel is passed in, and so is who runs tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from detmem.errors import UsageError
from detmem.machine.vectors import Rows
from detmem.search import reference
from detmem.search.answers import Live, Run, answer
from detmem.search.planes import Moment, Plain, Planes

__all__ = ["KERNELS", "Follower", "Live", "Run", "available_kernels", "chosen_kernel", "nearest", "one_by_one"]

KERNELS = ("reference", "portable", "native")

# A compiler is not worth importing for a collection of this many components (2,700 x 384: 1 ms in NumPy) ...
_SMALL_ROWS = 1 << 20
# ... before NumPy has read as many as take it as long as the import (some 0.2 s); nor ever for so few rows ...
_SMALL_WORK = 1 << 27
_TINY_ROWS = 1 << 13
# ... and where what is compiled cannot be kept, compiling (some 10 s) must pay as well.
_MUCH_WORK = 1 << 33

_BLOCK = 1 << 18  # components that a batch of queries shares while they are in the cache: 1 MiB
_RESULT = 1 << 22  # distances held at once: 32 MiB, or those of one query if a collection has more rows


class Follower:
    """What searches keep of one collection's rows, so that the next one need not make it again.

    ``follow`` brings it up to date for a kernel and some queries; one thread at a time.
    """

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._plain: Plain | None = None
        self._planes: Planes | None = None

    def follow(self, rows: Rows, kernel: str, queries: int) -> Moment | Rows | NDArray[np.int32]:
        """What ``nearest`` reads, as a moment."""
        if kernel != "reference":
            self._plain = None
            if self._planes is None:
                self._planes = Planes(self._metric == "ip", _kernels())
            return self._planes.follow(rows, queries)
        if rows.count * rows.dimension > _SMALL_ROWS:
            return rows  # whoever forces the definition on much data pays with time, not with memory
        if self._plain is None:
            self._plain = Plain(rows.dimension)
        return self._plain.follow(rows)


def one_by_one(tasks: Sequence[Callable[[], None]]) -> None:
    """The plainest ``Run``."""
    for task in tasks:
        task()


def nearest(
    followed: Moment | Rows | NDArray[np.int32],
    live: Live,
    ids: Sequence[str],
    queries: NDArray[np.int32],
    k: int,
    metric: str,
    kernel: str,
    threads: int = 1,
    run: Run = one_by_one,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each query the first k rows by (raw distance, id): (slots, raw), both int64 (min(k, rows that may answer),).

    ``followed`` is what ``Follower.follow`` gave for ``kernel``; ``ids`` the id of each slot; ``queries`` int32 (q, d),
    admitted.
    """
    assert queries.dtype == np.int32
    assert k >= 1
    k = min(k, len(live.died))
    if isinstance(followed, Moment):
        if k == 0:
            return [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))] * len(queries)
        queries = np.ascontiguousarray(queries)
        return answer(_kernels(), kernel == "native", followed, live, ids, queries, k, metric == "ip", threads, run)
    mask = live.died > live.seq
    if live.mask is not None:
        mask &= live.mask
    answers: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    group = max(1, _RESULT // max(1, len(mask)))
    for first in range(0, len(queries), group):
        some = queries[first : first + group]
        raw = np.empty((len(some), len(mask)), dtype=np.int64)
        parts = followed.parts(_BLOCK) if isinstance(followed, Rows) else [(0, followed)]
        for start, rows in parts:
            here = slice(start, start + len(rows))
            for query, distances in zip(some, raw, strict=True):
                distances[here] = reference.distances(rows, query, metric, mask[here])
        answers.extend(reference.select(distances, ids, k) for distances in raw)
    return answers


def chosen_kernel(forced: str, components: int, work: int) -> str:
    """The kernel for so many components of rows; ``forced`` is "auto" or one of ``KERNELS``.

    ``work``: components times queries, of this call and of all that small collections were asked before.
    ``UsageError``: an unknown kernel, or one that cannot run here.
    """
    if forced == "auto":
        small = components <= _SMALL_ROWS
        if small and (work <= _SMALL_WORK or components <= _TINY_ROWS):
            return "reference"
        best = next(name for name in reversed(KERNELS) if _refusal(name) is None)
        if small and work <= _MUCH_WORK and best != "reference" and not _kernels().KEPT:
            return "reference"
        return best
    if forced not in KERNELS:
        raise UsageError(f"kernel must be 'auto' or one of {', '.join(KERNELS)}; found {forced!r}")
    reason = _refusal(forced)
    if reason is not None:
        raise UsageError(f"kernel {forced!r} cannot run here: {reason}")
    return forced


def available_kernels() -> dict[str, str | None]:
    """Each kernel with the reason why it cannot run here, or None when it can."""
    return {name: _refusal(name) for name in KERNELS}


@functools.cache
def _refusal(kernel: str) -> str | None:
    """Why a kernel cannot run here.  Asked once: a failing import of numba is slow."""
    if kernel == "reference":
        return None
    try:
        kernels = _kernels()
    except ImportError as error:
        return f"it needs numba, which cannot be imported ({error})"
    unsound: str | None = kernels.unsound()
    if unsound is not None:
        return unsound
    if kernel == "native" and not kernels.byte_dot_product():
        return "it needs a CPU with a dot product of bytes (AVX-512 VNNI or AVX-VNNI)"
    return None


def _kernels() -> ModuleType:
    from detmem.search import kernels

    return kernels
