"""The jitted kernels: arithmetic, and nothing but.

Rule 1  Arrays and ints in, arrays out.  Shapes, types and admission are checked one floor up: under the jit neither an
        overflow nor an index out of bounds says a word.
Rule 2  Every load is cast.  int32 arithmetic wraps in NumPy and promotes under the jit; the explicit casts make both
        agree, and the tests run these functions jitted, unjitted and with bounds checks.
Rule 3  Declared signatures, no fastmath, no parallel: a kernel is a ``nogil`` function of a row range, for threads to
        share.
Rule 4  Each has a twin in ``reference``, and gives its bits.

Importing this file imports numba and compiles (or loads from the cache) everything in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

__all__ = ["inner_products", "squared_distances"]

_MASKED = np.int64((1 << 63) - 1)  # reference.MASKED

# Arrays are declared read-only, which accepts writable ones as well: rows may come from a mapped file.
_SCAN = types.void(
    types.Array(types.int32, 2, "C", readonly=True),  # rows (n, d)
    types.Array(types.int32, 1, "C", readonly=True),  # query (d,)
    types.Array(types.boolean, 1, "C", readonly=True),  # mask (n,): which rows are live
    types.int64,  # first row
    types.int64,  # one past the last row
    types.Array(types.int64, 1, "C"),  # out (n,): written in [start, stop)
)


def _jit(signature: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """``njit`` with a cache beside this file, or without one where none can be kept."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        try:
            jitted = njit(signature, cache=True, nogil=True)(function)
        except (RuntimeError, OSError) as error:
            # "no locator available", or a cache folder that cannot be read or written: slower to start, nothing else
            if isinstance(error, RuntimeError) and "no locator available" not in str(error):
                raise
            jitted = njit(signature, nogil=True)(function)
        return jitted  # type: ignore[no-any-return]

    return decorate


@_jit(_SCAN)
def squared_distances(rows, query, mask, start, stop, out):  # type: ignore[no-untyped-def]
    """out[i] = sum (x - q)^2, or MASKED where the mask is False.

    The difference is cut to 32 bits on purpose, so that the product is one 32 x 32 -> 64 bit multiplication.  Admitted
    components are within 2^30, so the difference is within 2^31; only +2^31 wraps, to -2^31, whose square is the same.
    """
    dimension = query.shape[0]
    for i in range(start, stop):
        if mask[i]:
            row = rows[i]
            total = np.int64(0)
            for j in range(dimension):
                difference = np.int64(np.int32(np.int64(row[j]) - np.int64(query[j])))
                total += difference * difference
            out[i] = total
        else:
            out[i] = _MASKED


@_jit(_SCAN)
def inner_products(rows, query, mask, start, stop, out):  # type: ignore[no-untyped-def]
    """out[i] = -(x . q), or MASKED where the mask is False."""
    dimension = query.shape[0]
    for i in range(start, stop):
        if mask[i]:
            row = rows[i]
            total = np.int64(0)
            for j in range(dimension):
                total += np.int64(row[j]) * np.int64(query[j])
            out[i] = -total
        else:
            out[i] = _MASKED
