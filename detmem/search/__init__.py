"""Exact nearest neighbours: the door, and the choice of the kernel.

One definition (``reference``), and kernels that give the same bits faster (``kernels``, which needs numba).  The choice
is made by the size of the work and by what the machine can run, never by a clock, and cannot show in an answer.
Nothing here knows files, threads or the environment: a forced kernel is passed in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from detmem.errors import UsageError
from detmem.machine.fixed import canonical_metric
from detmem.search import reference

__all__ = ["KERNELS", "available_kernels", "nearest"]

KERNELS = ("reference", "portable")

# A compiler is not worth importing for a collection of this many components (1,000 x 384 and some: 1 ms in NumPy) ...
_SMALL_ROWS = 1 << 20
# ... unless a batch asks for so much work that NumPy would take longer than the import (some 0.2 s).
_SMALL_WORK = 1 << 27

_BLOCK = 1 << 18  # components that a batch of queries shares while they are in the cache: 1 MiB
_RESULT = 1 << 22  # distances held at once: 32 MiB, or those of one query if a collection has more rows


def nearest(
    rows: NDArray[np.int32],
    ids: Sequence[str],
    queries: NDArray[np.int32],
    k: int,
    metric: str,
    mask: NDArray[np.bool_] | None = None,
    kernel: str = "auto",
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each query the first k rows by (raw distance, id): (slots, raw), both int64 (min(k, live rows),).

    ``rows`` int32 (n, d) and ``queries`` int32 (q, d), both admitted; ``ids`` the id of each row; ``mask`` bool (n,),
    True for the rows that may answer, or None for all.  ``kernel`` is "auto", or one of ``KERNELS``, which then serves
    any size.

    ``UsageError``: k below 1, an unknown metric or kernel, or "portable" where it cannot run.
    """
    k = _places(k)
    metric = canonical_metric(metric)
    module = _chosen(kernel, rows.size, rows.size * len(queries))
    assert rows.dtype == np.int32
    assert queries.dtype == np.int32
    assert rows.shape[1:] == queries.shape[1:]
    assert mask is None or mask.shape == rows.shape[:1]
    if module is None:
        return [reference.nearest(rows, ids, query, k, metric, mask) for query in queries]
    answers: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    group = max(1, _RESULT // max(1, len(rows)))
    for first in range(0, len(queries), group):
        scanned = _scanned(module, rows, queries[first : first + group], metric, mask)
        answers.extend(reference.select(raw, ids, k) for raw in scanned)
    return answers


def available_kernels() -> dict[str, str | None]:
    """Each kernel with the reason why it cannot run here, or None when it can."""
    return {"reference": None, "portable": _portable()[1] or None}


def _places(k: object) -> int:
    if isinstance(k, (int, np.integer)) and not isinstance(k, bool) and k >= 1:
        return int(k)
    raise UsageError(f"k must be an integer of at least 1; found {k!r}")


def _chosen(kernel: str, rows_size: int, work: int) -> ModuleType | None:
    """The module that will scan, or None for the reference."""
    if kernel == "auto":
        if rows_size <= _SMALL_ROWS and work <= _SMALL_WORK:
            return None
        return _portable()[0]
    if kernel == "reference":
        return None
    if kernel == "portable":
        module, reason = _portable()
        if module is None:
            raise UsageError(f"kernel 'portable' cannot run here: {reason}")
        return module
    raise UsageError(f"kernel must be 'auto' or one of {', '.join(KERNELS)}; found {kernel!r}")


@functools.cache
def _portable() -> tuple[ModuleType | None, str]:
    """(the jitted kernels, or None; why not).  Asked once: a failing import of numba is slow."""
    if np.dtype(np.intp).itemsize < 8:
        return None, "it needs a 64-bit machine"
    try:
        from detmem.search import kernels
    except ImportError as error:
        return None, f"it needs numba, which cannot be imported ({error})"
    return kernels, ""


def _scanned(
    module: ModuleType,
    rows: NDArray[np.int32],
    queries: NDArray[np.int32],
    metric: str,
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """The raw distances of every row to every query, int64 (q, n), by the jitted kernels."""
    count, dimension = rows.shape
    scan = module.inner_products if metric == "ip" else module.squared_distances
    rows = np.ascontiguousarray(rows)
    queries = np.ascontiguousarray(queries)
    live = np.ones(count, dtype=np.bool_) if mask is None else np.ascontiguousarray(mask)
    out = np.empty((len(queries), count), dtype=np.int64)
    step = max(1, _BLOCK // dimension)
    for start in range(0, count, step):
        for query, distances in zip(queries, out, strict=True):
            scan(rows, query, live, start, min(start + step, count), distances)
    return out
