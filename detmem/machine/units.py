"""Unit vectors: proposed in float64, and decided in integers (spec/numbers.md, 'Unit vectors').

The rule is one of integers, and dividing integers is slow.  A float quotient is fast, and nearly always says enough:
rounding to an integer asks only on which side of a half a number lies, and the quotient is off by far less than its
distance to the next half.  So every value in ``propose`` carries a bound of its error that holds in every rounding
mode, and a row is *settled* when each of its components is further than that from the border.  The others, one row in
hundreds, are for ``exactly``, which is the rule as it is written.

It refuses to guess at a doubt, and to round by the processor's mode.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detmem.errors import RangeError

__all__ = ["exactly", "limb_sums", "propose", "propose_one", "room_for", "round_half_even", "squared_norms"]

_CHUNK = 1 << 16  # components worked on at once: three buffers of 512 KiB stay in a cache
_SMALLEST, _LARGEST = 2.0**-64, 2.0**64  # of a row's greatest component: no product below leaves the normal range
_DOUBT = 2.0**-20  # greater than the error of a component: see ``_propose``
_WORTH = 0.125  # expected doubts in a row from which ``propose_one`` is not tried
_FEW_BITS = 16
_FRACTION_FIELD = {2: 10, 4: 23, 8: 52}  # IEEE 754: explicit fraction bits, by size in bytes
_MOST_BITS = 28  # the largest format

assert math.ldexp(1.0, _MOST_BITS - 50) < _DOUBT / 2

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def room_for(count: int, dimension: int) -> Float64:
    """What ``propose`` works in, for up to ``count`` rows: made once and used for all of them."""
    return np.empty((3, min(max(1, _CHUNK // dimension), count), dimension))


def propose(rows: NDArray[Any], bits: int, out: NDArray[np.int32], room: Float64) -> NDArray[np.bool_]:
    """Write the unit vectors of float rows (n, d) to ``out``, in units of 2^-bits; return which rows are settled."""
    assert bits <= _MOST_BITS
    settled = np.empty(len(rows), dtype=np.bool_)
    step = room.shape[1]
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        count = len(settled[part])
        settled[part] = _propose(rows[part], bits, out[part], *room[:, :count])
    return settled


def _propose(
    rows: NDArray[Any], bits: int, out: NDArray[np.int32], values: Float64, whole: Float64, spare: Float64
) -> NDArray[np.bool_]:
    """As ``propose``, within three buffers."""
    np.copyto(values, rows)
    np.abs(values, out=whole)
    largest = whole.max(axis=1)
    usable: NDArray[np.bool_] = (largest >= _SMALLEST) & (largest < _LARGEST)  # not with NaN
    if not usable.all():
        values[~usable] = 1.0
        largest[~usable] = 1.0
    # A product with a power of two is exact.  What underflows, or was flushed before, is below 2^-31: it rounds to 0.
    values *= np.ldexp(1.0, 31 - np.frexp(largest)[1])[:, None]
    round_half_even(values, whole, spare)
    roots = _roots(whole)
    # |component| <= 2^bits, up to its last place; the two roundings, of the factor and of the product, are each at most
    # 2^-52 of it, and the half is added at 2^-52 of the sum: together below 2^(bits - 50).
    np.multiply(whole, (math.ldexp(1.0, bits + 3) / roots)[:, None], out=values)
    usable &= _rounded(values, whole)
    np.copyto(out, whole, casting="unsafe")
    return usable


def propose_one(row: NDArray[Any], bits: int, out: NDArray[np.int32]) -> bool:
    """As ``propose`` for a single float row, in a third of its calls; False where it would take more of them.

    The rounding to 2^-31 is left out.  With a the scaled row, r its rounding and A = |a| >= 2^30, no component moves by
    more than 1/2 and the length by no more than sqrt(d)/2; n/8, for n the root, is within 1/8 of |r|.  So the quotient
    r_j/(n/8) is within (1/2 + (sqrt(d)/2 + 1/8) |a_j|/A) / (n/8) of a_j/A: little enough for Q16.16, and only there.
    """
    if bits > _FEW_BITS:
        return False
    values = row.astype(np.float64)
    whole = np.abs(values)
    largest = whole.item(whole.argmax())  # of a NaN, if there is one; and a fifth of what max() costs
    if not _SMALLEST <= largest < _LARGEST:
        return False
    size = len(row)
    norm = math.sqrt(values.dot(values))
    unit = math.ldexp(1.0, bits)
    factor = unit / norm
    most = largest * factor
    doubt = (unit / 2 + (math.sqrt(size) / 2 + 1) * most) / math.ldexp(norm, 31 - math.frexp(largest)[1])
    doubt += most * (size + 8) * 2.0**-52 + 2.0**-35  # and what the floats of the lines below are off by
    if doubt * size > _WORTH:
        return False
    np.multiply(values, factor, values)
    np.add(values, 0.5, values)
    np.floor(values, whole)
    np.subtract(values, whole, values)
    if not (values.item(values.argmin()) > doubt and values.item(values.argmax()) < 1 - doubt):
        return False
    out[:] = whole
    return True


def round_half_even(values: Float64, whole: Float64, spare: Float64) -> None:
    """Put the nearest integers to ``values`` into ``whole``, exactly; ``spare`` is room to work in.  |v| < 2^51.

    floor(v + 1/2) is the answer unless the sum, as a float, is an integer: rounding is monotonic, so a sum that is off
    never passes an integer, it can only become one.  Those few are looked at again: what a floor leaves of a float is a
    multiple of its last place, and so exact, but for -1/2 < v < 0, where what is lost does not decide.
    """
    np.add(values, 0.5, out=spare)
    np.floor(spare, out=whole)
    ties = np.flatnonzero(whole == spare)
    if len(ties):  # not rare: float32 has 24 bits, and shifted by so many that few lie behind the point
        doubtful = values.reshape(-1)[ties]
        low = np.floor(doubtful)
        left = doubtful - low
        whole.reshape(-1)[ties] = low + ((left > 0.5) | ((left == 0.5) & (low % 2 == 1)))


def _rounded(values: Float64, whole: Float64) -> NDArray[np.bool_]:
    """Put the nearest integers to ``values`` into ``whole``; returns the rows in which all are beyond doubt.

    floor(v + 1/2), where what is left over must keep ``_DOUBT`` from both ends: then no tie is there, and nothing that
    is off by less could fall to the other side.  What is left over is exact, but for a rounding up to 1, which is in
    doubt anyway.  ``values`` is overwritten.
    """
    values += 0.5
    np.floor(values, out=whole)
    values -= whole
    if values.min() >= _DOUBT and values.max() <= 1 - _DOUBT:
        return np.ones(len(values), dtype=np.bool_)
    clear: NDArray[np.bool_] = (values.min(axis=1) >= _DOUBT) & (values.max(axis=1) <= 1 - _DOUBT)
    return clear


def _roots(whole: Float64) -> Float64:
    """isqrt(64 * the sum of squares) of each row of integers up to 2^31, exactly.

    The float sum of d squares is off by at most d 2^-52 of itself, its root by half of that: where the floor is not
    beyond that doubt, the sum is made of integers.
    """
    guess = np.sqrt(np.einsum("ij,ij->i", whole, whole))
    guess *= 8
    roots: Float64 = np.floor(guess)
    left = guess - roots
    doubt = guess * ((whole.shape[1] + 4) * 2.0**-52)
    for row in np.flatnonzero((left < doubt) | (left > 1 - doubt)).tolist():
        roots[row] = math.isqrt(squared_norms(whole[row : row + 1].astype(np.int64))[0] << 6)
    return roots


# ------------------------------------------------------------------------------------------------------------- exactly


def exactly(rows: NDArray[Any], bits: int, names: list[str]) -> Int64:
    """The unit vectors of float rows by the rule itself, in integers only; ``names`` are the rows' in messages.

    ``RangeError``: a row that is not finite, or zero.
    """
    magnitude, negative = _patterns(rows)
    mantissa, exponent, finite = _decoded(magnitude, rows.dtype.itemsize)
    if not finite.all():
        row, column = divmod(int(np.argmin(finite)), rows.shape[1])
        found = float(rows[row, column])
        raise RangeError(f"{names[row]}, column {column}: expected a finite number, found {found!r}")
    scale = np.empty((len(rows), 1), dtype=np.int64)
    for row, column in enumerate(np.argmax(magnitude, axis=1)):  # patterns are ordered as the numbers are
        top = int(mantissa[row, column])
        if top == 0:
            raise RangeError(f"{names[row]} is zero: the metric 'cosine' expects a direction, and zero has none")
        scale[row, 0] = int(exponent[row, column]) + top.bit_length()  # the frexp exponent of max |x|
    scaled = _shifted(mantissa, exponent + np.int64(31) - scale)
    roots = np.array([[math.isqrt(total << 6)] for total in squared_norms(scaled)], dtype=np.int64)
    # scaled <= 2^31 and bits <= 28: the dividend is at most 2^62; roots >= 2^33, since some scaled >= 2^30
    dividend = scaled << np.int64(bits + 3)
    unit = dividend // roots
    dividend -= unit * roots  # the remainder, in [0, root)
    dividend *= 2
    unit += (dividend > roots) | ((dividend == roots) & ((unit & 1) == 1))
    np.negative(unit, out=unit, where=negative)
    return unit


def _patterns(rows: NDArray[Any]) -> tuple[Int64, NDArray[np.bool_]]:
    """The bits of floats without their sign, as integers, and the signs.

    No float is computed with: a process that flushes subnormals to zero still normalises the smallest vectors.
    """
    size = rows.dtype.itemsize
    native = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))
    pattern = native.view(f"i{size}").astype(np.int64)  # sign-extended
    return pattern & ((1 << (8 * size - 1)) - 1), pattern < 0


def _decoded(magnitude: Int64, size: int) -> tuple[Int64, Int64, NDArray[np.bool_]]:
    """(mantissa, exponent, is finite) with |x| = mantissa * 2^exponent, of floats of ``size`` bytes."""
    fraction = _FRACTION_FIELD[size]
    ones = (1 << (8 * size - 1 - fraction)) - 1  # the exponent field of infinities and NaN; ones // 2 is the bias
    field = magnitude >> fraction
    mantissa = (magnitude & ((1 << fraction) - 1)) + ((field > 0).astype(np.int64) << fraction)
    exponent = np.maximum(field, 1) - np.int64(ones // 2 + fraction)
    return mantissa, exponent, field < ones


def _shifted(mantissa: Int64, exponent: Int64) -> Int64:
    """round_half_even(mantissa * 2^exponent), for 0 <= mantissa < 2^53 and a result of at most 2^31.

    To the right by r + 1 after one place to the left, so that "half" exists for r = 0 as well.  Beyond r = 60 the
    result is 0, as it is at 60.  2^54 + 2^60 < 2^63: nothing overflows.
    """
    left = np.clip(exponent, 0, 31)
    right = np.clip(-exponent, 0, 60)
    doubled = mantissa << (left + 1)
    odd = (doubled >> (right + 1)) & 1
    doubled += (np.int64(1) << right) - 1 + odd
    return np.asarray(doubled >> (right + 1), dtype=np.int64)


def squared_norms(rows: Int64) -> list[int]:
    """The exact sum of squares of each row, as Python ints; |component| <= 2^31.

    Limbs of 16 bits: high < 2^16 and low < 2^16, so 2^16 products sum to less than 2^48.
    """
    high_high, high_low, low_low = limb_sums(rows)
    return [(int(a) << 32) + (int(b) << 17) + int(c) for a, b, c in zip(high_high, high_low, low_low, strict=True)]


def limb_sums(rows: Int64) -> tuple[Int64, Int64, Int64]:
    """(sum high^2, sum high * low, sum low^2) of each row, where |component| = high * 2^16 + low."""
    magnitude = np.abs(rows)
    high, low = magnitude >> 16, magnitude & 0xFFFF
    return (
        np.einsum("ij,ij->i", high, high),
        np.einsum("ij,ij->i", high, low),
        np.einsum("ij,ij->i", low, low),
    )
