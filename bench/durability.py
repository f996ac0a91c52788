"""What does one durable record cost, next to the least that could be done and next to SQLite?

Each round writes one record (384-d float32, a small metadata map, a short document) through every contender, in turns:
detmem under ``always``, the bare write and fdatasync of exactly the bytes that its log frame has, and SQLite in WAL
mode with synchronous=FULL inserting the same record (blob, JSON text, text) in a transaction of its own.  The first
rounds and the last are told apart: SQLite's WAL grows up to its first checkpoint, and is then written over.

Then every other policy, in turns with the bare write alone: a store in use keeps what it needs in the caches, and
``interval`` syncs beside.  Last a store under ``always`` on a disk that counts and times its calls: where a commit's
time goes.  Usage: durability.py [rounds] (default 1500).
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
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from common import ROOT, table, write

sys.path.insert(0, str(ROOT))
import detmem
from detmem.journal.disk import File, OsDisk
from detmem.opening import open_disk

DIM = 384
OTHERS = ("paranoid", "group:1", "interval:10", "os")
FEW = 250  # rounds: in the first of so many no WAL has been written over
ALWAYS, BARE, ZEROS, LITE = (
    "detmem, always",
    "bare write + fdatasync",
    "bare, over zeros written before",
    "SQLite, WAL, synchronous=FULL",
)


def main(rounds: int) -> None:
    rng = np.random.default_rng(20260202)
    vectors = rng.standard_normal((rounds, DIM)).astype(np.float32)
    with tempfile.TemporaryDirectory(dir=".") as name, ExitStack() as stack:
        folder = Path(name)
        frame_bytes = _frame_bytes(folder, vectors[0])

        def store(policy: str, name: str = "") -> Callable[[int], object]:
            db = stack.enter_context(detmem.open(folder / (name or policy.replace(":", "-")), durability=policy))
            return _adding(db.collection("notes", dim=DIM), vectors)

        def bare(name: str, zeros: int = 0) -> Callable[[int], object]:
            fd = os.open(folder / name, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, fd)
            os.pwrite(fd, bytes(zeros), 0)
            os.fsync(fd)
            return _bare(fd, rng.bytes(frame_bytes))

        lite = stack.enter_context(closing(sqlite3.connect(folder / "lite.db", isolation_level=None)))
        zeros = bare("zeros", frame_bytes * rounds)
        contenders = {ALWAYS: store("always"), BARE: bare("bare"), ZEROS: zeros, LITE: _inserting(lite, vectors)}
        seconds = _in_turns(contenders, rounds)
        rows = [_row(name, times, seconds[BARE]) for name, times in seconds.items()]
        for policy in OTHERS:
            others = _in_turns({policy: store(policy), BARE: bare(f"bare {policy}")}, FEW)
            rows.append(_row(f"detmem, {policy}", others[policy], others[BARE]))
        disk = _WatchedDisk(str(folder / "watched"))
        disk.make_root()
        watched = _adding(stack.enter_context(open_disk(disk)).collection("notes", dim=DIM), vectors)
        disk.spent.clear()
        profile = _profile(disk.spent, _in_turns({"it": watched, BARE: bare("bare watched")}, FEW)["it"])
        in_a_row = _in_turns({"it": store("os", "in a row")}, FEW)["it"]
    head = [f"median of the first {FEW}, us", "of the last half", "95th percentile", "paired ratio to bare"]
    body = (
        f"{frame_bytes} bytes a frame, one record each; the first four in turns for {rounds} rounds, the others each "
    )
    body += f"in turns with a bare write for {FEW}.\n\n{table(['contender', *head], rows)}"
    for when, part in ((f"the first {FEW}", slice(0, FEW)), ("the last half", slice(rounds // 2, None))):
        ours, least, other = (seconds[name][part] for name in (ALWAYS, BARE, LITE))
        always, floor = 1e6 * statistics.median(ours), 1.3e6 * statistics.median(least)
        body += (
            f"\n\nGoal for `always`, in {when} rounds: at most 1.3 x bare + 60 us = {floor + 60:.0f} us, and not "
            f"slower than SQLite. Measured: {always:.0f} us, {always - floor:.0f} us above 1.3 x bare; "
            f"{_ratio(ours, other):.2f} of SQLite's {1e6 * statistics.median(other):.0f} us (paired)."
        )
    body += (
        f"\n\n{profile}\n\nUnder `os`, one behind the other with nothing between, a whole commit takes "
        f"{1e6 * statistics.median(in_a_row):.0f} us: behind a sync the processor has to be woken, and its caches hold "
        "other things.  A commit is written over zeros that an earlier sync has brought to the disk, so the file "
        f"seldom grows; what that saves is the difference between `{BARE}` and `{ZEROS}`."
    )
    write("durability", "One durable record", body)


def _row(name: str, times: list[float], floor: list[float]) -> list[str]:
    late = len(times) // 2
    values = statistics.median(times[:FEW]), statistics.median(times[late:]), statistics.quantiles(times, n=20)[-1]
    return [name, *[f"{1e6 * value:.0f}" for value in values], f"{_ratio(times[late:], floor[late:]):.2f}"]


def _in_turns(contenders: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender's every round; they go first and last in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for index in range(rounds):
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


def _profile(spent: list[tuple[str, float, int]], seconds: list[float]) -> str:
    """Where a commit's time goes, by the medians of its calls."""
    rows, rest = [], statistics.median(seconds)
    for what in ("write of log", "sync of log", "write of HEAD"):
        some = [(taken, size) for one, taken, size in spent if one == what]
        median = statistics.median(taken for taken, _ in some)
        calls, size = len(some) / len(seconds), sum(size for _, size in some) / len(seconds)
        rows.append([what, f"{calls:.2f}", f"{size:.0f}", f"{1e6 * median:.0f}"])
        rest -= median
    rows.append(["the rest: rounding, encoding, hashing, taking it in", "", "", f"{1e6 * rest:.0f}"])
    return table(["of one commit under `always`", "calls", "bytes", "median, us"], rows)


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
