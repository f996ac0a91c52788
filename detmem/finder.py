"""Finds rows in views of a collection: the nearest to a query, and those that match a filter.

What it keeps between two calls (search planes, columns of metadata) are caches by whose rows they are; they follow the
rows, and cannot show in an answer.  Any thread may ask, for any moment.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from detmem import search
from detmem.machine.columns import Columns
from detmem.machine.filters import Filter
from detmem.machine.records import View
from detmem.machine.vectors import Vectors
from detmem.parallel import Workers, said_if_long

__all__ = ["Finder"]

_PATIENCE_SECONDS = 1.0
_COMPILING = "detmem: compiling the search kernels for this CPU; this happens once, later processes load them"


class Finder:
    """``kernel``: "auto", or the one that answers at any size."""

    work: ClassVar[int] = 0  # of this process: components of small collections, times queries

    def __init__(self, kernel: str, workers: Workers) -> None:
        self.kernel = kernel
        self._workers = workers
        self._compiled = {"reference"}
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._followers: WeakKeyDictionary[Vectors, tuple[search.Follower, threading.Lock]] = WeakKeyDictionary()
        self._columns: WeakKeyDictionary[Vectors, tuple[Columns, threading.Lock]] = WeakKeyDictionary()

    def close(self) -> None:
        """Let the threads go."""
        self._workers.close()

    def after_fork(self) -> None:
        """In a forked child: one of the locks may have been held by a thread that is not here."""
        self._workers.after_fork()
        self._forget()

    def nearest(
        self, view: View, queries: NDArray[np.int32], k: int, mask: NDArray[np.bool_] | None
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """For each query (slots, raw distances) of the first k live rows of ``view`` that ``mask`` shows."""
        rows, metric = view.rows, view.definition.metric
        components = rows.count * rows.dimension
        kernel = search.chosen_kernel(self.kernel, components, Finder.work + components * len(queries))
        if kernel == "reference":
            Finder.work += components * len(queries)  # two threads at once may lose some; no answer hangs on it
        with self._lock:
            held = self._followers.get(rows.owner)
            if held is None:
                held = self._followers[rows.owner] = search.Follower(metric), threading.Lock()
        follower, following = held
        live = search.Live(view.died, view.seq, mask)
        workers = self._workers
        with nullcontext() if kernel in self._compiled else said_if_long(_COMPILING, _PATIENCE_SECONDS):
            with following:
                followed = follower.follow(rows, kernel, len(queries))
            answers = search.nearest(followed, live, view.ids, queries, k, metric, kernel, workers.threads, workers.run)
        self._compiled.add(kernel)
        return answers

    def matching(self, view: View, chosen: Filter) -> NDArray[np.bool_]:
        """Which slots of ``view`` are live and match, bool (n,)."""
        with self._lock:
            columns, following = self._columns.setdefault(view.rows.owner, (Columns(), threading.Lock()))
        with following:
            fields = columns.follow(view.metadatas, view.rows.count, chosen.fields)
        return chosen.select_columns(fields, view.alive)
