"""Ask a search without a store: rows in, answers out, by any kernel, with or without a front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detmem import search
from detmem.machine.vectors import Vectors
from detmem.search.answers import Run
from detmem.search.front import Front

Answers = list[tuple[NDArray[np.int64], NDArray[np.int64]]]

AVAILABLE = [name for name, refusal in search.available_kernels().items() if refusal is None]
COMPILED = [name for name in AVAILABLE if name != "reference"]
NEVER = 1 << 62


def held(rows: NDArray[np.int32]) -> Vectors:
    """Rows as a collection holds them."""
    vectors = Vectors(rows.shape[1])
    if len(rows):
        vectors.append(np.ascontiguousarray(rows))
    return vectors


def ask(
    vectors: Vectors,
    ids: Sequence[str],
    queries: NDArray[np.int32],
    k: int,
    metric: str,
    mask: NDArray[np.bool_] | None = None,
    kernel: str = "auto",
    *,
    died: NDArray[np.int64] | None = None,
    seq: int = 1,
    follower: search.Follower | None = None,
    front: Front | None = None,
    threads: int = 1,
    run: Run = search.one_by_one,
) -> Answers:
    """The first k of ``vectors`` for each query; ``front`` is taken as if it had been learned."""
    rows = vectors.moment()
    kernel = search.chosen_kernel(kernel, rows.count * rows.dimension, rows.count * rows.dimension * len(queries))
    follower = search.Follower(metric) if follower is None else follower
    followed = follower.follow(rows, kernel, len(queries))
    if front is not None and kernel != "reference":
        planes = follower._planes
        assert planes is not None
        planes._learned = front
        planes._learned_rows = NEVER
        followed = follower.follow(rows, kernel, NEVER >> 32)
    live = search.Live(np.full(rows.count, NEVER) if died is None else died, seq, mask)
    return search.nearest(followed, live, ids, queries, k, metric, kernel, threads, run)


def nearest(
    rows: NDArray[np.int32],
    ids: Sequence[str],
    queries: NDArray[np.int32],
    k: int,
    metric: str,
    mask: NDArray[np.bool_] | None = None,
    kernel: str = "auto",
) -> Answers:
    """``ask`` over rows that were just put there."""
    return ask(held(rows), ids, queries, k, metric, mask, kernel)
