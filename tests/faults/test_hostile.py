"""Campaign 11, in CI's size: every tenth of the hostile stores that are small, at every door.  ``make faults`` takes
all."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

import detmem
from detmem.journal import frame
from detmem.journal.disk import MemoryDisk
from detmem.journal.frame import BadFrame, SegmentHeader, SegmentReader
from detmem.journal.head import Head
from detmem.machine import commands
from tests.faults import hostile
from tests.faults.test_processes import tally

PARTS = 10
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@forking
def test_a_hostile_store_is_refused_or_harmless_and_costs_what_it_weighs() -> None:
    found = tally("hostile", "--quick", "--part", f"0/{PARTS}")
    assert found["cases"] >= 30
    assert found["runs"] == found["cases"] * len(hostile.OPERATIONS)
    assert found["most_beyond"] < hostile.SLACK_BYTES
    assert found["endings"]["refused"] > 50


@forking
def test_a_head_that_cannot_be_followed_is_a_bad_one() -> None:
    """A HEAD of the last generation that 64 bits hold could not be written again: no typed error, but a struct's."""
    assert tally("hostile", "--like", "generation 18446744073709551615")["runs"] == len(hostile.OPERATIONS)


@forking
def test_files_whose_names_are_beyond_any_seq_harm_no_door() -> None:
    """Repair asked the last segment what had been acknowledged, and a name of twenty nines is no number of 64 bits."""
    assert tally("hostile", "--like", "strange names")["runs"] == len(hostile.OPERATIONS)


def test_tiny_operations_are_not_kept_before_their_link_is_right() -> None:
    """32 MiB of operations of 83 bytes became 284 MiB of objects before anybody looked at the link behind them."""
    body = commands.encode([commands.delete("c", "x")], 1 << 20) * 400_000
    header = SegmentHeader(b"store of a test.", 1, 0, bytes(32), bytes(32))
    disk = MemoryDisk()
    file = disk.open("one", create=True)
    file.pwrite(header.encode() + frame._encode_header(1, len(body), 1, 0, header.seed) + body + bytes(64), 0)
    tracemalloc.start()
    with pytest.raises(BadFrame, match="expected link"):
        list(SegmentReader(file, header))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(body)  # the disk in memory hands out copies; it was nearly 8 times


def test_one_commit_of_many_tiny_adds_is_read_within_the_memory_bound(tmp_path: Path) -> None:
    """It took 116 MiB where 82 are allowed: commitments and ids were kept twice, and the tree was given a dict."""
    store = tmp_path / "store"
    with detmem.open(store, durability="os") as db:
        hostile.SHAPES["10^5 bare adds"](db)
    largest = max(one.stat().st_size for one in (store / "log").iterdir())
    tracemalloc.start()
    detmem.open(store, "r").close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < hostile.SLACK_BYTES + 2 * largest


@pytest.mark.parametrize("snapshot", [False, True], ids=["log", "snapshot"])
@pytest.mark.parametrize(
    ("shape", "whole"), [("2,000 adds with a list of 2,100 numbers each", 2_000), ("20,000 collections", 20_000)]
)
def test_one_more_of_what_is_dear_takes_no_more_than_its_part_of_the_bound(
    shape: str, whole: int, snapshot: bool, tmp_path: Path
) -> None:
    """A list out of the log took 13 times its bytes, an empty collection 4 KB.  Here are a few, then twice as many, and
    what all of ``hostile.DEAR`` would take is reckoned; ``make faults`` weighs the whole ones."""
    few = whole // 100  # enough for a run
    many = 2 * few
    one, other = (_cost(tmp_path / str(count), shape, count, snapshot) for count in (few, many))
    file, peak = (
        after + (whole - many) * (after - before) / (many - few) for before, after in zip(one, other, strict=True)
    )
    assert peak < hostile.SLACK_BYTES + 2 * file


def _cost(store: Path, shape: str, count: int, snapshot: bool) -> tuple[int, int]:
    """Bytes of the largest file, and what reading it takes at most."""
    with detmem.open(store, durability="os") as db:
        if "list" in shape:
            hostile._many(db, count, {"k": hostile.NUMBERS["k"][:2_100]})
        else:
            hostile.SHAPES[shape](db, count)
        if snapshot:
            db.snapshot()
    folder = store / ("snap" if snapshot else "log")
    tracemalloc.start()
    if snapshot:
        hostile._load(store)
    else:
        hostile._open(store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return max(one.stat().st_size for one in folder.iterdir()), peak


def test_a_slot_of_a_generation_that_nobody_can_follow_is_bad() -> None:
    for generation, good in ((0, True), (2**63 - 1, True), (2**63, False), (2**64 - 1, False)):
        head = Head(b"store of a test.", generation)
        assert Head.decode(head.encode()) == (head if good else None)
