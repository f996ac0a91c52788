"""What do proofs and receipts cost: their bytes, the time to make them, the time to check them?

A store of 100,000 made records of 384 dimensions, added 1,000 a commit; k = 10. *package* checks with `detmem.proof`,
*standalone* with `detmem/verifier.py`, which knows nothing of the package. No peer makes such files; there is no column
to lose, but the first proof of a store reads its log, and an R3 or a subtree touches every record.

Usage: proofs.py [--quick] [--rounds 15].
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import table, timed, write
from engines import arguments

import detmem
from detmem import verifier
from detmem.proof.proofs import key_of


def main() -> None:
    options = arguments(__doc__)
    count, dim = (2_000, 32) if options.quick else (100_000, 384)
    random = np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder, detmem.open(Path(folder) / "store", durability="os") as db:
        notes = db.collection("notes", dim=dim, metric="l2")
        for start in range(0, count, 1_000):
            ids = [f"record {number}" for number in range(start, start + 1_000)]
            notes.add(
                ids, raw=random.integers(-(2**16), 2**16, (1_000, dim), dtype=np.int32), metadatas=[{"n": 1}] * 1_000
            )
        old = db.checkpoint()
        hits = notes.search(raw=random.integers(-(2**16), 2**16, dim, dtype=np.int32), k=10)
        began = time.perf_counter()
        db.prove("notes", "record 5")
        first = time.perf_counter() - began
        rows = measured(db, notes, hits, old, options.rounds)
    slowest = f"The first proof, which reads the log and writes `tiles/`: {first:.2f} s; later ones follow the log."
    body = f"{__doc__.split(chr(10) + chr(10))[1]}\n\n{table(COLUMNS, rows)}\n\n{slowest}"
    write("proofs", "Proofs and receipts", body.replace("100,000", f"{count:,}").replace("384", str(dim)))


COLUMNS = ("file", "bytes", "made, ms", "checked by the package, ms", "by the standalone verifier, ms")


def measured(
    db: detmem.Database, notes: detmem.Collection, hits: Any, old: detmem.Checkpoint, rounds: int
) -> list[Any]:
    now = db.checkpoint()
    trusted = verifier.read_checkpoint(str(now))
    rows = [
        row("record, there", lambda: db.prove("notes", "record 77"), lambda f: f.verify(now), state(trusted), rounds),
        row("record, absent", lambda: db.prove("notes", "nobody"), lambda f: f.verify(now), state(trusted), rounds),
        row("receipt R1", lambda: hits.receipt("R1"), lambda f: f.verify(now), receipt(trusted), rounds),
        row("receipt R3", lambda: hits.receipt("R3"), lambda f: f.verify(now), receipt(trusted), 3),
    ]
    third = hits.receipt("R3")
    number = key_of("notes", hits.ids[0])[0]
    read = verifier.read_receipt(third.encode())
    rows.append(
        row(
            "subtree, 1 of 256",
            lambda: db.subtree("notes", number),
            lambda f: third.check_subtree(f, now),
            lambda data: verifier.check_subtree(data, read, trusted),
            3,
        )
    )
    for start in range(20):
        notes.upsert(f"record {start}", raw=np.full(notes.dim, start, np.int32))
    later = db.checkpoint()
    rows.append(
        row(
            "consistency, 20 commits later",
            lambda: db.prove_consistency(old),
            lambda f: f.verify(old, later),
            lambda data: verifier.check_consistency(
                data, verifier.read_checkpoint(str(old)), verifier.read_checkpoint(str(later))
            ),
            rounds,
        )
    )
    trusted = verifier.read_checkpoint(str(later))
    rows.append(
        row("receipt R1 of then", lambda: hits.receipt("R1"), lambda f: f.verify(later), receipt(trusted), rounds)
    )
    return rows


def state(trusted: Any) -> Callable[[bytes], object]:
    return lambda data: verifier.check_state_proof(data, trusted)


def receipt(trusted: Any) -> Callable[[bytes], object]:
    return lambda data: verifier.check_receipt(data, trusted)


def row(
    name: str,
    make: Callable[[], Any],
    check: Callable[[Any], detmem.Verdict],
    alone: Callable[[bytes], object],
    rounds: int,
) -> list[object]:
    """One kind of file, encoded and decoded on the way."""
    data = make().encode()
    kind = detmem.Proof if isinstance(make(), detmem.Proof) else type(make())
    assert check(kind.decode(data)).ok
    alone(data)
    times = [
        timed(name, work, rounds=rounds, warmup=1).median_seconds * 1e3
        for work in (make, lambda: check(kind.decode(data)), lambda: alone(data))
    ]
    return [name, f"{len(data):,}", *(f"{ms:.2f}" for ms in times)]


if __name__ == "__main__":
    main()
