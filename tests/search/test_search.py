"""Search, judged by Python integers: brute force over lists, written here and nowhere else."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detmem import search
from detmem.errors import UsageError
from detmem.search import reference
from tests.search.asking import AVAILABLE, nearest

METRICS = ("cosine", "ip", "l2")
kernels = pytest.mark.parametrize("kernel", AVAILABLE)
metrics = pytest.mark.parametrize("metric", METRICS)


def brute_force(rows, ids, query, k, metric, mask=None):
    """[(raw, id, slot)] of the first k, ids by their UTF-8 bytes."""
    found = []
    for slot, row in enumerate(rows.tolist()):
        if mask is None or mask[slot]:
            pairs = list(zip(row, query.tolist(), strict=True))
            raw = -sum(x * q for x, q in pairs) if metric == "ip" else sum((x - q) ** 2 for x, q in pairs)
            found.append((raw, ids[slot].encode(), slot))
    return sorted(found)[:k]


def check(rows, ids, queries, k, metric, mask, kernel):
    answers = nearest(rows, ids, queries, k, metric, mask, kernel)
    assert len(answers) == len(queries)
    for query, (slots, raw) in zip(queries, answers, strict=True):
        expected = brute_force(rows, ids, query, k, metric, mask)
        assert slots.dtype == raw.dtype == np.int64
        assert slots.tolist() == [slot for _, _, slot in expected]
        assert raw.tolist() == [distance for distance, _, _ in expected]
    return answers


def longest(dimension: int) -> int:
    """The component of the vector (c, ..., c) of the largest admitted norm: d c^2 <= 2^60."""
    return math.isqrt(2**60 // dimension)


def corner_rows(dimension: int) -> np.ndarray:
    """Rows at the edge of what is admitted, each with a broken-up neighbour and its negative."""
    rows = np.zeros((7, dimension), dtype=np.int32)
    rows[1, 0] = 2**30
    rows[2, 0] = -(2**30)
    rows[3] = longest(dimension)
    rows[4] = -longest(dimension)
    rows[5, -1] = -(2**30)
    rows[6] = longest(dimension) * (1 - 2 * (np.arange(dimension) % 2))
    return rows


@st.composite
def cases(draw):
    dimension = draw(st.one_of(st.integers(1, 20), st.integers(1, 200)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.sampled_from([1, 2, longest(dimension)]))  # small ranges make ties
    rows = random.integers(-size, size, size=(draw(st.integers(0, 30)), dimension), endpoint=True).astype(np.int32)
    if draw(st.booleans()):
        rows = np.concatenate([rows, corner_rows(dimension), rows[::2]])
    queries = random.integers(-size, size, size=(draw(st.integers(1, 3)), dimension), endpoint=True).astype(np.int32)
    if draw(st.booleans()):
        queries = np.concatenate([queries, corner_rows(dimension)[random.integers(0, 7, size=1)]])
    alphabet = "a\x00\x7f\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    text = st.text(alphabet, min_size=1, max_size=4)
    ids = draw(st.lists(text, min_size=len(rows), max_size=len(rows), unique=True))
    mask = draw(st.sampled_from([None, 0.0, 0.1, 0.9, 1.0]))
    live = None if mask is None else random.random(len(rows)) < mask
    return rows, ids, queries, draw(st.integers(1, 50)), draw(st.sampled_from(METRICS)), live


@kernels
@given(cases())
def test_exact_top_k_is_that_of_python_ints(kernel, case):
    check(*case, kernel)


@given(cases())
def test_a_batch_is_its_queries_one_by_one_and_kernels_agree(case):
    rows, ids, queries, k, metric, mask = case
    whole = nearest(rows, ids, queries, k, metric, mask)
    for kernel in ("auto", *AVAILABLE):
        for i, (slots, raw) in enumerate(whole):
            [(one_slots, one_raw)] = nearest(rows, ids, queries[i : i + 1], k, metric, mask, kernel)
            assert (one_slots.tobytes(), one_raw.tobytes()) == (slots.tobytes(), raw.tobytes())
        slots, raw = reference.nearest(rows, ids, queries[0], k, metric, mask)
        assert (slots.tobytes(), raw.tobytes()) == (whole[0][0].tobytes(), whole[0][1].tobytes())


@kernels
@given(cases())
def test_the_first_j_of_k_are_the_answer_for_j(kernel, case):
    rows, ids, queries, _, metric, mask = case
    [(slots, raw), *_] = nearest(rows, ids, queries, max(1, len(rows)), metric, mask, kernel)
    for j in range(1, len(rows) + 2):
        [(first, distances), *_] = nearest(rows, ids, queries, j, metric, mask, kernel)
        assert first.tolist() == slots[:j].tolist()
        assert distances.tolist() == raw[:j].tolist()


@kernels
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_rows_cannot_show(kernel, case, random):
    rows, ids, queries, k, metric, mask = case
    order = random.sample(range(len(rows)), len(rows))
    moved = nearest(
        rows[order], [ids[i] for i in order], queries, k, metric, None if mask is None else mask[order], kernel
    )
    for (slots, raw), (moved_slots, moved_raw) in zip(
        nearest(rows, ids, queries, k, metric, mask, kernel), moved, strict=True
    ):
        assert [ids[i] for i in slots] == [ids[order[i]] for i in moved_slots]
        assert raw.tolist() == moved_raw.tolist()


@kernels
@metrics
@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 8, 9, 16, 31, 64, 65, 384, 4097, 65536])
def test_the_corners_of_the_admitted_range(dimension, metric, kernel):
    rows = corner_rows(dimension)
    check(rows, list("gfedcba"), rows, 7, metric, None, kernel)


@kernels
def test_the_farthest_admitted_pair_is_two_to_the_62(kernel):
    rows = np.array([[2**30], [-(2**30)]], dtype=np.int32)
    [(slots, raw)] = nearest(rows, ["a", "b"], rows[:1], 2, "l2", None, kernel)
    assert (slots.tolist(), raw.tolist()) == ([0, 1], [0, 2**62])
    [(slots, raw)] = nearest(rows, ["a", "b"], rows[:1], 2, "ip", None, kernel)
    assert (slots.tolist(), raw.tolist()) == ([0, 1], [-(2**60), 2**60])


@kernels
@metrics
def test_equal_rows_are_ordered_by_the_bytes_of_their_ids(metric, kernel):
    """U+FFFF comes before U+10000 in UTF-8 and in Python, and after it in UTF-16."""
    ids = ["\U00010000", "\uffff", "z", "é", "a", "aa", "a\x00", "Z", "10", "9"]
    rows = np.full((len(ids), 3), 5, dtype=np.int32)
    for k in range(1, len(ids) + 1):
        [(slots, _)] = nearest(rows, ids, rows[:1], k, metric, None, kernel)
        assert [ids[i] for i in slots] == ["10", "9", "Z", "a", "a\x00", "aa", "z", "é", "\uffff", "\U00010000"][:k]


@kernels
@metrics
def test_many_rows_over_many_blocks(metric, kernel):
    random = np.random.default_rng(11)
    rows = random.integers(-3, 3, size=(3000, 150)).astype(np.int32)
    rows[1500:2000] = rows[:500]
    ids = [f"{(i * 7919) % 3000:05d}" for i in range(3000)]
    check(rows, ids, rows[1700:1702], 25, metric, random.random(3000) < 0.5, kernel)


@kernels
@metrics
@pytest.mark.parametrize("kind", ["read-only", "fortran", "strided", "mapped"])
def test_rows_and_masks_of_any_layout(metric, kind, kernel, tmp_path):
    rows = np.random.default_rng(3).integers(-99, 99, size=(40, 33)).astype(np.int32)
    ids = [f"{i}" for i in range(40)]
    mask = np.arange(80) % 3 == 0
    view = np.array(rows)
    if kind == "read-only":
        view.flags.writeable = False
    elif kind == "fortran":
        view = np.asfortranarray(view)
    elif kind == "strided":
        view = np.repeat(view, 2, axis=0)[::2]
    else:
        np.save(tmp_path / "rows.npy", view)
        view = np.load(tmp_path / "rows.npy", mmap_mode="r")
    check(view, ids, view[3:5], 7, metric, mask[::2], kernel)


@kernels
@metrics
@pytest.mark.parametrize("queries", [1, 6], ids=["one", "batch"])
def test_masks_that_show_few_and_many_blocks(metric, kernel, queries):
    """Blocks are named one by one where few have a shown row, and passed through in order where most have."""
    random = np.random.default_rng(12)
    rows = random.integers(-9, 9, size=(16 * 50 + 5, 3)).astype(np.int32)
    ids = [f"{number * 7919 % len(rows):03}" for number in range(len(rows))]
    blocks = np.arange(len(rows), dtype=np.int64) // 16
    for share in (0, 0.02, 0.3, 0.7, 0.76, 0.9, 1):
        shown = random.permutation(51) < round(share * 51)
        for mask in (shown[blocks], shown[blocks] & (random.random(len(rows)) < 0.2)):
            check(rows, ids, rows[:queries], 11, metric, mask, kernel)


@kernels
def test_no_rows_no_live_rows_and_no_queries(kernel):
    empty, rows = np.empty((0, 4), dtype=np.int32), np.ones((3, 4), dtype=np.int32)
    assert [x.tolist() for x in nearest(empty, [], rows[:1], 5, "l2", None, kernel)[0]] == [[], []]
    hidden = np.zeros(3, dtype=bool)
    assert [x.tolist() for x in nearest(rows, list("abc"), rows[:1], 5, "l2", hidden, kernel)[0]] == [[], []]
    assert nearest(rows, list("abc"), empty, 5, "l2", None, kernel) == []


@metrics
def test_inputs_are_only_read(metric):
    rows = np.random.default_rng(3).integers(-99, 99, size=(40, 8)).astype(np.int32)
    mask = np.arange(40) % 2 == 0
    before = rows.tobytes(), mask.tobytes()
    for kernel in AVAILABLE:
        nearest(rows, [str(i) for i in range(40)], rows[:2], 5, metric, mask, kernel)
    assert (rows.tobytes(), mask.tobytes()) == before


def test_k_may_be_larger_than_any_collection():
    rows = np.ones((3, 4), dtype=np.int32)
    for kernel in AVAILABLE:
        assert len(nearest(rows, list("abc"), rows[:1], 10**30, "l2", None, kernel)[0][0]) == 3


def test_unknown_kernels_and_kernels_that_cannot_run_are_refused(monkeypatch):
    with pytest.raises(UsageError, match="reference, portable, native"):
        search.chosen_kernel("avx", 1, 1)
    monkeypatch.setattr(search, "_refusal", lambda name: "it needs something else")
    with pytest.raises(UsageError, match="kernel 'native' cannot run here: it needs something else"):
        search.chosen_kernel("native", 1, 1)


def run(script: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(script)], check=True)


def test_a_small_search_never_imports_numba():
    run("""
        import sys
        import numpy as np
        import detmem
        rows = np.arange(384_000, dtype=np.int32).reshape(1000, 384) % 1000
        with detmem.open(":memory:", durability="os") as db:
            small = db.collection("small", dim=384)
            small.add([str(i) for i in range(1000)], rows + 1)
            small.search(rows[1], 10)
            assert "numba" not in sys.modules
            large = db.collection("large", dim=384)
            large.add([str(i) for i in range(3000)], np.ones((3000, 384), dtype=np.int32))
            large.search(rows[1], 10)
            assert "numba" in sys.modules
    """)


def test_who_goes_on_asking_small_collections_is_answered_by_compiled_kernels():
    """After 2^27 components times queries; those of other stores of the process count."""
    run("""
        import sys
        import numpy as np
        import detmem
        rows = np.arange(384_000, dtype=np.int32).reshape(1000, 384) % 1000 + 1
        def told(count):
            with detmem.open(":memory:", durability="os") as db:
                small = db.collection("small", dim=384)
                small.add([str(i) for i in range(1000)], rows)
                found = small.search(rows[:count], 10)
                return found.ids, found.raw.tolist()
        first = told(300)
        assert told(49) == (first[0][:49], first[1][:49])
        assert "numba" not in sys.modules
        assert told(300) == first
        assert "numba" in sys.modules
        with detmem.open(":memory:", durability="os") as db:
            tiny = db.collection("tiny", dim=8)
            tiny.add("a", [1.0] * 8)
            tiny.search([1.0] * 8)
            assert db._finder._followers.popitem()[1][0]._planes is None
    """)


@pytest.mark.parametrize(("kept", "small"), [(True, 27), (False, 33)])
def test_where_nothing_compiled_is_kept_compiling_must_pay_as_well(monkeypatch, kept, small):
    monkeypatch.setattr("detmem.search.kernels.KEPT", kept)
    best = [name for name, refusal in search.available_kernels().items() if refusal is None][-1]
    assert search.chosen_kernel("auto", 1 << 20, 1 << small) == "reference"
    assert search.chosen_kernel("auto", 1 << 20, (1 << small) + 1) == best
    assert search.chosen_kernel("auto", (1 << 20) + 1, 1) == best
    assert search.chosen_kernel("auto", 1 << 13, 1 << 60) == "reference"


def test_without_numba_everything_is_answered_and_only_a_forced_kernel_is_refused():
    run("""
        import sys
        sys.modules["numba"] = None
        import numpy as np
        from tests.search.asking import nearest
        from detmem.errors import UsageError
        rows = np.ones((3000, 384), dtype=np.int32)
        ids = [f"{i:04d}" for i in range(3000)]
        [(slots, raw)] = nearest(rows, ids, rows[:1], 3, "ip")
        assert slots.tolist() == [0, 1, 2] and raw.tolist() == [-384] * 3
        try:
            nearest(rows, ids, rows[:1], 3, "ip", None, "portable")
        except UsageError as error:
            assert "numba" in str(error)
        else:
            raise AssertionError("a forced kernel was replaced in silence")
    """)


def test_a_batch_too_large_to_hold_at_once_is_answered_in_groups(monkeypatch):
    random = np.random.default_rng(4)
    rows = random.integers(-9, 9, size=(50, 6)).astype(np.int32)
    ids = [str(i) for i in range(50)]
    queries = random.integers(-9, 9, size=(11, 6)).astype(np.int32)
    monkeypatch.setattr(search, "_RESULT", 150)  # three queries at a time
    monkeypatch.setattr(search, "_BLOCK", 40)  # six rows at a time
    check(rows, ids, queries, 5, "l2", None, "portable")
