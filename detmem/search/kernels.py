"""The jitted kernels: arithmetic, and nothing but.

Rule 1  Arrays and ints in, arrays out.  Shapes, types and admission are checked one floor up: under the jit neither an
        overflow nor an index out of bounds says a word.  That no sum can overflow is proved in spec/search.md.
Rule 2  Every load is cast.  int32 arithmetic wraps in NumPy and promotes under the jit; the explicit casts make both
        agree, and the tests run these functions jitted, unjitted and with bounds checks.
Rule 3  No fastmath, no parallel: a kernel is a ``nogil`` function of a range of blocks, for threads to share.
Rule 4  What is pruned here is pruned by an integer bound that holds; the answer is that of ``reference``, bit for bit.

The type of the query chooses how a line of coarse bytes is multiplied: int16 asks for plain loops (portable), int8
limbs for the CPU's byte dot product (native).  Importing this file imports numba; a kernel is compiled, or loaded from
the cache, when it is first called.

A *plane* is (data, shift, rho, one, two, base): bytes in blocks of 16 rows, and for each row or block what bounds the
error.  A query is seen by a plane as (its bytes, 6 constants).  See ``planes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from detmem.search.lanes import (
    TILE,
    UNSIGNED,
    byte_dot_product,
    dot_of_row,
    dots,
    dots_of_tile,
    fetch,
    least,
    least_shown,
    lower,
    unsound,
)

__all__ = [
    "KEPT",
    "TILE",
    "byte_dot_product",
    "coarse_queries",
    "collect",
    "front_queries",
    "measure",
    "scan",
    "scan_tiles",
    "seed",
    "unsound",
]

_NONE = np.int64((1 << 63) - 1)  # no distance, no bound: above any true one
_ONE_LIMB = np.int64(127)
_TWO_LIMBS = np.int64(127 * 128 + 63)
_MOST_NARROWED = 27  # bits: with more, squares of what is left could leave int64; an admitted query takes 24
_MOST_QUANTUM = 50  # bits: 255 times that, added to a bound, stays in int64
_STEPS = 64  # that a typical error of a row takes, of the 255 that are told apart
_WIDEST = np.int64(1 << 31)  # of the norms that a front's bounds multiply
_AHEAD = 2  # blocks that are fetched while one is worked on
_DENSE = 12  # sixteenths of the blocks: where more have a shown row, reading all in order is quicker
_FARTHEST = np.int64(1 << 62)  # no raw distance is above it
_TOGETHER = 1 << 20  # bytes of a coarse plane that stay in the cache while queries take turns
_LINE = 64
_PAST = np.int64(1 << 61)

BLOCK = 16

# Numba's cache looks at this file alone, and what it compiles has lanes.py inside.  A test compares.
LANES = "b9db07826b934b05"


def _cache_works() -> bool:
    """Whether compiled code can be kept beside this file or in the user's cache folder."""
    try:
        njit("int64(int64)", cache=True)(_probe)
    except OSError:  # a folder that cannot be made, read or written
        return False
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return False
    return True


def _probe(number: int) -> int:
    return number


KEPT = _cache_works()  # without: slower to start, nothing else


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    return njit(cache=KEPT, nogil=True)(function)


# ------------------------------------------------------------------------------------------------------------ queries


@_jit
def _root_up(square):
    """The least r with r^2 >= square, for square <= 2^62; Newton's, from above."""
    root = np.int64(1)
    while root * root < square:
        root <<= 1
    while root > 0:
        nearer = (root + square // root) >> 1
        if nearer >= root:
            break
        root = nearer
    return root + 1 if root * root < square else root


@_jit
def _narrowed(values, least, most, out):
    """out = values / 2^t rounded, for the smallest t >= least that keeps it within +-most; returns t.

    ``values`` int64 within 2^42, ``out`` int64.  A t above _MOST_NARROWED is returned at once, with nothing done: the
    caller refuses it.
    """
    largest = np.int64(0)
    for j in range(values.shape[0]):
        largest = max(largest, abs(values[j]))
    t = np.int64(least)
    while ((largest + ((np.int64(1) << t) >> 1)) >> t) > most:
        t += 1
    if t <= _MOST_NARROWED:
        middle = (np.int64(1) << t) >> 1
        for j in range(values.shape[0]):
            out[j] = (values[j] + middle) >> t
    return t


@_jit
def _left(values, short, t, count):
    """At least the norm of what narrowing left of the first ``count`` values."""
    square = np.int64(0)
    for j in range(count):
        rest = values[j] - (short[j] << t)
        square += rest * rest
    return _root_up(square)


@_jit
def _spread(short, out):
    """Write a narrowed query as ``dots`` wants it, and return what its products are too large by.

    ``out`` int8 (steps, 8): high and low limb, 4 dimensions each; int8 (steps, 4): one limb; or int16 (steps, 64): each
    4 dimensions 16 times.  Places of dimensions that are not there are zero already.
    """
    total = np.int64(0)
    if out.shape[1] == 4:
        for j in range(short.shape[0]):
            out[j >> 2, j & 3] = short[j]
            total += short[j]
        return total * np.int64(UNSIGNED)
    if out.shape[1] == 8:
        for j in range(short.shape[0]):
            high = (short[j] + 64) >> 7
            out[j >> 2, j & 3] = high
            out[j >> 2, 4 + (j & 3)] = short[j] - (high << 7)
            total += short[j]
    else:
        for j in range(short.shape[0]):
            for lane in range(BLOCK):
                out[j >> 2, 4 * lane + (j & 3)] = short[j]
    return total * np.int64(UNSIGNED)


@_jit
def coarse_queries(queries, out, constants, squares):
    """Views of queries int32 (q, d) for the coarse plane: ``out`` (q, steps, 4, 8 or 64), ``constants`` (q, 6), and
    squares[i] = ||q||^2.

    Constants: t; what products are too large by; ||q|| rounded up; ||q - q' 2^t|| rounded up; 0; 0.
    """
    dimension = queries.shape[1]
    most = _ONE_LIMB if out.shape[2] == 4 else _TWO_LIMBS
    wide = np.empty(dimension, dtype=np.int64)
    short = np.empty(dimension, dtype=np.int64)
    for number in range(queries.shape[0]):
        square = np.int64(0)
        for j in range(dimension):
            value = np.int64(queries[number, j])
            wide[j] = value
            square += value * value
        t = _narrowed(wide, np.int64(0), most, short)
        constants[number, 0] = t
        constants[number, 1] = _spread(short, out[number])
        constants[number, 2] = _root_up(square)
        constants[number, 3] = _left(wide, short, t, dimension)
        constants[number, 4] = 0
        constants[number, 5] = 0
        squares[number] = square


@_jit
def front_queries(queries, matrix, scale, width, typical, out, constants, rest, rest_constants):
    """Views of queries int32 (q, d) for a front (spec/search.md, "The front plane"), whose first ``width`` coordinates
    are scanned; returns False if the bounds of a query would leave their range.

    ``matrix`` int16 (m, d) = R, with ||R|| <= 2^(scale + 1/2).  ``out`` (q, steps, 4, 8 or 64) and ``rest`` int16 (q,
    n, 64) hold w'; ``constants`` (q, 6) go with the scanned coordinates, ``rest_constants`` (q, 6) with all: t; what
    products are too large by; rho >= ||q - q~||; gamma >= 2^t ||w'||; delta >= 2^-scale ||R q - w' 2^(t + scale)||; and
    the quantum in which bounds are noted, 2^quantum being some of the error of a row with a ``typical`` rho.
    """
    count, dimension = matrix.shape
    most = _ONE_LIMB if out.shape[2] == 4 else _TWO_LIMBS
    image = np.empty(count, dtype=np.int64)
    short = np.empty(count, dtype=np.int64)
    back = np.empty(dimension, dtype=np.int32)
    pad = _root_up(np.int64(dimension)) // 2 + 1
    for number in range(queries.shape[0]):
        for row in range(count):
            total = np.int64(0)
            for j in range(dimension):
                total += np.int64(matrix[row, j]) * np.int64(queries[number, j])
            image[row] = total
        narrowed = _narrowed(image, scale, most, short)
        if narrowed > _MOST_NARROWED:
            return False
        t = narrowed - scale
        surplus = _spread(short[:width], out[number])
        # q~ = 2^(t - scale) R^T w', rounded to integers: that costs middle a unit in each dimension, the pad.  By
        # Cauchy-Schwarz a sum in ``back`` is within 2^(scale + 1/2) * 16319 * 16 for up to 256 coordinates.
        left = max(t - scale, np.int64(0))
        right = max(scale - t, np.int64(0))
        middle = (np.int64(1) << right) >> 1
        square = np.int64(0)
        back[:] = 0
        for row in range(count + 1):
            if row in (width, count):
                away = np.int64(0)
                for j in range(dimension):
                    difference = np.int64(queries[number, j]) - (((np.int64(back[j]) << left) + middle) >> right)
                    if abs(difference) > _WIDEST or away > _PAST:
                        return False
                    away += difference * difference
                rho = _root_up(away) + pad
                gamma = _root_up(square) << t
                if rho > _WIDEST or gamma > _WIDEST:
                    return False
                into = constants if row == width else rest_constants
                into[number, 0] = t
                into[number, 1] = surplus
                into[number, 2] = rho
                into[number, 3] = gamma
                into[number, 4] = (_left(image, short, narrowed, row) >> scale) + 1
                into[number, 5] = 0
                while into[number, 5] < _MOST_QUANTUM and rho * typical >> into[number, 5] >= _STEPS:
                    into[number, 5] += 1
            if row < count:
                weight = np.int32(short[row])
                square += np.int64(weight) * np.int64(weight)
                for j in range(dimension):
                    back[j] += np.int32(matrix[row, j]) * weight
        for j in range(width, count):
            rest[number, (j - width) // _LINE, (j - width) % _LINE] = short[j]
    return True


# --------------------------------------------------------------------------------------------------------------- rows


@_jit
def measure(coarse, residual, shift, start, stop, metric_is_ip, base, rho, one):
    """For the rows start..stop of a chunk: base = floor(||x||^2 / 2) (0 for ip), rho >= ||residual||, and for their
    blocks one >= ||coarse * 2^shift||."""
    dimension = residual.shape[1]
    for i in range(start, stop):
        block, lane = i >> 4, i & 15
        scale = np.int64(shift[i])
        whole = np.int64(0)
        rest = np.int64(0)
        short = np.int64(0)
        for j in range(dimension):
            c = np.int64(coarse[block, j >> 2, 4 * lane + (j & 3)])
            r = np.int64(residual[i, j])
            x = (c << scale) + r
            whole += x * x
            rest += r * r
            short += c * c
        base[i] = np.int64(0) if metric_is_ip else whole >> 1
        rho[i] = np.int32(_root_up(rest))
        one[block] = max(one[block], _root_up(short) << scale)


@_jit
def _bound(block, plane, query, constants, products, bounds):
    """bounds[lane] <= (raw of the row - ||q||^2) / 2, or the raw itself for ip, for the 16 rows of a block."""
    data, shift, rho, one, two, base = plane
    dots(data, block, query, products)
    shared = one[block] * constants[3] + two[block] * constants[4]
    lower(products, 0, block * BLOCK, base, shift, rho, constants[1], constants[0], constants[2], shared, bounds)


@_jit
def _shown(mask, start, stop, lowest, blocks):
    """Write the blocks that have a shown row; returns how many.  The others have no bound."""
    words = mask.view(np.uint64)
    count = 0
    for block in range(start, stop):
        lowest[block] = _NONE
        blocks[count] = block  # without a branch: which rows are shown cannot be foretold
        count += (words[2 * block] | words[2 * block + 1]) != 0
    return count


@_jit
def scan(plane, query, constants, mask, masked, start, stop, lowest, above):
    """lowest[b] = the least lower bound in block b, for b in start..stop; rows that ``mask`` hides do not count.

    ``mask`` bool (blocks * 16,) if ``masked``.  Where few blocks have a shown row, only those are read.  ``above``
    uint8 (blocks, 16) takes how many times 2^quantum each row's bound is above that, 255 if more; unless it is empty.
    """
    data, shift, rho, one, two, base = plane
    t, surplus, alpha, beta, gamma = constants[0], constants[1], constants[2], constants[3], constants[4]
    quantum = constants[5]
    products = np.empty((1, BLOCK), dtype=np.int64)
    noted = above.shape[0] > 0
    if not noted:
        above = np.empty((1, BLOCK), dtype=np.uint8)
    if masked:
        blocks = np.empty(stop - start + 1, dtype=np.int64)
        count = _shown(mask, start, stop, lowest, blocks)
        sparse = count < _DENSE * (stop - start) // 16
        for number in range(count if sparse else stop - start):
            block = start + number
            if sparse:
                block = blocks[number]
                if number + _AHEAD < count:
                    fetch(data, blocks[number + _AHEAD])
            dots(data, block, query, products)
            at = block * BLOCK
            bound = least_shown(
                products, 0, at, base, shift, rho, surplus, t, alpha, quantum, above, at if noted else 0, mask
            )
            if bound < _NONE:
                lowest[block] = bound - one[block] * beta - two[block] * gamma
    else:
        for block in range(start, stop):
            dots(data, block, query, products)
            at = block * BLOCK
            bound = least(products, 0, at, base, shift, rho, surplus, t, alpha, quantum, above, at if noted else 0)
            lowest[block] = bound - one[block] * beta - two[block] * gamma


@_jit
def scan_tiles(plane, tiles, constants, mask, masked, start, stop, lowest, above):
    """``scan`` for many queries at once: tiles (q / TILE, ...), constants (q, 6), lowest (q, blocks), above (q, blocks
    or 0, 16)."""
    data, shift, rho, one, two, base = plane
    products = np.empty((TILE, BLOCK), dtype=np.int64)
    shown = mask.view(np.uint64)
    noted = above.shape[1] > 0
    if not noted:
        above = np.empty((1, 1, BLOCK), dtype=np.uint8)
    for tile in range(tiles.shape[0]):
        for block in range(start, stop):
            if masked and (shown[2 * block] | shown[2 * block + 1]) == 0:
                for member in range(TILE):
                    lowest[tile * TILE + member, block] = _NONE
                continue
            dots_of_tile(data, block, tiles, tile, products)
            for member in range(TILE):
                number = tile * TILE + member
                t, surplus, alpha = constants[number, 0], constants[number, 1], constants[number, 2]
                quantum, at = constants[number, 5], block * BLOCK
                place = number * above.shape[1] * BLOCK + at if noted else 0
                if masked:
                    bound = least_shown(
                        products, member, at, base, shift, rho, surplus, t, alpha, quantum, above, place, mask
                    )
                else:
                    bound = least(products, member, at, base, shift, rho, surplus, t, alpha, quantum, above, place)
                lowest[number, block] = bound - one[block] * constants[number, 3] - two[block] * constants[number, 4]


# ------------------------------------------------------------------------------------------------------- exact values


@_jit
def _exact(i, exact, query, metric_is_ip, row):
    """The raw distance of row i; ``row`` is scratch, int8 (4 * steps,)."""
    coarse, residual, shift = exact
    block, lane = i >> 4, i & 15
    for step in range(coarse.shape[1]):
        for j in range(4):
            row[4 * step + j] = coarse[block, step, 4 * lane + j]
    scale = np.int32(shift[i])
    total = np.int64(0)
    if metric_is_ip:
        for j in range(query.shape[0]):
            x = np.int32(np.int32(np.int32(row[j]) << scale) + np.int32(residual[i, j]))
            total -= np.int64(x) * np.int64(query[j])
    else:
        for j in range(query.shape[0]):
            x = np.int32(np.int32(np.int32(row[j]) << scale) + np.int32(residual[i, j]))
            # Cut to 32 bits on purpose: a difference is within 2^31, and only +2^31 wraps, to -2^31: the same square.
            difference = np.int64(np.int32(np.int64(x) - np.int64(query[j])))
            total += difference * difference
    return total


@_jit
def _push(heap, size, value):
    """Keep the ``len(heap)`` smallest values in a max-heap; returns its size."""
    if size < heap.shape[0]:
        at = size
        while at > 0 and heap[(at - 1) >> 1] < value:
            heap[at] = heap[(at - 1) >> 1]
            at = (at - 1) >> 1
        heap[at] = value
        return size + 1
    if value < heap[0]:
        at = 0
        while True:
            child = 2 * at + 1
            if child >= size:
                break
            if child + 1 < size and heap[child + 1] > heap[child]:
                child += 1
            if heap[child] <= value:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = value
    return size


@_jit
def _within(start, stop, lowest, limit, blocks):
    """Write the blocks whose lowest bound is not above ``limit``; returns how many."""
    count = 0
    for block in range(start, stop):
        if lowest[block] <= limit:
            blocks[count] = block
            count += 1
    return count


@_jit
def seed(coarse, queries, constants, squares, metric_is_ip, live, start, stop, lowest, uppers, states):
    """Keep in the heaps ``uppers`` (q, k) the least upper bounds of rows in the k most promising blocks of start..stop.

    Each row has an upper bound as it has a lower one, and with the coarse plane they lie close.  Once a heap is full,
    its top is above k rows, so no row above it is in the answer: a threshold, and a good one.  ``states`` (q, 2) =
    [how full the heap is, the raw distance that the k-th best does not exceed].
    """
    data, _, rho, one, two, _ = coarse
    died, seq, mask, masked, used = live
    count, k = uppers.shape
    best = np.empty(k, dtype=np.int64)
    blocks = np.empty(max(stop - start, 1), dtype=np.int64)
    products = np.empty((1, BLOCK), dtype=np.int64)
    bounds = np.empty(BLOCK, dtype=np.int64)
    for number in range(count):
        of_query, size, filled = lowest[number], states[number, 0], 0
        for block in range(start, stop):
            if filled < k or of_query[block] < best[0]:
                filled = _push(best, filled, of_query[block])
        limit = min(best[0], _NONE - 1) if filled == k else _NONE - 1
        if size == k:
            limit = min(limit, uppers[number, 0])
        opened = min(_within(start, stop, of_query, limit, blocks), 2 * k)  # more only if many are equally good
        for at in range(opened):
            block = blocks[at]
            if at + _AHEAD < opened:
                fetch(data, blocks[at + _AHEAD])
            _bound(block, coarse, queries[number], constants[number], products, bounds)
            shared = one[block] * constants[number, 3] + two[block] * constants[number, 4]
            for lane in range(BLOCK):
                i = block * BLOCK + lane
                if i < used and died[i] > seq and (not masked or mask[i]):
                    upper = bounds[lane] + 2 * (np.int64(rho[i]) * constants[number, 2] + shared)
                    if size < k or upper < uppers[number, 0]:
                        size = _push(uppers[number], size, upper)
        states[number, 0] = size
        states[number, 1] = _NONE
        if size == k:
            upper = min(uppers[number, 0], _FARTHEST >> 1)
            states[number, 1] = min(upper if metric_is_ip else 2 * upper + 1 + squares[number], _FARTHEST)


@_jit
def _candidates(start, stop, lowest, above, quantum, limit, rows, bounds):
    """Write the rows that a scan did not put above ``limit``, and their bounds; returns how many.

    ``lowest`` (blocks,) and ``above`` (blocks or 0, 16) are what ``scan`` left.
    """
    noted = above.shape[0] > 0
    count = 0
    for block in range(start, stop):
        low = lowest[block]
        if low <= limit:
            for lane in range(BLOCK):
                bound = low
                if noted:
                    bound += np.int64(above[block, lane]) << quantum
                rows[count] = block * BLOCK + lane  # without a branch: which rows pass cannot be foretold
                bounds[count] = bound
                count += bound <= limit
    return count


@_jit
def _looked_up(count, plane, constants, above, rest, query, rest_constants, limit, rows, bounds):
    """Of ``count`` candidates keep those that all coordinates of the front leave below ``limit``; returns how many.

    ``plane`` was scanned with ``constants``, which left ``above``; ``rest`` is what was not scanned.
    """
    _, shift, rho, one, two, _ = plane
    more, all_rho, all_one, all_two = rest
    kept = 0
    for at in range(count):
        i, bound = rows[at], bounds[at]
        block = i >> 4
        if above[block, i & 15] < 255:  # it may be any distance, too large to calculate with
            error = np.int64(rho[i]) * constants[2] + one[block] * constants[3] + two[block] * constants[4]
            error -= np.int64(all_rho[i]) * rest_constants[2]
            error -= all_one[block] * rest_constants[3] + all_two[block] * rest_constants[4]
            finer = bound + error - (dot_of_row(more, i, query) << (np.int64(shift[i]) + constants[0]))
            bound = max(bound, finer)
        rows[kept] = i
        bounds[kept] = bound
        kept += bound <= limit
    return kept


@_jit
def collect(
    scanned, constants, rest, rest_queries, rest_constants, coarse, queries, coarse_constants,
    exact, exact_queries, squares, metric_is_ip, live, start, stop, lowest, above, heaps, states,
):  # fmt: skip
    """(number of the query, place, raw distance) of every row in start..stop that may be among a query's k best.

    ``lowest`` (q, blocks) and ``above`` (q, blocks or 0, 16) are what ``scan`` left.  The rows that it did not exclude
    are looked up in ``rest``, if that is there, then in ``coarse``.  ``heaps`` (q, k) and ``states`` (q, 2) = [size of
    the heap, threshold] go on from chunk to chunk: no row above the threshold is in the answer, and of those that are
    not none is left out, ties included.  ``exact`` = (coarse, residual, shift), ``live`` = (died, seq, mask, masked,
    used), ``squares`` = ||q||^2.

    Queries share the blocks that they open: some blocks at a time, all queries open theirs while they are cached.
    """
    died, seq, mask, masked, used = live
    count, k = heaps.shape
    together = max(min(stop - start, _TOGETHER // (exact[0].shape[1] * _LINE)), 1)
    rows = np.empty(together * BLOCK, dtype=np.int64)
    noted = np.empty(together * BLOCK, dtype=np.int64)
    products = np.empty((1, BLOCK), dtype=np.int64)
    bounds = np.empty(BLOCK, dtype=np.int64)
    row = np.empty(4 * exact[0].shape[1], dtype=np.int8)
    found = np.empty((3, 64 + 4 * k * count), dtype=np.int64)
    filled = 0
    for first in range(start, stop, together):
        past = min(first + together, stop)
        for number in range(count):
            size = states[number, 0]
            threshold = states[number, 1]
            square = squares[number]
            limit = min(threshold if metric_is_ip else (threshold - square) >> 1, _NONE - 1)
            quantum = constants[number, 5]
            chosen = _candidates(first, past, lowest[number], above[number], quantum, limit, rows, noted)
            if rest[0].shape[1] > 0:
                chosen = _looked_up(
                    chosen, scanned, constants[number], above[number], rest, rest_queries[number],
                    rest_constants[number], limit, rows, noted,
                )  # fmt: skip
            opened = np.int64(-1)
            for at in range(chosen):
                i = rows[at]
                if noted[at] > limit or i >= used or died[i] <= seq or (masked and not mask[i]):
                    continue
                block = i >> 4
                if block != opened:
                    opened = block
                    fetch(coarse[0], rows[min(at + _AHEAD, chosen - 1)] >> 4)
                    _bound(block, coarse, queries[number], coarse_constants[number], products, bounds)
                if bounds[i & 15] > limit:
                    continue
                raw = _exact(i, exact, exact_queries[number], metric_is_ip, row)
                if raw > threshold:
                    continue
                if filled == found.shape[1]:
                    filled = _kept(found, filled, states)
                    if 2 * filled > found.shape[1]:
                        found = _longer(found)
                found[0, filled] = number
                found[1, filled] = i
                found[2, filled] = raw
                filled += 1
                size = _push(heaps[number], size, raw)
                if size == k and heaps[number, 0] < threshold:
                    threshold = heaps[number, 0]
                    limit = threshold if metric_is_ip else (threshold - square) >> 1
                    states[number, 1] = threshold
            states[number, 0] = size
    return found[:, : _kept(found, filled, states)]


@_jit
def _kept(found, filled, states):
    """Drop what is above its query's threshold by now; returns how many are left, in front."""
    count = 0
    for at in range(filled):
        if found[2, at] <= states[found[0, at], 1]:
            for part in range(3):
                found[part, count] = found[part, at]
            count += 1
    return count


@_jit
def _longer(found):
    longer = np.empty((3, 2 * found.shape[1]), dtype=np.int64)
    longer[:, : found.shape[1]] = found
    return longer
