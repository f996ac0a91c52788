"""How far from the exact unit vector does the integer normalisation land, in units in the last place?

Random rows (Gaussian, positive, Cauchy) in five dimensions and the adversarial row of spec/numbers.md, against unit
vectors computed with Python integers to 64 more bits.  The bound that is proved there must hold for every component.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import numpy as np
from common import ROOT, table, write

sys.path.insert(0, str(ROOT))
from detmem.machine import fixed

GUARD_BITS = 64
ROWS = {2: 500, 3: 500, 384: 40, 4096: 6, 65536: 2}


def main() -> None:
    lines = []
    for name, bits in fixed.FORMATS.items():
        random = max(worst(row, name, bits) for row in random_rows())
        adverse = worst(adversarial_row(), name, bits)
        lines.append([name, f"{random:.4f}", f"{adverse:.2f}"])
    columns = ["format", "largest error, random rows, ulp", "adversarial row, d = 65536, ulp"]
    write(
        "cosine_error",
        "Error of the integer normalisation",
        f"Rows a family and dimension: {ROWS}.\n\n" + table(columns, lines),
    )


def random_rows() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(20260404)
    for dimension, count in ROWS.items():
        for _ in range(count):
            yield rng.standard_normal(dimension)
            yield np.abs(rng.standard_normal(dimension))
            yield rng.standard_cauchy(dimension)


def adversarial_row() -> np.ndarray:
    row = np.full(65536, 2.0**22 + 0.499)
    row[0] = 2.0**30 + 0.499
    return row


def worst(row: np.ndarray, name: str, bits: int) -> float:
    """The largest |u - w| of a row in units in the last place; every component obeys the proved bound."""
    unit = fixed.admit_vectors(row, dimension=len(row), metric="cosine", format=name, collection="bench")[0].tolist()
    ratios = [value.as_integer_ratio() for value in row.tolist()]
    depth = max(below.bit_length() for _, below in ratios)
    exact = [above << (depth - below.bit_length()) for above, below in ratios]
    norm = math.isqrt(sum(value * value for value in exact) << 2 * GUARD_BITS)
    largest = 0.0
    for found, value in zip(unit, exact, strict=True):
        wanted = (value << (bits + 2 * GUARD_BITS)) // norm  # w * 2^GUARD_BITS
        error = abs((found << GUARD_BITS) - wanted) / 2.0**GUARD_BITS
        share = abs(wanted) / 2.0 ** (GUARD_BITS + bits)
        assert error <= 0.5 + 2.0 ** (bits - 31) * (1 + math.sqrt(len(row)) * share) + 2.0 ** (bits - 32)
        largest = max(largest, error)
    return largest


if __name__ == "__main__":
    main()
