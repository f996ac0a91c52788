"""What does one durable record cost, next to the least that could be done and next to SQLite?

Each round writes one record (384-d float32, a small metadata map, a short document) through every contender, in turns:
the bare write and fdatasync of exactly the bytes that detmem's log frame has, detmem under each policy, and SQLite in
WAL mode with synchronous=FULL inserting the same record (blob, JSON text, text) in a transaction of its own.  A second
store under ``always`` stands on a disk that counts and times its calls: where a commit's time goes.  ``interval`` syncs
beside, and would do so in the others' rounds: it has rounds of its own, against the bare write alone.

The first rounds and the last are told apart: SQLite's WAL grows up to its first checkpoint, and is then written over.
Usage: durability.py [rounds] (default 1500).
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import ROOT, table, write

sys.path.insert(0, str(ROOT))
import detmem
from detmem.journal.disk import File, OsDisk
from detmem.opening import open_disk

DIM = 384
POLICIES = ("paranoid", "always", "group:1", "os")
ASIDE = "interval:10"
EARLY = 250  # rounds, in which no WAL has been written over
BARE, ZEROS, LITE, WATCHED = (
    "bare write + fdatasync",
    "bare, over zeros written before",
    "SQLite, WAL, synchronous=FULL",
    "watched",
)


def main(rounds: int) -> None:
    rng = np.random.default_rng(20260202)
    vectors = rng.standard_normal((rounds, DIM)).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        contenders: dict[str, Callable[[int], object]] = {}
        databases = []
        for policy in (*POLICIES, ASIDE):
            db = detmem.open(Path(folder) / policy.replace(":", "-"), durability=policy)
            databases.append(db)
            contenders[f"detmem, {policy}"] = _adding(db.collection("notes", dim=DIM), vectors)
        frame_bytes = _frame_bytes(Path(folder), vectors[0])
        bare, zeros = (os.open(Path(folder) / name, os.O_RDWR | os.O_CREAT) for name in ("bare", "zeros"))
        os.pwrite(zeros, bytes(frame_bytes * rounds), 0)
        os.fsync(zeros)
        contenders[BARE] = _bare(bare, rng.bytes(frame_bytes))
        contenders[ZEROS] = _bare(zeros, rng.bytes(frame_bytes))
        lite = sqlite3.connect(Path(folder) / "lite.db", isolation_level=None)
        contenders[LITE] = _inserting(lite, vectors)
        disk = _WatchedDisk(str(Path(folder) / "watched"))
        disk.make_root()
        databases.append(open_disk(disk))
        contenders[WATCHED] = _adding(databases[-1].collection("notes", dim=DIM), vectors)
        disk.spent.clear()
        aside = {name: contenders.pop(name) for name in [f"detmem, {ASIDE}"]}
        seconds = _in_turns(contenders, range(rounds))
        spent, in_a_row = list(disk.spent), []
        beside = _in_turns({**aside, BARE: contenders[BARE]}, range(rounds, rounds + EARLY))
        for index in range(rounds, 2 * rounds):
            start = time.perf_counter()
            contenders["detmem, os"](index)
            in_a_row.append(time.perf_counter() - start)
        for db in databases:
            db.close()
        lite.close()
        os.close(bare)
        os.close(zeros)
    watched = seconds.pop(WATCHED)
    rows = []
    for name, times in (*seconds.items(), *[(name, times) for name, times in beside.items() if name != BARE]):
        floor = seconds[BARE] if name in seconds else beside[BARE]
        late = len(times) // 2
        values = (
            statistics.median(times[:EARLY]),
            statistics.median(times[late:]),
            statistics.quantiles(times, n=20)[-1],
        )
        rows.append([name, *[f"{1e6 * value:.0f}" for value in values], f"{_ratio(times[late:], floor[late:]):.2f}"])
    body = f"{rounds} records, one a commit, {frame_bytes} bytes a frame; all contenders in turns in one process.\n\n"
    head = [
        f"median of the first {EARLY}, us",
        "median of the last half, us",
        "95th percentile, us",
        "paired ratio to bare",
    ]
    body += table(["contender", *head], rows)
    for when, part in ((f"the first {EARLY}", slice(0, EARLY)), ("the last half", slice(rounds // 2, None))):
        ours, least, lite = (seconds[name][part] for name in ("detmem, always", BARE, LITE))
        always, goal = 1e6 * statistics.median(ours), 1.3e6 * statistics.median(least) + 60
        body += (
            f"\n\nGoal for `always`, in {when} rounds: at most 1.3 x bare + 60 us = {goal:.0f} us, and not slower "
            f"than SQLite. Measured: {always:.0f} us, {always - goal + 60:.0f} us above 1.3 x bare; {_ratio(ours, lite):.2f} of "
            f"SQLite's {1e6 * statistics.median(lite):.0f} us (median of the paired ratios)."
        )
    body += f"\n\n{_profile(spent, watched, in_a_row)}"
    write("durability", "One durable record", body)


def _in_turns(contenders: dict[str, Callable[[int], object]], rounds: range) -> dict[str, list[float]]:
    """Seconds of each contender's every round; they go first and last in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for index in rounds:
        for name in order if index % 2 == 0 else reversed(order):
            start = time.perf_counter()
            contenders[name](index)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _ratio(own: list[float], other: list[float]) -> float:
    """The median of the paired ratios."""
    return statistics.median(one / two for one, two in zip(own, other, strict=True))


class _WatchedFile:
    """A file whose writes and syncs are noted: (what, seconds, bytes)."""

    def __init__(self, file: File, name: str, spent: list[tuple[str, float, int]]) -> None:
        self._file, self._name, self._spent = file, name, spent

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def pwrite(self, data: bytes, offset: int) -> None:
        start = time.perf_counter()
        self._file.pwrite(data, offset)
        self._spent.append((f"write of {self._name}", time.perf_counter() - start, len(data)))

    def sync(self) -> None:
        start = time.perf_counter()
        self._file.sync()
        self._spent.append((f"sync of {self._name}", time.perf_counter() - start, 0))


class _WatchedDisk(OsDisk):
    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.spent: list[tuple[str, float, int]] = []

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        return _WatchedFile(super().open(name, write=write, create=create), name.split("/")[0], self.spent)


def _profile(spent: list[tuple[str, float, int]], seconds: list[float], in_a_row: list[float]) -> str:
    """Where a commit's time goes, by the medians of its calls; and what one takes that waits for no disk."""
    rows, rest = [], statistics.median(seconds)
    for what in ("write of log", "sync of log", "write of HEAD"):
        some = [(taken, size) for one, taken, size in spent if one == what]
        median = statistics.median(taken for taken, _ in some)
        calls, size = len(some) / len(seconds), sum(size for _, size in some) / len(seconds)
        rows.append([what, f"{calls:.2f}", f"{size:.0f}", f"{1e6 * median:.0f}"])
        rest -= median
    rows.append(["the rest: rounding, encoding, hashing, taking it in", "", "", f"{1e6 * rest:.0f}"])
    shown = table(["of one commit under `always`", "calls", "bytes", "median, us"], rows)
    return (
        f"{shown}\n\nUnder `os`, one behind the other with nothing between, a whole commit takes "
        f"{1e6 * statistics.median(in_a_row):.0f} us: behind a sync the processor has to be woken, and its caches hold "
        "other things.  A commit is written over zeros that an earlier sync has brought to the disk, so the file "
        f"seldom grows; what that saves is the difference between `{BARE}` and `{ZEROS}`."
    )


def _adding(collection: detmem.Collection, vectors: np.ndarray) -> Callable[[int], object]:
    def add(index: int) -> object:
        return collection.add(
            str(index),
            vectors[index % len(vectors)],
            metadatas={"number": index},
            documents="a short document about something",
        )

    return add


def _bare(fd: int, data: bytes) -> Callable[[int], object]:
    def append(index: int) -> None:
        os.pwrite(fd, data, index * len(data))
        os.fdatasync(fd)

    return append


def _inserting(lite: sqlite3.Connection, vectors: np.ndarray) -> Callable[[int], object]:
    lite.execute("pragma journal_mode=wal")
    lite.execute("pragma synchronous=full")
    lite.execute("create table notes (id text primary key, vector blob, metadata text, document text)")

    def insert(index: int) -> object:
        record = str(index), vectors[index].tobytes(), json.dumps({"number": index}), "a short document about something"
        return lite.execute("insert into notes values (?, ?, ?, ?)", record)

    return insert


def _frame_bytes(folder: Path, vector: np.ndarray) -> int:
    """The size of the frame that one such record makes."""
    with detmem.open(folder / "size", durability="os") as db:
        collection = db.collection("notes", dim=DIM)
        log = next((folder / "size" / "log").iterdir())
        before = log.stat().st_size
        _adding(collection, vector[None])(0)
        return log.stat().st_size - before


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
