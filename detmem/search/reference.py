"""The meaning of a search, in NumPy and as plainly as it can be said; every other kernel must give these bits.

An answer is the first k live rows by the total order (raw distance, id).  It depends on the rows, the ids, the query, k
and the mask, and on nothing else (spec/search.md).  No float, no rounding: admitted vectors (spec/numbers.md) keep
every sum in int64.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["MASKED", "distances", "nearest", "select"]

MASKED = (1 << 63) - 1  # the raw distance of a row that the mask hides: above any true one, which is at most 2^62

_BLOCK = 1 << 17  # components widened to int64 at once: 1 MiB, which stays in the cache


def nearest(
    rows: NDArray[np.int32],
    ids: Sequence[str],
    query: NDArray[np.int32],
    k: int,
    metric: str,
    mask: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(slots, raw distances) of the first k rows by (raw, id); fewer if fewer are live.

    ``rows`` int32 (n, d), ``ids`` the id of each row, ``query`` int32 (d,), ``mask`` bool (n,) or None for all rows.
    """
    return select(distances(rows, query, metric, mask), ids, k)


def distances(
    rows: NDArray[np.int32], query: NDArray[np.int32], metric: str, mask: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """The exact raw distance of each row, int64 (n,), MASKED where hidden: sum (x - q)^2, and -(x . q) for ip."""
    count, dimension = rows.shape
    wide_query = query.astype(np.int64)
    result = np.full(count, MASKED, dtype=np.int64)
    step = max(1, _BLOCK // dimension)
    for start in range(0, count, step):
        stop = min(start + step, count)
        live = slice(start, stop) if mask is None else start + np.flatnonzero(mask[start:stop])
        wide = rows[live].astype(np.int64)
        if metric == "ip":
            result[live] = -np.einsum("ij,j->i", wide, wide_query)
        else:
            assert metric in ("cosine", "l2")  # under cosine the rows are unit vectors already
            wide -= wide_query
            result[live] = np.einsum("ij,ij->i", wide, wide)
    return result


def select(raw: NDArray[np.int64], ids: Sequence[str], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(slots, raw) of the first k rows by (raw, id), given the distances of all; MASKED rows are never among them.

    Python compares str by code point, and that is the order of their UTF-8 bytes: UTF-8 was laid out so (a longer
    sequence has a larger first byte, and within one length the bits stand most significant first).  So no id is encoded
    here.
    """
    count = min(k, int(np.count_nonzero(raw != MASKED)))
    if count == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    last = np.partition(raw, count - 1)[count - 1]
    # fewer than `count` rows are strictly better than the last one; the tied rows compete for the places left by their
    # ids
    better = [int(slot) for slot in np.flatnonzero(raw < last)]
    tied = [int(slot) for slot in np.flatnonzero(raw == last)]
    better.sort(key=lambda slot: (int(raw[slot]), ids[slot]))
    chosen = better + heapq.nsmallest(count - len(better), tied, key=ids.__getitem__)
    slots = np.array(chosen, dtype=np.int64)
    return slots, raw[slots]
