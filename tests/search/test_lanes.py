"""Sixteen rows at once: what is emitted, against the plain functions that say what it means."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from detmem import search
from detmem.search import kernels, lanes

SEED = 20


def test_the_cache_of_the_kernels_knows_the_lanes_that_are_compiled_into_them():
    """Numba looks at the date of kernels.py only.  After a change of lanes.py, write its hash into ``LANES``."""
    text = Path(lanes.__file__).read_bytes()
    assert hashlib.sha256(text).hexdigest()[:16] == kernels.LANES


@njit
def one_block(data, block, query, products):
    lanes.dots(data, block, query, products)


@njit
def one_tile(data, block, queries, tile, products):
    lanes.dots_of_tile(data, block, queries, tile, products)


@njit
def all_bounds(products, member, first, base, shift, rho, numbers, quantum, mask, out, above, above_shown):
    surplus, t, alpha, shared = numbers
    lanes.lower(products, member, first, base, shift, rho, surplus, t, alpha, shared, out)
    least = lanes.least(products, member, first, base, shift, rho, surplus, t, alpha, quantum, above, 0)
    return least, lanes.least_shown(
        products, member, first, base, shift, rho, surplus, t, alpha, quantum, above_shown, 16, mask
    )


def queries(random, kind, shape):
    """Query bytes at the ends of their range, and between."""
    if kind == "limbs":
        high = random.choice([-127, -1, 0, 64, 127], size=(*shape, 4))
        low = random.choice([-64, -1, 0, 1, 63], size=(*shape, 4))
        return np.concatenate([high, low], axis=-1).astype(np.int8)
    each = random.choice([-16319, -1, 0, 7, 16319], size=(*shape, 1, 4))
    return np.repeat(each, 16, axis=-2).reshape(*shape, 64).astype(np.int16)


KINDS = ["int16", "limbs"] if lanes.byte_dot_product() else ["int16"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 25, 511, 512, 513, 1025, 16384])
def test_products_are_those_of_python(kind, steps):
    random = np.random.default_rng(SEED)
    data = random.choice([-127, 127, 0, -1, 5], size=(3, steps, 64)).astype(np.int8)
    data[1] = 127
    query = queries(random, kind, (steps,))
    if kind == "limbs":
        query[:, :4], query[:, 4:] = 127, 63
    found, expected = np.empty((1, 16), dtype=np.int64), np.empty((1, 16), dtype=np.int64)
    for block in range(3):
        one_block(data, block, query, found)
        lanes._plain_dots(data, block, query, expected)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 7, 600])
def test_products_of_a_tile_are_those_of_its_queries(kind, steps):
    random = np.random.default_rng(SEED)
    data = random.integers(-127, 127, size=(2, steps, 64), endpoint=True).astype(np.int8)
    shape = (2, steps, lanes.TILE) if kind == "limbs" else (2, lanes.TILE, steps)
    tiles = queries(random, kind, shape)
    if kind == "limbs":
        tiles = np.ascontiguousarray(tiles[..., :4])  # in a tile there is one
    found, expected = np.empty((lanes.TILE, 16), dtype=np.int64), np.empty((lanes.TILE, 16), dtype=np.int64)
    for tile in range(2):
        one_tile(data, 1, tiles, tile, found)
        lanes._plain_dots_of_tile(data, 1, tiles, tile, expected)
        assert found.tolist() == expected.tolist()


def test_bounds_are_those_of_python_ints():
    random = np.random.default_rng(SEED)
    for _ in range(200):
        products = random.integers(-(2**37), 2**37, size=(3, 16))
        base = random.integers(0, 2**59, size=48)
        shift = random.integers(0, 8, size=48).astype(np.uint8)
        rho = random.integers(0, 2**30, size=48, endpoint=True).astype(np.int32)
        mask = random.random(48) < random.random()
        numbers = tuple(int(random.integers(0, top, endpoint=True)) for top in (2**30, 15, 2**31, 2**61))
        surplus, t, alpha, shared = numbers
        member, first = int(random.integers(3)), 16 * int(random.integers(3))
        quantum = int(random.integers(0, 50, endpoint=True))
        out, above, above_shown = np.empty(16, dtype=np.int64), np.empty(16, np.uint8), np.empty((2, 16), np.uint8)
        least, least_shown = all_bounds(
            products, member, first, base, shift, rho, numbers, quantum, mask, out, above, above_shown
        )
        plain = [
            int(base[i]) - ((int(products[member, i - first]) - surplus) << (int(shift[i]) + t)) - int(rho[i]) * alpha
            for i in range(first, first + 16)
        ]
        shown = [value for value, live in zip(plain, mask[first:], strict=False) if live]
        assert out.tolist() == [value - shared for value in plain]
        assert (least, least_shown) == (min(plain), min(shown, default=2**63 - 1))
        assert above.tolist() == [min((value - least) >> quantum, 255) for value in plain]
        hidden = [value if live else 2**63 - 1 for value, live in zip(plain, mask[first:], strict=False)]
        assert above_shown[1].tolist() == [min((value - least_shown) >> quantum, 255) for value in hidden]


@pytest.mark.parametrize("triple", ["s390x-linux-gnu", "mips64el-unknown-linux-gnuabi64"])
def test_where_numba_crashes_nothing_compiled_is_offered(triple, monkeypatch):
    """Both were seen on emulated machines; a platform must say why it is slow, and answer."""
    monkeypatch.setattr(lanes.llvm, "get_default_triple", lambda: triple)
    search._refusal.cache_clear()
    try:
        refusals = search.available_kernels()
        assert refusals["reference"] is None
        assert triple in refusals["portable"]
        assert triple in refusals["native"]
        assert search.chosen_kernel("auto", 1 << 30, 1) == "reference"
    finally:
        search._refusal.cache_clear()
