"""How long from a cold process to the first answer, and from a large snapshot?

Each round starts a fresh interpreter, which imports detmem, opens a store and asks one question; the time is the
parent's, from before the start to after the end, so the interpreter itself (first row) is in it.  "No compiled code"
points numba at an empty cache folder.  Peers do the same: FAISS reads its index file, valoricore opens its folder.
Files are in the operating system's cache for all.

Usage: search_cold.py [--quick] [--rounds 7] [--count 300000].
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from common import ROOT, Paired, Side, Timing, contest, table
from data import MissingError, Set, cache, noise, real
from engines import arguments, importable, report, store

__all__ = ["first_answers", "opening"]

_BARE = "pass"
_DETMEM = """
import sys, numpy as np, detmem
query = np.load(sys.argv[2])
print(detmem.open(sys.argv[1], "r")["rows"].search(query, 10).ids[0])
"""
_HASHING = """
import sys, numpy
from hashlib import sha256
data = memoryview(open(sys.argv[1], "rb").read())
sha256(data).digest()
for at in range(0, {count} * {size}, {size}):
    sha256(data[at : at + {size}]).digest()
    sha256(b"content").digest(), sha256(b"key").digest(), sha256(b"leaf").digest()
"""
_FAISS = """
import sys, numpy as np, faiss
query = np.load(sys.argv[2])
print(faiss.read_index(sys.argv[1]).search(query[None], 10)[1][0][0])
"""
_VALORICORE = """
import sys, numpy as np
from valoricore.local import LocalClient
query = np.load(sys.argv[2])
print(LocalClient(sys.argv[1], dim=len(query), max_records=2000).search(query.tolist(), 10)[0]["id"])
"""


def child(code: str, place: Path | str, query: Path, numba_cache: str | None = None) -> str:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"NUMBA_CACHE_DIR": numba_cache} if numba_cache else {})
    call = [sys.executable, "-c", code, str(place), str(query)]
    return subprocess.run(call, env=surroundings, capture_output=True, text=True, check=True).stdout.strip()


def first_answers(data: Set, rounds: int, *, peers: bool = True) -> tuple[dict[str, Timing], dict[str, str]]:
    """Seconds of a whole process by engine, and the peers that are absent."""
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        path = stack.enter_context(store(data))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=cache())))
        query = folder / "query.npy"
        np.save(query, data.queries[0])
        calls = {"Python alone": (_BARE, path), "detmem": (_DETMEM, path)}
        for name, code, make in (("FAISS", _FAISS, _faiss), ("valoricore", _VALORICORE, _valoricore)):
            if not peers or (name == "valoricore" and len(data.rows) > 2000):
                continue
            try:
                calls[name] = (code, make(data, folder))
            except ImportError as reason:
                absent[name] = str(reason)
        said = {name: child(code, place, query) for name, (code, place) in calls.items() if code != _BARE}
        assert len(set(said.values())) == 1, f"the first hits differ: {said}"
        sides = [
            Side(name, lambda index, code=code, place=place: child(code, place, query))
            for name, (code, place) in calls.items()
        ]

        def uncompiled(index: int) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                child(_DETMEM, path, query, empty)

        sides.append(Side("detmem, no compiled code", uncompiled))
        return contest(sides, rounds=rounds, warmup=1), absent


def _faiss(data: Set, folder: Path) -> Path:
    faiss = importable("faiss")
    index = faiss.IndexFlatIP(data.rows.shape[1])
    index.add(data.peer_rows)
    faiss.write_index(index, str(folder / "index.faiss"))
    return folder / "index.faiss"


def _valoricore(data: Set, folder: Path) -> Path:
    local = importable("valoricore.local")
    client = local.LocalClient(str(folder / "peer"), dim=data.rows.shape[1], max_records=2000)
    client.kernel.insert_batch(data.peer_rows.tolist())
    client.kernel.flush()
    return folder / "peer"


def opening(data: Set, rounds: int) -> tuple[Paired, Paired, int]:
    """A process that opens the snapshot and answers, against one that reads the snapshot's bytes, and one that hashes
    them and each row's vector, content, key and leaf as well; and the number of bytes."""
    with store(data) as path, tempfile.TemporaryDirectory(dir=cache()) as folder:
        query = Path(folder) / "query.npy"
        np.save(query, data.queries[0])
        (snapshot,) = (path / "snap").glob("*.snap")
        reading = "import sys, numpy\nopen(sys.argv[1], 'rb').read()"
        hashing = _HASHING.format(count=len(data.rows), size=4 * data.rows.shape[1])
        sides = [
            Side("detmem", lambda index: child(_DETMEM, path, query)),
            Side("reading", lambda index: child(reading, snapshot, query)),
            Side("hashing", lambda index: child(hashing, snapshot, query)),
        ]
        taken = contest(sides, rounds=rounds, warmup=1)
        ours = taken["detmem"]
        return Paired(ours, taken["reading"]), Paired(ours, taken["hashing"]), snapshot.stat().st_size


def main() -> None:
    options = arguments(__doc__, _add)
    rounds = min(options.rounds, 7)
    small = noise(1000, 32 if options.quick else 384)
    taken, absent = first_answers(small, rounds, peers=not options.quick)
    rows = []
    for name, timing in taken.items():
        pair = Paired(taken["detmem"], timing)
        rows.append([name, f"{timing.median_seconds * 1e3:.0f}", f"{pair.ratio:.2f}"])
    rows += [[name, "**absent**", reason] for name, reason in absent.items()]
    parts = [__doc__.split("\n\n")[1], f"## 1,000 x {small.rows.shape[1]}"]
    parts.append(table(("process", "ms", "time / detmem's"), rows))

    rows = []
    for name, make in _large(options):
        try:
            pair, hashing, size = opening(make(), min(rounds, 3))
        except MissingError as reason:
            rows.append([name, "**missing**", str(reason), "", "", "", ""])
            continue
        seconds = [one.median_seconds for one in (pair.ours, pair.peer, hashing.peer)]
        ratios = [f"{1 / one.ratio:.1f}" for one in (pair, hashing)]
        rows.append([name, f"{size / 1e6:.0f}", *[f"{one:.2f}" for one in seconds], *ratios])
    columns = ("set", "snapshot, MB", "to the first answer, s", "reads, s", "reads and hashes, s")
    columns = (*columns, "ratio to reading", "to reading and hashing")
    parts += ["## From a snapshot to the first answer", table(columns, rows)]
    report("search_cold", "From a cold process to the first answer", "\n\n".join(parts))


def _large(options: argparse.Namespace) -> list:
    if options.quick:
        return [("noise", lambda: noise(2000, 32))]
    return [
        ("wordnet", real()["wordnet"]),
        *((f"noise {count:,} x 384", functools.partial(noise, count, 384)) for count in (options.count,) if count),
    ]


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=300_000, help="rows of the made snapshot; 0 for none")


if __name__ == "__main__":
    main()
