"""What makes platforms agree are rules, each learnt from a difference; broken on purpose, each moves the digest.

A planted bug does on this machine what another machine would have done: bytes in its own order, sums in its own word,
rounding in its own mode.  Where a rule is about names that may not be used at all, tests/test_house.py keeps it.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from detmem import selfcheck
from detmem.machine import commitment, fixed, units
from detmem.search import answers, front, planes, reference

GOLDEN = json.loads(selfcheck.REFERENCE.read_text(encoding="ascii"))
Plant = Callable[[pytest.MonkeyPatch], None]


def libm_and_floats_normalise(monkeypatch):
    """A root and a quotient of floats are right to their last place, not beyond."""

    def propose(rows, bits, out, room):
        with np.errstate(all="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
            out[:] = np.floor(rows / lengths[:, None] * 2.0**bits + 0.5)
        return np.ones(len(rows), dtype=np.bool_)

    monkeypatch.setattr(units, "propose", propose)
    monkeypatch.setattr(units, "propose_one", lambda row, bits, out: False)


def halves_go_up(monkeypatch):
    def round_half_up(values, whole, spare):
        np.floor(values + 0.5, out=whole)

    monkeypatch.setattr(units, "round_half_even", round_half_up)


def out_of_range_is_cast(monkeypatch):
    """ "Reject before the cast": NaN and 1e300 as int32 gave five different results on ten machines."""

    def quantised(array, bits, format, what, *, clip):
        with np.errstate(all="ignore"):
            return np.rint(array.astype(np.float64) * 2.0**bits).astype(np.int32)

    monkeypatch.setattr(fixed, "_quantised", quantised)


def sums_in_32_bits(monkeypatch):
    """ "On 32 bits int32.sum() is int32": so are arange, argsort and cumsum, and nothing is said."""

    def distances(rows, query, metric, mask=None):
        short = rows - query if metric != "ip" else rows
        sums = np.einsum("ij,ij->i", short, short if metric != "ip" else -np.broadcast_to(query, rows.shape))
        return np.where(True if mask is None else mask, sums.astype(np.int64), reference.MASKED)

    monkeypatch.setattr(reference, "distances", distances)


def products_in_floats(monkeypatch):
    """ "Exact while every sum stays below 2^53": and not behind it."""

    def distances(rows, query, metric, mask=None):
        wide, asked = rows.astype(np.float64), query.astype(np.float64)
        sums = -(wide @ asked) if metric == "ip" else ((wide - asked) ** 2).sum(axis=1)
        return np.where(True if mask is None else mask, sums.astype(np.int64), reference.MASKED)

    monkeypatch.setattr(reference, "distances", distances)


def bytes_in_the_other_order(monkeypatch):
    """ "tobytes() is native order": what a big-endian machine would commit to, if nobody said '<'."""
    monkeypatch.setattr(fixed, "RAW", np.dtype(">i4"))


def ids_in_no_order(monkeypatch):
    """ "Iterating a set differs: sort": here the deletes of one call come as they were found."""
    monkeypatch.setattr("detmem.collection.sorted", lambda names: list(names)[::-1], raising=False)


def buckets_by_hash(monkeypatch):
    """hash() of bytes is drawn anew for each process."""
    monkeypatch.setattr(commitment, "_bucket_of", lambda key: hash(key) & 0xFFFF)


def ties_by_slot(monkeypatch):
    """Where a row lies is history; ids decide."""

    def select(raw, ids, k):
        slots = np.argsort(raw, kind="stable")[: min(k, int(np.count_nonzero(raw != reference.MASKED)))]
        return slots, raw[slots]

    monkeypatch.setattr(reference, "select", select)


def kernels_forget_ties(monkeypatch):
    """The same in the compiled path: the first k that were found, which threads and blocks decide."""

    def best(self, ids, k):
        numbers, slots, raws = np.concatenate(self._parts, axis=1)
        order = np.lexsort((raws, numbers))
        found = [order[numbers[order] == number][:k] for number in range(len(self.heaps))]
        return [(slots[some], raws[some]) for some in found]

    monkeypatch.setattr(answers._Found, "best", best)


def learned_floats_decide(monkeypatch):
    """A front whose bounds are left out prunes by what was learned in floats, on this machine's BLAS."""

    def encode(learned, rows):
        found = front.encode(learned, rows)
        errors = [part._replace(rho=part.rho * 0, eps=part.eps * 0) for part in (found.near, found.all)]
        return found._replace(near=errors[0], all=errors[1])

    monkeypatch.setattr(planes, "front", SimpleNamespace(learn=front.learn, encode=encode))


def order_by_repr(monkeypatch):
    """What repr() escapes depends on the Unicode that a Python knows: 3.11 and 3.13 put U+1FAE8 in two places."""
    monkeypatch.setattr("detmem.collection._in_order", lambda left_out: sorted(left_out, key=repr))


PLANTED: list[tuple[Plant, str, str]] = [
    (libm_and_floats_normalise, "units", "reference"),
    (halves_go_up, "numbers", "reference"),
    (out_of_range_is_cast, "numbers", "reference"),
    (sums_in_32_bits, "answers", "reference"),
    (products_in_floats, "answers", "reference"),
    (bytes_in_the_other_order, "life", "reference"),
    (ids_in_no_order, "life", "reference"),
    (buckets_by_hash, "life", "reference"),
    (ties_by_slot, "answers", "reference"),
    (kernels_forget_ties, "answers", "portable"),
    (learned_floats_decide, "front", "portable"),
    (order_by_repr, "erasure", "reference"),
]


def played(stage, folder, kernel="reference"):
    return selfcheck.play(stage, selfcheck.World(folder, kernel))


@pytest.mark.parametrize(("plant", "stage", "kernel"), PLANTED, ids=lambda part: getattr(part, "__name__", part))
def test_a_broken_rule_moves_the_digest(plant, stage, kernel, tmp_path, monkeypatch):
    plant(monkeypatch)
    broken = played(stage, tmp_path, kernel)
    assert broken.error is None
    assert selfcheck.difference(broken, GOLDEN) is not None


# --- rules of which this machine can be the other one itself ----------------------------------------------------------

# <fenv.h> of x86 and of arm64: to nearest, down, up, to zero.
ROUNDING = {"x86_64": (0, 0x400, 0x800, 0xC00), "aarch64": (0, 0x800000, 0x400000, 0xC00000)}


@pytest.fixture(params=["down", "up", "to zero"])
def rounding(request):
    """The C rounding mode, set for the length of a test; on machines whose numbers for it we know."""
    modes = ROUNDING.get(selfcheck.particulars()["machine"])
    if modes is None or sys.platform != "linux":
        return
    libm = ctypes.CDLL("libm.so.6")
    libm.fesetround(modes[1 + ["down", "up", "to zero"].index(request.param)])
    try:
        yield
    finally:
        libm.fesetround(modes[0])


def test_the_rounding_mode_of_c_shows_in_nothing_that_is_stored_or_ranked(rounding, tmp_path):
    """2.0**bits was libm's pow, and 65535.99999 with rounding down: every half was then rounded by the mode.

    Distances as floats are for people, and above 2^53 they do obey the mode; notes that show them are left out.
    """
    for stage in ("numbers", "units", "life"):
        (tmp_path / stage).mkdir()
        life = played(stage, tmp_path / stage)
        assert life.error is None
        found = [[what, digest[:16]] for what, digest in life.notes]
        compared = [
            (wanted, got)
            for wanted, got in zip(GOLDEN["notes"][stage], found, strict=True)
            if "answers" not in wanted[0] and "itself" not in wanted[0]
        ]
        assert len(compared) > len(found) // 2
        assert [got for wanted, got in compared if got != wanted] == []
