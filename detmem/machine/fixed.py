"""The front door of numbers: floats come in, int32 goes on, and nothing after this file rounds again.

A determinate memory begins with a determinate vector, so this room owns the whole contract (spec/numbers.md):

Rule 1  One rounding, half to even, for rows and queries alike.  It is computed by floor and exact remainder, or in
        integers, never by ``rint``: the C rounding mode, flush-to-zero and x87 registers cannot show in a result.
Rule 2  Nothing is clipped unless the caller writes ``overflow="clip"``; NaN never passes.
Rule 3  Admission: the squared raw norm of a vector is at most 2^60, so no later sum can leave int64 (proof: spec).
Rule 4  The caller's arrays are only read.  Work is done in blocks of ``_BLOCK`` components: the memory taken beside the
        result is a few MB, however large (or memory-mapped) the input.
Rule 5  A refusal names the row, the column and the value.

It refuses to know collections, ids and files; ``collection`` is a word in an error message here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detmem.errors import DimensionError, RangeError, UsageError, shown
from detmem.machine import units

__all__ = [
    "FORMATS",
    "MAX_DIMENSION",
    "MAX_SQUARED_NORM",
    "METRICS",
    "RAW",
    "admit_raw",
    "admit_vectors",
    "as_array",
    "canonical_metric",
    "check_admitted",
    "dequantize",
    "distances_to_float",
    "fraction_bits",
    "quantize",
]

FORMATS: dict[str, int] = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}
METRICS = ("cosine", "ip", "l2")
MAX_DIMENSION = 65536
MAX_SQUARED_NORM = 1 << 60  # of raw int32 components; (2 * 2^30)^2 = 2^62 is then the largest squared distance

_ALIASES = {"cos": "cosine", "dot": "ip", "inner_product": "ip", "sqeuclidean": "l2"} | {name: name for name in METRICS}
_INT32_MIN, _INT32_MAX = -(1 << 31), (1 << 31) - 1
_NORM_BITS = 30  # an admitted component is at most 2^30 in magnitude: its square alone is 2^60
_BLOCK = 1 << 16  # components worked on at once: 512 KiB for each int64 temporary
_CHUNK = 1 << 15  # components worked on at once where one buffer is used again and again

assert MAX_SQUARED_NORM == 1 << (2 * _NORM_BITS)
assert _BLOCK >= MAX_DIMENSION  # a block holds at least one row

_NATIVE = frozenset(np.dtype(kind) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64))

RAW = np.dtype("<i4")
"""A raw component as it is committed to and stored."""

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


# ---------------------------------------------------------------------------------------------------------------- names


def canonical_metric(name: object) -> str:
    """The one spelling of a metric: ``cosine``, ``ip`` or ``l2``.  ``UsageError`` for any other name."""
    if isinstance(name, str) and name in _ALIASES:
        return _ALIASES[name]
    raise UsageError(f"metric must be one of {', '.join(sorted(_ALIASES))}; found {shown(name)}")


def fraction_bits(format: object) -> int:
    """The f of a format, whose component value is raw / 2^f.  ``UsageError`` for an unknown format."""
    if isinstance(format, str) and format in FORMATS:
        return FORMATS[format]
    raise UsageError(f"format must be one of {', '.join(FORMATS)}; found {shown(format)}")


# ------------------------------------------------------------------------------------------------- public: floats, ints


def quantize(x: ArrayLike, format: str = "Q16.16", *, overflow: str = "error") -> Int32:
    """Round numbers to fixed point: the nearest raw = x * 2^f, halves to even.

    ``x``: float16/32/64 or integers, of any shape (a scalar included).  Returns int32 of the same shape.
    ``overflow="clip"`` takes the nearest end of the int32 range instead of refusing; NaN is refused always.

    ``RangeError``: NaN, infinite, out of range, or an integer that float64 cannot hold.
    ``UsageError``: not numbers, empty, an unknown format or overflow.
    """
    bits = fraction_bits(format)
    if not isinstance(overflow, str) or overflow not in ("error", "clip"):
        raise UsageError(f"overflow must be 'error' or 'clip'; found {shown(overflow)}")
    array = _numeric(x, "row")
    if array.size == 0:
        raise UsageError(f"x is empty, of shape {array.shape}; there is nothing to quantize")
    return _quantised(array, bits, format, "row", clip=overflow == "clip")


def dequantize(raw: ArrayLike, format: str = "Q16.16") -> Float64:
    """The exact float64 value raw / 2^f of raw integers, of any shape.

    ``UsageError``: floats, or an unknown format.  ``RangeError``: an integer outside int32.
    """
    bits = fraction_bits(format)
    values = _as_int32(_numeric(raw, "row"), "row").astype(np.float64)
    values *= math.ldexp(1.0, -bits)
    return values


def distances_to_float(raw: Int64, metric: str, format: str) -> Float64:
    """Distances for people: raw / 2^2f, and for ``cosine`` raw / 2^(2f+1).  Nothing is ever ranked by them."""
    halvings = 2 * fraction_bits(format) + (canonical_metric(metric) == "cosine")
    distances: Float64 = np.multiply(raw, math.ldexp(1.0, -halvings), dtype=np.float64)
    return distances


# ----------------------------------------------------------------------------------------------------- public: the door


def as_array(
    x: ArrayLike, what: str = "vector", *, dimension: int | None = None, collection: str | None = None
) -> NDArray[Any]:
    """See an array_like as the numeric array it is, 1-D or 2-D, copied only if it was not an array.

    ``dimension`` and ``collection`` only make the refusal of ragged rows say what was expected.
    ``DimensionError``: ragged, or neither 1-D nor 2-D.  ``UsageError``: not numbers.
    """
    # The common case, and the second look at an array, too.
    array = x if type(x) is np.ndarray and x.dtype in _NATIVE else _numeric(x, what, dimension, collection)
    if array.ndim not in (1, 2):
        raise DimensionError(f"{what}: expected a 1-D or a 2-D array, found {array.ndim}-D of shape {array.shape}")
    return array


def admit_vectors(
    x: ArrayLike, *, dimension: int, metric: str, format: str, collection: str, what: str = "vector"
) -> Int32:
    """Floats to the raw vectors that are stored or searched: C-contiguous int32 (n, dimension), never a view of ``x``.

    ``x``: array_like (n, dimension), or one vector (dimension,), which gives n = 1.  ``l2`` and ``ip`` quantise;
    ``cosine`` normalises in integers (spec/numbers.md) and admits every finite vector but zero.

    ``DimensionError``: another number of dimensions.  ``RangeError``: a value the format cannot hold, a norm above the
    limit, a zero vector under ``cosine``.  ``UsageError``: not numbers.
    """
    bits = fraction_bits(format)
    array = _matrix(x, dimension, collection, what)
    if canonical_metric(metric) == "cosine":
        # The norm of a unit vector is at most 2^28 + sqrt(d), rounding included: admitted without a look.
        return _normalised(array, bits, what).reshape(-1, dimension)
    matrix = _quantised(array, bits, format, what, clip=False).reshape(-1, dimension)
    _check_norms(matrix, what, format)
    return matrix


def admit_raw(raw: ArrayLike, *, dimension: int, collection: str, what: str = "vector") -> Int32:
    """Raw integers as they stand, admission only: C-contiguous int32 (n, dimension), never a view of ``raw``.

    ``raw``: array_like of integers, (n, dimension) or (dimension,).  Errors as for ``admit_vectors``; floats are a
    ``UsageError``, for a raw vector has been rounded already.
    """
    matrix = _as_int32(_matrix(raw, dimension, collection, what), what).reshape(-1, dimension)
    _check_norms(matrix, what, None)
    return matrix


def check_admitted(matrix: Int32) -> None:
    """``RangeError`` unless every row of a raw matrix (n, dimension), as it stands in a log, obeys admission."""
    _check_norms(matrix, "vector", None)


# ----------------------------------------------------------------------------------------------------- shapes and types


def _numeric(x: ArrayLike, what: str, dimension: int | None = None, collection: str | None = None) -> NDArray[Any]:
    """An ndarray of float16/32/64 or integers, of any shape."""
    if isinstance(x, np.ma.MaskedArray):
        raise UsageError(f"{what}: expected plain numbers, found a masked array, whose mask would be lost")
    try:
        array = np.asarray(x)
    except (TypeError, ValueError, OverflowError, RuntimeError, BufferError) as error:
        ragged = _ragged(x, what, dimension, collection)
        if ragged is not None:
            raise DimensionError(ragged) from error
        raise UsageError(f"{what}: expected numbers, found {type(x).__name__} that is no array: {error}") from error
    if array.dtype.kind == "O":
        _check_wide_integers(array, what)
    # longdouble is refused by name: its width, and so its values, differ between platforms
    if array.dtype.kind not in "fiu" or array.dtype.char == "g":
        raise UsageError(f"{what}: expected float16, float32, float64 or integers, found {array.dtype}")
    if isinstance(x, (list, tuple)) and array.dtype == np.float64:
        _check_mixed_integers(x, array, what)
    return array


def _check_wide_integers(array: NDArray[Any], what: str) -> None:
    """NumPy makes objects of ints beyond 64 bits: among numbers they are out of range, and said so with their place."""
    if all(isinstance(item, (int, float, np.number)) and not isinstance(item, bool) for item in array.flat):
        for index, item in enumerate(array.flat):
            if isinstance(item, int) and item.bit_length() > 64:
                place, bits = _place(what, array.shape, index), item.bit_length()
                raise RangeError(f"{place}expected an integer of at most 64 bits, found one of {bits}")


def _check_mixed_integers(x: Sequence[Any], array: NDArray[Any], what: str) -> None:
    """NumPy makes floats of a list of ints *and* floats, and rounds the ints: they must pass the test of ints."""
    for index in np.flatnonzero(np.abs(array) >= 2.0**53):
        item: Any = x
        for axis_index in np.unravel_index(index, array.shape):
            item = item[axis_index]
        if isinstance(item, (int, np.integer)) and int(float(item)) != int(item):
            raise RangeError(_inexact(what, array.shape, int(index), int(item)))


def _ragged(x: object, what: str, dimension: int | None, collection: str | None) -> str | None:
    """Say which is the first row that does not fit, or None if ``x`` is not rows at all."""
    if not isinstance(x, (list, tuple)):
        return None
    widths = [len(row) if hasattr(row, "__len__") and not isinstance(row, (str, bytes)) else None for row in x]
    expected = dimension if dimension is not None else widths[0]
    other = f"collection {collection!r}" if collection is not None else f"{what} 0" if dimension is None else "the call"
    for row, width in enumerate(widths):
        if width is None:
            return f"{what} {row} is a single {type(x[row]).__name__}, expected a row of {expected} numbers"
        if width != expected:
            return f"{what} {row} has {width} dimensions, {other} has {expected}"
    for row, components in enumerate(x):
        if any(hasattr(component, "__len__") for component in components):
            return f"{what} {row} holds sequences, expected a flat row of {expected} numbers"
    return None


def _matrix(x: ArrayLike, dimension: int, collection: str, what: str) -> NDArray[Any]:
    """``x`` as a 1-D or 2-D numeric array whose last axis is ``dimension`` long."""
    assert 1 <= dimension <= MAX_DIMENSION
    array = as_array(x, what, dimension=dimension, collection=collection)
    if array.shape[-1] != dimension:
        first = what if array.ndim == 1 else f"{what} 0"
        raise DimensionError(f"{first} has {array.shape[-1]} dimensions, collection {collection!r} has {dimension}")
    return array


def _place(what: str, shape: tuple[int, ...], index: int) -> str:
    """Where the component with C-order ``index`` stands: 'query, column 3: ', 'vector 17, column 3: ', 'index (0, 1,
    2): '.

    A lone row of numbers that nobody has named (``what`` is "row") is left unnamed: 'column 3: '.
    """
    position = tuple(int(i) for i in np.unravel_index(index, shape))
    if len(position) == 2:
        return f"{what} {position[0]}, column {position[1]}: "
    if len(position) == 1:
        return f"column {position[0]}: " if what == "row" else f"{what}, column {position[0]}: "
    return f"index {position}: " if position else ""


def _inexact(what: str, shape: tuple[int, ...], index: int, value: int) -> str:
    return f"{_place(what, shape, index)}expected an integer that float64 holds exactly, found {value}"


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(offset, components) in C order.  ``flat`` walks a strided array without copying it whole."""
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    for start in range(0, array.size, _BLOCK):
        yield start, flat[start : start + _BLOCK]


def _row_blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, rows) of a matrix, about ``_BLOCK`` components at a time."""
    step = max(1, _BLOCK // array.shape[1])
    for start in range(0, array.shape[0], step):
        yield start, array[start : start + step]


# ------------------------------------------------------------------------------------------------------------- rounding


def _as_float64(block: NDArray[Any], array: NDArray[Any], start: int, what: str) -> Float64:
    """``block`` (components ``start``... of ``array``) as float64, exactly, or a refusal."""
    if block.dtype.kind in "iu" and block.dtype.itemsize == 8:
        if block.dtype.kind == "u":
            magnitude = block.astype(np.uint64)
        else:
            magnitude = np.abs(block.astype(np.int64)).view(np.uint64)  # -2^63 wraps onto itself: 2^63 as uint64
        # float64 holds m exactly when m / (its lowest set bit) < 2^53, that is when floor(m / 2^53) < that bit
        lowest = magnitude & (~magnitude + np.uint64(1))
        exact = ((magnitude >> np.uint64(53)) < lowest) | (magnitude == 0)
        if not exact.all():
            index = int(np.argmin(exact))
            raise RangeError(_inexact(what, array.shape, start + index, int(block.reshape(-1)[index])))
    return block.astype(np.float64)


def _quantised(array: NDArray[Any], bits: int, format: str, what: str, *, clip: bool) -> Int32:
    """round_half_even(x * 2^bits) of every component, in C order."""
    result = np.empty(array.shape, dtype=np.int32)
    out = result.reshape(-1)
    room = np.empty((3, min(array.size, _CHUNK)))
    for start, block in _blocks(array):
        if _rounded_plainly(block, bits, out[start : start + block.size], room):
            continue
        values = _as_float64(block, array, start, what)
        wrong = np.isnan(values)
        if wrong.any():
            raise RangeError(f"{_place(what, array.shape, start + int(np.argmax(wrong)))}expected a number, found nan")
        raw = _round_half_even(values, bits)
        if clip:
            np.clip(raw, _INT32_MIN, _INT32_MAX, out=raw)
        else:
            wrong = (raw < _INT32_MIN) | (raw > _INT32_MAX)
            if wrong.any():
                index = int(np.argmax(wrong))
                limit = 1 << (31 - bits)
                raise RangeError(
                    f"{_place(what, array.shape, start + index)}expected -{limit} <= value < {limit}, "
                    f"the range of {format}; found {float(values[index])!r}"
                )
        out[start : start + raw.size] = raw
    return result


def _rounded_plainly(block: NDArray[Any], bits: int, out: Int32, room: Float64) -> bool:
    """Round a block into ``out`` in few passes, if it is plain: exact as float64, and all in range.  False otherwise.

    The product shifts the exponent: exact.  ``room`` is to work in, and small enough to stay in the cache.
    """
    if block.dtype.itemsize == 8 and block.dtype.kind in "iu":  # may not fit a float64
        return False
    unit = math.ldexp(1.0, bits)
    for start in range(0, block.size, room.shape[1]):
        part = block[start : start + room.shape[1]]
        values, whole, spare = room[:, : part.size]
        if not (float(part.min()) * unit >= _INT32_MIN and float(part.max()) * unit <= _INT32_MAX - 1):
            return False  # a NaN is neither
        np.multiply(part, unit, out=values, dtype=np.float64)
        units.round_half_even(values, whole, spare)
        np.copyto(out[start : start + part.size], whole, casting="unsafe")
    return True


def _round_half_even(values: Float64, bits: int) -> Int64:
    """round_half_even(values * 2^bits) as int64, without NaN; what lies beyond +-2^32 is shown as +-2^32.

    Every step is exact, so no rounding mode can show: the product is a shift of the exponent (the minimum keeps it far
    from infinity), and the remainder of a positive number after floor is a multiple of its own last place.
    """
    magnitude = np.minimum(np.abs(values), math.ldexp(1.0, 32 - bits))
    magnitude *= math.ldexp(1.0, bits)
    whole = np.floor(magnitude)
    magnitude -= whole
    raw = whole.astype(np.int64)
    raw += (magnitude > 0.5) | ((magnitude == 0.5) & ((raw & 1) == 1))
    np.negative(raw, out=raw, where=values < 0)
    return raw


def _as_int32(array: NDArray[Any], what: str) -> Int32:
    """A C-contiguous int32 copy of integers of any width and byte order, all of which must fit."""
    if array.dtype.kind not in "iu":
        raise UsageError(f"{what}: expected raw integers, found {array.dtype}")
    result = np.empty(array.shape, dtype=np.int32)
    out = result.reshape(-1)
    narrow = np.can_cast(array.dtype, np.int32)
    for start, block in _blocks(array):
        if not narrow:
            wrong = block > _INT32_MAX
            if block.dtype.kind == "i":
                wrong |= block < _INT32_MIN
            if wrong.any():
                index = int(np.argmax(wrong))
                place = _place(what, array.shape, start + index)
                raise RangeError(f"{place}expected a raw integer of 32 bits, found {int(block[index])}")
        out[start : start + block.size] = block
    return result


# --------------------------------------------------------------------------------------------------------------- cosine


def _normalised(array: NDArray[Any], bits: int, what: str) -> Int32:
    """The unit vectors of the rows, in units of 2^-bits (spec/numbers.md, 'Unit vectors').

    ``units`` settles nearly every row in float64, with proof; the others, and every refusal, are decided in integers.
    """
    result = np.empty(array.shape, dtype=np.int32)
    one = array.size == array.shape[-1] and array.dtype.kind == "f"
    if one and units.propose_one(array.reshape(-1), bits, result.reshape(-1)):
        return result
    matrix, raw = (array, result) if array.ndim == 2 else (array[None, :], result[None, :])
    room = units.room_for(*matrix.shape)
    for start, rows in _row_blocks(matrix):
        if rows.dtype.kind in "iu":
            rows = _as_float64(rows, array, start * matrix.shape[1], what)
        settled = units.propose(rows, bits, raw[start : start + len(rows)], room)
        if not settled.all():
            open = np.flatnonzero(~settled)
            names = [what if array.ndim == 1 else f"{what} {row}" for row in (start + open).tolist()]
            raw[start + open] = units.exactly(rows[open], bits, names)
    return result


# ------------------------------------------------------------------------------------------------------------ admission


def _check_norms(matrix: Int32, what: str, format: str | None) -> None:
    """Refuse the first row whose squared norm is above 2^60.  No step of the check can overflow.

    If no component exceeds sqrt(2^60 / d) nothing has to be summed; this is what ordinary embeddings meet.  Otherwise
    the sums stand in limbs: S = A 2^32 + B 2^17 + C = top 2^16 + rest, and S <= 2^60 means top < 2^44, or top = 2^44
    and rest = 0.
    """
    harmless = math.isqrt(MAX_SQUARED_NORM // matrix.shape[1])
    for start, rows in _row_blocks(matrix):
        if int(rows.max()) <= harmless and int(rows.min()) >= -harmless:
            continue
        wide = rows.astype(np.int64)
        high_high, high_low, low_low = units.limb_sums(wide)
        top = (high_high << 16) + (high_low << 1) + (low_low >> 16)
        too_long = (top > 1 << 44) | ((top == 1 << 44) & ((low_low & 0xFFFF) > 0))
        if too_long.any():
            row = int(np.argmax(too_long))
            squared = units.squared_norms(wide[row : row + 1])[0]
            limit, unit = _NORM_BITS, "raw units"
            if format is not None:
                limit, unit = _NORM_BITS - FORMATS[format], format
            raise RangeError(
                f"{what} {start + row} is too long: expected a Euclidean norm of at most {1 << limit} in {unit} "
                f"(a squared raw norm of at most 2^60 = {MAX_SQUARED_NORM}), "
                f"found about {math.isqrt(squared) / (1 << (_NORM_BITS - limit)):.6g} (squared raw norm {squared})"
            )
