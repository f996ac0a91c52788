"""The front plane: fewer, learned coordinates of each row, read before the coarse plane (spec/search.md).

Rule 1  Whatever is learned here, the bounds hold: they are made in integers for the matrix that came out, good or bad.
        So a front can change how fast an answer comes, never the answer; it is a cache, outside the log and the roots.
Rule 2  Whether there is a front, and how wide, is decided by counting survivors on a sample, never by a clock.
Rule 3  Floats stand in two places: learning, whose result is rounded to an integer matrix; and products of integer
        matrices in float64, which are exact because every partial sum stays below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCALE", "Errors", "Front", "FrontRows", "Sample", "encode", "learn"]

SCALE = 10  # bits of the matrix: an entry is a component of a direction times 2^10

_LINE = 64
_WIDTHS = (32, 48, 64, 96, 128, 160, 192, 224, 256)
_LEAST_DIMENSION = 48
_ROUNDS = 5  # of the subspace iteration: the directions need not be good, only better than none
_SPARE = 16  # directions iterated beside those that are kept
_QUERIES = 64  # sample rows that play the query
_SAMPLED_AT_ONCE = 1 << 8
_NEAREST = 10  # neighbours that a search is expected to ask for
_OVERHEAD = 24  # bytes a row that both planes read beside the components
_APART = 3  # times the bytes: what is not read in order costs more
_LOOKUP = 64  # bytes beside the coordinates that are looked up for one row
_MUST_SAVE = 0.9  # of the bytes: less is not worth the memory
_BYTE = 127
_REDUCED_BITS = 39  # of the squared norm of a reduced row
_MOST_SHIFT = 24  # of a row that fits: 2^shift ||z|| is then within twice its norm
_EPS_BITS = 8  # fraction of eps while it is summed

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Front(NamedTuple):
    """``matrix`` int16 (m, d): R, of whose rows the first ``width`` are scanned, and the rest looked up.

    ``typical``: rho of a row, for what is noted of a scan.  ``reduction``: rows are divided by 2^reduction first.
    ``gram`` = R R^T, ``solve`` = 2^SCALE (R R^T)^-1, both float64 (m, m); the first is exact.
    """

    matrix: NDArray[np.int16]
    width: int
    typical: int
    reduction: int
    gram: Float64
    solve: Float64

    @property
    def scale(self) -> int:
        """Bits of the matrix."""
        return SCALE

    @property
    def lines_of_rest(self) -> int:
        """Lines of 64 bytes that hold the coordinates of a row that are looked up."""
        return -(-(len(self.matrix) - self.width) // _LINE)


class Errors(NamedTuple):
    """By row: rho int32 >= ||x - x~||, eps int64 >= 2^-SCALE ||R (x - x~)||, and length int64 >= 2^shift ||z||."""

    rho: Int32
    eps: Int64
    length: Int64


class FrontRows(NamedTuple):
    """Some rows in the front: z int8 (n, m) and shift uint8 (n,); a row is near x~ = 2^(shift - SCALE) R^T z.

    ``near`` bounds what ``width`` coordinates leave, R and z cut to them; ``all`` what all of them leave.
    """

    z: Int8
    shift: NDArray[np.uint8]
    near: Errors
    all: Errors


class Sample(Protocol):
    """Some rows, int32 (n, d), of which slices are taken."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Int32: ...


def learn(sample: Sample, population: int) -> Front | None:
    """A front for ``population`` rows, of which ``sample`` are some; None if none pays."""
    dimension = sample[:1].shape[1]
    if dimension < _LEAST_DIMENSION:
        return None
    largest = max(float(_squares(block).max()) for _, block in _floats(sample, 0))
    reduction = max(0, (math.frexp(4.0 * largest)[1] - _REDUCED_BITS + 1) // 2)
    moments = np.zeros((dimension, dimension))
    for _, block in _floats(sample, reduction):
        moments += block.T @ block
    widths = [width for width in _WIDTHS if 4 * width <= 3 * dimension]
    directions = _directions(moments, widths[-1])
    if directions is None:
        return None
    chosen = _best_widths(_survivors(sample, reduction, directions, widths, population), widths, dimension)
    made = None if chosen is None else _front(directions[: chosen[1]], chosen[0], reduction)
    return made and made._replace(typical=int(np.median(encode(made, sample[:_QUERIES]).near.rho)))


def _floats(sample: Sample, reduction: int) -> Iterator[tuple[slice, Float32]]:
    """The rows divided by 2^reduction, some at a time: what is only counted may be rounded, and what is large stays
    with the process when it is given back."""
    for start in range(0, len(sample), _SAMPLED_AT_ONCE):
        part = slice(start, start + _SAMPLED_AT_ONCE)
        yield part, sample[part].astype(np.float32) * np.float32(math.ldexp(1.0, -reduction))


def _squares(rows: Float32) -> Float32:
    squares: Float32 = np.einsum("ij,ij->i", rows, rows)
    return squares


def encode(front: Front, rows: Int32) -> FrontRows:
    """Rows int32 (n, d) as a front sees them, with bounds that hold for any front and any row."""
    reduction = front.reduction
    half = (1 << reduction) >> 1
    wide = rows.astype(np.int64)
    squares = np.einsum("ij,ij->i", wide, wide)
    reduced = (wide + half) >> reduction
    reduced_squares = np.einsum("ij,ij->i", reduced, reduced)
    fits = reduced_squares < 1 << _REDUCED_BITS
    reduced[~fits] = 0  # so that the products below are exact; these rows get z = 0
    image = (reduced.astype(np.float64) @ front.matrix.T.astype(np.float64)).astype(np.int64)
    wanted = image.astype(np.float64) @ front.solve
    largest = np.abs(wanted).max(axis=1)
    shift = np.clip(np.frexp(largest * (1.0 / (_BYTE + 0.5)))[1], 0, _MOST_SHIFT).astype(np.int64)
    z = np.clip(np.floor(wanted * np.ldexp(1.0, (-shift).astype(np.int32))[:, None] + 0.5), -_BYTE, _BYTE).astype(
        np.int64
    )
    found = [
        _errors(front, image[:, :width], z[:, :width], shift, reduced_squares, rows.shape[1], fits)
        for width in (front.width, len(front.matrix))
    ]
    norms = _root_up(squares)
    bad = ~fits  # z = 0 says nothing about a row, and is always true of it
    z[bad], shift[bad] = 0, -reduction
    for errors in found:
        errors.rho[bad], errors.eps[bad], errors.length[bad] = norms[bad], norms[bad] + (norms[bad] >> 1) + 1, 0
    return FrontRows(z.astype(np.int8), (shift + reduction).astype(np.uint8), *found)


def _errors(
    front: Front, image: Int64, z: Int64, shift: Int64, squares: Int64, dimension: int, fits: NDArray[np.bool_]
) -> Errors:
    """What the coordinates z leave of rows of these reduced ``squares``; rows without a bound leave ``fits``."""
    width, reduction = z.shape[1], front.reduction
    back = (z.astype(np.float64) @ front.gram[:width, :width]).astype(np.int64)  # R R^T z
    length = _root_up(np.einsum("ij,ij->i", z, z)) << shift
    fits &= length < 2 * _root_up(squares) + (np.int64(width) << shift)
    # 2^2S ||y - y~||^2, for the reduced row y
    rest = (squares << (2 * SCALE)) - (np.einsum("ij,ij->i", image, z) << (shift + SCALE + 1))
    rest += np.einsum("ij,ij->i", z, back) << (2 * shift)
    fits &= rest >= 0
    rho = (_root_up(np.where(fits, rest, 0)) >> SCALE) + 1
    # 2^2S of R (y - y~) / 2^S, then with _EPS_BITS bits of fraction
    errors = (np.abs((image << SCALE) - (back << shift[:, None])) >> (2 * SCALE - _EPS_BITS)) + 1
    fits &= errors.max(axis=1) < 1 << 26
    errors[~fits] = 0
    eps = (_root_up(np.einsum("ij,ij->i", errors, errors)) >> _EPS_BITS) + 1
    pad = 0 if reduction == 0 else ((1 << reduction) >> 1) * (math.isqrt(dimension) + 1)
    rho = (rho << reduction) + pad
    fits &= length << reduction < 1 << 30
    rho[~fits] = 0
    assert len(rho) == 0 or rho.max() < 1 << 31
    return Errors(rho.astype(np.int32), (eps << reduction) + pad + (pad >> 1), length << reduction)


def _root_up(squares: Int64) -> Int64:
    """At least the root of each, and at most 2 more; for 0 <= square < 2^62, where float64 is off by less than 1."""
    roots: Int64 = np.sqrt(squares.astype(np.float64)).astype(np.int64)
    roots += 1
    return roots


def _directions(moments: Float64, count: int) -> Float64 | None:
    """Orthonormal rows (count, d) that hold most of the sample's energy, the strongest first; None if there is none."""
    dimension = len(moments)
    chosen = min(dimension, count + _SPARE)
    places = np.arange(chosen, dtype=np.int64) * dimension // chosen
    basis: Float64 = np.ascontiguousarray(moments[:, places])
    for _ in range(_ROUNDS):
        if not np.isfinite(basis).all() or not basis.any():
            return None
        basis = np.linalg.qr(basis)[0]
        image = moments @ basis
        small = basis.T @ image
        basis = image
    basis = np.linalg.qr(basis)[0]
    small = basis.T @ moments @ basis
    if not np.isfinite(small).all():
        return None
    _, turn = np.linalg.eigh((small + small.T) * 0.5)
    strongest: Float64 = (basis @ turn[:, ::-1]).T[:count]
    return strongest


def _front(directions: Float64, width: int, reduction: int) -> Front | None:
    matrix = np.floor(directions * math.ldexp(1.0, SCALE) + 0.5)
    gram = matrix @ matrix.T
    sums = np.abs(gram).sum(axis=1)
    # ||R||^2 <= the largest absolute row sum of R R^T; the bounds of encode and front_queries rest on 2^(2 SCALE) 3/2.
    # Where the diagonal dominates there is an inverse.
    if float(sums.max()) > math.ldexp(1.5, 2 * SCALE) or not (2.0 * np.diagonal(gram) > sums).all():
        return None
    solve = np.linalg.inv(gram) * math.ldexp(1.0, SCALE)
    return Front(np.ascontiguousarray(matrix, dtype=np.int16), width, 1, reduction, gram, solve)


def _best_widths(shares: list[float], widths: list[int], dimension: int) -> tuple[int, int] | None:
    """How many coordinates to scan, and how many to have in all: those that read the fewest bytes."""
    opened = dict(zip(widths, shares, strict=True))
    best, chosen = _MUST_SAVE * (dimension + _OVERHEAD), None
    for width in widths:
        blocks = _blocks_opened(opened[width])
        for all in (other for other in widths if other >= width and (other - width) % _LINE == 0):
            looked_up = opened[width] * (all - width + _LOOKUP) if all > width else 0.0
            read = width + _OVERHEAD + _APART * (blocks * width + looked_up + _blocks_opened(opened[all]) * dimension)
            if read < best:
                best, chosen = read, (width, all)
    return chosen


def _survivors(sample: Sample, reduction: int, directions: Float64, widths: list[int], population: int) -> list[float]:
    """The share of rows that each width leaves, by sample rows that play the query."""
    count = len(sample)
    step = max(1, count // _QUERIES)
    _, queries = next(_floats(sample[: _QUERIES * step : step], reduction))
    distances = np.empty((len(queries), count), dtype=np.float32)
    for part, block in _floats(sample, reduction):
        distances[:, part] = _squares(block) - 2 * (queries @ block.T)
    # a query that is a row finds itself; its last neighbour among all rows stands earlier among those of the sample
    place = min(count - 1, 1 + _NEAREST * count // population)
    distances.partition(place, axis=1)
    limits = distances[:, place]
    seen = directions.T.astype(np.float32)
    queries_in, left = queries @ seen, np.zeros(len(widths), dtype=np.int64)
    for _, block in _floats(sample, reduction):
        norms, rows_in = _squares(block), block @ seen
        for number, width in enumerate(widths):
            held, asked = rows_in[:, :width], queries_in[:, :width]
            rows_out = np.sqrt(np.maximum(norms - _squares(held), 0.0))
            asked_squares = _squares(asked)
            queries_out = np.sqrt(np.maximum(_squares(queries) - asked_squares, 0.0))
            unit = np.abs(held).max(axis=1) * (1.0 / _BYTE)  # a byte's rounding error is uniform: a twelfth, squared
            rounding = unit * np.sqrt(width / 12.0)
            bounds = norms - 2.0 * (asked @ held.T)
            bounds -= 2.0 * (
                np.outer(queries_out, np.sqrt(rows_out * rows_out + rounding * rounding))
                + np.outer(np.sqrt(asked_squares), rounding)
            )
            left[number] += np.count_nonzero(bounds <= limits[:, None])
    shares: list[float] = (left / (count * len(queries))).tolist()
    return shares


def _blocks_opened(share: float) -> float:
    """Of blocks of 16 rows, those with a survivor, if survivors fall anywhere."""
    return 1.0 - (1.0 - share) ** 16
