"""How fast do records go in: one bulk add, batches of 1,000, and single commits, against the hash and disk limits?

The limits are measured in the same run: SHA-256 once over the vectors' bytes (each must be hashed at least once), and
one write and sync of as many bytes as the store's log has. Usage: ingest.py [records] (default 100000).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import numpy as np
from common import ROOT, table, write

sys.path.insert(0, str(ROOT))
import detmem

DIM = 384
ROUNDS = 3


def main(count: int) -> None:
    rng = np.random.default_rng(20260101)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    ids = [f"id-{index:08d}" for index in range(count)]
    metadatas = [{"number": index} for index in range(count)]
    documents = [f"document number {index}" for index in range(count)]

    def add(folder: str, metric: str, step: int) -> tuple[float, int]:
        path = Path(folder) / f"{metric}-{step}.detmem"
        with detmem.open(path, "x") as db:
            collection = db.collection("bulk", dim=DIM, metric=metric)
            start = time.perf_counter()
            for at in range(0, count, step):
                part = slice(at, at + step)
                collection.add(ids[part], vectors[part], metadatas=metadatas[part], documents=documents[part])
            seconds = time.perf_counter() - start
        return seconds, sum(file.stat().st_size for file in (path / "log").iterdir())

    rows = []
    for metric, step in (("cosine", count), ("l2", count), ("cosine", 1000), ("l2", 1000)):
        shares = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                seconds, log_bytes = add(folder, metric, step)
                shares.append((seconds, _hash_seconds(count), _disk_seconds(folder, log_bytes)))
        seconds, hashing, disk = (statistics.median(column) for column in zip(*shares, strict=True))
        name = f"{metric}, " + ("one add" if step == count else f"adds of {step}")
        share = f"{100 * hashing / seconds:.0f} %", f"{100 * disk / seconds:.0f} %"
        rows.append([name, f"{count / seconds:,.0f}", f"{seconds:.2f}", f"{hashing:.2f}", f"{disk:.2f}", *share])
    columns = ["case", "records/s", "s", "SHA-256 of the vectors, s", "write + sync of the log's bytes, s"]
    body = f"{count:,} x {DIM} float32 with a small metadata map and document each, durability `always`.\n\n"
    body += table([*columns, "share of the hash limit", "share of the disk limit"], rows)
    body += "\n\n" + _single_commits(vectors)
    write("ingest", "Ingest against the hash and disk limits", body)


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
