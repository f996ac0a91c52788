"""Unit vectors proposed in float64, and which of them are beyond doubt (spec/numbers.md, 'Unit vectors').

The rule is one of integers, and dividing integers is slow.  A float quotient is fast, and nearly always says enough:
rounding to an integer asks only on which side of a half a number lies, and the quotient is off by far less than its
distance to the next half.  So every value here carries a bound of its error that holds in every rounding mode, and a
row is *settled* when each of its components is further than that from the border.  The others, one row in thousands,
are for the caller's integers.

It refuses to decide a doubt, to name an error, and to round by the processor's mode.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["propose", "propose_one", "room_for", "round_half_even"]

_CHUNK = 1 << 16  # components worked on at once: three buffers of 512 KiB stay in a cache
_SMALLEST, _LARGEST = 2.0**-64, 2.0**64  # of a row's greatest component: no product below leaves the normal range
_DOUBT = 2.0**-20  # greater than the error of a component: see ``_propose``
_WORTH = 0.125  # expected doubts in a row from which ``propose_one`` is not tried
_FEW_BITS = 16
_MOST_BITS = 28  # the largest format
_LIMB = 16

assert _DOUBT > 2 * 2.0 ** (_MOST_BITS - 50)

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
    np.multiply(whole, (2.0 ** (bits + 3) / roots)[:, None], out=values)
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
    largest = float(np.maximum.reduce(whole))
    if not _SMALLEST <= largest < _LARGEST:
        return False
    size = len(row)
    norm = math.sqrt(values.dot(values))
    factor = 2.0**bits / norm
    most = largest * factor
    doubt = (2.0 ** (bits - 1) + (math.sqrt(size) / 2 + 1) * most) / math.ldexp(norm, 31 - math.frexp(largest)[1])
    doubt += most * (size + 8) * 2.0**-52 + 2.0**-35  # and what the floats of the lines below are off by
    if doubt * size > _WORTH:
        return False
    np.multiply(values, factor, out=values)
    np.add(values, 0.5, out=values)
    np.floor(values, out=whole)
    np.subtract(values, whole, out=values)
    if not (np.minimum.reduce(values) > doubt and np.maximum.reduce(values) < 1 - doubt):
        return False
    np.copyto(out, whole, casting="unsafe")
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
        roots[row] = math.isqrt(_squared_norm(whole[row]) << 6)
    return roots


def _squared_norm(row: Float64) -> int:
    """The exact sum of squares: limbs of 16 bits, whose products sum to less than 2^53 in 2^16 dimensions."""
    magnitude = np.abs(row)
    high = np.floor(magnitude * 2.0**-_LIMB)
    low = magnitude - high * 2.0**_LIMB
    return (int(high @ high) << (2 * _LIMB)) + (int(high @ low) << (_LIMB + 1)) + int(low @ low)
