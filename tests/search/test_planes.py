"""Planes: rows come back from their halves, every bound holds for every row, and nothing learned or shared among
threads changes an answer."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detmem import search
from detmem.machine import vectors
from detmem.machine.vectors import Vectors
from detmem.parallel import Workers
from detmem.search import answers, front, planes
from detmem.search.front import Front
from tests.search.asking import AVAILABLE, COMPILED, NEVER, ask, held, nearest

SEED = 31


def longest(dimension: int) -> int:
    return math.isqrt(2**60 // dimension)


@st.composite
def matrices(draw, most_rows: int = 70, most_dimensions: int = 70):
    """Admitted rows of every size at once: a shift of its own for each."""
    dimension = draw(st.integers(1, most_dimensions))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, most_rows))
    tops = np.array([1, 127, 128, 254, 255, 2**15, 2**16, 127 * 2**16, 255 * 2**15, 2**24, 2**30])
    tops = np.minimum(random.choice(tops, size=(count, 1)), longest(dimension))
    rows = random.integers(-tops, tops, size=(count, dimension), endpoint=True).astype(np.int32)
    if draw(st.booleans()):
        rows[random.integers(count)] = 0
        rows[random.integers(count), random.integers(dimension)] = draw(st.sampled_from([2**30, -(2**30)]))
        rows[np.einsum("ij,ij->i", rows.astype(np.int64), rows.astype(np.int64)) > 2**60] = 1
    return rows, random


def any_front(random: np.random.Generator, dimension: int, width: int) -> Front:
    """A front that learned nothing: any directions at all."""
    basis = np.linalg.qr(random.standard_normal((dimension, width)))[0].T
    made = front._front(basis, int(random.integers(1, width, endpoint=True)), int(random.integers(0, 14)))
    assert made is not None
    return made._replace(typical=int(random.choice([1, 1 << 10, 1 << 20, 1 << 31])))


# --------------------------------------------------------------------------------------------------------------- rows


@given(matrices(700, 30), st.data())
def test_rows_come_back_bit_for_bit_whatever_the_order_of_appends_and_reads(case, data):
    rows, random = case
    held_rows = Vectors(rows.shape[1])
    moments = []
    at = 0
    while at < len(rows):
        size = data.draw(st.sampled_from([1, 2, 15, 16, 17, 100, 300]))
        held_rows.append(rows[at : at + size])
        at += size
        if data.draw(st.booleans()):
            moments.append(held_rows.moment())
        slots = random.integers(min(at, len(rows)), size=9)
        assert held_rows.take(slots).tolist() == rows[slots].tolist()
    for moment in [*moments, held_rows.moment()]:  # the early ones have not moved under their reader
        assert moment.take(np.arange(moment.count)).tolist() == rows[: moment.count].tolist()
        parts = list(moment.parts(64))
        assert np.concatenate([part for _, part in parts]).tolist() == rows[: moment.count].tolist()
        assert [first for first, _ in parts] == np.cumsum([0, *[len(part) for _, part in parts[:-1]]]).tolist()


def test_rows_fill_chunks_and_leave_full_ones_alone(monkeypatch):
    monkeypatch.setattr(vectors, "_CHUNK_ROWS", 64)
    monkeypatch.setattr(vectors, "_FIRST_ROWS", 16)
    rows = np.arange(900, dtype=np.int32).reshape(300, 3)
    many = Vectors(3)
    many.append(rows[:290])
    before = many.moment()
    many.append(rows[290:])
    after = many.moment()
    assert [piece.count for piece in after.pieces] == [64, 64, 64, 64, 44]
    assert after.take(np.arange(300)).tolist() == rows.tolist()
    for old, new in zip(before.pieces[:4], after.pieces[:4], strict=True):
        assert old.coarse is new.coarse
        assert old.residual is new.residual


def test_a_chunk_of_full_size_is_filled_without_being_copied(monkeypatch):
    monkeypatch.setattr(vectors, "_CHUNK_ROWS", 64)
    monkeypatch.setattr(vectors, "_FIRST_ROWS", 16)
    many = Vectors(3)
    many.append(np.ones((60, 3), dtype=np.int32))
    before = many.moment().pieces[0]
    many.append(np.ones((10, 3), dtype=np.int32))
    after = many.moment().pieces[0]
    assert (before.count, after.count) == (60, 64)
    assert before.coarse is after.coarse


def test_a_row_of_a_large_shift_opens_a_chunk_that_holds_it_and_others_stay_narrow():
    rows = np.ones((400, 5), dtype=np.int32)
    rows[300:] = 2**28
    rows[350:] = 7
    many = held(rows)
    assert [(piece.count, piece.residual.dtype) for piece in many.moment().pieces] == [(300, np.int16), (100, np.int32)]
    assert many.take(np.arange(400)).tolist() == rows.tolist()


@given(arrays.arrays(np.int32, (6, 3), elements=st.integers(-(2**29), 2**29)))
def test_the_split_is_that_of_the_specification(rows):
    coarse, residual, shift = vectors._split(rows)
    for row, c, r, s in zip(rows.tolist(), coarse[:, :3].tolist(), residual.tolist(), shift.tolist(), strict=True):
        assert [(x << s) + y for x, y in zip(c, r, strict=True)] == row
        assert max(map(abs, c)) <= 127
        half = (1 << s) >> 1
        assert all(-half <= y <= max(half - 1, 0) for y in r)
        assert s == 0 or max(abs((x + (half >> 1)) >> (s - 1)) for x in row) > 127  # no smaller shift would do


# ------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize("metric", ["l2", "ip"])
@given(case=matrices())
def test_no_bound_of_a_plane_is_above_the_true_distance(kernel, metric, case):
    """For every row and any query, large and small beside each other: by the coarse plane, by any front, and by what a
    scan of it notes and looks up; for one query, and in a tile."""
    from detmem.search import kernels

    rows, random = case
    dimension = rows.shape[1]
    queries = np.concatenate([rows[:3], -rows[-2:], rows[:2] // 3])
    follower = search.Follower(metric)
    moment = held(rows).moment()
    follower.follow(moment, kernel, 1)
    learned = any_front(random, dimension, int(random.integers(1, dimension, endpoint=True)))
    follower._planes._learned, follower._planes._learned_rows = learned, NEVER
    followed = follower.follow(moment, kernel, 1)
    scan = answers._Scan(kernels, followed, search.Live(np.full(len(rows), NEVER), 0, None), metric == "ip")
    products, bounds = np.empty((1, 16), dtype=np.int64), np.empty(16, dtype=np.int64)
    no_mask, slots = np.zeros(0, dtype=np.bool_), np.zeros(16, dtype=np.int64)

    def check(segment, block, number):
        query = queries[number].tolist()
        for place in range(16 * block, min(16 * block + 16, segment.used)):
            pairs = list(zip(rows[segment.first + place].tolist(), query, strict=True))
            bound = int(bounds[place % 16])
            if metric == "ip":
                assert bound <= -sum(x * q for x, q in pairs)
            else:
                assert 2 * bound + sum(q * q for q in query) <= sum((x - q) ** 2 for x, q in pairs)

    for tile in (1, kernels.TILE):  # with the limbs of one query, and of many
        asked = scan.view(queries, kernel == "native", tile)
        for segment in scan._segments:
            views = asked.front if segment.two_planes else asked.coarse_scanned
            noted = answers._Noted.of(segment, len(views.data))
            for number in range(len(queries)):
                query, constants = views.data[number], views.constants[number]
                note = noted.lowest[number], noted.above[number]
                if tile == 1:
                    kernels.scan(segment.plane, query, constants, no_mask, False, segment.start, segment.stop, *note)
            if tile > 1:
                tiles = views.tiles(tile)
                kernels.scan_tiles(
                    segment.plane, tiles, views.constants, no_mask, False, segment.start, segment.stop, *noted
                )
            for number in range(len(queries)):
                for block in range(segment.start, segment.stop):
                    bounds[:] = noted.lowest[number, block]
                    check(segment, block, number)
                    coarse = asked.coarse
                    kernels._bound(
                        block, segment.coarse, coarse.data[number], coarse.constants[number], products, bounds
                    )
                    check(segment, block, number)
                    if segment.two_planes:
                        above, no_limit = noted.above[number], kernels._NONE - 1
                        constants, rest = views.constants[number], asked.rest
                        count = kernels._candidates(
                            block, block + 1, noted.lowest[number], above, constants[5], no_limit, slots, bounds
                        )
                        assert slots.tolist() == list(range(16 * block, 16 * block + 16))
                        check(segment, block, number)
                        if len(learned.matrix) > learned.width:
                            left = kernels._looked_up(
                                count, segment.plane, constants, above, segment.rest, rest.data[number],
                                rest.constants[number], no_limit, slots, bounds,
                            )  # fmt: skip
                            assert left == count
                            check(segment, block, number)


@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize("metric", ["l2", "ip"])
@given(case=matrices(200, 40), data=st.data())
def test_a_front_that_learned_nothing_changes_no_answer(kernel, metric, case, data):
    rows, random = case
    learned = any_front(random, rows.shape[1], int(random.integers(1, rows.shape[1], endpoint=True)))
    ids = [f"{i:03d}" for i in random.permutation(len(rows))]
    queries = rows[random.integers(len(rows), size=data.draw(st.sampled_from([1, 3, 9])))] // 2
    mask = data.draw(st.sampled_from([None, random.random(len(rows)) < 0.5]))
    k = data.draw(st.integers(1, 30))
    expected = nearest(rows, ids, queries, k, metric, mask, "reference")
    found = ask(held(rows), ids, queries, k, metric, mask, kernel, front=learned)
    for one, other in zip(expected, found, strict=True):
        assert [part.tolist() for part in one] == [part.tolist() for part in other]


# ----------------------------------------------------------------------------------------------------------- learning


def clustered(random, count, dimension):
    """Vectors whose energy lies in few directions, as that of text embeddings does."""
    strengths = 0.85 ** np.arange(dimension)
    return np.rint(random.standard_normal((count, dimension)) * strengths * 20_000).astype(np.int32)


def test_a_front_is_learned_where_it_pays_and_not_on_noise():
    random = np.random.default_rng(SEED)
    learned = front.learn(clustered(random, 4096, 96), 50_000)
    assert learned is not None
    assert learned.width < 96
    assert front.learn(random.integers(-9000, 9000, size=(4096, 96)).astype(np.int32), 50_000) is None


def test_learning_takes_less_memory_than_its_sample():
    """What is large stays with the process when it is given back."""
    sample = clustered(np.random.default_rng(6), 4096, 384)
    tracemalloc.start()
    assert front.learn(sample, 50_000) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sample.nbytes


@pytest.mark.parametrize("sample", [np.zeros((5000, 64)), np.full((5000, 64), 9), np.eye(64)[:1].repeat(5000, axis=0)])
def test_rows_without_directions_are_no_fault(sample):
    learned = front.learn(sample.astype(np.int32), 5000)
    assert learned is None or learned.width <= 48


@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_answers_stay_the_same_while_a_front_is_learned_and_built_behind_new_rows(kernel, metric, monkeypatch):
    monkeypatch.setattr(planes, "_FRONT_ROWS", 2048)
    monkeypatch.setattr(planes, "_WORK_BEFORE", 1 << 14)
    monkeypatch.setattr(planes, "_BUILT_PER_QUERY", 128)
    random = np.random.default_rng(SEED)
    rows = clustered(random, 3000, 96)
    rows[2834] = 2**26  # one that no front of the others holds
    ids = [f"{i:05d}" for i in range(3000)]
    many, follower = Vectors(96), search.Follower(metric)
    seen = set()
    for step in range(60):
        if step % 2 == 0 and step < 30:
            many.append(rows[200 * (step // 2) : 200 * (step // 2) + 200])
        queries = rows[random.integers(many.count, size=1 + step % 9)] + 5
        found = ask(many, ids, queries, 7, metric, None, kernel, follower=follower)
        expected = nearest(rows[: many.count], ids, queries, 7, metric, None, "reference")
        for one, other in zip(expected, found, strict=True):
            assert [part.tolist() for part in one] == [part.tolist() for part in other]
        seen.update(segment.two_planes for segment in follower.follow(many.moment(), kernel, 0).segments)
    assert seen == {True, False}


@pytest.mark.parametrize("kernel", COMPILED)
def test_a_moment_keeps_the_errors_of_its_last_block_while_rows_fill_it(kernel):
    """A search that has scanned a block takes off again what it added: a row that came meanwhile must not change it."""
    random = np.random.default_rng(SEED)
    rows = random.integers(-9, 9, size=(41, 24)).astype(np.int32)
    rows[40] = 2**20  # the largest error of its block by far
    many, follower = held(rows[:40]), search.Follower("l2")
    ask(
        many,
        [str(i) for i in range(40)],
        rows[:1],
        3,
        "l2",
        None,
        kernel,
        follower=follower,
        front=any_front(random, 24, 9),
    )
    (before,) = follower.follow(many.moment(), kernel, 1).segments
    assert (before.two_planes, before.stop) == (True, 3)  # the block that is not full, too
    kept = [part.copy() for part in (*before.plane[3:5], *before.rest[2:])]
    many.append(rows[40:])
    for _ in range(2):  # measured by the first, in the front by the second
        (after, *_) = follower.follow(many.moment(), kernel, 1).segments
    assert after.stop == 3
    assert after.plane[3][2] > kept[0][2]
    for part, was in zip((*before.plane[3:5], *before.rest[2:]), kept, strict=True):
        assert part.tolist() == was.tolist()


@pytest.mark.parametrize("kernel", COMPILED)
def test_one_more_row_is_measured_alone(kernel, monkeypatch):
    from detmem.search import kernels

    measured = []
    measure = kernels.measure

    def watching(coarse, residual, shift, start, stop, *rest):
        measured.append((start, stop))
        return measure(coarse, residual, shift, start, stop, *rest)

    monkeypatch.setattr(kernels, "measure", watching)
    rows = np.random.default_rng(SEED).integers(-9, 9, size=(5001, 8)).astype(np.int32)
    many, follower = held(rows[:5000]), search.Follower("l2")
    ids = [str(i) for i in range(5001)]
    for _ in range(2):
        ask(many, ids, rows[:1], 3, "l2", None, kernel, follower=follower)
    many.append(rows[5000:])
    ask(many, ids, rows[:1], 3, "l2", None, kernel, follower=follower)
    assert measured == [(0, 5000), (5000, 5001)]


# -------------------------------------------------------------------------------------------------------- adversaries


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("kernel", COMPILED)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_ties_over_blocks_and_threads_are_decided_by_id(metric, kernel, threads, monkeypatch):
    monkeypatch.setattr(answers, "_TASK_BYTES", 64)
    monkeypatch.setattr(answers, "_GROUP", 8)
    random = np.random.default_rng(SEED)
    rows = np.repeat(random.integers(-5, 5, size=(3, 20)).astype(np.int32), 333, axis=0)
    ids = [f"{i:04d}" for i in random.permutation(999)]
    workers = Workers(threads)
    for queries in (rows[:1], rows[::40]):
        for k in (1, 10, 332, 333, 334, 998, 2000):
            expected = nearest(rows, ids, queries, k, metric, None, "reference")
            found = ask(held(rows), ids, queries, k, metric, None, kernel, threads=threads, run=workers.run)
            for one, other in zip(expected, found, strict=True):
                assert [part.tolist() for part in one] == [part.tolist() for part in other]
    workers.close()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_every_dimension_and_every_count_around_a_block(metric):
    random = np.random.default_rng(SEED)
    for dimension in range(1, 131):
        count = [1, 15, 16, 17, 31, 32, 33, 63, 64, 65][dimension % 10]
        top = [3, 200, longest(dimension)][dimension % 3]
        rows = random.integers(-top, top, size=(count, dimension), endpoint=True).astype(np.int32)
        ids = [f"{i:02d}" for i in random.permutation(count)]
        one = np.zeros(count, dtype=bool)
        one[random.integers(count)] = True
        queries = random.integers(-top, top, size=(5 if dimension % 2 else 1, dimension), endpoint=True).astype(
            np.int32
        )
        for mask in (None, one):
            for k in (1, 4, count + 1):
                by_kernel = [nearest(rows, ids, queries, k, metric, mask, kernel) for kernel in AVAILABLE]
                for other in by_kernel[1:]:
                    for (slots, raw), (other_slots, other_raw) in zip(by_kernel[0], other, strict=True):
                        assert (slots.tolist(), raw.tolist()) == (other_slots.tolist(), other_raw.tolist())


@pytest.mark.parametrize("kernel", COMPILED)
def test_rows_of_the_largest_and_smallest_norms_beside_each_other(kernel):
    """One giant must not blur the bounds of the others, nor any sum overflow."""
    random = np.random.default_rng(SEED)
    for dimension in (1, 4, 100, 65536):
        rows = random.integers(-3, 3, size=(40, dimension)).astype(np.int32)
        rows[::7] = longest(dimension) * (1 - 2 * random.integers(0, 2, size=(6, dimension)))
        rows[3] = 0
        rows[3, -1] = 2**30
        ids = [f"{i:02d}" for i in range(40)]
        for metric in ("l2", "ip"):
            expected = nearest(rows, ids, rows[:9], 40, metric, None, "reference")
            found = nearest(rows, ids, rows[:9], 40, metric, None, kernel)
            for one, other in zip(expected, found, strict=True):
                assert [part.tolist() for part in one] == [part.tolist() for part in other]


@pytest.mark.parametrize("kernel", COMPILED)
def test_dead_rows_hide_and_do_not_spoil_the_seed(kernel):
    """Ten versions of the same record lie nearest, and only one of them lives."""
    random = np.random.default_rng(SEED)
    rows = random.integers(-50, 50, size=(2000, 16)).astype(np.int32)
    rows[100:900] = rows[7]
    died = np.where((np.arange(2000) >= 100) & (np.arange(2000) < 900), 5, NEVER)
    ids = [f"{i:04d}" for i in range(2000)]
    for seq in (4, 5):
        expected = ask(held(rows), ids, rows[7:8], 10, "l2", None, "reference", died=died, seq=seq)
        found = ask(held(rows), ids, rows[7:8], 10, "l2", None, kernel, died=died, seq=seq)
        assert [part.tolist() for part in expected[0]] == [part.tolist() for part in found[0]]
        assert (100 in found[0][0]) is (seq == 4)
