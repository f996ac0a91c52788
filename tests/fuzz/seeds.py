"""Writes the seeds of the corpus from the golden store and the spec vectors: ``python -m tests.fuzz.seeds``.

They are named ``seed-...``; whatever else lies in the corpus was found by the fuzzer, and stays.
"""

from __future__ import annotations

from pathlib import Path

from detmem.journal.disk import MemoryDisk
from detmem.journal.frame import SegmentHeader, SegmentReader
from detmem.machine import encoding
from tests.fuzz.targets import STORE_ID, VECTORS
from tests.journal.stores import small_store

CORPUS = Path(__file__).resolve().parent / "corpus"
GOLDEN = Path(__file__).resolve().parents[2] / "spec" / "vectors" / "golden" / "store-2"


def write(target: str, name: str, data: bytes) -> None:
    """One seed."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data)


def main() -> None:
    for place in sorted(GOLDEN.rglob("*")):
        if place.name == "HEAD":
            write("head", "golden-head", place.read_bytes()[:140])
        elif place.suffix == ".seg":
            write("head", f"golden-{place.stem}", place.read_bytes()[:128])
            file = MemoryDisk().open("one", create=True)
            file.pwrite(place.read_bytes(), 0)
            header = SegmentHeader.decode(place.read_bytes())
            for frame in SegmentReader(file, header):
                body = place.read_bytes()[frame.offset + 32 : frame.offset + frame.size - 64]
                write("operations", f"golden-{frame.seq}", body)
                for number, operation in enumerate(frame.operations):
                    if operation.content is not None:
                        write("encoding", f"golden-{frame.seq}-{number}", bytes(operation.content))
        elif place.suffix == ".snap":
            write("snapshot", f"golden-{place.stem}", place.read_bytes())
    store = small_store(commits=4, snapshots=(4,))
    for name, data in store.files.items():
        if name.startswith("log/") and SegmentHeader.decode(bytes(data)).first_seq == 1:
            assert SegmentHeader.decode(bytes(data)).store_id == STORE_ID
            write("frame", "small-store", bytes(data[128:]))
        if name.startswith("snap/"):
            write("snapshot", f"small-{name[5:-5]}", bytes(data))
    for group in ("state_proofs", "consistency_proofs", "receipts", "subtrees"):
        for number, case in enumerate(VECTORS[group]):
            if len(case["bytes"]) < 8192:
                write("proofs", f"{group}-{number}", bytes.fromhex(case["bytes"]))
    write("proofs", "refutation", bytes.fromhex(VECTORS["refutation"]["bytes"]))
    every = [None, True, -1, 2**63 - 1, 0.5, "text", b"\x00", [1, [2]], {"a": {"b": []}}]
    write("encoding", "every-kind", encoding.encode(every))


if __name__ == "__main__":
    main()
