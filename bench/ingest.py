"""How fast do records go in: one bulk add, adds of 1,000 and single commits, against the limits and against peers?

The limits are measured in each round: SHA-256 once over the vectors' bytes (each must be hashed at least once), and one
write and sync of as many bytes as the store's log has.  The peers hold the same records, each in its own way; a peer
that is not installed is said to be absent.  Every figure beside a peer is the median of the rounds' ratios.

Usage: ingest.py [records] (default 100000)
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from common import ROOT, table, write

sys.path.insert(0, str(ROOT))
import detmem

DIM = 384
ROUNDS = 3
STEP = 1000
CHROMA_RECORDS = 10_000  # it builds a graph as it goes: 100,000 would take minutes
VALORI_RECORDS = 3_000  # every commit copies its state

Side = Callable[[Path], float]  # does its work in an empty folder; returns the seconds that count


class Records(NamedTuple):
    """Columns; metadatas and documents may be absent."""

    ids: list[str]
    vectors: np.ndarray
    metadatas: list[dict[str, int]] | None
    documents: list[str] | None

    def first(self, count: int) -> Records:
        return Records(*(None if column is None else column[:count] for column in self))  # type: ignore[arg-type]

    def bare(self) -> Records:
        return self._replace(metadatas=None, documents=None)

    def parts(self, step: int) -> Iterator[Records]:
        for start in range(0, len(self.ids), step):
            part = slice(start, start + step)
            yield Records(*(None if column is None else column[part] for column in self))  # type: ignore[arg-type]


def main(count: int) -> None:
    rng = np.random.default_rng(20260101)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    ids = [f"id-{index:08d}" for index in range(count)]
    metadatas = [{"number": index} for index in range(count)]
    everything = Records(ids, vectors, metadatas, [f"document number {index}" for index in range(count)])
    body = f"{count:,} x {DIM} float32, durability `always`, medians of {ROUNDS} rounds.\n\n"
    body += _limits(everything)
    body += "\n\n" + _peers(everything)
    body += "\n\n" + _single_commits(vectors)
    write("ingest", "Ingest against the hash and disk limits, and against peers", body)


# -------------------------------------------------------------------------------------------------------------- limits


def _limits(everything: Records) -> str:
    rows = []
    for metric, step, records, what in (
        ("cosine", len(everything.ids), everything, "one add"),
        ("l2", len(everything.ids), everything, "one add"),
        ("cosine", len(everything.ids), everything.bare(), "one add, vectors alone"),
        ("l2", len(everything.ids), everything.bare(), "one add, vectors alone"),
        ("cosine", STEP, everything, f"adds of {STEP:,}"),
        ("l2", STEP, everything, f"adds of {STEP:,}"),
    ):
        count = len(records.ids)
        seconds, hashing, disk, reading = [], [], [], []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                seconds.append(_detmem(records, step, metric)(Path(folder)))
                hashing.append(_hash_seconds(count))
                log_bytes = sum(file.stat().st_size for file in (Path(folder) / "store" / "log").iterdir())
                disk.append(_disk_seconds(folder, log_bytes))
                reading.append(_open_seconds(Path(folder)))
        shares = [f"{100 * _ratio(limit, seconds):.0f} %" for limit in (hashing, disk)]
        medians = [f"{statistics.median(column):.2f}" for column in (seconds, hashing, disk, reading)]
        rows.append([f"{metric}, {what}", f"{count / statistics.median(seconds):,.0f}", *medians, *shares])
    columns = ["case", "records/s", "s", "SHA-256 of the vectors, s", "write + sync of the log's bytes, s"]
    return table([*columns, "open by replay, s", "share of the hash limit", "share of the disk limit"], rows)


def _hash_seconds(count: int) -> float:
    data = bytes(4 * DIM)
    start = time.perf_counter()
    for _ in range(count):
        sha256(data).digest()
    return time.perf_counter() - start


def _disk_seconds(folder: str, size: int) -> float:
    data = bytes(1 << 20)
    start = time.perf_counter()
    file = detmem.journal.disk.OsDisk(folder).open("limit", create=True)
    for offset in range(0, size, len(data)):
        file.pwrite(data, offset)
    file.sync()
    file.close()
    return time.perf_counter() - start


def _open_seconds(folder: Path) -> float:
    start = time.perf_counter()
    detmem.open(folder / "store", "r").close()
    return time.perf_counter() - start


# --------------------------------------------------------------------------------------------------------------- peers


def _peers(everything: Records) -> str:
    count, most = len(everything.ids), f"{len(everything.ids):,}"
    few, some = everything.first(CHROMA_RECORDS), everything.first(VALORI_RECORDS).bare()
    rows = [
        _row(f"SQLite, one transaction of {most}", _detmem(everything, count), _sqlite(everything, count)),
        _row(f"SQLite, a transaction for {STEP:,}", _detmem(everything, STEP), _sqlite(everything, STEP)),
    ]
    chroma, valori = _importable("chromadb"), _importable("valoricore.local")
    name = f"Chroma, {len(few.ids):,} in adds of {STEP:,}"
    rows.append(_row(name, _detmem(few, STEP), _chroma(chroma, few, STEP)) if chroma else _absent(name))
    name = f"valoricore, one batch of {len(some.ids):,}, vectors alone"
    rows.append(_row(name, _detmem(some, count), _valori(valori, some, count)) if valori else _absent(name))
    name = f"valoricore, {len(some.ids):,} single inserts and a sync, vectors alone"
    rows.append(_row(name, _detmem(some, 1, policy="os"), _valori(valori, some, 1)) if valori else _absent(name))
    return (
        "Cosine. SQLite (WAL, synchronous=FULL) stores the same bytes as blobs, with JSON and text beside them, and "
        "does not normalise, hash or index vectors. Chroma is its persistent client with its default index. valoricore "
        "gets lists, made outside the clock, and holds no metadata here; few, since every commit copies its state.\n\n"
        + table(["peer", "detmem, records/s", "peer, records/s", "detmem against peer", "rounds"], rows)
    )


def _row(name: str, ours: Side, peer: Side) -> list[str]:
    own, other, count = [], [], getattr(peer, "count", 0)
    for index in range(ROUNDS):
        turns = [(ours, own), (peer, other)]
        for side, seconds in turns if index % 2 == 0 else reversed(turns):
            with tempfile.TemporaryDirectory(dir=".", ignore_cleanup_errors=True) as folder:
                seconds.append(side(Path(folder)))
    ratios = [theirs / mine for mine, theirs in zip(own, other, strict=True)]
    speeds = [f"{count / statistics.median(seconds):,.0f}" for seconds in (own, other)]
    return [name, *speeds, f"{statistics.median(ratios):.2f} x", f"{min(ratios):.2f}..{max(ratios):.2f}"]


def _absent(name: str) -> list[str]:
    return [name, "", "", "**peer absent: not installed here**", ""]


def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        print(f"PEER ABSENT: {name}: {error}", file=sys.stderr)
        return None


def _counted(records: Records, side: Side) -> Side:
    side.count = len(records.ids)  # type: ignore[attr-defined]
    return side


def _detmem(records: Records, step: int, metric: str = "cosine", policy: str = "always") -> Side:
    def add(folder: Path) -> float:
        with detmem.open(folder / "store", "x", durability=policy) as db:
            collection = db.collection("bulk", dim=DIM, metric=metric)
            start = time.perf_counter()
            for part in records.parts(step):
                collection.add(part.ids, part.vectors, metadatas=part.metadatas, documents=part.documents)
            if policy != "always":
                db.close()  # syncs
            return time.perf_counter() - start

    return _counted(records, add)


def _sqlite(records: Records, step: int) -> Side:
    def insert(folder: Path) -> float:
        lite = sqlite3.connect(folder / "lite.db", isolation_level=None)
        lite.execute("pragma journal_mode=wal")
        lite.execute("pragma synchronous=full")
        lite.execute("create table bulk (id text primary key, vector blob, metadata text, document text)")
        start = time.perf_counter()
        for part in records.parts(step):
            blobs = (vector.tobytes() for vector in part.vectors)
            texts = (json.dumps(metadata) for metadata in part.metadatas or ())
            lite.execute("begin")
            lines = zip(part.ids, blobs, texts, part.documents or (), strict=True)
            lite.executemany("insert into bulk values (?, ?, ?, ?)", lines)
            lite.execute("commit")
        seconds = time.perf_counter() - start
        assert lite.execute("select count(*) from bulk").fetchone() == (len(records.ids),)
        lite.close()
        return seconds

    return _counted(records, insert)


def _chroma(chroma: Any, records: Records, step: int) -> Side:
    def add(folder: Path) -> float:
        settings = chroma.Settings(anonymized_telemetry=False)
        client = chroma.PersistentClient(path=str(folder / "chroma"), settings=settings)
        collection = client.create_collection("bulk", metadata={"hnsw:space": "cosine"}, embedding_function=None)
        start = time.perf_counter()
        for part in records.parts(step):
            collection.add(ids=part.ids, embeddings=part.vectors, metadatas=part.metadatas, documents=part.documents)
        seconds = time.perf_counter() - start
        assert collection.count() == len(records.ids)
        return seconds

    return _counted(records, add)


def _valori(valori: Any, records: Records, step: int) -> Side:
    lists = records.vectors.tolist()

    def insert(folder: Path) -> float:
        client = valori.LocalClient(str(folder / "valori"), dim=DIM, max_records=len(lists) + 1)
        start = time.perf_counter()
        for at in range(0, len(lists), step):
            if step == 1:
                client.insert(lists[at])
            else:
                client.insert_batch(lists[at : at + step])
        client.flush()
        seconds = time.perf_counter() - start
        assert client.record_count() == len(lists)
        return seconds

    return _counted(records, insert)


def _ratio(upper: list[float], lower: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(upper, lower, strict=True))


# ------------------------------------------------------------------------------------------------------ single commits


def _single_commits(vectors: np.ndarray) -> str:
    """Median time of one add as the store grows; `os`, so that the disk does not hide the machine's share."""
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as folder, detmem.open(Path(folder) / "single", durability="os") as db:
        collection = db.collection("single", dim=DIM)
        marks = (1000, 5000, 10000, 20000)
        times = []
        for number in range(min(marks[-1], len(vectors))):
            start = time.perf_counter()
            collection.add(str(number), vectors[number])
            times.append(time.perf_counter() - start)
            if number + 1 in marks:
                rows.append([f"{number + 1:,}", f"{statistics.median(times[-1000:]) * 1e6:.0f}"])
    text = "One record a commit, durability `os`, cosine: the median of the last 1,000 commits.\n\n"
    return text + table(["records in the store", "microseconds a commit"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
