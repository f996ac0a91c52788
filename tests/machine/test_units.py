"""What floats propose is what integers decide, or it is not called settled (spec/numbers.md, "Unit vectors")."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detmem.machine import fixed, units

ROOT = Path(__file__).resolve().parents[2]
BITS = sorted(fixed.FORMATS.values())
FORMATS = {bits: name for name, bits in fixed.FORMATS.items()}

# Halves of last places, powers of two and their neighbours: where rounding is decided, and where floats end.
AWKWARD = [0.0, -0.0, 0.5, -0.5, 1.5, 2.0**-9, 3 * 2.0**-10, 1 + 2.0**-23, 1 - 2.0**-24, 2.0**-31, 1e-45, 1e-320, 1e300]
components = st.one_of(st.sampled_from(AWKWARD), st.floats(allow_nan=False, allow_infinity=False), st.floats(-1, 1))


@pytest.fixture(scope="module")
def twin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detmem_spec_reference", ROOT / "spec" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.lists(components, min_size=1, max_size=6), st.sampled_from(BITS))
@example([1.0, 2.0**-31], 16)
@example([1.0, -(2.0**-32)], 28)
@example([3.0, 4.0], 16)
@example([1e-320, 1e-322], 16)
@example([1e300, -1e299], 24)
def test_a_settled_row_is_the_row_of_the_twin(twin: ModuleType, row: list[float], bits: int) -> None:
    if not any(row):
        return
    expected = twin.normalise(row, FORMATS[bits])
    out = np.full((2, len(row)), 77, dtype=np.int32)
    if units.propose(np.array([row]), bits, out[:1], units.room_for(1, len(row))).all():
        assert out[0].tolist() == expected
    if units.propose_one(np.array(row), bits, out[1]):
        assert out[1].tolist() == expected
    door = {"dimension": len(row), "metric": "cosine", "format": FORMATS[bits], "collection": "c"}
    assert fixed.admit_vectors(row, **door).tolist() == [expected]
    assert fixed.admit_vectors([row, row], **door).tolist() == [expected, expected]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("dimension", [1, 2, 3, 384, 5000])
def test_many_rows_are_settled_and_settled_rows_are_exact(bits: int, dtype: type, dimension: int) -> None:
    rng = np.random.default_rng(20260303)
    rows = rng.standard_normal((60, dimension)).astype(dtype)
    rows[::3] = np.round(rows[::3] * 16) / 16  # many ties
    rows[rows.any(axis=1) == 0] = 1
    out = np.empty(rows.shape, dtype=np.int32)
    settled = units.propose(rows, bits, out, units.room_for(7, dimension))
    exact = units.exactly(rows, bits, ["row"] * len(rows))
    assert (out[settled] == exact[settled]).all()
    assert settled.sum() >= 50, "the fast path is taken by ordinary rows"
    for row, expected in zip(rows, exact, strict=True):
        if units.propose_one(row, bits, out[0]):
            assert (out[0] == expected).all()


@pytest.mark.parametrize("bad", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0], [1e-200, 0.0], [1e200, 1e200]])
def test_what_floats_cannot_judge_is_left_open(bad: list[float]) -> None:
    out = np.empty((3, 2), dtype=np.int32)
    rows = np.array([[3.0, 4.0], bad, [1.0, 1.0]])
    assert units.propose(rows, 16, out, units.room_for(3, 2)).tolist() == [True, False, True]
    assert not units.propose_one(np.array(bad), 16, out[0])


@given(st.lists(st.one_of(st.sampled_from(AWKWARD[:-1]), st.floats(-(2.0**31), 2.0**31)), min_size=1, max_size=8))
@example([0.5 - 2.0**-54, 0.5 + 2.0**-53, -0.5 + 2.0**-54, -(2.0**-1074), 2.5, -2.5, 2.0**31 - 0.5])
def test_rounding_is_half_to_even(values: list[float]) -> None:
    array = np.array(values)
    whole, spare = np.empty((2, len(values)))
    units.round_half_even(array, whole, spare)
    assert whole.tolist() == [round(value) for value in values]
    assert array.tolist() == values


def test_the_first_wrong_row_is_named_though_others_are_in_doubt() -> None:
    rows = np.ones((400, 384))
    rows[7] *= 1e-200  # in doubt, and right
    rows[300] = 0
    with pytest.raises(fixed.RangeError, match="vector 300 is zero"):
        fixed.admit_vectors(rows, dimension=384, metric="cosine", format="Q16.16", collection="c")
    rows[301, 5] = np.nan
    with pytest.raises(fixed.RangeError, match="vector 1, column 5: expected a finite number, found nan"):
        fixed.admit_vectors(rows[300:], dimension=384, metric="cosine", format="Q16.16", collection="c")
