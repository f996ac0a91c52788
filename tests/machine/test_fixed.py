"""The number door, judged by exact fractions and Python integers written here, not by its own output."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detmem.errors import DimensionError, RangeError, UsageError
from detmem.machine import fixed

FORMATS = {"Q16.16": 16, "Q8.24": 24, "Q4.28": 28}
formats = st.sampled_from(sorted(FORMATS))
any_float = st.floats(allow_nan=False, allow_infinity=False)  # subnormals and 1e308 included


def admit(x, metric="l2", format="Q16.16", dimension=None, collection="notes", **more):
    width = dimension if dimension is not None else np.shape(x)[-1]
    return fixed.admit_vectors(x, dimension=width, metric=metric, format=format, collection=collection, **more)


def admit_raw(raw, dimension=None):
    return fixed.admit_raw(raw, dimension=dimension or np.shape(raw)[-1], collection="notes")


# --- the oracle: spec/numbers.md in fractions -------------------------------------------------------------------------


def nearest_even(value: Fraction) -> int:
    """Half to even, from the definition: the floor, and what is left."""
    whole = math.floor(value)
    rest = value - whole
    return whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


def unit_vector(row, bits: int) -> list[int]:
    exact = [Fraction(float(x)) for x in row]
    exponent = math.frexp(max(abs(float(x)) for x in row))[1]
    scaled = [nearest_even(x * Fraction(2) ** (31 - exponent)) for x in exact]
    root = math.isqrt(sum(r * r for r in scaled) << 6)
    return [nearest_even(Fraction(r << (bits + 3), root)) for r in scaled]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("l2", "l2"), ("sqeuclidean", "l2"), ("ip", "ip"), ("dot", "ip"), ("inner_product", "ip"),
        ("cosine", "cosine"), ("cos", "cosine"),
    ],
)  # fmt: skip
def test_every_alias_of_a_metric_has_one_spelling(name, metric):
    assert fixed.canonical_metric(name) == metric


@pytest.mark.parametrize("name", ["euclid", "L2", "", None, 3, ["l2"]])
def test_an_unknown_metric_or_format_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(UsageError, match="sqeuclidean"):
        fixed.canonical_metric(name)
    with pytest.raises(UsageError, match=r"Q16\.16, Q8\.24, Q4\.28"):
        fixed.fraction_bits(name)


# --- quantize ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        (1.0, 65536),
        (-1.0, -65536),
        (0.5 / 65536, 0),  # halves go to even
        (1.5 / 65536, 2),
        (2.5 / 65536, 2),
        (-0.5 / 65536, 0),
        (-1.5 / 65536, -2),
        (-2.5 / 65536, -2),
        (math.nextafter(0.5, 1) / 65536, 1),  # a hair above and below the half
        (math.nextafter(0.5, 0) / 65536, 0),
        (-math.nextafter(0.5, 0) / 65536, 0),
        (-math.nextafter(2.5, 3) / 65536, -3),
        (-0.0, 0),
        (5e-324, 0),
        (-5e-324, 0),
        (1e-300, 0),
        (32767.99998474121, 2147483647),  # 2^15 - 2^-16
        (-32768.0, -2147483648),
        (-32768.0 - 0.5 / 65536, -2147483648),  # -2^31 - 1/2 is halfway to an odd number: it stays in range
        (math.nextafter(32768.0 - 0.5 / 65536, 0), 2147483647),
    ],
)
def test_rounding_worked_on_paper(value, raw):
    assert fixed.quantize(value) == raw


@given(st.lists(any_float, min_size=1, max_size=8), formats)
@example([1e300, -1e300], "Q4.28")
@example([2.2250738585072014e-308, 5e-324], "Q16.16")
def test_quantize_is_the_nearest_even_fraction_or_a_refusal(values, format):
    raws = [nearest_even(Fraction(x) * 2 ** FORMATS[format]) for x in values]
    if all(-(2**31) <= raw < 2**31 for raw in raws):
        assert fixed.quantize(values, format).tolist() == raws
    else:
        with pytest.raises(RangeError):
            fixed.quantize(values, format)
    clipped = [min(max(raw, -(2**31)), 2**31 - 1) for raw in raws]
    assert fixed.quantize(values, format, overflow="clip").tolist() == clipped


@given(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-1, 0, 1]), formats)
def test_quantize_at_and_beside_every_half(raw, beside, format):
    half = math.nextafter(raw + 0.5, beside * math.inf) if beside else raw + 0.5
    expected = nearest_even(Fraction(half))
    value = half * 2.0 ** -FORMATS[format]
    if expected < 2**31:
        assert int(fixed.quantize(value, format)) == expected
    else:
        with pytest.raises(RangeError):
            fixed.quantize(value, format)


@pytest.mark.parametrize("format", FORMATS)
def test_two_hundred_thousand_random_values_against_python_ints(format):
    """k / 2^8 raw units, k an integer: the quotient and remainder of Python ints decide."""
    bits = FORMATS[format]
    numerators = np.random.default_rng(7).integers(-(2**39) + 2**8, 2**39 - 2**8, size=200_000)
    raw = fixed.quantize(numerators * 2.0 ** -(bits + 8), format)
    expected = []
    for k in numerators.tolist():
        whole, rest = divmod(k, 256)
        expected.append(whole + (rest > 128 or (rest == 128 and whole % 2 == 1)))
    assert raw.tolist() == expected


@pytest.mark.parametrize(
    "dtype", ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "i1", "u1", "<i2", ">u2", ">i4", ">i8", "<u8"]
)
def test_every_width_and_byte_order_holds_the_same_numbers(dtype):
    x = np.array([[0, 1, 2], [3, 100, 7]], dtype=dtype)
    assert fixed.quantize(x).tolist() == [[0, 65536, 131072], [196608, 6553600, 458752]]
    signed = np.dtype(dtype).kind != "u"
    y = np.array([[3, -4 if signed else 4]], dtype=dtype)
    assert admit(y, "cosine").tolist() == [[39322, -52429 if signed else 52429]]  # 0.6 and 0.8 of 65536


def test_float16_and_float32_are_rounded_as_the_numbers_they_are():
    for dtype in (np.float16, np.float32):
        x = np.random.default_rng(1).standard_normal(2000).astype(dtype)
        expected = [nearest_even(Fraction(float(v)) * 2**16) for v in x]
        assert fixed.quantize(x).tolist() == expected


def test_shape_is_kept_and_the_input_is_not_touched():
    for shape in [(), (5,), (3, 4), (2, 3, 4), (1, 1, 1, 2)]:
        x = np.full(shape, 0.25)
        x.flags.writeable = False
        raw = fixed.quantize(x)
        assert (raw.shape, raw.dtype) == (shape, np.int32)
        assert (raw == 16384).all()


def test_strided_fortran_and_mapped_arrays_give_the_bits_of_their_copy(tmp_path):
    base = np.random.default_rng(2).standard_normal((300, 512))
    path = tmp_path / "x.npy"
    np.save(path, base)
    mapped = np.load(path, mmap_mode="r")
    for view in (base[::3, ::-2], np.asfortranarray(base), base.T, mapped, mapped[5:200, 3:]):
        copy = np.array(view, order="C")
        assert fixed.quantize(view).tobytes() == fixed.quantize(copy).tobytes()
        for metric in fixed.METRICS:
            admitted = admit(view, metric)
            assert admitted.flags.c_contiguous
            assert admitted.tobytes() == admit(copy, metric).tobytes()


def test_a_list_of_lists_is_an_array():
    assert fixed.quantize([[1, 2.5], [0, -1]]).tolist() == [[65536, 163840], [0, -65536]]


@pytest.mark.parametrize(
    ("x", "where"),
    [
        (math.nan, "nan"),
        ([0.0, math.nan], "column 1.*nan"),
        ([[0.0, 1.0], [2.0, math.inf]], "row 1, column 1.*inf"),
        ([[0.0, 40000.0], [2.0, 1.0]], r"row 0, column 1: expected -32768 <= value < 32768.*found 40000\.0"),
        ([-math.inf], "column 0.*-inf"),
        ([32768.0], r"column 0.*32768\.0"),
        ([32768.0 - 0.5 / 65536], "column 0"),  # halfway to 2^31, which is even and out of range
        ([[[0.0, 1e308]]], r"index \(0, 0, 1\).*1e\+308"),
        ([1, 2**53 + 1], "9007199254740993"),
        ([-(2**63)], r"-9\.2"),
        ([2**64 - 1], "18446744073709551615"),
    ],
)
def test_what_cannot_be_held_is_refused_with_its_place(x, where):
    with pytest.raises(RangeError, match=where):
        fixed.quantize(x)


def test_the_place_is_right_in_a_late_block():
    x = np.ones((900, 300), dtype=np.float32)
    x[877, 123] = np.nan
    for metric in fixed.METRICS:
        with pytest.raises(RangeError, match=r"vector 877, column 123.*nan"):
            admit(x, metric)
    with pytest.raises(RangeError, match="row 877, column 123"):
        fixed.quantize(np.asfortranarray(x))


def test_clipping_is_asked_for_and_never_hides_nan():
    ends = [2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 65536]
    assert fixed.quantize([math.inf, -math.inf, 1e308, -32769.0, 1.0], overflow="clip").tolist() == ends
    with pytest.raises(RangeError, match=r"column 1.*nan"):
        fixed.quantize([1.0, math.nan], overflow="clip")


@pytest.mark.parametrize("overflow", ["wrap", None, True, ""])
def test_an_unknown_overflow_is_refused(overflow):
    with pytest.raises(UsageError, match="overflow"):
        fixed.quantize([1.0], overflow=overflow)


@pytest.mark.parametrize(
    "x",
    [
        [], np.zeros((0, 4)), np.zeros((4, 0)), None, "1.0", ["1.0"], b"12", [None, 1.0], [True, False], np.array([1 +
        2j]), np.array([1.0], dtype=np.longdouble), np.array([1.0], dtype=object), [Fraction(1, 2)], [10**30], [10**400,
        1.0], np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["2020"], dtype="M8[Y]"), {"a": 1}, [[1.0], [2.0,
        3.0]],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_not_numbers_is_refused(x):
    with pytest.raises(UsageError):
        fixed.quantize(x)


@given(st.integers(-(2**63), 2**64 - 1))
@example(2**53)
@example(2**53 + 1)
@example(2**63)
@example(-(2**63))
@example(2**64 - 2**11)
def test_an_integer_passes_if_and_only_if_float64_holds_it(value):
    """Under cosine, where any size is admitted: NumPy would round such integers without a word."""
    for x in ([value], [value, 0.5], np.array([[value]])):
        if int(float(value)) != value:
            with pytest.raises(RangeError, match=str(value)):
                admit(x, "cosine")
        elif value:
            assert admit(x, "cosine")[0, 0] == (65536 if value > 0 else -65536) or abs(value) < 2**20


# --- dequantize, distances --------------------------------------------------------------------------------------------


@given(st.integers(-(2**31), 2**31 - 1), formats)
def test_dequantize_is_exact_and_undone_by_quantize(raw, format):
    value = fixed.dequantize(raw, format)
    assert value.dtype == np.float64
    assert Fraction(float(value)) == Fraction(raw, 2 ** FORMATS[format])
    assert int(fixed.quantize(value, format)) == raw


def test_dequantize_takes_raw_integers_only():
    assert fixed.dequantize(np.array([[65536, -32768]], dtype=">i8")).tolist() == [[1.0, -0.5]]
    assert fixed.dequantize(np.empty((0, 3), dtype=np.int32)).shape == (0, 3)
    with pytest.raises(UsageError, match="raw integers"):
        fixed.dequantize([1.0])
    for raw in (2**31, -(2**31) - 1, 2**64 - 1):
        with pytest.raises(RangeError, match=f"column 0.*{raw}"):
            fixed.dequantize([raw])


def test_distances_for_people():
    raw = np.array([0, 1, -(2**40), 2**62], dtype=np.int64)
    for name, bits in FORMATS.items():
        scale = 2.0 ** (2 * bits)
        assert fixed.distances_to_float(raw, "l2", name).tolist() == [
            0.0,
            1 / scale,
            -(2.0**40) / scale,
            2.0**62 / scale,
        ]
        assert fixed.distances_to_float(raw, "ip", name).tolist()[3] == 2.0**62 / scale
        assert fixed.distances_to_float(raw, "cosine", name).tolist()[3] == 2.0**61 / scale


# --- shapes at the door -----------------------------------------------------------------------------------------------


def test_one_vector_and_a_matrix_of_one_are_admitted_alike():
    for metric in fixed.METRICS:
        one, matrix = admit([0.5, 0.25], metric), admit([[0.5, 0.25]], metric)
        assert one.shape == matrix.shape == (1, 2)
        assert one.tolist() == matrix.tolist()
    assert admit_raw([1, 2]).tolist() == admit_raw([[1, 2]]).tolist() == [[1, 2]]


def test_a_ragged_row_is_named():
    rows = [[0.0] * 384 for _ in range(20)]
    rows[17] = [0.0] * 383
    expected = "vector 17 has 383 dimensions, collection 'notes' has 384"
    for call in (
        lambda: admit(rows, dimension=384),
        lambda: admit_raw([[int(x) for x in row] for row in rows], dimension=384),
        lambda: fixed.as_array(rows, "vector", dimension=384, collection="notes"),
        lambda: admit([np.array(row) for row in rows], dimension=384),
    ):
        with pytest.raises(DimensionError, match=expected):
            call()
    with pytest.raises(DimensionError, match="vector 17 has 383 dimensions, vector 0 has 384"):
        fixed.as_array(rows, "vector")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, 2.0, 3.0], "vector has 3 dimensions, collection 'notes' has 2"),
        ([[1.0, 2.0, 3.0]], "vector 0 has 3 dimensions, collection 'notes' has 2"),
        ([], "vector has 0 dimensions, collection 'notes' has 2"),
        (1.0, "expected a 1-D or a 2-D array, found 0-D"),
        ([[[1.0, 2.0]]], "found 3-D"),
        ([[1.0, 2.0], 3.0], "vector 1 is a single float"),
        ([[1.0, [2.0]], [1.0, 2.0]], "vector 0 holds sequences"),
    ],
)
def test_another_shape_is_refused_and_described(x, message):
    with pytest.raises(DimensionError, match=message):
        admit(x, dimension=2)


def test_no_rows_of_the_right_width_are_no_rows():
    for metric in fixed.METRICS:
        assert admit(np.empty((0, 5)), metric).shape == (0, 5)
    assert admit_raw(np.empty((0, 5), dtype=np.int32)).shape == (0, 5)


def test_admitted_rows_are_never_a_view_of_the_callers():
    raw = np.arange(6, dtype=np.int32).reshape(2, 3)
    admitted = admit_raw(raw)
    raw[:] = 9
    assert admitted.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">u2", "<i4", ">i4", "<u4", ">i8", "<u8"])
def test_raw_integers_of_any_width_and_byte_order(dtype):
    assert admit_raw(np.array([[1, 2], [3, 127]], dtype=dtype)).tolist() == [[1, 2], [3, 127]]


def test_raw_refuses_floats_and_what_int32_cannot_hold():
    with pytest.raises(UsageError, match="expected raw integers, found float64"):
        admit_raw([[1.0, 2.0]])
    for value in (2**31, -(2**31) - 1, 2**63):
        with pytest.raises(RangeError, match=f"vector 1, column 0.*{value}"):
            admit_raw(np.array([[0, 0], [value, 0]], dtype=np.uint64 if value > 0 else np.int64))


# --- admission --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 64), st.randoms(use_true_random=False), st.integers(-3, 3))
def test_admission_is_the_sum_of_squares_in_python_ints(dimension, random, offset):
    """Rows whose squared norm lies within a few units of 2^60, on either side."""
    share = math.isqrt(2**60 // dimension)
    row = [random.choice((-1, 1)) * max(0, share - random.randrange(3)) for _ in range(dimension)]
    rest = 2**60 - sum(x * x for x in row[1:])
    row[0] = math.isqrt(rest) + offset
    if sum(x * x for x in row) <= 2**60:
        assert admit_raw(row).tolist() == [row]
    else:
        with pytest.raises(RangeError, match="too long"):
            admit_raw(row)


@pytest.mark.parametrize(
    ("row", "admitted"),
    [
        ([2**30], True),
        ([-(2**30)], True),
        ([2**30 + 1], False),
        ([-(2**30) - 1], False),
        ([2**30, 1], False),  # 2^60 + 1
        ([2**30, 0], True),
        ([-(2**31)] * 4, False),  # 4 * 2^62 = 2^64, which is 0 in int64
        ([-(2**31)] * 65536, False),
        ([2**31 - 1] * 65536, False),
        ([2**22] * 65536, True),  # 2^16 * 2^44 = 2^60
        ([2**22] * 65535 + [2**22 + 1], False),
        ([2**29] * 4, True),
        ([2**29] * 4 + [1], False),
    ],
    ids=lambda value: f"{value[0]}x{len(value)}" if isinstance(value, list) else str(value),
)
def test_admission_at_its_corners(row, admitted):
    if admitted:
        assert admit_raw(row).tolist() == [row]
    else:
        with pytest.raises(RangeError, match="2\\^60"):
            admit_raw(row)


def test_a_long_vector_is_named_with_its_limit():
    x = np.zeros((500, 200))
    x[321, :2] = 16384.0, 1.0
    with pytest.raises(RangeError, match=r"vector 321 is too long: .* at most 16384 in Q16\.16"):
        admit(x, "ip")
    with pytest.raises(RangeError, match=r"at most 64 in Q8\.24"):
        admit([[65.0]], "l2", "Q8.24")
    with pytest.raises(RangeError, match=r"at most 4 in Q4\.28.*found about 5 "):
        admit([[3.0, 4.0]], "l2", "Q4.28")
    assert admit([[16384.0]]).tolist() == [[2**30]]


# --- cosine -----------------------------------------------------------------------------------------------------------


def test_unit_vectors_worked_on_paper():
    """3, 4: e = 3, r = 3 * 2^28 and 4 * 2^28, n = isqrt(64 * 25 * 2^56) = 40 * 2^28; u = round(3 * 2^16 / 5) and so
    XX on."""
    assert admit([3.0, 4.0], "cosine").tolist() == [[39322, 52429]]  # 39321.6 and 52428.8
    assert admit([-3e300, 4e300], "cosine").tolist() == admit([-3e-300, 4e-300], "cosine").tolist() == [[-39322, 52429]]
    assert admit([0.0, -5e-324, 0.0], "cosine").tolist() == [[0, -65536, 0]]  # the smallest float has a direction
    assert admit([1.7976931348623157e308], "cosine", "Q4.28").tolist() == [[2**28]]
    assert admit(np.array([6e-8, 0.0], dtype=np.float16), "cosine").tolist() == [[65536, 0]]
    assert admit(np.array([0.0, 1e-45], dtype=np.float32), "cosine").tolist() == [[0, 65536]]
    assert admit([1e308, 1e-308], "cosine").tolist() == [[65536, 0]]
    assert admit([1.0] * 4, "cosine", "Q8.24").tolist() == [[2**23] * 4]


rows_of_floats = st.lists(any_float, min_size=1, max_size=12).filter(any)
tame = st.floats(-4, 4, width=32)


@given(st.one_of(rows_of_floats, st.lists(tame, min_size=1, max_size=12).filter(any)), formats)
@example([5e-324, 1.5e-323, -2e-323], "Q4.28")
@example([2.0**31 - 1, 2.0**30 + 0.5, 2.0**-1074], "Q4.28")
@example([math.nextafter(1.0, 0), 0.5, -0.25], "Q16.16")
def test_cosine_is_the_integer_rule_of_the_spec(row, format):
    assert admit(row, "cosine", format).tolist() == [unit_vector(row, FORMATS[format])]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 2, 127, 4096])
def test_cosine_of_random_rows_of_every_float_width(dtype, dimension):
    random = np.random.default_rng(dimension)
    x = random.standard_normal((6, dimension)) * 2.0 ** random.integers(-10, 10, size=(6, 1))
    x[0] *= 2.0**-18  # float16 subnormals
    x = x.astype(dtype)
    x[:, 0] = 1.0
    for name, bits in FORMATS.items():
        assert admit(x, "cosine", name).tolist() == [unit_vector(row, bits) for row in x]


def test_a_row_does_not_depend_on_its_neighbours():
    x = np.random.default_rng(5).standard_normal((400, 333)) * np.logspace(-300, 300, 400)[:, None]
    assert admit(x, "cosine").tolist() == [admit(row, "cosine").tolist()[0] for row in x]


@given(st.integers(2, 40), st.integers(0, 2**32), formats)
def test_the_unit_vector_is_within_the_proven_error(dimension, seed, format):
    """spec/numbers.md: |u - w| <= 1/2 + 2^(f-31) (1 + sqrt(d) |w| / 2^f) + 2^(f-32)."""
    bits = FORMATS[format]
    x = np.random.default_rng(seed).standard_normal(dimension)
    exact = [Fraction(v) for v in x.tolist()]
    root = Fraction(math.isqrt(int(sum(v * v for v in exact) * 2**240)), 2**120)  # the norm, to 100 bits and more
    for u, v in zip(admit(x, "cosine", format)[0].tolist(), exact, strict=True):
        share = abs(v / root)
        bound = Fraction(1, 2) + Fraction(2**bits, 2**31) * (1 + (math.isqrt(dimension) + 1) * share)
        assert abs(u - v / root * 2**bits) <= bound + Fraction(2**bits, 2**32)


def test_a_zero_vector_has_no_direction():
    x = np.ones((300, 400))
    x[251] = 0
    with pytest.raises(RangeError, match="vector 251 is zero"):
        admit(x, "cosine")
    with pytest.raises(RangeError, match="query is zero"):
        admit(-np.zeros(3), "cosine", what="query")
    assert admit([[0.0, 0.0]], "l2").tolist() == [[0, 0]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("metric", fixed.METRICS)
def test_no_metric_admits_what_is_not_finite(value, dtype, metric):
    x = np.ones((3, 2), dtype=dtype)
    x[2, 1] = value
    with pytest.raises(RangeError, match=f"vector 2, column 1.*{value}"):
        admit(x, metric)
    with pytest.raises(RangeError, match=f"^vector, column 1: .*{value}"):
        admit(x[2], metric)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", fixed.METRICS)
def test_memory_beside_the_result_is_a_few_megabytes(metric):
    x = np.ones((40_000, 384), dtype=np.float16)[:, ::-1]
    tracemalloc.start()
    admitted = admit(x, metric)
    beside = tracemalloc.get_traced_memory()[1] - admitted.nbytes
    tracemalloc.stop()
    assert beside < 16 << 20
